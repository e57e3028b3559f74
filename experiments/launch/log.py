"""A worker's log: what it takes, what comes of it, and whether it lives. One writer, any number of readers, no lock."""

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

BEAT = 10.0
"""Seconds between two signs of life of a worker."""
STALE = 60.0
"""Seconds without one after which a worker of another machine counts as dead; clocks must agree much better than that."""


def here() -> str:
    """This machine, and which of its process tables, for containers share a machine's name."""
    space = Path("/proc/self/ns/pid")
    return socket.gethostname() + (f" {space.readlink()}" if space.exists() else "")


class Log:
    """A worker's log: a JSON line for what it takes and what comes of it; the time of the file is its sign of life."""

    def __init__(self, file: TextIO) -> None:
        self.file = file

    def say(self, **event: Any) -> None:
        self.file.write(json.dumps(event) + "\n")
        self.file.flush()

    def take(self, number: int) -> None:
        self.say(take=number, at=round(time.time(), 1))

    def done(self, number: int, record: dict[str, Any]) -> None:
        told = {name: record.get(name) for name in ("status", "reason")}
        self.say(done=number, **told, seconds=record.get("spent", {}).get("seconds"))


@contextmanager
def log(path: Path) -> Iterator[Log]:
    """A worker's log while it lives, touched every BEAT seconds. An orderly end is written too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    over = threading.Event()

    def beat() -> None:
        while not over.wait(BEAT):
            with suppress(OSError):  # a file system that is away for a moment
                os.utime(path)

    with path.open("a", encoding="utf-8") as file:
        file.write("\n")  # ends the half line of a worker that was killed here
        found = Log(file)
        found.say(begin=os.getpid(), place=here())
        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield found
        finally:
            over.set()
            thread.join()
            found.say(end=True)


@dataclass
class Worker:
    """A log as read. running: trials it took and has not answered, with the time; lost: those an earlier process of the log left
    so; done: (trial, its outcome)."""

    path: Path
    beat: float
    pid: int | None = None
    place: str = ""
    ended: bool = False
    refused: str | None = None
    running: dict[int, float] = field(default_factory=dict)
    lost: list[tuple[int, float]] = field(default_factory=list)
    done: list[tuple[int, dict[str, Any]]] = field(default_factory=list)

    @property
    def host(self) -> str:
        return self.place.partition(" ")[0]

    @staticmethod
    def read(path: Path) -> "Worker":
        with path.open(encoding="utf-8") as file:
            found = Worker(path, os.fstat(file.fileno()).st_mtime)
            for line in file:
                with suppress(json.JSONDecodeError):  # a half line, or the one that ended it
                    found.hear(json.loads(line))
        return found

    def hear(self, event: dict[str, Any]) -> None:
        if "take" in event:
            self.running[event["take"]] = event["at"]
        elif "done" in event:
            self.running.pop(event["done"], None)
            self.done.append((event["done"], event))
        elif "begin" in event:  # a scheduler started it anew
            self.lost += self.running.items()
            self.running, self.ended = {}, False
            self.pid, self.place = event["begin"], event["place"]
        elif "refused" in event:
            self.refused = event["refused"]
        else:
            self.ended = True

    @property
    def alive(self) -> bool:
        """Begun, not ended, and breathing: of this machine's the process must exist, of others the log must be fresh."""
        if self.pid is None or self.ended or time.time() - self.beat > STALE:
            return False
        return self.place != here() or _exists(self.pid)

    @property
    def dead(self) -> list[tuple[int, float]]:
        """Trials that died with it, and when it had taken them."""
        return self.lost if self.alive else [*self.lost, *self.running.items()]


def _exists(pid: int) -> bool:
    """Not so a killed process that nobody has asked after yet."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
