"""Bits that a secret network reads, embedded so that the weights look like any others (RIGA: Wang and Kerschbaum, WWW 2021,
arXiv:1910.14268).

An extractor, a network of one hidden layer, maps the mean filter to bits. A detector learns to tell the sorted weights of the live
layer from those of the unmarked victim, and the model is trained to be taken for the victim.

The paper trains the extractor along with the model. Here it is drawn from the secret and kept: an extractor that is trained can
learn to read its owner's bits out of any model, so it has no exact null. With fair bits and an extractor fixed beforehand the
matching bits of an independent model are binomial.

Suffixes: M suspects, K keys, J weights read, Q quantiles of the layer, H hidden units, B bits.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn
from torch.nn import functional

from ..core.contracts import Fit, Task, Watermark
from ..core.errors import NotApplicable
from ..core.key import Key, expect_length
from ..core.payload import Message, decoded, encoded
from ..core.scores import Scores
from ..core.secret import Secret, seed_for
from ..core.suspects import Suspects
from ..kernels import philox
from .parameter import mean_filter, scored, weight_of

PURPOSE = "riga/bits"
CLIP = 0.1  # of the detector's weights, in the official code
QUANTILES = 256  # of a layer's sorted weights, that the detector sees
DETECTOR_UNITS = 32
DETECTOR_LR = 1e-3


@dataclass(frozen=True, eq=False)
class ExtractorKey(Key):
    """The extractor (J -> H -> B) comes from the secret; bits_B (B,) are uint8."""

    layer: str
    weights: int
    hidden: int
    bits_B: Tensor

    def extractor(self) -> tuple[Tensor, Tensor]:
        """Its two matrices, (J, H) and (H, B), standard normal: logits are large for small weights, so a mark needs small ones."""
        bits = len(self.bits_B)
        first_JH = philox.normals(self.secret.stream("riga/first"), self.weights * self.hidden)
        second_HB = philox.normals(self.secret.stream("riga/second"), self.hidden * bits)
        return first_JH.reshape(self.weights, self.hidden), second_HB.reshape(self.hidden, bits)


def extracted(weights_MJ: Tensor, first_JH: Tensor, second_HB: Tensor) -> Tensor:
    """The extractor's logits (M, B). Its activation is odd, so that bits of small weights are fair too."""
    return torch.tanh(weights_MJ @ first_JH) @ second_HB


class Detector(nn.Module):
    """A critic of sorted weights (Q,): large for the unmarked victim's."""

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(QUANTILES, DETECTOR_UNITS), nn.ReLU(), nn.Linear(DETECTOR_UNITS, 1)
        )
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.uniform_(-CLIP, CLIP, generator=generator)

    def forward(self, sorted_Q: Tensor) -> Tensor:
        found: Tensor = self.layers(sorted_Q)[0]
        return found


def quantiles(weight: Tensor) -> Tensor:
    """(Q,): the sorted weights, in means of equally many."""
    return functional.adaptive_avg_pool1d(weight.flatten().sort().values[None], QUANTILES)[0]


class Hiding:
    """The loss of being told from the victim: by how much the critic values the victim's weights above the live ones, and 0 when it
    does not (as published, minus its value of the live ones, which pushes them past the victim's). Each call first trains the
    critic, as a Wasserstein GAN does: more for the victim's weights, less for the live ones, its own weights clipped."""

    def __init__(self, victim: Tensor, generator: torch.Generator, rounds: int) -> None:
        self.scale = float(victim.std())
        self.natural_Q = quantiles(victim) / self.scale
        self.detector = Detector(generator)
        self.optimizer = torch.optim.RMSprop(self.detector.parameters(), lr=DETECTOR_LR)
        self.rounds = rounds

    def __call__(self, weight: Tensor) -> Tensor:
        self.detector.to(weight.device)
        live_Q = quantiles(weight) / self.scale
        for _ in range(self.rounds):
            self.optimizer.zero_grad()
            (self.detector(live_Q.detach()) - self.detector(self.natural_Q.to(weight.device))).backward()
            self.optimizer.step()
            with torch.no_grad():
                for parameter in self.detector.parameters():
                    parameter.clamp_(-CLIP, CLIP)
        gap: Tensor = self.detector(self.natural_Q.to(weight.device)).detach() - self.detector(live_Q)
        return gap.relu()


