"""Suites: named grids of trials (conf/suite/*.yaml), run in parallel, resumed where they were left."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ..core.errors import ConfigError
from ..leaderboard.store import Record, Store
from .catalogue import CONF, GROUPS, catalogue
from .config import Spec, composer, options, suggest
from .isolate import isolated


def grid(name: str, folders: Sequence[Path]) -> list[list[str]]:
    """The suite's trials as lists of overrides; schemes vary fastest, so shared models are trained early."""
    path = next((p for f in folders if (p := f / "suite" / f"{name}.yaml").is_file()), None)
    if path is None:
        raise ConfigError(f"there is no suite called {name!r}.{suggest(name, options('suite'))}")
    content: Any = yaml.safe_load(path.read_text())
    try:
        common, blocks = dict(content["common"]), [dict(block) for block in content["blocks"]]
    except (TypeError, KeyError, ValueError):
        shape = "`common` (settings) and `blocks` (a list of settings), as in conf/suite/quick.yaml"
        raise ConfigError(f"{path}: expected {shape}") from None
    trials = []
    for block in blocks:
        axes = {**block, **common}
        values = [chosen(axis, value, folders) for axis, value in axes.items()]
        trials += [
            [f"{a}={v}" for a, v in zip(axes, point, strict=True)] for point in itertools.product(*values)
        ]
    if not trials:
        raise ConfigError(f"{path} names no trial: its blocks are empty")
    return trials


def chosen(axis: str, value: Any, folders: Sequence[Path]) -> list[Any]:
    """What a suite's entry stands for: a list as it is, one value, or by a mapping every option of the axis that declares
    these values (`{needs: weights}`; `{}` is all of them)."""
    if not isinstance(value, dict):
        return value if isinstance(value, list) else [value]
    declared = catalogue(axis, [f for f in folders if f != CONF])
    unknown = set(value) - set(GROUPS[axis])
    if unknown:
        raise ConfigError(f"{axis} declares no {unknown.pop()!r}; expected one of {', '.join(GROUPS[axis])}")
    return [name for name, found in declared.items() if all(found[field] == v for field, v in value.items())]


def specs_of(
    name: str, overrides: Sequence[str], config_dir: str | None, folders: Sequence[Path]
) -> list[Spec]:
    with composer(config_dir) as compose:
        return [compose([*trial, "trainer.progress=false", *overrides]) for trial in grid(name, folders)]


def run_suite(specs: list[Spec], jobs: int, console: Console) -> list[Record]:
    """Run what is not in the store yet, with a progress bar; all records of the suite, in its order."""
    store = Store(specs[0].records)
    due = [s for s in specs if s.config["force"] or not store.finished(s.id)]
    if len(due) < len(specs):
        console.print(
            f"{len(specs) - len(due)} of {len(specs)} trials are done already (force=true runs them again)"
        )
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not due) as progress:
        bar = progress.add_task("trials", total=len(due))

        def on_done(spec: Spec, record: Record) -> None:
            names = f"{spec.choices['watermark']} × {spec.choices['attack']} seed {spec.config['seed']}"
            progress.console.print(
                f"[dim]{names}[/]: {record['status']} {escape(record.get('reason') or '')}", soft_wrap=True
            )
            progress.advance(bar)

        isolated(due, jobs, on_done)
    found = [store.read(spec.id) for spec in specs]
    return [record for record in found if record is not None]
