"""What the artifact cache saves: cells of a finished suite run again alone, each on an empty cache, by the command that the page
shows; the CPU seconds of a cell within its suite, as a share of those of a cell alone. Both as records have them: without the
start of a process.

python benchmarks/sharing.py STORE [CELLS]: of results/digits, a cell trains 99 null models and takes 4 CPU minutes alone.
"""

import os
import random
import shlex
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from measure import keep

from assay.leaderboard.ranking import Record
from assay.leaderboard.store import Store
from assay.leaderboard.view import command

SEED = 0


def alone(record: Record) -> float:
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "ASSAY_RUNS": folder, "ASSAY_CACHE": f"{folder}/cache"}
        words = [sys.executable, "-m", "assay.experiments.cli", *shlex.split(command(record))[1:]]
        subprocess.run(
            [*words, "trainer.progress=false"], env=environment, stdout=subprocess.DEVNULL, check=True
        )
        (found,) = Store(Path(folder) / "records")
    return float(found["spent"]["cpu_seconds"])


def main(store: str, cells: str = "5") -> None:
    found = [r for r in Store(Path(store) / "records") if r["status"] == "ok" and r.get("spent")]
    within = sum(r["spent"]["cpu_seconds"] for r in found) / len(found)
    sample = random.Random(SEED).sample(sorted(found, key=lambda r: str(r["id"])), int(cells))
    seconds = {str(record["id"]): round(alone(record), 1) for record in sample}
    keep(
        "sharing",
        store=store,
        share=round(within / statistics.mean(seconds.values()), 3),
        cells=len(found),
        cpu_seconds_in_suite=round(within, 2),
        cpu_seconds_alone=seconds,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
