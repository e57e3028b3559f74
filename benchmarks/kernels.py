"""The kernels against the best torch formulations, as ratios in one process: interleaved rounds, medians, % of the floor.

    python benchmarks/kernels.py [--rounds N] [FILE of kernels/, without .py]...

Runs on the GPU where there is one (device events), else on one core (CPU seconds). It needs no more than kernels/ itself does.
A file benchmarks/kernel_<file>.py gives the cases; this one measures, writes data/kernels_<device>.json and prints the table.
"""

import argparse
import json
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import scipy
import torch
import triton

HERE = Path(__file__).resolve().parent
OURS = "ours"


@dataclass(frozen=True)
class Way:
    """One way to compute the result. share: the part of the work that the call does, where all of it would take minutes;
    its seconds are divided by it, and the table says so."""

    call: Callable[[], object]
    share: float = 1.0


@dataclass(frozen=True)
class Case:
    """An operation at one size. ways: device -> name -> Way, with the data built and checked to agree; "ours" is one of them.
    moved: bytes that must cross memory at least once; flops: of products that a matrix unit can do."""

    operation: str
    size: str
    ways: Callable[[str], Mapping[str, Way]]
    moved: int
    flops: int = 0


def seconds(call: Callable[[], object], device: str, calls: int = 1) -> float:
    """CPU seconds of one call; on a GPU the device's, of several in a row, so that launches overlap with what runs."""
    if device == "cpu":
        start = time.process_time()
        call()
        return time.process_time() - start
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    first.record()
    for _ in range(calls):
        call()
    last.record()
    torch.cuda.synchronize()
    return float(first.elapsed_time(last)) / 1000 / calls


def measured(case: Case, device: str, rounds: int, floor: Mapping[str, float]) -> dict[str, Any]:
    """Medians of every way; the order alternates, so that a slow minute hits all alike. What is run in part is run once."""
    ways = case.ways(device)
    times: dict[str, list[float]] = {name: [] for name in ways}
    whole = {name: way for name, way in ways.items() if way.share == 1}
    for way in whole.values():
        way.call()  # compiles, allocates
    calls = {name: repeats(way, device) for name, way in whole.items()}
    for i in range(rounds):
        for name in list(whole)[:: 1 if i % 2 == 0 else -1]:
            times[name].append(seconds(whole[name].call, device, calls[name]))
    for name in ways.keys() - whole.keys():
        times[name].append(seconds(ways[name].call, device) / ways[name].share)
    ratios = {
        name: round(statistics.median(a / b for a, b in zip(times[name], times[OURS], strict=False)), 2)
        for name in ways
        if name != OURS
    }
    least = max(case.moved / floor["bytes_per_second"], case.flops / floor["flops_per_second"])
    mine = statistics.median(times[OURS])
    return {
        "operation": case.operation,
        "size": case.size,
        "seconds": {name: float(f"{statistics.median(values):.4g}") for name, values in times.items()},
        "extrapolated": {name: way.share for name, way in ways.items() if way.share != 1},
        "ours_faster": ratios,
        "percent_of_floor": round(100 * least / mine, 1),
    }


def repeats(way: Way, device: str) -> int:
    """Calls in a row that fill about 10 ms of a GPU."""
    if device == "cpu":
        return 1
    return max(1, min(100, round(0.01 / seconds(way.call, device))))


def floors(device: str) -> dict[str, float]:
    """What this machine does at best: a copy larger than its caches (bytes read and written), a float32 product."""
    source = torch.empty(2**28 if device == "cuda" else 2**26, dtype=torch.float32, device=device).fill_(1)
    target = torch.empty_like(source)
    side = 8192 if device == "cuda" else 1024
    a, b = (torch.randn(side, side, device=device) for _ in range(2))
    copies = [seconds(lambda: target.copy_(source), device) for _ in range(7)]
    products = [seconds(lambda: a @ b, device) for _ in range(7)]
    return {
        "bytes_per_second": 2 * source.numel() * 4 / statistics.median(copies[2:]),
        "flops_per_second": 2 * side**3 / statistics.median(products[2:]),
    }


def environment(device: str) -> dict[str, Any]:
    versions = {"python": platform.python_version(), "torch": torch.__version__, "triton": triton.__version__}
    versions |= {"numpy": np.__version__, "scipy": scipy.__version__}
    if device == "cpu":
        return {
            **versions,
            "device": "cpu",
            "machine": platform.machine(),
            "threads": torch.get_num_threads(),
        }
    return {
        **versions,
        "device": torch.cuda.get_device_name(),
        "cuda": torch.version.cuda,
        "driver": driver(),
    }


def driver() -> str | None:
    """Of NVIDIA's cards, where nvidia-smi stands."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    query = [tool, "--query-gpu=driver_version", "--format=csv,noheader"]
    return subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()[0]


def short(device: str) -> str:
    """ "cpu", or of "NVIDIA H200" or "NVIDIA H100 80GB HBM3" the model: "h200", "h100"."""
    return (
        "cpu" if device == "cpu" else torch.cuda.get_device_name().removeprefix("NVIDIA ").split()[0].lower()
    )


def processor() -> str:
    """The processor's name where the system tells it (Linux), else its kind."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def row(found: Mapping[str, Any]) -> str:
    mine = f"{found['seconds'][OURS] * 1e3:.3g} ms"
    against = ", ".join(
        f"{ratio:g}x {name}{' (extrapolated)' if name in found['extrapolated'] else ''}"
        for name, ratio in found["ours_faster"].items()
    )
    return f"{found['operation']:<25}{found['size']:<48}{mine:>10}{found['percent_of_floor']:>8}%   {against}"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("files", nargs="*", help="which files of kernels/ (default: all that have cases)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--data", type=Path, default=HERE / "data", help="the folder of the data file")
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        torch.set_num_threads(1)
    known = sorted(path.stem.removeprefix("kernel_") for path in HERE.glob("kernel_*.py"))
    unknown = [name for name in arguments.files if name not in known]
    if unknown:
        parser.error(f"no cases for {', '.join(unknown)}; there are {', '.join(known)}")
    floor = floors(device)
    arguments.data.mkdir(parents=True, exist_ok=True)
    path = arguments.data / f"kernels_{short(device)}.json"
    content = json.loads(path.read_text()) if path.exists() else {"rows": {}}
    print(f"{'operation':<25}{'size':<48}{'ours':>10}{'of floor':>9}   ours is faster by")
    for name in arguments.files or known:
        found = []
        for case in import_module(f"kernel_{name}").CASES:
            found.append(measured(case, device, arguments.rounds, floor))
            print(row(found[-1]), flush=True)
        content["rows"][name] = {"cases": found, "floor": floor, "environment": environment(device)}
        path.write_text(json.dumps(content, indent=1) + "\n")  # after each file: nothing measured is lost
    return 0


if __name__ == "__main__":
    sys.exit(main())
