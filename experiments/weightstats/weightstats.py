"""`assay weightstats`: a first look at a suspect's weights, layer by layer, alone or beside reference models.

Tensors are read one name at a time from all files, so memory holds one layer of each. Suffixes: M models, the suspect first;
L layers that all models share; W bins with the two outer ones; N rows of moments.
"""

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from ...core import weight_tests as tests
from ...core.errors import ConfigError
from ...core.statistics import holm
from ...core.weight_tests import NOTHING, Found, Summary
from ...kernels.moments import Bins, Moments
from ...kernels.weight_moments import DTYPES, weight_moments
from ...zoo.files import float_shapes, load_tensor

REACH = 6  # standard deviations on either side of the mean that a histogram covers at most


@dataclass(frozen=True)
class Layer:
    """What is known of one tensor; kurtosis in excess of the normal's 3. found: the tests against the references that have it;
    adjusted: their log10 p after Holm."""

    name: str
    shape: tuple[int, ...]
    count: int
    nonfinite: int
    mean: float
    sd: float
    skewness: float
    kurtosis: float
    min: float
    max: float
    bins: Bins
    counts_MW: NDArray[np.int64]
    references: int
    found: dict[str, Found]
    channels: dict[str, list[float]] | None = None
    adjusted: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    model: Path
    references: tuple[Path, ...]
    layers: tuple[Layer, ...]
    exchangeability: Found


def weightstats(model: Path, references: Sequence[Path], bins: int, channels: bool) -> Report:
    """Every floating-point tensor of the model. ConfigError for files that are not models, or share nothing."""
    if not 4 <= bins <= 500:
        raise ConfigError(f"expected --bins between 4 and 500, got {bins}")
    shapes = float_shapes(model)
    if not shapes:
        raise ConfigError(f"{model} holds no floating-point tensors: nothing to measure")
    others = {path: float_shapes(path) for path in references}
    for path, found in others.items():
        if not any(found.get(name) == shape for name, shape in shapes.items()):
            raise ConfigError(
                f"{path} shares no layer with {model}: expected tensors of the same names and shapes"
            )
    layers = []
    for name in _counted(sorted(shapes, key=_natural)):
        beside = [path for path in references if others[path].get(name) == shapes[name]]
        tensors = [_readable(load_tensor(path, name)) for path in (model, *beside)]
        layers.append(_layer(name, tensors, bins, channels))
    return Report(model, tuple(references), _adjusted(layers), _exchangeability(layers, len(references)))


def _natural(name: str) -> tuple[tuple[int, int | str], ...]:
    """blocks.2 before blocks.10."""
    return tuple((0, int(part)) if part.isdigit() else (1, part) for part in name.split("."))


def _counted(names: list[str]) -> Iterator[str]:
    """The names, with a progress line on a terminal."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not sys.stderr.isatty()) as progress:
        yield from progress.track(names, description="layers")


def _readable(tensor: Tensor) -> Tensor:
    """float64 and 8-bit floats as float32; what is out of its range counts as infinite."""
    return tensor if tensor.dtype in DTYPES else tensor.to(torch.float32)


def _layer(name: str, tensors: list[Tensor], bins: int, channels: bool) -> Layer:
    rows = weight_moments(tensors)
    whole = rows.merged(torch.zeros(len(rows), dtype=torch.int64), 1)
    reach = _reach(whole, bins)
    counts_NW = weight_moments(tensors, reach).histogram_NW
    assert counts_NW is not None
    counts_MW = counts_NW.numpy()
    found = _tested(tensors, rows, counts_MW)
    per_channel = _columns(weight_moments(tensors[:1], channels=True)) if channels else None
    first = {key: column[0] for key, column in _columns(rows).items()}
    return Layer(
        name=name,
        shape=tuple(tensors[0].shape),
        count=int(first["count"]),
        nonfinite=int(first["nonfinite"]),
        mean=first["mean"],
        sd=first["sd"],
        skewness=first["skewness"],
        kurtosis=first["kurtosis"],
        min=first["min"],
        max=first["max"],
        bins=reach,
        counts_MW=counts_MW,
        references=len(tensors) - 1,
        found=found,
        channels=per_channel,
    )


def _tested(tensors: list[Tensor], rows: Moments, counts_MW: NDArray[np.int64]) -> dict[str, Found]:
    """The suspect's layer against those of all references together."""
    one = _summary(rows, 0)
    found = {"jarque_bera": tests.jarque_bera(one)}
    if len(tensors) > 1:
        rest = rows.merged(torch.tensor([0] + [1] * (len(tensors) - 1)), 2)
        values = [tensor.flatten().to(torch.float32).numpy() for tensor in tensors]
        found["kolmogorov_smirnov"] = tests.kolmogorov_smirnov(values[0], np.concatenate(values[1:]))
        found["chi_square"] = tests.chi_square(counts_MW[0], counts_MW[1:].sum(0))
        found["variance_ratio"] = tests.variance_ratio(one, _summary(rest, 1))
    return found


