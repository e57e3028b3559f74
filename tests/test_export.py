"""What leaves the board says what the board says, in every format, and the same records give the same bytes."""

import csv
import functools
import importlib
import io
import re
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from assay.core.errors import ConfigError
from assay.experiments.cli import main
from assay.leaderboard.export import (
    COUNTS,
    FORMATS,
    TEXT,
    as_csv,
    as_latex,
    as_markdown,
    export,
)
from assay.leaderboard.figure import FAMILIES, MOST, drawn
from assay.leaderboard.markup import latex, markdown
from assay.leaderboard.ranking import Record, schemes
from assay.leaderboard.scores import scores

NASTY = r"a_b$c%d&e#f{g}h~i^j\k|l<m>*[x](y)`z`"


def trial(
    scheme: str = "adi",
    attack: str = "prune",
    seed: int = 0,
    curve: Any = ((0.0, True),),
    task: str = "digits",
) -> Record:
    choices = {"task": task, "model": "cnn", "watermark": scheme, "deployment": "open", "attack": attack}
    null = {"independent_models": {"count": 4, "exceed": seed % 2}}
    message = {"bits": 32, "accuracy": 0.75 + seed / 100}
    points = [
        {
            "accuracy": 0.95 - loss / 100,
            "detected": d,
            "log10_p": -4.0,
            "statistic": 9.0,
            "message": message,
            **null,
        }
        for loss, d in curve
    ]
    declared = {"family": "trigger", "reads": "labels", "derivation": "derived", "paper": "A & B, 2018"}
    return {
        "id": f"{task}-{scheme}-{attack}-{seed}",
        "seed": seed,
        "choices": choices,
        "status": "ok",
        "declared": {"watermark": declared, "attack": {"goal": "remove"}},
        "owner": {
            "unmarked_accuracy": 0.96 + seed / 1000,
            "embedding_seconds": 2.0,
            "verification": {"queries": 100, "seconds": 0.5},
        },
        "marked": {"accuracy": 0.95, "fpr": 0.01, "statistic": 10.0, "message": message, **null},
        "curve": points,
        "controls": {},
        "nulls": {"independent_models": [1.0, 2.0, 3.0, 4.0], "random_keys": []},
        "size": {"cells": 100, "claims": 1},
    }


def several() -> list[Record]:
    """Two boards; a scheme with an awkward name, one without a decided trial, and one that was never run to the end."""
    good = [trial("adi", attack, s) for attack in ("prune", "distill") for s in range(4)]
    bad = [trial(NASTY, "prune", s, [(0.0, True), (1.0 + s, False)]) for s in range(4)]
    undecided = [trial("akh", "prune", s, [(0.0, None)]) for s in range(4)]
    died = {name: trial("died")[name] for name in ("id", "seed", "choices")} | {
        "status": "failed",
        "reason": "x",
    }
    return [*good, *bad, *undecided, died, trial("none"), trial("adi", task="fashion")]


@functools.cache
def rows_of_several() -> list[Record]:
    return scores(several())


def test_csv_has_every_number_of_every_scheme() -> None:
    rows = rows_of_several()
    read = list(csv.DictReader(io.StringIO(as_csv(rows).decode())))
    assert [row["watermark"] for row in read] == [row["watermark"] for row in rows]
    assert {row["watermark"] for row in read} == {"adi", NASTY, "akh", "died"}
    for row, found in zip(rows, read, strict=True):
        assert set(found) == set(row)
        for name, value in row.items():
            assert found[name] == ("" if value is None else str(value))
            if name not in TEXT and value is not None:
                assert float(found[name]) == value


def test_columns_are_typed_by_what_they_hold() -> None:
    rows = rows_of_several()
    assert set(rows[0]) >= TEXT | COUNTS
    for row in rows:
        for name, value in row.items():
            wanted = str if name in TEXT else int if name in COUNTS else float
            assert value is None or type(value) is wanted or (wanted is float and isinstance(value, float)), (
                name
            )


def test_scores_of_records_with_everything() -> None:
    (row,) = scores([trial("adi", "prune", s) for s in range(4)])
    assert (row["bits"], row["verification_queries"], row["verification_seconds"]) == (32, 100, 0.5)
    assert row["bit_accuracy"] == row["bit_accuracy_attacked"] == pytest.approx(0.765)
    assert row["auroc_marked"] == pytest.approx(0.875)  # every second seed has a null above
    assert row["cost_pp"] == pytest.approx(1.15)
    assert row["cost_pp_low"] < 1.15 < row["cost_pp_high"]


def test_parquet_without_pyarrow_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"pyarrow .* pip install 'assay\[parquet\]'"):
        export(several(), "parquet", tmp_path / "board.parquet")
    assert list(tmp_path.iterdir()) == []


