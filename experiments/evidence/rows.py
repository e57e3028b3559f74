"""One attack on evidence, tried: whether it succeeded, after how many tries and seconds, and why."""

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Tried:
    """What an attack reports. tries: keys, proofs or histories that were really tried. cost: what success takes, in words."""

    succeeded: bool
    tries: int
    why: str
    cost: str = ""


@dataclass(frozen=True)
class Row:
    """An attack against one setting of the defence; seconds of wall time in the attack."""

    attack: str
    defence: str
    succeeded: bool
    tries: int
    seconds: float
    why: str
    cost: str


def timed(attack: str, defence: str, work: Callable[[], Tried]) -> Row:
    start = time.perf_counter()
    found = work()
    seconds = round(time.perf_counter() - start, 3)
    return Row(attack, defence, found.succeeded, found.tries, seconds, found.why, found.cost)
