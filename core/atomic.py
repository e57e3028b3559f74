"""Files that are whole or absent: written beside their place and moved there at once."""

import os
import tempfile
from pathlib import Path


def write_atomically(path: Path, content: bytes, private: bool = False) -> None:
    """All or nothing; OSError (a full disk, say) leaves no trace. `private`: readable by the owner alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if not private:
            umask = os.umask(0)
            os.umask(umask)
            Path(name).chmod(0o666 & ~umask)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
