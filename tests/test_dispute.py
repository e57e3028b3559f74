"""Hearings: every outcome, what the suspect sees, and the page. Models are tables of answers, so nothing is trained."""

import json
import math
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from assay.core.contracts import Recipe, Task
from assay.core.errors import ConfigError
from assay.core.examples import Examples
from assay.core.secret import Secret
from assay.core.suspects import Suspects
from assay.evidence import bundle as bundles
from assay.evidence import report
from assay.evidence.commitment import openings
from assay.evidence.dispute import (
    CONSISTENT,
    COUNTER,
    INCONCLUSIVE,
    NOTHING,
    Hearing,
    Party,
    Rules,
    hear,
    passes,
)
from assay.evidence.log import Log
from assay.evidence.signers import Signer
from assay.experiments.cli import main
from assay.experiments.evidence import case as hearings
from assay.watermarks.adi import Adi
from assay.watermarks.trigger import TriggerKey

SHAPE, CLASSES = (1, 4, 4), 10
SCHEME = Adi(derivation="derived", triggers=40)


class Table(nn.Module):
    """A random linear model that knows some triggers by heart, and gets a share of them right."""

    def __init__(self, seed: int, *known: TriggerKey, share: float = 1.0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(16, CLASSES, generator=generator), requires_grad=False)
        self.known, self.labels = torch.empty(0, 16), torch.empty(0, dtype=torch.int64)
        for key in known:
            count = round(share * len(key.labels_T))
            self.known = torch.cat([self.known, key.examples().inputs[:count].flatten(1)])
            self.labels = torch.cat([self.labels, key.labels_T[:count]])

    def forward(self, inputs: Tensor) -> Tensor:
        logits = (inputs - 0.5).flatten(1) @ self.weight
        rows, places = (inputs.flatten(1)[:, None] == self.known).all(-1).nonzero(as_tuple=True)
        logits[rows] = nn.functional.one_hot(self.labels[places], CLASSES) * 100.0
        return logits


def _task() -> Task:
    generator = torch.Generator().manual_seed(5)
    data = Examples(
        torch.rand(100, *SHAPE, generator=generator), torch.randint(CLASSES, (100,), generator=generator)
    )
    return Task("tables", CLASSES, data, data, data, Recipe(epochs=1), lambda seed: Table(seed or 0))


TASK = _task()


def key(name: str) -> TriggerKey:
    return SCHEME.keygen(TASK, Secret.simulated(0, name))


OWNER, THIEF = key("owner"), key("thief")
INDEPENDENT = [Table(seed) for seed in range(100, 105)]
RULES = Rules(1e-6, 4, Secret.simulated(0, "judge"))
MARKED = Table(1, OWNER)
COPY = Table(2, OWNER, THIEF, share=0.8)  # the thief's, overwritten
CLAIMANT = Party("claimant", SCHEME, OWNER, "log", 0, MARKED, 1)
RIVAL = Party("counter-claimant", SCHEME, THIEF, "log", 2, COPY, 3)


def heard(
    suspect: nn.Module | Callable[[Tensor], Tensor],
    claimant: Party = CLAIMANT,
    rival: Party | None = None,
    independents: Sequence[nn.Module] = INDEPENDENT,
    rules: Rules = RULES,
) -> Hearing:
    return hear(suspect, claimant, rival, independents, TASK, rules)