def test_the_board_command_exports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quick = str(Path(__file__).resolve().parent.parent / "results" / "quick")
    assert main(["board", "--runs", quick, "--export", "latex", "--output", str(tmp_path / "board.tex")]) == 0
    assert "\\toprule" in (tmp_path / "board.tex").read_text()
    assert main(["board", "--runs", quick, "--export", "pdf", "--output", str(tmp_path / "board.tex")]) == 2
    assert "to end in .pdf" in capsys.readouterr().err


def test_several_results_folders_stand_on_one_board(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results, page = Path(__file__).resolve().parent.parent / "results", tmp_path / "board.html"
    words = [
        "board",
        "--runs",
        str(results / "quick"),
        "--also",
        str(results / "defaults"),
        "--output",
        str(page),
    ]
    assert main(words) == 0
    count = sum(len(list((results / name / "records").iterdir())) for name in ("quick", "defaults"))
    assert f"{count} records" in capsys.readouterr().out
    assert main([*words, "--also", str(tmp_path)]) == 2
    assert f"expected records under {tmp_path / 'records'}, found none" in capsys.readouterr().err


def test_parquet_holds_typed_columns(tmp_path: Path) -> None:
    parquet = importlib.import_module("pyarrow.parquet")
    export(several(), "parquet", tmp_path / "board.parquet")
    table = parquet.read_table(tmp_path / "board.parquet")
    assert table.to_pylist() == rows_of_several()
    kinds = {field.name: str(field.type) for field in table.schema}
    assert (kinds["watermark"], kinds["seeds"], kinds["area_wide_low"]) == ("string", "int64", "double")


def cells(text: str) -> list[list[str]]:
    """Of LaTeX rows between \\midrule and \\bottomrule."""
    bodies = re.findall(r"\\midrule\n(.*?)\\bottomrule", text, re.DOTALL)
    lines = [line for body in bodies for line in body.strip().split("\n")]
    assert all(line.endswith(r" \\") for line in lines)
    return [re.split(r"(?<!\\)&", line.removesuffix(r" \\")) for line in lines]


def test_latex_is_a_booktabs_table_per_board_with_every_name_escaped() -> None:
    text = as_latex(rows_of_several()).decode()
    assert text.count("\\begin{tabular}") == text.count("\\toprule") == 2
    (align, _) = re.findall(r"\\begin\{tabular\}\{@\{\}(\w+)@\{\}\}", text)
    lines = cells(text)
    assert {len(line) for line in lines} == {len(align)}
    assert [line[1].strip() for line in lines].count(latex(NASTY)) == 1
    assert len(set(re.findall(r"\\label\{(.*?)\}", text))) == 2
    plain = re.sub(r"\\[%&#_${}]|\\\w+\{\}", "", "".join("".join(line) for line in lines))
    assert not re.search(r"[%&#_{}~^\\|<>]", plain.replace("~", ""))
    balance = 0
    for sign in re.sub(r"\\[{}]", "", text):
        balance += (sign == "{") - (sign == "}")
        assert balance >= 0
    assert balance == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("adi_derived", r"adi\_derived"),
        ("50 %", r"50~\%"),
        ("1–3", "1--3"),
        ("-0.3 [-0.5, 0.1]", "$-$0.3 [$-$0.5, 0.1]"),
        ("zhang-2018", "zhang-2018"),
        ("a\\b\nc", r"a\textbackslash{}b c"),
        ("$x^2$", r"\$x\textasciicircum{}2\$"),
    ],
)
def test_latex_takes_any_text_as_text(text: str, expected: str) -> None:
    assert latex(text) == expected


def test_markdown_has_a_row_per_scheme_and_no_stray_bar() -> None:
    text = as_markdown(rows_of_several()).decode()
    tables = re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE)
    assert len(tables) == 2
    for table in tables:
        lines = table.strip().split("\n")
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1
    assert f"| {markdown(NASTY)} |" in text
    assert "false-positive rate 1 %" in text


def test_numbers_are_those_of_the_scores() -> None:
    text = as_markdown(
        scores([trial("adi", "prune", s, [(0.0, True), (1.0, s > 0)]) for s in range(4)])
    ).decode()
    line = next(line for line in text.split("\n") if "adi" in line)
    found = [cell.replace("\\", "").strip() for cell in line.strip("| ").split(" | ")]
    # 3 of 4 detected within 2 pp (Clopper-Pearson), from 1 pp on; the area over 2 pp is (1 + 0.75) / 2, without
    # an interval, for which four seeds are too few.
    assert found[:6] == ["1", "adi", "labels", "0.75 [0.19, 0.99]", "prune", "0.88"]


