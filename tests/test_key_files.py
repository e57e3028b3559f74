"""Keys and models on disk: what was saved comes back, what is damaged or hostile is refused and never run."""

import errno
import json
import os
import pickle
import stat
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save, save_file
from torch import Tensor, nn

from assay.core.atomic import write_atomically
from assay.core.errors import ConfigError
from assay.core.key import Key
from assay.core.secret import Secret
from assay.watermarks.fingerprint import QueryKey
from assay.watermarks.stack import StackKey
from assay.watermarks.trigger import TriggerKey
from assay.watermarks.uchida import ProjectionKey
from assay.zoo.files import load_key, load_model, load_tensors, save_key, save_model, save_tensors

SECRET = Secret(bytes(range(7, 39)))
PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


def projection_key(secret: Secret = SECRET) -> ProjectionKey:
    return ProjectionKey(secret, "net.conv", "random", 9, secret.bits("b", 31))


def trigger_key(secret: Secret = SECRET) -> TriggerKey:
    images = (secret.images("i", 7, 1, 5, 5) * 255).round().to(torch.uint8)
    return TriggerKey(secret, 10, images, secret.integers("l", 7, 10))


def query_key(secret: Secret = SECRET) -> QueryKey:
    return QueryKey(secret, secret.images("q", 3, 1, 5, 5), secret.integers("l", 3, 10))


KEYS: list[Callable[..., Key]] = [projection_key, trigger_key, query_key, Key]


def make(kind: Callable[..., Key], secret: Secret = SECRET) -> Key:
    return kind(secret)


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3, 2))


def trained() -> nn.Module:
    torch.manual_seed(5)
    model = network()
    model(torch.rand(4, 1, 3, 3))  # batch norm has statistics of its own
    return model.eval()


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- keys come back


@pytest.mark.parametrize("kind", KEYS)
def test_a_key_comes_back(kind: Callable[..., Key], tmp_path: Path) -> None:
    key, path = make(kind), tmp_path / "a" / "key.safetensors"
    save_key(path, key, {"watermark": {"name": "x"}})
    back = load_key(path, type(key))
    assert type(back) is type(key)
    assert back.secret == key.secret
    assert back.fingerprint == key.fingerprint
    assert back.plain() == key.plain()
    assert back.tensors().keys() == key.tensors().keys()
    for name, tensor in key.tensors().items():
        assert back.tensors()[name].dtype == tensor.dtype
        assert torch.equal(back.tensors()[name], tensor)
    _, header = load_tensors(path, "key")
    assert header["watermark"] == {"name": "x"}


def test_a_loaded_key_verifies_as_the_saved_one(tmp_path: Path) -> None:
    path = tmp_path / "key.safetensors"
    save_key(path, projection_key(), {})
    assert torch.equal(load_key(path, ProjectionKey).matrix(), projection_key().matrix())


@pytest.mark.parametrize("kind", KEYS)
def test_a_key_file_is_the_owners_alone(kind: Callable[..., Key], tmp_path: Path) -> None:
    path = tmp_path / "key.safetensors"
    path.write_bytes(b"an older file that anybody may read")
    path.chmod(0o644)
    save_key(path, make(kind), {})
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert files_in(tmp_path) == ["key.safetensors"]


@pytest.mark.parametrize("kind", KEYS)
def test_a_key_is_never_shown(kind: Callable[..., Key]) -> None:
    key = make(kind)
    for thing in (key, [key], (key,), {"key": key}, {key: 1}):
        for shown in (repr(thing), str(thing), f"{thing}", f"{thing!r:>300}"):
            assert SECRET.raw.hex() not in shown
            assert repr(SECRET.raw)[2:12] not in shown
            assert f"{type(key).__name__}(fingerprint={key.fingerprint})" in shown
            assert "tensor" not in shown
    assert SECRET.raw.hex() not in key.fingerprint
    assert key.fingerprint != SECRET.fingerprint


