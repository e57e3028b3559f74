"""Models and keys on disk: safetensors with a JSON header. Loading runs no code, whatever the file claims to be."""

import json
import pickletools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import reduce
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from ..core.atomic import write_atomically
from ..core.errors import ConfigError
from ..core.key import Key
from ..core.secret import Secret

FORMAT = "assay/1"
FLOATS = {"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"}  # as safetensors names them
K = TypeVar("K", bound=Key)


def save_tensors(
    path: Path, kind: str, tensors: dict[str, Tensor], header: dict[str, Any], private: bool = False
) -> None:
    metadata = {"format": FORMAT, "kind": kind, "header": json.dumps(header, sort_keys=True)}
    # Copies: safetensors refuses tensors that share memory, which slices of one drawing and tied weights do.
    apart = {n: t.detach().cpu().clone(memory_format=torch.contiguous_format) for n, t in tensors.items()}
    write_atomically(path, save(apart, metadata), private)


@contextmanager
def _opened(path: Path, kind: str) -> Iterator[Any]:
    """A whole safetensors file; ConfigError for anything else, and for what goes wrong while it is read."""
    if not path.is_file():
        raise ConfigError(f"expected a {kind} file, found nothing at {path}")
    try:
        with safe_open(str(path), framework="pt") as file:
            yield file
    except (SafetensorError, OSError, ValueError) as error:
        raise ConfigError(_why_unreadable(path, kind, error)) from None


def float_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """The floating-point tensors of a model's file, of whatever origin, by name: nothing but its header is read."""
    with _opened(path, "model") as file:
        is_key = (file.metadata() or {}).get("kind") == "key"
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        found = {name: tuple(s.get_shape()) for name, s in slices.items() if s.get_dtype() in FLOATS}
    if is_key:
        raise ConfigError(f"{path} is a key, expected a model")
    return found


def load_tensor(path: Path, name: str) -> Tensor:
    """One tensor of a model's file, so that no more than one is in memory."""
    with _opened(path, "model") as file:
        tensor: Tensor = file.get_tensor(name).clone()
    return tensor


def load_tensors(path: Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and header; ConfigError for anything that is not a whole safetensors file of this kind."""
    with _opened(path, kind) as file:
        metadata = file.metadata() or {}
        # Copies: what safetensors gives is the mapped file itself, and a file cut short later is a bus error.
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - not a dict
    if metadata.get("format", FORMAT) != FORMAT:
        raise ConfigError(f"{path} has format {metadata['format']!r}, this version reads {FORMAT}")
    if kind == "key" and metadata.get("kind") != "key":
        raise ConfigError(
            f"{path} is not a key file of Assay, but {metadata.get('kind') or 'a foreign safetensors file'}"
        )
    return tensors, _header(path, metadata.get("header", "{}"))


def _header(path: Path, text: str) -> dict[str, Any]:
    try:
        header = json.loads(text)
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict):
        raise ConfigError(f"{path} has a damaged header: expected a JSON object")
    return header


def _why_unreadable(path: Path, kind: str, error: Exception) -> str:
    if _is_pickle(path):
        return (
            f"{path} is a pickle (torch.save), which can run code when it is loaded; Assay does not open it. "
            "Convert it where you trust it: safetensors.torch.save_file(model.state_dict(), ...)"
        )
    return f"{path} is not a whole safetensors {kind} file ({error}): truncated, or another format"


def _is_pickle(path: Path) -> bool:
    """Protocols 0 and 1 have no mark: such a file parses as opcodes up to a stop. Parsing runs none of them."""
    with path.open("rb") as file:
        start = file.read(2**20)
    if start[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        return True
    try:
        return sum(1 for _ in pickletools.genops(start)) > 1
    except ValueError:
        return False


def save_model(path: Path, model: nn.Module, header: dict[str, Any]) -> None:
    """Weights and buffers; tied tensors are stored once each. The header says what the model is (task, model)."""
    save_tensors(path, "model", model.state_dict(), header)


def load_model(path: Path, build: Callable[[], nn.Module]) -> nn.Module:
    """Weights into a freshly built network, every name and shape checked, NaN and infinity refused; eval mode."""
    tensors, _ = load_tensors(path, "model")
    return filled(build(), tensors, path)


def filled(model: nn.Module, tensors: dict[str, Tensor], path: Path) -> nn.Module:
    """The network with these weights, read from `path`; ConfigError unless they fit."""
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if expected != found:
        wrong = sorted(name for name in {*expected, *found} if expected.get(name) != found.get(name))
        first = wrong[0]
        raise ConfigError(
            f"{path} does not fit the network: {len(wrong)} tensors differ, the first is {first}: expected "
            f"{expected.get(first, 'none')}, found {found.get(first, 'none')}. Name the right one with task=... model=..."
        )
    model.load_state_dict(_typed(tensors, model.state_dict(), path), assign=True)
    return model.eval()


def _typed(tensors: dict[str, Tensor], own: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The tensors as the network computes with them, their values unchanged: counters as its own, weights in the type that the file
    has them in, so that a bf16 model is judged in its own arithmetic. Of several types all are in the widest, and what has 8 bits
    is in float32: torch computes no network otherwise. ConfigError for weights that are no finite floats."""
    weights = {name: t for name, t in tensors.items() if own[name].is_floating_point()}
    wrong = [name for name, t in weights.items() if not t.is_floating_point()]
    if wrong:
        raise ConfigError(
            f"{path} holds {weights[wrong[0]].dtype} in {wrong[0]}; expected floats: save the dequantised model"
        )
    wide = {name: t.float() if t.element_size() == 1 else t for name, t in weights.items()}
    bad = [name for name, t in wide.items() if not torch.isfinite(t).all()]
    if bad:
        raise ConfigError(f"{path} holds NaN or infinite values in {bad[0]}; expected finite weights")
    types = {t.dtype for t in wide.values()}
    widest = reduce(torch.promote_types, types) if types else torch.float32
    return {
        name: wide[name].to(widest) if name in wide else t.to(own[name].dtype) for name, t in tensors.items()
    }


def save_key(path: Path, key: Key, header: dict[str, Any]) -> None:
    """The key with its secret, readable by the owner alone. The header names the scheme and its configuration."""
    body = {**header, "key_type": type(key).__name__, "plain": key.plain(), "secret": key.secret.raw.hex()}
    tensors = key.tensors() or {"empty": torch.zeros(0)}
    save_tensors(path, "key", tensors, body, private=True)


def load_key(path: Path, key_type: type[K]) -> K:
    """ConfigError for a key of another scheme, with other fields, or a damaged secret."""
    tensors, header = load_tensors(path, "key")
    if header.get("key_type") != key_type.__name__:
        raise ConfigError(
            f"expected a {key_type.__name__}, {path} holds a {header.get('key_type')}: name its scheme"
        )
    tensors.pop("empty", None)
    try:
        return key_type.restore(Secret(bytes.fromhex(header["secret"])), tensors, header["plain"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path} does not hold a whole {key_type.__name__}: {error}") from None