def _columns(rows: Moments) -> dict[str, list[float]]:
    columns = {
        "count": rows.count_N,
        "nonfinite": rows.nonfinite_N,
        "mean": rows.mean_N,
        "sd": rows.variance_N.sqrt(),
        "skewness": rows.skewness_N,
        "kurtosis": rows.kurtosis_N,
        "min": rows.min_N,
        "max": rows.max_N,
    }
    return {key: column.tolist() for key, column in columns.items()}


def _summary(rows: Moments, row: int) -> Summary:
    columns = rows.skewness_N, rows.kurtosis_N, rows.m2_N, rows.m4_N
    return Summary(int(rows.count_N[row]), *(float(column[row]) for column in columns))


def _reach(whole: Moments, bins: int) -> Bins:
    """Bins over all models' values together, so that they do not know which is the suspect; far tails fall outside."""
    if not int(whole.count_N[0]):
        return Bins(-1, 1, bins)
    mean, spread = float(whole.mean_N[0]), REACH * math.sqrt(float(whole.m2_N[0]) / int(whole.count_N[0]))
    lo, hi = max(float(whole.min_N[0]), mean - spread, -1e38), min(float(whole.max_N[0]), mean + spread, 1e38)
    if not hi - lo > 1e-30:
        lo, hi = lo - max(abs(lo), 1) / 2, hi + max(abs(hi), 1) / 2
    return Bins(lo, float(np.nextafter(np.float32(hi), np.float32(np.inf))), bins)


def _adjusted(layers: list[Layer]) -> tuple[Layer, ...]:
    """Holm over every test of every layer."""
    places = [
        (i, key) for i, layer in enumerate(layers) for key, test in layer.found.items() if test != NOTHING
    ]
    values: list[float] = holm([layers[i].found[key].log10_p for i, key in places]).tolist() if places else []
    for (i, key), value in zip(places, values, strict=True):
        layers[i].adjusted[key] = value
    return tuple(layers)


def _exchangeability(layers: list[Layer], references: int) -> Found:
    counts = [layer.counts_MW for layer in layers if layer.references == references]
    return tests.exchangeability(np.stack(counts, 1)) if counts and references else NOTHING


def plain(report: Report) -> dict[str, Any]:
    """For JSON: NaN and infinities are None."""
    layers = []
    for layer in report.layers:
        about = {
            k: v for k, v in asdict(layer).items() if k not in ("bins", "counts_MW", "found", "adjusted")
        }
        histogram = {**asdict(layer.bins), "counts": layer.counts_MW.tolist()}
        found = {k: {**asdict(v), "holm_log10_p": layer.adjusted.get(k)} for k, v in layer.found.items()}
        layers.append({**about, "histogram": histogram, "tests": found})
    references = [str(path) for path in report.references]
    apart = (
        None
        if report.exchangeability.statistic != report.exchangeability.statistic
        else asdict(report.exchangeability)
    )
    whole = {"model": str(report.model), "references": references, "exchangeability": apart, "layers": layers}
    cleaned: dict[str, Any] = _cleaned(whole)
    return cleaned


def _cleaned(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _cleaned(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_cleaned(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
