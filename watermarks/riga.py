"""Bits that a secret network reads, embedded so that the weights look like any others (RIGA: Wang and Kerschbaum, WWW 2021,
arXiv:1910.14268).

An extractor, a network of one hidden layer, maps the mean filter to bits. A detector learns to tell the sorted mean filter of the
live layer from those of unmarked models, and the model is trained to be taken for one. The mean filter is what is marked: a layer's
single weights hardly show what widens their mean two and a half times. (Of a linear layer the official code marks all weights.)

The paper trains the extractor along with the model. Here it is drawn from the secret and kept: an extractor that is trained can
learn to read its owner's bits out of any model, so it has no exact null. With fair bits and an extractor fixed beforehand the
matching bits of an independent model are binomial.

Suffixes: M suspects, K keys, J weights read, N mean filters shown to the detector, H hidden units, B bits.
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
SLOPE = 0.2  # of the detector's leaky ReLU, in the official code
DETECTOR_UNITS = 512  # in the official code
DETECTOR_LR = 5e-5  # in the official code; 1e-3 oscillates and costs bits
HELD = 5  # steps of the model against one detector; an epoch in the official code, whose epochs are a thousand steps
REDRAWN = 8  # mean filters shown at a time; 100 in the official code, which has many unmarked models


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
    """A critic of sorted mean filters (N, J), one number each: large for an unmarked model's."""

    def __init__(self, weights: int, generator: torch.Generator) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.utils.skip_init(nn.Linear, weights, DETECTOR_UNITS),
            nn.LeakyReLU(SLOPE),
            nn.utils.skip_init(nn.Linear, DETECTOR_UNITS, 1),
        )
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.uniform_(-CLIP, CLIP, generator=generator)

    def forward(self, sorted_NJ: Tensor) -> Tensor:
        found: Tensor = self.layers(sorted_NJ)[:, 0]
        return found


class Hiding:
    """The loss of being told from an unmarked model: by how much the critic values unmarked mean filters above the live one, and 0
    when it does not (as published, minus its value of the live one, which pushes it past them). Every HELD
    calls the critic is trained first, as a Wasserstein GAN does: more for the unmarked, less for the live one, its weights clipped.

    The official code shows its critic many unmarked models. One victim is at hand here: its mean filter is redrawn, weight by
    weight and with replacement, so that what the critic learns is how the victim's weights are distributed and not their values."""

    def __init__(self, victim_J: Tensor, generator: torch.Generator, rounds: int) -> None:
        self.scale = float(victim_J.std())
        self.victim_J = victim_J / self.scale
        self.generator, self.rounds = generator, rounds
        self.detector = Detector(len(victim_J), generator)
        self.optimizer = torch.optim.RMSprop(self.detector.parameters(), lr=DETECTOR_LR)
        self.calls, self.natural = 0, torch.zeros(())

    def unmarked(self) -> Tensor:
        """(N, J), sorted."""
        index_NJ = torch.randint(len(self.victim_J), (REDRAWN, len(self.victim_J)), generator=self.generator)
        return self.victim_J[index_NJ].sort(1).values

    def train(self, live_1J: Tensor) -> None:
        for _ in range(self.rounds):
            shown_NJ = torch.cat((live_1J, self.unmarked().to(live_1J.device)))
            self.optimizer.zero_grad()
            values_N = self.detector(shown_NJ)
            (values_N[0] - values_N[1:].mean()).backward()
            self.optimizer.step()
            with torch.no_grad():
                for parameter in self.detector.parameters():
                    parameter.clamp_(-CLIP, CLIP)
        with torch.no_grad():
            self.natural = self.detector(self.unmarked().to(live_1J.device)).mean()

    def __call__(self, live_J: Tensor) -> Tensor:
        live_1J = live_J.sort().values[None] / self.scale
        if self.calls % HELD == 0:
            self.detector.to(live_J.device)
            self.train(live_1J.detach())
        self.calls += 1
        gap: Tensor = self.natural - self.detector(live_1J).mean()
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
    strength: Annotated[float, Gt(0)] = 0.01
    """lambda 1, of the cross-entropy summed over bits; 0.01 by default in the official code, 0.05 in its example."""
    hiding: Annotated[float, Ge(0)] = 0.05
    """lambda 2, of the detector; 0.1 by default in the official code, 0 in its example, which hides nothing. On digits the mean
    filter of a marked model is 4.3 times as wide as the victim's with 0 and 0.97 to 1.00 times with 0.05; from seed to seed it is
    0.8 to 1.2 times."""
    rounds: Annotated[int, Ge(1)] = 10
    """Of the detector's training at every fifth step: on digits 540 in all. The official code has 5 an epoch, 500 in all on
    MNIST."""
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
        hide = Hiding(mean_filter(weight_of(model, self.layer).detach().cpu()), generator, self.rounds)
        first_JH, second_HB = key.extractor()

        def penalty(live: nn.Module) -> Tensor:
            weights_J = mean_filter(weight_of(live, self.layer))
            first, second = first_JH.to(weights_J.device), second_HB.to(weights_J.device)
            logits_B = extracted(weights_J[None], first, second)[0]
            bits_B = key.bits_B.to(weights_J.device, logits_B.dtype)
            loss = self.strength * functional.binary_cross_entropy_with_logits(
                logits_B, bits_B, reduction="sum"
            )
            return loss + self.hiding * hide(weights_J) if self.hiding else loss

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
