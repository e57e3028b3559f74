"""The message of a multi-bit text mark: the owner's number of some bits, hidden by a pad of the secret's (core/payload.py)."""

import torch
from torch import Tensor

from ...core.payload import Message, decoded, encoded
from ...core.secret import Secret


def bits_of(number: int, bits: int) -> Tensor:
    """(bits,) uint8, most significant first."""
    return torch.tensor([number >> place & 1 for place in range(bits - 1, -1, -1)], dtype=torch.uint8)


def number_of(bits_B: Tensor) -> int:
    """Of any number of bits."""
    return int("".join(str(int(bit)) for bit in bits_B), 2)


def embedded(payload: str | None, secret: Secret, bits: int, scheme: str) -> int:
    """What is embedded; uniform over the 2^bits messages over the draw of the secret."""
    return number_of(encoded(payload, secret, bits, f"text/{scheme}"))


def plain(found: int, secret: Secret, bits: int, scheme: str) -> str:
    """What was read, without the pad, in hexadecimal; a payload of fewer bits stands in it again and again. Empty for zeros alone:
    they embed the pad, as no payload does."""
    bare = found ^ embedded(None, secret, bits, scheme)
    return f"{bare << -bits % 8:0{2 * -(-bits // 8)}x}" if bare else ""


def shown(found: int, payload: str | None, secret: Secret, bits: int, scheme: str) -> Message:
    return decoded(bits_of(found, bits), payload, secret, f"text/{scheme}")
