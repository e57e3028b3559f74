"""What the commands do: one function each, (arguments, the words left, console) -> exit code. Heavy imports happen inside
those that need them: help, list, status and board answer at once."""

import argparse
import itertools
import json
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..core.errors import ConfigError
from . import options

FAILED = 1


def run(arguments: argparse.Namespace, rest: list[str], console: Console) -> int:
    """One trial, or a sweep with -m."""
    from .sweep import sweep

    return sweep(rest, console)


def suite(arguments: argparse.Namespace, rest: list[str], console: Console) -> int:
    from ..leaderboard.page import write_board
    from ..leaderboard.ranking import ranking
    from . import show
    from .config import CONF
    from .launch.launcher import launcher
    from .suite import run_suite, specs_of

    overrides_only(rest)
    if arguments.jobs is not None and arguments.jobs < 1:
        raise ConfigError(f"expected --jobs of at least 1, got {arguments.jobs}")
    folders = [*([Path(arguments.config_dir)] if arguments.config_dir else []), CONF]
    jobs = [] if arguments.jobs is None else [f"launcher.workers={arguments.jobs}"]
    asked, words = launcher([*rest, *jobs], folders)
    specs = specs_of(arguments.name, words, arguments.config_dir, folders)
    records = run_suite(arguments.name, specs, asked, arguments.config_dir, words, console)
    show.ranking(ranking(records), console)
    page = Path(specs[0].config["paths"]["runs"]) / "board.html"
    write_board(records, page)
    console.print(f"the board: {page}", soft_wrap=True)
    failed = [record for record in records if record["status"] == "failed"]
    for record in failed:
        console.print(f"[red]failed[/] {record['id']}: {escape(record['reason'])}", soft_wrap=True)
    return FAILED if failed else 0


def status(arguments: argparse.Namespace, rest: list[str], console: Console) -> int:
    from ..leaderboard.screen import screened, sentences
    from ..leaderboard.store import Store
    from .launch.index import heads
    from .launch.status import pending, suites, told

    nothing_left(rest)
    known = screened(heads(Store(Path(arguments.runs) / "records")))
    records, launched = known.records, suites(Path(arguments.runs), known.records)
    if arguments.json:
        keys = ("id", "status", "reason", "finished")
        shown = [*records, *pending(launched, {record["id"] for record in records})]
        print(json.dumps([{key: record.get(key) for key in keys} for record in shown], indent=1))  # noqa: T201
        return 0
    counts: dict[str, int] = {}
    for record in records:
        counts[record["status"]] = counts.get(record["status"], 0) + 1
    console.print(
        f"{len(records)} trials in {arguments.runs}: "
        + (", ".join(f"{n} {s}" for s, n in counts.items()) or "none yet")
    )
    for line in told(records, launched):
        console.print(escape(line), soft_wrap=True, highlight=False)
    for note in sentences(known.excluded, 0):
        console.print(escape(note), soft_wrap=True, highlight=False)
    return 0


def list_(arguments: argparse.Namespace, rest: list[str], console: Console) -> int:
    from .catalogue import GROUPS, catalogue
    from .config import CONF, importable

    nothing_left(rest)
    folders = [Path(arguments.config_dir)] if arguments.config_dir else []
    if arguments.config_dir:
        importable(arguments.config_dir)
    if arguments.markdown:
        from ..leaderboard.store import Store
        from .handbook import handbook

        matrix, elsewhere = (CONF.parent / f"results/{name}/records" for name in ("digits", "defaults"))
        print(handbook(Store(matrix), "../results/digits/records", Store(elsewhere)), end="")  # noqa: T201
        return 0
    found = {group: catalogue(group, folders, nested=True) for group in GROUPS}
    if arguments.json:
        print(json.dumps(found, indent=1))  # noqa: T201
        return 0
    for group, names in found.items():
        table = Table(
            title=group, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0)
        )
        hidden = ("name", "paper", "embeds", "scheme_known", "key_known")  # --json has them all
        columns = ["name", *(c for c in GROUPS[group] if c not in hidden), "about"]
        for column in columns:
            table.add_column(column, no_wrap=column == "name")
        for name, values in names.items():
            table.add_row(name, *(_cell(values[column]) for column in columns[1:]))
        console.print(table)
    return 0


