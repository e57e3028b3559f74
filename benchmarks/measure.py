"""How the benchmarks measure: CPU seconds, two ways interleaved in one process, medians; and where they write."""

import json
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from assay.experiments.environment import environment
from assay.zoo.training import Hardware

DATA = Path(__file__).resolve().parent / "data"


def interleaved(
    ways: Mapping[str, Callable[[], object]], rounds: int, clock: Callable[[], float] = time.process_time
) -> dict[str, list[float]]:
    """Seconds of each way in every round, the processor's unless another clock tells them (work on a GPU must end in a copy to the
    host); the order alternates, so a slow minute hits all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for i in range(rounds):
        for name in list(ways)[:: 1 if i % 2 == 0 else -1]:
            start = clock()
            ways[name]()
            seconds[name].append(round(clock() - start, 6))
    return seconds


def ratio(seconds: dict[str, list[float]], of: str, to: str) -> float:
    """Median over rounds of the ratio within a round."""
    return round(statistics.median(a / b for a, b in zip(seconds[of], seconds[to], strict=True)), 3)


def keep(name: str, hardware: Hardware | None = None, /, **found: Any) -> None:
    hardware = hardware or Hardware(progress=False)
    hardware.check()
    content = {**found, "environment": environment(hardware, "")}
    DATA.mkdir(exist_ok=True)
    (DATA / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")
    print(
        f"{name}: "
        + ", ".join(f"{key} {value}" for key, value in found.items() if not isinstance(value, (dict, list)))
    )
