"""Training independent models as a fleet against one by one (digits, cnn_small): CPU seconds per model, by group size."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace

from measure import interleaved, keep, ratio

from assay.core.contracts import Task
from assay.core.secret import seed_for
from assay.experiments.api import build
from assay.zoo.fleet import CPU_GROUP, train_fleet
from assay.zoo.training import Hardware, Trainer

GROUPS, EPOCHS, ROUNDS = (1, 2, 4, 8), 3, 3
SEEDS = [seed_for(seed, "victim") for seed in range(max(GROUPS))]


def alone(task: Task, hardware: Hardware) -> Callable[[], object]:
    return lambda: Trainer(hardware, task.recipe, SEEDS[0])(task.fresh(None), task.owner)


def fleet(tasks: Sequence[Task], size: int, hardware: Hardware) -> Callable[[], object]:
    return lambda: list(train_fleet(tasks[:size], SEEDS[:size], hardware, group=size))


def main() -> None:
    trial = build("task=digits", "watermark=none", "trainer.progress=false")
    settings, hardware = trial.settings, trial.hardware
    whole = trial.task.recipe
    loaded = [settings.task.load(settings.model, seed) for seed in range(max(GROUPS))]
    tasks = [replace(task, recipe=replace(whole, epochs=EPOCHS)) for task in loaded]
    seconds = interleaved(
        {"alone": alone(tasks[0], hardware), **{f"group {g}": fleet(tasks, g, hardware) for g in GROUPS}},
        ROUNDS,
    )
    for size in GROUPS:
        seconds[f"group {size}"] = [round(spent / size, 4) for spent in seconds[f"group {size}"]]
    per_model = {name: statistics.median(spent) * whole.epochs / EPOCHS for name, spent in seconds.items()}
    keep(
        "fleet",
        ratio=ratio(seconds, "alone", f"group {CPU_GROUP}"),
        alone_cpu_seconds=round(per_model["alone"], 2),
        fleet_cpu_seconds=round(per_model[f"group {CPU_GROUP}"], 2),
        minutes_for_300_on_2_cores=round(300 * per_model[f"group {CPU_GROUP}"] / 2 / 60, 1),
        ratio_by_group={str(size): ratio(seconds, "alone", f"group {size}") for size in GROUPS},
        seconds=seconds,
        what=f"CPU seconds per model of {EPOCHS} epochs; totals are scaled to {whole.epochs}, {len(tasks[0].owner)} examples",
    )


if __name__ == "__main__":
    main()