def asking(model: nn.Module, change: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda inputs: change(inputs, Suspects([model]).labels(inputs)[0])


def test_a_copy_is_consistent_with_the_claim_and_a_stranger_is_not() -> None:
    found = heard(COPY)
    assert (found.outcome, found.draws, found.independents) == (CONSISTENT, 4, 5)
    assert passes(found.tests, "claimant", "suspect") is True
    assert passes(found.tests, "claimant", "nobody's model") is None
    assert heard(Table(9)).outcome == NOTHING
    assert "may still be a copy" in heard(Table(9)).why


def test_the_cut_is_alpha_over_all_deposits() -> None:
    weak = Table(3, OWNER, share=0.5)
    p = next(t.log10_p for t in heard(weak).tests if t.model == "suspect")
    draws = int(1e-6 / 10**p) + 1
    assert 1 < draws < 10**12
    assert heard(weak, rules=replace(RULES, draws=draws - 1)).outcome == CONSISTENT
    assert heard(weak, rules=replace(RULES, draws=10 * draws)).outcome == NOTHING


def test_each_mark_is_tested_at_its_own_declared_rate() -> None:
    """A rival who declares next to nothing silences himself alone, and a lax claimant is held to the judge's rate."""
    found = heard(COPY, CLAIMANT, replace(RIVAL, declared=1e-300))
    cuts = {test.mark: test.cut for test in found.tests if test.mark.endswith("'s mark")}
    assert cuts == pytest.approx(
        {"claimant's mark": -6 - math.log10(4), "counter-claimant's mark": -300 - math.log10(4)}
    )
    assert found.outcome == CONSISTENT
    assert not passes(found.tests, "counter-claimant", "suspect")
    least = heard(COPY, CLAIMANT, replace(RIVAL, declared=5e-324))  # of which alpha / m is 0
    assert least.outcome == CONSISTENT
    assert min(test.cut for test in least.tests) < -323.5
    weak = Table(3, OWNER, share=0.35)
    lax = heard(weak, replace(CLAIMANT, declared=0.9))
    assert lax == heard(weak) != heard(weak, rules=replace(RULES, alpha=0.01))
    assert f"{report.p_text(-300 - math.log10(4))} for the counter-claimant&#x27;s mark" in report.page(
        case(found)
    )


def test_two_parties_triggers_stand_in_different_places() -> None:
    asked: list[Tensor] = []

    def watch(inputs: Tensor, labels: Tensor) -> Tensor:
        asked.append(inputs.clone())
        return labels

    heard(asking(COPY, watch), CLAIMANT, RIVAL)
    stream = [image.numpy().tobytes() for image in torch.cat(asked)]
    places = [
        {stream.index(image.numpy().tobytes()) - start for image in one.examples().inputs}
        for one, start in ((OWNER, 0), (THIEF, len(stream) // 2))
    ]
    assert len(places[0] & places[1]) < 15


def test_counter_claims_are_settled_in_the_deposited_models() -> None:
    for suspect in (COPY, MARKED):
        assert heard(suspect, RIVAL, CLAIMANT).outcome != CONSISTENT
    both = heard(COPY, CLAIMANT, RIVAL)
    assert (both.outcome, both.precedence) == (CONSISTENT, "claimant")
    turned = heard(COPY, RIVAL, CLAIMANT)
    assert (turned.outcome, turned.precedence) == (COUNTER, "claimant")
    assert "consistent with a copy" in turned.why


def test_what_cannot_be_ordered_is_inconclusive() -> None:
    mixed = Table(4, OWNER, THIEF)
    apart = replace(RIVAL, deposited=Table(5, THIEF))
    assert heard(mixed, CLAIMANT, apart).outcome == INCONCLUSIVE
    each = replace(CLAIMANT, deposited=mixed)
    assert heard(mixed, each, RIVAL).outcome == INCONCLUSIVE
    late = replace(CLAIMANT, key_entry=7, model_entry=8)  # known only after the thief's model was deposited
    found = heard(mixed, late, RIVAL)
    assert found.outcome == INCONCLUSIVE
    assert "before that mark could be known" in found.why
    other_log = replace(late, origin="another log")
    assert heard(mixed, other_log, RIVAL).outcome == CONSISTENT


def test_a_failed_control_ends_the_hearing() -> None:
    found = heard(COPY, independents=[*INDEPENDENT[:4], Table(7, OWNER)])
    assert found.outcome == INCONCLUSIVE
    assert "control failed" in found.why
    decoy = SCHEME.keygen(TASK, Secret(RULES.judge.derive("decoy/claimant/3", 32)), MARKED)
    assert "decoys" in heard(Table(8, OWNER, decoy)).why
    assert "was not shown" in heard(COPY, replace(CLAIMANT, deposited=None)).why
    assert "does not carry" in heard(COPY, replace(CLAIMANT, deposited=Table(11))).why


def test_refusals_are_counted_and_refused_triggers_are_no_hits() -> None:
    noise = {image.numpy().tobytes() for image in OWNER.examples().inputs}

    def refuse(inputs: Tensor, labels: Tensor) -> Tensor:
        seen = torch.tensor([image.contiguous().numpy().tobytes() in noise for image in inputs])
        return labels.masked_fill(seen, -1)

    found = heard(asking(MARKED, refuse))
    assert found.outcome == INCONCLUSIVE
    assert found.refused == {"claimant's triggers": (40, 40), "controls": (0, 21 * 40)}
    half = heard(asking(MARKED, lambda x, labels: labels.masked_fill(x.flatten(1)[:, 0] < 0.5, -1)))
    assert half.outcome == CONSISTENT
    assert 0 < half.refused["claimant's triggers"][0] < 40


def test_refused_controls_of_both_parties_are_counted() -> None:
    found = heard(asking(COPY, lambda x, labels: labels.fill_(-1)), CLAIMANT, RIVAL)
    assert found.refused["controls"] == (2 * 21 * 40, 2 * 21 * 40)


def test_the_suspect_sees_one_shuffled_stream() -> None:
    asked: list[Tensor] = []

    def watch(inputs: Tensor, labels: Tensor) -> Tensor:
        asked.append(inputs.clone())
        return labels

    heard(asking(MARKED, watch))
    triggers = {image.numpy().tobytes() for image in OWNER.examples().inputs}
    places = [i for i, one in enumerate(torch.cat(asked)) if one.contiguous().numpy().tobytes() in triggers]
    assert len(places) == 40
    spread = torch.tensor(places, dtype=torch.float64) / (22 * 40)
    assert spread.min() < 0.1
    assert spread.max() > 0.9
    assert 0.35 < float(spread.mean()) < 0.65
    for bad in (lambda x: torch.zeros(3), lambda x: torch.full((len(x),), 10)):
        with pytest.raises(ConfigError, match="a class of 10"):
            heard(bad)


def test_what_cannot_be_judged_is_refused() -> None:
    chosen = replace(CLAIMANT, scheme=Adi(derivation="chosen", triggers=40))
    with pytest.raises(ConfigError, match="a claim can be made up"):
        heard(COPY, chosen)
    of_models = SimpleNamespace(derivation="derived", nulls=("independent_models",))  # no null for decoys
    with pytest.raises(ConfigError, match="a claim can be made up"):
        heard(COPY, replace(CLAIMANT, scheme=cast(Any, of_models)))
    with pytest.raises(ConfigError, match="at least 5 independent models"):
        heard(COPY, independents=INDEPENDENT[:4])


@pytest.mark.parametrize(
    ("settings", "scheme", "judged", "how"),
    [
        ({}, "adi_derived", TASK, "expected settings as text"),
        ({"settings": "{}"}, "adi", TASK, "names adi, and its settings are of adi_derived"),
        ({"settings": "{}"}, "adi_derived", replace(TASK, classes=3), "open a case without it"),
    ],
)
def test_a_partys_deposit_is_held_against_its_settings(
    settings: dict[str, str], scheme: str, judged: Task, how: str, tmp_path: Path
) -> None:
    opening = openings(Secret.simulated(0, "owner"), "label", scheme, settings, 1)[0]
    (tmp_path / "claimant.opening").write_bytes(opening.content)
    log = Log.create(tmp_path / "log", Signer.fresh("test.local/log"), None, None)
    log.append(b"an entry")
    bundles.save(bundles.collect(log, []), tmp_path / "claimant.bundle")
    own: Any = SimpleNamespace(task=TASK, spec=SimpleNamespace(choices={"watermark": "adi_derived"}))

    def judge() -> None:
        hearings._shown(tmp_path, "claimant")
        hearings._alike("claimant", opening, own, cast(Any, SimpleNamespace(task=judged)))

    with pytest.raises(ConfigError, match=how):
        judge()


def case(found: Hearing, name: str = "suspect.safetensors") -> dict[str, object]:
    party = {
        "name": "claimant",
        "scheme": "adi_derived",
        "issuer": "ab" * 32,
        "key_entry": 0,
        "key_time": "witnessed 2026-01-01T00:00:00Z",
        "model_entry": None,
        "claim": "mine",
        "digest": None,
    }
    return {
        "suspect": {"name": name, "digest": "cd" * 32},
        "parties": [party],
        "hearing": found.plain(),
        "checks": [{"name": "claimant: head", "holds": False, "found": "wrong"}],
        "assumptions": ["The witness is independent."],
        "drawn": "anybody deposited in the log, counted",
        "made": "2026-01-01T00:00:00Z",
        "version": "0",
        "log": "log+00+key",
    }


def test_the_page_says_what_was_found_and_runs_nothing() -> None:
    evil = "<script>alert(1)</script>\"'"
    page = report.page(case(heard(COPY, CLAIMANT, RIVAL), evil))
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "default-src &#39;none&#39;" in page or "default-src 'none'" in page
    assert not re.search(r"(src|href)=|url\(|@import| style=| on\w+=", page)
    assert "Consistent with the claim" in page
    assert "not shown" in page
    assert "cd" * 32 in page
    assert 'class="fails"' in page
    assert not re.search(r"guilt|tamper-proof|admissible|decentralised|proves that", page, re.IGNORECASE)
    for secret in (OWNER.secret, THIEF.secret, RULES.judge):
        assert secret.raw.hex() not in page
    style = (Path(report.HERE) / "report.css").read_text(encoding="utf-8")
    assert "prefers-color-scheme: dark" in style
    assert "@media print" in style


@pytest.mark.skipif(not any(map(shutil.which, report.BROWSERS)), reason="no Chromium is installed")
def test_the_page_prints_to_pdf(tmp_path: Path) -> None:
    path = tmp_path / "report.pdf"
    assert report.pdf(report.page(case(heard(COPY))), path)
    assert path.read_bytes().startswith(b"%PDF-")


def test_without_a_browser_there_is_no_pdf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "BROWSERS", ("no-such-browser",))
    assert not report.pdf("<p>", tmp_path / "report.pdf")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_walk_from_deposit_to_report(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a shell would: two owners, the second with the first one's model as his, and the judge's answer to both."""
    monkeypatch.chdir(tmp_path)
    small = ["model=mlp", "task.recipe.epochs=6", "watermark.per_batch=32"]

    def assay(*words: str) -> int:
        return main(["evidence", *words])

    assert assay("witness", "init", "witness") == assay("init", "log", "--witness", "witness") == 0
    for who in ("alice", "bob"):
        assert assay("owner", f"{who}.secret") == 0
        words = [
            "key",
            "log",
            who,
            "--owner",
            f"{who}.secret",
            "watermark=adi_derived",
            *small,
            "--subsets",
            "2",
        ]
        assert assay("deposit", *words) == 0
        assert (
            assay("deposit", "key", "log", who, "--owner", f"{who}.secret") == 0
        )  # the same deposit, once more
    assert assay("embed", "alice", "alice.model") == 0
    shutil.copyfile("alice.model", "bob.model")
    for who in ("alice", "bob"):
        assert assay("deposit", "model", "log", who, f"{who}.model", "--owner", f"{who}.secret") == 0
        assert assay("prove", "log", who, f"{who}.zip", "--open", "1", "--owner", f"{who}.secret") == 0
    assert main(["verify", "alice.model", "alice/key-1.safetensors", "verification.null_models=0"]) == 0
    for who, outcome in (("alice", CONSISTENT), ("bob", INCONCLUSIVE)):
        party = ["--bundle", f"{who}.zip", "--opening", f"{who}.zip.opening.json", "--model", f"{who}.model"]
        assert assay("dispute", "open", f"case-{who}", "--suspect", "alice.model", *party) == 0
        assert assay("dispute", "run", f"case-{who}") == assay("dispute", "report", f"case-{who}") == 0
        said = json.loads(Path(f"case-{who}/result.json").read_text())
        assert (said["hearing"]["outcome"], said["hearing"]["draws"]) == (outcome, 4)
    foreign = ["--bundle", "alice.zip", "--opening", "bob.zip.opening.json", "--model", "alice.model"]
    assert assay("dispute", "open", "case-foreign", "--suspect", "alice.model", *foreign) == 1
    secrets = [Path(f"{who}.secret").read_text().strip() for who in ("alice", "bob")]
    secrets += [json.loads(Path(f"{who}.zip.opening.json").read_bytes())["key"] for who in ("alice", "bob")]
    public = [*Path().glob("case-*/re*"), *Path().glob("*.zip"), *Path("log").iterdir()]
    assert len(public) > 8
    assert not [path for path in public for secret in secrets if secret.encode() in path.read_bytes()]
