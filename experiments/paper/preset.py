"""Presets of papers (conf/paper/*.yaml): which trials, what was published and where it stands, what is checked at which scale.

A trial is a row under a theft; which ones run follows from what the numbers and claims of the scale read:
  numbers  a table of the paper; a column reads theft.quantity@point of the row beside it
  claims   ROW/THEFT.QUANTITY@POINT, a relation, another such reading (+ or - a margin) or a number
A published number is compared at full scale only: on other data it would be another number.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from ...core.errors import ConfigError
from ..config import CONF, options, parsed, suggest

QUANTITIES = {
    "accuracy": "%",
    "error": "%",
    "loss": "pp",
    "agreement": "%",
    "trigger_accuracy": "%",
    "bit_accuracy": "%",
    "bit_error_rate": "%",
    "detected": "%",
    "statistic": "",
    "log10_p": "",
}
"""What can be read of a record (paperjudge.py), and its unit; a statistic has its scheme's."""
POINTS = ("unmarked", "rival", "marked", "first", "last", "worst")
"""Where: the unmarked model, another owner's, the marked one, or a surrogate: the first and the last of the curve, the one with the
lowest statistic within 2 pp of the marked model's accuracy, or that of a strength, as a number."""
UNPUBLISHED = "No number published that we could check."
Scale = Literal["full", "laptop"]
SCALES: tuple[Scale, ...] = ("full", "laptop")
Provenance = Literal["verified", "secondary", "unverified"]
CLOSED = ConfigDict(extra="forbid", allow_inf_nan=False)
READING = re.compile(r"(?:(\w+)/)?(\w+)\.(\w+)@([\w.]+)")
INEQUALITY = re.compile(r"(\S+) (<=|>=|<|>) (?:(-?[\d.]+)|(\S+?)(?: ([+-]) ([\d.]+))?)")


@dataclass(frozen=True, config=CLOSED)
class Setting:
    """A scale: Hydra overrides of every trial, those of single rows and thefts, and what differs from the paper ("" : nothing)."""

    settings: list[str]
    differs: str
    also: dict[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True, config=CLOSED)
class Table:
    """Published numbers, as they stand: the paper's name of each column, and what in our records it compares with; null: nothing,
    and `unmeasured` says why."""

    where: str
    provenance: Provenance
    unit: str
    columns: dict[str, str | None]
    values: dict[str, list[float | None]]
    unmeasured: str = ""


@dataclass(frozen=True, config=CLOSED)
class Claim:
    says: str
    where: str
    provenance: Provenance
    holds: str
    scales: list[Scale] = field(default_factory=lambda: list(SCALES))


@dataclass(frozen=True, config=CLOSED)
class Preset:
    about: str
    seeds: list[int]
    rows: dict[str, list[str]]
    thefts: dict[str, list[str]]
    scales: dict[Scale, Setting]
    numbers: list[Table] = field(default_factory=list)
    claims: list[Claim] = field(default_factory=list)

    def settings(self, scale: Scale, row: str, theft: str) -> list[str]:
        """The overrides of one trial; later ones win."""
        one = self.scales[scale]
        more = [word for name in (row, theft) for word in one.also.get(name, [])]
        return [*one.settings, *self.rows[row], *self.thefts[theft], *more]


@dataclass(frozen=True)
class Measure:
    row: str
    theft: str
    quantity: str
    point: str

    def __str__(self) -> str:
        return f"{self.row}/{self.theft}.{self.quantity}@{self.point}"


@dataclass(frozen=True)
class Number:
    """One published number. measure: None where our records hold nothing like it, and `unmeasured` says why."""

    row: str
    column: str
    value: float
    table: Table
    measure: Measure | None


@dataclass(frozen=True)
class Inequality:
    """left relation right + margin; right is 0 when None."""

    left: Measure
    relation: str
    right: Measure | None
    margin: float


def load(name: str, folders: Sequence[Path] = (CONF,)) -> tuple[str, Preset]:
    """(citation, preset). ConfigError for a name that is not there and for whatever the file says wrongly."""
    path = next((p for f in folders if (p := f / "paper" / f"{name}.yaml").is_file()), None)
    if path is None:
        raise ConfigError(
            f"there is no paper called {name!r}.{suggest(name, set(options('paper', folders)))}"
        )
    text = path.read_text(encoding="utf-8")
    try:
        preset = TypeAdapter(Preset).validate_python(parsed(text))
        check(preset)
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, p['loc']))}: {p['msg']}" for p in error.errors()[:8]]
        raise ConfigError("\n".join([f"{path}:", *lines])) from None
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None
    return text.splitlines()[0].lstrip("# "), preset


