"""The results store: one JSON record per trial, written whole. No torch: status and board read it in a moment."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.atomic import write_atomically
from ..core.errors import ConfigError

SCHEMA = 1
STATUSES = ("ok", "blocked", "not_applicable", "failed")
FINAL = ("ok", "blocked", "not_applicable")
"""A failed trial runs again when it is asked for again."""

Record = dict[str, Any]


@dataclass(frozen=True)
class Store:
    folder: Path
    """runs/records."""

    def path(self, trial_id: str) -> Path:
        return self.folder / f"{trial_id}.json"

    def write(self, record: Record) -> Path:
        if record["status"] not in STATUSES:
            raise ValueError(f"status must be one of {STATUSES}, got {record['status']!r}")
        text = json.dumps({"schema": SCHEMA, **record}, indent=1, allow_nan=False, ensure_ascii=False)
        path = self.path(record["id"])
        write_atomically(path, (text + "\n").encode())
        return path

    def read(self, trial_id: str) -> Record | None:
        path = self.path(trial_id)
        return _load(path) if path.is_file() else None

    def finished(self, trial_id: str) -> bool:
        record = self.read(trial_id)
        return record is not None and record["status"] in FINAL

    def __iter__(self) -> Iterator[Record]:
        for path in sorted(self.folder.glob("*.json")):
            yield _load(path)


def _load(path: Path) -> Record:
    try:
        record: Record = json.loads(path.read_text(encoding="utf-8"))
        known = record["schema"] == SCHEMA and record["status"] in STATUSES
    except (json.JSONDecodeError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not a record of a trial ({error}); move it away") from None
    if not known:
        raise ConfigError(f"{path} has schema {record['schema']}, this version reads {SCHEMA}")
    return record
