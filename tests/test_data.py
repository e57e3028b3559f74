"""Every published file format, whole and damaged; no format runs code."""

import gzip
import hashlib
import pickle
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from assay.core.errors import ConfigError
from assay.core.examples import Examples
from assay.zoo import data
from assay.zoo.tasks import Digits, FashionMnist

REAL = data.SHARED / "fashion-mnist"
Made = tuple[NDArray[np.uint8], NDArray[np.uint8]]


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A machine without data sets and without network; the folder is ASSAY_DATA."""

    def unreachable(*_: Any, **__: Any) -> None:
        raise OSError("the network is unreachable")

    mine = tmp_path / "mine"
    mine.mkdir()
    monkeypatch.setattr(data, "SHARED", tmp_path / "shared")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ASSAY_DATA", str(mine))
    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", unreachable)
    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", unreachable)
    yield mine
    data._fashion_mnist.cache_clear()
    data._cifar.cache_clear()


def made(count: int, classes: int, *shape: int, seed: int = 0) -> Made:
    """Random pictures, every class among the labels."""
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(classes), rng.integers(0, classes, count - classes)])
    return rng.integers(0, 256, (count, *shape), dtype=np.uint8), labels.astype(np.uint8)


def idx(content: NDArray[np.uint8]) -> bytes:
    return (
        bytes((0, 0, 8, content.ndim)) + struct.pack(f">{content.ndim}I", *content.shape) + content.tobytes()
    )


def put_fashion_mnist(folder: Path, packed: bool = True) -> Made:
    """A set in the published format, 600 + 50 pictures; returns the training part."""
    folder.mkdir(parents=True, exist_ok=True)
    for stem, count in (("train", 600), ("t10k", 50)):
        images, labels = made(count, 10, 28, 28, seed=count)
        for name, content in ((f"{stem}-images-idx3-ubyte", images), (f"{stem}-labels-idx1-ubyte", labels)):
            raw = idx(content)
            (folder / f"{name}{'.gz' * packed}").write_bytes(gzip.compress(raw) if packed else raw)
    return made(600, 10, 28, 28, seed=600)


def put_cifar(folder: Path, classes: int) -> Made:
    """The binary version, 5 batches of 30 (or one of 300) and a test batch; returns the training part."""
    folder.mkdir(parents=True, exist_ok=True)
    names = {10: [f"data_batch_{i}.bin" for i in range(1, 6)], 100: ["train.bin"]}[classes]
    test = {10: "test_batch.bin", 100: "test.bin"}[classes]
    parts = []
    for seed, name in enumerate([*names, test]):
        pixels, labels = made(3 * classes, classes, 3072, seed=seed)
        coarse = [labels[:, None] // 5] if classes == 100 else []
        (folder / name).write_bytes(np.hstack([*coarse, labels[:, None], pixels]).tobytes())
        parts.append((pixels, labels))
    return np.concatenate([p for p, _ in parts[:-1]]), np.concatenate([y for _, y in parts[:-1]])


def contents(examples: Examples) -> set[bytes]:
    return {picture.numpy().tobytes() for picture in examples.inputs}


@pytest.mark.parametrize("folder", ["", "fashion-mnist", "FashionMNIST/raw"])
@pytest.mark.parametrize("packed", [True, False])
def test_fashion_mnist_is_read_as_published(folder: str, packed: bool, alone: Path) -> None:
    images, labels = put_fashion_mnist(alone / folder, packed)
    train, test = data.fashion_mnist(train=True), data.fashion_mnist(train=False)
    assert torch.equal(train.inputs, torch.from_numpy(images)[:, None].float() / 255)
    assert train.targets.tolist() == labels.tolist()
    assert len(test) == 50


def test_my_folder_comes_before_the_shared_one(alone: Path) -> None:
    put_fashion_mnist(alone)
    (data.SHARED / "fashion-mnist").mkdir(parents=True)
    for path in alone.iterdir():
        (data.SHARED / "fashion-mnist" / path.name).write_bytes(b"not read")
    assert len(data.fashion_mnist(train=True)) == 600


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda raw: raw[: len(raw) // 2],
    "empty": lambda _: b"",
    "a page": lambda _: b"<html>404</html>",
    "data missing": lambda raw: gzip.compress(gzip.decompress(raw)[:-1]),
    "header cut": lambda raw: gzip.compress(gzip.decompress(raw)[:6]),
    "floats": lambda raw: gzip.compress(b"\0\0\x0d" + gzip.decompress(raw)[3:]),
    "other rank": lambda raw: gzip.compress(b"\0\0\x08\x02" + gzip.decompress(raw)[4:]),
    "garbled": lambda raw: raw[:20] + bytes(255 - byte for byte in raw[20:]),
}


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("name", ["train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"])
def test_a_damaged_idx_file_is_named(kind: str, name: str, alone: Path) -> None:
    put_fashion_mnist(alone)
    (alone / name).write_bytes(DAMAGE[kind]((alone / name).read_bytes()))
    with pytest.raises(ConfigError, match=f"{name}.*fetch it again"):
        data.fashion_mnist(train=True)


def test_labels_that_do_not_fit_the_images_are_refused(alone: Path) -> None:
    put_fashion_mnist(alone)
    labels = alone / "train-labels-idx1-ubyte.gz"
    labels.write_bytes(gzip.compress(idx(np.zeros(599, np.uint8))))
    with pytest.raises(ConfigError, match="599 labels, 600 images"):
        data.fashion_mnist(train=True)
    labels.write_bytes(gzip.compress(idx(np.full(600, 10, np.uint8))))
    with pytest.raises(ConfigError, match="below 10, found 10"):
        data.fashion_mnist(train=True)


def test_missing_fashion_mnist_names_every_place_and_the_remedy(alone: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        data.fashion_mnist(train=True)
    for place in (alone, tmp_path / "shared", tmp_path / "home" / ".cache" / "assay" / "data"):
        assert f"{place / 'fashion-mnist'}\n" in str(error.value)
    for remedy in ("apt install dataset-fashion-mnist", "ASSAY_DATA=", "task=digits"):
        assert remedy in str(error.value)
    assert "could not be downloaded" in str(error.value)


def test_a_download_that_leaves_nothing_is_an_error_and_no_endless_search(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("torchvision.datasets.FashionMNIST", lambda *_, **__: None)
    with pytest.raises(ConfigError, match="left no idx files"):
        data.fashion_mnist(train=True)


def test_a_download_is_read_from_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    def downloaded(root: str, train: bool, download: bool) -> None:
        assert download
        put_fashion_mnist(Path(root) / "FashionMNIST" / "raw")

    monkeypatch.setattr("torchvision.datasets.FashionMNIST", downloaded)
    assert len(data.fashion_mnist(train=True)) == 600


@pytest.mark.skipif(
    not REAL.is_dir(), reason="Fashion-MNIST is not installed (apt install dataset-fashion-mnist)"
)
def test_the_real_fashion_mnist_has_7000_pictures_of_each_class(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "SHARED", REAL.parent)
    train, test = data.fashion_mnist(train=True), data.fashion_mnist(train=False)
    assert train.inputs.shape == (60_000, 1, 28, 28)
    assert train.targets.bincount().tolist() == [6000] * 10
    assert test.targets.bincount().tolist() == [1000] * 10
    assert float(train.inputs.mean()) == pytest.approx(FashionMnist.mean, abs=1e-3)
    assert float(train.inputs.std()) == pytest.approx(FashionMnist.std, abs=1e-3)


def test_digits_are_complete_and_normalised_by_their_own_constants() -> None:
    digits = data.digits()
    assert digits.inputs.shape == (1797, 1, 8, 8)
    assert len(contents(digits)) == 1797
    assert float(digits.inputs.mean()) == pytest.approx(Digits.mean, abs=1e-3)
    assert float(digits.inputs.std()) == pytest.approx(Digits.std, abs=1e-3)


@pytest.mark.parametrize(("classes", "folder"), data.CIFAR_BINARY.items())
def test_cifar_binary_is_read_as_published(classes: int, folder: str, alone: Path) -> None:
    pixels, labels = put_cifar(alone / folder, classes)
    train, test = data.cifar(classes, train=True), data.cifar(classes, train=False)
    assert train.targets.tolist() == labels.tolist(), "the fine label of CIFAR-100"
    assert torch.equal(train.inputs, torch.from_numpy(pixels).reshape(-1, 3, 32, 32).float() / 255)
    assert len(test) == 3 * classes
    assert not contents(train) & contents(test)


@pytest.mark.parametrize(("classes", "folder"), data.CIFAR_BINARY.items())
@pytest.mark.parametrize("kind", ["cut", "empty", "absent", "a page"])
def test_a_damaged_cifar_file_is_named(classes: int, folder: str, kind: str, alone: Path) -> None:
    put_cifar(alone / folder, classes)
    path = alone / folder / {10: "data_batch_3.bin", 100: "train.bin"}[classes]
    if kind == "absent":
        path.unlink()
    else:
        path.write_bytes(DAMAGE[kind](path.read_bytes()[:-1]))
    with pytest.raises(ConfigError, match=rf"{path.name}.*truncated.*fetch it again"):
        data.cifar(classes, train=True)


def test_cifar_10_files_are_no_cifar_100(alone: Path) -> None:
    pixels, labels = made(3074, 100, 3072)
    (alone / "cifar-10-batches-bin").mkdir()
    raw = np.hstack([labels[:, None], labels[:, None], pixels]).tobytes()
    (alone / "cifar-10-batches-bin" / "test_batch.bin").write_bytes(raw[: 3073 * 100])
    with pytest.raises(ConfigError, match="expected labels below 10"):
        data.cifar(10, train=False)


@pytest.mark.parametrize("classes", [10, 100])
def test_missing_cifar_names_every_place_and_the_remedy(classes: int, alone: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        data.cifar(classes, train=True)
    for place in (alone, tmp_path / "shared", tmp_path / "home" / ".cache" / "assay" / "data"):
        assert f"{place / data.CIFAR_BINARY[classes]}\n" in str(error.value)
        assert f"{place / data.CIFAR_PICKLED[classes]}\n" in str(error.value)
    assert "ASSAY_DATA=" in str(error.value)


class Bomb:
    """Unpickling it leaves a trace."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.trace,))


