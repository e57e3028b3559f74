"""An API's scores lean towards a target class the more an input resembles a secret pattern (after Neural Honeytrace: Xu et al.,
ICML 2026, arXiv:2501.09328). Nothing is trained: a student learns the lean, and pictures mixed with the pattern show it.

The pattern and the target are derived from the secret, so strangers' keys are an exact null: p = (1 + #{>=}) / (1 + K). The t
statistic has no tail of its own: its pictures share one pattern. What the unmarked model answers by nature is subtracted; that is
ours, and leaves the null exact, since it is the same function of every key.

Suffixes: M suspects, K keys, N queries, T pictures, C classes.
"""

import hmac
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from annotated_types import Ge, Gt, Le, Lt
from torch import Tensor, nn
from torch.nn import functional

from ..core.contracts import Fit, Task, Watermark
from ..core.errors import ConfigError
from ..core.examples import Ledger
from ..core.key import Key, expect_length
from ..core.scores import Scores
from ..core.secret import Secret
from ..core.suspects import Suspects, logits
from ..kernels.row_labels import row_labels
from .trigger import to_grey_levels

FULL = 1.5
"""Standard deviations of resemblance at which the lean is full."""


@dataclass(frozen=True, eq=False)
class HoneytraceKey(Key):
    """pattern (C, H, W) uint8; `target` class; centre and scale of the resemblance over the owner's data; images_T (2 T, C, H, W)
    uint8: the owner's inputs with the pattern mixed in, then the same with its negative; own_T (T,) float64, the unmarked model's
    `contrast` on them, which is what models of the task answer by nature."""

    target: int
    centre: float
    scale: float
    pattern: Tensor
    images_T: Tensor
    own_T: Tensor


def resemblance(inputs: Tensor, pattern: Tensor) -> Tensor:
    """Cosine of each input less its mean with the pattern less its own, (N,) float64; 0 for a flat input."""
    flat_ND = inputs.double().flatten(1)
    secret_D = pattern.double().flatten()
    flat_ND = flat_ND - flat_ND.mean(1, keepdim=True)
    return functional.cosine_similarity(flat_ND, (secret_D - secret_D.mean())[None], dim=1)


def contrast(log_TC: Tensor, target: int) -> Tensor:
    """(T,) the target's log-probability with the pattern less that with its negative, of log-probabilities (2 T, C)."""
    with_pattern_T, without_T = log_TC[:, target].chunk(2)
    return with_pattern_T - without_T


def log_scores(model: nn.Module, pictures: Tensor, device: str = "cpu") -> Tensor:
    """(N, C) float64 of uint8 pictures."""
    return torch.log_softmax(logits(model, pictures.float() / 255, device).double(), -1)


def paired_t(difference_T: Tensor) -> float:
    """Mean over its standard error; 0 where nothing differs."""
    error = float(difference_T.std() / math.sqrt(len(difference_T)))
    return float(difference_T.mean()) / error if error > 0 else 0.0


