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
LARGEST = 1e100
"""No trial measures more, and sums and squares of it stay numbers."""
Number = Annotated[float, Field(ge=-LARGEST, le=LARGEST)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0, le=2**53)]
Log10P = Annotated[float, Field(ge=-LARGEST, le=0)]


def _chosen(choices: dict[str, str]) -> dict[str, str]:
    if missing := [axis for axis in AXES if axis not in choices]:
        raise ValueError(f"has no {missing[0]}")
    return choices


def _time(text: str) -> str:
    try:
        datetime.fromisoformat(text).timestamp()
    except OverflowError as error:
        raise ValueError(error) from None
    return text


def _within(part: str, whole: str) -> AfterValidator:
    def check(counts: dict[str, int]) -> dict[str, int]:
        if counts[part] > counts[whole]:
            raise ValueError(f"expected `{part}` to be at most `{whole}`, {counts[whole]}")
        return counts

    return AfterValidator(check)


class Scheme(TypedDict, total=False):
    family: str
    reads: str
    derivation: str
    paper: str


class Declared(TypedDict):
    watermark: Scheme
    attack: Group


class Spent(TypedDict, total=False):
    seconds: Number | None


class Size(TypedDict):
    cells: Count
    claims: Count


class Clone(TypedDict):
    fidelity: Share
    accuracy: Share
    queries: Number
    log10_p: Log10P
    detected: bool | None


class Alarm(TypedDict):
    queries: Number | None


class Customers(TypedDict):
    customers: Annotated[int, Field(ge=1, le=2**53)]
    alarmed: Count


class Benign(TypedDict):
    kinds: dict[str, Annotated[Customers, _within("alarmed", "customers")]]


class Deployment(TypedDict):
    accounts: Count
    licensed: bool
    simulation: str | None
    stopped: str | None
    clone: Clone | None
    alarm: Alarm | None
    benign: Benign | None
    utility: Group | None


class Part(TypedDict):
    _target_: str


class Reached(TypedDict):
    grants: list[str]
    defences: NotRequired[dict[str, Part] | None]
    monitor: NotRequired[Part | None]


class Config(TypedDict, total=False):
    adversary: Group
    deployment: Reached


class Every(TypedDict):
    """Older records lack some."""

    id: str
    seed: int
    status: Status
    config: Config
    choices: Annotated[dict[str, str], AfterValidator(_chosen)]
    finished: NotRequired[Annotated[str, AfterValidator(_time)] | None]
    overrides: NotRequired[list[str]]
    options: NotRequired[dict[str, str] | None]
    reason: NotRequired[str | None]
    traceback: NotRequired[str | None]
    spent: NotRequired[Spent]
    declared: NotRequired[Declared]
    size: NotRequired[Annotated[Size, _within("claims", "cells")] | None]
    deployment: NotRequired[Deployment | None]


class Verification(TypedDict, total=False):
    queries: Number | None
    seconds: Number | None


class Detectability(TypedDict, total=False):
    auc: Share | None


class Owner(TypedDict):
    unmarked_accuracy: Share
    embedding_seconds: Number
    verification: NotRequired[Verification | None]
    detectability: NotRequired[Detectability | None]


class Beyond(TypedDict):
    count: Count
    exceed: Count


Null = Annotated[Beyond, _within("exceed", "count")]


class Decided(TypedDict):
    source: NotRequired[str]
    random_keys: NotRequired[Null | None]
    independent_models: NotRequired[Null | None]
    rivals: NotRequired[Null | None]


class Message(TypedDict):
    bits: Count
    accuracy: Share


class Marked(Decided):
    accuracy: Share
    answered: NotRequired[Share]
    statistic: Number | None
    log10_p: Log10P
    detected: bool | None
    fpr: Share
    message: NotRequired[Message | None]


class Control(Decided):
    detected: bool | None


class Nulls(TypedDict):
    independent_models: list[Number | None]
    random_keys: list[Number | None]
    rivals: NotRequired[list[Number | None]]


class Cost(TypedDict):
    seconds: Number | None
    queries: Number
    examples: Number
    steps: Number


class Seen(TypedDict):
    accuracy: Share
    marked: Share


class Point(Decided):
    strength: Number
    accuracy: Share
    agreement: Share
    statistic: Number | None
    log10_p: Log10P
    detected: bool | None
    trials: Number | None
    message: NotRequired[Message | None]
    seen: NotRequired[Seen | None]
    cost: Cost


class Measured(Every):
    """A record that is ok."""

    owner: Owner
    marked: Marked
    controls: dict[str, Control | None]
    nulls: Nulls
    curve: Annotated[list[Point], Field(min_length=1)]


@cache
def _checks(measured: bool) -> TypeAdapter[Any]:
    return TypeAdapter(Measured if measured else Every)


def faults(record: dict[str, Any]) -> Iterator[str]:
    """What the board would look for and not find, and what it would find of another kind."""
    measured = record.get("status") == "ok" or not record.keys().isdisjoint(("curve", "nulls"))
    try:
        _checks(measured).validate_python(record, strict=True)
    except ValidationError as error:
        for fault in error.errors(include_url=False):
            where, says = ".".join(map(str, fault["loc"])), fault["msg"].removeprefix("Value error, ")
            missing = fault["type"] == "missing"
            yield f"it has no `{where}`" if missing else f"`{where}`: {says}, got {fault['input']!r:.80}"
