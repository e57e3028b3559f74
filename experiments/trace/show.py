"""`assay trace`: puts models into a registry, and traces suspects in it."""

import argparse
import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from ...core.errors import ConfigError
from .. import show


def trace(arguments: argparse.Namespace, rest: list[str], console: Console) -> int:
    from .trace import add
    from .trace import trace as traced

    settings = [word for word in [*arguments.words[1:], *rest] if "=" in word]
    words = [word for word in [*arguments.words, *rest] if word not in settings]
    folder, config_dir = Path(arguments.registry), arguments.config_dir
    if len(words) == 2 and words[0] == "add":
        key = Path(arguments.key) if arguments.key else None
        entry = add(Path(words[1]), folder, arguments.title, key, arguments.stranger, settings, config_dir)
        role = "stranger" if entry.stranger else "model"
        console.print(f"{role} {entry.number}: {escape(entry.title)}, id {entry.id}", soft_wrap=True)
        return 0
    if len(words) != 1:
        raise ConfigError(
            f"expected SUSPECT, or add MODEL, and settings like task=..., got {' '.join(words)}"
        )
    if arguments.key or arguments.stranger or arguments.title:
        raise ConfigError("--key, --stranger and --title belong to `assay trace add MODEL`")
    found = traced(Path(words[0]), folder, arguments.fpr, arguments.top, settings, config_dir)
    if arguments.json:
        print(json.dumps(found, indent=1))  # noqa: T201
        return 0
    _table(found, console)
    console.print(escape(found["sentence"]), soft_wrap=True, highlight=False)
    return 0


def _table(found: dict[str, Any], console: Console) -> None:
    table = show.plain_table(f"Nearest of {found['entries']} models, {found['strangers']} strangers beside")
    for column in ("model", "labels", "p", "weights", "p", "mark", "p, corrected"):
        table.add_column(column, justify="left" if column in ("model", "mark") else "right")
    for hit in found["hits"]:
        table.add_row(
            escape(hit["entry"]["title"]), *_view(hit, "labels"), *_view(hit, "weights"), *_mark(hit)
        )
    console.print(table)


def _view(hit: dict[str, Any], view: str) -> tuple[str, str]:
    """Beyond the nearest of a view nothing was asked."""
    here = hit["views"].get(view)
    return (f"{here['distance']:.3f}", show.p_value(here["log10_p"])) if here else ("-", "-")


def _mark(hit: dict[str, Any]) -> tuple[str, str]:
    mark = hit["mark"]
    if mark is None:
        return "no key", "-"
    if mark["unread"] is not None or mark["statistic"] is None:
        return f"{mark['scheme']}: unread", "1"
    of = f" of {mark['trials']}" if mark["trials"] else ""
    return f"{mark['scheme']}: {mark['statistic']:g}{of}", show.p_value(mark["corrected"])