def test_a_key_type_with_its_own_repr_still_shows_nothing() -> None:
    @dataclass(frozen=True, eq=False)
    class Talkative(Key):
        bits_B: Tensor

        def __repr__(self) -> str:
            return self.secret.raw.hex()

    assert SECRET.raw.hex() not in repr(Talkative(SECRET, torch.ones(3)))


# --- fingerprints


def test_a_fingerprint_depends_on_every_field() -> None:
    bits = SECRET.bits("b", 31)
    flipped = bits.clone()
    flipped[-1] ^= 1
    keys = [
        projection_key(),
        ProjectionKey(Secret(bytes(32)), "net.conv", "random", 9, bits),
        ProjectionKey(SECRET, "net.other", "random", 9, bits),
        ProjectionKey(SECRET, "net.conv", "diff", 9, bits),
        ProjectionKey(SECRET, "net.conv", "random", 10, bits),
        ProjectionKey(SECRET, "net.conv", "random", 9, flipped),
        ProjectionKey(SECRET, "net.conv", "random", 9, bits[:-1]),
        ProjectionKey(SECRET, "net.conv", "random", 9, bits[:, None]),
        ProjectionKey(SECRET, "net.conv", "random", 9, bits.to(torch.int8)),
    ]
    assert len({key.fingerprint for key in keys}) == len(keys)
    assert projection_key().fingerprint == projection_key().fingerprint


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.bool, torch.int64])
def test_fingerprints_of_every_dtype_and_layout(dtype: torch.dtype) -> None:
    values = torch.arange(6).reshape(2, 3).to(dtype)
    transposed = values.T.contiguous().T  # the same values in another order in memory
    assert not transposed.is_contiguous()
    one, other = QueryKey(SECRET, values, torch.tensor(3)), QueryKey(SECRET, transposed, torch.tensor(3))
    assert one.fingerprint == other.fingerprint
    assert one.fingerprint != QueryKey(SECRET, 1 - values.float(), torch.tensor(3)).fingerprint


def test_a_fingerprint_survives_json() -> None:
    """A tuple comes back from a file as a list: the same key."""

    @dataclass(frozen=True, eq=False)
    class Shaped(Key):
        shape: Any

    assert Shaped(SECRET, (1, 2.5)).fingerprint == Shaped(SECRET, [1, 2.5]).fingerprint
    assert Shaped(SECRET, (1, 2.5)).fingerprint != Shaped(SECRET, [1, 3]).fingerprint


# --- the wrong file


def test_the_wrong_kind_of_key_names_both(tmp_path: Path) -> None:
    path = tmp_path / "key.safetensors"
    save_key(path, trigger_key(), {})
    with pytest.raises(ConfigError, match=r"expected a ProjectionKey.*holds a TriggerKey"):
        load_key(path, ProjectionKey)


def test_a_model_is_no_key(tmp_path: Path) -> None:
    save_model(tmp_path / "model.safetensors", trained(), {})
    with pytest.raises(ConfigError, match="not a key file of Assay, but model"):
        load_key(tmp_path / "model.safetensors", ProjectionKey)
    save_file({"bits_B": torch.ones(3)}, tmp_path / "foreign.safetensors")
    with pytest.raises(ConfigError, match="foreign safetensors"):
        load_key(tmp_path / "foreign.safetensors", ProjectionKey)


def test_a_key_is_no_model(tmp_path: Path) -> None:
    save_key(tmp_path / "key.safetensors", trigger_key(), {})
    with pytest.raises(ConfigError, match="does not fit the network") as caught:
        load_model(tmp_path / "key.safetensors", network)
    assert SECRET.raw.hex() not in str(caught.value)


def test_no_file_is_a_configuration_error(tmp_path: Path) -> None:
    for path in (tmp_path / "nothing.safetensors", tmp_path):
        with pytest.raises(ConfigError, match="found nothing"):
            load_key(path, ProjectionKey)
        with pytest.raises(ConfigError, match="found nothing"):
            load_model(path, network)


