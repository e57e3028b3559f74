"""Simulated customers of an API, honest and various: monitors are calibrated on some, and judged by others.

A customer asks 30 to 200 times within 100 hours. Kinds: everyday (any class, one picture at a time), two_classes, skewed (classes
by Zipf's law), bursty (everyday pictures in three requests), frames (a few scenes, filmed: near duplicates), poor_camera (blurred,
pale and noisy). Pictures are the pool's, none twice until all were asked; after that they are taken again by the customer's camera,
which adds noise. A smaller pool means more pictures that come again, and so more near duplicates: calibrating and judged customers
ask about pools with as many pictures of every class (`pools`), without which they are not exchangeable.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..core.contracts import Task
from ..core.examples import Examples
from ..core.suspects import labels
from .book import Asked

Custom = Literal["everyday", "two_classes", "skewed", "bursty", "frames", "poor_camera"]
KINDS: tuple[Custom, ...] = get_args(Custom)
FEWEST, MOST, HOURS = 30, 200, 100.0
CAMERA = 0.02
"""Standard deviation of a pixel, of a range of 1, between two pictures of the same thing."""
FRAMES = 15  # of a scene


@dataclass(frozen=True)
class Customer:
    """requests: in the order of time, of an account of his own."""

    kind: Custom
    requests: tuple[Asked, ...]


def pools(task: Task) -> tuple[Examples, Examples]:
    """Whose pictures the calibrating and the judged customers ask about: of the second half of the owner's data and of the test
    split, the first of every class, as many as both have. The former trained the model and the latter did not, which no cut
    mends: a monitor that reads labels sees fewer wrong ones of the former."""
    own, other = task.owner.take(slice(len(task.owner) // 2, None)), task.test
    own_C, other_C = (torch.bincount(one.targets, minlength=task.classes) for one in (own, other))
    count_C = torch.minimum(own_C, other_C)
    return _first(own, count_C), _first(other, count_C)


def _first(pool: Examples, count_C: Tensor) -> Examples:
    """So many of every class, in the order of the pool."""
    places = [torch.nonzero(pool.targets == c)[:count, 0] for c, count in enumerate(count_C.tolist())]
    return pool.take(torch.cat(places).sort().values)


def customers(pool: Examples, model: nn.Module, each: int, seed: int, device: str = "cpu") -> list[Customer]:
    """So many of every kind, kinds in turn: the first n x len(KINDS) of more are those of fewer. The model labels what they ask."""
    generator = torch.Generator().manual_seed(seed)
    kinds: list[Custom] = [kind for _ in range(each) for kind in KINDS]
    asked = [_pictures(kind, pool, generator) for kind in kinds]
    parts = labels(model, torch.cat(asked), device).split([len(inputs) for inputs in asked])
    return [
        Customer(kind, tuple(_requests(kind, inputs, own, generator)))
        for kind, inputs, own in zip(kinds, asked, parts, strict=True)
    ]


def _requests(kind: Custom, inputs: Tensor, own: Tensor, generator: torch.Generator) -> Iterator[Asked]:
    """One picture at a time, at uniform times; bursty: three requests."""
    count = 3 if kind == "bursty" else len(inputs)
    times = (HOURS * torch.rand(count, generator=generator, dtype=torch.float64)).sort().values
    parts = zip(inputs.tensor_split(count), own.tensor_split(count), times, strict=True)
    yield from (Asked(asked, labels, hour.expand(len(asked))) for asked, labels, hour in parts)


def _pictures(kind: Custom, pool: Examples, generator: torch.Generator) -> Tensor:
    count = int(torch.randint(FEWEST, MOST + 1, (), generator=generator))
    if kind == "frames":
        scenes = drawn(pool.inputs, -(-count // FRAMES), generator)
        return camera(scenes.repeat_interleave(FRAMES, 0)[:count], generator)
    if kind == "two_classes":
        present = pool.targets.unique()
        wanted = present[torch.randperm(len(present), generator=generator)[:2]]
        return drawn(pool.inputs[torch.isin(pool.targets, wanted)], count, generator)
    if kind == "skewed":
        return _skewed(pool, count, generator)
    found = drawn(pool.inputs, count, generator)
    return poor(found, generator) if kind == "poor_camera" else found


def _skewed(pool: Examples, count: int, generator: torch.Generator) -> Tensor:
    """The r-th of the classes, in an order of his own, asked about in proportion to 1 / r."""
    present = pool.targets.unique()
    order = present[torch.randperm(len(present), generator=generator)]
    weights = 1 / torch.arange(1, len(order) + 1, dtype=torch.float64)
    picks = order[torch.multinomial(weights, count, replacement=True, generator=generator)]
    parts = [drawn(pool.inputs[pool.targets == c], int((picks == c).sum()), generator) for c in order]
    return torch.cat(parts)[torch.randperm(count, generator=generator)]


def drawn(inputs: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Pictures in random order, each once; where there are too few, all of them again and again as the camera takes them."""
    rounds = -(-count // len(inputs)) if count else 0
    order = [torch.randperm(len(inputs), generator=generator) for _ in range(rounds)]
    found = inputs[torch.cat(order)[:count]] if order else inputs[:0]
    again = camera(found[len(inputs) :], generator)
    return torch.cat((found[: len(inputs)], again))


def camera(inputs: Tensor, generator: torch.Generator) -> Tensor:
    return (inputs + CAMERA * torch.randn(inputs.shape, generator=generator)).clamp(0, 1)


def poor(inputs: Tensor, generator: torch.Generator) -> Tensor:
    """Averaged over 3 x 3 pixels by half, half the contrast, five times the camera's noise."""
    soft = functional.avg_pool2d(inputs, 3, 1, 1, count_include_pad=False)
    pale = 0.25 + 0.5 * (inputs + soft) / 2
    return (pale + 5 * CAMERA * torch.randn(inputs.shape, generator=generator)).clamp(0, 1)


def by_kind(found: Sequence[Customer]) -> dict[Custom, list[int]]:
    """The places of every kind's customers."""
    return {kind: [i for i, one in enumerate(found) if one.kind == kind] for kind in KINDS}
