"""The picture of `assay weightstats`: a rootogram per layer, suspect against references.

Heights are square roots of densities (Tukey's rootogram): a bar's noise is the same wherever it stands, and a spike of pruned
weights does not flatten the rest.
"""

import io
import math
import os
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ...core.atomic import write_atomically
from ...core.errors import ConfigError
from ...core.weight_tests import NOTHING
from .weightstats import Layer, Report

FORMATS = (".png", ".svg", ".pdf")
MOST = 60  # panels; of more layers those that differ most are drawn, or the largest
INK, SOFT, FAINT, SUSPECT, REFERENCE = "#1d1f21", "#5c6066", "#dcd8cf", "#2f6690", "#c2571a"


def checked(path: Path) -> Path:
    """ConfigError before the work, not after it, for a picture that could not be written."""
    if path.suffix.lower() not in FORMATS:
        raise ConfigError(f"expected --plot to end in {', '.join(FORMATS)}, got {path}")
    folder = path.absolute().parent
    while not folder.exists():
        folder = folder.parent
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise ConfigError(f"cannot write {path}: name a writable place with --plot FILE")
    return path


def save(report: Report, path: Path) -> None:
    content = io.BytesIO()
    drawn(report).savefig(content, format=path.suffix[1:].lower(), dpi=150)
    write_atomically(path, content.getvalue())


def drawn(report: Report) -> Figure:
    layers = _chosen(report.layers)
    columns = min(
        len(layers),
        next(c for most, c in ((4, 2), (9, 3), (20, 4), (40, 5), (MOST, 6)) if len(layers) <= most),
    )
    rows = math.ceil(len(layers) / columns)
    size = max(2.6 * columns, 6.4), 1.62 * rows + 1.1
    figure = Figure(figsize=size, facecolor="white")
    figure.subplots_adjust(0.3 / size[0], 0.35 / size[1], 1 - 0.2 / size[0], 1 - 1.25 / size[1], 0.12, 0.75)
    for place, layer in enumerate(layers):
        _panel(figure.add_subplot(rows, columns, place + 1), layer)
    _heading(figure, report, len(layers), size)
    return figure


def _chosen(layers: tuple[Layer, ...]) -> list[Layer]:
    def weight(layer: Layer) -> tuple[float, int]:
        gap = layer.found.get("kolmogorov_smirnov")
        return (0.0 if gap is None or math.isnan(gap.statistic) else gap.statistic, layer.count)

    kept = {layer.name for layer in sorted(layers, key=weight, reverse=True)[:MOST]}
    return [layer for layer in layers if layer.name in kept]


def _heading(figure: Figure, report: Report, drawn_layers: int, size: tuple[float, float]) -> None:
    left, top = 0.3 / size[0], lambda inches: 1 - inches / size[1]
    figure.text(left, top(0.3), report.model.name, size=12, weight="bold", color=INK)
    words, x = [("suspect", SUSPECT)], left
    note = "square root of density"
    if report.references:
        count = len(report.references)
        spread = ": mean, and from least to most" if count > 2 else ""
        words.append((f"{count} reference{'s' * (count > 1)}{spread}", REFERENCE))
        note += "; D largest gap between distribution functions, var \u00d7 suspect's variance over theirs"
    for text, colour in words:
        figure.text(x, top(0.53), "\u25a0 " + text, size=8, color=colour)
        x += (0.35 + 0.065 * len(text)) / size[0]
    if drawn_layers < len(report.layers):
        which = "that differ most" if report.references else "that are largest"
        note += f"; {drawn_layers} of {len(report.layers)} layers, those {which}"
    figure.text(left, top(0.73), note, size=8, color=SOFT)


def _panel(axes: Axes, layer: Layer) -> None:
    edges, heights_MH = _rootogram(layer)
    axes.stairs(heights_MH[0], edges, fill=True, color=SUSPECT, alpha=0.3, linewidth=0)
    axes.stairs(heights_MH[0], edges, color=SUSPECT, linewidth=0.9)
    if layer.references > 2:
        low, high = heights_MH[1:].min(0), heights_MH[1:].max(0)
        axes.stairs(high, edges, baseline=low, fill=True, color=REFERENCE, alpha=0.25, linewidth=0)
        axes.stairs(
            np.sqrt((heights_MH[1:] ** 2).mean(0)), edges, color=REFERENCE, linewidth=0.9, baseline=None
        )
    for height_H in heights_MH[1:] if layer.references <= 2 else ():
        axes.stairs(height_H, edges, color=REFERENCE, linewidth=0.9, baseline=None)
    axes.set_ylim(0, 1.08 * _top(heights_MH))
    axes.set_xlim(edges[0], edges[-1])
    axes.set_yticks([])
    axes.locator_params(axis="x", nbins=4)
    axes.tick_params(axis="x", labelsize=6.5, colors=SOFT, length=2, width=0.5, pad=2)
    axes.xaxis.get_offset_text().set(size=6, color=SOFT)
    for side in ("top", "left", "right"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set(color=FAINT, linewidth=0.8)
    name = layer.name if len(layer.name) <= 34 else "\u2026" + layer.name[-33:]
    axes.text(0, 1.19, name, transform=axes.transAxes, size=7.5, color=INK, va="bottom", parse_math=False)
    axes.text(0, 1.03, _caption(layer), transform=axes.transAxes, size=6.5, color=SOFT, va="bottom")
    axes.text(0.99, 0.97, _oddity(layer), transform=axes.transAxes, size=6.5, color=INK, va="top", ha="right")


def _top(heights_MH: NDArray[np.float64]) -> float:
    """The tallest bar, unless one bin (the zeros of a pruned layer) is over three times as tall as the third tallest."""
    tallest, third = np.sort(heights_MH.max(0))[[-1, -3]]
    return float(min(tallest, 3 * third)) if third > 0 else float(tallest) or 1.0


def _rootogram(layer: Layer) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Edges and heights of the inner bins; neighbours joined where a layer is too small for so many."""
    inner_MH = layer.counts_MW[:, 1:-1]
    step = max(1, math.ceil(inner_MH.shape[1] / max(8, 2 * math.sqrt(max(layer.count, 1)))))
    starts = np.arange(0, inner_MH.shape[1], step)
    edges = np.linspace(layer.bins.lo, layer.bins.hi, inner_MH.shape[1] + 1)[[*starts, -1]]
    total_M = np.maximum(layer.counts_MW.sum(1, keepdims=True), 1)
    return edges, np.sqrt(np.add.reduceat(inner_MH, starts, axis=1) / total_M / np.diff(edges))


def _caption(layer: Layer) -> str:
    words = [f"n {layer.count:,}", "sd -" if math.isnan(layer.sd) else f"sd {layer.sd:.2g}"]
    for key, name in (("kolmogorov_smirnov", "D"), ("variance_ratio", "var \u00d7")):
        if key in layer.found and layer.found[key] != NOTHING:
            words.append(f"{name}{' ' if key != 'variance_ratio' else ''}{layer.found[key].statistic:.2g}")
    return " \u00b7 ".join(words)


def _oddity(layer: Layer) -> str:
    """What the outline cannot show: a spike that is cut off, values that are no numbers."""
    most = int(layer.counts_MW[0, 1:-1].max())
    words = [f"{most / layer.count:.0%} in one bin"] if layer.count > 1 and most > layer.count / 3 else []
    return "\n".join([*words, f"{layer.nonfinite:,} not finite"] if layer.nonfinite else words)