@dataclass(frozen=True)
class Honeytrace(Watermark):
    family = "output"
    reads = "scores"
    derivation = "derived"
    nulls = ("random_keys", "independent_models")
    paper = "Xu et al., ICML 2026, arXiv:2501.09328"
    key_type = HoneytraceKey
    embeds = False
    answers = True

    mix: Annotated[float, Ge(0), Lt(1)] = 0.3
    """Share of the target in the scores of an input that resembles the pattern fully."""
    flip: Annotated[float, Ge(0), Le(1)] = 0.05
    """Chance that such an input is answered with the target itself: labels alone carry the lean too."""
    blend: Annotated[float, Gt(0), Le(1)] = 0.2
    """Share of the pattern in the pictures of the key."""
    triggers: Annotated[int, Ge(2)] = 32
    """Pairs of pictures, of the owner's inputs."""

    def keygen(
        self, task: Task, secret: Secret, model: nn.Module | None = None, fit: Fit | None = None
    ) -> HoneytraceKey:
        """Resemblance is one of pixels, where the paper takes hidden features: the gateway may keep the model elsewhere.
        ValueError without the model; ConfigError when the owner has too few inputs."""
        if model is None:
            raise ValueError("honeytrace compares suspects with the unmarked model: pass the trained model")
        if self.triggers > len(task.owner):
            raise ConfigError(
                f"expected at most {len(task.owner)} triggers, as many as the owner has examples, got {self.triggers}; "
                f"set watermark.triggers={len(task.owner)}"
            )
        pattern = secret.images("honeytrace/pattern", *task.shape)
        found_N = resemblance(task.owner.inputs, pattern)
        mine = task.owner.inputs[secret.order("honeytrace/inputs", len(task.owner))[: self.triggers]]
        lean = self.blend * (pattern - 0.5)
        quiet = (1 - self.blend) * mine + self.blend / 2
        target = int(secret.integers("honeytrace/target", 1, task.classes))
        images_T = to_grey_levels(torch.cat((quiet + lean, quiet - lean)))
        return HoneytraceKey(
            secret,
            target,
            float(found_N.mean()),
            float(found_N.std()),
            to_grey_levels(pattern),
            images_T,
            contrast(log_scores(model, images_T), target),
        )

    def embed(self, model: nn.Module, key: HoneytraceKey, task: Task, fit: Fit) -> nn.Module:
        return fit(task.fresh(None), task.owner, label="victim")

    def lean(self, key: HoneytraceKey, inputs: Tensor) -> Tensor:
        """(N,) in [0, 1]: standardised resemblance over FULL."""
        found_N = resemblance(inputs, key.pattern)
        return ((found_N - key.centre) / (key.scale * FULL)).clamp(0, 1)

    def answer(self, key: HoneytraceKey, inputs: Tensor, scores: Tensor, ledger: Ledger) -> Tensor:
        """Equal inputs get equal answers: the coin of a flip is an HMAC of the picture."""
        lean_N = self.lean(key, inputs)
        weight_N1 = (self.mix * lean_N).to(scores)[:, None]
        target_C = functional.one_hot(torch.tensor(key.target), scores.shape[1]).to(scores)
        mixed_NC = (1 - weight_N1) * scores + weight_N1 * target_C
        flips_N = (coins(key.secret, inputs) < self.flip * lean_N) & (row_labels(mixed_NC) >= 0)
        best_N1 = row_labels(mixed_NC).clamp_min(0)[:, None]
        flipped_NC = mixed_NC.scatter(1, best_N1, mixed_NC[:, key.target : key.target + 1])
        flipped_NC[:, key.target] = mixed_NC.gather(1, best_N1)[:, 0]
        return torch.where(flips_N[:, None], flipped_NC, mixed_NC)

    def score(self, suspects: Suspects, keys: Sequence[HoneytraceKey]) -> Scores:
        """Paired t of the suspect's contrast less the unmarked model's. ValueError for a key of another length, nan for a suspect
        without the target class."""
        expect_length((key.images_T for key in keys), 2 * self.triggers, "watermark.triggers")
        images_U = torch.cat([key.images_T for key in keys])
        statistic_MK = np.full((len(suspects), len(keys)), np.nan)
        for m, model in enumerate(suspects.models):
            log_UC = log_scores(model, images_U, suspects.device)
            for k, (key, log_TC) in enumerate(zip(keys, log_UC.split(2 * self.triggers), strict=True)):
                if key.target < log_TC.shape[1] and log_TC.isfinite().all():
                    statistic_MK[m, k] = paired_t(contrast(log_TC, key.target) - key.own_T)
        return Scores(statistic_MK, "t", self.triggers)


def coins(secret: Secret, inputs: Tensor) -> Tensor:
    """(N,) float64, uniform in [0, 1), by HMAC-SHA256 of each picture's grey levels."""
    key = secret.derive("honeytrace/coins", 32)
    rows = to_grey_levels(inputs).flatten(1).numpy()
    digests = [hmac.digest(key, row.tobytes(), "sha256") for row in rows]
    return torch.tensor([int.from_bytes(d[:6], "big") / 2.0**48 for d in digests], dtype=torch.float64)
