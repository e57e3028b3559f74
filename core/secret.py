"""The owner's 32 secret bytes and everything that is derived from them, the same on every platform.

HKDF-SHA256 (RFC 5869), one purpose per output, gives bits, choices and labels, and keys the Philox streams for bulk material
(projection matrices, noise images). HKDF is trusted for secrecy; Philox only for statistical quality (kernels/philox.py).
Seeds (`seed_for`) are public and name every other random choice of a trial: what is secret never comes from a seed but in a
benchmark, where the whole owner is simulated (`Secret.simulated`).
"""

import hashlib
import hmac
import json
import secrets

import torch
from torch import Tensor

from ..kernels import philox

SALT = b"assay/secret/v1"
PUBLIC_SALT = b"assay/fingerprint/v1"  # its own: no purpose under SALT can yield what is public


def hkdf(secret: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    """HKDF-SHA256, extract then expand (RFC 5869, sections 2.2 and 2.3). At most 8,160 bytes."""
    if length > 255 * 32:
        raise ValueError(f"HKDF-SHA256 gives at most 8160 bytes, {length} were asked: use a Philox stream")
    extracted = hmac.digest(salt, secret, "sha256")
    output, block = b"", b""
    for i in range(1, -(-length // 32) + 1):
        block = hmac.digest(extracted, block + info + bytes([i]), "sha256")
        output += block
    return output[:length]


def seed_for(seed: int, *names: str | int) -> int:
    """A public 63-bit seed for one named purpose: independent streams without bookkeeping."""
    return int.from_bytes(_named(seed, *names)[:8], "big") >> 1


def _named(*names: str | int) -> bytes:
    """SHA-256 of a list of names; "a/b" is not "a", "b"."""
    return hashlib.sha256(json.dumps(names).encode()).digest()


class Secret:
    """32 bytes that are never printed: `repr` shows a short public fingerprint.

    Not a dataclass: `asdict` and the difference a failed test prints would show the bytes.
    """

    __slots__ = ("_raw",)

    def __init__(self, raw: bytes) -> None:
        if len(raw) != 32:
            raise ValueError(f"a secret is 32 bytes, got {len(raw)}")
        self._raw = bytes(raw)

    @property
    def raw(self) -> bytes:
        return self._raw

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self.raw, other.raw)

    def __hash__(self) -> int:
        return hash(self.raw)

    def __repr__(self) -> str:
        return f"Secret(fingerprint={self.fingerprint})"

    __str__ = __repr__

    @property
    def fingerprint(self) -> str:
        """16 hex digits that name the secret and do not reveal it."""
        return hkdf(self.raw, PUBLIC_SALT, b"", 8).hex()

    @staticmethod
    def fresh() -> "Secret":
        """From the operating system's generator: for a real owner."""
        return Secret(secrets.token_bytes(32))

    @staticmethod
    def simulated(seed: int, *names: str | int) -> "Secret":
        """A benchmark's owner, reproducible from the trial's public seed."""
        return Secret(_named("assay/simulated-owner", seed, *names))

    def derive(self, purpose: str, length: int) -> bytes:
        return hkdf(self.raw, SALT, purpose.encode(), length)

    def bits(self, purpose: str, count: int) -> Tensor:
        """(count,) uint8 of fair bits, most significant first."""
        raw = torch.tensor(list(self.derive(f"bits/{purpose}", -(-count // 8))), dtype=torch.uint8)
        return ((raw[:, None] >> torch.arange(7, -1, -1)) & 1).reshape(-1)[:count].to(torch.uint8)

    def integers(self, purpose: str, count: int, below: int) -> Tensor:
        """(count,) int64, uniform in [0, below) exactly: 32-bit draws, those past the last whole multiple rejected."""
        if not 1 <= below <= 2**32:
            raise ValueError(f"below must lie in [1, 2^32], got {below}")
        limit = 2**32 - 2**32 % below
        kept: list[int] = []
        chunk = 0
        while len(kept) < count:
            raw = self.derive(f"integers/{purpose}/{chunk}", 32 * 64)
            draws = (int.from_bytes(raw[i : i + 4], "big") for i in range(0, len(raw), 4))
            kept += [draw % below for draw in draws if draw < limit]
            chunk += 1
        return torch.tensor(kept[:count], dtype=torch.int64)

    def order(self, purpose: str, count: int) -> Tensor:
        """A random permutation (count,) int64: the stable order of 32-bit draws."""
        return self.integers(f"order/{purpose}", count, 2**32).argsort(stable=True)

    def stream(self, purpose: str) -> tuple[int, int]:
        """The key (k0, k1) of this purpose's Philox stream."""
        raw = self.derive(f"philox/{purpose}", 8)
        return int.from_bytes(raw[:4], "big"), int.from_bytes(raw[4:], "big")

    def images(self, purpose: str, *shape: int) -> Tensor:
        """Noise images, every pixel uniform over the 256 grey levels: float32 in [0, 1]."""
        return philox.octets(self.stream(purpose), _size(shape)).reshape(shape).to(torch.float32) / 255


def _size(shape: tuple[int, ...]) -> int:
    return int(torch.Size(shape).numel())
