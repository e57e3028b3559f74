"""What attacks that train share: a surrogate per reported epoch, and the generators of their own draws."""

import copy
from collections.abc import Sequence

import torch
from torch import nn

from ..core.contracts import Loss, Objective, Penalty, Recipe
from ..core.examples import Examples
from ..core.secret import seed_for
from ..core.theft import Adversary, Surrogate


def drawing(adversary: Adversary, *names: str | int) -> torch.Generator:
    """The thief's own stream of random numbers for one named purpose."""
    return torch.Generator().manual_seed(seed_for(adversary.seed, *names))


def snapshot(live: nn.Module) -> nn.Module:
    """A copy of a model in training: on the CPU, in eval mode."""
    return copy.deepcopy(live).to("cpu").to(memory_format=torch.contiguous_format).eval()


def followed(
    adversary: Adversary,
    model: nn.Module,
    recipe: Recipe,
    report: Sequence[int],
    *,
    data: Examples | None = None,
    loss: Loss | None = None,
    penalty: Penalty | None = None,
    objective: Objective | None = None,
    only: Sequence[str] | None = None,
    label: str = "fine-tuning",
) -> list[Surrogate]:
    """Train a copy by the recipe; a surrogate after each reported epoch and the last, with what was spent until then.
    data: the thief's own when None; the other arguments are those of `Fit`."""
    reached: list[Surrogate] = []

    def keep(epoch: int, live: nn.Module) -> None:
        if epoch in report or epoch == recipe.epochs:
            reached.append(Surrogate(float(epoch), snapshot(live), adversary.spent()))

    adversary.fit(
        model,
        adversary.data if data is None else data,
        recipe=recipe,
        loss=loss,
        penalty=penalty,
        objective=objective,
        only=only,
        each_epoch=keep,
        label=label,
    )
    return reached
