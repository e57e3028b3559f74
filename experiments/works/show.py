"""`assay works`: put a work into a registry, or look for one there."""

import argparse
import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from ...core.errors import ConfigError, printable
from .. import show


def works(arguments: argparse.Namespace, rest: list[str], console: Console) -> int:
    from ...evidence.registry import Registry
    from ...evidence.works import METRICS
    from .find import find
    from .read import read

    if rest:
        raise ConfigError(f"expected no further words, got {' '.join(rest)}")
    work = read(Path(arguments.work), arguments.kind, arguments.every)
    registry = Registry(Path(arguments.registry), METRICS, create=arguments.action_ == "add")
    if arguments.action_ == "add":
        about = {"kind": work.kind, "file": work.path.name}
        title = arguments.title or printable(work.path.name)
        entry = registry.add(work.id, title, [work.print], about, arguments.stranger)
        role = "stranger" if entry.stranger else "work"
        said = f"{role} {entry.number}: {escape(entry.title)}, {work.kind}, id {entry.id}"
        console.print(said, soft_wrap=True)
        return 0
    found = find(registry, work, arguments.fpr, arguments.top)
    if arguments.json:
        print(json.dumps(found, indent=1))  # noqa: T201
        return 0
    _table(found, console)
    console.print(escape(found["sentence"]), soft_wrap=True)
    return 0


def _table(found: dict[str, Any], console: Console) -> None:
    table = show.plain_table(f"The nearest works; distance: {found['unit']}")
    for column in ("work", "distance", "p"):
        table.add_column(column, justify="left" if column == "work" else "right")
    for match in found["matches"]:
        p = show.p_value(match["log10_p"])
        table.add_row(escape(match["title"]), f"{match['distance']:.3f}", p)
    console.print(table)
