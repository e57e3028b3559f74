"""`assay claim`: check a claim's file, run its trials and compare, or print the schema of such files."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

from ...core.errors import ConfigError
from ...leaderboard.store import Record, Store
from .. import show
from ..config import Spec, composer
from ..launch.launcher import launcher
from ..suite import run_suite

if TYPE_CHECKING:
    from .claim import Claim, Found, Reported

DISAGREES = 1
COLOUR = {"verified": "green", "differs": "yellow", "failed": "red", "measured": "default"}


def claim(arguments: argparse.Namespace, rest: Sequence[str], console: Console) -> int:
    """0 when everything reported is verified, 1 when something differs or failed."""
    from .claim import load, schema_text

    if rest:
        raise ConfigError(f"unexpected argument {rest[0]!r}: a claim's settings are those of its file")
    if arguments.action_ == "schema":
        print(schema_text())  # noqa: T201
        return 0
    if arguments.file is None:
        raise ConfigError(f"expected a file: assay claim {arguments.action_} claims/<scheme>-<year>.json")
    path = Path(arguments.file)
    claimed = load(path)
    if arguments.action_ == "check":
        count = len(claimed.trials) * len(claimed.seeds)
        console.print(
            f"{path}: a claim of {len(claimed.all_numbers)} numbers over {count} trials", soft_wrap=True
        )
        return 0
    return verify(path, claimed, arguments, console)


def verify(path: Path, claimed: "Claim", arguments: argparse.Namespace, console: Console) -> int:
    from .claim import Remeasured, save
    from .judge import judged, overall

    if arguments.jobs < 1:
        raise ConfigError(f"expected --jobs of at least 1, got {arguments.jobs}")
    specs = composed(claimed, arguments.runs)
    flat = [spec for by_seed in specs.values() for spec in by_seed.values()]
    engine, _ = launcher([f"launcher.workers={arguments.jobs}"])
    run_suite(f"claim-{path.stem}", flat, engine, None, [], console)
    records = {trial: {seed: _record(s) for seed, s in by_seed.items()} for trial, by_seed in specs.items()}
    found = judged(claimed, records)
    verdict = overall(found)
    tell(claimed, found, console)
    console.print(f"[{COLOUR[verdict]}]{path.stem}: {verdict}[/], {len(claimed.seeds)} seeds", soft_wrap=True)
    if claimed.differs:
        console.print(f"another setting than the reported one: {escape(claimed.differs)}", soft_wrap=True)
    if arguments.write:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        remeasured = Remeasured(verdict, claimed.seeds, now, _commit(records), found)
        save(path, replace(claimed, remeasured=remeasured))
        console.print(f"written: {path}", soft_wrap=True)
    return DISAGREES if verdict in ("differs", "failed") else 0


def composed(claimed: "Claim", runs: str) -> dict[str, dict[int, Spec]]:
    """Per trial and seed. No option refers to the seed, so Hydra composes each trial once."""
    out = {}
    with composer(None) as compose:
        for trial, words in claimed.trials.items():
            common = [f"watermark={claimed.scheme}", *claimed.settings, *words]
            spec = compose([*common, f"paths.runs={runs}", "trainer.progress=false"])
            out[trial] = {
                seed: Spec(spec.choices, {**spec.config, "seed": seed}, spec.overrides)
                for seed in claimed.seeds
            }
    return out


def _record(spec: Spec) -> Record | str:
    return Store(spec.records).read(spec.id) or "was not run"


def _commit(records: Mapping[str, Mapping[int, Record | str]]) -> str:
    """Of the records' code: one, or all there are."""
    known = [r for by_seed in records.values() for r in by_seed.values() if isinstance(r, dict)]
    return ", ".join(sorted({str(r.get("environment", {}).get("commit", "unknown")) for r in known}))


def tell(claimed: "Claim", found: "Mapping[str, Found]", console: Console) -> None:
    """A row per number: what it reads, as reported, as measured, the prediction interval, the verdict."""
    table = show.plain_table(escape(claimed.paper))
    for name in ("reads", "reported", "measured", "95 % for a new run", "verdict"):
        table.add_column(name, justify="left" if name in ("reads", "verdict") else "right")
    for number in claimed.all_numbers:
        table.add_row(*_row(number, found[number.reads], number is claimed.best_known_attack))
    console.print(table)


def _row(number: "Reported", one: "Found", best: bool) -> list[str]:
    def said(value: float | None) -> str:
        return "-" if value is None else f"{value:.4g}"

    interval = "-" if one.low is None else f"{said(one.low)} to {said(one.high)}"
    reported = said(number.reported) + ("" if number.provenance == "verified" else f" ({number.provenance})")
    why = f": {escape(one.because)}" if one.because else ""
    name = f"{number.reads}{' (best-known attack)' if best else ''}"
    return [name, reported, said(one.mean), interval, f"[{COLOUR[one.verdict]}]{one.verdict}[/]{why}"]
