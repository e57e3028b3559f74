"""All training: one LightningModule whose loss, penalty and data mix the schemes and attacks supply.

Data lives in memory and is indexed by a permutation per epoch: collating tensors one by one costs more than a small network.
"""

import copy
import logging
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytorch_lightning as pl
import torch
from annotated_types import Ge
from torch import Tensor, nn
from torch.nn import functional

from ..core.contracts import Configured, EachEpoch, Examples, Loss, Penalty, Recipe
from ..core.errors import ConfigError
from ..core.secret import seed_for
from .progress import EpochBar

for _name in ("pytorch_lightning", "lightning_fabric"):  # their tips, and a line per Trainer
    logging.getLogger(_name).setLevel(logging.ERROR)


@dataclass
class Loader:
    """Batches of one epoch in a new order each time, the same for the same seed. `extra_per_batch` examples of `extra`
    are appended to every batch (Adi et al. 2018, section 5: triggers travel in the clean batches)."""

    data: Examples
    batch_size: int
    seed: int
    extra: Examples | None = None
    extra_per_batch: int = 0

    def __post_init__(self) -> None:
        self.generator = torch.Generator().manual_seed(self.seed)

    def __len__(self) -> int:
        return -(-len(self.data) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self.data), generator=self.generator)
        for index in order.split(self.batch_size):
            batch = self.data.take(index)
            if self.extra is not None and self.extra_per_batch:
                picks = torch.randint(len(self.extra), (self.extra_per_batch,), generator=self.generator)
                batch = batch.join(self.extra.take(picks))
            if len(batch) > 1:  # batch norm cannot normalise a single example
                yield batch.inputs, batch.targets


class Training(pl.LightningModule):
    def __init__(
        self, model: nn.Module, recipe: Recipe, loss: Loss, penalty: Penalty | None, each_epoch: EachEpoch | None
    ) -> None:
        super().__init__()
        self.model, self.recipe, self.loss, self.penalty, self.each_epoch = model, recipe, loss, penalty, each_epoch
        self.steps = 0

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        inputs, targets = batch
        loss = self.loss(self.model(inputs), targets)
        self.steps += 1
        return loss if self.penalty is None else loss + self.penalty(self.model)

    def on_train_epoch_end(self) -> None:
        if self.each_epoch is not None:
            self.each_epoch(self.current_epoch + 1, self.model)

    def configure_optimizers(self) -> Any:
        recipe = self.recipe
        trained = [p for p in self.model.parameters() if p.requires_grad]
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
    """conf/trainer: where and how a trial computes. Bit-equal results need the same device and thread count."""

    device: Literal["cpu", "cuda", "mps"] = "cpu"
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    threads: Annotated[int, Ge(1)] = 1
    deterministic: bool = False
    progress: bool = True

    def check(self) -> None:
        """Raises ConfigError when the device is not there; sets the thread count."""
        available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
        if not available[self.device]:
            raise ConfigError(f"trainer.device={self.device} is not available on this machine; use trainer=cpu")
        torch.set_num_threads(self.threads)


class Trainer:
    """A `Fit` (core/contracts.py) bound to hardware, a recipe and a seed; counts the gradient steps it made."""

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
        extra: Examples | None = None,
        extra_per_batch: int = 0,
        only: Sequence[str] | None = None,
        each_epoch: EachEpoch | None = None,
        label: str = "fit",
    ) -> nn.Module:
        recipe = recipe or self.recipe
        if len(data) < 2:
            raise ConfigError(f"training needs at least 2 examples, got {len(data)}; raise adversary.data or adversary.queries")
        # Channels last while training: a step costs a CPU 15 to 30 % less.
        model = copy.deepcopy(model).train().to(memory_format=torch.channels_last)
        frozen = freeze_all_but(model, only)
        seed = seed_for(self.seed, "fit", self.fits)
        loader = Loader(data, recipe.batch_size, seed, extra, extra_per_batch)
        module = Training(model, recipe, loss or functional.cross_entropy, penalty, each_epoch)
        with pl.utilities.seed.isolate_rng(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="pytorch_lightning")
            torch.manual_seed(seed)
            self._trainer(recipe.epochs, label).fit(module, loader)
        self.steps += module.steps
        self.fits += 1
        for parameter in frozen:
            parameter.requires_grad_(True)
        return model.to("cpu", memory_format=torch.contiguous_format).eval()

    def _trainer(self, epochs: int, label: str) -> pl.Trainer:
        """Logger, checkpoints and progress are explicit: Lightning's defaults write into the working directory."""
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


def freeze_all_but(model: nn.Module, only: Sequence[str] | None) -> list[nn.Parameter]:
    """Freeze parameters whose name starts with none of `only`, and return them; nothing for None.
    ValueError when a prefix names no parameter."""
    if only is None:
        return []
    names = [name for name, _ in model.named_parameters()]
    for prefix in only:
        if not any(name.startswith(prefix) for name in names):
            raise ValueError(f"no parameter starts with {prefix!r}; there are {', '.join(names)}")
    frozen = [p for name, p in model.named_parameters() if not name.startswith(tuple(only))]
    for parameter in frozen:
        parameter.requires_grad_(False)
    return frozen


