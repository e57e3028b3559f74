"""The ranking for other programs and for papers.

csv, parquet   every column of scores.py as numbers, one row per board and scheme: what is computed with
pairs          every two schemes of a board on the cells they share, as csv (wins.py)
interactions   whether layers protect together (interactions.py): csv, and beside it a table as markdown
latex          a booktabs table per board, ready to \\input; markdown: the same for a page
pdf, svg       the frontiers (figure.py)

What does not count is told in a file beside the export, FILE.note.txt; there is none where everything counts (screen.py).
"""

import csv
import importlib
import io
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from ..core.atomic import write_atomically
from ..core.errors import ConfigError
from .interaction_table import written
from .markup import latex, markdown
from .ranking import BOARD, BUDGET, OUTCOMES, Record
from .scores import WIDE, scores, worst_attack
from .screen import screened, sentences
from .store import Excluded
from .wins import pairs_of

FORMATS = ("csv", "parquet", "pairs", "interactions", "latex", "markdown", "pdf", "svg")
TEXT = set(BOARD) | {
    "watermark",
    "family",
    "reads",
    "derivation",
    "paper",
    "weakest_attack",
    "forging",
    "survives",
    "auroc_null",
    "tpr_attack",
    "tpr_deployment",
    "forging_attack",
    "forging_deployment",
    "clone_attack",
    "benign_worst_kind",
}
COUNTS = {
    *("survived", "decided", "blind_survived", "blind_decided", *OUTCOMES[1:]),
    *(
        "cells",
        "board_cells",
        "controls",
        "claims_on_rivals",
        "false_claims",
        "accused",
        "seeds",
        "rank",
        "tied_best",
        "tied_worst",
    ),
    *("tpr_seeds", "tpr_equals", "forging_seeds", "forging_equals", "bits", "size_cells"),
    *("alarmed", "watched", "cost_never", "cost_trials"),
}
"""Columns of words and of whole numbers; all others are numbers, and any may be missing."""
MISSING = "–"


@dataclass(frozen=True)
class Column:
    """Of a table for people. about: what the numbers are, for the caption."""

    head: str
    shown: Callable[[Record], str]
    words: bool = False
    about: str = ""


def export(found: Iterable[Record | Excluded], form: str, path: Path) -> list[Path]:
    """Write the records' ranking, or their frontiers; the files written (a figure per board), the note last."""
    if form not in FORMATS:
        raise ConfigError(f"expected --export to be one of {', '.join(FORMATS)}, got {form!r}")
    known = screened(found)
    notes = sentences(known.excluded, known.unsigned, shown=len(known.excluded))
    if form in ("pdf", "svg"):
        from .figure import save  # matplotlib takes a second to import

        if path.suffix.lower() != f".{form}":
            raise ConfigError(f"expected the file of --export {form} to end in .{form}, got {path}")
        return [*save(known.records, path), *_noted(path, notes)]
    if form == "interactions":
        return [*written(known.records, path), *_noted(path, notes)]
    content = pairs_of(known.records) if form == "pairs" else _rows(known.records, form)
    if content is None:
        none = "expected records of a scheme to export, found none; run `assay suite quick` first"
        raise ConfigError("\n".join([none, *notes[:10]]))
    write_atomically(path, content)
    return [path, *_noted(path, notes)]


def _rows(records: list[Record], form: str) -> bytes | None:
    rows = scores(records)
    writers = {"csv": as_csv, "parquet": as_parquet, "latex": as_latex, "markdown": as_markdown}
    return writers[form](rows) if rows else None


def _noted(path: Path, notes: list[str]) -> list[Path]:
    place = path.with_name(f"{path.name}.note.txt")
    if not notes:
        place.unlink(missing_ok=True)  # of an earlier export
        return []
    write_atomically(place, ("\n".join(notes) + "\n").encode())
    return [place]