def refused(path: Path, content: bytes) -> str:
    """The one message with which both a key and a model are refused."""
    path.write_bytes(content)
    with pytest.raises(ConfigError) as as_key:
        load_key(path, TriggerKey)
    with pytest.raises(ConfigError) as as_model:
        load_model(path, network)
    assert str(path) in str(as_key.value)
    assert str(path) in str(as_model.value)
    return str(as_key.value)


def test_a_truncated_file_is_refused_at_every_length(tmp_path: Path) -> None:
    path = tmp_path / "key.safetensors"
    save_key(path, trigger_key(), {})
    whole = path.read_bytes()
    for length in (0, 1, 7, 8, 9, 100, len(whole) // 2, len(whole) - 1):
        assert "truncated" in refused(path, whole[:length])
    assert "truncated" in refused(path, whole + b"x")


def test_random_bytes_are_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for size in (1, 8, 9, 64, 5000):
        assert "safetensors" in refused(tmp_path / "noise", b"\x00" + rng.bytes(size))
    huge_header = (2**62).to_bytes(8, "little") + b"{}"
    assert "safetensors" in refused(tmp_path / "huge", huge_header)


# --- pickles are never opened


class Bomb:
    """Unpickling it creates a file."""

    def __init__(self, target: Path) -> None:
        self.target = str(target)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.target,)


def test_the_bomb_would_go_off(tmp_path: Path) -> None:
    """Or the tests below would prove nothing."""
    pickle.loads(pickle.dumps(Bomb(tmp_path / "hit")))
    assert files_in(tmp_path) == ["hit"]


