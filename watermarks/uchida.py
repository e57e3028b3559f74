"""Bits in secret projections of one layer's mean filter (Uchida et al., ICMR 2017, arXiv:1701.04082; Nagai et al. 2018).

derived: the projection comes from the secret by a keyed PRF, and a key with any other is refused. chosen: a key may bring its own
matrix, as published, so an accuser bends one to a model he did not mark; the null holds for owners who drew theirs honestly.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn
from torch.nn import functional

from ..core.contracts import Fit, Forged, Task, Watermark, fished
from ..core.errors import NotApplicable
from ..core.key import Key, expect_length
from ..core.payload import Message, decoded, encoded
from ..core.scores import Scores
from ..core.secret import Secret
from ..core.suspects import Suspects
from ..kernels.difference_matches import difference_matches
from ..kernels.keyed_projection import projection_matches, projection_matrix
from ..kernels.projection_columns import Kind
from .parameter import mean_filter, scored, weight_of

Projection = Literal["random", "sign", "direct", "diff"]
GENERATED: dict[str, Kind] = {"random": "normal", "sign": "sign"}
FORGING_RATE = 0.01  # of Adam, on entries of size 1: some 20 steps turn every bit


@dataclass(frozen=True, eq=False)
class ProjectionKey(Key):
    """The projection (J, B) is derived from the secret whenever it is needed, unless the key brings its own; the bits (B,) are
    uint8."""

    layer: str
    projection: Projection
    weights: int
    """J, the length of the mean filter."""
    bits_B: Tensor
    matrix_JB: Tensor | None = None
    """A matrix that somebody chose; None: the secret's."""

    def matrix(self) -> Tensor:
        """X (J, B): the key's own, or standard normal (random), one 1 per column (direct), or a +1 and a -1 per column (diff),
        Nagai et al.; sign, +1 and -1 everywhere, is ours: the same mark, whose matrix costs verification a bit an
        element."""
        if self.matrix_JB is not None:
            return self.matrix_JB
        bits = len(self.bits_B)
        if self.projection in GENERATED:
            return projection_matrix(self.stream(), self.weights, bits, GENERATED[self.projection])
        plus_B, minus_B = self.positions()
        matrix_JB = torch.zeros(self.weights, bits)
        matrix_JB[plus_B, torch.arange(bits)] = 1
        if minus_B is not None:
            matrix_JB[minus_B, torch.arange(bits)] = -1
        return matrix_JB

    def stream(self) -> tuple[int, int]:
        """Of the projections random and sign."""
        return self.secret.stream("uchida/projection")

    def positions(self) -> tuple[Tensor, Tensor | None]:
        """Where a column of direct or diff has its +1 and its -1, (B,) each; None for direct."""
        bits = len(self.bits_B)
        plus_B = self.secret.order("uchida/plus", self.weights)[torch.arange(bits) % self.weights]
        if self.projection == "direct":
            return plus_B, None
        shift_B = 1 + self.secret.integers("uchida/minus", bits, self.weights - 1)
        return plus_B, (plus_B + shift_B) % self.weights


def matches(weights_MJ: Tensor, keys: Sequence[ProjectionKey]) -> Tensor:
    """(M, K) matching bits of keys with one length J. ValueError for keys of several projections."""
    chosen = {k: key.matrix_JB for k, key in enumerate(keys) if key.matrix_JB is not None}
    drawn = [k for k in range(len(keys)) if k not in chosen]
    found_MK = torch.empty(len(weights_MJ), len(keys), dtype=torch.int64)
    if drawn:
        found_MK[:, drawn] = matches_of_drawn(weights_MJ, [keys[k] for k in drawn])
    for k, matrix_JB in chosen.items():
        signs_MB = weights_MJ.double() @ matrix_JB.double() > 0
        found_MK[:, k] = (signs_MB == keys[k].bits_B.bool()).sum(1)
    return found_MK


def matches_of_drawn(weights_MJ: Tensor, keys: Sequence[ProjectionKey]) -> Tensor:
    """Of keys whose matrices come from their secrets, which are never held."""
    expected_KB = torch.stack([key.bits_B for key in keys])
    projection = keys[0].projection
    if any(key.projection != projection for key in keys):
        raise ValueError(f"expected keys of projection {projection} alone; set watermark.projection")
    if projection in GENERATED:
        streams = [key.stream() for key in keys]
        return projection_matches(weights_MJ, streams, expected_KB, GENERATED[projection])
    plus, minus = zip(*(key.positions() for key in keys), strict=True)
    minus_KB = None if projection == "direct" else torch.stack(minus)
    return difference_matches(weights_MJ, torch.stack(plus), minus_KB, expected_KB)


