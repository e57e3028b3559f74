"""Trained models, keys and scores, kept by the content of what made them and shared by every trial that needs them.

The name of an entry is the hash of its resolved configuration, of the code that made it, and of the libraries
that computed it; so nothing stale is ever read. A lock per entry lets concurrent processes train each model
once; files appear whole.
"""

import hashlib
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields
from functools import cache
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor, nn

from ..core.key import Key
from ..core.scores import Scores
from ..zoo.files import load_key, load_model, load_tensors, save_key, save_model, save_tensors
from .config import digest

ROOT = Path(__file__).resolve().parent.parent
ASSAY = __name__.partition(".")[0]
SHARED_CODE = ("core/*.py", "kernels/*.py", "zoo/*.py", "experiments/people.py")
LIBRARIES = ("torch", "pytorch-lightning", "torchvision", "transformers", "scikit-learn")
K = TypeVar("K", bound=Key)
T = TypeVar("T")
# An entry is absent, torn or foreign; a ConfigError is a ValueError.
DAMAGED = (ValueError, LookupError, TypeError)


@cache
def code_digest(*parts: Callable[..., Any]) -> str:
    """Of the code every training shares, and of the files in which the given classes and functions are written."""
    files = shared_code().union(*map(written_in, parts))
    digests = sorted(hashlib.sha256(path.read_bytes()).hexdigest() for path in files)
    return digest(digests)[:16]


def shared_code() -> set[Path]:
    return {path for pattern in SHARED_CODE for path in ROOT.glob(pattern)}


def written_in(part: Callable[..., Any]) -> set[Path]:
    """Its file, and those of Assay and of the file's own folder from which it takes base classes, functions or modules, as
    far as every training does not share them."""
    folder, shared = _file(part.__module__).parent, shared_code()
    found: set[Path] = set()
    waiting = {part.__module__}
    while waiting:
        name = waiting.pop()
        path = _file(name)
        ours = path.parent == folder or name.startswith(f"{ASSAY}.")
        if ours and path not in found | shared:
            found.add(path)
            origins = {_origin(value) for value in vars(sys.modules[name]).values()}
            waiting |= {origin for origin in origins if getattr(sys.modules.get(origin), "__file__", None)}
    return found


def _origin(value: object) -> str:
    """The module that a name comes from."""
    return value.__name__ if isinstance(value, ModuleType) else str(getattr(value, "__module__", ""))


def _file(module: str) -> Path:
    return Path(str(sys.modules[module].__file__)).resolve()


@cache
def library_versions() -> dict[str, str]:
    return {"python": sys.version.split()[0], **{name: version(name) for name in LIBRARIES}}


class Cache:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def kept(
        self,
        kind: str,
        config: dict[str, Any],
        code: str,
        read: Callable[[Path], T],
        make: Callable[[Path, dict[str, Any]], T],
        wait: bool = True,
    ) -> T:
        """What `read` finds in the entry, else what `make` makes and writes there with its identity. A damaged entry is made
        again. filelock.Timeout at once when another process is making it, unless `wait`."""
        identity = {"config": config, "code": code, "libraries": library_versions()}
        path = self._place(kind, identity)
        with suppress(*DAMAGED):  # files appear whole, so reading needs no lock
            return read(path)
        with FileLock(f"{path}.lock", timeout=-1 if wait else 0):
            with suppress(*DAMAGED):  # made while this process waited
                return read(path)
            for torn in path.parent.glob(f".{path.name}.*"):  # of a writer that was killed
                torn.unlink()
            return make(path, identity)

    def model(
        self,
        config: dict[str, Any],
        code: str,
        make: Callable[[], tuple[nn.Module, dict[str, Any]]],
        like: Callable[[], nn.Module],
        wait: bool = True,
    ) -> tuple[nn.Module, dict[str, Any]]:
        """A model and the facts (seconds, steps) of its training; `like` builds the network its weights are loaded into."""

        def read(path: Path) -> tuple[nn.Module, dict[str, Any]]:
            _, header = load_tensors(path, "model")
            return load_model(path, like), dict(header["facts"])

        def write(path: Path, identity: dict[str, Any]) -> tuple[nn.Module, dict[str, Any]]:
            model, facts = make()
            save_model(path, model, {"identity": identity, "facts": facts})
            return read(path)

        return self.kept("models", config, code, read, write, wait)

    def key(
        self, config: dict[str, Any], code: str, kind: type[K], make: Callable[[], tuple[K, dict[str, Any]]]
    ) -> tuple[K, dict[str, Any]]:
        """The same for a simulated owner's key that training or a search made."""

        def read(path: Path) -> tuple[K, dict[str, Any]]:
            return load_key(path, kind), dict(load_tensors(path, "key")[1]["facts"])

        def write(path: Path, identity: dict[str, Any]) -> tuple[K, dict[str, Any]]:
            key, facts = make()
            save_key(path, key, {"identity": identity, "facts": facts})
            return read(path)

        return self.kept("keys", config, code, read, write)

    def scores(self, config: dict[str, Any], code: str, make: Callable[[], Scores]) -> Scores:
        """A part of a verification matrix."""

        def read(path: Path) -> Scores:
            tensors, header = load_tensors(path, "scores")
            values: dict[str, Any] = {name: tensor.numpy() for name, tensor in tensors.items()}
            return Scores(**values, **header["plain"])

        def write(path: Path, identity: dict[str, Any]) -> Scores:
            scores = make()
            values = {f.name: getattr(scores, f.name) for f in fields(scores)}
            arrays = {n: torch.from_numpy(v) for n, v in values.items() if isinstance(v, np.ndarray)}
            plain = {n: v for n, v in values.items() if not isinstance(v, np.ndarray)}
            save_tensors(path, "scores", arrays, {"identity": identity, "plain": plain})
            return read(path)

        return self.kept("scores", config, code, read, write)

    def answers(self, config: dict[str, Any], code: str, make: Callable[[], Tensor]) -> Tensor:
        """Labels or texts of a model."""

        def read(path: Path) -> Tensor:
            return load_tensors(path, "answers")[0]["answers"]

        def write(path: Path, identity: dict[str, Any]) -> Tensor:
            save_tensors(path, "answers", {"answers": make()}, {"identity": identity})
            return read(path)

        return self.kept("answers", config, code, read, write)

    def facts(self, config: dict[str, Any], code: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What was measured of a model and is the same for every trial."""

        def read(path: Path) -> dict[str, Any]:
            return dict(load_tensors(path, "facts")[1]["facts"])

        def write(path: Path, identity: dict[str, Any]) -> dict[str, Any]:
            save_tensors(path, "facts", {}, {"identity": identity, "facts": make()})
            return read(path)

        return self.kept("facts", config, code, read, write)

    def _place(self, kind: str, identity: dict[str, Any]) -> Path:
        path = self.folder / kind / f"{digest(identity)[:32]}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path
