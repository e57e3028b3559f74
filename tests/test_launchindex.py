"""The index of a store's heads says what the records say, and follows them."""

import errno
import os
from pathlib import Path

import pytest
from test_launch import spec, stored

from assay.experiments.launch import index as launchindex
from assay.experiments.launch.index import heads
from assay.leaderboard.store import Excluded, Store


@pytest.fixture
def store(runs: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr(launchindex, "WORTH", 1)
    for seed in range(3):
        stored(runs, spec(runs, "none", seed), "ok" if seed else "blocked", seconds=seed)
    return Store(runs / "records")


def test_heads_are_what_the_records_say(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    first = list(heads(store))
    assert (store.folder.parent / "launch" / "records.json").is_file()

    def read_again(*_: object) -> None:
        raise AssertionError("it was read")

    monkeypatch.setattr(Store, "screen", read_again)
    again = list(heads(store))
    monkeypatch.undo()
    for found in (first, again):
        for head, record in zip(found, store.screened(), strict=True):
            assert not isinstance(head, Excluded)
            assert not isinstance(record, Excluded)
            same = ("id", "status", "reason", "finished", "seed", "overrides", "choices", "config")
            assert {name: head[name] for name in same} == {name: record[name] for name in same}
            assert head["seconds"] == record["spent"]["seconds"]
            assert head["hash"] is not None


def test_changed_new_and_removed_records_are_seen(store: Store, runs: Path) -> None:
    assert len(list(heads(store))) == 3
    changed, removed, torn = (store.path(spec(runs, "none", seed).id) for seed in range(3))
    stored(runs, spec(runs, "none", 0), "failed")
    os.utime(changed, ns=(0, changed.stat().st_mtime_ns + 1))
    removed.unlink()
    torn.write_text('{"schema": 1,')
    stored(runs, spec(runs, "prune", 5))
    found = list(heads(store))
    statuses = {head["id"]: head["status"] for head in found if not isinstance(head, Excluded)}
    assert statuses == {changed.stem: "failed", spec(runs, "prune", 5).id: "ok"}
    assert [(bad.file, bad.kind) for bad in found if isinstance(bad, Excluded)] == [(torn.name, "unreadable")]
    assert list(heads(store)) == found


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"version": 0, "rows": {}}'])
def test_a_foreign_index_is_made_again(store: Store, content: str) -> None:
    expected = list(heads(store))
    (store.folder.parent / "launch" / "records.json").write_text(content)
    assert list(heads(store)) == expected


@pytest.mark.parametrize("code", [errno.EROFS, errno.ENOSPC, errno.EACCES])
def test_an_index_that_cannot_be_written_is_done_without(
    store: Store, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise OSError(code, "no")

    monkeypatch.setattr(launchindex, "write_atomically", refused)
    assert len(list(heads(store))) == 3


def test_a_small_store_gets_no_index(runs: Path) -> None:
    stored(runs, spec(runs, "none"))
    assert len(list(heads(Store(runs / "records")))) == 1
    assert list(heads(Store(runs / "nowhere"))) == []
    assert not (runs / "launch").exists()
