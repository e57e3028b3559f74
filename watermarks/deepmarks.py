"""A code for every buyer in one layer's mean filter (DeepMarks: Chen et al., ICMR 2019, arXiv:1804.03648).

Codes are AND-ACC codes (Trappe et al., IEEE Trans. Signal Processing 51(4), 2003) of the projective plane of order 5, a
(31, 6, 1)-design: buyer i's code has -1 at the points of line i and +1 elsewhere. Averaging copies leaves +1 exactly where all
their codes have it, and as two lines share one point, five others cannot cover a line of six: up to 5 colluders are the lines that
lie wholly in what is covered.

A copy carries f = U c (U orthonormal) in the projection X w. X has independent normal entries, so for weights that know nothing of
the secret X w has a uniform direction, and its cosine with any f fixed beforehand is Student's: c sqrt(d - 1) / sqrt(1 - c^2) with
d - 1 degrees of freedom, exactly; the same as P[|cos| >= c] = I_(1 - c^2)((d - 1) / 2, 1 / 2).

Suffixes: M suspects, K keys, J weights read, V code length, U users.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Annotated

import numpy as np
import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn

from ..core.contracts import Fit, Task, Watermark
from ..core.directions import cosine_log10_p
from ..core.errors import ConfigError
from ..core.key import Key
from ..core.scores import Scores
from ..core.secret import Secret
from ..core.statistics import Floats
from ..core.suspects import Suspects
from ..kernels import philox
from ..kernels.keyed_projection import projection_matrix, projections
from .parameter import mean_filter, scored, weight_of

DIFFERENCES = (
    1,
    5,
    11,
    24,
    25,
    27,
)  # every residue but 0 modulo 31 is one difference of two: Singer 1938, order 5
LENGTH = 31  # points and lines of the plane, code length and users
COLLUDERS = 5  # k - 1 (Trappe et al. 2003)
TAGS = 0.8  # between 1, what all colluders share, and 1 - 2 / COLLUDERS, what one of five lacks


@dataclass(frozen=True, eq=False)
class BuyerKey(Key):
    """The codebook, U and X come from the secret and are the same for all buyers."""

    layer: str
    weights: int
    user: int


@cache
def codes() -> Tensor:
    """(U, V) of +1 and -1: line i is the difference set moved by i."""
    codes_UV = torch.ones(LENGTH, LENGTH)
    for user in range(LENGTH):
        codes_UV[user, [(point + user) % LENGTH for point in DIFFERENCES]] = -1
    return codes_UV


def basis(secret: Secret) -> Tensor:
    """U (V, V) orthonormal, float64: the Q of normals, its signs fixed by R's diagonal."""
    normals = philox.normals(secret.stream("deepmarks/basis"), LENGTH * LENGTH).double()
    q, r = torch.linalg.qr(normals.reshape(LENGTH, LENGTH))
    signed: Tensor = q * r.diagonal().sign()
    return signed


def marks(secret: Secret) -> Tensor:
    """(U, V) float64: f = U c of every user, of norm sqrt(V)."""
    return codes().double() @ basis(secret).T


def decode(projected_V: Tensor, secret: Secret) -> list[int]:
    """The users whose line lies wholly in what some colluder's line covers: those whose copies were averaged, if no more than
    COLLUDERS. `projected_V` is X w. The amplitude is that of the COLLUDERS largest tags: five lines leave at least 5 of 31
    uncovered."""
    tags_V = projected_V.double() @ basis(secret)
    amplitude = tags_V.topk(COLLUDERS).values.mean()
    covered_V = tags_V < TAGS * amplitude
    found_U = (covered_V | (codes() > 0)).all(1)
    return [int(user) for user in found_U.nonzero()[:, 0]]


