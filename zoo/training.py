"""All training: one LightningModule whose loss, penalty and data mix the schemes and attacks supply.

Data lives in memory and is indexed by a permutation per epoch: collating tensors one by one costs more than a
small network.
"""

import copy
import logging
import signal
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytorch_lightning as pl
import torch
from annotated_types import Ge
from pytorch_lightning.utilities.seed import isolate_rng
from torch import Tensor, nn
from torch.nn import functional

from ..core.contracts import Configured, EachEpoch, Loss, Objective, Penalty, Recipe
from ..core.errors import ConfigError
from ..core.examples import Examples
from ..core.secret import seed_for
from .progress import EpochBar

for _name in ("pytorch_lightning", "lightning_fabric"):  # their tips, and a line per Trainer
    logging.getLogger(_name).setLevel(logging.ERROR)


@dataclass
class Loader:
    """Batches of one epoch in a new order each time, the same for the same seed.

    `extra_per_batch` examples of `extra` are appended to every batch (Adi et al. 2018: triggers
    travel in the clean batches), in rounds: in an epoch none is seen twice before all are seen once. A last
    batch of one example joins the one before: batch norm cannot normalise it."""

    data: Examples
    batch_size: int
    seed: int
    extra: Examples | None = None
    extra_per_batch: int = 0

    def __post_init__(self) -> None:
        count = 0 if self.extra is None else len(self.extra)
        if min(count, self.extra_per_batch) < 1 and (count, self.extra_per_batch) != (0, 0):
            raise ValueError(
                "expected extra examples and extra_per_batch >= 1 together, "
                f"got {count} examples and {self.extra_per_batch} per batch"
            )
        self.generator = torch.Generator().manual_seed(self.seed)

    def __len__(self) -> int:
        return max(1, -(-(len(self.data) - 1) // self.batch_size))

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        cuts = torch.arange(1, len(self)) * self.batch_size
        order = self._order(len(self.data), len(self.data))
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


class Training(pl.LightningModule):
    def __init__(
        self,
        model: nn.Module,
        recipe: Recipe,
        objective: Objective,
        each_epoch: EachEpoch | None,
        along: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.model, self.recipe = model, recipe
        self.objective, self.each_epoch = objective, each_epoch
        self.along = along
        self.steps = 0

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        loss = self.objective(self.model, *batch)
        self.steps += 1
        self._expect_finite(loss, "the loss")
        return loss

    def on_train_epoch_start(self) -> None:
        """Every epoch: who looked at the live model (`each_epoch`) may have left it in another mode."""
        self.train()
        for norm in _frozen_norms(self.model):
            norm.eval()

    def on_train_epoch_end(self) -> None:
        for name, tensor in self.model.state_dict().items():
            self._expect_finite(tensor, name)
        if self.each_epoch is not None:
            self.each_epoch(self.current_epoch + 1, self.model)

    def _expect_finite(self, values: Tensor, what: str) -> None:
        if not values.isfinite().all():
            raise FloatingPointError(
                f"{what} is NaN or infinite at step {self.steps}: the training diverges; "
                f"lower the learning rate, {self.recipe.lr}, or the strength of the penalty"
            )

    def configure_optimizers(self) -> Any:
        recipe = self.recipe
        trained = [p for p in self.parameters() if p.requires_grad]
        optimizer: torch.optim.Optimizer
        if recipe.optimizer == "sgd":
            optimizer = torch.optim.SGD(
                trained,
                lr=recipe.lr,
                momentum=recipe.momentum,
                weight_decay=recipe.weight_decay,
                nesterov=recipe.momentum > 0,
            )
        else:
            optimizer = torch.optim.Adam(trained, lr=recipe.lr, weight_decay=recipe.weight_decay)
        if recipe.schedule == "constant":
            return optimizer
        if recipe.schedule == "step":
            steps = torch.optim.lr_scheduler.StepLR(optimizer, recipe.step_epochs, recipe.step_factor)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": steps, "interval": "epoch"}}
        total = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(total, 1))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


@dataclass(frozen=True)
class Hardware(Configured):
    """conf/trainer: where and how a trial computes. Bit-equal results need equal device and thread count."""

    device: Literal["cpu", "cuda", "mps"] = "cpu"
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    threads: Annotated[int, Ge(1)] = 1
    deterministic: bool = False
    progress: bool = True

    def check(self) -> None:
        """Raises ConfigError when the device is not there; sets the thread count."""
        available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
        if not available[self.device]:
            raise ConfigError(f"trainer.device={self.device} is not available here; use trainer=cpu")
        torch.set_num_threads(self.threads)


class Trainer:
    """A `Fit` (core/contracts.py) bound to hardware, a recipe and a seed; it counts its gradient steps."""

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
        recipe = recipe or self.recipe
        if len(data) < 2:
            raise ConfigError(
                f"training needs at least 2 examples, got {len(data)}; raise task.limit or adversary.data"
            )
        # Channels last while training: a step costs a CPU 15 to 30 % less.
        model = copy.deepcopy(model).train().to(memory_format=torch.channels_last)
        frozen = freeze_all_but(model, only)
        seed = seed_for(self.seed, "fit", self.fits)
        loader = Loader(data, recipe.batch_size, seed, extra, extra_per_batch)
        before = self.steps

        def at_epoch(epoch: int, live: nn.Module) -> None:
            self.steps = before + module.steps  # so that a reading between epochs is right
            if each_epoch is not None:
                each_epoch(epoch, live)

        module = Training(model, recipe, objective or plain(loss, penalty), at_epoch, along)
        with isolate_rng(), warnings.catch_warnings(), _interruptible():
            warnings.filterwarnings("ignore", module="pytorch_lightning")
            warnings.filterwarnings("ignore", "The `srun` command is available")  # on any node of a cluster
            torch.manual_seed(seed)
            self._trainer(recipe.epochs, label).fit(module, loader)
        self.fits += 1
        for parameter in frozen:
            parameter.requires_grad_(True)
        model.zero_grad(set_to_none=True)
        return model.to("cpu").to(memory_format=torch.contiguous_format).eval()

    def _trainer(self, epochs: int, label: str) -> pl.Trainer:
        """Logger, checkpoints and progress are explicit: the defaults write into the current folder."""
        bar: list[pl.Callback] = [EpochBar(label)] if self.hardware.progress else []
        return pl.Trainer(
            accelerator={"cuda": "gpu"}.get(self.hardware.device, self.hardware.device),
            devices=1,
            precision=self.hardware.precision,
            deterministic=self.hardware.deterministic,
            max_epochs=epochs,
            callbacks=bar,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )


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


@contextmanager
def _interruptible() -> Iterator[None]:
    """Lightning answers Ctrl-C with SystemExit(1) and ignores the signal from then on."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as end:
        if not isinstance(end.__context__, KeyboardInterrupt):
            raise
        signal.signal(signal.SIGINT, handler)
        raise KeyboardInterrupt from None


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


def _frozen_norms(model: nn.Module) -> list[nn.Module]:
    """Batch norms none of whose parameters is trained: their running statistics stay too (Adi et al. 2018:
    fine-tuning the last layer leaves all others as they are)."""
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    return [norm for norm in norms if norm.affine and not any(p.requires_grad for p in norm.parameters())]
