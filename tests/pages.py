"""Records for the tests of the page, made from real ones, and the page that is written from them."""

from collections.abc import Iterable
from pathlib import Path

from assay.leaderboard.page import write_board
from assay.leaderboard.ranking import Record
from assay.leaderboard.store import Excluded, Store

QUICK = Path(__file__).resolve().parent.parent / "results" / "quick" / "records"
EVIL = "</script><script>document.title='owned'</script><img src=x onerror=alert(1)> <!-- records -->"


def quick() -> list[Record]:
    """24 real records: the control and 3 schemes under 6 attacks."""
    return list(Store(QUICK))


def renamed(record: Record, seed: int = 0, **choices: str) -> Record:
    """The same result under other names."""
    named = {**record["choices"], **choices}
    axes = ("task", "model", "watermark", "deployment", "attack")
    name = "-".join([*(named[axis] for axis in axes), f"s{seed}", "0123456789ab"])
    return {**record, "choices": named, "seed": seed, "id": name}


def unfinished(record: Record, status: str, reason: str) -> Record:
    kept = {name: record[name] for name in ("schema", "id", "choices", "seed", "config", "declared")}
    return {**kept, "status": status, "reason": reason}


def found(records: list[Record], scheme: str, attack: str) -> Record:
    names = [(r["choices"]["watermark"], r["choices"]["attack"]) for r in records]
    return records[names.index((scheme, attack))]


def several() -> list[Record]:
    """Two seeds that differ, a second board, and every status."""
    records = quick()
    prune, distill = found(records, "uchida", "prune"), found(records, "uchida", "distill")
    worse = {**renamed(distill, 1, attack="prune", deployment="open"), "declared": prune["declared"]}
    blocked = unfinished(renamed(prune, attack="jbda"), "blocked", EVIL)
    senseless = unfinished(renamed(prune, attack="lora"), "not_applicable", "no layer")
    died = unfinished(renamed(prune, watermark="it's", attack="lora"), "failed", "SIGKILL")
    return [*records, worse, blocked, senseless, died, renamed(prune, task="fashion")]


def held_against_rivals(record: Record) -> Record:
    """The record as if 4 models of nobody and 4 of rivals had decided it, in its first theft and the rival's model by rivals."""
    models, rivals = {"count": 4, "exceed": 1}, {"count": 4, "exceed": 2}
    evidence = [record["marked"], *record["controls"].values(), *record["curve"]]
    for one in filter(None, evidence):
        one |= {"source": "independent_models", "independent_models": models, "rivals": rivals}
        one |= {"random_keys": None, "detected": False, "log10_p": -0.4}
    for one in (record["curve"][0], record["controls"]["marked_by_rival"]):
        one |= {"source": "rivals", "log10_p": -0.22}
    record["nulls"] |= {"rivals": [71.0, 72.0, 75.0, 75.0]}
    return record


def many_seeds(count: int = 8) -> list[Record]:
    """adi_derived and uchida as they are, seed after seed, and a scheme that is always removed."""
    base = [r for r in quick() if r["choices"]["watermark"] in ("adi_derived", "uchida")]
    removed = found(quick(), "uchida", "distill")
    lost = [
        {**removed, "choices": {**r["choices"], "watermark": "lost"}, "declared": r["declared"]}
        for r in base[:6]
    ]
    return [renamed(record, seed) for seed in range(count) for record in (*base, *lost)]


def written(records: Iterable[Record | Excluded], folder: Path) -> str:
    path = folder / "board.html"
    write_board(records, path)
    assert [p.name for p in folder.iterdir()] == ["board.html"]
    return path.read_text(encoding="utf-8")
