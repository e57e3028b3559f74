"""The picture of `assay calibrate`: where the nulls lie and where the marked model, and whether p-values are uniform."""

import io
import math
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy.stats import beta

from ...core.atomic import write_atomically
from .calibrate import Calibration, Null

INK, SOFT, FAINT = "#1d1f21", "#5c6066", "#dcd8cf"
COLOURS = ("#2f6690", "#c2571a", "#7a7f3a")
MARKED = "#a3243b"
BINS = 30  # at most; whole numbers of counts each


def save(found: Calibration, name: str, path: Path) -> None:
    content = io.BytesIO()
    drawn(found, name).savefig(content, format="png", dpi=150)
    write_atomically(path, content.getvalue())


def drawn(found: Calibration, name: str) -> Figure:
    tails = found.law is not None
    figure = Figure(figsize=(8.6 if tails else 4.8, 3.8), facecolor="white", layout="constrained")
    figure.suptitle(
        f"{name}: nulls and the marked model", x=0.01, ha="left", size=12, weight="bold", color=INK
    )
    panels = figure.subplots(1, 2 if tails else 1, squeeze=False)[0]
    _nulls(panels[0], found)
    if tails:
        _uniform(panels[1], found)
    handles = [
        *(_patch(null.name, colour) for null, colour in zip(found.nulls, COLOURS, strict=False)),
        _patch("marked model", MARKED),
    ]
    figure.legend(
        handles=handles, loc="outside lower left", ncols=2, frameon=False, fontsize=8, labelcolor=INK
    )
    return figure


def _patch(label: str, colour: str) -> Line2D:
    return Line2D([], [], color=colour, linewidth=4, label=label)


def _nulls(axes: Axes, found: Calibration) -> None:
    """Histograms of equal area, on bins that all share."""
    everything = np.concatenate([null.statistics for null in found.nulls])
    if not len(everything):
        return
    low, high = float(everything.min()), float(everything.max())
    step = math.ceil((high - low + 1) / BINS) if (everything == np.round(everything)).all() else 0
    edges = np.arange(low - 0.5, high + step + 0.5, step) if step else np.linspace(low, high, BINS + 1)
    for null, colour in zip(found.nulls, COLOURS, strict=False):
        heights, _ = np.histogram(null.statistics, edges, density=True)
        axes.stairs(heights, edges, color=colour, fill=True, alpha=0.18)
        axes.stairs(heights, edges, color=colour, linewidth=1.2)
    if found.marked.statistic is not None:
        axes.axvline(found.marked.statistic, color=MARKED, linewidth=2)
    axes.set_xlabel(found.unit + (f" of {found.trials}" if found.trials else ""))
    _plain(axes)
    axes.set_yticks([])


def _uniform(axes: Axes, found: Calibration) -> None:
    """Sorted p-values against those that are expected, on logarithmic axes; the band holds 95 % of each order statistic for the
    largest number of independent scores. Discrete and two-sided tails lie on or below the diagonal where they are valid."""
    for null, colour in zip(found.nulls, COLOURS, strict=False):
        observed, expected = sorted_p(null)
        axes.plot(-expected, -observed, ".", ms=3.5, color=colour)
    count = max(null.units for null in found.nulls)
    ranks = np.arange(1, count + 1)
    low, high = (-np.log10(beta.ppf(q, ranks, count + 1 - ranks)) for q in (0.975, 0.025))
    axes.fill_between(-np.log10(ranks / (count + 1)), low, high, color=FAINT, alpha=0.6, linewidth=0)
    top = max(-np.log10(1 / (len(null.statistics) + 1)) for null in found.nulls)
    axes.plot([0, top], [0, top], color=SOFT, linewidth=0.8)
    axes.axhline(-np.log10(found.fpr), color=SOFT, linewidth=0.8, linestyle=":")
    axes.text(0, -np.log10(found.fpr), " declared rate", va="bottom", size=7.5, color=SOFT)
    axes.set_xlabel("−log10 p expected of a valid tail")
    axes.set_ylabel("−log10 p observed")
    _plain(axes)


def sorted_p(null: Null) -> tuple[np.ndarray, np.ndarray]:
    """log10 p in rising order, and the expected ones r / (n + 1)."""
    assert null.log10_p is not None
    observed = np.sort(null.log10_p)
    return observed, np.log10(np.arange(1, len(observed) + 1) / (len(observed) + 1))


def _plain(axes: Axes) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("bottom", "left"):
        axes.spines[side].set(color=FAINT)
    axes.tick_params(labelsize=8, colors=SOFT)
    axes.xaxis.label.set(size=9, color=INK)
    axes.yaxis.label.set(size=9, color=INK)