def as_csv(rows: Sequence[Record]) -> bytes:
    """UTF-8 with a header; a missing value is an empty field, a number has all its digits."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def as_parquet(rows: Sequence[Record]) -> bytes:
    """Typed columns, so that files of different boards can be joined."""
    try:
        arrow, parquet = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ModuleNotFoundError as error:
        raise ConfigError(f"--export parquet needs pyarrow ({error}): pip install 'assay[parquet]'") from None
    types = {name: _type(name, arrow) for name in rows[0]}
    table = arrow.table({n: arrow.array([r[n] for r in rows], t) for n, t in types.items()})
    content = io.BytesIO()
    parquet.write_table(table, content)
    return content.getvalue()


def _type(name: str, arrow: Any) -> Any:
    if name in TEXT:
        return arrow.string()
    return arrow.int64() if name in COUNTS else arrow.float64()


def number(value: float | None, places: int = 2) -> str:
    return MISSING if value is None else f"{value:.{places}f}"


def span(least: float | None, most: float | None, places: int = 2) -> str:
    """One number, or the two between which it lies."""
    one, other = number(least, places), number(most, places)
    return one if one == other else f"{one}–{other}"


def interval(low: float | None, high: float | None, places: int = 2) -> str:
    return "" if low is None or high is None else f" [{number(low, places)}, {number(high, places)}]"


def scored(name: str) -> Callable[[Record], str]:
    """A score between its bounds, and its interval."""

    def shown(row: Record) -> str:
        ends = interval(row[f"{name}_low"], row[f"{name}_high"])
        return span(row[f"{name}_least"], row[f"{name}_most"]) + ends

    return shown


def _rank(row: Record) -> str:
    best, last = row["tied_best"], row["tied_worst"]
    return MISSING if best is None else str(best) if best == last else f"{best}–{last}"


def _attack(row: Record) -> str:
    return worst_attack(row["tpr_attack"], row["tpr_least"], row["tpr_equals"]) or MISSING


def stricter_rate(name: str) -> Callable[[Record], str]:
    def shown(row: Record) -> str:
        if row[f"{name}_least"] is None and row["least_log10_p"] is not None:
            return f"p from {10 ** row['least_log10_p']:.2g}"
        return span(row[f"{name}_least"], row[f"{name}_most"])

    return shown


def _forging(row: Record) -> str:
    if row["forging"] == "untested":
        return MISSING
    share = span(row["forging_least"], row["forging_most"])
    return f"{share}{interval(row['forging_low'], row['forging_high'])}"


COLUMNS = (
    Column(
        "Rank",
        _rank,
        about="the ranks that the intervals of survival leave open, after all others for false claims, none for too few attacks",
    ),
    Column("Scheme", lambda row: str(row["watermark"]), words=True),
    Column(
        "Reads", lambda row: row["reads"] or MISSING, words=True, about="what verification needs of a suspect"
    ),
    Column(
        "Survival",
        scored("survival"),
        about=f"of thefts that lose at most {100 * BUDGET:g} pp of accuracy, the share still detected under the worst attack, "
        "exact interval; void (0) where more than 1 % of claims are surely forged",
    ),
    Column(
        "Worst attack",
        _attack,
        words=True,
        about="and how many others are as bad; none where no theft got away",
    ),
    Column(f"Area {100 * BUDGET:g} pp", scored("area_narrow")),
    Column(
        f"Area {100 * WIDE:g} pp",
        scored("area_wide"),
        about="mean of that share over all losses so far, bootstrap over seeds",
    ),
    Column(
        "AUROC",
        lambda row: number(row["auroc"]) + interval(row["auroc_low"], row["auroc_high"]),
        about=f"suspects within {100 * BUDGET:g} pp against the null, worst attack",
    ),
    Column("TPR 1e-3", stricter_rate("tpr_1e3")),
    Column(
        "TPR 1e-6",
        stricter_rate("tpr_1e6"),
        about="thefts detected under the worst attack at these false-positive rates; where the null gives no p so small, the "
        "least that it gives",
    ),
    Column(
        "Cost (pp)",
        lambda row: number(row["cost_pp"], 1) + interval(row["cost_pp_low"], row["cost_pp_high"], 1),
        about="accuracy the owner pays",
    ),
    Column("Forging", _forging, about="share of claims that find another's model, worst claim"),
    Column("Seeds", lambda row: str(row["seeds"])),
)


def boards(rows: Sequence[Record]) -> list[tuple[dict[str, str], list[Record]]]:
    """Rows come board by board."""
    grouped = groupby(rows, key=lambda row: tuple(row[axis] for axis in BOARD))
    return [(dict(zip(BOARD, names, strict=True)), list(members)) for names, members in grouped]


def caption(board: dict[str, str], rows: Sequence[Record]) -> str:
    """The board, the declared rate, and what every column is."""
    setting = ", ".join(f"{axis} {name}" for axis, name in board.items() if name)
    rates = sorted({row["fpr"] for row in rows if row["fpr"] is not None})
    declared = " or ".join(f"{100 * rate:g} %" for rate in rates)
    notes = "; ".join(f"{column.head}: {column.about}" for column in COLUMNS if column.about)
    rate = f"; false-positive rate {declared}" if declared else ""
    between = "Intervals are at 95 %; a dash between two numbers bounds what undecided trials leave open."
    return f"{setting}{rate}. {notes}. {between}"


def as_markdown(rows: Sequence[Record]) -> bytes:
    parts = []
    for board, members in boards(rows):
        head = [column.head for column in COLUMNS]
        rule = ["---" if column.words else "---:" for column in COLUMNS]
        lines = [[markdown(column.shown(row)) for column in COLUMNS] for row in members]
        table = "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *lines))
        parts.append(f"{table}\n\n{markdown(caption(board, members))}\n")
    return "\n".join(parts).encode()


def as_latex(rows: Sequence[Record]) -> bytes:
    """Floats of full width for a two-column paper; in a one-column paper table* is table."""
    parts = ["% \\usepackage{booktabs}"]
    for board, members in boards(rows):
        align = "".join("l" if column.words else "r" for column in COLUMNS)
        lines = [[latex(column.shown(row)) for column in COLUMNS] for row in members]
        body = [f"{' & '.join(line)} \\\\" for line in lines]
        label = re.sub(r"[^a-z0-9]+", "-", "-".join(filter(None, board.values())).lower()).strip("-")
        parts += [
            "\\begin{table*}",
            "\\centering\\scriptsize\\setlength{\\tabcolsep}{3pt}",
            f"\\caption{{{latex(caption(board, members))}}}",
            f"\\label{{tab:assay-{label}}}",
            f"\\begin{{tabular}}{{@{{}}{align}@{{}}}}",
            "\\toprule",
            f"{' & '.join(latex(column.head) for column in COLUMNS)} \\\\",
            "\\midrule",
            *body,
            "\\bottomrule",
            "\\end{tabular}",
            "\\end{table*}",
        ]
    return ("\n".join(parts) + "\n").encode()
