"""What every owner's key has in common; zoo/files.py saves and loads keys (safetensors and a JSON header, never pickle)."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any, Self

import torch
from torch import Tensor

from .secret import Secret


@dataclass(frozen=True, eq=False)
class Key:
    """The owner's secret. A scheme adds what its verification reads: bits, triggers, labels, queries.

    Fields are the Secret, tensors, and plain values of JSON. A key never shows its contents: `repr` gives the
    scheme's key class and a fingerprint, also in subclasses, whose dataclass `repr` is replaced.
    """

    secret: Secret

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.__repr__ = Key.__repr__  # type: ignore[method-assign]  # @dataclass keeps a __repr__ that the class has

    def __repr__(self) -> str:
        return f"{type(self).__name__}(fingerprint={self.fingerprint})"

    @property
    def fingerprint(self) -> str:
        """16 hex digits over secret and contents: equal keys, equal fingerprints."""
        digest = hashlib.sha256(self.secret.fingerprint.encode())
        for name, tensor in sorted(self.tensors().items()):
            digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
        digest.update(json.dumps(self.plain(), sort_keys=True).encode())
        return digest.hexdigest()[:16]

    def tensors(self) -> dict[str, Tensor]:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}

    def plain(self) -> dict[str, Any]:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {n: v for n, v in values.items() if not isinstance(v, (Tensor, Secret))}

    @classmethod
    def restore(cls, secret: Secret, tensors: dict[str, Tensor], plain: dict[str, Any]) -> Self:
        """The inverse of `tensors` and `plain`; ValueError when the names are not this key's."""
        given = {"secret", *tensors, *plain}
        expected = {f.name for f in fields(cls)}
        if given != expected:
            raise ValueError(
                f"a {cls.__name__} has the fields {sorted(expected)}, the file has {sorted(given)}"
            )
        return cls(secret=secret, **tensors, **plain)


def expect_length(tensors: Iterable[Tensor], length: int, setting: str) -> None:
    """ValueError unless every key's tensor has the length that the scheme is set to read."""
    found = sorted({len(tensor) for tensor in tensors})
    if found != [length]:
        raise ValueError(f"expected keys of length {length}, got {found}; set {setting}")
