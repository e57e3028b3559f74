"""The payload of a multi-bit mark: an owner's number or a licence's digest, hidden by a secret pad and repeated.

Suffix: B bits embedded.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .errors import ConfigError
from .secret import Secret

MOST_BITS = 8 * 255 * 32  # that HKDF-SHA256 expands for one purpose


@dataclass(frozen=True)
class Message:
    """What was read of a payload of `bits` bits: the share that is right, and whether the whole message is."""

    bits: int
    accuracy: float
    whole: bool
    decoded: str
    """The payload in hexadecimal, empty without one."""


def payload_bits(payload: str) -> Tensor:
    """(P,) uint8, most significant first. ConfigError unless hexadecimal."""
    try:
        raw = bytes.fromhex(payload)
    except ValueError:
        raise ConfigError(
            f"expected a payload in hexadecimal, two digits a byte, got {payload!r}; set watermark.payload=..."
        ) from None
    values = torch.tensor(list(raw), dtype=torch.uint8)
    return ((values[:, None] >> torch.arange(7, -1, -1)) & 1).reshape(-1).to(torch.uint8)


def encoded(payload: str | None, secret: Secret, bits: int, purpose: str) -> Tensor:
    """(B,) uint8: the payload, repeated as often as it fits, exclusive-or a pad of fair bits from the secret's stream
    `purpose`; None: the pad alone. So the bits are uniform and independent of every model whatever the payload is, and
    the null stays exact. ConfigError for a payload of more than B bits, and for more bits than a secret gives."""
    if not 1 <= bits <= MOST_BITS:
        raise ConfigError(f"expected 1 to {MOST_BITS} bits, got {bits}; set watermark.bits={MOST_BITS}")
    pad_B = secret.bits(purpose, bits)
    if payload is None:
        return pad_B
    message_P = payload_bits(payload)
    if not 1 <= len(message_P) <= bits:
        raise ConfigError(
            f"a payload of {len(message_P)} bits does not fit {bits} bits; expected 1 to {bits // 8} bytes, "
            "set watermark.payload=... or watermark.bits=..."
        )
    return message_P[torch.arange(bits) % len(message_P)] ^ pad_B


def decoded(read_B: Tensor, payload: str | None, secret: Secret, purpose: str) -> Message:
    """The message by majority over its repetitions (a tie is a 1 that the owner did not write: it counts as 1). `accuracy` is of
    the B embedded bits, before the vote. Without a payload the message is the pad itself, which is
    secret and not shown."""
    bits = len(read_B)
    expected_B = encoded(payload, secret, bits, purpose)
    accuracy = float((read_B.to(torch.uint8) == expected_B).double().mean())
    if payload is None:
        return Message(bits, accuracy, accuracy == 1, "")
    message_P = payload_bits(payload)
    plain_B = read_B.to(torch.uint8) ^ secret.bits(purpose, bits)
    length = len(message_P)
    votes_P = torch.stack([plain_B[i::length].double().mean() for i in range(length)])
    found_P = (votes_P >= 0.5).to(torch.uint8)
    return Message(length, accuracy, bool(torch.equal(found_P, message_P)), _hex(found_P))


def _hex(bits_P: Tensor) -> str:
    """Most significant first, padded with zeros to whole bytes."""
    padded = torch.cat((bits_P, bits_P.new_zeros(-len(bits_P) % 8))).reshape(-1, 8).to(torch.int64)
    return bytes((padded << torch.arange(7, -1, -1)).sum(1).tolist()).hex()
