"""Works from files: which kind a file is, its fingerprint, and the digest that names it."""

import csv
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...core.errors import ConfigError
from ...evidence import works_audio, works_image, works_text
from ...evidence.registry import Print
from ...evidence.works import KINDS

SUFFIXES = {
    "text": (".txt", ".md"),
    "labels": (".csv", ".tsv"),
    "image": (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"),
    "audio": (".wav", ".mp3", ".flac", ".ogg", ".m4a"),
}
PIXELS = 10**8  # of a picture at most: what unpacks to more is a bomb


@dataclass(frozen=True)
class Work:
    """id: SHA-256 over kind and contents, in hexadecimal."""

    id: str
    kind: str
    path: Path
    print: Print


def read(path: Path, kind: str | None = None, every: int = 1) -> Work:
    """A file, or a folder of frames (video) or of texts. ConfigError for what cannot be read as its kind."""
    if not path.exists():
        raise ConfigError(f"expected a work, found nothing at {path}")
    kind = kind or kind_of(path)
    if every < 1:
        raise ConfigError(f"expected --every of at least 1, got {every}")
    if kind not in KINDS:
        raise ConfigError(f"expected --kind {', '.join(KINDS)}, got {kind!r}")
    digest = hashlib.sha256(f"assay/content/v1/{kind}".encode())
    for file in files(path):
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return Work(digest.hexdigest(), kind, path, Print(kind, "", fingerprint(path, kind, every)))


def kind_of(path: Path) -> str:
    """By the file's ending; of a folder, by those of its files."""
    endings = {file.suffix.lower() for file in files(path)}
    found = [kind for kind, known in SUFFIXES.items() if endings <= set(known)]
    if len(found) != 1:
        raise ConfigError(f"cannot tell what {path} is; name it with --kind {', '.join(KINDS)}")
    return "video" if found == ["image"] and path.is_dir() else found[0]


def files(path: Path) -> list[Path]:
    """The file, or those of a folder in the order of their names."""
    found = sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]
    if not found:
        raise ConfigError(f"expected a work, {path} is an empty folder")
    return found


def fingerprint(path: Path, kind: str, every: int) -> bytes:
    if path.is_dir() and kind not in ("video", "text"):
        raise ConfigError(f"expected a file for kind {kind}, {path} is a folder; add its files one by one")
    if kind == "text":
        return works_text.fingerprint("\n".join(_text(file) for file in files(path)))
    if kind == "labels":
        return works_text.table_fingerprint(_rows(path))
    if kind == "audio":
        return works_audio.fingerprint(path)
    if kind == "image":
        return works_image.fingerprint(picture(path))
    return works_image.video_fingerprint((picture(file) for file in files(path)), every)


def picture(path: Path) -> works_image.Picture:
    """(H, W, 3) uint8."""
    from PIL import Image

    broken = OSError, ValueError, Image.DecompressionBombError, Image.DecompressionBombWarning
    try:
        with Image.open(path) as image:
            if image.width * image.height > PIXELS:
                raise ConfigError(f"{path} has {image.width} x {image.height} pixels, expected at most 1e8")
            return np.asarray(image.convert("RGB"), dtype=np.uint8)
    except ConfigError:
        raise
    except broken as error:
        raise ConfigError(f"{path} is no picture: {error}") from None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is no text in UTF-8: {error}") from None


def _rows(path: Path) -> Iterator[tuple[str, str]]:
    """A table without a head: the input's name or digest, and its label."""
    table = csv.reader(_text(path).splitlines(), delimiter="\t" if path.suffix == ".tsv" else ",")
    try:
        for number, row in enumerate(table, 1):
            if len(row) != 2:
                raise ConfigError(
                    f"{path}, line {number}: expected an input and its label, got {len(row)} cells"
                )
            yield row[0].strip(), row[1].strip()
    except csv.Error as error:
        raise ConfigError(f"{path}, line {table.line_num}: {error}") from None
