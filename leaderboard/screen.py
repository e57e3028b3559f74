"""What counts on a board, and what does not and why: nothing is dropped unseen.

Files that are no records are told by the store. Of several records of one cell, the same choices, settings and seed under other
defaults (an option was changed between them), the last to finish counts; the others are superseded.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from .ranking import Record
from .store import Excluded

SHOWN = 10


@dataclass(frozen=True)
class Screened:
    """unsigned: how many of the records that count have no hash, so that nobody would see that they were edited."""

    records: list[Record]
    excluded: list[Excluded]
    unsigned: int


def screened(found: Iterable[Record | Excluded]) -> Screened:
    """Records in their order. Of files that a store did not read (a list of records) no hash is known, and none is counted."""
    records: list[Record] = []
    excluded: list[Excluded] = []
    for item in found:
        if isinstance(item, Excluded):
            excluded.append(item)
        else:
            records.append(item)
    kept, superseded = one_per_cell(records)
    return Screened(kept, [*excluded, *superseded], sum(record.get("hash", "") is None for record in kept))


def one_per_cell(records: Sequence[Record]) -> tuple[list[Record], list[Excluded]]:
    last: dict[Any, Record] = {}
    for record in records:
        cell = _cell(record)
        if cell not in last or _finished(record) >= _finished(last[cell]):
            last[cell] = record
    kept = [record for record in records if last[_cell(record)] is record]
    if len(kept) == len(records):
        return kept, []
    return kept, [_superseded(r, last[_cell(r)]) for r in records if last[_cell(r)] is not r]


def _cell(record: Record) -> Any:
    options = record.get("options") or record["choices"]
    return frozenset(options.items()), record["seed"], tuple(record.get("overrides", ()))


def _finished(record: Record) -> str:
    return record.get("finished") or ""


def _superseded(record: Record, by: Record) -> Excluded:
    if record["id"] == by["id"]:
        why = "is the same trial as one in another folder, which counts"
        return Excluded(f"{record['id']}.json", "superseded", why)
    differing = sorted(_differing("", record["config"], by["config"])) or ["nothing in the settings"]
    more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
    why = f"superseded by {by['id']}, which finished later; they differ in {', '.join(differing[:3])}{more}"
    return Excluded(f"{record['id']}.json", "superseded", why)


def _differing(where: str, one: Any, other: Any) -> Iterable[str]:
    if isinstance(one, dict) and isinstance(other, dict):
        for name in one.keys() | other.keys():
            yield from _differing(f"{where}.{name}" if where else name, one.get(name), other.get(name))
    elif one != other:
        yield where


def sentences(excluded: Sequence[Excluded], unsigned: int, shown: int = SHOWN) -> list[str]:
    """For the command line and the notes of exports: a count, then a line each up to `shown`."""
    lines = []
    if excluded:
        kinds = ", ".join(f"{count} {kind}" for kind, count in Counter(e.kind for e in excluded).items())
        lines += [f"{len(excluded)} excluded, because {kinds}:"]
        lines += [f"  {one.file}: {one.because}" for one in excluded[:shown]]
        lines += [f"  and {len(excluded) - shown} more"] if len(excluded) > shown else []
    if unsigned:
        lines += [f"{unsigned} records have no hash (older than hashes): an edit of them would not be seen"]
    return lines