@dataclass(frozen=True)
class DeepMarks(Watermark):
    family = "parameter"
    reads = "weights"
    derivation = "derived"
    nulls = ("random_keys", "independent_models")
    paper = "Chen et al., DeepMarks, ICMR 2019, arXiv:1804.03648"
    key_type = BuyerKey

    layer: str
    strength: Annotated[float, Gt(0)] = 10.0
    """gamma, of the squared distance from the mark; 0.1 in the paper, for codes of amplitude 1 and longer trainings."""
    amplitude: Annotated[float, Gt(0)] = 0.1
    """Of a tag. The paper's codes have amplitude 1, which forces a small layer's weights far from where training puts them."""
    epochs: Annotated[int, Ge(1)] = 5
    lr: Annotated[float, Gt(0)] = 0.01
    """Of the fine-tuning that marks a copy: all copies come from one trained model, so averages of them work."""
    user: Annotated[int, Ge(0)] = 0
    """Of the owner's own copy."""

    def keygen(
        self, task: Task, secret: Secret, model: nn.Module | None = None, fit: Fit | None = None
    ) -> BuyerKey:
        weight = weight_of(model if model is not None else task.fresh(None), self.layer)
        return self._key(secret, mean_filter(weight.detach()).numel(), self.user)

    def buyer_key(self, task: Task, secret: Secret, buyer: int, model: nn.Module | None = None) -> BuyerKey:
        """The same secret for every buyer, so that codes add up when buyers collude."""
        key = self.keygen(task, secret, model)
        return self._key(secret, key.weights, self.user + buyer)

    def _key(self, secret: Secret, weights: int, user: int) -> BuyerKey:
        if not 0 <= user < LENGTH:
            raise ConfigError(f"the codebook has users 0 to {LENGTH - 1}, got {user}; set watermark.user=0")
        return BuyerKey(secret, self.layer, weights, user)

    def embed(self, model: nn.Module, key: BuyerKey, task: Task, fit: Fit) -> nn.Module:
        """Fine-tune the trained victim with the distance of the *live* projection from the buyer's mark added."""
        matrix_JV = projection_matrix(_stream(key), key.weights, LENGTH, "normal") / math.sqrt(key.weights)
        mark_V = self.amplitude * marks(key.secret)[key.user].float()

        def penalty(live: nn.Module) -> Tensor:
            weight = weight_of(live, self.layer)
            projected_V = mean_filter(weight) @ matrix_JV.to(weight.device)
            return self.strength * (projected_V - mark_V.to(weight.device)).square().sum()

        recipe = replace(task.recipe, epochs=self.epochs, lr=self.lr)
        return fit(model, task.owner, recipe=recipe, penalty=penalty, label="marked")

    def score(self, suspects: Suspects, keys: Sequence[BuyerKey]) -> Scores:
        """The cosine of X w with the key's mark, two-sided; exact, see the module."""
        cosine_MK = scored(suspects, keys, mean_filter, cosines)
        return Scores(cosine_MK, "cosine", None, two_sided_log10_p(cosine_MK, LENGTH), 0.0, "cosine")

    def accuse(self, suspect: nn.Module, keys: Sequence[BuyerKey], fpr: float) -> list[int]:
        """The keys whose codes the decoder finds and whose own evidence holds at fpr / len(keys). Codes of one book resemble each
        other, so evidence alone would accuse buyers who look like the guilty."""
        log10_p_MK = self.score(Suspects([suspect]), keys).log10_p_MK
        assert log10_p_MK is not None
        (weight,) = Suspects([suspect]).weights(self.layer)
        suspected = [k for k, p in enumerate(log10_p_MK[0].tolist()) if p <= math.log10(fpr / len(keys))]
        if not suspected or weight is None:
            return []
        found = {k: keys[k].user in decode(projected(weight, keys[k]), keys[k].secret) for k in suspected}
        return [k for k in suspected if found[k]]


def _stream(key: BuyerKey) -> tuple[int, int]:
    return key.secret.stream("deepmarks/projection")


def projected(weight: Tensor, key: BuyerKey) -> Tensor:
    """X w (V,) float64, up to a positive factor."""
    return projections(mean_filter(weight)[None], [_stream(key)], LENGTH, "normal")[0, 0]


def cosines(weights_MJ: Tensor, keys: list[BuyerKey]) -> Tensor:
    """(M, K) float64."""
    projected_MKV = projections(weights_MJ, [_stream(key) for key in keys], LENGTH, "normal")
    marks_KV = torch.stack([marks(key.secret)[key.user] for key in keys])
    return torch.cosine_similarity(projected_MKV, marks_KV, dim=-1)


def two_sided_log10_p(cosine_MK: Floats, dimensions: int) -> Floats:
    """log10 P[|cos| >= |c|] of a uniform direction with a fixed one. nan gives 0."""
    c = np.clip(np.nan_to_num(np.abs(cosine_MK)), 0, 1)
    return np.minimum(cosine_log10_p(c, dimensions) + math.log10(2), 0)