def bit_loss(mean_filter_J: Tensor, matrix_JB: Tensor, bits_B: Tensor) -> Tensor:
    """Binary cross-entropy of sigmoid(w X) against the bits, *summed* over them as in the official code."""
    logits_B = mean_filter_J @ matrix_JB
    return functional.binary_cross_entropy_with_logits(logits_B, bits_B.to(logits_B.dtype), reduction="sum")


@dataclass(frozen=True)
class Uchida(Watermark):
    family = "parameter"
    reads = "weights"
    nulls = ("random_keys", "independent_models")
    paper = "Uchida et al., ICMR 2017, arXiv:1701.04082"
    key_type = ProjectionKey

    layer: str
    derivation: Literal["derived", "chosen"] = "derived"
    """chosen: a key may bring its own matrix, as published."""
    bits: Annotated[int, Ge(1)] = 256
    strength: Annotated[float, Gt(0)] = 0.01
    """lambda; 0.01 in the paper and the official code."""
    projection: Projection = "random"
    payload: str | None = None
    """What the bits say, in hexadecimal, under a secret pad and repeated; None: the pad alone."""

    def keygen(
        self, task: Task, secret: Secret, model: nn.Module | None = None, fit: Fit | None = None
    ) -> ProjectionKey:
        weight = weight_of(model if model is not None else task.fresh(None), self.layer)
        length = mean_filter(weight.detach()).numel()
        if self.projection != "random" and length < 2:
            raise NotApplicable(
                f"{self.layer} has a mean filter of {length} weight; {self.projection} needs 2"
            )
        if self.bits > length:  # as many signs of linear projections can be set as there are weights
            raise NotApplicable(
                f"{self.layer} has a mean filter of {length} weights, which carries no more than {length} bits; "
                f"set watermark.bits to at most {length} or another layer"
            )
        # Fair bits from the secret; the official code embeds all ones, which has no random-key null.
        bits_B = encoded(self.payload, secret, self.bits, "uchida/bits")
        return ProjectionKey(secret, self.layer, self.projection, length, bits_B)

    def embed(self, model: nn.Module, key: ProjectionKey, task: Task, fit: Fit) -> nn.Module:
        """Train from scratch with the loss of the projected *live* weights added."""
        matrix_JB, bits_B = key.matrix(), key.bits_B

        def penalty(live: nn.Module) -> Tensor:
            weight = weight_of(live, self.layer)
            loss = bit_loss(mean_filter(weight), matrix_JB.to(weight.device), bits_B.to(weight.device))
            return self.strength * loss

        return fit(task.fresh(None), task.owner, penalty=penalty, label="marked")

    def score(self, suspects: Suspects, keys: Sequence[ProjectionKey]) -> Scores:
        """Matching bits, two-sided: an attack that inverts the message has not removed it. ValueError for a key of another
        length, and for one with a matrix of its own where keys are derived."""
        expect_length((key.bits_B for key in keys), self.bits, "watermark.bits")
        if self.derivation == "derived" and any(key.matrix_JB is not None for key in keys):
            raise ValueError(
                "expected keys whose matrix comes from their secret, got a chosen one; set watermark.derivation=chosen"
            )
        hits_MK = scored(suspects, keys, mean_filter, matches)
        return Scores.binomial(hits_MK, self.bits, 0.5, "matching bits", two_sided=True)

    def read(self, suspect: nn.Module, key: ProjectionKey) -> Message | None:
        (weight,) = Suspects([suspect]).weights(self.layer)
        if weight is None or weight.ndim < 2 or mean_filter(weight).numel() != key.weights:
            return None
        bits_B = (mean_filter(weight).double() @ key.matrix().double() > 0).to(torch.uint8)
        return decoded(bits_B, self.payload, key.secret, "uchida/bits")

    def forge(self, model: nn.Module, task: Task, secret: Secret, tries: int, fit: Fit) -> Iterator[Forged]:
        """A chosen matrix is bent to the model: gradient descent on the scheme's own loss, in X, the weights frozen."""
        if self.derivation == "derived":
            yield from fished(self, model, task, secret, tries)
            return
        key = self.keygen(task, secret, model)
        weights_J = mean_filter(weight_of(model, self.layer).detach().float().cpu())
        matrix_JB = key.matrix().clone().requires_grad_(True)
        optimizer = torch.optim.Adam([matrix_JB], lr=FORGING_RATE)
        for step in range(1, tries + 1):
            optimizer.zero_grad()
            bit_loss(weights_J, matrix_JB, key.bits_B).backward()
            optimizer.step()
            if step == tries or step in (1, 10, 100, 1000):
                yield Forged(step, replace(key, matrix_JB=matrix_JB.detach().clone()))
