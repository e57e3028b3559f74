"""An independent witness: it has a key and a memory of its own, and signs a log's checkpoint only if nothing that it has seen was
rewritten (C2SP tlog-witness, whose requests and answers these are).

One deviation, on purpose: for a size that it has signed it gives that signature again, never one with a new time. Deposits are
salted by this signature; a witness that signs one size many times would give an owner many draws for one deposit.
"""

import base64
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..core.errors import ConfigError
from . import merkle, notes
from .signers import COSIGNATURE, Signer, Verifier, decoded
from .sqlite import transaction

Ask = Callable[[bytes], tuple[int, bytes]]
"""A request to a witness, and its answer: status as in HTTP, body."""
OK, BAD, DENIED, UNKNOWN, CONFLICT, INCONSISTENT = 200, 400, 403, 404, 409, 422
LARGEST = 32768  # bytes of a request
SCHEMA = """
CREATE TABLE logs (origin TEXT PRIMARY KEY, key TEXT NOT NULL);
CREATE TABLE seen (origin TEXT, size INTEGER, root BLOB NOT NULL, line TEXT NOT NULL, PRIMARY KEY (origin, size));
"""


def request(note: bytes, old: int, proof: list[bytes]) -> bytes:
    lines = [f"old {old}", *(base64.b64encode(step).decode() for step in proof), "", ""]
    return "\n".join(lines).encode() + note


def asked(ask: Ask, note: bytes, old: int, proof: Callable[[int], list[bytes]]) -> str:
    """The witness's line on this checkpoint; ConfigError when it refuses. `old`: the size that it is thought to have seen last;
    when it has seen another, the proof starts from there."""
    status, body = ask(request(note, old, proof(old)))
    if status == CONFLICT and body.strip().isdigit() and len(body) < 20:
        seen, size = int(body), notes.parse(note).size
        if seen > size:
            raise ConfigError(
                f"the witness has seen {seen} entries of this log, which now has {size}: entries were lost or cut off"
            )
        status, body = ask(request(note, seen, proof(seen)))
    if status != OK:
        raise ConfigError(
            f"the witness refuses the checkpoint ({status}): {body.decode(errors='replace')[:300].strip()}"
        )
    return body.decode(errors="replace")


@dataclass(frozen=True)
class Witness:
    """Its folder: witness.db, witness.pem, witness.pub."""

    folder: Path
    signer: Signer
    clock: Callable[[], float] = time.time

    @staticmethod
    def create(folder: Path, name: str, signer: Signer | None = None) -> "Witness":
        """With a new key, unless it is given one."""
        signer = signer or Signer.fresh(name, COSIGNATURE)
        signer.save(folder / "witness.pem")
        with closing(sqlite3.connect(folder / "witness.db")) as db:
            db.executescript(f"BEGIN;{SCHEMA}COMMIT;")
        return Witness(folder, signer)

    @staticmethod
    def load(folder: Path) -> "Witness":
        if not (folder / "witness.db").is_file():
            raise ConfigError(
                f"expected a witness in {folder}, found none; `assay evidence witness init {folder}` makes one"
            )
        return Witness(folder, Signer.load(folder / "witness.pem"))

    def watch(self, log: Verifier) -> None:
        """From now on, this log's checkpoints are cosigned. ConfigError for another key under a name it knows."""
        with self._writing() as db:
            known = db.execute("SELECT key FROM logs WHERE origin = ?", (log.name,)).fetchone()
            if known is not None and known[0] != log.text:
                raise ConfigError(f"the witness knows the log {log.name} with another key")
            db.execute("INSERT OR IGNORE INTO logs VALUES (?, ?)", (log.name, log.text))

    def seen(self, origin: str) -> notes.Checkpoint | None:
        """The largest checkpoint that it has signed of this log."""
        with self._writing() as db:
            found = _last(db, origin)
        return None if found is None else notes.Checkpoint(origin, found[0], found[1])

    def answer(self, asked_for: bytes) -> tuple[int, bytes]:
        """Status and body, whatever comes: a cosignature, the size it has seen, or why not."""
        try:
            old, proof, note = _read(asked_for)
            checkpoint = notes.parse(note)
        except ConfigError as error:
            return BAD, f"{error}\n".encode()
        with self._writing() as db:
            known = db.execute("SELECT key FROM logs WHERE origin = ?", (checkpoint.origin,)).fetchone()
            if known is None:
                return UNKNOWN, f"this witness does not watch {checkpoint.origin}\n".encode()
            try:
                notes.opened(note, Verifier.parse(known[0]))
            except ConfigError as error:
                return DENIED, f"{error}\n".encode()
            return self._cosigned(db, checkpoint, old, proof)

    def _cosigned(
        self, db: sqlite3.Connection, checkpoint: notes.Checkpoint, old: int, proof: list[bytes]
    ) -> tuple[int, bytes]:
        """One transaction from the comparison to the memory of it, so two requests at once cannot both be first."""
        size, root, line = _last(db, checkpoint.origin) or (0, merkle.EMPTY, "")
        if old > checkpoint.size:
            return BAD, b"the old size exceeds the checkpoint's\n"
        if old != size:
            return CONFLICT, f"{size}\n".encode()
        if not merkle.consistent(old, root, checkpoint.size, checkpoint.root, proof):
            return INCONSISTENT, f"not consistent with the {size} entries seen before\n".encode()
        if checkpoint.size == size and line:
            return OK, line.encode()
        line = notes.cosignature(checkpoint, self.signer, int(self.clock()))
        db.execute(
            "INSERT INTO seen VALUES (?, ?, ?, ?)",
            (checkpoint.origin, checkpoint.size, checkpoint.root, line),
        )
        return OK, line.encode()

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        path = self.folder / "witness.db"
        with closing(sqlite3.connect(path, timeout=60, isolation_level=None)) as db:
            db.execute("PRAGMA synchronous = EXTRA")
            with transaction(db):
                yield db


def _last(db: sqlite3.Connection, origin: str) -> tuple[int, bytes, str] | None:
    words = "SELECT size, root, line FROM seen WHERE origin = ? ORDER BY size DESC LIMIT 1"
    found = db.execute(words, (origin,)).fetchone()
    return None if found is None else (int(found[0]), bytes(found[1]), str(found[2]))


def _read(content: bytes) -> tuple[int, list[bytes], bytes]:
    """Old size, proof, note."""
    if len(content) > LARGEST:
        raise ConfigError(f"expected a request of at most {LARGEST} bytes")
    head, _, note = content.partition(b"\n\n")
    first, *rest = head.decode("ascii", errors="replace").split("\n")
    number = first.removeprefix("old ")
    proof = [decoded(line) for line in rest]
    if not first.startswith("old ") or not number.isascii() or not number.isdigit() or len(number) > 18:
        raise ConfigError("expected a request that begins with `old SIZE`")
    if len(proof) > merkle.LONGEST or any(len(step) != 32 for step in proof):
        raise ConfigError(f"expected at most {merkle.LONGEST} hashes of a proof, a line each in base64")
    return int(number), proof, note
