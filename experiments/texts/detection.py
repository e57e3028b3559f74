"""What the texts of a file say about the keys: log10 p per text, corrected for the keys, and of all texts together.

Suffixes: B texts, T positions, K keys.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...core.errors import ConfigError
from ...core.statistics import best_of_log10_p, holm
from ...watermarks.llm.card import Card, key_id
from ...watermarks.llm.corpus import Texts
from .inputs import Line

BATCH = 256  # texts at a time


@dataclass(frozen=True)
class Found:
    """Of one text, or of all as one (line None). log10_p: of the best key, corrected for their number; holm: for the number of
    texts too. terms: what each id says, 0 to 1, None where it does not count."""

    line: int | None
    tokens: int
    scored: int
    statistic: float | None
    log10_p: float
    key: str
    message: int | None
    terms: list[float | None]
    pieces: list[str]
    holm: float | None = None


def check_lengths(lines: Sequence[Line], scheme: Any, short: bool) -> None:
    """ConfigError for a text of which nothing can be scored, unless that is allowed."""
    for line in lines:
        if not short and len(line.ids) <= max(scheme.width, line.prompt):
            raise ConfigError(
                f"line {line.number}: {len(line.ids)} ids leave none to score after a prompt of {line.prompt} and a "
                f"window of {scheme.width}; give a longer text, or set --short for p = 1"
            )


def found_in(lines: Sequence[Line], scheme: Any, keys: Sequence[Any], card: Card) -> list[Found]:
    """A row per text, and with several texts one more for all of them."""
    rows = [
        one for i in range(0, len(lines), BATCH) for one in _batch(lines[i : i + BATCH], scheme, keys, card)
    ]
    adjusted = holm([row.log10_p for row in rows])
    rows = [Found(**{**row.__dict__, "holm": float(p)}) for row, p in zip(rows, adjusted, strict=True)]
    return [*rows, *_together(lines, scheme, keys, card)] if len(rows) > 1 else rows


def _batch(lines: Sequence[Line], scheme: Any, keys: Sequence[Any], card: Card) -> Iterator[Found]:
    texts = Texts.of([line.ids for line in lines], [line.prompt for line in lines])
    reading = scheme.examine(texts, keys, card.vocabulary)
    best_B = reading.log10_p.argmin(1)
    pictured = {k: scheme.terms(texts, keys[k], card.vocabulary) for k in set(best_B.tolist())}
    for b, (line, k) in enumerate(zip(lines, best_B.tolist(), strict=True)):
        terms, scored = (both[b, : len(line.ids)].tolist() for both in pictured[k])
        shown = [term if counts else None for term, counts in zip(terms, scored, strict=True)]
        yield _found(reading, b, k, keys, line, shown)


def _found(
    reading: Any, row: int, k: int, keys: Sequence[Any], line: Line | None, terms: list[float | None]
) -> Found:
    statistic = float(reading.statistic[row, k])
    message = None if reading.message is None else int(reading.message[row, k])
    return Found(
        line=None if line is None else line.number,
        tokens=0 if line is None else len(line.ids),
        scored=int(reading.scored[row, k]),
        statistic=statistic if math.isfinite(statistic) else None,
        log10_p=float(best_of_log10_p(reading.log10_p[row, k], len(keys))),
        key=key_id(keys[k]),
        message=message,
        terms=terms,
        pieces=[] if line is None else line.pieces,
    )


def _together(lines: Sequence[Line], scheme: Any, keys: Sequence[Any], card: Card) -> list[Found]:
    texts = Texts.of([line.ids for line in lines], [line.prompt for line in lines], corpus=True)
    reading = scheme.examine(texts, keys, card.vocabulary)
    whole = _found(reading, 0, int(np.argmin(reading.log10_p[0])), keys, None, [])
    return [Found(**{**whole.__dict__, "tokens": sum(len(line.ids) for line in lines)})]
