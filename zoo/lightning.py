"""What Lightning does in a training. A module of its own, imported at the first training: Lightning takes seconds to import, more
than most commands that train nothing."""

import logging
import signal
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.seed import isolate_rng
from torch import Tensor, nn

from ..core.contracts import EachEpoch, Objective, Recipe
from .progress import EpochBar

if TYPE_CHECKING:
    from .training import Hardware

for _name in ("pytorch_lightning", "lightning_fabric"):  # their tips, and a line per Trainer
    logging.getLogger(_name).setLevel(logging.ERROR)


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


def train(module: Training, batches: Iterable[Any], hardware: "Hardware", seed: int, label: str) -> None:
    """Logger, checkpoints and progress are explicit: the defaults write into the current folder."""
    with isolate_rng(), warnings.catch_warnings(), _interruptible():
        warnings.filterwarnings("ignore", module="pytorch_lightning")
        warnings.filterwarnings("ignore", "The `srun` command is available")  # on any node of a cluster
        torch.manual_seed(seed)
        trainer = pl.Trainer(
            accelerator={"cuda": "gpu"}.get(hardware.device, hardware.device),
            devices=1,
            precision=hardware.precision,
            deterministic=hardware.deterministic,
            max_epochs=module.recipe.epochs,
            callbacks=[EpochBar(label)] if hardware.progress else [],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
        trainer.fit(module, batches)


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


def _frozen_norms(model: nn.Module) -> list[nn.Module]:
    """Batch norms none of whose parameters is trained: their running statistics stay too (Adi et al. 2018:
    fine-tuning the last layer leaves all others as they are)."""
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    return [norm for norm in norms if norm.affine and not any(p.requires_grad for p in norm.parameters())]
