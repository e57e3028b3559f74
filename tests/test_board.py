"""The ranking is what the protocol says, and the page is one file that needs no network and hides no record."""

import base64
import hashlib
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from assay.leaderboard.page import write_board
from assay.leaderboard.ranking import Record, false_claims, outcome, ranking
from assay.leaderboard.store import SCHEMA
from assay.leaderboard.view import command, settings, view

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed")
STRONG, WEAK = -30.0, -0.5
MEASURED = """{
 "declared": {
  "watermark": {"family": "trigger", "reads": "labels", "derivation": "derived", "nulls": [], "embeds": true, "paper": "A"},
  "attack": {"needs": "weights", "data": "labelled", "axis": "epochs", "scheme_known": false, "key_known": "none", "paper": "B"}},
 "environment": {"versions": {"python": "3.11"}, "threads": 1},
 "finished": "2026-01-02T03:04:05+00:00",
 "owner": {"unmarked_accuracy": 0.96, "victim_seconds": 3.0, "embedding_seconds": 4.0, "embeds": true},
 "nulls": {"independent_models": [10.0, null, 14.0], "random_keys": []}}"""
EVIDENCE = """{"statistic": 99.0, "unit": "trigger hits", "trials": 128, "source": "binomial", "fpr": 0.01,
 "random_keys": {"count": 20, "exceed": 0, "log10_p": -1.3, "highest": 70.0}, "independent_models": null}"""
POINT = """{"agreement": 0.97, "cost": {"seconds": 1.5, "queries": 0, "examples": 288, "steps": 10}}"""


def evidence(log10_p: float, detected: bool | None, accuracy: float = 0.95) -> Record:
    return {"accuracy": accuracy, **json.loads(EVIDENCE), "log10_p": log10_p, "detected": detected}


def stolen(loss_pp: float, log10_p: float = STRONG, detected: bool | None = True) -> Record:
    """A surrogate that lost so much of the marked model's 95 %."""
    return {"strength": 1.0, **evidence(log10_p, detected, 0.95 - loss_pp / 100), **json.loads(POINT)}


def unfinished(
    scheme: str = "adi", attack: str = "prune", *, seed: int = 0, status: str, reason: str
) -> Record:
    """As of a trial whose process died: no declarations, nothing measured."""
    choices = {"task": "digits", "model": "cnn", "watermark": scheme, "deployment": "open", "attack": attack}
    name = "-".join([*choices.values(), f"s{seed}"])
    choices |= dict.fromkeys(("adversary", "verification", "trainer"), "standard")
    config = {"seed": seed, "attack": {"shares": [0.5, 1.0]}}
    head = {"schema": SCHEMA, "id": name, "choices": choices, "seed": seed, "config": config}
    return {**head, "status": status, "reason": reason}


def trial(
    scheme: str = "adi", attack: str = "prune", seed: int = 0, curve: list[Record] | None = None
) -> Record:
    """A finished trial; by default one surrogate that survives."""
    record = unfinished(scheme, attack, seed=seed, status="ok", reason="")
    del record["reason"]
    names = ("marked_by_rival", "key_of_rival")
    controls = {"unmarked": None, **{name: evidence(WEAK, False) for name in names}}
    record |= {"marked": evidence(STRONG, True), "controls": controls, **json.loads(MEASURED)}
    return {**record, "curve": [stolen(0.5)] if curve is None else curve}


def claimed(record: Record) -> Record:
    record["controls"]["key_of_rival"]["detected"] = True
    return record


REMOVED = [stolen(1.0), stolen(1.5, WEAK, False)]
UNDECIDED = [stolen(0.1), stolen(1.0, -1.3, None)]