def write_pickle(path: Path, content: object, how: str, protocol: int) -> None:
    """As torch.save writes it, in a zip or in its old way, or a pickle alone."""
    if how == "bare":
        path.write_bytes(pickle.dumps(content, protocol))
    else:
        zipped = how == "zip"
        torch.save(content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("how", ["zip", "legacy", "bare"])
def test_a_pickle_is_refused_and_never_run(how: str, protocol: int, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    write_pickle(path, {"a": torch.ones(2), "b": Bomb(tmp_path / "hit")}, how, protocol)
    refused(path, path.read_bytes())
    assert files_in(tmp_path) == ["model.safetensors"]


def unmarked(how: str, protocol: int) -> bool:
    """Protocols 0 and 1 begin with no mark of their own."""
    return how != "zip" and protocol < 2


CALLED = [(how, protocol) for how in ("zip", "legacy", "bare") for protocol in PROTOCOLS]


def says_pickle(path: Path, how: str, protocol: int) -> None:
    write_pickle(path, {"a": torch.ones(2)}, how, protocol)
    message = refused(path, path.read_bytes())
    assert "is a pickle" in message
    assert "safetensors.torch.save_file" in message, "the message says how to mend it"


@pytest.mark.parametrize(("how", "protocol"), [pair for pair in CALLED if not unmarked(*pair)])
def test_a_pickle_is_called_one(how: str, protocol: int, tmp_path: Path) -> None:
    says_pickle(tmp_path / "model.pt", how, protocol)


@pytest.mark.parametrize(("how", "protocol"), [pair for pair in CALLED if unmarked(*pair)])
def test_a_pickle_without_a_mark_is_called_one(how: str, protocol: int, tmp_path: Path) -> None:
    says_pickle(tmp_path / "model.pt", how, protocol)


# --- damaged keys


def forged(path: Path, change: Callable[[dict[str, Any]], Any], **tensors: Tensor) -> Path:
    """A key file whose header (and tensors) somebody changed."""
    save_key(path, trigger_key(), {})
    found, header = load_tensors(path, "key")
    header = change(header) or header
    write_forged(path, {**found, **tensors}, json.dumps(header))
    return path


def write_forged(path: Path, tensors: dict[str, Tensor], header: str) -> None:
    path.write_bytes(save(tensors, {"format": "assay/1", "kind": "key", "header": header}))


@pytest.mark.parametrize(
    "secret", ["", "00", "zz" * 32, "00" * 31, "00" * 33, SECRET.raw.hex()[:-1], None, 5, ["00" * 32]]
)
def test_a_damaged_secret_is_refused(secret: Any, tmp_path: Path) -> None:
    path = forged(tmp_path / "key", lambda header: header.update(secret=secret))
    with pytest.raises(ConfigError, match="does not hold a whole TriggerKey") as caught:
        load_key(path, TriggerKey)
    assert SECRET.raw.hex()[:20] not in str(caught.value)


@pytest.mark.parametrize("field", ["secret", "plain", "key_type"])
def test_a_header_without_a_field_is_refused(field: str, tmp_path: Path) -> None:
    path = forged(tmp_path / "key", lambda header: header.pop(field) and None)
    with pytest.raises(ConfigError, match="TriggerKey"):
        load_key(path, TriggerKey)


@pytest.mark.parametrize("plain", [{}, {"classes": 10, "more": 1}, {"klasses": 10}, [], None, "classes"])
def test_a_key_with_other_fields_is_refused(plain: Any, tmp_path: Path) -> None:
    path = forged(tmp_path / "key", lambda header: header.update(plain=plain))
    with pytest.raises(ConfigError, match="does not hold a whole TriggerKey"):
        load_key(path, TriggerKey)


@pytest.mark.parametrize("plain", [["part"], {"part": 1}, {"part": {"key_type": 1}}])
def test_a_stack_of_other_fields_is_refused(plain: Any, tmp_path: Path) -> None:
    write_forged(
        tmp_path / "key",
        {"part/bits": torch.zeros(1)},
        json.dumps({"key_type": "StackKey", "plain": plain, "secret": SECRET.raw.hex()}),
    )
    with pytest.raises(ConfigError, match="does not hold a whole StackKey"):
        load_key(tmp_path / "key", StackKey)


def test_a_key_with_more_or_doubled_tensors_is_refused(tmp_path: Path) -> None:
    for name in ("more", "classes", "secret"):
        path = forged(tmp_path / "key", lambda header: None, **{name: torch.ones(1)})
        with pytest.raises(ConfigError, match="does not hold a whole TriggerKey"):
            load_key(path, TriggerKey)


@pytest.mark.parametrize(
    "header", ["", "{", "[]", '"x"', "5", "null", pytest.param("[" * 100_000, id="deep")]
)
def test_a_header_that_is_no_object_is_refused(header: str, tmp_path: Path) -> None:
    write_forged(tmp_path / "key", trigger_key().tensors(), header)
    with pytest.raises(ConfigError):
        load_key(tmp_path / "key", TriggerKey)


# --- models


def test_a_model_comes_back(tmp_path: Path) -> None:
    model, path = trained(), tmp_path / "model.safetensors"
    save_model(path, model, {"task": "digits", "seed": 3})
    back = load_model(path, network)
    assert not back.training
    assert load_tensors(path, "model")[1] == {"task": "digits", "seed": 3}
    for name, value in model.state_dict().items():
        assert torch.equal(back.state_dict()[name], value)
    inputs = torch.rand(4, 1, 3, 3)
    assert torch.equal(model(inputs), back(inputs))


def test_a_loaded_model_can_be_trained(tmp_path: Path) -> None:
    save_model(tmp_path / "model", trained(), {})
    back = load_model(tmp_path / "model", network)
    back(torch.rand(2, 1, 3, 3)).sum().backward()
    assert all(parameter.grad is not None for parameter in back.parameters())


def test_a_bf16_model_comes_back_as_bf16(tmp_path: Path) -> None:
    """What is judged is the model that was stored, in the arithmetic it runs in."""
    model, path = trained().bfloat16(), tmp_path / "model.safetensors"
    save_model(path, model, {})
    back = load_model(path, network)
    for name, value in model.state_dict().items():
        assert back.state_dict()[name].dtype == value.dtype
        assert torch.equal(back.state_dict()[name], value)
    inputs = torch.rand(4, 1, 3, 3).bfloat16()
    assert torch.equal(model(inputs), back(inputs))


@pytest.mark.parametrize("narrow", [torch.bfloat16, torch.float16, torch.float8_e4m3fn])
def test_a_model_of_several_float_types_computes_in_the_widest(narrow: torch.dtype, tmp_path: Path) -> None:
    """Convolutions in few bits beside norms in float32: the values stay, and torch takes them."""
    model, path = trained(), tmp_path / "model.safetensors"
    stored = {n: v.to(narrow) if n.startswith("0.") else v for n, v in model.state_dict().items()}
    save_file(stored, path)
    back = load_model(path, network)
    for name, value in stored.items():
        assert torch.equal(back.state_dict()[name].double(), value.double())
    assert back(torch.rand(4, 1, 3, 3)).dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.int8, torch.complex64])
