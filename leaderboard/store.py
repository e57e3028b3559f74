"""The results store: one JSON record per trial, written whole. No torch: status and board read it in a moment.

A record ends with its `hash`, the SHA-256 of the record without it as this file would write it: one line per field, in the order
of the file. A record whose hash does not fit was edited. One without a hash is older than hashes, and is accepted and counted.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import orjson

from ..core.atomic import write_atomically
from ..core.errors import ConfigError
from .whole import Status, faults

SCHEMA = 1
FINAL = ("ok", "blocked", "not_applicable")
"""A failed trial runs again when it is asked for again."""
ENDING = re.compile(rb',\n "hash": "([0-9a-f]{64})"\n}\s*\Z')
ENDING_BYTES = 100
"""As long as it is, and a little more."""

Record = dict[str, Any]


@dataclass(frozen=True)
class Excluded:
    """A file, or a trial, that counts nowhere. kind: another version, unreadable, incomplete, edited, renamed, superseded."""

    file: str
    kind: str
    because: str


class Unfit(ConfigError):
    """A file that is no record of this version, or not the one that was written."""

    def __init__(self, path: Path, kind: str, because: str) -> None:
        super().__init__(f"{path} {because}; move it away")
        self.excluded = Excluded(path.name, kind, because)


@dataclass(frozen=True)
class Store:
    folder: Path
    """runs/records."""

    def path(self, trial_id: str) -> Path:
        return self.folder / f"{trial_id}.json"

    def write(self, record: Record) -> Path:
        if record["status"] not in get_args(Status):
            raise ValueError(f"status must be one of {get_args(Status)}, got {record['status']!r}")
        path = self.path(record["id"])
        write_atomically(path, signed({"schema": SCHEMA, **record}).encode())
        return path

    def read(self, trial_id: str) -> Record | None:
        path = self.path(trial_id)
        return _unsigned(_load(path)) if path.is_file() else None

    def __iter__(self) -> Iterator[Record]:
        """Unfit at the first file that is no record."""
        return (_unsigned(_load(path)) for path in self._paths())

    def screened(self) -> Iterator[Record | Excluded]:
        """Every record with its `hash`, None where it has none; in the place of a file that is no record why it is not."""
        return (self.screen(path) for path in self._paths())

    def screen(self, path: Path) -> Record | Excluded:
        try:
            return {"hash": None, **_load(path)}
        except Unfit as unfit:
            return unfit.excluded

    def _paths(self) -> Iterator[Path]:
        return iter(sorted(self.folder.glob("*.json")))


def signed(record: Record) -> str:
    """The text of its file, with the hash of what it says."""
    plain = _unsigned(record)
    return _text({**plain, "hash": _hash(plain)})


def _unsigned(record: Record) -> Record:
    return {name: value for name, value in record.items() if name != "hash"}


def _text(record: Record) -> str:
    return json.dumps(record, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def _hash(plain: Record) -> str:
    return hashlib.sha256(_text(plain).encode("utf-8", "surrogatepass")).hexdigest()


def _unedited(written: bytes, record: Record) -> bool:
    """Whether the hash fits. A file as it was written need not be formatted again; one with other spaces says the same."""
    if "hash" not in record:
        return True
    ending = ENDING.search(written, len(written) - ENDING_BYTES)
    if ending and ending[1].decode() == hashlib.sha256(written[: ending.start()] + b"\n}\n").hexdigest():
        return True
    return bool(record["hash"] == _hash(_unsigned(record)))


def _bytes(path: Path) -> bytes:
    try:
        if path.is_file():
            return path.read_bytes()
        why = "is no file"
    except OSError as error:
        why = f"cannot be read ({error.strerror})"
    raise Unfit(path, "unreadable", why)


def _load(path: Path) -> Record:
    written = _bytes(path)
    try:
        record = parsed(written)
    except (ValueError, RecursionError) as error:
        why = f"is no JSON, or half of it ({error})" if written else "is empty"
        raise Unfit(path, "unreadable", why) from None
    if not isinstance(record, dict) or "schema" not in record:
        raise Unfit(path, "unreadable", "is not a record of a trial: it has no `schema`")
    if record["schema"] != SCHEMA:
        raise Unfit(path, "another version", f"has schema {record['schema']}, this version reads {SCHEMA}")
    if not _unedited(written, record):
        raise Unfit(path, "edited", "was edited: its `hash` is of other content")
    if fault := next(faults(record), None):
        raise Unfit(path, "incomplete", f"is incomplete: {fault}")
    if record["id"] != path.stem:
        raise Unfit(path, "renamed", f"is a copy: it holds the trial {record['id']}")
    return record


def parsed(written: bytes) -> Any:
    """orjson takes a fifth of the time of json, which says better what is wrong with a file. What json alone takes (1e999, half a
    surrogate pair) is refused too, and more levels than orjson writes, which would exhaust Python's stack."""
    try:
        found = orjson.loads(written)
        orjson.dumps(found)
    except orjson.JSONDecodeError:
        json.loads(written.decode(), parse_constant=_no_number)
        raise
    except orjson.JSONEncodeError:
        raise ValueError("more than 254 levels") from None
    return found


def _no_number(word: str) -> None:
    raise ValueError(f"{word} is no number of JSON")
