"""Evasion at verification: a stolen model that changes what it is asked, or what it answers (Lukas et al., S&P 2022, "input
transformations"; Xu et al., NDSS 2018). Its weights stay as they are and can be read; what fails is a trigger's fine structure.

The transform is a hook of the copy: no parameter is added, and `copy.deepcopy` takes it along.
"""

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import Gt
from torch import Tensor, nn

from ..core.secret import seed_for
from ..core.theft import Access, Adversary, Attack, Surrogate
from . import filters

Transform = Literal["jpeg", "blur", "median", "quantise", "noise", "flip", "squeeze", "coarse"]
FILTERS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "jpeg": filters.jpeg,
    "blur": filters.blur,
    "median": filters.median,
    "quantise": filters.quantise,
    "noise": filters.noise,
    "flip": filters.flip,
    "squeeze": filters.squeeze,
    "coarse": filters.coarse,
}
LIMITS: dict[str, tuple[float, float]] = {
    "jpeg": (0, 99),  # quality 1 is the worst there is
    "blur": (0, math.inf),
    "median": (1, math.inf),  # pixels
    "quantise": (0, 7),  # a bit is left
    "noise": (0, math.inf),
    "flip": (0, 1),
    "squeeze": (0, 7),
    "coarse": (0, 3),
}
"""The strengths that a filter has."""


@dataclass
class Before:
    """A forward pre-hook: the module is called with changed inputs."""

    change: Callable[[Tensor], Tensor]

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (self.change(args[0]), *args[1:])


@dataclass
class Behind:
    """A forward hook: the module's output is changed, given its (changed) input."""

    change: Callable[[Tensor, Tensor], Tensor]

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        return self.change(args[0], output)


@dataclass(frozen=True)
class Filter:
    """One transform at one strength, of inputs alone or of (inputs, outputs)."""

    name: str
    strength: float
    seed: int
    """Of the noise."""

    def __call__(self, *tensors: Tensor) -> Tensor:
        if self.name == "noise":
            return filters.noise(tensors[-1], self.strength, self.seed)
        return FILTERS[self.name](tensors[-1], self.strength)


@dataclass(frozen=True)
class Evade(Attack):
    needs = "weights"
    data = "none"
    axis = "filter strength"
    pictures_only = True
    paper = "Lukas et al., S&P 2022, arXiv:2108.04974"

    transform: Transform
    strengths: tuple[Annotated[float, Gt(0)], ...]
    """jpeg: 100 - quality. blur, noise: sigma, in pixels and in the pixel range. median: the window's side. quantise, squeeze:
    bits dropped of 8. flip: the mirror image's share. coarse: decimals dropped of 3, the answer's."""

    def __post_init__(self) -> None:
        least, most = LIMITS[self.transform]
        beyond = [strength for strength in self.strengths if not least <= strength <= most]
        if beyond:
            raise ValueError(f"{self.transform} has strengths from {least:g} to {most:g}, got {beyond[0]:g}")

    def __call__(self, access: Access, adversary: Adversary) -> Iterator[Surrogate]:
        model = access.weights()
        for strength in sorted(self.strengths):
            evading = copy.deepcopy(model).eval()
            change = Filter(self.transform, strength, seed_for(adversary.seed, "filter"))
            if self.transform == "coarse":
                evading.register_forward_hook(Behind(change))
            else:
                evading.register_forward_pre_hook(Before(change))
            yield Surrogate(strength, evading)
