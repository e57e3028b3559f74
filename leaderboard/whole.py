"""What a record must hold to count: the fields that a board reads, each of the kind it takes them for (docs/records.md)."""

from collections.abc import Iterator
from datetime import datetime
from functools import cache
from typing import Annotated, Any, Literal, NotRequired

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

Status = Literal["ok", "blocked", "not_applicable", "failed"]
Group = dict[str, Any]
AXES = ("task", "model", "watermark", "attack")


def _chosen(choices: dict[str, str]) -> dict[str, str]:
    if missing := [axis for axis in AXES if axis not in choices]:
        raise ValueError(f"has no {missing[0]}")
    return choices


def _time(text: str) -> str:
    datetime.fromisoformat(text)
    return text


class Declared(TypedDict):
    watermark: Group
    attack: Group


class Size(TypedDict):
    cells: int
    claims: int


class Clone(TypedDict):
    fidelity: float
    accuracy: float
    queries: float
    log10_p: float
    detected: bool | None


class Alarm(TypedDict):
    queries: float | None


class Benign(TypedDict):
    kinds: Group


class Deployment(TypedDict):
    accounts: int
    licensed: bool
    simulation: str | None
    stopped: str | None
    clone: Clone | None
    alarm: Alarm | None
    benign: Benign | None
    utility: Group | None


class Every(TypedDict):
    """Older records lack some."""

    id: str
    seed: int
    status: Status
    config: Group
    choices: Annotated[dict[str, str], AfterValidator(_chosen)]
    finished: NotRequired[Annotated[str, AfterValidator(_time)] | None]
    overrides: NotRequired[list[str]]
    spent: NotRequired[Group]
    declared: NotRequired[Declared]
    size: NotRequired[Size | None]
    deployment: NotRequired[Deployment | None]


class Owner(TypedDict):
    unmarked_accuracy: float
    embedding_seconds: float


class Marked(TypedDict):
    accuracy: float
    statistic: float | None
    log10_p: float
    detected: bool | None
    fpr: float


class Control(TypedDict):
    detected: bool | None


class Nulls(TypedDict):
    independent_models: list[Any]
    random_keys: list[Any]


class Cost(TypedDict):
    seconds: float | None
    queries: float
    examples: float
    steps: float


class Point(TypedDict):
    strength: float
    accuracy: float
    agreement: float
    statistic: float | None
    log10_p: float
    detected: bool | None
    trials: float | None
    random_keys: Group | None
    independent_models: Group | None
    cost: Cost


class Measured(Every):
    """A record that is ok."""

    owner: Owner
    marked: Marked
    controls: dict[str, Control | None]
    nulls: Nulls
    curve: Annotated[list[Point], Field(min_length=1)]


@cache
def _checks(ok: bool) -> TypeAdapter[Any]:
    return TypeAdapter(Measured if ok else Every)


def faults(record: dict[str, Any]) -> Iterator[str]:
    """What the board would look for and not find, and what it would find of another kind."""
    try:
        _checks(record.get("status") == "ok").validate_python(record, strict=True)
    except ValidationError as error:
        for fault in error.errors(include_url=False):
            where, says = ".".join(map(str, fault["loc"])), fault["msg"].removeprefix("Value error, ")
            missing = fault["type"] == "missing"
            yield f"it has no `{where}`" if missing else f"`{where}`: {says}, got {fault['input']!r:.80}"
