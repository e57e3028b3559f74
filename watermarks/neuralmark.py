"""Bits that are the hash of their own key, in weights which those bits pick (NeuralMark, arXiv:2507.11137).

The key matrix K comes from the secret and b = SHAKE-256(K). Each round keeps the weights where b, repeated along the layer, is 1;
what is left is averaged to a vector w, and the bits are [w K > 0]. A forger who bends K to a model changes b, and with it the bits
he must find and the weights he must read: he is left with trying secrets. The bits are a hash, so there is no payload.

Suffixes: M suspects, K keys, J weights of the layer, F those the filter leaves, P pooled weights, B bits.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn
from torch.nn import functional

from ..core.contracts import Fit, Task, Watermark
from ..core.errors import NotApplicable
from ..core.key import Key
from ..core.payload import payload_bits
from ..core.scores import Scores
from ..core.secret import Secret
from ..core.suspects import Suspects
from ..kernels import philox
from .parameter import scored, weight_of

BITS = 256  # a hash of 32 bytes; at 227 matches (88.29 %, the paper's threshold) p < 2^-128, at 226 it is not
GRID = 1024  # K in steps of 1/1024: the bytes that are hashed are the same on every platform

Pooling = Literal["adaptive", "strided"]


@dataclass(frozen=True, eq=False)
class HashKey(Key):
    """bits_B (256,) uint8: valid only if they are the hash of the secret's matrix."""

    layer: str
    weights: int
    pooled: int
    bits_B: Tensor


def whole_matrix(secret: Secret, pooled: int) -> Tensor:
    """1024 K (P, 256), int16: K is standard normal, as in the official code."""
    normals = philox.normals(secret.stream("neuralmark/matrix"), pooled * BITS)
    return (normals.double() * GRID).round().to(torch.int16).reshape(pooled, BITS)


def hash_bits(whole_PB: Tensor) -> Tensor:
    """b (256,) uint8: SHAKE-256 of the matrix as little-endian int16."""
    return payload_bits(hashlib.shake_256(whole_PB.numpy().astype("<i2").tobytes()).hexdigest(BITS // 8))


def kept(bits_B: Tensor, weights: int, rounds: int) -> Tensor:
    """The positions (F,) that are left of `weights` when each round drops those where the repeated bits are 0. The official code
    also drops, before each round, what exceeds a multiple of 256."""
    index_F = torch.arange(weights)
    for _ in range(rounds):
        index_F = index_F[bits_B.bool()[torch.arange(len(index_F)) % len(bits_B)]]
    return index_F


def pool(weights_MF: Tensor, pooled: int, how: Pooling) -> Tensor:
    """(M, P): means of neighbours (adaptive), or of every P-th weight, the last incomplete row dropped (strided)."""
    if how == "adaptive":
        return functional.adaptive_avg_pool1d(weights_MF, pooled)
    rows = weights_MF.shape[1] // pooled
    return weights_MF[:, : rows * pooled].reshape(-1, rows, pooled).mean(1)


@dataclass(frozen=True)
class NeuralMark(Watermark):
    family = "parameter"
    reads = "weights"
    derivation = "derived"
    nulls = ("random_keys", "independent_models")
    paper = "NeuralMark, AAAI 2026, arXiv:2507.11137"
    key_type = HashKey

    layer: str
    pooled: Annotated[int, Ge(1)] = 512
    """The length of the vector that is projected; 512 in the official code's trainings."""
    rounds: Annotated[int, Ge(0)] = 4
    """Of filtering; two keys share almost no weights after 4 in the paper."""
    pooling: Pooling = "adaptive"
    """adaptive as in the paper, strided as in the official code."""
    strength: Annotated[float, Gt(0)] = 1.0
    """lambda, of the *mean* cross-entropy over bits; 1 in the paper and in the official code."""

    def keygen(
        self, task: Task, secret: Secret, model: nn.Module | None = None, fit: Fit | None = None
    ) -> HashKey:
        weights = weight_of(model if model is not None else task.fresh(None), self.layer).numel()
        bits_B = hash_bits(whole_matrix(secret, self.pooled))
        left = len(kept(bits_B, weights, self.rounds))
        if left < self.pooled:
            raise NotApplicable(
                f"{self.layer} has {weights} weights, of which {self.rounds} rounds leave {left}, fewer than "
                f"watermark.pooled={self.pooled}; set watermark.pooled to at most {left}, fewer rounds or another layer"
            )
        return HashKey(secret, self.layer, weights, self.pooled, bits_B)

    def embed(self, model: nn.Module, key: HashKey, task: Task, fit: Fit) -> nn.Module:
        """Train from scratch with the cross-entropy of the filtered, projected *live* weights added."""
        matrix_PB = whole_matrix(key.secret, key.pooled).float() / GRID
        index_F = kept(key.bits_B, key.weights, self.rounds)

        def penalty(live: nn.Module) -> Tensor:
            weight = weight_of(live, self.layer)
            weights_1F = weight.flatten()[index_F.to(weight.device)][None]
            logits_B = (pool(weights_1F, key.pooled, self.pooling) @ matrix_PB.to(weight.device))[0]
            return self.strength * functional.binary_cross_entropy_with_logits(
                logits_B, key.bits_B.to(weight.device, logits_B.dtype)
            )

        return fit(task.fresh(None), task.owner, penalty=penalty, label="marked")

    def score(self, suspects: Suspects, keys: Sequence[HashKey]) -> Scores:
        """Matching bits, two-sided: an attack that inverts them has not removed them. A key whose bits are not its hash is no
        key: nan, which is no evidence."""
        hits_MK = scored(suspects, keys, torch.flatten, partial(_matches, self))
        return Scores.binomial(hits_MK, BITS, 0.5, "matching bits", two_sided=True)


def _matches(scheme: NeuralMark, weights_MJ: Tensor, keys: list[HashKey]) -> Tensor:
    """(M, K) float64."""
    columns = []
    for key in keys:
        whole_PB = whole_matrix(key.secret, key.pooled)
        bits_B = hash_bits(whole_PB)
        weights_MF = weights_MJ[:, kept(bits_B, key.weights, scheme.rounds)].double()
        if not torch.equal(bits_B, key.bits_B) or weights_MF.shape[1] < key.pooled:
            columns.append(torch.full((len(weights_MJ),), torch.nan, dtype=torch.float64))
            continue
        signs_MB = pool(weights_MF, key.pooled, scheme.pooling) @ whole_PB.double() > 0
        columns.append((signs_MB == bits_B.bool()).sum(1).double())
    return torch.stack(columns, 1)
