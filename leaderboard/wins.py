"""Schemes against each other, pair by pair (compare.py), for programs: `assay board --export pairs`."""

import csv
import io
from collections.abc import Sequence
from typing import Any

from .compare import Pair, pairs
from .ranking import BOARD, Record, schemes


def pairs_of(records: Sequence[Record]) -> bytes | None:
    """None without a scheme."""
    return pairs_csv(pairs(records)) if schemes(records) else None


def pairs_csv(found: Sequence[Pair]) -> bytes:
    """A row per board and pair. first_alone, second_alone: the share of shared cells that only this one survived; seeds_first,
    seeds_second: seeds in which it won more of them; holm_log10_p: corrected over all pairs of the board."""
    text = io.StringIO(newline="")
    rows = [_row(pair) for pair in found]
    writer = csv.DictWriter(text, list(_row(_NONE)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


_NONE = Pair(("",) * len(BOARD), "", "", 0, 0, 1, 0, 0, 0.0, 0.0)


def _row(pair: Pair) -> dict[str, Any]:
    shared = pair.wins + pair.losses + pair.equal
    return {
        **dict(zip(BOARD, pair.board, strict=True)),
        "first": pair.first,
        "second": pair.second,
        "cells": shared,
        "first_alone": pair.wins / shared,
        "second_alone": pair.losses / shared,
        "seeds_first": pair.ahead,
        "seeds_second": pair.behind,
        "log10_p": pair.log10_p,
        "holm_log10_p": pair.holm_log10_p,
    }
