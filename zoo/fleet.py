"""A fleet: many models of one architecture, each with its own seed and data, trained a few at a time in stacked layers.

A member is the model that `Trainer(hardware, task.recipe, seed)(task.fresh(None), task.owner)` returns, up to rounding: the
same initial weights, batches in the same order, optimiser, schedule, statistics and checks; in float64 they agree to 1e-9.
In float32 sums are taken in another order, and training amplifies that wherever the input of a ReLU changes its sign:
after two epochs on digits four of six members agreed to 3e-6 in every weight. Two differed by 6e-3 and 0.1, but by 5e-7
and 7e-5 from the training in float64; there it is the Trainer's own rounding that was amplified.

On a CPU a few members share a cache best; a GPU wants many, for its time goes into calls.
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import TypeVar

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.nn import functional

from ..core.contracts import Recipe, Task
from ..core.errors import ConfigError, NotApplicable
from ..core.secret import seed_for
from . import models
from .stacked import Bias, Flatten, Layer, Linear, Norm, Normalise, Relu
from .stacked_conv import Axis, DirectConv, FirstConv, TransformedConv
from .training import Hardware, Loader

CPU_GROUP, GPU_GROUP = 4, 256
Shape = tuple[int, int, int]
PLAIN: dict[type[nn.Module], type[Layer]] = {models.Normalise: Normalise, nn.ReLU: Relu, nn.Flatten: Flatten}
T = TypeVar("T")


def group_size(hardware: Hardware) -> int:
    """How many members are trained at a time where nobody says."""
    return CPU_GROUP if hardware.device == "cpu" else GPU_GROUP


def train_fleet(
    tasks: Iterable[Task],
    seeds: Sequence[int],
    hardware: Hardware,
    *,
    group: int | None = None,
    label: str = "fleet",
) -> Iterator[nn.Module]:
    """The trained models, one per task and seed (that of its `Trainer`), in their order and in eval mode; tasks are taken
    `group` at a time, so neither tasks nor models need be in memory together.

    Raises NotApplicable at the first model when the network has layers beyond zoo/stacked.py's or the precision is
    not float32: train them one by one; ConfigError when the tasks of a group differ in size or recipe; FloatingPointError as
    Trainer does, for all of the group."""
    if hardware.precision != "32-true":
        raise NotApplicable(f"a fleet trains in float32, not in {hardware.precision}")
    group = group or group_size(hardware)
    waiting = iter(tasks)
    with _bar(label, len(seeds), hardware.progress) as advance:
        for start in range(0, len(seeds), group):
            part = seeds[start : start + group]
            members = list(islice(waiting, len(part)))
            if len(members) < len(part):
                raise ValueError(
                    f"expected a task per seed, got {start + len(members)} for {len(seeds)} seeds"
                )
            yield from Group(members, part, hardware).train(advance)


class Group:
    """Members that are trained together."""

    def __init__(self, tasks: Sequence[Task], seeds: Sequence[int], hardware: Hardware) -> None:
        self.seeds, self.device = seeds, hardware.device
        self.networks = [task.fresh(None).to(self.device) for task in tasks]
        self.layers = stacked(self.networks, _same("shape of the inputs", [task.shape for task in tasks]))
        self.recipe = _same("recipe", [task.recipe for task in tasks])
        size = _same("number of examples", [len(task.owner) for task in tasks])
        if size < 2:
            raise ConfigError(f"training needs at least 2 examples, got {size}; raise task.limit")
        self.loaders = [
            Loader(task.owner, self.recipe.batch_size, seed_for(seed, "fit", 0))
            for task, seed in zip(tasks, seeds, strict=True)
        ]
        self.steps = 0

    @torch.no_grad()
    def train(self, advance: Callable[[float], None]) -> list[nn.Module]:
        weights = [weight for layer in self.layers.values() for weight in layer.weights.values()]
        optimizer = _optimizer(weights, self.recipe)
        schedule = _schedule(optimizer, self.recipe, self.recipe.epochs * len(self.loaders[0]))
        for _ in range(self.recipe.epochs):
            for batches in zip(*self.loaders, strict=True):
                self.step(*(torch.stack(part).to(self.device) for part in zip(*batches, strict=True)))
                optimizer.step()
                if self.recipe.schedule == "cosine":
                    schedule.step()
            if self.recipe.schedule == "step":
                schedule.step()
            self._expect_finite_state()
            advance(len(self.seeds) / self.recipe.epochs)
        for layer in self.layers.values():
            layer.store()
        return [network.to("cpu").eval() for network in self.networks]

    def step(self, inputs: Tensor, targets: Tensor) -> None:
        """Leaves each member's gradients in its weights; inputs are (G, N, C, H, W)."""
        x = inputs.permute(0, 3, 1, 4, 2).contiguous()
        for layer in self.layers.values():
            x = layer.forward(x)
        losses, d = cross_entropy(x.flatten(3)[:, 0], targets)
        self.steps += 1
        self._expect_finite(losses, "the loss")
        d = d.view(x.shape)
        for layer in reversed(self.layers.values()):
            d = layer.backward(d)
            if layer.first:
                break

    def _expect_finite_state(self) -> None:
        for name, layer in self.layers.items():
            for part, values in {**layer.weights, **layer.statistics}.items():
                self._expect_finite(values, f"{name}.{part}")

    def _expect_finite(self, values: Tensor, what: str) -> None:
        if not (finite := values.isfinite()).all():
            member = (
                int(finite.flatten(1).all(1).int().argmin())
                if values.ndim > 1
                else int(finite.int().argmin())
            )
            raise FloatingPointError(
                f"{what} of the member with seed {self.seeds[member]} is NaN or infinite at step {self.steps}: "
                f"the training diverges; lower the learning rate, {self.recipe.lr}"
            )


