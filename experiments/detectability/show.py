"""`assay detectability`, the command: a table, and one JSON file under runs/detectability."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from ...core.atomic import write_atomically
from ...core.errors import ConfigError, NotApplicable
from .. import show
from ..config import composer, digest

if TYPE_CHECKING:
    from .detectability import Found


def detectability(arguments: argparse.Namespace, rest: list[str], console: Console) -> int:
    from ..trial import prepare
    from .detectability import detectable, summary

    with composer(arguments.config_dir) as compose:
        trial = prepare(compose(["attack=none", "deployment=open", *rest]))
    name = trial.spec.choices["watermark"]
    try:
        found = list(detectable(trial, arguments.models))
    except NotApplicable as reason:
        raise ConfigError(str(reason)) from None
    content = {**summary(trial, found), "pairs": arguments.models}
    if arguments.json:
        print(json.dumps(content, indent=1))  # noqa: T201
        return 0
    table = show.plain_table(f"Can a thief tell? {name}: 0.5 is a guess, 1 is certainty")
    for column in ("detector", "sees", "AUC", "95 %", "p", "of"):
        table.add_column(column, justify="left" if column in ("detector", "sees") else "right")
    for one in found:
        _row(table, one)
    console.print(table)
    path = Path(trial.settings.paths.runs) / "detectability" / f"{name}-{digest(content['config'])[:12]}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (json.dumps(content, indent=1) + "\n").encode())
    console.print(f"record: {path}", soft_wrap=True)
    return 0


def _row(table: Table, one: "Found") -> None:
    bounds = f"{one.low:.3f} to {one.high:.3f}" if one.low is not None else ""
    unit = "pairs" if one.sees == "weights" else "queries"
    p = f"{one.p:.3g}" if one.p is not None else ""
    table.add_row(one.detector, one.sees, f"{one.auc:.3f}", bounds, p, f"{one.count} {unit}")
