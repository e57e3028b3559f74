"""Reading data sets: float32 inputs (N, channels, height, width) in [0, 1], int64 labels.

A set is searched in $ASSAY_DATA, in the system's shared folder, then in torchvision's root with a download; the error names
every place. Each is read once per process.
"""

import gzip
import os
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ..core.contracts import Examples
from ..core.errors import ConfigError

SHARED = Path("/usr/share/datasets")


def roots() -> list[Path]:
    mine = [Path(os.environ["ASSAY_DATA"]).expanduser()] if os.environ.get("ASSAY_DATA") else []
    return [*mine, SHARED, Path.home() / ".cache" / "assay" / "data"]


@cache
def digits() -> Examples:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    inputs = torch.from_numpy(bunch.images).to(torch.float32)[:, None] / 16
    return Examples(inputs, torch.from_numpy(bunch.target).to(torch.int64))


def fashion_mnist(train: bool) -> Examples:
    return _fashion_mnist(tuple(roots()), train)


@cache
def _fashion_mnist(places: tuple[Path, ...], train: bool) -> Examples:
    """The four published idx .gz files, read directly."""
    stem = "train" if train else "t10k"
    names = (f"{stem}-images-idx3-ubyte.gz", f"{stem}-labels-idx1-ubyte.gz")
    tried = [folder for root in places for folder in (root / "fashion-mnist", root / "FashionMNIST" / "raw", root)]
    for folder in tried:
        if all((folder / name).is_file() for name in names):
            images, labels = (_idx(folder / name) for name in names)
            inputs = torch.from_numpy(images).to(torch.float32)[:, None] / 255
            return Examples(inputs, torch.from_numpy(labels).to(torch.int64))
    from torchvision.datasets import FashionMNIST

    try:
        FashionMNIST(str(places[-1]), train=train, download=True)
    except (OSError, RuntimeError) as error:
        raise _missing("Fashion-MNIST", tried, "apt install dataset-fashion-mnist", error) from None
    return _fashion_mnist.__wrapped__(places, train)


def _idx(path: Path) -> NDArray[np.uint8]:
    """The idx format: two zero bytes, the type (8: unsigned byte), the rank, one big-endian size per axis, the data."""
    raw = gzip.decompress(path.read_bytes())
    if raw[:3] != b"\x00\x00\x08":
        raise ConfigError(f"{path} is not an idx file of unsigned bytes; delete it and fetch it again")
    sizes = np.frombuffer(raw, ">u4", count=raw[3], offset=4)
    content = np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3])
    if content.size != int(np.prod(sizes)):
        raise ConfigError(f"{path} is truncated: {content.size} bytes of {int(np.prod(sizes))}; fetch it again")
    return content.reshape(tuple(int(s) for s in sizes)).copy()


def cifar(classes: int, train: bool) -> Examples:
    return _cifar(tuple(roots()), classes, train)


@cache
def _cifar(places: tuple[Path, ...], classes: int, train: bool) -> Examples:
    """torchvision's reader checks the published digests before it unpickles anything."""
    from torchvision.datasets import CIFAR10, CIFAR100

    kind = {10: CIFAR10, 100: CIFAR100}[classes]
    found = [root for root in places if (root / kind.base_folder).is_dir()]
    try:
        dataset = kind(str(found[0] if found else places[-1]), train=train, download=not found)
    except (OSError, RuntimeError) as error:
        tried = [root / kind.base_folder for root in places]
        raise _missing(f"CIFAR-{classes}", tried, f"put {kind.base_folder}/ into $ASSAY_DATA", error) from None
    inputs = torch.from_numpy(dataset.data).permute(0, 3, 1, 2).to(torch.float32) / 255
    return Examples(inputs.contiguous(), torch.tensor(dataset.targets, dtype=torch.int64))


def _missing(what: str, tried: list[Path], remedy: str, error: Exception) -> ConfigError:
    places = "\n".join(f"  {place}" for place in tried)
    return ConfigError(
        f"{what} was found in none of\n{places}\nand could not be downloaded ({str(error).splitlines()[0][:120]}).\n"
        f"To mend it: {remedy}, or set ASSAY_DATA=FOLDER, or use task=digits."
    )
