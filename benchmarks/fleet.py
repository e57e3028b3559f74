"""Training independent models as a fleet against one by one (digits, cnn_small): seconds per model, by group size.

    python benchmarks/fleet.py [cuda]

On the processor its seconds are counted; on a GPU those of the clock, and 300 null models are trained whole.
"""

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from measure import interleaved, keep, ratio

from assay.core.contracts import Task
from assay.core.secret import seed_for
from assay.experiments.api import build
from assay.zoo.fleet import group_size, train_fleet
from assay.zoo.training import Hardware, Trainer

GROUPS, EPOCHS, ROUNDS = {"cpu": (1, 2, 4, 8), "cuda": (1, 16, 64, 128, 300)}, 3, 3
NULLS = 300
SEEDS = [seed_for(seed, "victim") for seed in range(NULLS)]


def alone(task: Task, hardware: Hardware) -> Callable[[], object]:
    return lambda: Trainer(hardware, task.recipe, SEEDS[0])(task.fresh(None), task.owner)


def fleet(tasks: Sequence[Task], size: int, hardware: Hardware) -> Callable[[], object]:
    return lambda: list(train_fleet(tasks[:size], SEEDS[:size], hardware, group=size))


def main(device: str = "cpu") -> None:
    trial = build(
        "task=digits",
        "watermark=none",
        f"trainer={ {'cpu': 'cpu', 'cuda': 'gpu'}[device] }",
        "trainer.progress=false",
    )
    settings, hardware, groups = trial.settings, trial.hardware, GROUPS[device]
    usual, whole = group_size(hardware), trial.task.recipe
    loaded = [settings.task.load(settings.model, seed) for seed in range(max(groups))]
    tasks = [replace(task, recipe=replace(whole, epochs=EPOCHS)) for task in loaded]
    clock = time.process_time if device == "cpu" else time.perf_counter
    seconds = interleaved(
        {"alone": alone(tasks[0], hardware), **{f"group {g}": fleet(tasks, g, hardware) for g in groups}},
        ROUNDS,
        clock,
    )
    for size in groups:
        seconds[f"group {size}"] = [round(spent / size, 4) for spent in seconds[f"group {size}"]]
    per_model = {name: statistics.median(spent) * whole.epochs / EPOCHS for name, spent in seconds.items()}
    found = {
        "ratio": ratio(seconds, "alone", f"group {usual}"),
        "alone_seconds": round(per_model["alone"], 2),
        "fleet_seconds": round(per_model[f"group {usual}"], 3),
        "ratio_by_group": {str(size): ratio(seconds, "alone", f"group {size}") for size in groups},
        "seconds": seconds,
    }
    if device == "cpu":
        minutes = round(NULLS * per_model[f"group {usual}"] / 2 / 60, 1)
        what = f"CPU seconds per model of {EPOCHS} epochs; totals are scaled to {whole.epochs}, {len(tasks[0].owner)} examples"
        keep("fleet", minutes_for_300_on_2_cores=minutes, **found, what=what)
    else:
        start = clock()
        count = len(list(train_fleet(loaded, SEEDS, hardware)))
        what = f"seconds per model of {EPOCHS} epochs; totals are scaled to {whole.epochs}, {len(tasks[0].owner)} examples"
        keep(
            "fleet_gpu",
            hardware,
            seconds_for_300=round(clock() - start, 1),
            **found,
            what=f"{what}; {count} trained whole",
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
