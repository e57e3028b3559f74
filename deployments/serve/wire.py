"""Requests and replies as JSON; every other byte string is a problem with a status, never an exception of the model's.

A request holds `inputs`, nested lists of N samples, or `data`, base64 of float32 (little-endian) with their `shape`. A reply holds
`values`, nested lists, and their `shape`. A float32 is written as a decimal that reads back as itself, and NaN, which a model may
say of large inputs, as null: HTTP changes no answer.

Suffix: N samples.
"""

import base64
import binascii
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ..gateway import Reply

Want = Literal["scores", "labels"]


class Problem(Exception):
    """What a client is told: an HTTP status, a code for programs, a sentence for people."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message

    def said(self) -> dict[str, Any]:
        return {"error": {"code": self.code, "message": self.message}}


@dataclass(frozen=True)
class Limits:
    """Of one request: bytes of its body, samples."""

    body: int = 8 * 2**20
    samples: int = 4096


def inputs_of(body: bytes, shape: tuple[int, ...], limits: Limits) -> Tensor:
    """(N, *shape) float32, finite."""
    asked = _object(body)
    if set(asked) == {"inputs"}:
        found = _listed(asked["inputs"])
    elif set(asked) == {"data", "shape"}:
        found = _packed(asked["data"], asked["shape"], shape)
    else:
        raise Problem(422, "fields", f"expected `inputs`, or `data` and `shape`, got {sorted(asked)[:4]}")
    _require(found.shape, shape)
    if not 1 <= len(found) <= limits.samples:
        raise Problem(422, "samples", f"expected 1 to {limits.samples} samples, got {len(found)}")
    if not np.isfinite(found).all():
        raise Problem(422, "values", "expected finite numbers")
    return torch.from_numpy(found)


def _object(body: bytes) -> dict[str, Any]:
    def refuse(constant: str) -> Any:
        raise Problem(422, "values", f"expected finite numbers, got {constant}")

    try:
        found = json.loads(body.decode("utf-8"), parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise Problem(400, "json", f"the body is no JSON: {type(error).__name__}") from None
    if not isinstance(found, dict):
        raise Problem(422, "fields", "expected a JSON object")
    return found


def _listed(value: Any) -> "np.ndarray[Any, np.dtype[np.float32]]":
    """Numbers alone: numpy would take text and true for numbers."""
    if not isinstance(value, list) or not _numbers(value, 0):
        raise Problem(422, "dtype", "expected nested lists of numbers")
    try:
        with np.errstate(over="ignore"):  # a number beyond float32 is infinite, which is refused
            return np.array(value, dtype=np.float32)
    except (ValueError, OverflowError):
        raise Problem(422, "shape", "expected nested lists of equal lengths") from None


def _numbers(value: Any, depth: int) -> bool:
    if isinstance(value, list):
        return depth < 8 and all(_numbers(one, depth + 1) for one in value)
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _require(came: Sequence[int], sample: tuple[int, ...]) -> None:
    """That it is the shape of a batch of samples."""
    if tuple(came[1:]) != sample:
        wanted, found = ("x".join(map(str, sides)) for sides in (sample, came[:8]))
        raise Problem(422, "shape", f"expected samples of {wanted} (Nx{wanted}), got {found[:80]}")


def _packed(data: Any, shape: Any, sample: tuple[int, ...]) -> "np.ndarray[Any, np.dtype[np.float32]]":
    """The shape is compared before it is computed with: a client chooses how many sides it has, and how long they are."""
    whole = isinstance(shape, list) and all(type(side) is int and side >= 0 for side in shape)
    if not whole or not isinstance(data, str):
        raise Problem(422, "dtype", "expected `data` as base64 text and `shape` as a list of whole numbers")
    _require(shape, sample)
    try:
        raw = base64.b64decode(data, validate=True)
    except (ValueError, binascii.Error):
        raise Problem(422, "dtype", "`data` is no base64") from None
    if len(raw) != 4 * math.prod(shape):
        raise Problem(422, "shape", f"`data` holds {len(raw)} bytes, which `shape` does not ask for")
    return np.frombuffer(bytearray(raw), dtype="<f4").astype(np.float32, copy=False).reshape(shape)


def packed(inputs: Tensor) -> bytes:
    """A request of these inputs."""
    raw = inputs.detach().cpu().contiguous().numpy().astype("<f4").tobytes()
    return json.dumps({"data": base64.b64encode(raw).decode(), "shape": list(inputs.shape)}).encode()


STATUS = {None: 200, "budget": 429, "revoked": 403}


def replied(reply: Reply) -> tuple[int, dict[str, Any]]:
    """Status and body. A reply that stopped holds what was answered before."""
    said = reply.values.numpy()
    missing = np.isnan(said)
    return STATUS[reply.refused], {
        "values": (np.where(missing, np.array(None), said) if missing.any() else said).tolist(),
        "shape": list(reply.values.shape),
        "refused": reply.refused,
    }


def reply_of(body: Any, want: Want) -> Reply:
    """The inverse of `replied`."""
    values = np.array(body["values"], dtype=np.float32 if want == "scores" else np.int64)
    return Reply(torch.from_numpy(values).reshape(body["shape"]), body["refused"])
