"""`assay radioactivity`, the command: a table, a picture and one JSON file; a record per arm, so that it resumes where it was."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from ...core.atomic import write_atomically
from ...core.errors import ConfigError
from .. import show
from ..config import composer, digest
from .design import Arm, Design, arms

PICTURES = (".png", ".pdf", ".svg")
WORDS = ("task=lm_tiny", "model=gpt2_tiny", "watermark=llm/kgw", "deployment=api_text", "attack=llm/none")


def radioactivity(arguments: argparse.Namespace, rest: list[str], console: Console) -> int:
    design = Design(**{field.name: getattr(arguments, field.name) for field in fields(Design)})
    wanted = arms(*(_numbers(arguments, name) for name in ("shares", "widths", "deltas")))
    for arm in wanted:
        design.marked(arm.share)
    picture = Path(arguments.plot) if arguments.plot else None
    if picture is not None and picture.suffix not in PICTURES:
        raise ConfigError(f"--plot={picture}: expected a name that ends in {', '.join(PICTURES)}")
    place, records = _measured(arguments, rest, design, wanted, console)
    content = {"design": asdict(design), "arms": sorted(records, key=_order)}
    write_atomically(place.with_suffix(".json"), (json.dumps(content, indent=1) + "\n").encode())
    if arguments.json:
        print(json.dumps(content, indent=1))  # noqa: T201
    else:
        _tell(records, design, console)
    picture = picture or place.with_suffix(".png")
    _draw(records, design, picture)
    if not arguments.json:
        console.print(f"record: {place}.json\npicture: {picture}", soft_wrap=True)
    return 0


def _numbers(arguments: argparse.Namespace, name: str) -> list[Any]:
    kind = int if name == "widths" else float
    given = getattr(arguments, name)
    try:
        found = [kind(word) for word in given.split(",")]
    except ValueError:
        example = {"shares": "0.01,0.1,1", "widths": "1,4", "deltas": "2,4"}[name]
        raise ConfigError(f"--{name}={given}: expected numbers between commas, --{name}={example}") from None
    return found


def _measured(
    arguments: argparse.Namespace,
    rest: list[str],
    design: Design,
    wanted: Sequence[Arm],
    console: Console,
) -> tuple[Path, list[dict[str, Any]]]:
    """Where the summary belongs, and the record of every arm, read where it has been measured before by the same settings."""
    from ..trial import prepare
    from .radioactivity import Teacher, measured

    teachers: dict[tuple[int, float], Teacher] = {}
    records, names = [], []
    with composer(arguments.config_dir) as compose:
        specs = {
            (arm.width, arm.delta): compose(
                [*WORDS, *rest, f"watermark.width={arm.width}", f"watermark.delta={arm.delta}"]
            )
            for arm in wanted
        }
    folder = Path(next(iter(specs.values())).config["paths"]["runs"]) / "radioactivity"
    for number, arm in enumerate(wanted, 1):
        mark = arm.width, arm.delta
        identity = {"design": asdict(design), "arm": asdict(arm), "config": specs[mark].identity()["config"]}
        names.append(digest(identity)[:16])
        path = folder / "arms" / f"{names[-1]}.json"
        if not path.is_file() or specs[mark].config["force"]:
            if not arguments.json:
                console.print(f"arm {number} of {len(wanted)}: {escape(str(arm))}", soft_wrap=True)
            if mark not in teachers:
                teachers[mark] = Teacher(prepare(specs[mark]), design)
            found = measured(teachers[mark], arm)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, (json.dumps(found, indent=1) + "\n").encode())
        records.append(json.loads(path.read_text()))
    return folder / digest(sorted(names))[:12], records


def _order(record: dict[str, Any]) -> tuple[float, ...]:
    return record["width"], record["delta"], record["share"]


def _tell(records: Sequence[dict[str, Any]], design: Design, console: Console) -> None:
    told = show.plain_table(
        f"What a student of {design.texts} texts shows of the mark: log10 p (ids scored), prompts and repeated windows left out"
    )
    columns = (
        "h",
        "delta",
        "marked",
        "closed: he writes",
        "open: he reads",
        "least of strangers",
        "perplexity",
        "CPU s",
    )
    for column in columns:
        told.add_column(column, justify="right")
    for record in sorted(records, key=_order):
        both = [record["closed"], record["open"]]
        told.add_row(
            str(record["width"]),
            f"{record['delta']:g}",
            f"{100 * record['share']:g} %" if record["share"] else "none",
            *(f"{one['log10_p']:.1f} ({one['scored']:,})" for one in both),
            f"{min(one['strangers']['least'] for one in both):.1f} of {both[0]['strangers']['count']}",
            f"{record['perplexity']:.1f}",
            f"{record['cpu_seconds']:.0f}",
        )
    console.print(told)


def _draw(records: Sequence[dict[str, Any]], design: Design, path: Path) -> None:
    from .plot import save

    path.parent.mkdir(parents=True, exist_ok=True)
    save(records, f"Radioactivity of green lists: students of {design.texts} texts", path)
