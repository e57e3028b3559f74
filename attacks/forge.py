"""Forging: an accuser makes a key for a model he did not mark (Fan et al., NeurIPS 2019, arXiv:1909.07830, ambiguity attacks).

How is the scheme's own affair (`Watermark.forge`): gradients on a chosen key, or nothing but many secrets where keys are derived.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from annotated_types import Ge
from torch import nn

from ..core.contracts import Forged, Task, Watermark, fished
from ..core.errors import ConfigError, NotApplicable
from ..core.secret import Secret
from ..core.suspects import Suspects
from ..core.theft import Access, Adversary, Attack, Surrogate

NEIGHBOURS = 50  # secrets that are tried before the climber moves on to the best of them


def climbed(
    scheme: Watermark, model: nn.Module, task: Task, secret: Secret, tries: int, seed: int
) -> Iterator[Forged]:
    """Hill climbing: from the best secret so far to the best of those that differ from it in one bit. Behind a hash every
    neighbour is a stranger, so it climbs no faster than fishing; all that was tried counts as deposited."""
    generator = torch.Generator().manual_seed(seed)
    raw, done = secret.raw, 1
    best = scheme.keygen(task, secret, model)
    height = float(scheme.score(Suspects([model]), [best]).extremity_MK[0, 0])
    yield Forged(1, best)
    while done < tries:
        bits = torch.randperm(8 * len(raw), generator=generator)[: min(NEIGHBOURS, tries - done)].tolist()
        near = [bytes(b ^ (1 << bit % 8) if i == bit // 8 else b for i, b in enumerate(raw)) for bit in bits]
        keys = [scheme.keygen(task, Secret(one), model) for one in near]
        heights = scheme.score(Suspects([model]), keys).extremity_MK[0]
        done += len(bits)
        if heights.max() > height:
            found = int(heights.argmax())
            raw, best, height = near[found], keys[found], float(heights[found])
            if done < tries:
                yield Forged(done, best, deposits=done)
    if done > 1:
        yield Forged(done, best, deposits=done)


@dataclass(frozen=True)
class Forge(Attack):
    needs = "weights"
    goal = "claim"
    data = "none"
    axis = "tries"
    scheme_known = True
    paper = "Fan et al., NeurIPS 2019, arXiv:1909.07830"

    how: Literal["scheme", "fishing", "climbing"]
    """scheme: the best that is known against it; fishing: keys at random, the best is shown; climbing: from key to better key."""
    tries: Annotated[int, Ge(1)] = 1000
    """Keys, or gradient steps."""

    def __call__(self, access: Access, adversary: Adversary) -> Iterator[Surrogate]:
        model = access.weights()
        task = adversary.as_owner(model, adversary.recipe)
        secret = Secret.simulated(adversary.seed, "accuser")
        scheme = adversary.scheme
        if self.how != "scheme" and "random_keys" not in scheme.nulls:
            raise NotApplicable(
                "the scheme's keys follow a model: attack=forge makes one, there is nothing to fish for"
            )
        if self.how == "scheme":
            found = scheme.forge(model, task, secret, self.tries, adversary.fit)
        elif self.how == "fishing":
            found = fished(scheme, model, task, secret, self.tries)
        else:
            found = climbed(scheme, model, task, secret, self.tries, adversary.seed)
        try:
            for one in found:
                yield Surrogate(float(one.tries), access.weights(), claim=one.key, deposits=one.deposits)
        except ConfigError as error:  # the owner's settings, on less data than the owner has
            raise NotApplicable(f"the accuser cannot make such a key: {error}") from None
