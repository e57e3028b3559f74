"""What `assay detectability` found of a scheme, beside its trials: runs/detectability holds a file per scheme and setting, and
runs/detect did before texts took that name.

A file speaks for the trials with the same settings of task, model and scheme, by value, and the same data of the thief: a scheme of
other bits is another one, and detectors of queries compare with what the thief has.
The number is the area under the curve of the best of its detectors, who saw weights or queries; 0.5 is a guess.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from .ranking import Record
from .store import Excluded

GROUPS = ("task", "model", "watermark")


def detectable(found: Iterable[Record | Excluded], *folders: Path) -> Iterator[Record | Excluded]:
    """The same, finished trials with `owner.detectability` where a file of the folders speaks for them; files that cannot be
    read are excluded with their reason."""
    known: dict[str, Record] = {}
    for path in (path for folder in folders for path in sorted(folder.glob("*.json"))):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            known[_key(content["config"])] = _best(content["found"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            because = f"is no output of `assay detectability` ({type(error).__name__}: {error})"
            yield Excluded(f"{path.parent.name}/{path.name}", "unreadable", because)
    for item in found:
        yield item if isinstance(item, Excluded) or not known else _told(item, known)


def _told(record: Record, known: dict[str, Record]) -> Record:
    if record["status"] != "ok" or (best := known.get(_key(record["config"]))) is None:
        return record
    return {**record, "owner": {**record["owner"], "detectability": best}}


def _best(found: list[Record]) -> Record:
    areas = [float(one["auc"]) for one in found]
    if not all(0 <= area <= 1 for area in areas):  # nan is none either
        raise ValueError(f"expected areas in [0, 1], got {areas}")
    best = max(range(len(found)), key=areas.__getitem__)
    return {"auc": areas[best], "detector": str(found[best]["detector"]), "of": len(found)}


def _key(config: Record) -> str:
    means = config.get("adversary", {})
    parts: list[Any] = [*map(config.get, GROUPS), means.get("data"), means.get("distribution")]
    return json.dumps(parts, sort_keys=True)