def numbers(preset: Preset) -> Iterator[Number]:
    for table in preset.numbers:
        for row, values in table.values.items():
            for (column, words), value in zip(table.columns.items(), values, strict=True):
                if value is not None:
                    measure = None if words is None else reading(words, row)
                    yield Number(row, column, value, table, measure)


def reading(words: str, row: str | None = None) -> Measure:
    """ROW/THEFT.QUANTITY@POINT; of a column, whose row stands beside it, without the first."""
    match = READING.fullmatch(words)
    if match is None or (match[1] is None) == (row is None):
        form = "ROW/THEFT.QUANTITY@POINT" if row is None else "THEFT.QUANTITY@POINT"
        raise ValueError(f"expected {form}, got {words!r}")
    if match[3] not in QUANTITIES:
        raise ValueError(f"there is no quantity {match[3]!r}; expected one of {', '.join(QUANTITIES)}")
    if match[4] not in POINTS and not re.fullmatch(r"\d+(\.\d+)?", match[4]):
        raise ValueError(f"there is no point {match[4]!r}; expected {', '.join(POINTS)} or a strength")
    return Measure(row or match[1], match[2], match[3], match[4])


def inequality(claim: Claim) -> Inequality:
    match = INEQUALITY.fullmatch(claim.holds)
    if match is None:
        raise ValueError(f"expected A <= B, A <= B + margin or A <= number, got {claim.holds!r}")
    left, relation, constant, right, sign, margin = match.groups()
    if constant is not None:
        return Inequality(reading(left), relation, None, float(constant))
    return Inequality(reading(left), relation, reading(right), float(f"{sign or ''}{margin or 0}"))


def measures(preset: Preset, scale: Scale) -> list[Measure]:
    """All that the scale reads."""
    published = [n.measure for n in numbers(preset)] if scale == "full" else []
    sides = [s for c in claims(preset, scale) for s in (inequality(c).left, inequality(c).right)]
    return [found for found in (*published, *sides) if found is not None]


def claims(preset: Preset, scale: Scale) -> list[Claim]:
    return [claim for claim in preset.claims if scale in claim.scales]


def check(preset: Preset) -> None:
    """ValueError for what the types cannot say."""
    if set(preset.scales) != set(SCALES):
        raise ValueError(f"scales: expected {' and '.join(SCALES)}, got {', '.join(preset.scales) or 'none'}")
    if not preset.seeds or len(set(preset.seeds)) != len(preset.seeds):
        raise ValueError(f"seeds: expected different seeds, got {preset.seeds}")
    both = set(preset.rows) & set(preset.thefts)
    if both:
        raise ValueError(f"{both.pop()!r} is a row and a theft")
    for table in preset.numbers:
        _check_table(table)
    for claim in preset.claims:
        inequality(claim)
    for scale in SCALES:
        found = [(m.row, m.theft) for m in measures(preset, scale)]
        if not found:
            raise ValueError(f"nothing is measured at scale={scale}; add a claim")
        _known(preset.rows, (row for row, _ in found), "rows")
        _known(preset.thefts, (theft for _, theft in found), "thefts")
        _known({**preset.rows, **preset.thefts}, preset.scales[scale].also, f"scales.{scale}.also")


def _known(names: Mapping[str, Any], asked: Iterable[str], where: str) -> None:
    unknown = sorted(set(asked) - set(names))
    if unknown:
        raise ValueError(f"{where}: there is no {unknown[0]!r}.{suggest(unknown[0], names)}")


def _check_table(table: Table) -> None:
    if not table.unmeasured and None in table.columns.values():
        raise ValueError(f"{table.where}: a column reads nothing; say why under `unmeasured`")
    for row, values in table.values.items():
        if len(values) != len(table.columns):
            raise ValueError(f"{table.where}, {row}: {len(values)} values under {len(table.columns)} columns")
    for words in filter(None, table.columns.values()):
        found = reading(words, "row")
        unit = QUANTITIES[found.quantity] or table.unit
        if table.unit != unit or found.quantity == "detected":
            raise ValueError(
                f"{table.where}: {words} is no single draw in {table.unit}; it is measured in {unit}"
            )