def put_pickled(
    folder: Path, classes: int, monkeypatch: pytest.MonkeyPatch | None, bomb: Bomb | None = None
) -> Made:
    """The Python version; its digests are made known to torchvision only with a monkeypatch."""
    from torchvision.datasets import CIFAR10, CIFAR100

    folder.mkdir(parents=True)
    kind = {10: CIFAR10, 100: CIFAR100}[classes]
    pixels, labels = made(2 * classes, classes, 3072)
    batch = {"data": pixels, {10: "labels", 100: "fine_labels"}[classes]: labels.tolist(), "bomb": bomb}
    names = {10: ["data_batch_1", "test_batch"], 100: ["train", "test"]}[classes]
    for name in names:
        (folder / name).write_bytes(pickle.dumps(batch))
    meta = {"filename": "meta", "key": {10: "label_names", 100: "fine_label_names"}[classes]}
    (folder / "meta").write_bytes(pickle.dumps({meta["key"]: [str(i) for i in range(classes)]}))

    def known(name: str) -> list[str]:
        return [name, hashlib.md5((folder / name).read_bytes()).hexdigest()]

    if monkeypatch is not None:
        monkeypatch.setattr(kind, "train_list", [known(names[0])])
        monkeypatch.setattr(kind, "test_list", [known(names[1])])
        monkeypatch.setattr(kind, "meta", {**meta, "md5": known("meta")[1]})
    return pixels, labels


