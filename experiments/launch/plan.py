"""What the workers of a suite share: a folder under runs/launch with the trials, a queue, and a log per worker.

Nothing but files, so it is the same under every engine. A file has one writer (logs), or is replaced whole under a lock (the
queue); a worker that is killed anywhere leaves at most a half line at the end of its own log.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from filelock import FileLock

from ...core.atomic import write_atomically
from ...core.errors import ConfigError
from ..config import Spec, digest
from .log import Worker

Packed = dict[str, Any]


class Table:
    """Values, each once, by their place: configurations repeat, so 100,000 trials take 10 MB instead of 500."""

    def __init__(self, values: Sequence[Any] = ()) -> None:
        self.values = list(values)

    @cached_property
    def _places(self) -> dict[str, int]:
        return {json.dumps(value): i for i, value in enumerate(self.values)}

    def place(self, value: Any) -> int:
        text = json.dumps(value)
        if text not in self._places:
            self._places[text] = len(self.values)
            self.values.append(value)
        return self._places[text]

    def fold(self, content: Mapping[str, Any]) -> list[int]:
        """A dict as places of its names and of its values."""
        return [self.place(list(content)), *map(self.place, content.values())]

    def unfold(self, places: Sequence[int]) -> dict[str, Any]:
        names, *values = (self.values[place] for place in places)
        return dict(zip(names, values, strict=True))


def packed(specs: Sequence[Spec]) -> Packed:
    table = Table()
    rows = [[table.fold(s.choices), table.fold(s.config), table.place(s.overrides)] for s in specs]
    return {"values": table.values, "rows": rows, "ids": [s.id for s in specs]}


@dataclass(frozen=True)
class Plan:
    """One launch of a suite. started: UTC; due: places in `rows` of the trials that are to run; workers: how many trials at a
    time."""

    folder: Path
    suite: str
    launcher: str
    workers: int
    cwd: str
    config_dir: str | None
    started: str
    due: list[int]
    trials: Packed = field(repr=False)

    @staticmethod
    def place(runs: Path, suite: str, overrides: Sequence[str]) -> Path:
        """The same command finds the same folder again. A suite in a folder of its own (mine/quick) has none here."""
        return runs / "launch" / f"{suite.replace('/', '.')}-{digest([suite, *overrides])[:8]}"

    @property
    def runs(self) -> Path:
        return self.folder.parent.parent

    @staticmethod
    def read(folder: Path) -> "Plan":
        """ConfigError for the plan of another version."""
        path = folder / "plan.json"
        try:
            return Plan(folder, **json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise ConfigError(f"{path} is no plan of this version ({error}); remove its folder") from None

    def begin(self) -> None:
        """Forget an earlier launch and write this one. Logs stand before their workers do: on NFS a file that was not there
        is not seen for a while, but one that is opened again is read anew."""
        for old in (self.folder / "workers").glob("*"):
            old.unlink()
        content = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "folder"}
        write_atomically(self.folder / "plan.json", json.dumps(content).encode())
        self._put({"next": 0, "again": []})

    def spec(self, number: int) -> Spec:
        choices, config, overrides = self.trials["rows"][number]
        return Spec(self.table.unfold(choices), self.table.unfold(config), self.table.values[overrides])

    def attack(self, number: int) -> str:
        return str(self.table.unfold(self.trials["rows"][number][0])["attack"])

    @cached_property
    def table(self) -> Table:
        return Table(self.trials["values"])

    def take(self) -> tuple[int, int] | None:
        """The next trial nobody has, and which try of it this is; None when there is none (now)."""
        with self._locked():
            queue = self._queue()
            if queue["again"]:
                number, attempt = queue["again"].pop(0)
            elif queue["next"] < len(self.due):
                number, attempt = self.due[queue["next"]], 1
                queue["next"] += 1
            else:
                return None
            self._put(queue)
            return number, attempt

    def again(self, number: int) -> None:
        """A trial whose worker died, for its second try."""
        with self._locked():
            queue = self._queue()
            self._put({**queue, "again": [*queue["again"], [number, 2]]})

    def refill(self, left: Sequence[tuple[int, int]]) -> None:
        """Nothing is in the queue but these trials, with their tries."""
        with self._locked():
            self._put({"next": len(self.due), "again": left})

    def _queue(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "queue.json").read_text())
        return found

    def _locked(self) -> FileLock:
        return FileLock(self.folder / "queue.lock")

    def _put(self, queue: dict[str, Any]) -> None:
        write_atomically(self.folder / "queue.json", json.dumps(queue).encode())

    def path(self, worker: int | str) -> Path:
        return self.folder / "workers" / f"{worker}.jsonl"

    def expect(self, workers: Iterable[int]) -> None:
        for worker in workers:
            self.path(worker).parent.mkdir(parents=True, exist_ok=True)
            self.path(worker).touch()

    def seen(self) -> list[Worker]:
        """Every worker as its log shows it."""
        return [Worker.read(path) for path in (self.folder / "workers").glob("*.jsonl")]
