"""`assay calibrate`, the command: a table, a picture, and one JSON file under runs/calibrate."""

import argparse
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from ...core.atomic import write_atomically
from ...core.errors import ConfigError, NotApplicable
from .. import show
from ..config import composer, digest

if TYPE_CHECKING:
    from .calibrate import Calibration, Null

NULLS = {
    "independent_models": "independent models",
    "random_keys": "random keys",
    "rivals": "models of rivals",
}


def calibrate(arguments: argparse.Namespace, rest: list[str], console: Console) -> int:
    from ..trial import prepare
    from .calibrate import calibrate as measured
    from .calibrate import summary
    from .plot import save

    asked = [*rest, *([] if any(w.startswith("verification") for w in rest) else ["verification=decisive"])]
    with composer(arguments.config_dir) as compose:
        trial = prepare(compose(["attack=none", "deployment=open", *asked]))
    name = trial.spec.choices["watermark"]
    try:
        found = measured(trial)
    except NotApplicable as reason:
        raise ConfigError(str(reason)) from None
    content = summary(trial, found)
    if arguments.json:
        print(json.dumps(content, indent=1))  # noqa: T201
        return 0
    tell(found, name, console)
    place = Path(trial.settings.paths.runs) / "calibrate" / f"{name}-{digest(content['config'])[:12]}"
    place.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(place.with_suffix(".json"), (json.dumps(content, indent=1) + "\n").encode())
    save(found, name, place.with_suffix(".png"))
    console.print(f"record: {place}.json\npicture: {place}.png", soft_wrap=True)
    return 0


def tell(found: "Calibration", name: str, console: Console) -> None:
    table = show.plain_table(f"Is the p-value of {name} what it says? Declared rate {found.fpr:g}")
    for column in ("null", "scores", "mean", "sd", "claims", "observed rate, 95 %", "correlation", "AUROC"):
        table.add_column(column, justify="left" if column == "null" else "right")
    for null in found.nulls:
        table.add_row(*_row(null))
    console.print(table)
    marked = found.marked
    of = f" of {found.trials}" if found.trials else ""
    statistic = "unreadable" if marked.statistic is None else f"{marked.statistic:g}{of}"
    console.print(
        f"marked model: {statistic} {found.unit}, p = {show.p_value(marked.log10_p)} ({marked.source})"
    )
    console.print(_found_at(found), soft_wrap=True)
    console.print(_verdict(found), soft_wrap=True)


def _row(null: "Null") -> list[str]:
    spread = null.dispersion
    if null.claims is None or null.low is None or null.high is None:
        observed = "-"
    else:
        observed = f"{null.rate:.2%} ({null.low:.2%} to {null.high:.2%})"
    correlation = "-" if spread is None or math.isnan(spread.rho) else f"{round(spread.rho, 4):g}"
    claims = "-" if null.claims is None else str(null.claims)
    return [
        null.name,
        str(len(null.statistics)),
        f"{null.mean:.4g}",
        "-" if math.isnan(null.sd) else f"{null.sd:.3g}",
        claims,
        observed,
        correlation,
        "-" if math.isnan(null.auroc) else f"{null.auroc:.3f}",
    ]


def _found_at(found: "Calibration") -> str:
    """The true-positive rate, of one model."""
    told = ", ".join(f"{int(hit)} of 1 at {_percent(rate)}" for rate, hit in found.found_at) or "none"
    least = f"; p supports no rate below {_percent(found.supported)}" if found.supported else ""
    return f"marked models found: {told}{least}"


def _percent(rate: float) -> str:
    return f"{100 * rate:.3g} %"


def _verdict(found: "Calibration") -> str:
    """What the intervals allow to be said, and no more."""
    if found.law is None:
        return _rank(found)
    off = [n.name for n in found.nulls if n.low is not None and n.low > found.fpr]
    words = [
        f"The observed rate exceeds the declared one: {', '.join(off)}."
        if off
        else "No null contradicts the declared rate."
    ]
    bounds = [f"{_percent(n.bound)} ({n.name})" for n in found.nulls if n.bound is not None]
    words.append(f"At 95 % confidence it is at most {', '.join(bounds)}.")
    spread = found.nulls[0].dispersion
    if spread is not None and spread.log10_p <= -2:
        words.append(
            f"Hits of the owner's key on one model are correlated ({spread.rho:.2g}, p = {show.p_value(spread.log10_p)}): "
            f"{spread.trials} tell as much as {spread.effective:.0f} independent ones. The tail holds over the draw of keys, "
            "not for this key over models."
        )
    return " ".join(words)


def _rank(found: "Calibration") -> str:
    """Where no exact tail decides."""
    from ...core.statistics import rate_bound
    from .calibrate import decides

    name, count = decides(found.marked)
    return (
        f"There is no exact tail: p is the rank among {count} {NULLS.get(name, name)}, so it is exact and at least "
        f"1/{count + 1}; 0 of {count} bounds a threshold's rate by {_percent(rate_bound(0, count))} (95 %)."
    )
