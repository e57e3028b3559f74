"""Filters of what an API answers: rounding, the k best, the label alone, noise. Misinformation is in misinformation.py.

Those that only tell less come after an API mark, those that answer wrongly on purpose before it: the mark has the last word on the
label, so its ledger says what was answered. Suffixes: N inputs, C classes.
"""

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from annotated_types import Ge, Gt
from torch import Tensor

from ..core.contracts import Configured
from ..core.secret import seed_for
from ..kernels.row_labels import row_labels
from .home import Home

Filter = Callable[[Tensor, Tensor], Tensor]
"""(inputs (N, ...), scores (N, C)) -> scores (N, C)."""


class Defence(Configured, ABC):
    """A filter before it has seen the owner's home."""

    coarse: ClassVar[bool]
    """Whether the answered label stays what it was."""
    paper: ClassVar[str]

    @abstractmethod
    def ready(self, home: Home) -> Filter: ...


@dataclass(frozen=True)
class Rounded(Defence):
    """Scores to so many decimals (Tramer et al., USENIX Security 2016, section 7)."""

    coarse = True
    paper = "Tramer et al., USENIX Security 2016, arXiv:1609.02943"

    decimals: Annotated[int, Ge(0)] = 2

    def ready(self, home: Home) -> Filter:
        return self

    def __call__(self, inputs: Tensor, scores: Tensor) -> Tensor:
        return scores.round(decimals=self.decimals)


@dataclass(frozen=True)
class TopK(Defence):
    """The k largest scores as they are; the others are not told, which reads 0. Of equal scores the lower classes."""

    coarse = True
    paper = "Orekondy et al., CVPR 2019, arXiv:1812.02766"

    count: Annotated[int, Ge(1)] = 3

    def ready(self, home: Home) -> Filter:
        return self

    def __call__(self, inputs: Tensor, scores: Tensor) -> Tensor:
        kept = scores.sort(dim=1, descending=True, stable=True).indices[:, : self.count]
        return torch.zeros_like(scores).scatter(1, kept, scores.gather(1, kept))


@dataclass(frozen=True)
class LabelOnly(Defence):
    """1 for the label, 0 for the others."""

    coarse = True
    paper = "Tramer et al., USENIX Security 2016, arXiv:1609.02943"

    def ready(self, home: Home) -> Filter:
        return self

    def __call__(self, inputs: Tensor, scores: Tensor) -> Tensor:
        return torch.zeros_like(scores).scatter(1, row_labels(scores).clamp_min(0)[:, None], 1.0)


@dataclass(frozen=True)
class Noise(Defence):
    """Laplace or Gaussian noise on the scores, which are then cut at 0 and divided by their sum.

    Equal inputs get equal noise, so asking again averages nothing out; inputs that differ by next to nothing get noise of their
    own, which averages out over them. Two vectors of probabilities differ by at most 2 in L1: with
    Laplace noise and `keep_label` off one answer is 2 / scale differentially private in its scores (Dwork et al., TCC 2006), and n
    answers 2 n / scale. A kept label is told as it is, and no such bound holds. The noise follows from the trial's public seed: the
    thief of a trial does not use that, and a service has to keep its seed to itself."""

    coarse = False
    paper = "Dwork et al., TCC 2006"

    law: Literal["laplace", "gaussian"] = "laplace"
    scale: Annotated[float, Gt(0)] = 0.1
    """b of Laplace, the standard deviation of Gaussian noise."""
    keep_label: bool = True
    """The best class trades places with the noise's choice."""

    def ready(self, home: Home) -> Filter:
        seed = seed_for(home.seed, "noise of answers")
        return lambda inputs, scores: self.noisy(inputs, scores, seed)

    def noisy(self, inputs: Tensor, scores: Tensor, seed: int) -> Tensor:
        uniform_NC = keyed_uniforms(inputs, scores.shape[1], seed)
        if self.law == "laplace":
            centred_NC = uniform_NC - 0.5
            noise_NC = -self.scale * centred_NC.sign() * torch.log1p(-2 * centred_NC.abs())
        else:
            noise_NC = self.scale * math.sqrt(2) * torch.erfinv(2 * uniform_NC - 1)
        found_NC = (scores.double() + noise_NC).clamp_min(0)  # cut at 1 too, two classes could tie
        # A row that is cut to nothing says nothing: it is uniform, or the label alone.
        nothing_NC = LabelOnly()(inputs, scores) if self.keep_label else torch.ones_like(scores)
        found_NC = torch.where(found_NC.sum(1, keepdim=True) > 0, found_NC, nothing_NC.double())
        found_NC = (found_NC / found_NC.sum(1, keepdim=True)).to(scores)
        return relabelled(found_NC, row_labels(scores)) if self.keep_label else found_NC


def relabelled(scores: Tensor, labels: Tensor) -> Tensor:
    """Rows in which the best class trades places with the label; those of label -1 stay."""
    rows = torch.nonzero(labels >= 0)[:, 0]
    best, wanted = row_labels(scores)[rows], labels[rows]
    out = scores.clone()
    out[rows, best], out[rows, wanted] = scores[rows, wanted], scores[rows, best]
    return out


def keyed_uniforms(inputs: Tensor, count: int, seed: int) -> Tensor:
    """(N, count) float64 in (0, 1): a stream for every input, named by its content and the seed."""
    key = seed.to_bytes(8, "big")
    rows = inputs.detach().cpu().flatten(1).contiguous().numpy() + 0.0  # -0 equals 0 and has other bytes
    found = np.empty((len(rows), count))
    for row, out in zip(rows, found, strict=True):
        digest = hashlib.blake2b(row.tobytes(), digest_size=16, key=key).digest()
        out[:] = np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "big"))).random(count)
    return torch.from_numpy(found).clamp(2.0**-53, 1 - 2.0**-53)
