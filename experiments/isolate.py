"""A process per trial: a trial that dies hard (out of memory, a crash in a library) loses only itself.

Children are forked from a server that has imported torch once, so a trial does not pay the imports again.
"""

import errno
import multiprocessing as mp
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from ..core.errors import ConfigError, Denied, NotApplicable
from ..leaderboard.store import Record, Store
from .config import Spec

Done = Callable[[Spec, Record], None]
Attempt = tuple[Spec, tuple[str, ...]]
"""A trial, and how its earlier tries died."""
Child = tuple[BaseProcess, Connection, Attempt]


def context() -> Any:
    """Fork from a server that imported the heavy libraries, but started no thread and touched no GPU. scikit-learn, which
    digits come from, is a second of every trial."""
    # A copy.py in the working directory must not shadow the standard library.
    os.environ["PYTHONSAFEPATH"] = "1"
    # A joblib worker has a start method of its own, which plain processes cannot inherit.
    if mp.get_start_method(allow_none=True) == "loky":
        mp.set_start_method("forkserver", force=True)
    ctx = mp.get_context("forkserver")
    ctx.set_forkserver_preload(
        ["assay.experiments.run", "assay.zoo.lightning", "assay.experiments.tracking", "sklearn.datasets"]
    )
    resource_tracker.ensure_running()  # which the server's start would do, and unblock the signal
    # The server inherits what is blocked: Ctrl-C is this process's.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return ctx


def perform(spec: Spec) -> Record:
    """Run one trial here and store its record, whatever happens; ConfigError when the request itself is wrong, OSError
    when nothing can be stored."""
    from .run import header, run
    from .trial import prepare

    wall, cpu = time.perf_counter(), time.process_time()
    trial = prepare(spec, keyed=True)
    trial.check_means()
    try:
        record = run(trial)
    except ConfigError:  # a setting that only the data or the model shows to be wrong
        raise
    except (Denied, NotApplicable) as reason:
        status = "blocked" if isinstance(reason, Denied) else "not_applicable"
        record = {**header(trial), "status": status, "reason": str(reason)}
    except Exception as error:
        if isinstance(error, OSError) and _of_the_disk(error, spec):
            raise
        record = {**header(trial), **_failure(error)}
    spent = {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}
    record["spent"] = {name: round(value, 3) for name, value in spent.items()}
    Store(spec.records).write(record)
    return record


def _of_the_disk(error: OSError, spec: Spec) -> bool:
    """Whether no trial could fare better: a disk is full, or the trial's own folders cannot be written."""
    if error.errno in (errno.EACCES, errno.EPERM):
        place = Path(str(error.filename)).absolute()
        return any(place.is_relative_to(Path(own).absolute()) for own in spec.config["paths"].values())
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


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
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        record = perform(spec)
    except ConfigError as error:
        pipe.send(("refused", str(error)))
        return
    except OSError as error:
        pipe.send(("refused", _where(error, spec)))
        return
    except Exception as error:  # noqa: BLE001 - before the trial stood: a user's class that cannot be built, say
        record = stored(spec, _failure(error))
    pipe.send(("done", record))
    tell(record, spec)


def _where(error: OSError, spec: Spec) -> str:
    """Writing to an open file that the disk has no room for names none."""
    folders = " or ".join(spec.config["paths"].values())
    place = f"at {error.filename}" if error.filename else f"while writing to {folders}"
    return f"{error.strerror or error} {place}; nothing is lost"


def _end_with_parent() -> None:
    """Nobody waits for the answer of a child whose parent was killed, and another may try the trial again."""
    parent = mp.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _failure(error: Exception) -> Record:
    reason = f"{type(error).__name__}: {error}"
    return {"status": "failed", "reason": reason, "traceback": traceback.format_exc()}


def stored(spec: Spec, outcome: Record) -> Record:
    """The record of a trial that could not say more than what it was asked."""
    asked = {"choices": spec.choices, "seed": spec.config["seed"], "overrides": spec.overrides}
    record = {"id": spec.id, **asked, "config": spec.identity()["config"], **outcome}
    Store(spec.records).write(record)
    return record


def isolated(specs: Iterable[Spec], jobs: int, on_done: Done, tries: int = 2) -> None:
    """Every trial in a process of its own, `jobs` at a time, taken from `specs` when its turn comes. One whose process dies is
    tried again, `tries` times in all. ConfigError, once the running ones have ended, when one is refused; KeyboardInterrupt
    ends the children at once: no partial record exists."""
    ctx = context()
    waiting = iter(specs)
    again: list[Attempt] = []
    running: dict[int, Child] = {}
    refused: str | None = None
    try:
        while True:
            while len(running) < jobs and refused is None and (attempt := _next(again, waiting)):
                child = _begun(ctx, attempt)
                running[child[0].sentinel] = child
            if not running:
                break
            for process, pipe, (spec, deaths) in _ended(running):
                kind, answer = _answer(process, pipe)
                if kind == "refused":
                    refused = answer
                elif kind == "died" and len(deaths) + 1 < tries:
                    again.append((spec, (*deaths, answer)))
                else:
                    on_done(spec, died(spec, (*deaths, answer)) if kind == "died" else answer)
    finally:
        for process, _, _ in running.values():
            process.kill()
    if refused is not None:
        raise ConfigError(refused)


def _begun(ctx: Any, attempt: Attempt) -> Child:
    here, there = ctx.Pipe(duplex=False)
    process = ctx.Process(target=_child, args=(attempt[0], there), daemon=False)
    process.start()
    there.close()
    return process, here, attempt


def _ended(running: dict[int, Child]) -> Iterator[Child]:
    """Waits for some. A record can fill the pipe before the child ends, so the answers are waited for as well."""
    ready = wait([*running, *(pipe for _, pipe, _ in running.values())])
    for sentinel, child in list(running.items()):
        if sentinel in ready or child[1] in ready:
            del running[sentinel]
            yield child


def _next(again: list[Attempt], waiting: Iterator[Spec]) -> Attempt | None:
    if again:
        return again.pop()
    spec = next(waiting, None)
    return None if spec is None else (spec, ())


def _answer(process: BaseProcess, pipe: Connection) -> tuple[str, Any]:
    """What the child said, or ("died", how) when it ended without a word."""
    with suppress(EOFError, OSError):  # OSError: it was killed in the middle of a word
        answer: tuple[str, Any] = pipe.recv()
        process.join()
        return answer
    process.join()
    code = process.exitcode
    return "died", signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"


def died(spec: Spec, deaths: Sequence[str]) -> Record:
    """The record of a trial whose every try ended without a word."""
    times = f"{len(deaths)} times " if len(deaths) > 1 else ""
    reason = f"the trial's process died {times}({', '.join(deaths)}); out of memory?"
    return stored(spec, {"status": "failed", "reason": reason})
