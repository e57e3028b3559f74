"""Do layers protect together? Watermark, answers and monitor as the factors of an experiment, read off records of one suite.

A layer is a level of a factor other than the first: a watermark, answers that tell less than plain scores, a monitor. With y the
mean outcome of a cell,

  main effect    of a layer: y with it less y without it, averaged over the levels of the other factors
  interaction    of two layers: y(both) - y(one) - y(other) + y(neither), averaged over the third factor: what both do together
                 beyond the sum of what each does alone; of three layers, how the interaction of two changes under the third

Each is worked out within every seed (a victim, with the same data and initial weights in all cells), and the seeds are the sample:
95 % intervals and p are Student's over seeds, exact where a seed's number is normal, and wide for three of them. Cells of one seed
are not independent and never count as such. Where all seeds agree to the last digit no interval can be estimated, and there is
none. Beside p stands Holm's, over all interactions of one outcome and attack.

Outcomes, of each trial: the last clone's `accuracy`; `queries` answered before the first alarm, all where none was raised;
`evidence`, -log10 p of the owner's key in it; whether it is `detected`; and whether the thief `escapes`: neither alarm nor
detection. `any` attack is the thief who takes, in each cell and seed, the attack with the most accurate clone. What a deployment
blocks gives no clone: levels that an attack meets nowhere are left out of its table, and then seeds that lack a cell.

Suffixes: A, B, C levels of the three factors, the first of each the one without a layer; S seeds.
"""

import csv
import io
import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from .frontier import Floats
from .ranking import BOARD, CONTROL, Record, board_of, labelled

FACTORS = ("watermark", "answers", "monitor")
FIRST = (CONTROL, "scores", "none")
"""Of each factor the level without a layer."""
ANY = "any"
OUTCOMES = {"accuracy": -1, "queries": -1, "evidence": 1, "detected": 1, "escapes": -1}
"""The sign of a change for which the owner would pay."""
Cell = tuple[str, str, str, int]


@dataclass(frozen=True)
class Effect:
    """layers: of each factor the layer, or None. parts: of two layers what each does alone, the third factor averaged. value, low,
    high: of the effect, in the outcome's unit; None where it cannot be estimated. p is Student's, two-sided."""

    board: tuple[str, ...]
    attack: str
    outcome: str
    layers: tuple[str | None, ...]
    value: float
    low: float | None
    high: float | None
    seeds: int
    log10_p: float | None
    holm_log10_p: float | None
    parts: tuple[float, ...] = ()

    @property
    def order(self) -> int:
        return sum(layer is not None for layer in self.layers)

    @property
    def verdict(self) -> str:
        """Of an interaction: whether layers do more together than the sum of what they do alone."""
        if self.holm_log10_p is None or self.holm_log10_p > math.log10(0.05):
            return "not told from the sum"
        return "more than the sum" if self.value * OUTCOMES[self.outcome] > 0 else "less than the sum"


def interactions(records: Iterable[Record]) -> list[Effect]:
    """Of every board whose thefts vary in two factors or more."""
    boards: dict[tuple[str, ...], dict[str, dict[Cell, Record]]] = defaultdict(lambda: defaultdict(dict))
    for record in map(labelled, filter(_counts, records)):
        boards[board_of(record)][record["choices"]["attack"]][(*levels(record), record["seed"])] = record
    return [effect for board in sorted(boards) for effect in _board(board, boards[board])]


def _counts(record: Record) -> bool:
    """A theft through one account without a licence that left a clone."""
    told = record.get("deployment") if record["status"] == "ok" and "deployment" in record["config"] else None
    return bool(told and told["clone"] and told["accounts"] == 1 and not told["licensed"])


def levels(record: Record) -> tuple[str, str, str]:
    """The trial's level of each factor, from its settings."""
    watermark, deployment = record["choices"]["watermark"], record["config"]["deployment"]
    grants = ("weights", "scores", "labels", "texts")
    parts = [next((grant for grant in grants if grant in deployment["grants"]), "nothing")]
    if deployment.get("decimals") is not None:
        parts.append(f"{deployment['decimals']} decimals")
    parts += [_class(part) for _, part in sorted((deployment.get("defences") or {}).items())]
    if deployment.get("simulation"):
        parts.append("simulated")
    answers = ", ".join(parts[1:] if parts[0] == "scores" and parts[1:] else parts)
    if (watch := deployment.get("monitor")) is None:
        return watermark, answers, "none"
    reaction = deployment.get("on_alarm", "log")
    return watermark, answers, _class(watch) + ("" if reaction == "revoke" else f", {reaction}")


def _class(part: Record) -> str:
    return str(part["_target_"]).rpartition(".")[2].lower()


def outcomes(record: Record) -> dict[str, float]:
    told = record["deployment"]
    clone, alarm = told["clone"], told["alarm"]
    first = None if alarm is None else alarm["queries"]
    found = bool(clone["detected"])
    return {
        "accuracy": clone["accuracy"],
        "queries": clone["queries"] if first is None else first,
        "evidence": -clone["log10_p"],
        "detected": float(found),
        "escapes": float(not found and first is None),
    }


