"""What a second worker is worth: `assay suite quick` on digits from an empty cache, by one worker and by two. Wall seconds, so the
machine must be idle; two workers on two cores. CPU seconds beside them say what is done twice.

python benchmarks/workers.py [LAUNCHER] [ROUNDS]
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time

from measure import keep

ASSAY = [sys.executable, "-m", "assay.experiments.cli"]


def cold(launcher: str, workers: int) -> tuple[float, float]:
    """Wall and CPU seconds of the suite in a folder of its own. CPU seconds are of this process' descendants that were waited
    for: under slurm and ray, whose workers are not, they are of the launch alone."""
    with tempfile.TemporaryDirectory() as folder:
        start, before = time.perf_counter(), os.times()
        command = [*ASSAY, "suite", "quick", f"launcher={launcher}", f"launcher.workers={workers}"]
        environment = {**os.environ, "ASSAY_RUNS": folder, "ASSAY_CACHE": f"{folder}/cache"}
        subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True)
        wall, after = time.perf_counter() - start, os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return round(wall, 1), round(used, 1)


def main(launcher: str = "joblib", rounds: str = "1") -> None:
    found: dict[int, list[tuple[float, float]]] = {1: [], 2: []}
    for i in range(int(rounds)):
        for workers in (1, 2) if i % 2 == 0 else (2, 1):
            found[workers].append(cold(launcher, workers))
    efficiency = [one[0] / (2 * two[0]) for one, two in zip(found[1], found[2], strict=True)]
    keep(
        "workers",
        launcher=launcher,
        efficiency=round(statistics.median(efficiency), 3),
        seconds={str(workers): [wall for wall, _ in runs] for workers, runs in found.items()},
        cpu_seconds={str(workers): [used for _, used in runs] for workers, runs in found.items()},
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
