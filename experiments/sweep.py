"""`assay run`: Hydra's own command line (single trials, -m sweeps, launchers), each trial in a process of its own."""

import os
import sys
from typing import Any

from rich.console import Console

from ..core.errors import ConfigError
from ..leaderboard.store import FINAL, Record, Store
from . import show
from .config import Spec, explained, importable, spec_of
from .isolate import isolated
from .show import terminal


class TrialFailed(Exception):
    """Raised in another process' job after its record was stored, so that its launcher reports it."""


class Refused(SystemExit):
    """Bad input in a job of this process: ends the sweep at once, past Hydra's own error printing."""


failures: list[str] = []
"""Trials that failed in jobs of this process."""
begun: list[str] = []
"""Jobs of this process, by their settings."""


def job(config: Any) -> None:
    """One trial of the sweep; already stored ones are skipped unless force=true."""
    from hydra.core.hydra_config import HydraConfig

    hydra, console = HydraConfig.get(), terminal()
    begun.append(hydra.job.override_dirname)
    try:
        record = done(spec_of(config, dict(hydra.runtime.choices), list(hydra.overrides.task)), console)
    except ConfigError as error:
        if _here():
            raise Refused(str(error)) from None
        raise
    show.trial(record, console)
    if record["status"] == "failed":
        failures.append(record["id"])
        if not _here():
            raise TrialFailed(record["id"])


def done(spec: Spec, console: Console) -> Record:
    """The trial's record, as it stands or after a run."""
    store = Store(spec.records)
    record = store.read(spec.id)
    if record is not None and record["status"] in FINAL and not spec.anew:
        console.print(f"already done (force=true runs it again): {store.path(spec.id)}", soft_wrap=True)
        return record
    record = alone(spec)
    console.print(f"record: {store.path(spec.id)}", soft_wrap=True)
    return record


def _here() -> bool:
    """Whether the launcher runs its jobs in this process."""
    from hydra.core.hydra_config import HydraConfig

    return str(HydraConfig.get().launcher._target_).endswith("BasicLauncher")


def alone(spec: Spec) -> Record:
    records: list[Record] = []
    isolated([spec], 1, lambda _, record: records.append(record))
    return records[0]


def sweep(arguments: list[str], console: Console) -> int:
    """Hydra's main with our errors; 1 when a trial failed."""
    import hydra

    if any(word in ("-h", "--help") for word in arguments):
        _help(console)
        return 0
    _read_ahead(arguments)
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises instead of printing and leaving
    flags = [
        word for word in arguments if word in ("-m", "--multirun")
    ]  # Hydra wants them before or after all settings
    settings = [word for word in arguments if word not in flags]
    before, sys.argv = sys.argv, ["assay run", *settings, *flags]
    failures.clear()
    begun.clear()
    try:
        with explained():
            hydra.main(version_base="1.3", config_path="pkg://assay.conf", config_name="config")(job)()
    except TrialFailed as failed:
        failures.append(str(failed))
    except Refused as refused:
        raise ConfigError(str(refused)) from None
    except SystemExit as left:
        if left.code:
            raise ConfigError("see `assay run --help`") from None
    finally:
        sys.argv = before
    elsewhere = any(word.startswith(("-", "hydra/launcher=")) for word in settings)
    if flags and not begun and not elsewhere:
        raise ConfigError("this sweep holds no trial; does a glob(...) in it match no option?")
    for failed_id in failures:
        console.print(f"[red]failed[/]: {failed_id}; the traceback is in its record", soft_wrap=True)
    return 1 if failures else 0


def _read_ahead(arguments: list[str]) -> None:
    """What Hydra would take for its own, and the folder whose modules trials import."""
    for i, word in enumerate(arguments):
        if word.startswith(("launcher=", "launcher.")):
            raise ConfigError(f"{word} is of suites; a sweep takes Hydra's: -m hydra/launcher=joblib")
        if word.split("=")[0] in ("--config-dir", "-cd"):
            importable(word.partition("=")[2] or "".join(arguments[i + 1 : i + 2]))


def _help(console: Console) -> None:
    from .catalogue import GROUPS, catalogue

    console.print("assay run [-m] [--config-dir FOLDER] [SETTING=VALUE ...]\n")
    console.print(
        "One trial; with -m a sweep over comma-separated values, e.g. -m seed=0,1,2 attack=prune,finetune,"
    )
    console.print(
        "in parallel with hydra/launcher=joblib hydra.launcher.n_jobs=2. --cfg job shows the configuration.\n"
    )
    for group in GROUPS:
        if group != "suite":
            console.print(
                f"  {group}=" + " | ".join(catalogue(group, nested=True)),
                soft_wrap=True,
                markup=False,
                highlight=False,
            )
    console.print(
        "\n  adversary=no_data adversary.data=0.05 adversary.queries=100 verification.fpr=1e-6 verification.random_keys=1000 seed=1"
    )
    console.print(
        "  trainer=cpu | gpu   tracking=json | wandb   force=true   save=FOLDER   paths.runs=FOLDER"
    )