@pytest.mark.parametrize(
    ("curve", "expected"),
    [
        ([stolen(-3.0), stolen(1.0, -12.0)], ("survives", -12.0)),
        ([stolen(1.0), stolen(2.0, -12.0)], ("survives", -12.0)),  # exactly the budget is within it
        ([stolen(1.0), stolen(2.1, WEAK, False)], ("survives", STRONG)),  # beyond the budget nothing counts
        (REMOVED, ("removed", WEAK)),
        (UNDECIDED, ("undecided", -1.3)),
        ([*UNDECIDED, stolen(1.0, WEAK, False)], ("removed", WEAK)),
        ([stolen(2.1), stolen(40.0, WEAK, False)], ("too_costly", None)),
        ([], ("too_costly", None)),
    ],
)
def test_outcome_is_read_off_the_curve(curve: list[Record], expected: tuple[str, float]) -> None:
    assert outcome(trial(curve=curve)) == expected


@pytest.mark.parametrize(
    ("curve", "expected"),
    [
        ([stolen(0.0, WEAK, False), stolen(0.0, STRONG, True)], ("forged", STRONG)),
        ([stolen(0.0, WEAK, False), stolen(0.0, -1.0, False)], ("survives", -1.0)),
        ([stolen(0.0, WEAK, False), stolen(0.0, -1.0, None)], ("undecided", -1.0)),
    ],
)
def test_an_accusers_evidence_speaks_against_the_scheme(
    curve: list[Record], expected: tuple[str, float]
) -> None:
    record = trial(attack="forge", curve=curve)
    record["declared"]["attack"]["goal"] = "claim"
    assert outcome(record) == expected
    (row,) = ranking([trial(), record])
    assert row["decided"] - row["survived"] == (expected[0] == "forged")
    assert row["weakest_attack"] == "prune"


@pytest.mark.parametrize("status", ["blocked", "not_applicable", "failed"])
def test_what_could_not_run_is_counted_and_never_scored(status: str) -> None:
    bad = unfinished(attack="distill", status=status, reason="why")
    assert outcome(bad) == (status, None)
    (row,) = ranking([trial(), bad])
    assert (row[status], row["survived"], row["decided"], row["family"]) == (1, 1, 1, "trigger")
    (alone,) = ranking([bad])
    assert [alone[name] for name in ("rank", "cost_pp", "weakest_log10_p", "family")] == [None] * 4


def ranks(records: list[Record]) -> list[tuple[str, int | None]]:
    return [(row["watermark"], row["rank"]) for row in ranking(records)]


def test_equal_results_share_a_rank_and_the_next_is_skipped() -> None:
    records = [trial("b"), trial("a"), trial("c", curve=REMOVED), trial("d", curve=UNDECIDED), trial("none")]
    assert ranks(records) == [("a", 1), ("b", 1), ("c", 3), ("d", None)]


def test_undecided_schemes_do_not_push_others_down() -> None:
    records = [trial("a"), trial("b", curve=UNDECIDED), claimed(trial("c"))]
    assert ranks(records) == [("a", 1), ("c", 2), ("b", None)]


def test_a_false_claim_stands_behind_all_that_made_none() -> None:
    assert ranks([claimed(trial("strong")), trial("weak", curve=REMOVED)]) == [("weak", 1), ("strong", 2)]


def test_controls_count_once_a_seed() -> None:
    records = [claimed(trial(attack=attack, seed=seed)) for attack in ("prune", "distill") for seed in (0, 1)]
    assert false_claims(records[0]) == 1
    assert [(row["false_claims"], row["seeds"]) for row in ranking(records)] == [(2, 2)]


def test_the_worst_attack_goes_before_the_mean() -> None:
    pairs = [(attack, seed) for attack in "wxyz" for seed in (0, 1)]
    even = [trial("even", attack, seed, REMOVED if seed else None) for attack, seed in pairs]
    broken = [trial("broken", attack, seed, REMOVED if attack == "z" else None) for attack, seed in pairs]
    rows = [(row["watermark"], row["worst"], row["survived"]) for row in ranking([*broken, *even])]
    assert rows == [("even", 0.5, 4), ("broken", 0.0, 6)]


