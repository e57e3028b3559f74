"""What `assay weightstats` prints."""

import math

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .weightstats import Layer, Report

TESTS = {"kolmogorov_smirnov": "KS", "chi_square": "chi2", "variance_ratio": "var ratio", "jarque_bera": "JB"}


def show(report: Report, console: Console) -> None:
    console.print(_statistics(report))
    if any(layer.channels for layer in report.layers):
        console.print(_channels(report))
    if report.references:
        console.print(_tests(report))
        console.print(verdict(report), soft_wrap=True)


def _table(title: str, left: tuple[str, ...], right: tuple[str, ...]) -> Table:
    table = Table(
        title=escape(title),
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for name in left:
        table.add_column(name, overflow="fold")
    for name in right:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3g}"


def _statistics(report: Report) -> Table:
    columns = ("count", "mean", "sd", "skew", "excess kurt", "min", "max", "non-finite")
    table = _table(str(report.model), ("layer",), columns)
    for layer in report.layers:
        values = layer.mean, layer.sd, layer.skewness, layer.kurtosis, layer.min, layer.max
        bad = f"[red]{layer.nonfinite:,}[/]" if layer.nonfinite else "0"
        table.add_row(escape(layer.name), f"{layer.count:,}", *map(number, values), bad)
    return table


def _channels(report: Report) -> Table:
    """The range over output channels: a single odd channel shows here and nowhere else."""
    columns = ("channels", "means from", "to", "sd from", "to", "widest", "non-finite in")
    table = _table("Output channels", ("layer",), columns)
    for layer in report.layers:
        if layer.channels is None or len(layer.channels["count"]) < 2:
            continue
        means, sds = ([v for v in layer.channels[key] if not math.isnan(v)] for key in ("mean", "sd"))
        widest = str(layer.channels["sd"].index(max(sds))) if sds else "-"
        ends = [number(end(values)) if values else "-" for values in (means, sds) for end in (min, max)]
        bad = sum(1 for n in layer.channels["nonfinite"] if n)
        table.add_row(escape(layer.name), str(len(layer.channels["count"])), *ends, widest, str(bad))
    return table


def _tests(report: Report) -> Table:
    count = sum(len(layer.adjusted) for layer in report.layers)
    title = f"Against {len(report.references)} references: statistic, log10 p after Holm over {count} tests"
    table = _table(title, ("layer",), ())
    for name in TESTS.values():
        table.add_column(name, justify="right", no_wrap=True)
        table.add_column("log10 p", justify="right", no_wrap=True)
    for layer in report.layers:
        table.add_row(escape(layer.name), *(cell for test in TESTS for cell in _cells(layer, test)))
    return table


def _cells(layer: Layer, test: str) -> tuple[str, str]:
    if test not in layer.adjusted:
        return "-", "-"
    log10_p = layer.adjusted[test]
    shown = f"{log10_p:.1f}" if log10_p < -0.05 else "0"
    return number(layer.found[test].statistic), f"[bold]{shown}[/]" if log10_p < -2 else shown


def verdict(report: Report) -> str:
    """What decides, and what does not."""
    describes = "The tests above describe: weights of a trained layer are not independent, so honest models differ in them too."
    models = len(report.references) + 1
    if math.isnan(report.exchangeability.statistic):
        return (
            f"{describes} A calibrated answer needs at least 2 references, trained alike, that share a layer."
        )
    rank = round(models * 10**report.exchangeability.log10_p)
    return (
        f"{describes}\nIn its oddest layer the suspect lies {report.exchangeability.statistic:.2f} times as far from the others "
        f"as models do on average, rank {rank} of {models}: p = {rank}/{models} = {rank / models:.3g}, exact if suspect and "
        "references are exchangeable (trained alike, in ignorance of each other)."
    )
