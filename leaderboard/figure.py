"""The frontiers of a board for print: a panel per scheme, the share of thefts still detected against what the thief loses.

Steps of equal shares lie on each other, so every scheme has a panel of its own, in the ranking's order; up to a dozen have the
others faint behind them. The band is the exact 95 % interval, hatching what is undecided. Colours tell families apart (Okabe
and Ito, Color Universal Design, 2008: safe for colour-blind readers); each panel has its name, so nothing depends on them.
"""

import io
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path

from ..core.atomic import write_atomically
from ..core.errors import ConfigError
from .frontier import Frontier, Rate, frontier, survival, thefts
from .ranking import BOARD, BUDGET, Record, ranking, schemes
from .scores import WIDE, worst_attack

FORMATS = (".pdf", ".svg", ".png")
NARROW, BROAD = 3.35, 6.9  # inches: one column of a two-column paper, and both
FEW, ACROSS = 12, (3, 6)  # so many panels fit one column; panels in a row
MOST = 48  # panels on a page
HEIGHT, GAP, LINE = (
    0.66,
    0.6,
    0.13,
)  # of a panel in inches, between two as a share of it, of a line of the legend
INK, SOFT, FAINT = "#1d1f21", "#5c6066", "#dcd8cf"
FAMILIES = {
    "parameter": "#0072b2",
    "trigger": "#d55e00",
    "output": "#009e73",
    "data": "#cc79a7",
    "fingerprint": "#e69f00",
    "language": "#56b4e9",
}
PRINT: Any = {
    "pdf.fonttype": 42,  # fonts that publishers accept and editors can change
    "svg.hashsalt": "assay",
    "hatch.linewidth": 0.4,
    "font.family": "DejaVu Sans",
}
DATES = {".pdf": {"CreationDate": None}, ".svg": {"Date": None}, ".png": {}}


def save(records: Iterable[Record], path: Path) -> list[Path]:
    """A file per board; of several boards their names follow the file's. The same records give the same bytes."""
    if path.suffix.lower() not in FORMATS:
        raise ConfigError(f"expected a figure to end in {', '.join(FORMATS)}, got {path}")
    boards: dict[tuple[str, ...], dict[str, list[Record]]] = {}
    for (*axes, name), members in schemes(records).items():
        boards.setdefault(tuple(axes), {})[name] = members
    if not boards:
        raise ConfigError("expected records of a scheme to draw, found none; run `assay suite quick` first")
    out = []
    for board, by_name in boards.items():
        named = path.with_stem("-".join([path.stem, *filter(None, board)])) if len(boards) > 1 else path
        content = io.BytesIO()
        with mpl.rc_context(PRINT):
            suffix = path.suffix.lower()
            drawn(by_name).savefig(content, format=suffix[1:], dpi=300, metadata=DATES[suffix])
        write_atomically(named, content.getvalue())
        out.append(named)
    return out


def drawn(by_name: dict[str, list[Record]], upto: float = WIDE) -> Figure:
    """by_name: the labelled records of each scheme of one board."""
    rows = ranking(record for members in by_name.values() for record in members)
    names = [row["watermark"] for row in rows]
    kept = names[:MOST]
    found = {name: frontier(thefts(by_name[name]), upto) for name in names}
    families = [name for name in FAMILIES if name in {row["family"] for row in rows[:MOST]}]
    size, edges, columns = _size(len(kept), len(families))
    figure = Figure(figsize=size, facecolor="white")
    figure.subplots_adjust(*edges, wspace=0.16, hspace=GAP)
    lines = math.ceil(len(kept) / columns)
    behind = names if len(names) <= FEW else []  # more of them are a texture
    for place, name in enumerate(kept):
        axes = figure.add_subplot(lines, columns, place + 1)
        family = next(row["family"] for row in rows if row["watermark"] == name)
        _background(axes, [found[other] for other in behind if other != name])
        _panel(axes, found[name], FAMILIES.get(family, INK))
        _frame(axes, upto, outer=(place % columns == 0, place + columns >= len(kept)))
        _title(axes, name, survival(thefts(by_name[name])), axes.get_position().width * size[0])
    _words(figure, families, columns, size)
    board = ", ".join(str(rows[0][axis]) for axis in BOARD[:2] if rows[0][axis])
    few = f"the first {MOST} of {len(names)} schemes; " if len(names) > MOST else ""
    note = f"{board}; {few}band: exact 95 %; number: at {100 * BUDGET:g} pp, worst attack"
    figure.text(edges[0], 1 - 0.12 / size[1], note, size=6, color=SOFT, va="center", parse_math=False)
    return figure


