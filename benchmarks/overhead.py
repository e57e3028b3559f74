"""Overhead as ratios and curves: ways interleaved in one process, CPU seconds, order alternating.

A ratio is one of medians, its interval a bootstrap over pairs; wider than 5 points and than half of the cost it is not resolvable.
What is paid once, at loading, is held against what every request costs: from how many requests on the whole lies under a level.
"""

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from measure import DATA

Ways = Mapping[str, Callable[[], object]]
Timings = dict[str, list[float]]
LEVELS = (0.01, 0.05)
RESOLVED = 0.05


@dataclass(frozen=True)
class Ratio:
    """low, high: 95 %, by bootstrap over pairs."""

    ratio: float
    low: float
    high: float

    @property
    def said(self) -> dict[str, Any]:
        cost = self.ratio - 1
        resolved = self.high - self.low <= max(RESOLVED, cost / 2)
        found = {"ratio": round(self.ratio, 4), "low": round(self.low, 4), "high": round(self.high, 4)}
        return {**found, "verdict": f"{100 * cost:+.1f} %" if resolved else "not resolvable"}


def timed(ways: Ways, pairs: int) -> Timings:
    """CPU seconds; two rounds before, which do not count."""
    seconds: Timings = {name: [] for name in ways}
    for i in range(-2, pairs):
        for name in list(ways)[:: 1 if i % 2 == 0 else -1]:
            start = time.process_time()
            ways[name]()
            spent = time.process_time() - start
            if i >= 0:
                seconds[name].append(spent)
    return seconds


def ratio(seconds: Timings, of: str, to: str, draws: int = 2000) -> Ratio:
    """Of the medians."""
    both_2P = np.array([seconds[of], seconds[to]])
    count = both_2P.shape[1]
    index_DP = np.random.default_rng(0).integers(count, size=(draws, count))
    above_D, below_D = (np.median(side_P[index_DP], axis=1) for side_P in both_2P)
    low, high = np.quantile(above_D / below_D, (0.025, 0.975))
    return Ratio(float(np.median(both_2P[0]) / np.median(both_2P[1])), float(low), float(high))


def break_even(load: Timings, query: Timings, way: str | None) -> dict[str, Any]:
    """The least number of requests from which the package costs no more than a level of load and queries without it; "not
    resolvable" where the level lies in the interval of what a query pays. way: of the queries; None: they run bare, once the
    package is open."""
    opened, plain = (statistics.median(load[name]) for name in ("package", "plain"))
    bare = statistics.median(query["bare"])
    paid = Ratio(1, 1, 1) if way is None else ratio(query, way, "bare")
    found: dict[str, Any] = {}
    for level in LEVELS:
        margin = (1 + level - paid.ratio) * bare
        once = opened - plain - level * plain
        if paid.low <= 1 + level <= paid.high:
            found[f"{level:.0%}"] = "not resolvable"
        else:
            found[f"{level:.0%}"] = max(0, math.ceil(once / margin)) if margin > 0 else "never"
    return found


def curve(load: Timings, query: Timings, way: str | None, requests: "np.ndarray[Any, Any]") -> Any:
    """The overhead of load and so many requests."""
    opened, plain = (statistics.median(load[name]) for name in ("package", "plain"))
    bare = statistics.median(query["bare"])
    each = bare if way is None else statistics.median(query[way])
    return (opened + requests * each) / (plain + requests * bare) - 1


def plot(loads: dict[str, Timings], queries: dict[str, Timings]) -> Path:
    """The curves, and the 1 to 5 % that are claimed of such protection, in grey."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.2), layout="constrained")
    requests = np.logspace(0, 7, 200)
    for axes, name in zip(figure.subplots(1, len(loads), sharey=True), loads, strict=True):
        for way, label in (
            (None, "opened, then bare"),
            ("guarded", "guarded"),
            ("logged", "logged"),
            ("http", "HTTP"),
        ):
            over = curve(loads[name], queries[name], way, requests)
            axes.plot(requests, 100 * np.maximum(over, 1e-5), label=label)
        axes.axhspan(1, 5, color="0.9", zorder=0)
        axes.set(title=name, xscale="log", yscale="log", xlabel="requests", ylim=(0.01, 1e4))
    figure.axes[0].set_ylabel("overhead, % of load and queries")
    figure.axes[0].legend(fontsize=7)
    path = DATA / "deployment.svg"
    DATA.mkdir(exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    return path


def summary(load: Timings, query: Timings) -> dict[str, Any]:
    return {
        "load_cpu_seconds": {name: round(statistics.median(one), 5) for name, one in load.items()},
        "load_ratio": ratio(load, "package", "plain").said,
        "query_cpu_ms": {name: round(1e3 * statistics.median(one), 3) for name, one in query.items()},
        "query_ratio": {name: ratio(query, name, "bare").said for name in query if name != "bare"},
        "requests_until_overhead_below": {
            name: break_even(load, query, way)
            for name, way in (
                ("opened, then bare", None),
                ("guarded", "guarded"),
                ("logged", "logged"),
                ("http", "http"),
            )
        },
    }