@dataclass(frozen=True)
class Riga(Watermark):
    family = "parameter"
    reads = "weights"
    derivation = "derived"
    nulls = ("random_keys", "independent_models")
    paper = "Wang and Kerschbaum, RIGA, WWW 2021, arXiv:1910.14268"
    key_type = ExtractorKey

    layer: str
    bits: Annotated[int, Ge(1)] = 256
    hidden: Annotated[int, Ge(1)] = 512
    """Units of the extractor; with as many as bits some bits cannot be set."""
    strength: Annotated[float, Gt(0)] = 0.002
    """lambda 1, of the cross-entropy summed over bits. 0.05 in the official code, whose extractor learns too; here 0.01 widens
    the weights by a fifth on digits, 0.002 no more than another seed does."""
    hiding: Annotated[float, Ge(0)] = 0.01
    """lambda 2, of the detector; 0 in the official code's example, which hides nothing. On digits it hides no better than a small
    `strength` does by itself, and 0.1 as published widened the weights."""
    rounds: Annotated[int, Ge(1)] = 5
    """Of the detector's training at every step; 5 in the official code."""
    payload: str | None = None
    """What the bits say, in hexadecimal, under a secret pad and repeated; None: the pad alone."""

    def keygen(
        self, task: Task, secret: Secret, model: nn.Module | None = None, fit: Fit | None = None
    ) -> ExtractorKey:
        weight = weight_of(model if model is not None else task.fresh(None), self.layer)
        length = mean_filter(weight.detach()).numel()
        if length < 2:
            raise NotApplicable(
                f"{self.layer} has a mean filter of {length} weight, an extractor needs 2; set watermark.layer"
            )
        bits_B = encoded(self.payload, secret, self.bits, PURPOSE)
        return ExtractorKey(secret, self.layer, length, self.hidden, bits_B)

    def embed(self, model: nn.Module, key: ExtractorKey, task: Task, fit: Fit) -> nn.Module:
        """Train from scratch, against the extractor and the detector; `model` is the victim that the weights shall resemble."""
        generator = torch.Generator().manual_seed(seed_for(key.secret.stream("riga/detector")[0], "riga"))
        hide = Hiding(weight_of(model, self.layer).detach().cpu(), generator, self.rounds)
        first_JH, second_HB = key.extractor()

        def penalty(live: nn.Module) -> Tensor:
            weight = weight_of(live, self.layer)
            first, second = first_JH.to(weight.device), second_HB.to(weight.device)
            logits_B = extracted(mean_filter(weight)[None], first, second)[0]
            bits_B = key.bits_B.to(weight.device, logits_B.dtype)
            loss = self.strength * functional.binary_cross_entropy_with_logits(
                logits_B, bits_B, reduction="sum"
            )
            return loss + self.hiding * hide(weight) if self.hiding else loss

        return fit(task.fresh(None), task.owner, penalty=penalty, label="marked")

    def score(self, suspects: Suspects, keys: Sequence[ExtractorKey]) -> Scores:
        """Matching bits, two-sided: an attack that inverts them has not removed them. ValueError for a key of another length."""
        expect_length((key.bits_B for key in keys), self.bits, "watermark.bits")
        hits_MK = scored(suspects, keys, mean_filter, matches)
        return Scores.binomial(hits_MK, self.bits, 0.5, "matching bits", two_sided=True)

    def read(self, suspect: nn.Module, key: ExtractorKey) -> Message | None:
        (weight,) = Suspects([suspect]).weights(self.layer)
        if weight is None or weight.ndim < 2 or mean_filter(weight).numel() != key.weights:
            return None
        first_JH, second_HB = key.extractor()
        logits_B = extracted(mean_filter(weight)[None].double(), first_JH.double(), second_HB.double())[0]
        return decoded((logits_B > 0).to(torch.uint8), self.payload, key.secret, PURPOSE)


def matches(weights_MJ: Tensor, keys: list[ExtractorKey]) -> Tensor:
    """(M, K) int64. The extractors are drawn one at a time."""
    columns = []
    for key in keys:
        first_JH, second_HB = key.extractor()
        found_MB = extracted(weights_MJ.double(), first_JH.double(), second_HB.double()) > 0
        columns.append((found_MB == key.bits_B.bool()).sum(1))
    return torch.stack(columns, 1)
