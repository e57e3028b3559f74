"""Reading data sets: float32 inputs (N, channels, height, width) in [0, 1], int64 labels.

A set is searched in $ASSAY_DATA, in the system's shared folder, then in Assay's own cache, into which
torchvision downloads it; the error names every place. Each is read once per process. Reading runs no code:
idx and binary files are parsed here, and torchvision compares the published digests before it unpickles.
"""

import gzip
import math
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray

from ..core.errors import ConfigError
from ..core.examples import Examples

SHARED = Path("/usr/share/datasets")
CIFAR_BINARY = {10: "cifar-10-batches-bin", 100: "cifar-100-binary"}
CIFAR_PICKLED = {10: "cifar-10-batches-py", 100: "cifar-100-python"}


def roots() -> list[Path]:
    mine = [Path(os.environ["ASSAY_DATA"]).expanduser()] if os.environ.get("ASSAY_DATA") else []
    return [*mine, SHARED, Path.home() / ".cache" / "assay" / "data"]


@cache
def digits() -> Examples:
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    inputs = torch.from_numpy(bunch.images).to(torch.float32)[:, None] / 16
    return Examples(inputs, torch.from_numpy(bunch.target).to(torch.int64))


def fashion_mnist(train: bool) -> Examples:
    return _fashion_mnist(tuple(roots()), train)


@cache
def _fashion_mnist(places: tuple[Path, ...], train: bool) -> Examples:
    """The published idx files, as they are (.gz) or unpacked."""
    stem = "train" if train else "t10k"
    names = (f"{stem}-images-idx3-ubyte", f"{stem}-labels-idx1-ubyte")
    tried = [root / folder for root in places for folder in ("fashion-mnist", "FashionMNIST/raw", "")]
    files = _together(tried, names)
    if files is None:
        from torchvision.datasets import FashionMNIST

        with _download(places[-1], "Fashion-MNIST", tried, "apt install dataset-fashion-mnist"):
            FashionMNIST(str(places[-1]), train=train, download=True)
            files = _together(tried, names)
            if files is None:
                raise FileNotFoundError("the download left no idx files")
    images_NHW, labels_N = _idx(files[0], 3), _idx(files[1], 1)
    return _examples(images_NHW[:, None], labels_N, 10, files[1])


def _together(folders: Sequence[Path], names: Sequence[str]) -> list[Path] | None:
    """The files of these names, packed or not, in the first folder that holds them all."""
    for folder in folders:
        versions = [(folder / f"{name}.gz", folder / name) for name in names]
        found = [next((path for path in pair if path.is_file()), None) for pair in versions]
        files = [path for path in found if path is not None]
        if len(files) == len(names):
            return files
    return None


def _idx(path: Path, rank: int) -> NDArray[np.uint8]:
    """The idx format: two zero bytes, the type (8: unsigned byte), the rank, big-endian sizes, the data."""
    raw = _bytes(path)
    if raw[:4] != bytes((0, 0, 8, rank)):
        raise ConfigError(f"{path} is no idx file of unsigned bytes with {rank} axes; fetch it again")
    start = 4 + 4 * rank
    sizes = struct.unpack_from(f">{rank}I", raw.ljust(start, b"\xff"), 4)
    whole = start + math.prod(sizes)
    if len(raw) != whole:
        raise ConfigError(f"{path} is truncated or damaged: {len(raw)} bytes of {whole}; fetch it again")
    return np.frombuffer(raw, np.uint8, offset=start).reshape(sizes)


def _bytes(path: Path) -> bytes:
    try:
        raw = path.read_bytes()
        return gzip.decompress(raw) if raw.startswith(b"\x1f\x8b") else raw
    except (OSError, EOFError, zlib.error) as error:
        raise ConfigError(f"{path} is missing, truncated or damaged ({error}); fetch it again") from None


def _examples(
    pixels_NCHW: NDArray[np.uint8], labels_N: NDArray[np.uint8], classes: int, where: Path
) -> Examples:
    if len(pixels_NCHW) != len(labels_N):
        raise ConfigError(f"{where}: {len(labels_N)} labels, {len(pixels_NCHW)} images; fetch both again")
    if labels_N.max(initial=0) >= classes:
        raise ConfigError(f"{where}: expected labels below {classes}, found {labels_N.max()}; another set?")
    inputs = torch.from_numpy(pixels_NCHW.astype(np.float32)).div_(255)
    return Examples(inputs, torch.from_numpy(labels_N.astype(np.int64)))


def cifar(classes: int, train: bool) -> Examples:
    return _cifar(tuple(roots()), classes, train)


@cache
def _cifar(places: tuple[Path, ...], classes: int, train: bool) -> Examples:
    """The binary version where there is one, else the Python version, else a download of the latter."""
    binary, pickled = CIFAR_BINARY[classes], CIFAR_PICKLED[classes]
    for root in places:
        if (root / binary).is_dir():
            return _cifar_binary(root / binary, classes, train)
        if (root / pickled).is_dir() and root != places[-1]:
            try:
                return _cifar_pickled(root, classes, train, download=False)
            except (OSError, RuntimeError) as error:
                raise ConfigError(
                    f"{root / pickled} is not the published CIFAR-{classes} ({error}); "
                    f"fetch it again, or put {binary}/ beside it"
                ) from None
    tried = [root / name for root in places for name in (binary, pickled)]
    with _download(places[-1], f"CIFAR-{classes}", tried, f"put {binary}/ into $ASSAY_DATA"):
        return _cifar_pickled(places[-1], classes, train, download=True)


def _cifar_binary(folder: Path, classes: int, train: bool) -> Examples:
    """Records of one label byte (two in CIFAR-100: coarse, then fine), 3,072 pixels, channel by channel."""
    batches = tuple(f"data_batch_{i}.bin" for i in range(1, 6))
    names = {10: ("test_batch.bin", *batches), 100: ("test.bin", "train.bin")}[classes]
    labels = {10: 1, 100: 2}[classes]
    parts = [_records(folder / name, labels + 3072) for name in (names[1:] if train else names[:1])]
    records = np.concatenate(parts)
    return _examples(records[:, labels:].reshape(-1, 3, 32, 32), records[:, labels - 1], classes, folder)


def _records(path: Path, size: int) -> NDArray[np.uint8]:
    raw = _bytes(path)
    if not raw or len(raw) % size:
        raise ConfigError(
            f"{path} is truncated: {len(raw)} bytes, expected records of {size}; fetch it again"
        )
    return np.frombuffer(raw, np.uint8).reshape(-1, size)


def _cifar_pickled(root: Path, classes: int, train: bool, download: bool) -> Examples:
    from torchvision.datasets import CIFAR10, CIFAR100

    dataset = {10: CIFAR10, 100: CIFAR100}[classes](str(root), train=train, download=download)
    pixels_NCHW = dataset.data.transpose(0, 3, 1, 2)
    labels_N = np.array(dataset.targets, np.uint8)
    return _examples(np.ascontiguousarray(pixels_NCHW), labels_N, classes, root / CIFAR_PICKLED[classes])


@contextmanager
def _download(folder: Path, what: str, tried: list[Path], remedy: str) -> Iterator[None]:
    """One process at a time; ConfigError names every place when the set cannot be had."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "download.lock"):
            yield
    except (OSError, RuntimeError) as error:
        places = "\n".join(f"  {place}" for place in tried)
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise ConfigError(
            f"{what} was found in none of\n{places}\nand could not be downloaded ({reason}).\n"
            f"To mend it: {remedy}, or set ASSAY_DATA=FOLDER, or use task=digits."
        ) from None
