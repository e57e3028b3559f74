"""Bundles as files: one zip or one folder of small files with plain names. What a stranger made is read within fixed limits, and
nothing is ever unpacked to disk.
"""

import io
import re
import stat
import struct
import zipfile
import zlib
from pathlib import Path

from ..core.atomic import write_atomically
from ..core.errors import ConfigError

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,60}\.(json|note|tsr|pem|txt)")
MEMBERS, MEMBER, TOTAL = 256, 2**22, 2**24
"""Files, bytes of a file, bytes in all."""
BROKEN = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    NotImplementedError,
    RuntimeError,
    EOFError,
    OSError,
    ValueError,
)
"""What zipfile raises for damaged archives."""
FORMS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
FIRST = (1980, 1, 1, 0, 0, 0)  # zip's oldest date: equal contents, equal bundles


def write(path: Path, files: dict[str, bytes]) -> None:
    """A zip with these files; ConfigError for what `read` would refuse."""
    _admit([(name, len(content)) for name, content in files.items()], path)
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in sorted(files.items()):
            archive.writestr(zipfile.ZipInfo(name, FIRST), content, zipfile.ZIP_DEFLATED)
    write_atomically(path, target.getvalue())


def read(path: Path) -> dict[str, bytes]:
    """Contents by name. ConfigError for other names (paths among them), links, too many or too large files, damaged archives."""
    if path.is_dir():
        return _folder(path)
    if not path.is_file():
        raise ConfigError(f"expected a bundle at {path}, found nothing")
    if path.stat().st_size > TOTAL:
        raise ConfigError(f"{path} is larger than any bundle ({TOTAL} bytes)")
    try:
        with zipfile.ZipFile(path) as archive:
            return _archive(archive, path)
    except BROKEN as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{path} is no whole zip archive: {error}") from None


def _archive(archive: zipfile.ZipFile, path: Path) -> dict[str, bytes]:
    members = archive.infolist()
    _admit([(member.filename, member.file_size) for member in members], path)
    files = {}
    for member in members:
        mode = member.external_attr >> 16
        plain = not stat.S_IFMT(mode) or stat.S_ISREG(mode)
        if member.flag_bits & 1 or member.compress_type not in FORMS or not plain:
            raise ConfigError(
                f"{path}: {member.filename!r} is encrypted, packed in an unusual way, or no plain file"
            )
        with archive.open(member) as file:
            content = file.read(member.file_size + 1)  # what the header promises is not believed
        if len(content) != member.file_size:
            raise ConfigError(f"{path}: {member.filename} has another size than it says")
        files[member.filename] = content
    return files


def _folder(path: Path) -> dict[str, bytes]:
    found = sorted(path.iterdir())
    for file in found:
        if file.is_symlink() or not file.is_file():
            raise ConfigError(f"{path}: {file.name!r} is no plain file")
    _admit([(file.name, file.stat().st_size) for file in found], path)
    return {file.name: file.read_bytes() for file in found}


def _admit(members: list[tuple[str, int]], path: Path) -> None:
    if len(members) > MEMBERS:
        raise ConfigError(f"{path}: expected at most {MEMBERS} files, found {len(members)}")
    for name, size in members:
        if not NAME.fullmatch(name):
            raise ConfigError(f"{path}: {name[:80]!r} is no name of a file in a bundle")
        if size > MEMBER:
            raise ConfigError(f"{path}: {name} has {size} bytes, at most {MEMBER} are read")
    if sum(size for _, size in members) > TOTAL:
        raise ConfigError(f"{path}: more than {TOTAL} bytes in all")
    if len({name for name, _ in members}) != len(members):
        raise ConfigError(f"{path}: two files have one name")
