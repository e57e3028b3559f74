"""Overwriting: the thief embeds a mark of the same scheme with a key of his own (Wang & Kerschbaum, ICASSP 2019, against Uchida
et al.). The record judges both keys: the owner's in the thief's model, the thief's in his own and in the owner's.

The scheme trains on from the stolen model by its ordinary embedding, its strength multiplied by a grid. A scheme without a
`strength` is embedded once, as it stands; one that embeds nothing leaves further training alone. A strength at which training
diverges leaves no model to use, and ends the grid.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any

from annotated_types import Gt

from ..core.contracts import Recipe
from ..core.errors import ConfigError, NotApplicable
from ..core.key import Key
from ..core.secret import Secret
from ..core.theft import Access, Adversary, Attack, Surrogate


def strengthened(scheme: Any, multipliers: tuple[float, ...]) -> Iterator[tuple[float, Any]]:
    """The scheme at every multiple of its `strength`, weakest first; itself alone when it has none."""
    strength = getattr(scheme, "strength", None)
    if not isinstance(strength, float):
        yield 1.0, scheme
        return
    for multiplier in sorted(multipliers):
        yield multiplier, replace(scheme, strength=multiplier * strength)


@dataclass(frozen=True)
class Overwrite(Attack):
    needs = "weights"
    data = "labelled"
    axis = "strength multiplier"
    scheme_known = True
    paper = "Wang & Kerschbaum, ICASSP 2019"

    recipe: Recipe | None = None
    """Of the thief's embedding; None: he trains as the owner did."""
    multipliers: tuple[Annotated[float, Gt(0)], ...] = (1.0, 10.0, 100.0)
    """Of the scheme's strength."""

    def key(self, adversary: Adversary, scheme: Any, model: Any) -> Key:
        """The thief's own key, by the scheme's sampler. NotApplicable when his data do not suffice for it."""
        task = adversary.as_owner(model, self.recipe or adversary.recipe)
        secret = Secret.simulated(adversary.seed, "overwrite")
        try:
            found: Key = scheme.keygen(task, secret, model, adversary.fit)
        except ConfigError as error:  # the owner's settings, on less data than the owner has
            raise NotApplicable(f"the thief cannot mark as the owner did: {error}") from None
        return found

    def __call__(self, access: Access, adversary: Adversary) -> Iterator[Surrogate]:
        model = access.weights()
        recipe = self.recipe or adversary.recipe
        task, fit = adversary.as_owner(model, recipe), partial(adversary.fit, recipe=recipe)
        for i, (multiplier, scheme) in enumerate(strengthened(adversary.scheme, self.multipliers)):
            key = self.key(adversary, scheme, model)
            try:
                marked = scheme.embed(model, key, task, fit)
            except FloatingPointError:
                if i == 0:
                    raise
                return
            yield Surrogate(multiplier, marked, mark=key)
