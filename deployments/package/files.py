"""Large files that are whole or absent, written piece by piece; and the check that one is safetensors."""

import json
import os
import secrets
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from safetensors import SafetensorError, safe_open

from ...core.atomic import CREATE


@contextmanager
def whole(path: Path, private: bool = False) -> Iterator[tuple[BinaryIO, Path]]:
    """A file beside its place, and where it stands; moved to its place at the end of the block, removed when the block fails. A
    process that is killed leaves it under its hidden name, never under the final one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{secrets.token_hex(8)}"
    handle = os.open(temporary, CREATE, 0o600 if private else 0o666)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file, temporary
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def metadata(content: bytes) -> dict[str, str]:
    """Of a safetensors file that was read already: its length (u64, little-endian) and the JSON header."""
    (length,) = struct.unpack_from("<Q", content)
    found: dict[str, str] = json.loads(content[8 : 8 + length]).get("__metadata__", {})
    return found


def why_no_model(path: Path) -> str | None:
    """Why a file is not whole safetensors, None where it is. Nothing but its header is read, and nothing in it is run."""
    try:
        with safe_open(str(path), framework="pt") as file:
            kind = (file.metadata() or {}).get("kind")
    except (SafetensorError, OSError, ValueError) as error:
        return f"no whole safetensors file ({error}); a package holds nothing else, so that opening one runs no code"
    return "a key, which is not handed out" if kind == "key" else None
