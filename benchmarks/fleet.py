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
    tasks = [settings.task.load(settings.model, seed) for seed in range(max(GROUPS))]
    short = [replace(task, recipe=replace(task.recipe, epochs=EPOCHS)) for task in tasks]
    whole = {"alone": alone(tasks[0], hardware), "fleet": fleet(tasks, CPU_GROUP, hardware)}
    parts = {f"group {size}": fleet(short, size, hardware) for size in GROUPS}
    found = interleaved(whole, ROUNDS)
    found["fleet"] = [round(seconds / CPU_GROUP, 4) for seconds in found["fleet"]]
    sweep = interleaved({"alone": alone(short[0], hardware), **parts}, ROUNDS)
    for size in GROUPS:
        sweep[f"group {size}"] = [round(seconds / size, 4) for seconds in sweep[f"group {size}"]]
    per_model = statistics.median(found["fleet"])
    keep(
        "fleet",
        alone_over_fleet=ratio(found, "alone", "fleet"),
        alone_cpu_seconds=round(statistics.median(found["alone"]), 2),
        fleet_cpu_seconds=round(per_model, 2),
        minutes_for_300_on_2_cores=round(300 * per_model / 2 / 60, 1),
        alone_over_group={size: ratio(sweep, "alone", f"group {size}") for size in GROUPS},
        seconds={"whole": found, "sweep": sweep},
        what=f"per model; whole: {tasks[0].recipe}, {len(tasks[0].owner)} examples, groups of {CPU_GROUP}; sweep: {EPOCHS} epochs",
    )


if __name__ == "__main__":
    main()
