"""What the texts of a file say about the keys: log10 p per text, corrected for the keys, and of all texts together.

Suffixes: B texts, T positions, K keys.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
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
    texts too. message: of multi-bit schemes the payload in hexadecimal, empty without one. terms: what each id says, 0 to 1, None
    where it does not count."""

    line: int | None
    tokens: int
    scored: int
    statistic: float | None
    log10_p: float
    key: str
    message: str | None
    terms: list[float | None]
    pieces: list[str]
    holm: float | None = None
    span: tuple[int, int] | None = None
    """The best stretch of ids, where stretches were asked for; log10_p is corrected for their number."""


def check_scored(found: Sequence[Found]) -> None:
    """ConfigError for a text of which nothing was scored."""
    for one in found:
        if not one.scored and one.line is not None:
            raise ConfigError(
                f"line {one.line}: of {one.tokens} ids none is left to score: they are of the prompt, or repeat it, or have no "
                "whole window before them; give a longer text, or set --short for p = 1"
            )


def found_in(
    lines: Sequence[Line], scheme: Any, keys: Sequence[Any], card: Card, pictured: bool = True
) -> list[Found]:
    """A row per text, and with several texts one more for all of them. pictured: with what every id says."""
    batches = (lines[i : i + BATCH] for i in range(0, len(lines), BATCH))
    rows = [one for batch in batches for one in _batch(batch, scheme, keys, card, pictured)]
    adjusted = holm([row.log10_p for row in rows])
    rows = [replace(row, holm=float(p)) for row, p in zip(rows, adjusted, strict=True)]
    return [*rows, *_together(lines, scheme, keys, card)] if len(rows) > 1 else rows


def _batch(
    lines: Sequence[Line], scheme: Any, keys: Sequence[Any], card: Card, pictured: bool
) -> Iterator[Found]:
    texts = Texts.of([line.ids for line in lines], [line.prompt for line in lines])
    reading = scheme.examine(texts, keys, card.vocabulary)
    best_B = reading.log10_p.argmin(1).tolist()
    if not pictured:
        yield from (_found(reading, b, k, scheme, keys, lines[b], []) for b, k in enumerate(best_B))
        return
    pictures = {k: scheme.terms(texts, keys[k], card.vocabulary) for k in set(best_B)}
    for b, (line, k) in enumerate(zip(lines, best_B, strict=True)):
        terms, scored = (both[b, : len(line.ids)].tolist() for both in pictures[k])
        shown = [term if counts else None for term, counts in zip(terms, scored, strict=True)]
        yield _found(reading, b, k, scheme, keys, line, shown)


def _found(
    reading: Any,
    row: int,
    k: int,
    scheme: Any,
    keys: Sequence[Any],
    line: Line | None,
    terms: list[float | None],
) -> Found:
    statistic = float(reading.statistic[row, k])
    read = None if reading.message is None else int(reading.message[row, k])
    return Found(
        line=None if line is None else line.number,
        tokens=0 if line is None else len(line.ids),
        scored=int(reading.scored[row, k]),
        statistic=statistic if math.isfinite(statistic) else None,
        log10_p=float(best_of_log10_p(reading.log10_p[row, k], len(keys))),
        key=key_id(keys[k]),
        message=None if read is None else scheme.plain(read, keys[k]),
        terms=terms,
        pieces=line.pieces() if line is not None and terms else [],
    )


def spans_of(lines: Sequence[Line], scheme: Any, keys: Sequence[Any], card: Card, size: int) -> list[Found]:
    """Of every text its best stretch of `size` ids, each half over the one before: a marked passage in a text of others. The whole
    text decides which ids count, so that a stretch which quotes the prompt says nothing. p is Bonferroni's over stretches and
    keys; the largest of overlapping windows has no other that is as simple and holds."""
    return [_best_span(line, scheme, keys, card, size) for line in lines]


def _best_span(line: Line, scheme: Any, keys: Sequence[Any], card: Card, size: int) -> Found:
    starts = list(range(line.prompt, max(line.prompt + 1, len(line.ids) - size // 2), max(1, size // 2)))
    whole = Texts.of([line.ids], [line.prompt])
    readings = []
    for key in keys:
        _, counted_1T = scheme.terms(whole, key, card.vocabulary)
        cut = whole.stretches(counted_1T, starts, size, scheme.width)
        readings.append(scheme.examine(cut, [key], card.vocabulary))
    log10_p_SK = np.concatenate([reading.log10_p for reading in readings], 1)
    row, k = (int(i) for i in np.unravel_index(int(log10_p_SK.argmin()), log10_p_SK.shape))
    best = _found(readings[k], row, 0, scheme, keys[k : k + 1], line, [])
    log10_p = min(0.0, best.log10_p + math.log10(log10_p_SK.size))
    return replace(best, log10_p=log10_p, span=(starts[row], min(len(line.ids), starts[row] + size)))


def _together(lines: Sequence[Line], scheme: Any, keys: Sequence[Any], card: Card) -> list[Found]:
    texts = Texts.of([line.ids for line in lines], [line.prompt for line in lines], corpus=True)
    reading = scheme.examine(texts, keys, card.vocabulary)
    whole = _found(reading, 0, int(np.argmin(reading.log10_p[0])), scheme, keys, None, [])
    return [replace(whole, tokens=sum(len(line.ids) for line in lines))]
