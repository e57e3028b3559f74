"""`assay evidence attacks`: every attack on evidence, tried, as a table."""

import argparse
import json
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from ...core.atomic import write_atomically
from ...core.errors import ConfigError
from ..config import composer
from ..show import plain_table
from ..trial import Trial, prepare
from . import attacks_log, attacks_marks
from .rows import Row
from .world import World


def attacks(arguments: argparse.Namespace, rest: list[str], console: Console) -> int:
    """Overrides choose task, model and scheme; adi_derived on digits by default."""
    named = {name for name, _, _ in attacks_marks.TABLE} | set(LOG)
    unknown = sorted(set(arguments.only) - named)
    if unknown:
        raise ConfigError(
            f"there is no attack on evidence called {unknown[0]!r}; there are: {', '.join(sorted(named))}"
        )
    with composer() as compose:
        words = ["watermark=adi_derived", f"seed={arguments.seed}", *rest, "attack=none", "deployment=open"]
        trial = prepare(compose(words))
    found = list(rows(trial, arguments.only))
    said = {"choices": trial.spec.choices, "seed": trial.seed, "rows": [asdict(row) for row in found]}
    if arguments.output:
        write_atomically(Path(arguments.output), (json.dumps(said, indent=1) + "\n").encode())
    if arguments.json:
        print(json.dumps(said, indent=1))  # noqa: T201
    else:
        shown(found, console)
    return 0


LOG = ("back-dating", "back-dating by another's R1", "foreign proof", "log rewrite", "split view")


def rows(trial: Trial, only: list[str]) -> Iterator[Row]:
    """All of them, or those named; what is not asked for is not tried."""
    with tempfile.TemporaryDirectory() as place:
        if not only or set(only) & set(LOG):
            yield from (
                row for row in attacks_log.attacks(Path(place) / "logs") if not only or row.attack in only
            )
        wanted = [entry for entry in attacks_marks.TABLE if not only or entry[0] in only]
        if wanted:
            yield from attacks_marks.attacks(World(trial, Path(place) / "world"), wanted)


def shown(found: list[Row], console: Console) -> None:
    table = plain_table("Attacks on evidence")
    for name in ("attack", "against", "succeeds", "tries", "seconds", "success takes"):
        table.add_column(name, justify="right" if name in ("tries", "seconds") else "left", overflow="fold")
    for row in found:
        verdict = "[red]yes[/]" if row.succeeded else "[green]no[/]"
        cells = [row.attack, row.defence, verdict, str(row.tries), f"{row.seconds:.1f}"]
        table.add_row(*cells, escape(row.cost))
    console.print(table)
    for row in found:
        console.print(escape(f"{row.attack}, {row.defence}: {row.why}"), soft_wrap=True, highlight=False)
