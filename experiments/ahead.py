"""Work that need not wait."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from filelock import Timeout

from .people import RIVAL, clean
from .quality import judge
from .trial import Trial


def ahead(trial: Trial) -> None:
    """While another process trains the owner's model, this one trains what the trial needs next, the rival's and the judge: workers
    that start together share the trainings instead of queueing for the first."""
    try:
        clean(trial, trial.seed, trial.task, wait=False)
    except Timeout:
        makers: list[Callable[[], Any]] = [
            lambda: clean(trial, trial.seed + RIVAL, wait=False),
            lambda: judge(trial, wait=False),
        ]
        for make in makers:
            with suppress(Timeout):
                make()