def test_weights_that_are_no_floats_are_refused(dtype: torch.dtype, tmp_path: Path) -> None:
    """Integers without their scales are another model."""
    path = tmp_path / "model.safetensors"
    save_file({n: v.to(dtype) if n == "0.weight" else v for n, v in trained().state_dict().items()}, path)
    with pytest.raises(ConfigError, match=f"{dtype} in 0.weight; expected floats"):
        load_model(path, network)


def test_tied_weights_come_back(tmp_path: Path) -> None:
    def tied() -> nn.Module:
        first, second = nn.Linear(4, 4), nn.Linear(4, 4)
        second.weight = first.weight
        return nn.Sequential(first, second)

    model = tied()
    save_model(tmp_path / "model", model, {})
    for name, value in load_model(tmp_path / "model", tied).state_dict().items():
        assert torch.equal(value, model.state_dict()[name])


def test_a_foreign_safetensors_model_loads(tmp_path: Path) -> None:
    """As the message about pickles promises: safetensors.torch.save_file(model.state_dict(), ...)."""
    model = trained()
    save_file(model.state_dict(), tmp_path / "foreign.safetensors")
    inputs = torch.rand(4, 1, 3, 3)
    assert torch.equal(load_model(tmp_path / "foreign.safetensors", network)(inputs), model(inputs))


