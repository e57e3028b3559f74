"""A worker: takes trials of a plan until none is left. Every engine starts the same command for it.

python -m assay.experiments.launch.work PLAN NUMBER
"""

import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

from ...core.errors import ConfigError
from ...leaderboard.store import Record
from ..config import Spec, importable
from ..isolate import isolated
from .log import Log, log
from .plan import Plan

INTERRUPTED = 130


def call(folder: str, number: int) -> int:
    """What an engine runs: the worker's command, in the folder the suite was started from. Its output goes beside its log.
    A process of its own: engines have threads, and signal handlers of their own. A trial is no task of Slurm's: Lightning would
    take it for a rank of one training."""
    plan = Plan.read(Path(folder))
    command = [sys.executable, "-P", "-m", "assay.experiments.launch.work", folder, str(number)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    with plan.path(number).with_suffix(".out").open("ab") as out:
        try:
            done = subprocess.run(command, cwd=plan.cwd, env=environment, stdout=out, stderr=out, check=False)
            return done.returncode
        except KeyboardInterrupt:
            return INTERRUPTED


def work(plan: Plan, number: int) -> None:
    with log(plan.path(number)) as told:
        try:
            while (taken := plan.take()) is not None:
                trial, attempt = taken
                told.take(trial)
                isolated([plan.spec(trial)], 1, partial(_tell, told, trial), tries=3 - attempt)
        except ConfigError as error:
            told.say(refused=str(error))


def _tell(told: Log, trial: int, spec: Spec, record: Record) -> None:
    told.done(trial, record)


def watch_parent() -> None:
    """End as by Ctrl-C when the engine's process is gone: nobody else would end this one."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=watch, daemon=True).start()


def main(folder: str, number: str) -> int:
    # A shell's background jobs start with SIGINT ignored; a scheduler asks with SIGTERM.
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, signal.default_int_handler)
    watch_parent()
    plan = Plan.read(Path(folder))
    if plan.config_dir is not None:
        importable(plan.config_dir)
    try:
        work(plan, int(number))
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
