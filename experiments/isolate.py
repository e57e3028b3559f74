"""A process per trial: a trial that dies hard (out of memory, a crash in a library) loses only itself.

Children are forked from a server that has imported torch once, so a trial does not pay the imports again.
"""

import errno
import multiprocessing as mp
import os
import signal
import sys
import time
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
    """Fork from a server that imported the heavy libraries, but started no thread and touched no GPU. scikit-learn, which
    digits come from, is a second of every trial."""
    # A copy.py in the working directory must not shadow the standard library.
    os.environ["PYTHONSAFEPATH"] = "1"
    # A joblib worker has a start method of its own, which plain processes cannot inherit.
    if mp.get_start_method(allow_none=True) == "loky":
        mp.set_start_method("forkserver", force=True)
    ctx = mp.get_context("forkserver")
    ctx.set_forkserver_preload(["assay.experiments.run", "assay.experiments.tracking", "sklearn.datasets"])
    return ctx


def perform(spec: Spec) -> Record:
    """Run one trial here and store its record, whatever happens; ConfigError when the request itself is wrong, OSError
    when nothing can be stored."""
    from .run import header, run
    from .trial import prepare

    wall, cpu = time.perf_counter(), time.process_time()
    trial = prepare(spec)
    trial.check_means()
    try:
        record = run(trial)
    except ConfigError:  # a setting that only the data or the model shows to be wrong
        raise
    except (Denied, NotApplicable) as reason:
        status = "blocked" if isinstance(reason, Denied) else "not_applicable"
        record = {**header(trial), "status": status, "reason": str(reason)}
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        record = {**header(trial), **_failure(error)}
    spent = {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}
    record["spent"] = {name: round(value, 3) for name, value in spent.items()}
    Store(spec.records).write(record)
    return record


def tell(record: Record, spec: Spec) -> None:
    """Show a stored record to W&B if it was asked for. Its errors are reported; the record stands."""
    tracking = spec.config["tracking"]
    if tracking["name"] != "wandb":
        return
    from .tracking import track

    try:
        track(record, tracking["project"], tracking["mode"], spec.config["paths"]["runs"])
    except Exception as error:  # noqa: BLE001 - a view must not harm the record, whatever it raises
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        message = f"assay: W&B was not told of {record['id']}: {reason}; its record is stored, `assay wandb` sends it later\n"
        sys.stderr.write(message)


def _child(spec: Spec, pipe: Connection) -> None:
    """Ctrl-C is the parent's to handle; the answer is ("done", record) or ("refused", message)."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        record = perform(spec)
    except ConfigError as error:
        pipe.send(("refused", str(error)))
        return
    except OSError as error:
        where = spec.config["paths"]["runs"]
        pipe.send(("refused", f"{error.strerror or error} while writing to {where}; nothing is lost"))
        return
    except Exception as error:  # noqa: BLE001 - before the trial stood: a user's class that cannot be built, say
        record = _stored(spec, _failure(error))
    pipe.send(("done", record))
    tell(record, spec)


def _failure(error: Exception) -> Record:
    reason = f"{type(error).__name__}: {error}"
    return {"status": "failed", "reason": reason, "traceback": traceback.format_exc()}


def _stored(spec: Spec, outcome: Record) -> Record:
    """The record of a trial that could not say more than what it was asked."""
    asked = {"choices": spec.choices, "seed": spec.config["seed"], "overrides": spec.overrides}
    record = {"id": spec.id, **asked, "config": spec.identity()["config"], **outcome}
    Store(spec.records).write(record)
    return record


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
    return _stored(spec, {"status": "failed", "reason": f"the trial's process died ({name}); out of memory?"})
