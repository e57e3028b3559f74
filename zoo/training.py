"""All training: one fit whose loss, penalty and data mix the schemes and attacks supply (zoo/lightning.py runs it).

Data lives in memory and is indexed by a permutation per epoch: collating tensors one by one costs more than a
small network.
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from annotated_types import Ge
from torch import Tensor, nn
from torch.nn import functional

from ..core.contracts import Configured, EachEpoch, Loss, Objective, Penalty, Recipe
from ..core.errors import ConfigError
from ..core.examples import Examples
from ..core.secret import seed_for


@dataclass
class Loader:
    """Batches of one epoch in a new order each time, the same for the same seed.

    `extra_per_batch` examples of `extra` are appended to every batch (Adi et al. 2018: triggers
    travel in the clean batches), in rounds: in an epoch none is seen twice before all are seen once. A last
    batch of one example joins the one before: batch norm cannot normalise it. Of data that are a `share` of what there is, an
    epoch goes round 1 / share times."""

    data: Examples
    batch_size: int
    seed: int
    extra: Examples | None = None
    extra_per_batch: int = 0
    share: float = 1.0

    def __post_init__(self) -> None:
        count = 0 if self.extra is None else len(self.extra)
        if min(count, self.extra_per_batch) < 1 and (count, self.extra_per_batch) != (0, 0):
            raise ValueError(
                "expected extra examples and extra_per_batch >= 1 together, "
                f"got {count} examples and {self.extra_per_batch} per batch"
            )
        self.generator = torch.Generator().manual_seed(self.seed)
        self.drawn = round(len(self.data) / self.share)

    def __len__(self) -> int:
        return max(1, -(-(self.drawn - 1) // self.batch_size))

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        cuts = torch.arange(1, len(self)) * self.batch_size
        order = self._order(len(self.data), self.drawn)
        batches = (self.data.take(index) for index in order.tensor_split(cuts))
        if self.extra is not None and self.extra_per_batch:
            picks = self._order(len(self.extra), len(self) * self.extra_per_batch).view(len(self), -1)
            batches = (batch.join(self.extra.take(pick)) for batch, pick in zip(batches, picks, strict=True))
        for batch in batches:
            yield batch.inputs, batch.targets

    def _order(self, size: int, count: int) -> Tensor:
        """`count` indices: whole permutations of `size`, the last one cut."""
        rounds = [torch.randperm(size, generator=self.generator) for _ in range(-(-count // size))]
        return torch.cat(rounds)[:count]


@dataclass(frozen=True)
class Hardware(Configured):
    """conf/trainer: where and how a trial computes. Bit-equal results need equal device and thread count."""

    device: Literal["cpu", "cuda", "mps"] = "cpu"
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    threads: Annotated[int, Ge(1)] = 1
    deterministic: bool = False
    progress: bool = True

    def check(self) -> None:
        """Raises ConfigError when the device is not there, or has not the precision; sets the thread count."""
        available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
        if not available[self.device]:
            raise ConfigError(f"trainer.device={self.device} is not available here; use trainer=cpu")
        if self.device == "cpu" and self.precision == "16-mixed":
            raise ConfigError("a CPU has no mixed training in float16; set trainer.precision=bf16-mixed")
        torch.set_num_threads(self.threads)


class Trainer:
    """A `Fit` (core/contracts.py) bound to hardware, a recipe and a seed; it counts its gradient steps."""

    share = 1.0
    """Of the data that there are. Recipes count epochs, and who holds few examples takes as many steps in one as who holds all."""

    def __init__(self, hardware: Hardware, recipe: Recipe, seed: int) -> None:
        self.hardware, self.recipe, self.seed = hardware, recipe, seed
        self.steps = 0
        self.fits = 0

    def __call__(
        self,
        model: nn.Module,
        data: Examples,
        *,
        recipe: Recipe | None = None,
        loss: Loss | None = None,
        penalty: Penalty | None = None,
        objective: Objective | None = None,
        along: nn.Module | None = None,
        extra: Examples | None = None,
        extra_per_batch: int = 0,
        only: Sequence[str] | None = None,
        each_epoch: EachEpoch | None = None,
        label: str = "fit",
    ) -> nn.Module:
        from .lightning import Training, train

        recipe = recipe or self.recipe
        if len(data) < 2:
            raise ConfigError(
                f"training needs at least 2 examples, got {len(data)}; raise task.limit or adversary.data"
            )
        # Channels last while training: a step costs a CPU 15 to 30 % less.
        model = copy.deepcopy(model).train().to(memory_format=torch.channels_last)
        frozen = freeze_all_but(model, only)
        seed = seed_for(self.seed, "fit", self.fits)
        loader = Loader(data, recipe.batch_size, seed, extra, extra_per_batch, self.share)
        before = self.steps

        def at_epoch(epoch: int, live: nn.Module) -> None:
            self.steps = before + module.steps  # so that a reading between epochs is right
            if each_epoch is not None:
                each_epoch(epoch, live)

        module = Training(model, recipe, objective or plain(loss, penalty), at_epoch, along)
        train(module, loader, self.hardware, seed, label)
        self.fits += 1
        for parameter in frozen:
            parameter.requires_grad_(True)
        model.zero_grad(set_to_none=True)
        return model.to("cpu").to(memory_format=torch.contiguous_format).eval()


def plain(loss: Loss | None, penalty: Penalty | None) -> Objective:
    """The objective of one forward pass: loss, cross-entropy when None, plus penalty."""
    loss = loss or cross_entropy

    def objective(live: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        value = loss(live(inputs), targets)
        return value if penalty is None else value + penalty(live)

    return objective


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """torch's. Where classes lie together in memory on axis 1, as a language model's (N, V, T) do, its rows are flattened first:
    torch would copy them there and back, a fifth of a small model's step."""
    if targets.ndim == 2 and logits.ndim == 3 and logits.stride(1) == 1:
        return functional.cross_entropy(logits.movedim(1, -1).flatten(0, 1), targets.flatten())
    return functional.cross_entropy(logits, targets)


def freeze_all_but(model: nn.Module, only: Sequence[str] | None) -> list[nn.Parameter]:
    """Freeze parameters whose name starts with none of `only`, and return those it froze; nothing for None.
    ValueError when a prefix names no parameter."""
    if only is None:
        return []
    names = [name for name, _ in model.named_parameters()]
    for prefix in only:
        if not any(name.startswith(prefix) for name in names):
            raise ValueError(f"no parameter starts with {prefix!r}; there are {', '.join(names)}")
    others = [p for name, p in model.named_parameters() if not name.startswith(tuple(only))]
    frozen = [parameter for parameter in others if parameter.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(False)
    return frozen
