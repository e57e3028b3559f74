"""`assay status` of suites, under any launcher: what is done, runs, failed and is left, and how long the rest may take."""

import math
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, pvariance

from ...leaderboard.store import FINAL, Record
from .plan import Plan

ENOUGH = 3
"""Finished trials of an attack from which on it has a mean of its own; of fewer the mean of all is taken."""
Z = 1.28
"""Of a normal interval that holds in 80 of 100 cases."""
SHOWN, REASONS = 10, 30

Range = tuple[float, float]


@dataclass(frozen=True)
class Running:
    id: str
    host: str
    since: float
    """Unix time."""


@dataclass(frozen=True)
class Suite:
    """done: trials by the status of their record, `failed` among them; workers: those alive; range: seconds to go."""

    name: str
    launcher: str
    total: int
    done: Counter[str]
    running: list[Running]
    left: list[str]
    workers: int
    range: Range | None


def suites(runs: Path, records: Sequence[Record]) -> list[Suite]:
    """Every suite that was launched into this results folder, as its last launch stands."""
    folders = sorted(path.parent for path in (runs / "launch").glob("*/plan.json"))
    known = {record["id"]: record for record in records} if folders else {}
    return [suite(Plan.read(folder), known) for folder in folders]


def suite(plan: Plan, known: Mapping[str, Record]) -> Suite:
    crew = [worker for worker in plan.seen() if worker.alive]
    ids: list[str] = plan.trials["ids"]
    running = {number: Running(ids[number], w.host, at) for w in crew for number, at in w.running.items()}
    done = {number: str(found["status"]) for number, found in _answered(plan)}
    due = set(plan.due)
    for number, trial in enumerate(ids):
        record = known.get(trial)
        if record is None or number in done or number in running:
            continue
        if number not in due or (record["status"] in FINAL and (record["finished"] or "") >= plan.started):
            done[number] = record["status"]
    left = [number for number in range(len(ids)) if number not in done and number not in running]
    # The launch itself has a log too, and of local trials it is the worker.
    workers = plan.workers if plan.launcher == "local" and crew else sum(w.path.stem.isdigit() for w in crew)
    ahead = Counter(plan.attack(number) for number in (*left, *running))
    took = [(plan.attack(n), float(known[ids[n]]["seconds"])) for n in done if _timed(known.get(ids[n]))]
    return Suite(
        plan.suite,
        plan.launcher,
        len(ids),
        Counter(done.values()),
        list(running.values()),
        [ids[number] for number in left],
        workers,
        to_go(ahead, took, workers or plan.workers),
    )


def _answered(plan: Plan) -> Iterator[tuple[int, Record]]:
    for worker in plan.seen():
        yield from worker.done


def _timed(record: Record | None) -> bool:
    return record is not None and record.get("seconds") is not None


def to_go(ahead: Mapping[str, int], took: Sequence[tuple[str, float]], workers: int) -> Range | None:
    """Seconds until `ahead` trials of each attack are done: what finished ones took, in the mean of their attack, times those
    ahead, over the workers; with 80 % for their scatter and the error of the means, as if normal. What a trial waits for others
    to train is in its seconds; that later ones find more in the cache is not. None from fewer than ENOUGH finished trials."""
    if not ahead:
        return 0.0, 0.0
    if len(took) < ENOUGH:
        return None
    seconds: dict[str, list[float]] = {}
    for attack, value in took:
        seconds.setdefault(attack, []).append(value)
    pooled = [value for _, value in took]
    total = variance = longest = 0.0
    for attack, count in ahead.items():
        own = seconds.get(attack, [])
        sample = own if len(own) >= ENOUGH else pooled
        mean, spread = fmean(sample), pvariance(sample)
        total += count * mean
        variance += spread * (count + count**2 / len(sample))
        longest = max(longest, mean)
    half = Z * math.sqrt(variance)
    return max((total - half) / workers, 0.0), max((total + half) / workers, longest)


def pending(launched: Sequence[Suite], recorded: Set[str]) -> list[Record]:
    """Trials of suites that run, and those left that have no record, as a program reads them."""
    states = {one.id: "running" for suite in launched for one in suite.running}
    states |= {
        trial: "left" for suite in launched for trial in suite.left if trial not in recorded | states.keys()
    }
    return [{"id": trial, "status": state} for trial, state in states.items()]


def told(records: Sequence[Record], launched: Sequence[Suite]) -> Iterator[str]:
    """Why trials have no number, of each status as many reasons as can be read; then the suites."""
    for status in ("failed", "blocked", "not_applicable"):
        alike: dict[str, list[str]] = {}
        for record in records:
            if record["status"] == status:
                alike.setdefault(record["reason"], []).append(record["id"])
        often = sorted(alike.items(), key=lambda item: -len(item[1]))
        for reason, ids in often[:REASONS]:
            yield f"  {status}  {ids[0]}{f' and {len(ids) - 1} more' if ids[1:] else ''}: {reason}"
        if len(alike) > REASONS:
            yield f"  and {sum(map(len, alike.values()))} {status} in all, for {len(alike)} reasons; --json has each"
    for one in launched:
        yield from lines(one)


def lines(found: Suite) -> Iterator[str]:
    """What the terminal shows of a suite."""
    states = {s: n for s, n in found.done.items() if s != "failed"}
    parts = ", ".join(f"{n} {status}" for status, n in sorted(states.items()))
    yield (
        f"suite {found.name}, launcher={found.launcher}: {sum(states.values())} of {found.total} done"
        + (f" ({parts})" if parts else "")
        + f", {found.done['failed']} failed, {len(found.running)} running, {len(found.left)} left"
    )
    for one in found.running[:SHOWN]:
        yield f"  running  {one.id} on {one.host} for {spoken(max(0.0, time.time() - one.since))}"
    if len(found.running) > SHOWN:
        yield f"  and {len(found.running) - SHOWN} more"
    yield from _ending(found)


def _ending(found: Suite) -> Iterator[str]:
    if not found.left and not found.running:
        return
    if not found.workers:
        yield "  no worker is alive: the same `assay suite` command goes on with what is left"
    if found.range is None:
        yield f"  time to go: unknown until {ENOUGH} trials are done"
        return
    what = "with as many workers as it had" if not found.workers else f"with {found.workers} workers"
    yield f"  time to go: {between(*found.range)} {what} (mean seconds of finished trials, by attack; 80 %)"


def spoken(seconds: float) -> str:
    size, unit = _unit(seconds)
    return f"{seconds / size:.0f} {unit}"


def between(low: float, high: float) -> str:
    """A range in one unit, both ends to one digit, rounded outward."""
    size, unit = _unit(high)
    step_low, step_high = _step(low / size), _step(high / size)
    below, above = (
        math.floor(low / size / step_low) * step_low,
        math.ceil(high / size / step_high) * step_high,
    )
    return f"{below:g} to {above:g} {unit}" if below else f"up to {above:g} {unit}"


def _step(value: float) -> float:
    """The worth of the first digit, of whole numbers."""
    return 10.0 ** max(0, math.floor(math.log10(value))) if value > 0 else 1.0


def _unit(seconds: float) -> tuple[float, str]:
    units = ((86400.0, "days"), (3600.0, "h"), (60.0, "min"))
    return next(((size, name) for size, name in units if seconds >= 2 * size), (1.0, "s"))
