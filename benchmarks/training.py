"""Training overhead over a plain torch loop (Fashion-MNIST, cnn_small, batch 256), and the victim's accuracy and cost."""

import time

import torch
from measure import interleaved, keep, ratio
from torch import nn
from torch.nn import functional

from assay.core.contracts import Task
from assay.core.examples import Examples
from assay.core.suspects import logits
from assay.experiments.api import build
from assay.zoo.training import Trainer

STEPS, ROUNDS = 40, 7


def plain(model: nn.Module, data: Examples, task: Task) -> None:
    """What a student would write: the same batches, optimiser, schedule and memory format."""
    recipe = task.recipe
    model = model.to(memory_format=torch.channels_last)
    model.train()
    optimizer = torch.optim.SGD(
        model.parameters(), recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay, nesterov=True
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for index in torch.randperm(len(data)).split(recipe.batch_size):
        loss = functional.cross_entropy(model(data.inputs[index]), data.targets[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


def main() -> None:
    trial = build("task=fashion_mnist", "watermark=none", "trainer.progress=false")
    task = trial.task
    data = task.owner.take(slice(0, STEPS * task.recipe.batch_size))
    one_epoch = build(
        "task=fashion_mnist", "watermark=none", "trainer.progress=false", "task.recipe.epochs=1"
    ).task.recipe
    ways = {
        "assay": lambda: Trainer(trial.hardware, one_epoch, 0)(task.fresh(0), data),
        "plain": lambda: plain(task.fresh(0), data, task),
    }
    interleaved(ways, 1)  # warm up
    seconds = interleaved(ways, ROUNDS)
    start = time.process_time()
    victim = trial.trainer("victim")(task.fresh(None), task.owner)
    spent = time.process_time() - start
    right = (logits(victim, task.test.inputs).argmax(-1) == task.test.targets).double().mean().item()
    keep(
        "training",
        overhead=ratio(seconds, "assay", "plain"),
        victim_accuracy=round(right, 4),
        victim_cpu_seconds=round(spent, 1),
        seconds=seconds,
        what=f"{STEPS} steps of batch {task.recipe.batch_size} a round; the victim: {task.recipe}, {len(task.owner)} examples",
    )


if __name__ == "__main__":
    main()
