"""A store of 100,000 records, and a plan of as many trials: opening, appending, `assay status`, taking trials. No model is trained.

python benchmarks/store.py [RECORDS]
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from assay.experiments.config import Spec
from assay.experiments.launch.index import heads
from assay.experiments.launch.plan import Plan, packed
from assay.leaderboard.store import Store, signed

RECORDS = 100_000
MODELS = Path(__file__).resolve().parent.parent / "results" / "digits" / "records"
"""Measured records, of which 2,000 are copied under other names and seeds."""
TAKERS, TAKES = 8, 100


def copies(count: int) -> Iterator[dict[str, Any]]:
    """Of 1 in 50 the trial is left out of the store, so that the status has something to foretell."""
    models = list(islice(Store(MODELS), 2000))
    for number, model in enumerate(islice(cycle(models), count)):
        found = {name: value for name, value in model.items() if name != "schema"}
        config = {**model["config"], "seed": number}
        yield {**found, "seed": number, "config": config}


def written(store: Store, count: int) -> Plan:
    store.folder.mkdir(parents=True)
    specs = []
    for number, record in enumerate(copies(count)):
        spec = Spec(record["choices"], {**record["config"], "paths": {"runs": str(store.folder.parent)}})
        if number % 50:
            store.path(spec.id).write_text(signed({"schema": 1, **record, "id": spec.id}))
        specs.append(spec)
    trials, seconds = timed(lambda: packed(specs))
    print(f"packing {count} trials: {seconds:.1f} s")
    runs, due = store.folder.parent, list(range(0, count, 50))
    plan = Plan(
        Plan.place(runs, "big", []), "big", "slurm", TAKERS, str(runs), None, "2026-11-01", due, trials
    )
    plan.folder.mkdir(parents=True)
    return plan


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """What it gives, and its CPU seconds."""
    start = time.process_time()
    return work(), round(time.process_time() - start, 3)


def status(runs: Path) -> dict[str, float]:
    """CPU and wall seconds and the peak of a process of its own."""
    start = time.perf_counter()
    code = (
        "import resource, runpy, sys; sys.argv = sys.argv[1:]\n"
        "try: runpy.run_module('assay.experiments.cli', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "used = resource.getrusage(resource.RUSAGE_SELF)\n"
        "print(used.ru_utime + used.ru_stime, open('/proc/self/status').read(), file=sys.stderr)"
    )
    command = [sys.executable, "-c", code, "assay", "status", "--runs", str(runs)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    peak = next(line for line in done.stderr.splitlines() if line.startswith("VmHWM"))
    wall = time.perf_counter() - start
    print("\n".join(line[:110] for line in done.stdout.splitlines() if "suite" in line or "to go" in line))
    cpu = float(done.stderr.split()[0])
    return {"cpu_seconds": round(cpu, 2), "seconds": round(wall, 2), "peak_mb": int(peak.split()[1]) // 1000}


def appending(store: Store, record: dict[str, Any], name: str) -> float:
    """Median milliseconds of one record, synchronised to the disk."""
    seconds = []
    for number in range(200):
        start = time.perf_counter()
        path = store.write({**record, "id": f"{name}{number}"})
        seconds.append(time.perf_counter() - start)
        path.unlink()
    return round(1000 * statistics.median(seconds), 2)


def take(folder: Path) -> float:
    """Median milliseconds of taking a trial, among others who do the same."""
    plan, seconds = Plan.read(folder), []
    for _ in range(TAKES):
        start = time.perf_counter()
        plan.take()
        seconds.append(time.perf_counter() - start)
    return 1000 * statistics.median(seconds)


def taking(plan: Plan, takers: int) -> dict[str, float]:
    start = time.perf_counter()
    with ProcessPoolExecutor(takers) as pool:
        found = list(pool.map(take, [plan.folder] * takers))
    rate = takers * TAKES / (time.perf_counter() - start)
    return {"takers": takers, "median_ms": round(statistics.median(found), 2), "per_second": round(rate)}


def main(count: int) -> None:
    """What the measuring itself imports (torch) comes last: it would be in every process that takes trials."""
    with tempfile.TemporaryDirectory() as folder:
        runs = Path(folder) / "runs"
        store = Store(runs / "records")
        plan = written(store, count)
        plan.begin()
        again, reading = timed(lambda: Plan.read(plan.folder))
        assert again == plan
        first, second = (timed(lambda: sum(1 for _ in heads(store)))[1] for _ in range(2))
        one = next(copies(1))
        # The takers take from trials that are not due, too: a queue of any length is the same to them.
        long = replace(plan, due=list(range(count)))
        long.begin()
        found = dict[str, Any](
            records=count,
            files_mb=round(sum(entry.stat().st_size for entry in os.scandir(store.folder)) / 1e6),
            index_mb=round((runs / "launch" / "records.json").stat().st_size / 1e6, 1),
            plan_mb=round((plan.folder / "plan.json").stat().st_size / 1e6, 1),
            plan_read_cpu_seconds=reading,
            open_cpu_seconds={"first": first, "again": second},
            append_ms={"here": appending(store, one, "x"), "empty": appending(Store(runs / "new"), one, "x")},
            take=[taking(long, takers) for takers in (1, TAKERS)],
            status=status(runs),
        )
    print(json.dumps(found, indent=1))
    from measure import keep

    keep("store", **found)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else RECORDS)
