"""Trained models, kept by the content of what made them and shared by every trial that needs them.

The name of an entry is the hash of its resolved configuration, of the code that made it, and of the libraries
that computed it; so nothing stale is ever read. A lock per entry lets concurrent processes train each model
once; files appear whole.
"""

import hashlib
import json
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock
from torch import nn

from ..core.errors import ConfigError
from ..core.key import Key
from ..zoo.files import load_key, load_model, load_tensors, save_key, save_model
from .config import digest

ROOT = Path(__file__).resolve().parent.parent
SHARED_CODE = ("core/*.py", "kernels/*.py", "zoo/*.py", "experiments/people.py")
LIBRARIES = ("torch", "pytorch-lightning", "torchvision", "transformers", "scikit-learn")
K = TypeVar("K", bound=Key)
DAMAGED = (ConfigError, json.JSONDecodeError, KeyError, TypeError)  # an entry is absent, torn or foreign


@cache
def code_digest(*classes: type) -> str:
    """Of the code every training shares, and of the files in which the given classes are written."""
    files = {path for pattern in SHARED_CODE for path in ROOT.glob(pattern)}
    files |= {path for kind in classes for path in written_in(kind)}
    digests = sorted(hashlib.sha256(path.read_bytes()).hexdigest() for path in files)
    return digest(digests)[:16]


def written_in(kind: type) -> set[Path]:
    """The class's file, and those beside it from which it takes base classes or functions."""
    folder = _file(kind.__module__).parent
    found: set[Path] = set()
    waiting = {kind.__module__}
    while waiting:
        name = waiting.pop()
        path = _file(name)
        if path.parent == folder and path not in found:
            found.add(path)
            origins = {str(getattr(value, "__module__", "")) for value in vars(sys.modules[name]).values()}
            waiting |= {origin for origin in origins if getattr(sys.modules.get(origin), "__file__", None)}
    return found


def _file(module: str) -> Path:
    return Path(str(sys.modules[module].__file__)).resolve()


@cache
def library_versions() -> dict[str, str]:
    return {"python": sys.version.split()[0], **{name: version(name) for name in LIBRARIES}}


class Cache:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def model(
        self,
        config: dict[str, Any],
        code: str,
        make: Callable[[], tuple[nn.Module, dict[str, Any]]],
        like: Callable[[], nn.Module],
        wait: bool = True,
    ) -> tuple[nn.Module, dict[str, Any]]:
        """The model and the facts (seconds, steps) of its training: read, or made, kept and then read back.

        `like` builds the network the weights are loaded into. A damaged entry is made again. filelock.Timeout
        at once when another process is making it, unless `wait`."""
        identity = {"config": config, "code": code, "libraries": library_versions()}
        path = self._place("models", identity)
        with suppress(*DAMAGED):  # files appear whole, so reading needs no lock
            return _read(path, like)
        with FileLock(f"{path}.lock", timeout=-1 if wait else 0):
            with suppress(*DAMAGED):  # made while this process waited
                return _read(path, like)
            model, facts = make()
            for torn in path.parent.glob(f".{path.name}.*"):  # of a writer that was killed
                torn.unlink()
            save_model(path, model, {"identity": identity, "facts": facts})
            return _read(path, like)

    def key(
        self, config: dict[str, Any], code: str, kind: type[K], make: Callable[[], tuple[K, dict[str, Any]]]
    ) -> tuple[K, dict[str, Any]]:
        """The same for a simulated owner's key that training or a search made."""
        identity = {"config": config, "code": code, "libraries": library_versions()}
        path = self._place("keys", identity)
        with FileLock(f"{path}.lock"):
            with suppress(*DAMAGED):
                return load_key(path, kind), dict(load_tensors(path, "key")[1]["facts"])
            key, facts = make()
            save_key(path, key, {"identity": identity, "facts": facts})
            return load_key(path, kind), facts

    def _place(self, kind: str, identity: dict[str, Any]) -> Path:
        path = self.folder / kind / f"{digest(identity)[:32]}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


def _read(path: Path, like: Callable[[], nn.Module]) -> tuple[nn.Module, dict[str, Any]]:
    _, header = load_tensors(path, "model")
    return load_model(path, like), dict(header["facts"])
