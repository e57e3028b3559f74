"""Nothing is dropped unseen: what does not count is named with its reason, by the store, the command line, the page and exports."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pages import quick, renamed

from assay.core.errors import ConfigError
from assay.experiments.cli import main
from assay.experiments.launch.index import heads
from assay.leaderboard.detectability import detectable
from assay.leaderboard.export import as_csv, export
from assay.leaderboard.page import json_text
from assay.leaderboard.ranking import Record
from assay.leaderboard.scores import scores
from assay.leaderboard.screen import one_per_cell, screened, sentences
from assay.leaderboard.store import Excluded, Store, Unfit, signed
from assay.leaderboard.view import view

Edit = Callable[[str, Record], str]


def stored(runs: Path, count: int = 3) -> tuple[Store, list[Path]]:
    store = Store(runs / "records")
    return store, [store.write(record) for record in quick()[:count]]


def without(*path: Any) -> Edit:
    """The record less one of its fields, signed anew: complete JSON of the right version that says too little."""

    def edit(text: str, record: Record) -> str:
        inside: Any = record
        for name in path[:-1]:
            inside = inside[name]
        del inside[path[-1]]
        return signed(record)

    return edit


def put(value: Any, *path: Any) -> Edit:
    """The record with another value in one of its fields, signed anew."""

    def edit(text: str, record: Record) -> str:
        inside: Any = record
        for name in path[:-1]:
            inside = inside[name]
        inside[path[-1]] = value
        return signed(record)

    return edit


DAMAGE: dict[str, tuple[Edit, str, str]] = {
    "empty": (lambda text, record: "", "unreadable", "is empty"),
    "half": (lambda text, record: text[: len(text) // 2], "unreadable", "half of it"),
    "no JSON": (lambda text, record: "<html>", "unreadable", "no JSON"),
    "NaN": (lambda text, record: text.replace('"seed": 0', '"seed": NaN'), "unreadable", "NaN"),
    "no object": (lambda text, record: "[]", "unreadable", "no `schema`"),
    "another version": (lambda text, record: signed({**record, "schema": 2}), "another version", "schema 2"),
    "edited": (
        lambda text, record: text.replace('"detected": true', '"detected": false', 1),
        "edited",
        "hash",
    ),
    "edited hash": (lambda text, record: text.replace('"hash": "', '"hash": "0', 1), "edited", "hash"),
    "no curve": (without("curve"), "incomplete", "no `curve`"),
    "half a point": (without("curve", 0, "detected"), "incomplete", "`curve.0.detected`"),
    "no scheme": (without("choices", "watermark"), "incomplete", "`choices`: has no watermark"),
    "no point": (
        lambda text, record: signed({**record, "curve": []}),
        "incomplete",
        "`curve`: List should have at least 1 item",
    ),
    "words for a number": (
        put("x", "curve", 0, "accuracy"),
        "incomplete",
        "`curve.0.accuracy`: Input should be a valid number, got 'x'",
    ),
    "a number for a verdict": (
        put(1, "marked", "detected"),
        "incomplete",
        "`marked.detected`: Input should be a valid boolean, got 1",
    ),
    "no log10 p": (
        put(None, "curve", 0, "log10_p"),
        "incomplete",
        "`curve.0.log10_p`: Input should be a valid number",
    ),
    "no cost": (put(None, "curve", 0, "cost"), "incomplete", "`curve.0.cost`"),
    "no queries": (without("curve", 0, "cost", "queries"), "incomplete", "`curve.0.cost.queries`"),
    "no nulls": (without("nulls", "random_keys"), "incomplete", "`nulls.random_keys`"),
    "half a control": (put({"p": 1}, "controls", "unmarked"), "incomplete", "`controls.unmarked.detected`"),
    "half a deployment": (put({}, "deployment"), "incomplete", "`deployment.accounts`"),
    "a word for an adversary": (put("x", "config", "adversary"), "incomplete", "`config.adversary`"),
    "a list of choices": (
        put(["a"], "choices", "deployment"),
        "incomplete",
        "`choices.deployment`: Input should be a valid string",
    ),
    "numbers for overrides": (
        put([3], "overrides"),
        "incomplete",
        "`overrides.0`: Input should be a valid string, got 3",
    ),
    "infinity": (
        lambda text, record: text.replace('"log10_p": ', '"log10_p": -1e999, "was": ', 1),
        "unreadable",
        "infinity",
    ),
    "half a letter": (
        lambda text, record: text.replace('"status": "', '"status": "\\ud800', 1),
        "unreadable",
        "no JSON",
    ),
    "levels": (
        lambda text, record: text.replace('"config": {', '"config": {"x": ' + "[" * 300 + "]" * 300 + ", "),
        "unreadable",
        "254 levels",
    ),
    "more claims than cells": (
        put({"cells": 2, "claims": 3}, "size"),
        "incomplete",
        "`size`: expected `claims` to be at most `cells`, 2",
    ),
    "more beyond than drawn": (
        put({"count": 2, "exceed": 3}, "marked", "random_keys"),
        "incomplete",
        "`marked.random_keys`: expected `exceed` to be at most `count`, 2",
    ),
    "more alarmed than customers": (
        put({"kinds": {"everyday": {"customers": 20, "alarmed": 21}}}, "deployment", "benign"),
        "incomplete",
        "`deployment.benign.kinds.everyday`: expected `alarmed` to be at most `customers`, 20",
    ),
    "words for a null score": (put(["x"], "nulls", "random_keys"), "incomplete", "`nulls.random_keys.0`"),
    "no time": (put("yesterday", "finished"), "incomplete", "`finished`: Invalid isoformat string"),
    "no seed": (without("seed"), "incomplete", "no `seed`"),
    "status": (lambda text, record: signed({**record, "status": "fine"}), "incomplete", "got 'fine'"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_record_is_refused_and_the_others_are_read(damage: str, tmp_path: Path) -> None:
    edit, kind, words = DAMAGE[damage]
    store, paths = stored(tmp_path)
    text = paths[1].read_text(encoding="utf-8")
    paths[1].write_text(edit(text, json.loads(text)), encoding="utf-8")
    with pytest.raises(Unfit) as caught:
        store.read(paths[1].stem)
    assert words in str(caught.value)
    assert str(paths[1]) in str(caught.value)
    found = screened(store.screened())
    assert len(found.records) == 2
    assert [(e.file, e.kind) for e in found.excluded] == [(paths[1].name, kind)]


FULL: dict[tuple[Any, ...], Any] = {
    ("owner", "verification"): {"queries": 3, "seconds": 0.5},
    ("owner", "detectability"): {"auc": 0.5, "detector": "strip", "of": 1},
    ("marked", "message"): {"bits": 64, "accuracy": 1.0},
    ("curve", 0, "message"): {"bits": 64, "accuracy": 0.5},
    ("curve", 0, "seen"): {"accuracy": 0.9, "marked": 0.95},
    ("deployment", "alarm"): {"queries": 5},
    ("deployment", "benign"): {"kinds": {"everyday": {"customers": 20, "alarmed": 1}}},
    ("options",): {"watermark": "uchida"},
    ("reason",): "",
}
"""Groups that only some trials have."""


def full() -> Record:
    """A real record with every group, and one of each list."""
    record: Record = json.loads(signed(next(r for r in quick() if r["deployment"] and r["size"])))
    for path, value in FULL.items():
        put(value, *path)("", record)
    record["curve"] = record["curve"][:1]
    record["nulls"] = {name: scores[:2] for name, scores in record["nulls"].items()}
    return record


def fields(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [
        place
        for name, item in inside
        if name not in ("hash", "environment", "config")
        for place in ((*path, name), *fields(item, (*path, name)))
    ]


GONE = object()


@pytest.mark.parametrize("value", [GONE, None, "x", -1, 1e308, True, [], {"a": None}])
def test_no_value_of_a_field_stops_the_board(value: Any, tmp_path: Path) -> None:
    """The record counts, or is excluded."""
    store, record = Store(tmp_path), full()
    path, counted = store.write(record), 0
    for place in fields(record):
        changed = json.loads(json.dumps(record))
        without(*place)("", changed) if value is GONE else put(value, *place)("", changed)
        del changed["hash"]
        path.write_text(json.dumps(changed), encoding="utf-8")
        (found,) = store.screened()
        counted += not isinstance(found, Excluded)
        json_text(view([found]))
        if not isinstance(found, Excluded):
            as_csv(scores([found]) or [{}])
    assert 0 < counted < len(fields(record))


def test_a_folder_or_a_link_to_nothing_is_no_record(tmp_path: Path) -> None:
    store, (path,) = stored(tmp_path, 1)
    (store.folder / "a.json").mkdir()
    (store.folder / "b.json").symlink_to(tmp_path / "nowhere")
    (store.folder / "c.json").symlink_to(path)
    for found in (store.screened(), heads(store)):
        known = screened(found)
        assert [(e.file, e.kind, e.because) for e in known.excluded if e.kind == "unreadable"] == [
            ("a.json", "unreadable", "is no file"),
            ("b.json", "unreadable", "is no file"),
        ]
        assert len(known.records) == 1


def test_a_hash_is_of_what_is_said_not_of_how_it_is_spaced(tmp_path: Path) -> None:
    store, (path, *_) = stored(tmp_path, 1)
    before = store.read(path.stem)
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8"))), encoding="utf-8")
    assert store.read(path.stem) == before == quick()[0]
    assert screened(store.screened()).unsigned == 0


def test_records_older_than_hashes_count_and_are_counted(tmp_path: Path) -> None:
    store, (path, *_) = stored(tmp_path, 2)
    record = json.loads(path.read_text(encoding="utf-8"))
    del record["hash"]
    path.write_text(json.dumps(record), encoding="utf-8")
    found = screened(store.screened())
    assert (len(found.records), found.excluded, found.unsigned) == (2, [], 1)
    assert sentences(found.excluded, found.unsigned)[0].startswith("1 records have no hash")


def test_a_copy_under_another_name_counts_once(tmp_path: Path) -> None:
    store, (path, *_) = stored(tmp_path, 1)
    path.with_name("copy.json").write_bytes(path.read_bytes())
    (excluded,) = screened(store.screened()).excluded
    assert (excluded.file, excluded.kind) == ("copy.json", "renamed")


def older(record: Record, bits: int) -> Record:
    config = {**record["config"], "watermark": {**record["config"]["watermark"], "bits": bits}}
    return {**record, "id": f"older-{bits}", "finished": f"2020-01-01T00:00:{bits:02}", "config": config}


def test_of_one_cell_the_last_counts_and_the_difference_is_told() -> None:
    record, other = quick()[:2]
    first, second = older(record, 8), older(record, 16)
    kept, excluded = one_per_cell([first, record, second, other])
    assert kept == [record, other]
    assert [e.file for e in excluded] == ["older-8.json", "older-16.json"]
    assert all(record["id"] in e.because and "watermark.bits" in e.because for e in excluded)


def test_a_trial_in_two_folders_counts_once_and_a_folder_named_twice_is_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("one", "two"):
        stored(tmp_path / name, 24)
    one, two = str(tmp_path / "one"), str(tmp_path / "two")
    again = str(tmp_path / "one" / ".." / "one")
    assert main(["board", "--runs", one, "--also", again]) == 0
    assert "excluded" not in capsys.readouterr().out
    assert main(["board", "--runs", one, "--also", two]) == 0
    out = capsys.readouterr().out
    assert "24 excluded, because 24 superseded:" in out
    assert "is the same trial as one in another folder, which counts" in out


def test_other_seeds_settings_and_trainers_are_cells_of_their_own() -> None:
    record = quick()[0]
    others = [
        {**record, "seed": 1},
        {**record, "overrides": ["watermark.bits=64"]},
        {**record, "choices": {**record["choices"], "trainer": "gpu"}},
    ]
    assert one_per_cell([record, *others]) == ([record, *others], [])


def test_the_page_is_told_what_does_not_count() -> None:
    data = view([*quick(), older(quick()[0], 8), Excluded("x.json", "edited", "was edited")])
    assert [(kind, file) for kind, file, _ in data["excluded"]] == [
        ("edited", "x.json"),
        ("superseded", "older-8.json"),
    ]
    assert len(data["trials"]["id"]) == len(quick())


def test_the_command_line_and_exports_say_what_they_leave_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, paths = stored(tmp_path, 24)
    paths[1].write_text("{", encoding="utf-8")
    runs = ["--runs", str(tmp_path)]
    assert main(["board", *runs]) == 0
    assert main(["board", *runs, "--export", "csv"]) == 0
    assert main(["status", *runs]) == 0
    out = capsys.readouterr().out
    assert out.count("1 excluded, because 1 unreadable:") == 3
    assert out.count(paths[1].name) == 3
    note = tmp_path / "board.csv.note.txt"
    assert paths[1].name in note.read_text(encoding="utf-8")
    paths[1].unlink()
    assert main(["board", *runs, "--export", "csv"]) == 0
    assert not note.exists()


def test_nothing_left_is_an_error_that_says_why(tmp_path: Path) -> None:
    store, (path, *_) = stored(tmp_path, 1)
    path.write_text("{", encoding="utf-8")
    with pytest.raises(ConfigError, match="found none") as caught:
        export(store.screened(), "csv", tmp_path / "board.csv")
    assert path.name in str(caught.value)


def test_pairs_are_exported(tmp_path: Path) -> None:
    """akh is decided nowhere by 8 null models, so it stands in no pair."""
    third = [renamed(r, watermark="third") for r in quick() if r["choices"]["watermark"] == "uchida"]
    export([*quick(), *third], "pairs", tmp_path / "pairs.csv")
    rows = list(csv.DictReader((tmp_path / "pairs.csv").read_text(encoding="utf-8").splitlines()))
    assert {(row["first"], row["second"]) for row in rows} == {
        ("adi_derived", "third"),
        ("adi_derived", "uchida"),
        ("third", "uchida"),
    }
    assert all(float(row["first_alone"]) + float(row["second_alone"]) <= 1 for row in rows)


def detected(folder: Path, bits: int, name: str, data: float = 1.0) -> None:
    """As `assay detectability` writes it: of uchida with so many bits, and a thief with such a share of the data."""
    folder.mkdir(exist_ok=True)
    config = {**quick()[-1]["config"], "attack": None}
    config["watermark"] = {**config["watermark"], "bits": bits}
    config["adversary"] = {**config["adversary"], "data": data}
    found = [{"detector": "strip", "auc": 0.5}, {"detector": "property inference", "auc": 0.8}]
    (folder / name).write_text(json.dumps({"config": config, "found": found}), encoding="utf-8")


def test_what_detectability_found_stands_beside_the_same_settings(tmp_path: Path) -> None:
    record = next(r for r in quick() if r["choices"]["watermark"] == "uchida")
    assert quick()[-1]["config"]["watermark"] == record["config"]["watermark"]
    bits = record["config"]["watermark"]["bits"]
    detected(tmp_path / "detectability", 64, "other.json")
    detected(tmp_path / "detectability", bits, "poorer.json", data=0.05)
    assert list(detectable(quick(), tmp_path / "detectability")) == quick()
    detected(tmp_path / "detectability", bits, "same.json")
    (tmp_path / "detectability" / "folder.json").mkdir()
    torn = ("{", '{"config": []}', '{"config": {}, "found": [{"auc": NaN, "detector": "x"}]}', "[" * 99_999)
    for i, text in enumerate(torn):
        (tmp_path / "detectability" / f"torn{i}.json").write_text(text, encoding="utf-8")
    found = list(detectable(quick(), tmp_path / "detectability"))
    records = [item for item in found if not isinstance(item, Excluded)]
    assert [item.file for item in found if isinstance(item, Excluded)] == [
        f"detectability/{name}.json" for name in ("folder", "torn0", "torn1", "torn2", "torn3")
    ]
    rows = {r["watermark"]: r["detectability_auc"] for r in scores(records)}
    assert rows == {"uchida": 0.8, "adi_derived": None, "akh": None}