def cross_entropy(logits_GNC: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Each member's mean loss (G,), and the gradient of its own by its logits. Targets: labels (G, N) or scores (G, N, C)."""
    with torch.enable_grad():
        logits_GNC = logits_GNC.detach().requires_grad_()
        each = functional.cross_entropy(logits_GNC.flatten(0, 1), targets.flatten(0, 1), reduction="none")
        losses = each.view(logits_GNC.shape[:2]).mean(1)
        (d,) = torch.autograd.grad(losses.sum(), logits_GNC)
    return losses.detach(), d


def stacked(networks: Sequence[nn.Module], shape: Sequence[int]) -> dict[str, Layer]:
    """The layers of all networks, by name, for inputs (C, H, W). NotApplicable where one cannot be stacked."""
    _same("architecture", [str(network) for network in networks])
    for name, weight in networks[0].named_parameters():
        if weight.dtype not in (torch.float32, torch.float64) or not weight.requires_grad:
            raise NotApplicable(f"a fleet trains all weights, in float32; {name} is frozen or {weight.dtype}")
    if len(shape) != 3:
        raise NotApplicable(f"a fleet trains on images (channels, height, width), not on {shape}")
    size = (shape[1], shape[2], shape[0])
    layers: dict[str, Layer] = {}
    for named in zip(*(_leaves(network) for network in networks), strict=True):
        name, modules = named[0][0], [module for _, module in named]
        first = not any(layer.weights for layer in layers.values())
        layers[name], size = _layer(name, modules, size, first)
        if getattr(modules[0], "bias", None) is not None and not isinstance(layers[name], Norm):
            layers[f"{name} bias"] = Bias(modules)
        layers[name].first = first and bool(layers[name].weights)
    if size[:2] != (1, 1):
        raise NotApplicable(f"a fleet trains classifiers; the network ends in a map of {size}")
    return layers


def _leaves(module: nn.Module, name: str = "") -> Iterator[tuple[str, nn.Module]]:
    if type(module) is not nn.Sequential:
        yield name, module
        return
    for part, child in module.named_children():
        yield from _leaves(child, f"{name}.{part}" if name else part)


def _layer(name: str, modules: Sequence[nn.Module], size: Shape, first: bool) -> tuple[Layer, Shape]:
    """The stacked layer for maps of `size` (H, W, C), and the size of its outputs."""
    module, (rows, columns, channels) = modules[0], size
    flattens = isinstance(module, nn.Flatten) and (module.start_dim, module.end_dim) == (1, -1)
    if flattens or type(module) in PLAIN:
        return PLAIN[type(module)](modules), size
    if isinstance(module, nn.Linear) and module.in_features == rows * columns * channels:
        return Linear(modules, size), (1, 1, module.out_features)
    if isinstance(module, nn.Conv2d) and _is_plain(module):
        down, across = (
            Axis(size[i], module.kernel_size[i], module.stride[i], int(module.padding[i])) for i in range(2)
        )
        return _conv(modules, down, across, first), (down.outputs, across.outputs, module.out_channels)
    if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) and _is_kept(module, channels):
        return Norm(modules, float(module.momentum or 0), module.eps), size
    raise NotApplicable(f"a fleet has no stacked form of {name}, {module}; train its members one by one")


def _is_plain(conv: nn.Conv2d) -> bool:
    settings = (conv.groups, conv.dilation, conv.padding_mode)
    return settings == (1, (1, 1), "zeros") and not isinstance(conv.padding, str)


def _is_kept(norm: nn.BatchNorm1d | nn.BatchNorm2d, channels: int) -> bool:
    """With weights and moving averages, and over channels: the features of a flattened map are in another order."""
    kept = norm.affine and norm.track_running_stats and norm.momentum is not None
    return kept and norm.num_features == channels


def _conv(modules: Sequence[nn.Module], rows: Axis, columns: Axis, first: bool) -> Layer:
    if first:
        return FirstConv(modules, rows, columns)
    fits = (rows.taps, rows.stride, rows.padding) == (3, 1, 1)
    return TransformedConv(modules, rows, columns) if fits else DirectConv(modules, rows, columns)


def _optimizer(weights: list[Tensor], recipe: Recipe) -> torch.optim.Optimizer:
    """As Training.configure_optimizers, over stacked weights."""
    if recipe.optimizer == "adam":
        return torch.optim.Adam(weights, lr=recipe.lr, weight_decay=recipe.weight_decay, fused=True)
    return torch.optim.SGD(
        weights,
        lr=recipe.lr,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=recipe.momentum > 0,
        fused=True,
    )


def _schedule(
    optimizer: torch.optim.Optimizer, recipe: Recipe, steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """To be advanced every step (cosine) or every epoch (step)."""
    if recipe.schedule == "cosine":
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    return torch.optim.lr_scheduler.StepLR(optimizer, recipe.step_epochs, recipe.step_factor)


def _same(what: str, values: Sequence[T]) -> T:
    if any(value != values[0] for value in values):
        raise ConfigError(
            f"expected the same {what} in all members of a group, got {values}; train them as separate fleets"
        )
    return values[0]


@contextmanager
def _bar(label: str, count: int, shown: bool) -> Iterator[Callable[[float], None]]:
    """A progress line as that of zoo/progress.py, over models instead of epochs."""
    if not (shown and sys.stderr.isatty()):
        yield lambda _: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(label, total=count)
        yield lambda models: progress.advance(task, models)
