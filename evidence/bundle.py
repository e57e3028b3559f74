"""A bundle: everything that somebody on another machine needs to check an owner's deposits, without a network and without secrets.

manifest.json     public keys of log and witness; every entry's index and path to the head; every beacon's size and path
head.note         a checkpoint that all paths lead to
entry-I.json      a certificate, as the log keeps it
beacon-I.note     of a key deposit: the checkpoint that ends with it, whose signature salts what is derived
log.txt           every entry in base64, a line each, where the log is small: with it deposits are counted, not bounded
stamp-N.tsr       RFC 3161 tokens over head.note
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.errors import ConfigError
from . import container, merkle, notes
from .canonical import canonical, fields, parsed
from .certificates import Certificate
from .certificates import read as read_certificate
from .log import Log
from .signers import Verifier, decoded

VERSION = "assay-bundle/v1"
WHOLE = 2**20  # bytes of entries up to which a bundle carries the whole log


@dataclass(frozen=True)
class Item:
    """An entry and its path to the head."""

    index: int
    entry: bytes
    path: tuple[bytes, ...]


@dataclass(frozen=True)
class Beacon:
    """The checkpoint that ends with entry size - 1, and what shows it to be a prefix of the head."""

    size: int
    note: bytes
    path: tuple[bytes, ...]


@dataclass(frozen=True)
class Bundle:
    log: Verifier
    witness: Verifier | None
    head: bytes
    items: tuple[Item, ...]
    beacons: tuple[Beacon, ...]
    everything: tuple[bytes, ...] | None
    """All entries of the log."""
    stamps: tuple[bytes, ...] = ()

    def beacon_of(self, index: int) -> Beacon | None:
        return next((beacon for beacon in self.beacons if beacon.size == index + 1), None)

    def certificates(self) -> list[tuple[int, Certificate]]:
        """ConfigError when one is forged."""
        return [(item.index, read_certificate(item.entry, f"entry {item.index}")) for item in self.items]

    def of_kind(self, kind: str) -> list[tuple[int, Certificate]]:
        return [(index, said) for index, said in self.certificates() if said.kind == kind]


def collect(log: Log, indices: Sequence[int]) -> Bundle:
    """From a log: these entries, with proofs up to its newest checkpoint."""
    head = log.checkpoint()
    end = notes.parse(head).size
    items = [Item(i, log.entry(i), tuple(log.inclusion(i, end))) for i in sorted(set(indices))]
    keys = [i.index for i in items if read_certificate(i.entry, f"entry {i.index}").kind == "key"]
    beacons = [Beacon(i + 1, log.checkpoint(i + 1), tuple(log.consistency(i + 1, end))) for i in keys]
    entries = log.entries()[:end]
    small = sum(map(len, entries)) <= WHOLE
    return Bundle(
        log.signer.verifier,
        log.witness,
        head,
        tuple(items),
        tuple(beacons),
        tuple(entries) if small else None,
    )


def save(bundle: Bundle, path: Path) -> None:
    """One zip."""
    manifest = {
        "version": VERSION,
        "log": bundle.log.text,
        "witness": None if bundle.witness is None else bundle.witness.text,
        "entries": [{"index": item.index, "path": merkle.hexes(item.path)} for item in bundle.items],
        "beacons": [{"size": beacon.size, "path": merkle.hexes(beacon.path)} for beacon in bundle.beacons],
    }
    files = {"manifest.json": canonical(manifest), "head.note": bundle.head}
    files |= {f"entry-{item.index}.json": item.entry for item in bundle.items}
    files |= {f"beacon-{beacon.size - 1}.note": beacon.note for beacon in bundle.beacons}
    files |= {f"stamp-{i}.tsr": token for i, token in enumerate(bundle.stamps)}
    if bundle.everything is not None:
        files["log.txt"] = "".join(f"{base64.b64encode(e).decode()}\n" for e in bundle.everything).encode()
    container.write(path, files)


def load(path: Path) -> Bundle:
    """What the files say, nothing of it checked; ConfigError unless they have the form of a bundle."""
    files = container.read(path)
    names = {"version", "log", "witness", "entries", "beacons"}
    manifest = fields(parsed(_take(files, "manifest.json"), "manifest.json"), names, "manifest.json")
    if manifest["version"] != VERSION:
        raise ConfigError(f"the bundle has version {str(manifest['version'])[:40]!r}, expected {VERSION}")
    entries = _placed(manifest["entries"], "index")
    beacons = _placed(manifest["beacons"], "size")
    bundle = Bundle(
        log=_key(manifest["log"]),
        witness=None if manifest["witness"] is None else _key(manifest["witness"]),
        head=_take(files, "head.note"),
        items=tuple(Item(i, _take(files, f"entry-{i}.json"), path) for i, path in entries),
        beacons=tuple(Beacon(n, _take(files, f"beacon-{n - 1}.note"), path) for n, path in beacons),
        everything=_everything(files.pop("log.txt")) if "log.txt" in files else None,
        stamps=tuple(files.pop(name) for name in sorted(files) if name.startswith("stamp-")),
    )
    if files:
        raise ConfigError(f"the bundle holds files that it does not name: {', '.join(sorted(files))[:200]}")
    return bundle


def _take(files: dict[str, bytes], name: str) -> bytes:
    if name not in files:
        raise ConfigError(f"the bundle lacks {name}")
    return files.pop(name)


def _key(text: Any) -> Verifier:
    if not isinstance(text, str):
        raise ConfigError("manifest.json: expected public keys as text")
    return Verifier.parse(text)


def _placed(values: Any, name: str) -> list[tuple[int, tuple[bytes, ...]]]:
    """(index or size, path) of each; ConfigError for two of one place."""
    if not isinstance(values, list):
        raise ConfigError(f"manifest.json: expected a list of objects with {name} and path")
    out = []
    for value in values:
        found = fields(value, {name, "path"}, "manifest.json")
        if type(found[name]) is not int or not 0 <= found[name] < 2**53:
            raise ConfigError(f"manifest.json: expected {name} as a whole number")
        out.append((found[name], tuple(merkle.path_of(found["path"], "manifest.json: path"))))
    if len({place for place, _ in out}) != len(out):
        raise ConfigError(f"manifest.json: two have one {name}")
    return out


def _everything(content: bytes) -> tuple[bytes, ...]:
    lines = content.decode("ascii", errors="replace").split("\n")
    entries = tuple(decoded(line) for line in lines[:-1])
    if lines[-1] or not all(entries):
        raise ConfigError("log.txt: expected a line in base64 for each entry")
    return entries