def test_boards_of_other_tasks_and_verifications_are_ranked_apart() -> None:
    other = trial("b")
    other["choices"]["task"] = "fashion"
    strict = trial("c", curve=REMOVED)
    strict["choices"]["verification"] = "strict"
    assert ranks([trial("a"), other, strict]) == [("a", 1), ("c", 1), ("b", 1)]


def test_cost_and_weakest_evidence_name_their_unit_and_attack() -> None:
    (row,) = ranking([trial(), trial(attack="distill", curve=REMOVED)])
    assert row["cost_pp"] == pytest.approx(1.0)
    assert (row["weakest_log10_p"], row["weakest_attack"]) == (WEAK, "distill")


def test_command_and_settings_come_from_the_record() -> None:
    record = trial("my mark")
    expected = "assay run task=digits model=cnn 'watermark=my mark' deployment=open attack=prune"
    assert command(record) == f"{expected} adversary=standard verification=standard trainer=standard seed=0"
    assert settings(record["config"]) == [["seed", "0"], ["attack.shares", "[0.5, 1.0]"]]


def test_shared_parts_are_sent_once() -> None:
    data = view([trial(attack=f"attack{i}") for i in range(20)])
    assert len({record["controls"] for record in data["records"]}) == 1
    assert len(data["pool"]) < 10


EVIL = "</script><script>document.title='owned'</script><img src=x onerror=alert(1)> <!-- records -->"


def several() -> list[Record]:
    """Every kind of record on one board, and a second board."""
    other = trial("adi", seed=3)
    other["choices"]["task"] = "fashion"
    other["id"] = "fashion-adi"
    adi = [
        trial(),
        trial(seed=1),
        trial(attack="distill", curve=[stolen(5.0)]),
        trial(attack="empty", curve=[]),
    ]
    uchida = [trial("uchida", curve=REMOVED), trial("uchida", "distill", curve=UNDECIDED)]
    blocked = unfinished("uchida", "extract", status="blocked", reason=EVIL)
    senseless = unfinished("adi", "extract", status="not_applicable", reason="no layer")
    died = unfinished("died", "extract", status="failed", reason="SIGKILL")
    return [*adi, *uchida, trial("none"), blocked, senseless, died, other]


