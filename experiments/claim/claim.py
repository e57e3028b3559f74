"""Claims: what a submission reports of a scheme (claims/<scheme>-<year>.json), beside what we measure, as RobustBench does it.

A file names trials (lists of overrides), seeds, and numbers that are read from their records, TRIAL.QUANTITY@POINT as in a
paper's preset (paperpreset.py). `best_known_attack` is the number under the attack that does worst by the scheme, whoever
found it; its reported number may be null. `remeasured` is written by `assay claim verify --write`, never by hand.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, field
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from ...core.atomic import write_atomically
from ...core.errors import ConfigError
from ..config import options, suggest
from ..paper.judge import ENOUGH
from ..paper.preset import CLOSED, POINTS, QUANTITIES, READING, Measure, Provenance

SCHEMA = 1
ELSEWHERE = {
    "watermark": "`scheme` names it",
    "seed": "`seeds` names them",
    "force": "what has run stays",
    "paths": "`--runs` says where",
}
"""What no setting of a claim chooses, and why."""
CHOICE = re.compile(r"\s*[+~]*(?:[^=@]*@)?(watermark(?=[=@]|\._target_|\s|$)|(?:seed|force|paths)\b)")
Verdict = Literal["verified", "differs", "failed", "measured"]


@dataclass(frozen=True, config=CLOSED)
class Reported:
    """reads: TRIAL.QUANTITY@POINT, in the quantity's unit (percentages: 0 to 100). reported: null where nobody published one.
    runs: of a share of detected thefts, how many runs it was counted over. where: table, section or link."""

    reads: str
    reported: float | None
    where: str
    provenance: Provenance
    runs: int | None = None


@dataclass(frozen=True, config=CLOSED)
class Found:
    """values: per seed, in the order of the seeds. low, high: the 95 % prediction interval; null where no seed differs."""

    values: list[float]
    mean: float | None
    low: float | None
    high: float | None
    verdict: Verdict
    because: str = ""


@dataclass(frozen=True, config=CLOSED)
class Remeasured:
    """numbers: by what they read. commit: of Assay, with a + when there were changes."""

    verdict: Verdict
    seeds: list[int]
    finished: str
    commit: str
    numbers: dict[str, Found]


@dataclass(frozen=True, config=CLOSED)
class Claim:
    """settings: overrides of every trial, task and model among them. differs: how this setting differs from the one in which the
    numbers were reported; empty where it does not."""

    schema: Literal[1]
    scheme: str
    year: int
    paper: str
    differs: str
    settings: list[str]
    trials: dict[str, list[str]]
    seeds: list[int]
    numbers: list[Reported]
    best_known_attack: Reported
    remeasured: Remeasured | None = field(default=None)

    @property
    def all_numbers(self) -> list[Reported]:
        return [*self.numbers, self.best_known_attack]


def load(path: Path) -> Claim:
    """ConfigError for whatever the file says wrongly: what was expected where, and what came."""
    if not path.is_file():
        raise ConfigError(f"there is no claim {path}; expected claims/<scheme>-<year>.json")
    try:
        claim = TypeAdapter(Claim).validate_json(path.read_bytes(), strict=True)
    except ValidationError as error:
        lines = [f"  {'.'.join(map(str, p['loc'])) or 'the file'}: {_said(p)}" for p in error.errors()[:8]]
        raise ConfigError(
            "\n".join([f"{path} is no claim (`assay claim schema` shows one):", *lines])
        ) from None
    problems = list(_problems(claim, path))
    if problems:
        raise ConfigError("\n".join([f"{path}:", *(f"  {problem}" for problem in problems[:8])]))
    return claim


def _said(problem: Any) -> str:
    came = "" if isinstance(problem["input"], dict | list) else f", got {problem['input']!r}"
    return f"{problem['msg']}{came}"


def _problems(claim: Claim, path: Path) -> Sequence[str]:
    """What the types cannot say."""
    found = []
    if path.name != f"{claim.scheme}-{claim.year}.json":
        found.append(f"expected the file to be called {claim.scheme}-{claim.year}.json, got {path.name}")
    if claim.scheme not in (known := options("watermark")):
        found.append(f"there is no watermark called {claim.scheme!r}.{suggest(claim.scheme, known)}")
    if len(set(claim.seeds)) < max(ENOUGH, len(claim.seeds)):
        found.append(f"seeds: expected at least {ENOUGH} different ones, got {claim.seeds}")
    for axis in ("task", "model"):
        if not any(word.startswith(f"{axis}=") for word in claim.settings):
            found.append(f"settings: expected {axis}=NAME among them, got {claim.settings}")
    found += _chosen(claim)
    for reads, count in Counter(number.reads for number in claim.all_numbers).items():
        if count > 1:
            found.append(
                f"{reads}: expected one number to read it, got {count}; keep one, `best_known_attack` or another"
            )
    for number in claim.all_numbers:
        found += _reading(number, claim.trials)
    return found


def _chosen(claim: Claim) -> Iterator[str]:
    """Words that would measure something else than the file says."""
    places = {"settings": claim.settings, **{f"trials.{name}": words for name, words in claim.trials.items()}}
    for place, words in places.items():
        for word in words:
            if match := CHOICE.match(word):
                why = ELSEWHERE[match[1]]
                yield f"{place}: expected no `{match[1]}` ({why}), got {word!r}; remove it"


def _reading(number: Reported, trials: Mapping[str, Any]) -> list[str]:
    match = READING.fullmatch(number.reads)
    if match is None or match[1]:
        return [f"reads: expected TRIAL.QUANTITY@POINT, got {number.reads!r}"]
    _, trial, quantity, point = match.groups()
    found = []
    if trial not in trials:
        found.append(f"{number.reads}: there is no trial {trial!r}.{suggest(trial, trials)}")
    if quantity not in QUANTITIES:
        found.append(f"{number.reads}: there is no quantity {quantity!r}.{suggest(quantity, QUANTITIES)}")
    if point not in POINTS and not point.replace(".", "", 1).isdigit():
        found.append(f"{number.reads}: expected a strength or one of {', '.join(POINTS)}, got {point!r}")
    if quantity == "detected" and number.reported is not None:
        hits = None if number.runs is None else number.reported * number.runs / 100
        if hits is None or not 0 <= round(hits) <= (number.runs or 0) or abs(hits - round(hits)) > 0.05:
            found.append(
                f"{number.reads}: expected `runs`, of which {number.reported:g} % is a whole number; got {number.runs}"
            )
    return found


def measure_of(number: Reported) -> Measure:
    match = READING.fullmatch(number.reads)
    assert match is not None
    return Measure("", *match.groups()[1:])


def schema_text() -> str:
    """The JSON Schema of a claim file."""
    return json.dumps(TypeAdapter(Claim).json_schema(), indent=1)


def save(path: Path, claim: Claim) -> None:
    text = json.dumps(asdict(claim), indent=1, ensure_ascii=False, allow_nan=False)
    write_atomically(path, (text + "\n").encode())
