"""What a record must hold to count: the fields that a board reads, each of the kind it takes them for (docs/records.md).

A shape names fields and the types that JSON may have there, or a shape of their own; in a list, null too.
"""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

STATUSES = ("ok", "blocked", "not_applicable", "failed")
NONE = type(None)
NUMBER, PERHAPS = (float, int), (float, int, NONE)
COUNT, WORDS, NOTE = (int,), (str,), (str, NONE)
VERDICT, GROUP, GROUP_OR_NOT, SERIES = (bool, NONE), (dict,), (dict, NONE), (list,)
SAID = {
    NUMBER: "a number",
    PERHAPS: "a number or null",
    COUNT: "a whole number",
    WORDS: "words",
    NOTE: "words or null",
    VERDICT: "true, false or null",
    GROUP: "an object",
    GROUP_OR_NOT: "an object or null",
    SERIES: "a list",
}
ALWAYS = {
    "seed": COUNT,
    "id": WORDS,
    "config": GROUP,
    "choices": {"task": WORDS, "model": WORDS, "watermark": WORDS, "attack": WORDS},
}
MEASURED = {
    "owner": {"unmarked_accuracy": NUMBER, "embedding_seconds": NUMBER},
    "marked": {
        "accuracy": NUMBER,
        "statistic": PERHAPS,
        "log10_p": NUMBER,
        "detected": VERDICT,
        "fpr": NUMBER,
    },
    "controls": GROUP,
    "nulls": {"independent_models": SERIES, "random_keys": SERIES},
    "curve": SERIES,
}
"""Of records that are ok."""
POINT = {
    "strength": NUMBER,
    "accuracy": NUMBER,
    "agreement": NUMBER,
    "statistic": PERHAPS,
    "log10_p": NUMBER,
    "detected": VERDICT,
    "trials": PERHAPS,
    "random_keys": GROUP_OR_NOT,
    "independent_models": GROUP_OR_NOT,
    "cost": {"seconds": PERHAPS, "queries": NUMBER, "examples": NUMBER, "steps": NUMBER},
}
"""Of a curve."""
CLONE = {"fidelity": NUMBER, "accuracy": NUMBER, "queries": NUMBER, "log10_p": NUMBER, "detected": VERDICT}
WHERE_THERE = {
    "finished": NOTE,
    "overrides": SERIES,
    "spent": GROUP,
    "declared": {"watermark": GROUP, "attack": GROUP},
    "size": [{"cells": COUNT, "claims": COUNT}],
    "deployment": [
        {
            "accounts": COUNT,
            "licensed": (bool,),
            "simulation": NOTE,
            "stopped": NOTE,
            "clone": [CLONE],
            "alarm": [{"queries": PERHAPS}],
            "benign": [{"kinds": GROUP}],
            "utility": GROUP_OR_NOT,
        }
    ],
}
"""Of records that have them: older ones lack some."""

Record = dict[str, Any]


def faults(record: Record) -> Iterator[str]:
    """What the board would look for and not find. Take the first: those behind it may rest on what it says is missing."""
    if record.get("status") not in STATUSES:
        yield f"expected `status` to be one of {', '.join(STATUSES)}, got {record.get('status')!r}"
    yield from _unlike({"seed": None, **record}, ALWAYS)
    yield from _unlike(record, {name: kind for name, kind in WHERE_THERE.items() if name in record})
    yield from _odd_words(record)
    if record.get("status") != "ok":
        return
    yield from _unlike(record, MEASURED)
    yield from _unlike(
        record["controls"], {n: [{"detected": VERDICT}] for n in record["controls"]}, "controls."
    )
    if not record["curve"]:
        yield "its `curve` is empty"
    for i, point in enumerate(record["curve"]):
        yield from (
            _unlike(point, POINT, f"curve.{i}.") if isinstance(point, dict) else (f"it has no `curve.{i}`",)
        )


def _odd_words(record: Record) -> Iterator[str]:
    """Lists and groups of words that hold something else, and a time that is none."""
    for name, values in (("choices", record["choices"].values()), ("overrides", record.get("overrides", ()))):
        if odd := [value for value in values if not isinstance(value, str)]:
            yield f"expected `{name}` to hold words, got {odd[0]!r}"
    try:
        datetime.fromisoformat(record.get("finished") or "2026-01-01")
    except ValueError:
        yield f"expected `finished` to be a time of ISO 8601, got {record['finished']!r}"


def _unlike(found: Record, shape: Mapping[str, Any], where: str = "") -> Iterator[str]:
    for name, kind in shape.items():
        if name not in found:
            yield f"it has no `{where}{name}`"
        elif isinstance(kind, tuple):  # type(), for a bool is an int
            if type(found[name]) not in kind:
                yield f"expected `{where}{name}` to be {SAID.get(kind, 'true or false')}, got {found[name]!r}"
        elif isinstance(kind, list):
            if found[name] is not None:
                yield from _unlike(found, {name: kind[0]}, where)
        elif isinstance(found[name], dict):
            yield from _unlike(found[name], kind, f"{where}{name}.")
        else:
            yield f"it has no `{where}{name}`"