def _board(board: tuple[str, ...], by_attack: dict[str, dict[Cell, Record]]) -> Iterator[Effect]:
    tables = {name: by_attack[name] for name in sorted(by_attack)}
    if len(tables) > 1:
        best: dict[Cell, Record] = {}
        for cell, record in itertools.chain.from_iterable(table.items() for table in tables.values()):
            if cell not in best or _accuracy(record) > _accuracy(best[cell]):
                best[cell] = record
        tables[ANY] = best
    for attack, table in tables.items():
        names = _levels(table)
        if sum(len(found) > 1 for found in names) < 2:
            continue
        told = {cell: outcomes(record) for cell, record in table.items()}
        for outcome in OUTCOMES:
            seen = {cell: values[outcome] for cell, values in told.items()}
            yield from effects(seen, names, (board, attack, outcome))


def _accuracy(record: Record) -> float:
    found: float = record["deployment"]["clone"]["accuracy"]
    return found


def _levels(table: Iterable[Cell]) -> list[list[str]]:
    """Of each factor, the level without a layer first; nothing to compare with where there is none."""
    found = [sorted(set(column)) for column in zip(*(cell[:3] for cell in table), strict=True)]
    return [
        [first, *(name for name in names if name != first)] if first in names else []
        for first, names in zip(FIRST, found, strict=True)
    ]


def effects(
    seen: dict[Cell, float], names: Sequence[Sequence[str]], of: tuple[tuple[str, ...], str, str]
) -> list[Effect]:
    """All main effects and interactions of one outcome. Empty where no seed has every cell."""
    y_ABCS = filled(seen, names)
    if not y_ABCS.shape[-1]:
        return []
    found = []
    for chosen in itertools.product(*(range(len(levels)) for levels in names)):
        if any(chosen):
            layers = tuple(names[f][i] if i else None for f, i in enumerate(chosen))
            found.append(_effect(contrast(y_ABCS, chosen), layers, of, _parts(y_ABCS, chosen)))
    family = [e for e in found if e.order > 1 and e.log10_p is not None]
    adjusted = dict(zip(map(id, family), _holm([e.log10_p or 0.0 for e in family]), strict=True))
    return [replace(e, holm_log10_p=adjusted.get(id(e))) for e in sorted(found, key=lambda e: e.order)]


def filled(seen: dict[Cell, float], names: Sequence[Sequence[str]]) -> Floats:
    """(A, B, C, S) of the seeds that have every cell."""
    cells = list(itertools.product(names[0], names[1], names[2]))
    seeds = [s for s in sorted({cell[-1] for cell in seen}) if all((*cell, s) in seen for cell in cells)]
    values = [[seen[*cell, seed] for seed in seeds] for cell in cells]
    return np.array(values, dtype=np.float64).reshape(*(len(found) for found in names), len(seeds))


def contrast(y_ABCS: Floats, chosen: Sequence[int]) -> Floats:
    """(S,) of the chosen level of each factor against the first; factors whose first level is chosen are averaged."""
    out = y_ABCS
    for level in chosen:
        out = out[level] - out[0] if level else out.mean(0)
    return out


def _parts(y_ABCS: Floats, chosen: Sequence[int]) -> tuple[float, ...]:
    """Of two layers, what each does where the other is absent."""
    factors = [f for f, level in enumerate(chosen) if level]
    if len(factors) != 2:
        return ()
    alone = []
    for f in factors:
        other = next(g for g in factors if g != f)
        without_S = np.take(y_ABCS, [0], axis=other)
        alone.append(
            float(contrast(without_S, [level if g == f else 0 for g, level in enumerate(chosen)]).mean())
        )
    return tuple(alone)


def _effect(
    d_S: Floats,
    layers: tuple[str | None, ...],
    of: tuple[tuple[str, ...], str, str],
    parts: tuple[float, ...],
) -> Effect:
    value, low, high, log10_p = student(d_S)
    return Effect(*of, layers, value, low, high, len(d_S), log10_p, None, parts)


def student(d_S: Floats) -> tuple[float, float | None, float | None, float | None]:
    """Mean, 95 % interval, log10 of the two-sided p of mean 0. None with one seed, or without spread."""
    from scipy import stats  # takes a second to import

    mean, count = float(d_S.mean()), len(d_S)
    if count < 2 or np.ptp(d_S) <= 1e-12 * max(1.0, abs(mean)):
        return mean, None, None, None
    error = float(d_S.std(ddof=1)) / math.sqrt(count)
    half = float(stats.t.ppf(0.975, count - 1)) * error
    log10_p = min(0.0, (float(stats.t.logsf(abs(mean) / error, count - 1)) + math.log(2)) / math.log(10))
    return mean, mean - half, mean + half, log10_p


def _holm(log10_p: list[float]) -> list[float]:
    from ..core.statistics import holm  # scipy takes a second to import

    return [float(p) for p in holm(log10_p)] if log10_p else []


def interactions_csv(found: Sequence[Effect]) -> bytes:
    """A row per effect; what was not estimated is an empty field."""
    text = io.StringIO(newline="")
    columns = (
        *BOARD,
        "attack",
        "outcome",
        *FACTORS,
        "order",
        "effect",
        "low",
        "high",
        "seeds",
        "log10_p",
        "holm_log10_p",
    )
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow((*columns, "first_alone", "second_alone"))
    for e in found:
        numbers = (e.order, e.value, e.low, e.high, e.seeds, e.log10_p, e.holm_log10_p)
        alone = e.parts or (None, None)
        writer.writerow(
            (*e.board, e.attack, e.outcome, *(layer or "" for layer in e.layers), *numbers, *alone)
        )
    return text.getvalue().encode()
