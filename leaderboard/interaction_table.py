"""The interactions of layers (interactions.py) as a page for people: two layers a row, alone and together."""

import math
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path

from ..core.atomic import write_atomically
from ..core.errors import ConfigError
from .interactions import ANY, FACTORS, OUTCOMES, Effect, interactions, interactions_csv
from .ranking import BOARD, Record

HEAD = (
    "layer",
    "and layer",
    "one alone",
    "other alone",
    "together",
    "beyond the sum",
    "95 %",
    "p (Holm)",
    "verdict",
)
MEANS = {
    "accuracy": "accuracy of the last clone, pp",
    "queries": "samples answered before the first alarm, all where none was raised",
    "evidence": "-log10 p of the owner's key in the last clone",
    "detected": "share of clones that the owner proves",
    "escapes": "share of thieves who meet neither alarm nor detection",
}
MISSING = "–"


def written(records: Iterable[Record], path: Path) -> list[Path]:
    """The csv at `path`, and the page beside it."""
    found = interactions(records)
    if not found:
        raise ConfigError(
            "expected thefts whose watermark, answers and monitor vary in every combination, found none; "
            "run `assay suite factorial` first"
        )
    page = path.with_suffix(".md")
    write_atomically(path, interactions_csv(found))
    write_atomically(page, interactions_markdown(found))
    return [path, page]


def interactions_markdown(found: Sequence[Effect]) -> bytes:
    """The thief who takes the best attack first, where there is a choice; main effects, pairs, and how many triples were told."""
    parts = ["# Do layers protect together?\n"]
    for board, here in groupby(found, key=lambda e: e.board):
        parts.append(f"## {', '.join(f'{a} {n}' for a, n in zip(BOARD, board, strict=True) if n)}\n")
        tables = [list(rows) for _, rows in groupby(here, key=lambda e: (e.attack, e.outcome))]
        for rows in sorted(tables, key=lambda rows: rows[0].attack != ANY):
            parts += _table(rows)
    return ("\n".join(parts) + "\n").encode()


def _table(rows: list[Effect]) -> list[str]:
    first = rows[0]
    attack = "the best attack of each cell" if first.attack == ANY else f"attack {first.attack}"
    scale = 100 if first.outcome == "accuracy" else 1
    singles, pairs, triples = ([e for e in rows if e.order == order] for order in (1, 2, 3))
    told = sum(e.verdict != "not told from the sum" for e in triples)
    body = [_row(cells) for cells in (HEAD, ["---"] * len(HEAD), *(_pair(e, scale) for e in pairs))]
    better = (
        "fewer is better for the owner" if OUTCOMES[first.outcome] < 0 else "more is better for the owner"
    )
    return [
        f"### {first.outcome}, {attack}\n",
        f"{MEANS[first.outcome]}; {better}; {first.seeds} seeds. Layers by themselves, over all levels of the others: "
        + "; ".join(f"{_name(e)[0]} {_number(e.value, scale)}{_interval(e, scale)}" for e in singles)
        + ".\n",
        *body,
        *([f"\nThree layers: {told} of {len(triples)} told from the pairs' sum."] if triples else []),
        "",
    ]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _pair(e: Effect, scale: float) -> list[str]:
    one, other = e.parts
    p = MISSING if e.holm_log10_p is None else f"{10**e.holm_log10_p:.2g}"
    numbers = [_number(value, scale) for value in (one, other, one + other + e.value, e.value)]
    return [*_name(e), *numbers, _interval(e, scale).strip() or MISSING, p, e.verdict]


def _name(e: Effect) -> list[str]:
    return [f"{factor} {layer}" for factor, layer in zip(FACTORS, e.layers, strict=True) if layer]


def _number(value: float, scale: float) -> str:
    shown = scale * value
    return f"{shown:+.0f}" if math.fabs(shown) >= 100 else f"{shown:+.2f}"


def _interval(e: Effect, scale: float) -> str:
    return "" if e.low is None or e.high is None else f" [{_number(e.low, scale)}, {_number(e.high, scale)}]"
