"""A process per trial: a trial that dies hard (out of memory, a crash in a library) loses only itself.

Children are forked from a server that has imported torch once, so a trial does not pay the imports again.
"""

import errno
import multiprocessing as mp
import os
import signal
import traceback
from collections.abc import Callable, Iterable
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from ..core.errors import ConfigError, Denied, NotApplicable
from ..leaderboard.store import Record, Store
from .config import Spec

Done = Callable[[Spec, Record], None]


def context() -> Any:
    """Fork from a server that imported the heavy libraries, but started no thread and touched no GPU."""
    os.environ["PYTHONSAFEPATH"] = (
        "1"  # a copy.py in the working directory must not shadow the standard library
    )
    if (
        mp.get_start_method(allow_none=True) == "loky"
    ):  # a joblib worker's, which plain processes cannot inherit
        mp.set_start_method("forkserver", force=True)
    ctx = mp.get_context("forkserver")
    ctx.set_forkserver_preload(["assay.experiments.run", "assay.experiments.tracking"])
    return ctx


def perform(spec: Spec) -> Record:
    """Run one trial here and store its record, whatever happens; ConfigError when the request itself is wrong."""
    from .run import header, run
    from .trial import prepare

    store = Store(spec.records)
    trial = prepare(spec)
    trial.check_means()
    try:
        record = run(trial)
    except (Denied, NotApplicable) as reason:
        status = "blocked" if isinstance(reason, Denied) else "not_applicable"
        record = {**header(trial), "status": status, "reason": str(reason)}
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        reason_ = f"{type(error).__name__}: {error}"
        record = {**header(trial), "status": "failed", "reason": reason_, "traceback": traceback.format_exc()}
    store.write(record)
    if trial.settings.tracking.name == "wandb":
        from .tracking import track

        tracking = trial.settings.tracking
        track(record, tracking.project, tracking.mode, spec.config["paths"]["runs"])
    return record


def _child(spec: Spec, pipe: Connection) -> None:
    """Ctrl-C is the parent's to handle; the answer is ("done", record) or ("refused", message)."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        pipe.send(("done", perform(spec)))
    except ConfigError as error:
        pipe.send(("refused", str(error)))
    except OSError as error:
        pipe.send(
            (
                "refused",
                f"{error.strerror or error} while writing to {spec.config['paths']['runs']}; nothing is lost",
            )
        )


def isolated(specs: Iterable[Spec], jobs: int, on_done: Done) -> None:
    """Every trial in a process of its own, `jobs` at a time. ConfigError, once the running ones have ended, when one is
    refused; KeyboardInterrupt ends the children at once: no partial record exists."""
    ctx = context()
    waiting = list(specs)[::-1]
    running: dict[int, tuple[BaseProcess, Connection, Spec]] = {}
    refused: str | None = None
    try:
        while running or (waiting and refused is None):
            while waiting and len(running) < jobs and refused is None:
                spec = waiting.pop()
                here, there = ctx.Pipe(duplex=False)
                process = ctx.Process(target=_child, args=(spec, there), daemon=False)
                process.start()
                there.close()
                running[process.sentinel] = (process, here, spec)
            # A record can fill the pipe before the child ends, so the answers are waited for as well.
            ready = wait([*running, *(pipe for _, pipe, _ in running.values())])
            for sentinel, (process, pipe, spec) in list(running.items()):
                if sentinel in ready or pipe in ready:
                    del running[sentinel]
                    kind, answer = _answer(process, pipe, spec)
                    if kind == "refused":
                        refused = answer
                    else:
                        on_done(spec, answer)
    finally:
        for process, _, _ in running.values():
            process.kill()
    if refused is not None:
        raise ConfigError(refused)


def _answer(process: BaseProcess, pipe: Connection, spec: Spec) -> tuple[str, Any]:
    with suppress(EOFError):
        answer: tuple[str, Any] = pipe.recv()
        process.join()
        return answer
    process.join()
    return "done", _died(spec, process.exitcode)


def _died(spec: Spec, code: int | None) -> Record:
    """The record of a trial whose process ended without a word."""
    name = signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"
    record = {
        "id": spec.id,
        "choices": spec.choices,
        "seed": spec.config["seed"],
        "overrides": spec.overrides,
        "config": spec.identity()["config"],
        "status": "failed",
        "reason": f"the trial's process died ({name}); out of memory?",
    }
    Store(spec.records).write(record)
    return record