def test_a_model_of_other_shapes_names_the_first(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_model(path, trained(), {})

    def wider() -> nn.Module:
        return nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3, 5))

    def deeper() -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3, 2), nn.Linear(2, 2)
        )

    with pytest.raises(ConfigError, match=r"2 tensors differ.*3\.bias: expected \(5,\), found \(2,\).*task="):
        load_model(path, wider)
    with pytest.raises(ConfigError, match=r"2 tensors differ.*4\.bias: expected \(2,\), found none"):
        load_model(path, deeper)
    with pytest.raises(ConfigError, match=r"expected none, found \(3,\)"):
        load_model(path, lambda: nn.Sequential(nn.Identity()))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["0.weight", "1.running_var", "3.bias"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_that_is_not_finite_is_refused(
    name: str, value: float, dtype: torch.dtype, tmp_path: Path
) -> None:
    model = trained().to(dtype)
    model.state_dict()[name].view(-1)[-1] = value
    save_model(tmp_path / "model", model, {})
    with pytest.raises(ConfigError, match=f"NaN or infinite values in {name}"):
        load_model(tmp_path / "model", network)


def test_saving_leaves_the_model_alone(tmp_path: Path) -> None:
    model = trained().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    save_model(tmp_path / "model", model, {})
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_slices_and_transposes_are_saved_as_they_read(tmp_path: Path) -> None:
    drawing = torch.arange(10.0)
    key = QueryKey(SECRET, drawing[:5], drawing[5:])
    save_key(tmp_path / "key", key, {})
    assert load_key(tmp_path / "key", QueryKey).fingerprint == key.fingerprint
    save_tensors(tmp_path / "turned", "model", {"a": drawing.reshape(2, 5).T}, {})
    assert torch.equal(load_tensors(tmp_path / "turned", "model")[0]["a"], drawing.reshape(2, 5).T)


def test_overlapping_slices_are_saved_apart(tmp_path: Path) -> None:
    drawing = torch.arange(10.0)
    key = QueryKey(SECRET, drawing[:7], drawing[5:])
    save_key(tmp_path / "key", key, {})
    assert load_key(tmp_path / "key", QueryKey).fingerprint == key.fingerprint


# --- whole or absent


class HalfWritten:
    """A file on a disk that fills up in the middle of a write."""

    def __init__(self, handle: int, mode: str) -> None:
        self.file = open(handle, mode)  # noqa: SIM115

    def __enter__(self) -> "HalfWritten":
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()

    def write(self, content: bytes) -> None:
        self.file.write(content[: len(content) // 2])
        full_disk()


def full_disk(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def break_disk(monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    if where == "write":
        monkeypatch.setattr(os, "fdopen", HalfWritten)
    elif where == "fsync":
        monkeypatch.setattr(os, "fsync", full_disk)
    else:
        monkeypatch.setattr(Path, "replace", full_disk)


@pytest.mark.parametrize("where", ["write", "fsync", "replace"])
@pytest.mark.parametrize("private", [True, False])
def test_a_full_disk_leaves_nothing(
    where: str, private: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_disk(monkeypatch, where)
    with pytest.raises(OSError, match="No space"):
        save_tensors(tmp_path / "file", "key", trigger_key().tensors(), {}, private)
    assert files_in(tmp_path) == []


@pytest.mark.parametrize("where", ["write", "fsync", "replace"])
def test_a_full_disk_leaves_the_old_file(where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "key"
    save_key(path, trigger_key(), {})
    before = path.read_bytes()
    break_disk(monkeypatch, where)
    with pytest.raises(OSError, match="No space"):
        save_key(path, query_key(), {})
    assert path.read_bytes() == before
    assert files_in(tmp_path) == ["key"]


@pytest.mark.parametrize("place", ["folder", "device"])
def test_only_a_file_is_replaced(place: str, tmp_path: Path) -> None:
    path = tmp_path / "taken"
    if place == "folder":
        path.mkdir()
    else:
        os.mkfifo(path)  # as /dev/null, which the rename of a superuser's file would replace
    with pytest.raises(OSError, match="a folder or a device"):
        write_atomically(path, b"content")
    assert not path.is_file()
    assert files_in(tmp_path) == ["taken"]


def test_an_interrupt_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "file", b"content")
    assert files_in(tmp_path) == []


@pytest.mark.parametrize(
    ("umask", "public", "private"), [(0o022, 0o644, 0o600), (0o077, 0o600, 0o600), (0, 0o666, 0o600)]
)
def test_public_files_follow_the_umask(umask: int, public: int, private: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        write_atomically(tmp_path / "public", b"x")
        write_atomically(tmp_path / "private", b"x", private=True)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "public").stat().st_mode) == public
    assert stat.S_IMODE((tmp_path / "private").stat().st_mode) == private


def test_a_private_file_is_private_from_its_first_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes = []
    sync = os.fsync

    def look(handle: int) -> None:
        modes.append(stat.S_IMODE(os.fstat(handle).st_mode))
        sync(handle)

    monkeypatch.setattr(os, "fsync", look)
    save_key(tmp_path / "key", trigger_key(), {})
    assert modes == [0o600]


def test_concurrent_writers_leave_one_whole_file(tmp_path: Path) -> None:
    """Eight threads, one path, a reader beside them: every read is whole, and the umask is as it was."""
    path = tmp_path / "file"
    contents = [bytes([i]) * (20_000 + i) for i in range(8)]
    write_atomically(path, contents[0])
    torn, start, umask = [], threading.Barrier(9), os.umask(0o027)

    def write(i: int) -> None:
        start.wait()
        for _ in range(20):
            write_atomically(path, contents[i])

    try:
        writers = [threading.Thread(target=write, args=(i,)) for i in range(8)]
        for writer in writers:
            writer.start()
        start.wait()
        while any(writer.is_alive() for writer in writers):
            torn += [found for found in [path.read_bytes()] if found not in contents]
        for writer in writers:
            writer.join()
    finally:
        after = os.umask(umask)
    assert after == 0o027
    assert not torn
    assert path.read_bytes() in contents
    assert files_in(tmp_path) == ["file"]