@pytest.mark.parametrize(
    ("attacks", "detected", "expected"),
    [(["prune"], True, "–"), (["prune"], False, "prune"), (["b", "a", "c"], False, "a +2"), ([], False, "–")],
)
def test_the_worst_attack_is_named_with_its_equals(attacks: list[str], detected: bool, expected: str) -> None:
    records = [trial("adi", attack, curve=[(0.0, detected)]) for attack in attacks]
    lines = (
        as_markdown(scores([*records, trial("adi", "extract", curve=[(50.0, False)])])).decode().split("\n")
    )
    assert lines[2].split(" | ")[4].replace("\\", "") == expected


def test_a_scheme_without_a_rank_has_none_in_tables() -> None:
    records = [trial("adi", attack) for attack in ("w", "x", "y")] + [trial("dawn", "w")]
    lines = as_markdown(scores(records)).decode().split("\n")
    assert [line.split(" | ")[:2] for line in lines[2:4]] == [["| 1", "adi"], ["| –", "dawn"]]


def test_a_rate_that_the_null_cannot_give_is_told_by_its_least_p() -> None:
    exact, models = trial("adi"), trial("akh")
    exact["curve"][0]["source"] = "binomial"
    models["curve"][0] |= {"source": "independent_models", "independent_models": {"count": 199, "exceed": 0}}
    lines = [line.split(" | ") for line in as_markdown(scores([exact, models])).decode().split("\n")]
    at = lines[0].index("TPR 1e-3")
    assert [line[at : at + 2] for line in lines[2:4]] == [["1.00", "0.00"], ["p from 0.005"] * 2]


def test_undecided_scores_are_shown_as_bounds() -> None:
    text = as_latex(scores([trial("akh", "prune", s, [(0.0, None)]) for s in range(4)])).decode()
    assert "0.00--1.00 [0.00, 1.00]" in text


def test_export_writes_each_format(tmp_path: Path) -> None:
    for form in FORMATS:
        if form in ("parquet", "pairs", "interactions"):  # test_board_excluded.py, test_interactions.py
            continue
        path = tmp_path / f"board.{form}"
        written = export(several(), form, path)
        assert all(place.stat().st_size > 500 for place in written)
        assert len(written) == (2 if form in ("pdf", "svg") else 1)


@pytest.mark.parametrize(
    ("form", "name", "message"),
    [
        ("xlsx", "a.xlsx", "one of csv, parquet"),
        ("pdf", "a.svg", r"end in \.pdf"),
        ("csv", "a.csv", "found none"),
        ("svg", "a.svg", "found none"),
    ],
)
def test_bad_input_says_what_was_expected(form: str, name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        export([trial("none")], form, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("form", ["svg", "pdf"])
def test_the_same_records_give_the_same_figure(form: str, tmp_path: Path) -> None:
    first, again = (export([trial()], form, tmp_path / f"{i}.{form}")[0].read_bytes() for i in range(2))
    assert first == again
    if form == "svg":
        assert ET.fromstring(first).tag.endswith("svg")


def figure_of(records: list[Record]) -> Any:
    return drawn({key[-1]: members for key, members in schemes(records).items()})


def board_of(count: int) -> list[Record]:
    families = list(FAMILIES)
    out = []
    for i in range(count):
        record = trial(
            f"a_scheme_with_a_rather_long_name_{i}",
            "evade_filter_activations",
            curve=[(0.0, True), (i % 9, None)],
        )
        record["declared"] = {"watermark": {"family": families[i % 6]}, "attack": {}}
        out.append(record)
    return out


@pytest.mark.parametrize("count", [1, 4, 13, pytest.param(MOST + 5, marks=pytest.mark.slow)])
def test_no_text_of_a_figure_touches_another_or_leaves_it(count: int) -> None:
    figure = figure_of(board_of(count))
    assert len(figure.axes) == min(count, MOST)
    assert figure.get_figwidth() in (3.35, 6.9)
    assert figure.get_figheight() < 9.5
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    boxes = [t.get_window_extent() for t in figure.findobj(Text) if t.get_text() and t.get_visible()]
    edges = np.array([box.extents for box in boxes])
    width, height = canvas.get_width_height()
    assert (edges[:, :2] >= 0).all()
    assert (edges[:, 2] <= width).all()
    assert (edges[:, 3] <= height).all()
    across = np.minimum(edges[:, None, 2:], edges[None, :, 2:]) - np.maximum(
        edges[:, None, :2], edges[None, :, :2]
    )
    over = np.triu((across > 1).all(-1), 1)
    assert not over.any()


def test_a_figure_draws_the_frontier() -> None:
    figure = figure_of([trial("adi", "prune", s, [(0.0, True), (4.0, s > 0)]) for s in range(4)])
    (line, _) = [line for line in figure.axes[0].lines if line.get_color() == FAMILIES["trigger"]]
    np.testing.assert_allclose(line.get_xdata(), [0, 4, 10])
    np.testing.assert_allclose(line.get_ydata(), [1, 0.75, 0.75])
