"""`assay board` over 10,000 measured records (results/standard, then results/digits): CPU seconds, against reading them alone; peak
memory; the size of the page.

python benchmarks/board.py
"""

import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

from assay.leaderboard.page import write_board
from assay.leaderboard.store import Excluded, Store

RESULTS = Path(__file__).resolve().parent.parent / "results"
RECORDS = 10_000


def records() -> Iterator[dict[str, Any] | Excluded]:
    stores = (Store(RESULTS / name / "records") for name in ("standard", "digits"))
    return islice(chain.from_iterable(stores), RECORDS)


def peak_mb(page: Path) -> float:
    """Of a process that does nothing but write the page, without torch, which measure imports. Its rusage would hold the peak of
    the process that started it."""
    code = (
        "import sys, pathlib; sys.path[:0] = [sys.argv[1]]; import board\n"
        "board.write_board(board.records(), pathlib.Path(sys.argv[2]))\n"
        "print(pathlib.Path('/proc/self/status').read_text())"
    )
    command = [sys.executable, "-c", code, str(Path(__file__).parent), str(page)]
    run = subprocess.run(command, check=True, capture_output=True, text=True)
    peak = next(line for line in run.stdout.splitlines() if line.startswith("VmHWM"))
    return int(peak.split()[1]) / 1000


def main() -> None:
    from measure import interleaved, keep, ratio

    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "board.html"
        peak = peak_mb(page)
        ways = {"read": lambda: sum(1 for _ in records()), "board": lambda: write_board(records(), page)}
        seconds = interleaved(ways, rounds=3)
        keep(
            "board",
            records=sum(1 for _ in records()),
            seconds={way: statistics.median(found) for way, found in seconds.items()},
            ratio_to_reading=ratio(seconds, "board", "read"),
            peak_mb=round(peak),
            page_kb=round(page.stat().st_size / 1000),
            rounds=seconds,
        )


if __name__ == "__main__":
    main()
