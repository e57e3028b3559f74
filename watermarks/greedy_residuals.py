"""Signs of the greedy residuals of one layer (Liu, Weng and Zhu, ICML 2021).

The layer is pooled to a matrix, a row for each bit; of every row the smallest magnitudes are dropped, and the sign of what is left,
on average, is the bit. Nothing but the bits is secret: there is no key matrix.

The paper takes the bits from an RSA signature of the owner's message, so that nobody can choose them. Here they are a PRF output of
the secret under which the message lies: as little the owner's choice, uniform, which makes the null exact, and without a further
library. A signature adds that anyone can check the message without the secret. Bits never pass through an integer: the official
code writes the hash as a number, which loses its leading zeros, and pads them again.

Suffixes: M suspects, K keys, J weights of the layer, B bits, C columns.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor, nn
from torch.nn import functional

from ..core.contracts import Fit, Task, Watermark
from ..core.errors import NotApplicable
from ..core.key import Key, expect_length
from ..core.payload import Message, decoded, encoded
from ..core.scores import Scores
from ..core.secret import Secret
from ..core.suspects import Suspects
from .parameter import scored, weight_of

PURPOSE = "greedy_residuals/bits"


@dataclass(frozen=True, eq=False)
class SignKey(Key):
    """bits_B (B,) uint8: 1 for a positive residual."""

    layer: str
    weights: int
    bits_B: Tensor


def residuals(weights_J: Tensor, bits: int, columns: int, dropped: float) -> Tensor:
    """(B,): the layer pooled to (B, C), in every row the share `dropped` of the smallest magnitudes set to 0, the mean of the
    row."""
    pooled_BC = functional.adaptive_avg_pool1d(weights_J[None], bits * columns).reshape(bits, columns)
    count = int(dropped * columns)
    smallest_BC = pooled_BC.abs().argsort(1)[:, :count]
    return pooled_BC.scatter(1, smallest_BC, 0.0).mean(1)


@dataclass(frozen=True)
class GreedyResiduals(Watermark):
    family = "parameter"
    reads = "weights"
    derivation = "derived"
    nulls = ("random_keys", "independent_models")
    paper = "Liu, Weng and Zhu, ICML 2021"
    key_type = SignKey

    layer: str
    bits: Annotated[int, Ge(1)] = 256
    """256 in the official code, as many as the hash of a signature."""
    columns: Annotated[int, Ge(2)] = 253
    """Of the pooled matrix: 253 in the official code, or as many as the layer has weights for."""
    dropped: Annotated[float, Ge(0), Lt(1)] = 0.5
    """Share of every row; half in the official code (divider 2)."""
    margin: Annotated[float, Gt(0)] = 0.1
    """tau, the residual beyond which a bit costs nothing; 0.1 in the official code."""
    strength: Annotated[float, Gt(0)] = 0.05
    """lambda, of the sum over bits; 0.01 in the official code over 200 epochs, which in 15 sets 206 of 256 bits."""
    payload: str | None = None
    """What the bits say, in hexadecimal, under a secret pad and repeated; None: the pad alone."""

    def keygen(
        self, task: Task, secret: Secret, model: nn.Module | None = None, fit: Fit | None = None
    ) -> SignKey:
        weights = weight_of(model if model is not None else task.fresh(None), self.layer).numel()
        if weights < 2 * self.bits:
            raise NotApplicable(
                f"{self.layer} has {weights} weights, too few for two columns of {self.bits} bits; "
                f"set watermark.bits to at most {weights // 2} or another layer"
            )
        return SignKey(secret, self.layer, weights, encoded(self.payload, secret, self.bits, PURPOSE))

    def residuals(self, weights_J: Tensor) -> Tensor:
        """(B,) of a layer's flattened weight."""
        columns = min(self.columns, weights_J.numel() // self.bits)
        return residuals(weights_J, self.bits, columns, self.dropped)

    def embed(self, model: nn.Module, key: SignKey, task: Task, fit: Fit) -> nn.Module:
        """Train from scratch with a hinge on every residual's sign."""

        def penalty(live: nn.Module) -> Tensor:
            weight = weight_of(live, self.layer)
            signs_B = 2 * key.bits_B.to(weight.device, weight.dtype) - 1
            return self.strength * (self.margin - signs_B * self.residuals(weight.flatten())).relu().sum()

        return fit(task.fresh(None), task.owner, penalty=penalty, label="marked")

    def score(self, suspects: Suspects, keys: Sequence[SignKey]) -> Scores:
        """Matching signs, two-sided: an attack that inverts them has not removed them. ValueError for a key of another length."""
        expect_length((key.bits_B for key in keys), self.bits, "watermark.bits")
        hits_MK = scored(suspects, keys, torch.flatten, partial(_matches, self))
        return Scores.binomial(hits_MK, self.bits, 0.5, "matching bits", two_sided=True)

    def read(self, suspect: nn.Module, key: SignKey) -> Message | None:
        (weight,) = Suspects([suspect]).weights(self.layer)
        if weight is None or weight.numel() != key.weights:
            return None
        read_B = (self.residuals(weight.flatten().double()) > 0).to(torch.uint8)
        return decoded(read_B, self.payload, key.secret, PURPOSE)


def _matches(scheme: GreedyResiduals, weights_MJ: Tensor, keys: list[SignKey]) -> Tensor:
    """(M, K) int64: a suspect's residuals are the same for every key."""
    found_MB = torch.stack([scheme.residuals(weights_J) > 0 for weights_J in weights_MJ.double()])
    expected_KB = torch.stack([key.bits_B for key in keys]).bool()
    return (found_MB[:, None] == expected_KB).sum(-1)
