"""What a generator and its detector must agree on beside the key, and the checks of what they are given.

Suffixes: B rows of a batch, H ids of a window (oldest first), V vocabulary.
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from .lang import on_gpu

Prf = Literal["philox", "splitmix64"]
Statistic = Literal["green", "gumbel", "layers"]
LOGITS = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class TextMark:
    """ValueError names a field that does not fit.

    vocabulary: V, the width of the LM head. width: h, the ids of a window; 0 gives one keyed list for every position (Unigram).
    gamma: chance of green, rounded down to a multiple of 2^-32. depth: layers of a tournament. payloads: how many messages a
    cyclic shift can carry; None carries none."""

    vocabulary: int
    width: int = 4
    prf: Prf = "philox"
    statistic: Statistic = "green"
    gamma: float = 0.25
    depth: int = 32
    payloads: int | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.vocabulary < 2**31:
            raise ValueError(f"vocabulary: expected 1 to 2^31 - 1, got {self.vocabulary}")
        if self.width < 0:
            raise ValueError(f"width: expected at least 0, got {self.width}")
        if self.prf not in get_args(Prf):
            raise ValueError(f"prf: expected one of {get_args(Prf)}, got {self.prf!r}")
        if self.statistic not in get_args(Statistic):
            raise ValueError(f"statistic: expected one of {get_args(Statistic)}, got {self.statistic!r}")
        if not 0 < self.gamma < 1:
            raise ValueError(f"gamma: expected a chance between 0 and 1, got {self.gamma}")
        if not 1 <= self.depth <= 32:
            raise ValueError(f"depth: expected 1 to 32 layers, got {self.depth}")
        self._check_payloads()

    def _check_payloads(self) -> None:
        if self.payloads is None:
            return
        if not 1 <= self.payloads <= self.vocabulary:
            raise ValueError(
                f"payloads: expected 1 to {self.vocabulary} (the vocabulary), got {self.payloads}"
            )
        if self.statistic == "layers":
            raise ValueError("payloads: a tournament carries no message, expected statistic green or gumbel")

    @property
    def threshold(self) -> int:
        """v is green iff its word is less, so that the chance is never more than gamma."""
        return math.floor(self.gamma * 2**32)


def check_integers(name: str, tensor: Tensor, dimensions: int) -> None:
    if tensor.ndim != dimensions or tensor.dtype not in (torch.int64, torch.int32):
        raise ValueError(
            f"{name}: expected {dimensions} dimensions of int64 or int32, "
            f"got shape {tuple(tensor.shape)} of {tensor.dtype}"
        )


def check_range(name: str, tensor: Tensor, below: int) -> None:
    """Waits for the device."""
    if tensor.numel():
        low, high = int(tensor.min()), int(tensor.max())
        if low < 0 or high >= below:
            raise ValueError(f"{name}: expected values in [0, {below}), got [{low}, {high}]")


def check_counts(name: str, count_B: Tensor, ids_BT: Tensor) -> None:
    """How many ids of each text are meant: 0 to T. Waits for the device."""
    check_integers(name, count_B, 1)
    texts, length = ids_BT.shape
    if len(count_B) != texts:
        raise ValueError(f"{name}: expected one for each of {texts} texts, got {len(count_B)}")
    check_range(name, count_B, length + 1)


def checked_rows(
    windows_BH: Tensor, keys_B: Tensor, mark: TextMark, payload_B: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Windows, keys and messages of a step of generation as contiguous int64, one a row; a single key serves every row."""
    check_integers("windows", windows_BH, 2)
    check_integers("keys", keys_B, 1)
    on_gpu(windows_BH, keys_B, *(() if payload_B is None else (payload_B,)))
    rows = len(windows_BH)
    if windows_BH.shape[1] != mark.width:
        raise ValueError(
            f"windows: expected the mark's width of {mark.width} ids a row, got {windows_BH.shape[1]}"
        )
    if len(keys_B) not in (1, rows):
        raise ValueError(f"keys: expected one, or one for each of {rows} rows, got {len(keys_B)}")
    if payload_B is None:
        payload_B = torch.zeros(rows, dtype=torch.int64, device=windows_BH.device)
    else:
        check_integers("payload", payload_B, 1)
        if len(payload_B) != rows:
            raise ValueError(f"payload: expected one for each of {rows} rows, got {len(payload_B)}")
        check_range("payload", payload_B, mark.payloads or 0)
    keys_B = keys_B.expand(rows) if len(keys_B) == 1 else keys_B
    parts = (tensor.to(torch.int64).contiguous() for tensor in (windows_BH, keys_B, payload_B))
    windows_BH, keys_B, payload_B = parts
    return windows_BH, keys_B, payload_B


def check_logits(logits_BV: Tensor, rows: int, mark: TextMark) -> Tensor:
    """The logits with neighbouring candidates in memory, and without their gradient."""
    if logits_BV.shape != (rows, mark.vocabulary) or logits_BV.dtype not in LOGITS:
        raise ValueError(
            f"logits: expected ({rows}, {mark.vocabulary}) of float32, bfloat16 or float16, "
            f"got {tuple(logits_BV.shape)} of {logits_BV.dtype}"
        )
    return (logits_BV if logits_BV.stride(1) == 1 else logits_BV.contiguous()).detach()
