"""What the page is told: every record, shortened, and the ranking. Parts that many records share are sent once."""

import json
import shlex
from collections.abc import Iterable
from typing import Any

from .ranking import BOARD, BUDGET, CONTROL, OUTCOMES, Record, board_of, labelled, losses, outcome, ranking

OWN = ("id", "seed", "choices", "status", "reason", "traceback", "finished")
SHARED = ("scheme", "attack", "owner", "marked", "controls", "nulls", "settings", "environment")
"""Fields of a record that are indices into the pool: a scheme's controls are the same under each of its attacks."""


def view(records: Iterable[Record]) -> Record:
    """The page's data. boards: one per class of trials, with a ranking over all seeds and one for each."""
    records = sorted(map(labelled, records), key=lambda record: str(record["id"]))
    pool = Pool()
    boards = sorted({board_of(record) for record in records})
    return {
        "budget_pp": 100 * BUDGET,
        "control": CONTROL,
        "outcomes": OUTCOMES,
        "axes": BOARD,
        "boards": [_board(names, [r for r in records if board_of(r) == names]) for names in boards],
        "records": [_record(record, boards.index(board_of(record)), pool) for record in records],
        "shared": SHARED,
        "pool": [json.loads(text) for text in pool.texts],
    }


class Pool:
    """Values, each once, in the order of first use."""

    def __init__(self) -> None:
        self.texts: dict[str, int] = {}

    def put(self, value: Any) -> int:
        text = json.dumps(value, sort_keys=True)
        return self.texts.setdefault(text, len(self.texts))


def _board(names: tuple[str, ...], records: list[Record]) -> Record:
    seeds = sorted({record["seed"] for record in records})
    by_seed = {str(seed): ranking(r for r in records if r["seed"] == seed) for seed in seeds}
    return {"names": names, "seeds": seeds, "rows": rounded({"all": ranking(records), **by_seed})}


def _record(record: Record, board: int, pool: Pool) -> Record:
    result, weakest = outcome(record)
    done = record["status"] == "ok"
    declared = record.get("declared", {})
    parts = {
        "scheme": declared.get("watermark"),
        "attack": declared.get("attack"),
        "settings": settings(record.get("config", {})),
        "environment": record.get("environment"),
        **{name: record.get(name) for name in ("owner", "marked", "controls")},
        "nulls": {name: spread(values) for name, values in record.get("nulls", {}).items()},
    }
    curve = [_point(p, loss) for p, loss in zip(record["curve"], losses(record), strict=True)] if done else []
    own = {name: record.get(name) for name in OWN}
    own |= {"board": board, "outcome": result, "weakest": weakest, "curve": curve, "command": command(record)}
    shown: Record = rounded({**own, **{name: pool.put(rounded(parts[name])) for name in SHARED}})
    return shown


def _point(point: Record, loss: float) -> Record:
    """One surrogate. Unit, trials and rate are those of the marked model."""
    names = ("strength", "accuracy", "agreement", "statistic", "log10_p", "detected", "cost")
    nulls = {name: point.get(name) for name in ("random_keys", "independent_models")}
    exceed = {name: f"{null['exceed']} of {null['count']}" for name, null in nulls.items() if null}
    return {**{name: point.get(name) for name in names}, "loss_pp": 100 * loss, "exceed": exceed}


def command(record: Record) -> str:
    """What runs this trial again: its options, seed and overrides."""
    parts = [f"{axis}={option}" for axis, option in (record.get("options") or record["choices"]).items()]
    return shlex.join(["assay", "run", *parts, f"seed={record['seed']}", *record.get("overrides", [])])


def settings(config: Any, name: str = "") -> list[list[str]]:
    """The leaves of the resolved configuration, as dotted names and JSON values."""
    if isinstance(config, dict) and config:
        return [
            leaf
            for key, value in config.items()
            for leaf in settings(value, f"{name}.{key}" if name else str(key))
        ]
    return [[name, json.dumps(config)]] if name else []


def spread(values: list[float | None]) -> Record:
    """Count and range of null scores; an unreadable suspect has none."""
    read = [value for value in values if value is not None]
    return {"count": len(values), "lowest": min(read, default=None), "highest": max(read, default=None)}


def rounded(value: Any) -> Any:
    """Seven digits are more than any count, accuracy or p here has, and make the page a third smaller."""
    if isinstance(value, float):
        return int(value) if value.is_integer() else float(f"{value:.7g}")
    if isinstance(value, dict):
        return {name: rounded(item) for name, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, (list, tuple)) else value
