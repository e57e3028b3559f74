"""The picture of `assay radioactivity`: p against the share of marked text, and against the number of ids read."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ...core.atomic import write_atomically

INK, SOFT, FAINT = "#1d1f21", "#5c6066", "#dcd8cf"
COLOURS = ("#2f6690", "#c2571a", "#7a7f3a", "#a3243b", "#6b4c9a", "#3a7d7c")
Line = Literal["-", "--"]
MODES: dict[str, Line] = {"closed": "-", "open": "--"}
FPR = -2.0
LINEAR = 2.0
"""-log10 p is drawn linearly up to here, logarithmically beyond: controls and p = 1e-500 fit one axis."""

Record = dict[str, Any]


def save(records: Sequence[Record], title: str, path: Path) -> None:
    """png, pdf or svg, by the file's ending."""
    content = io.BytesIO()
    drawn(records, title).savefig(content, format=path.suffix.lstrip("."), dpi=150)
    write_atomically(path, content.getvalue())


def marks(records: Sequence[Record]) -> list[tuple[int, float]]:
    return sorted({(record["width"], record["delta"]) for record in records})


def drawn(records: Sequence[Record], title: str) -> Figure:
    figure = Figure(figsize=(9.2, 4.4), facecolor="white", layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", size=12, weight="bold", color=INK)
    left, right = figure.subplots(1, 2)
    colours = dict(zip(marks(records), COLOURS * len(records), strict=False))
    for mark, colour in colours.items():
        mine = [r for r in records if (r["width"], r["delta"]) == mark]
        for mode, line in MODES.items():
            _shares(left, mine, mode, colour, line)
            _lengths(right, mine, mode, colour, line)
    left.set_xlabel("share of the training texts that are marked; 0 is the control")
    right.set_xlabel("ids scored, of the student with the largest share")
    for axes in (left, right):
        _finished(axes)
    handles = [_handle(f"h = {w}, δ = {d:g}", colour, "-") for (w, d), colour in colours.items()]
    handles += [_handle(f"{mode} model", SOFT, line) for mode, line in MODES.items()]
    figure.legend(
        handles=handles, loc="outside lower left", ncols=6, frameon=False, fontsize=8, labelcolor=INK
    )
    return figure


def _shares(axes: Axes, mine: Sequence[Record], mode: str, colour: str, line: Line) -> None:
    points = sorted((r["share"], -r[mode]["log10_p"]) for r in mine)
    axes.plot(*zip(*points, strict=True), line, marker="o", ms=3.5, color=colour, linewidth=1.3)
    smallest = min((share for share, _ in points if share), default=0.01)
    axes.set_xscale("symlog", linthresh=min(0.01, smallest), linscale=0.4)
    ticks = sorted({share for share, _ in points} | set(axes.get_xticks()) & {0.0})
    axes.set_xticks(ticks, [f"{100 * share:g} %" for share in ticks], minor=False)
    axes.minorticks_off()


def _lengths(axes: Axes, mine: Sequence[Record], mode: str, colour: str, line: Line) -> None:
    largest = max(mine, key=lambda record: record["share"])
    if not largest["share"]:
        return
    points = [(scored, -log10_p) for scored, log10_p in largest[mode]["curve"]]
    axes.plot(*zip(*points, strict=True), line, marker="o", ms=3.5, color=colour, linewidth=1.3)
    axes.set_xscale("log")


def _finished(axes: Axes) -> None:
    axes.set_yscale("symlog", linthresh=LINEAR)
    top = max(axes.get_ylim()[1], 5.0)
    ticks = [tick for tick in (0, 1, 2, 5, 10, 30, 100, 300, 1000, 3000, 10_000) if tick <= top]
    axes.set_yticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.minorticks_off()
    axes.set_ylim(-0.15, top)
    axes.axhline(-FPR, color=SOFT, linewidth=0.8, linestyle=":")
    axes.text(
        0.01,
        -FPR,
        "1 % false positives",
        va="bottom",
        size=7.5,
        color=SOFT,
        transform=axes.get_yaxis_transform(),
    )
    axes.set_ylabel("−log10 p under the owner's key")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("bottom", "left"):
        axes.spines[side].set(color=FAINT)
    axes.tick_params(labelsize=8, colors=SOFT)
    axes.xaxis.label.set(size=9, color=INK)
    axes.yaxis.label.set(size=9, color=INK)


def _handle(label: str, colour: str, line: Line) -> Line2D:
    return Line2D([], [], color=colour, linewidth=2, linestyle=line, label=label)
