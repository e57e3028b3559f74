"""`assay suite quick` cold and from the store, its peak memory, and how fast the light commands answer. Wall seconds."""

import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
from measure import keep

ASSAY = [sys.executable, "-m", "assay.experiments.cli"]


def peak_memory(process: subprocess.Popen[bytes], peak: list[float]) -> None:
    """The largest sum of proportional set sizes of the whole process tree, in GB (pages shared by forks count once)."""
    top = psutil.Process(process.pid)
    while process.poll() is None:
        total = 0
        for one in [top, *_children(top)]:
            try:
                total += one.memory_full_info().pss
            except (psutil.Error, AttributeError):
                continue
        peak.append(total / 1e9)
        time.sleep(0.5)


def _children(top: psutil.Process) -> list[psutil.Process]:
    try:
        found: list[psutil.Process] = top.children(recursive=True)
    except psutil.Error:
        return []
    return found


def timed(*arguments: str, runs: Path, peak: list[float] | None = None) -> float:
    start = time.perf_counter()
    environment = {**os.environ, "ASSAY_RUNS": str(runs)}
    process = subprocess.Popen([*ASSAY, *arguments], env=environment, stdout=subprocess.DEVNULL)
    if peak is not None:
        watcher = threading.Thread(target=peak_memory, args=(process, peak))
        watcher.start()
        watcher.join()
    assert process.wait() == 0
    return time.perf_counter() - start


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        runs, peak = Path(folder), [0.0]
        cold = timed("suite", "quick", runs=runs, peak=peak)
        again = timed("suite", "quick", runs=runs)
        commands = {"help": ["--help"], "list": ["list"], "status": ["status"], "board": ["board"]}
        light = {
            name: round(statistics.median(timed(*words, runs=runs) for _ in range(5)), 2)
            for name, words in commands.items()
        }
        keep(
            "suite",
            cold_seconds=round(cold, 1),
            again_seconds=round(again, 1),
            again_share=round(again / cold, 3),
            peak_gb=round(max(peak), 2),
            light_seconds=light,
        )
        print(light)


if __name__ == "__main__":
    main()
