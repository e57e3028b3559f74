"""What is known of every record without reading it again: a copy of its head, valid while the file has the same time and size.

A store of 100,000 records is opened in seconds (benchmarks/store.py). The index is no truth: it may be deleted at any time.
"""

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from ...core.atomic import write_atomically
from ...leaderboard.store import Excluded, Record, Store
from .plan import Table

VERSION = 2
WORTH = 1_000
"""Records read anew from which on it is written: small stores are read as fast, and nothing is put beside results under review."""
PLAIN = ("status", "reason", "finished", "seed", "overrides")
FOLDED = ("choices", "options", "config")

Row = list[Any]


def heads(store: Store) -> Iterator[Record | Excluded]:
    """Of every record of the store, in its order, `id`, `status`, `reason`, `finished`, `seed`, `overrides`, `choices`, `options`,
    `config`, `hash` (whether it has one) and `seconds`; the store's reason where a file is no record."""
    place = store.folder.parent / "launch" / "records.json"
    table, known = _read(place)
    rows: dict[str, Row] = {}
    anew = 0
    for name, stamp in _files(store.folder):
        row = known.get(name)
        if row is None or row[:2] != stamp:
            row = [*stamp, *_row(store.screen(store.folder / name), table)]
            anew += 1
        rows[name] = row
    if anew >= WORTH:
        _write(place, table, rows)
    return (_head(name, row[2:], table) for name, row in rows.items())


def _files(folder: Path) -> Iterator[tuple[str, list[int]]]:
    """Names with time (ns) and size, in the order of the store."""
    if not folder.is_dir():
        return
    with os.scandir(folder) as entries:
        found = sorted((e.name, e) for e in entries if e.name.endswith(".json"))
    for name, entry in found:
        with suppress(FileNotFoundError):  # moved away meanwhile
            facts = entry.stat(follow_symlinks=Path(entry.path).exists())
            yield name, [facts.st_mtime_ns, facts.st_size]


def _row(found: Record | Excluded, table: Table) -> Row:
    if isinstance(found, Excluded):
        return [found.kind, found.because]
    folded = [table.fold(found[name]) if name in found else None for name in FOLDED]
    plain = [found.get(name) for name in PLAIN]
    seconds = (found.get("spent") or {}).get("seconds")
    return [plain, folded, found["hash"] is not None, seconds]


def _head(name: str, row: Row, table: Table) -> Record | Excluded:
    if len(row) == 2:
        return Excluded(name, *row)
    plain, folded, signed, seconds = row
    found = dict(zip(PLAIN, plain, strict=True))
    parts = {field: table.unfold(p) for field, p in zip(FOLDED, folded, strict=True) if p is not None}
    hashed = "present" if signed else None
    return {"id": name.removesuffix(".json"), **found, **parts, "hash": hashed, "seconds": seconds}


def _read(place: Path) -> tuple[Table, dict[str, Row]]:
    with suppress(FileNotFoundError, ValueError, KeyError, TypeError):  # absent or foreign: made again
        content = json.loads(place.read_text(encoding="utf-8"))
        if content["version"] == VERSION:
            return Table(content["values"]), dict(content["rows"])
    return Table(), {}


def _write(place: Path, table: Table, rows: dict[str, Row]) -> None:
    content = {"version": VERSION, "values": table.values, "rows": rows}
    with suppress(OSError):  # another's store, which can only be read, or a full disk
        write_atomically(place, json.dumps(content).encode())
