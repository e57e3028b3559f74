"""Tracing: sketches that reordered channels do not change, labels on secret probes, and the command from registry to verdict."""

import json
import shutil
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from assay.core.errors import ConfigError
from assay.core.secret import Secret
from assay.evidence.dna import METRICS, PROBES, label_distances, label_print, probes
from assay.evidence.dna_sketch import sketch, sketch_distances
from assay.evidence.registry import Found, Match, Registry
from assay.experiments import api
from assay.experiments.cli import main
from assay.experiments.trace.suspect import probes_of
from assay.experiments.trace.trace import Hit, concluded, ranked
from assay.experiments.trial import Trial
from assay.kernels.agreement import agreement_reference
from assay.zoo.canonical import canonicalize
from assay.zoo.channels import layout
from assay.zoo.files import save_key, save_model
from assay.zoo.invariances import grow, permute, random_order
from assay.zoo.models import CnnSmall, Mlp

SHAPE, CLASSES = (1, 8, 8), 10


def labels(seed: int, *shape: int, classes: int = CLASSES) -> torch.Tensor:
    return torch.randint(-1, classes, shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("classes", [2, 6, 10, 13, 1000])
def test_label_distances_against_the_definition(classes: int) -> None:
    left, right = (labels(seed, count, PROBES, classes=classes) for seed, count in ((0, 3), (1, 5)))
    right[0] = left[0]
    packed = [[label_print(row, classes, "").content for row in part] for part in (left, right)]
    agreeing = agreement_reference(left, right).numpy()
    assert np.array_equal(label_distances(*packed), 1 - agreeing / PROBES)


def test_no_answer_agrees_with_nothing() -> None:
    silent = label_print(torch.full((PROBES,), -1), CLASSES, "").content
    assert label_distances([silent], [silent])[0, 0] == 1


@pytest.mark.parametrize("found", [torch.zeros(5, dtype=torch.int64), torch.full((PROBES,), CLASSES)])
def test_labels_of_another_task_are_refused(found: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=f"expected {PROBES} labels below 10"):
        label_print(found, CLASSES, "")


def test_probes_come_from_the_secret() -> None:
    pictures = torch.rand(50, *SHAPE, generator=torch.Generator().manual_seed(0))
    one, again, other = (probes(Secret.simulated(seed, "registry"), pictures) for seed in (0, 0, 1))
    assert one.shape == (PROBES, *SHAPE)
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("architecture", [CnnSmall(width=8), Mlp(width=16)])
def test_a_sketch_is_blind_to_the_order_of_channels(architecture: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    model, other = (architecture.build(SHAPE, CLASSES, seed) for seed in (0, 1))
    moved = architecture.build(SHAPE, CLASSES, 0)
    for group in layout(moved).groups:
        permute(moved, group, random_order(group, generator))
    own, permuted, independent = (sketch(dict(m.state_dict())) for m in (model, moved, other))
    assert own.kin == permuted.kin == independent.kin
    assert sketch_distances([permuted.content], [own.content])[0, 0] < 1e-6
    near, far = sketch_distances([own.content], [own.content, independent.content])[0]
    assert near == 0
    assert far > 0.05


def test_a_canonical_sketch_is_blind_to_channels_that_were_added() -> None:
    model = CnnSmall(width=8).build(SHAPE, CLASSES, 0)
    wider = CnnSmall(width=8).build(SHAPE, CLASSES, 0)
    for group in layout(wider).groups:
        grow(wider, group, 2, "zero", torch.Generator().manual_seed(0))
    own, grown = (sketch(dict(canonicalize(m).state_dict())) for m in (model, wider))
    assert own.kin == grown.kin
    assert sketch_distances([grown.content], [own.content])[0, 0] < 1e-5


def test_sketches_of_other_networks_are_not_compared() -> None:
    kins = {
        sketch(dict(a.build(SHAPE, CLASSES, 0).state_dict())).kin for a in (CnnSmall(), Mlp(), Mlp(depth=3))
    }
    assert len(kins) == 3
    wide = {
        "first": torch.randn(8, 300, generator=torch.Generator().manual_seed(0)),
        "last": torch.ones(300, 8),
    }
    assert len(sketch(wide).content) == 4 * (2 * 64 * 65 // 2)
    with pytest.raises(ValueError, match="at least one matrix"):
        sketch({"bias": torch.zeros(3)})


def found(p: float, strangers: int) -> Found:
    return Found((Match(1, 0.1, float(np.log10(p))),), strangers, 5, 1.0)


@pytest.fixture
def hit(tmp_path: Path) -> Hit:
    registry = Registry(tmp_path, METRICS, create=True)
    return Hit(registry.add("a", "ann's", [], {}), 0.1, {})


def test_verdicts(hit: Hit) -> None:
    mark = {"corrected": -9.0, "keys": 2, "derivation": "derived"}
    proven, said = concluded([replace(hit, mark=mark)], {"labels": found(0.5, 9)}, 0.01)
    assert (proven, "owner chose" in said) == ("mark", False)
    mine = replace(hit, mark={**mark, "derivation": "chosen"})
    assert "its mark is there, which its owner chose" in concluded([mine], {}, 0.01)[1]
    assert concluded([hit], {"labels": found(0.01, 99)}, 0.01)[0] == "dna"
    both = {"labels": found(0.01, 99), "weights": found(0.5, 99)}
    assert concluded([hit], both, 0.01)[0] == "undecided"  # two views: 199 strangers
    assert concluded([hit], {"labels": found(0.1, 9)}, 0.01)[0] == "undecided"
    verdict, sentence = concluded([hit], {"labels": found(0.5, 99)}, 0.01)
    assert verdict == "not found"
    assert sentence.startswith("not found: by its labels ann's is nearest, p = 0.5 by 99 strangers")
    assert concluded([], {"labels": Found((), 0, 0, np.nan)}, 0.01)[0] == "not found"
    for told in (verdict, sentence):
        assert "innocent" not in told


def test_the_nearest_of_each_view_is_a_hit_whatever_the_others(tmp_path: Path) -> None:
    """Labels may crowd at distances below those of any weights; the smaller p may still be that of weights."""
    registry = Registry(tmp_path, METRICS, create=True)
    numbers = [registry.add(str(i), f"model {i}", [], {}).number for i in range(7)]
    crowd = tuple(Match(number, 0.1 + number / 100, -0.1) for number in numbers[:6])
    views = {
        "labels": Found(crowd, 99, 7, 1.0),
        "weights": Found((Match(numbers[6], 1.0, -2.0),), 99, 7, 1.0),
    }
    for top in (1, 5):
        hits = ranked(registry, views, top)
        assert [hit.entry.number for hit in hits[:2]] == [numbers[0], numbers[6]]
        assert len(hits) == max(top, 2)
        assert concluded(hits, views, 0.05)[:1] == ("dna",)
        assert "by its weights model 6 is nearest" in concluded(hits, views, 0.05)[1]


def test_a_key_is_never_lost_or_replaced_in_silence(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["trace", "add", "0.safetensors", "--registry", "dna"]
    assert main([*words]) == 0
    capsys.readouterr()
    alone = traced(
        capsys, "0.safetensors"
    )  # the registry's only model, and no strangers: a distance of 0 to everything
    assert (alone["verdict"], alone["hits"][0]["score"]) == ("undecided", 0)
    assert main([*words, "--key", "key.safetensors"]) == 2
    assert "already, without a key" in capsys.readouterr().err
    words[2] = "1.safetensors"
    assert main([*words, "--key", "key.safetensors"]) == main([*words, "--key", "key.safetensors"]) == 0
    other = folder / "other.safetensors"
    trial = api.build("task=digits", "model.width=8", "watermark=uchida", "watermark.bits=32")
    save_key(other, trial.watermark.keygen(trial.task, Secret.simulated(1, "owner")), {})
    assert main([*words, "--key", str(other)]) == 2
    assert "with another key" in capsys.readouterr().err
    assert len(list((folder / "dna" / "keys").iterdir())) == 1


def network(trial: Trial, seed: int) -> nn.Module:
    return trial.settings.model.build(trial.task.shape, trial.task.classes, seed)


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Untrained networks: a registered one with a key that fits none of them, nine strangers, and a noisy copy."""
    made = tmp_path_factory.mktemp("networks")
    trial = api.build("task=digits", "model.width=8", "watermark=uchida", "watermark.bits=32")
    config, choices = trial.spec.config, trial.spec.choices
    named = {axis: {"name": choices[axis], "config": config[axis]} for axis in ("task", "model", "watermark")}
    about = {**named, "seed": 0}
    for seed in range(12):
        save_model(made / f"{seed}.safetensors", network(trial, seed), about)
    copy, generator = network(trial, 0), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in copy.parameters():
            weight.add_(0.02 * weight.std() * torch.randn(weight.shape, generator=generator))
    save_model(made / "copy.safetensors", copy, about)
    key = trial.watermark.keygen(trial.task, Secret.simulated(0, "owner"))
    save_key(made / "key.safetensors", key, about)
    return made


@pytest.fixture
def folder(networks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(networks, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def traced(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    assert main(["trace", *words, "--registry", "dna", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.slow
def test_from_registry_to_verdict(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(
            [
                "trace",
                "add",
                "0.safetensors",
                "--registry",
                "dna",
                "--title",
                "ours",
                "--key",
                "key.safetensors",
            ]
        )
        == 0
    )
    assert main(["trace", "add", "1.safetensors", "--registry", "dna"]) == 0
    for seed in range(2, 11):
        assert main(["trace", "add", f"{seed}.safetensors", "--registry", "dna", "--stranger"]) == 0
    capsys.readouterr()
    found = traced(capsys, "copy.safetensors", "--fpr", "0.2")
    assert (found["verdict"], found["entries"], found["strangers"]) == ("dna", 2, 9)
    assert found["hits"][0]["entry"]["title"] == "ours"
    assert 10 ** found["hits"][0]["views"]["weights"]["log10_p"] == pytest.approx(0.1)
    mark = found["hits"][0]["mark"]
    assert (mark["scheme"], mark["trials"], mark["keys"], mark["unread"]) == ("uchida", 32, 1, None)
    assert found["hits"][1]["mark"] is None
    assert traced(capsys, "copy.safetensors")["verdict"] == "undecided"
    assert traced(capsys, "11.safetensors", "--fpr", "0.2")["verdict"] == "not found"
    assert main(["trace", "copy.safetensors", "--registry", "dna"]) == 0
    said = capsys.readouterr().out
    assert "uchida:" in said
    assert "takes 199" in said
    secret, kept = (folder / "dna" / "secret"), folder / "dna" / "keys"
    assert all(p.stat().st_mode & 0o077 == 0 for p in (secret, *kept.iterdir()))
    with sqlite3.connect(folder / "dna" / "registry.sqlite") as book:
        text = "\n".join(book.iterdump())
    assert secret.read_bytes().hex() not in text.lower()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["0.safetensors"], "found none: add something"),
        (["add", "0.safetensors", "--key", "key.safetensors", "--stranger"], "nobody's to test"),
        (["0.safetensors", "1.safetensors"], "expected SUSPECT, or add MODEL"),
        (["0.safetensors", "--stranger"], "belong to `assay trace add MODEL`"),
        (["add", "none.safetensors"], "found nothing at none.safetensors"),
        (["add", "key.safetensors"], "does not fit the network"),
        (["add", "0.safetensors", "model=mlp"], "does not fit the network"),
    ],
)
def test_bad_input_is_explained(
    folder: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["trace", *words, "--registry", "dna"]) == 2
    assert said in capsys.readouterr().err


def test_a_registry_needs_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="found none"):
        Registry(tmp_path / "none", METRICS)


def test_two_who_begin_a_registry_at_once_ask_the_same_probes(tmp_path: Path) -> None:
    trial = api.build("task=digits", "watermark=none")
    with ThreadPoolExecutor(8) as pool:
        first, *others = pool.map(lambda _: probes_of(tmp_path, trial, True)[0], range(8))
    assert first is not None
    assert all(one is not None and torch.equal(one, first) for one in others)