class Page(HTMLParser):
    """The scripts of a page, its policy, and whatever its markup would load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.policy = ""
        self.loads: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.loads += [name for name in ("src", "href", "srcset", "data", "action") if name in found]
        if tag == "script":
            self.scripts.append((found, ""))
        if found.get("http-equiv") == "Content-Security-Policy":
            self.policy = found["content"] or ""

    def handle_data(self, data: str) -> None:
        if self.lasttag == "script" and data.strip():
            self.scripts[-1] = (self.scripts[-1][0], self.scripts[-1][1] + data)


def written(records: list[Record], folder: Path) -> str:
    path = folder / "board.html"
    write_board(records, path)
    assert [p.name for p in folder.iterdir()] == ["board.html"]
    return path.read_text(encoding="utf-8")


def test_page_is_one_small_file_that_loads_nothing(tmp_path: Path) -> None:
    text = written(several(), tmp_path)
    page = Page(text)
    styles = "".join(re.findall(r"<style>(.*?)</style>", text, re.DOTALL))
    assert len(text.encode()) < 1_500_000
    assert page.loads == []
    assert not re.search(r"url\(|@import|https?://", styles)
    assert not re.search(r"\bimport\s*\(|sourceMappingURL|XMLHttpRequest\([^)]*http", text)


def test_policy_admits_exactly_the_scripts_of_the_page(tmp_path: Path) -> None:
    page = Page(written(several(), tmp_path))
    rules = dict(rule.strip().split(" ", 1) for rule in page.policy.split(";"))
    code = [text for attributes, text in page.scripts if attributes.get("type") != "application/json"]
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in code]
    assert rules.pop("script-src") == " ".join(f"'sha256-{digest}'" for digest in hashes)
    assert rules.pop("style-src") == "'unsafe-inline'"
    assert rules == dict.fromkeys(("default-src", "base-uri", "form-action"), "'none'")


def records_in(text: str) -> dict[str, Any]:
    (found,) = [body for attributes, body in Page(text).scripts if attributes.get("id") == "records"]
    data: dict[str, Any] = json.loads(found)
    return data


def test_every_record_is_on_the_page_whatever_its_reason_says(tmp_path: Path) -> None:
    text = written(several(), tmp_path)
    data = records_in(text)
    assert {record["id"] for record in data["records"]} == {record["id"] for record in several()}
    assert EVIL in [record["reason"] for record in data["records"]]
    assert text.count("document.title='owned'") == 1
    assert len(Page(text).scripts) == 11


@pytest.mark.parametrize("records", [[], [trial()], [unfinished(status="failed", reason="\ud800")]])
def test_few_records_make_a_page(records: list[Record], tmp_path: Path) -> None:
    assert len(records_in(written(records, tmp_path))["records"]) == len(records)


def test_the_leaderboard_needs_no_torch() -> None:
    code = "import sys, assay.leaderboard.page, assay.leaderboard.store; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def rendered(address: str, folder: Path) -> str:
    """The document after its scripts ran; fails on any message of an error in the console."""
    assert CHROMIUM is not None
    quiet = "--headless --no-sandbox --disable-gpu --disable-background-networking --disable-component-update"
    ours = f"--disable-sync --no-first-run --virtual-time-budget=3000 --user-data-dir={folder / 'profile'}"
    flags = [*quiet.split(), *ours.split(), "--enable-logging=stderr", "--dump-dom", address]
    run = subprocess.run([CHROMIUM, *flags], capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in run.stderr
    return run.stdout


@needs_browser
def test_browser_draws_ranking_outcomes_and_curves(tmp_path: Path) -> None:
    written(several(), tmp_path)
    dom = rendered((tmp_path / "board.html").as_uri(), tmp_path)
    assert "<title>Assay" in dom
    assert len(re.findall(r'class="tabulator-row[ "]', dom)) == 3
    assert dom.count('<figure class="panel"') == 4
    cells = re.findall(r'<button type="button" class="(?!link)(\w+)">([^<]+)', dom)
    words = {"control", "blocked", "n.a.", "failed", "removed", "survives 2/2", "undecided", "too costly"}
    assert {text for _, text in cells} == words
    assert len(cells) == 9


@needs_browser
def test_browser_opens_the_record_named_in_the_address(tmp_path: Path) -> None:
    written(several(), tmp_path)
    record = trial("uchida", curve=REMOVED)
    dom = rendered(f"{(tmp_path / 'board.html').as_uri()}#{record['id']}", tmp_path)
    dialog = dom[dom.index("<dialog") : dom.index("</dialog>")]
    assert " open" in dialog
    assert command(record) in dialog
    assert dialog.count('<th scope="row">stolen</th>') == len(REMOVED)


@needs_browser
def test_browser_says_so_when_there_are_no_records(tmp_path: Path) -> None:
    written([], tmp_path)
    assert "There are no records yet" in rendered((tmp_path / "board.html").as_uri(), tmp_path)


def test_a_trial_with_other_settings_is_another_scheme_and_its_command_says_so() -> None:
    changed = {
        **trial("uchida"),
        "id": "changed",
        "overrides": ["watermark.bits=64", "verification.fpr=0.001"],
    }
    rows = ranking([trial("uchida"), changed])
    assert {row["watermark"] for row in rows} == {"uchida", "uchida bits=64"}
    assert len({row["verification"] for row in rows}) == 2
    shown = {record["id"]: record for record in view([trial("uchida"), changed])["records"]}
    command = shown["changed"]["command"]
    assert "watermark=uchida " in command
    assert command.endswith("watermark.bits=64 verification.fpr=0.001")
