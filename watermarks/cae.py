"""Fingerprint: adversarial examples that surrogates of the victim share and other models do not (conferrable examples: Lukas, Zhang
and Kerschbaum, ICLR 2021, arXiv:1912.00888). The owner extracts his own model and trains independent ones to find them.

The paper's ensemble method (CEM) descends three cross-entropies together: of the conferrability, away from the victim's answer to
the input, and between the victim and its surrogates, with some models dropped at each step; here PGD descends the first alone, and
the victim counts as one of its surrogates.

Suffixes: N inputs, C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn

from ..core.contracts import Fit, Task
from ..core.errors import NotApplicable
from ..core.examples import Examples
from ..core.secret import seed_for
from ..core.suspects import logits
from ..kernels.row_labels import row_labels
from .adversarial_keys import answers, frozen, pgd
from .fingerprint import LabelFingerprint
from .trigger import to_grey_levels


def conferrability(surrogates_NC: Tensor, references_NC: Tensor) -> Tensor:
    """Transfer to surrogates times (1 - transfer to references), equation 2, with mean probabilities for the shares of models
    that say a class: (N, C)."""
    return surrogates_NC * (1 - references_NC)


def mean_scores(models: Sequence[nn.Module], inputs: Tensor) -> Tensor:
    """(N, C) mean class probabilities of an ensemble, differentiable."""
    return torch.stack([torch.softmax(model(inputs), -1) for model in models]).mean(0)


@dataclass(frozen=True)
class Cae(LabelFingerprint):
    paper = "Lukas et al., ICLR 2021, arXiv:1912.00888"

    surrogates: Annotated[int, Ge(1)] = 2
    """Retrained on the victim's labels; 18 in the paper, as many references."""
    references: Annotated[int, Ge(1)] = 2
    """Trained on the owner's own labels."""
    epochs: Annotated[int, Ge(1)] = 10
    """Of each."""
    share: Annotated[float, Gt(0), Le(1)] = 0.5
    """Of the owner's data for each training, so that references differ as strangers' models do."""
    epsilon: Annotated[float, Gt(0)] = 0.15
    steps: Annotated[int, Ge(1)] = 20
    candidates: Annotated[int, Ge(1)] = 3
    """Times as many are tried as kept: those that conferred best, of those with another label than their input's."""

    def asked(self, model: nn.Module, task: Task, generator: torch.Generator, fit: Fit | None) -> Tensor:
        if fit is None:
            raise ValueError("cae trains surrogates and references for its queries: pass a fit")
        seed = int(torch.randint(2**62, (1,), generator=generator))
        stolen = Examples(task.owner.inputs, row_labels(logits(model, task.owner.inputs)))
        copies = self._trained(task, stolen, self.surrogates, seed_for(seed, "surrogates"), fit)
        others = self._trained(task, task.owner, self.references, seed_for(seed, "references"), fit)
        count = min(self.candidates * self.queries, len(task.owner))
        start_N = task.owner.inputs[torch.randperm(len(task.owner), generator=generator)[:count]]
        source_N = row_labels(logits(model, start_N))
        inside = [frozen(model), *copies]

        def loss(inputs: Tensor) -> Tensor:
            found_NC = conferrability(mean_scores(inside, inputs), mean_scores(others, inputs))
            return -found_NC.scatter(1, source_N[:, None], 0).amax(1).clamp_min(1e-12).log()

        tried_N = to_grey_levels(pgd(start_N, loss, self.epsilon, self.steps))
        with torch.no_grad():
            value_N = loss(tried_N.float() / 255)
        moved = torch.nonzero(answers(model, tried_N) != source_N)[:, 0]
        if len(moved) < self.queries:
            raise NotApplicable(
                f"{len(moved)} conferrable examples were found, {self.queries} are needed; set "
                f"{f'watermark.queries={len(moved)} or ' if len(moved) > 1 else ''}a larger watermark.epsilon"
            )
        return tried_N[moved[value_N[moved].argsort(stable=True)[: self.queries]]]

    def _trained(self, task: Task, data: Examples, count: int, seed: int, fit: Fit) -> list[nn.Module]:
        """From other initial weights, on other halves of the data."""
        recipe = replace(task.recipe, epochs=self.epochs)
        models = []
        for i in range(count):
            own = torch.Generator().manual_seed(seed_for(seed, i))
            part = data.take(
                torch.randperm(len(data), generator=own)[: max(2, round(self.share * len(data)))]
            )
            fresh = task.fresh(seed_for(seed, "init", i))
            models.append(frozen(fit(fresh, part, recipe=recipe, label="conferring")))
        return models