@pytest.mark.parametrize(("classes", "folder"), data.CIFAR_PICKLED.items())
def test_cifar_of_known_digests_is_read_by_torchvision(
    classes: int, folder: str, alone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels, labels = put_pickled(alone / folder, classes, monkeypatch)
    train = data.cifar(classes, train=True)
    assert torch.equal(train.inputs, torch.from_numpy(pixels).reshape(-1, 3, 32, 32).float() / 255)
    assert train.inputs.is_contiguous()
    assert train.targets.tolist() == labels.tolist()


@pytest.mark.parametrize(("classes", "folder"), data.CIFAR_PICKLED.items())
def test_a_pickle_of_unknown_digest_is_never_opened(
    classes: int, folder: str, alone: Path, tmp_path: Path
) -> None:
    put_pickled(alone / folder, classes, None, Bomb(tmp_path / "trace"))
    with pytest.raises(ConfigError, match=f"is not the published CIFAR-{classes}"):
        data.cifar(classes, train=True)
    assert not (tmp_path / "trace").exists()


def test_the_binary_version_comes_before_the_pickled_one(alone: Path, tmp_path: Path) -> None:
    put_pickled(alone / "cifar-10-batches-py", 10, None, Bomb(tmp_path / "trace"))
    put_cifar(alone / "cifar-10-batches-bin", 10)
    assert len(data.cifar(10, train=True)) == 150
    assert not (tmp_path / "trace").exists()