def _cell(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or "-"
    return (
        {True: "yes", False: "no", None: "-"}.get(value, str(value)) if not isinstance(value, str) else value
    )


def board(arguments: argparse.Namespace, rest: list[str], console: Console) -> int:
    """The page, or the ranking in another form."""
    from ..leaderboard.claims import claims_in
    from ..leaderboard.detectability import detectable
    from ..leaderboard.export import export
    from ..leaderboard.page import write_board
    from ..leaderboard.screen import screened, sentences
    from ..leaderboard.store import Store

    nothing_left(rest)
    named = [Path(arguments.runs), *map(Path, arguments.also)]
    folders = list({folder.resolve(): folder for folder in named}.values())
    stores = [Store(folder / "records") for folder in folders]
    for store in stores:
        if not any(store.folder.glob("*.json")):
            raise ConfigError(
                f"expected records under {store.folder}, found none; run `assay suite quick` first"
            )
    told = (folder / name for folder in folders for name in ("detect", "detectability"))
    found = detectable(itertools.chain.from_iterable(store.screened() for store in stores), *told)
    form = arguments.export
    page = Path(arguments.output or Path(arguments.runs) / f"board.{options.SUFFIXES.get(form, form)}")
    if form == "html":  # read one by one: ten thousand records fill a gigabyte
        claims, refused = claims_in(Path(arguments.claims))
        count, notes = write_board(itertools.chain(refused, found), page, claims)
        console.print(f"{count} records: {page}", soft_wrap=True)
    else:
        known = screened(found)
        files = export([*known.records, *known.excluded], form, page)
        notes = sentences(known.excluded, known.unsigned)
        console.print(f"the ranking: {', '.join(map(str, files))}", soft_wrap=True)
    for note in notes:
        console.print(escape(note), soft_wrap=True, highlight=False)
    return 0


def verify(arguments: argparse.Namespace, rest: list[str], console: Console) -> int:
    from .verify import verify

    overrides_only(rest)
    found = verify(Path(arguments.model), Path(arguments.key), rest, arguments.config_dir)
    if arguments.json:
        print(json.dumps(found, indent=1, allow_nan=False))  # noqa: T201
    else:
        console.print(found.pop("sentence"), soft_wrap=True)
    return 0


def paper(arguments: argparse.Namespace, rest: list[str], console: Console) -> int:
    """A paper's preset: published numbers against measured ones."""
    from .paper.paper import paper

    return paper(arguments, rest, console)


def claim(arguments: argparse.Namespace, rest: list[str], console: Console) -> int:
    """What a submission reports against what we measure."""
    from .claim.show import claim

    return claim(arguments, rest, console)


def weightstats(arguments: argparse.Namespace, rest: list[str], console: Console) -> int:
    from .weightstats.plot import checked, save
    from .weightstats.show import show
    from .weightstats.weightstats import plain, weightstats

    nothing_left(rest)
    model = Path(arguments.model)
    place = Path(arguments.plot or f"{model.stem}.weights.png")
    wanted = bool(arguments.plot) or not arguments.json
    plot = checked(place) if wanted else None
    report = weightstats(
        model, [Path(path) for path in arguments.references], arguments.bins, arguments.channels
    )
    if plot:
        save(report, plot)
    if arguments.json:
        found = {**plain(report), "plot": str(plot) if plot else None}
        print(json.dumps(found, indent=1, allow_nan=False))  # noqa: T201
        return 0
    show(report, console)
    console.print(f"the picture: {plot}", soft_wrap=True)
    return 0


def wandb(arguments: argparse.Namespace, rest: list[str], console: Console) -> int:
    from ..leaderboard.store import Store
    from .tracking import replay

    nothing_left(rest)
    folder = Path(arguments.runs)
    records = list(Store(folder / "records"))
    group = arguments.group or folder.resolve().name
    count = replay(records, arguments.project, arguments.mode, folder, group)
    console.print(
        f"{count} runs written; offline ones go up with: wandb sync {arguments.runs}/wandb/offline-run-*"
    )
    return 0


def overrides_only(rest: list[str]) -> None:
    for word in rest:
        if "=" not in word:
            raise ConfigError(f"expected overrides such as seed=1, got {word!r}")


def nothing_left(rest: list[str]) -> None:
    if rest:
        raise ConfigError(f"unexpected argument {rest[0]!r}; see --help")
