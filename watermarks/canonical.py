"""A weight mark embedded and read in the network's canonical form, which permuted, scaled, negated or added channels do not change.

The counter-measure to function-preserving obfuscation (Yan et al., USENIX Security 2023) by a canonical form (Canon,
arXiv:2603.12679). The victim is brought into canonical form and its marked layer trained on with the scheme's own penalty: the
layers before it stay, so that the channels it reads keep their places. Every suspect is brought into the form before its weights
are read. The form of a suspect depends on nothing but its weights, so the scheme's exact tail stays what it is.
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import nn

from ..core.contracts import Configured, Fit, Recipe, Task, Watermark
from ..core.errors import NotApplicable
from ..core.key import Key
from ..core.payload import Message
from ..core.scores import Scores
from ..core.secret import Secret
from ..core.suspects import Suspects
from ..zoo.canonical import canonicalize


@dataclass(frozen=True)
class Canonical(Watermark):
    family = "parameter"
    reads = "weights"
    derivation = "derived"
    nulls = ("random_keys", "independent_models")
    paper = "Canon, arXiv:2603.12679"

    __pydantic_config__ = {**Configured.__pydantic_config__, "arbitrary_types_allowed": True}  # noqa: RUF012 - pydantic's name

    scheme: Watermark
    """Reads the weights of one layer, with an exact null, and marks by one training from `task.fresh(None)`."""
    recipe: Recipe
    """Of that training, which starts from the trained victim."""

    def __post_init__(self) -> None:
        scheme = self.scheme
        layered = isinstance(getattr(scheme, "layer", None), str)
        if (
            not layered
            or scheme.reads != "weights"
            or scheme.derivation != "derived"
            or "random_keys" not in scheme.nulls
        ):
            raise ValueError(
                "expected a scheme that reads one layer, with derived keys and an exact null; set watermark@watermark.scheme=uchida"
            )
        object.__setattr__(self, "key_type", scheme.key_type)

    def keygen(
        self, task: Task, secret: Secret, model: nn.Module | None = None, fit: Fit | None = None
    ) -> Key:
        return self.scheme.keygen(task, secret, model, fit)

    def embed(self, model: nn.Module, key: Any, task: Task, fit: Fit) -> nn.Module:
        """The scheme's own embedding, from the victim's canonical form. NotApplicable when that is narrower than the victim: a
        channel that nobody reads, or a clone."""
        start = canonicalize(model)
        shapes = [{name: t.shape for name, t in m.state_dict().items()} for m in (model, start)]
        if shapes[0] != shapes[1]:
            raise NotApplicable("the victim has channels that nobody reads; its canonical form is narrower")

        def fresh(seed: int | None) -> nn.Module:
            return deepcopy(start) if seed is None else task.fresh(seed)

        gently = partial(fit, recipe=self.recipe, only=[vars(self.scheme)["layer"]])
        return self.scheme.embed(start, key, replace(task, fresh=fresh), gently)

    def score(self, suspects: Suspects, keys: Sequence[Any]) -> Scores:
        return self.scheme.score(Suspects([form(m) for m in suspects.models], suspects.device), keys)

    def read(self, suspect: nn.Module, key: Any) -> Message | None:
        return self.scheme.read(form(suspect), key)


def form(model: nn.Module) -> nn.Module:
    """The canonical form; of a network whose channels cannot be found, the network itself."""
    try:
        return canonicalize(model)
    except NotApplicable:
        return model