def _size(panels: int, families: int) -> tuple[tuple[float, float], tuple[float, float, float, float], int]:
    """Inches; the shares at which the panels begin and end (left, bottom, right, top); panels in a row."""
    columns = ACROSS[panels > FEW]
    width, lines = (NARROW if columns == ACROSS[0] else BROAD), math.ceil(panels / columns)
    below, above = 0.38, 0.52 + LINE * math.ceil(families / columns)
    tall = below + above + lines * HEIGHT + (lines - 1) * GAP * HEIGHT
    return (width, tall), (0.42 / width, below / tall, 1 - 0.1 / width, 1 - above / tall), columns


def _background(axes: Axes, others: Sequence[Frontier]) -> None:
    for other in others:
        axes.step(100 * other.losses_X, other.least_X, where="post", color=FAINT, linewidth=0.6, zorder=1)


def _panel(axes: Axes, found: Frontier, colour: str) -> None:
    loss_X = 100 * found.losses_X
    if np.isnan(found.least_X).all():
        axes.text(0.26, 0.5, "nothing stolen", transform=axes.transAxes, size=6, color=SOFT, va="center")
        return
    ends = np.repeat(loss_X, 2)[1:]  # of steps: a value holds up to the next loss
    low, high, least, most = (
        np.repeat(values_X, 2)[:-1] for values_X in (found.low_X, found.high_X, found.least_X, found.most_X)
    )
    axes.fill_between(ends, low, high, ~np.isnan(least), color=colour, alpha=0.16, linewidth=0, zorder=2)
    undecided = most > least  # nowhere where nothing is stolen
    hatching: Any = {"facecolor": "none", "edgecolor": colour, "hatch": "//////", "linewidth": 0}
    axes.fill_between(ends, least, most, undecided, zorder=3, **hatching)
    for values_X in (found.least_X, found.most_X):
        axes.step(
            loss_X, values_X, where="post", color=colour, linewidth=1.2, zorder=4, solid_capstyle="butt"
        )


def _frame(axes: Axes, upto: float, outer: tuple[bool, bool]) -> None:
    """outer: leftmost, lowest; only these have numbers."""
    axes.axvline(100 * BUDGET, color=SOFT, linewidth=0.5, linestyle=(0, (2, 2)), zorder=1.5)
    axes.set_xlim(0, 100 * upto)
    axes.set_ylim(-0.04, 1.04)
    axes.set_xticks([0, 100 * BUDGET, 50 * upto, 100 * upto])
    axes.set_yticks([0, 0.5, 1], ["0", "½", "1"])
    axes.tick_params(labelsize=6, colors=SOFT, length=2, width=0.5, pad=1.5)
    axes.tick_params(labelleft=outer[0], labelbottom=outer[1])
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set(color=SOFT, linewidth=0.5)


def _title(axes: Axes, name: str, rate: Rate, inches: float) -> None:
    """The scheme; its survival at the budget, the attack, and how many others are as bad."""
    words = [(1.19, name, INK, 6.5)]
    if rate.cell:
        share = f"{rate.least:.2f}" if rate.least == rate.most else f"{rate.least:.2f}–{rate.most:.2f}"
        under = worst_attack(rate.cell[0], rate.least, rate.equals)
        words.append((1.05, f"{share} {under}".strip(), SOFT, 5.5))
    for y, text, colour, points in words:
        short = shortened(text, points, inches)
        axes.text(
            0, y, short, transform=axes.transAxes, size=points, color=colour, va="bottom", parse_math=False
        )


def shortened(text: str, points: float, inches: float) -> str:
    """What fits of it, both ends: settings that tell schemes apart stand last."""
    font = FontProperties(family=PRINT["font.family"], size=points)
    for kept in range(len(text), 1, -1):
        short = text if kept == len(text) else f"{text[: kept - kept // 2]}…{text[len(text) - kept // 2 :]}"
        if text_to_path.get_text_width_height_descent(short, font, ismath=False)[0] <= 72 * inches:
            return short
    return "…"


def _words(figure: Figure, families: Sequence[str], columns: int, size: tuple[float, float]) -> None:
    """Axes and legend, once for all panels."""
    left = 0.42 / size[0]
    figure.text(left, 0.08 / size[1], "accuracy the thief loses (pp)", size=6.5, color=INK)
    figure.text(0.06 / size[0], 0.5, "thefts still detected", size=6.5, color=INK, rotation=90, va="center")
    step = (1 - left) / columns
    for place, name in enumerate(families):
        x, y = left + place % columns * step, 1 - (0.12 + LINE * (1 + place // columns)) / size[1]
        figure.text(x, y, "■ " + name, size=6, color=FAMILIES[name], va="center")
