"""Forging: an accuser makes a key for a model he did not mark (Fan et al., NeurIPS 2019, arXiv:1909.07830, ambiguity attacks).

How is the scheme's own affair (`Watermark.forge`): gradients on a chosen key, or nothing but many secrets where keys are derived.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge

from ..core.contracts import fished
from ..core.errors import ConfigError, NotApplicable
from ..core.secret import Secret
from ..core.theft import Access, Adversary, Attack, Surrogate


@dataclass(frozen=True)
class Forge(Attack):
    needs = "weights"
    goal = "claim"
    data = "none"
    axis = "tries"
    scheme_known = True
    paper = "Fan et al., NeurIPS 2019, arXiv:1909.07830"

    how: Literal["scheme", "fishing"]
    """scheme: the best that is known against it; fishing: keys at random, the best is shown."""
    tries: Annotated[int, Ge(1)] = 1000
    """Keys, or gradient steps."""

    def __call__(self, access: Access, adversary: Adversary) -> Iterator[Surrogate]:
        model = access.weights()
        task = adversary.as_owner(model, adversary.recipe)
        secret = Secret.simulated(adversary.seed, "accuser")
        scheme = adversary.scheme
        if self.how == "scheme":
            found = scheme.forge(model, task, secret, self.tries, adversary.fit)
        else:
            if "random_keys" not in scheme.nulls:
                raise NotApplicable(
                    "the scheme's keys follow a model: attack=forge makes one, there is nothing to fish for"
                )
            found = fished(scheme, model, task, secret, self.tries)
        try:
            for one in found:
                yield Surrogate(float(one.tries), access.weights(), claim=one.key, deposits=one.deposits)
        except ConfigError as error:  # the owner's settings, on less data than the owner has
            raise NotApplicable(f"the accuser cannot make such a key: {error}") from None
