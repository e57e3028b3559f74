"""Files that are whole or absent: written beside their place and moved there at once."""

import os
import secrets
from pathlib import Path

CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)


def write_atomically(path: Path, content: bytes, private: bool = False) -> None:
    """All or nothing; OSError (a full disk, say) leaves no trace. A folder or a device (/dev/null) is refused: a rename would take
    its place. `private`: readable by the owner alone."""
    if path.exists() and not path.is_file():
        raise OSError(f"expected a file or nothing at {path}, found a folder or a device")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{secrets.token_hex(8)}"
    # The system applies the umask: to read it is to set it, for every thread of the process.
    handle = os.open(temporary, CREATE, 0o600 if private else 0o666)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
