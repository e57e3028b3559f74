"""Claims for the page (claims/<scheme>-<year>.json): what was reported of a scheme beside what `assay claim verify` measured.

The file's form is checked by experiments/claim/claim.py; here only what is shown must be there, and what is not there is
excluded with its reason.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .ranking import Record
from .store import Excluded

NEEDED = ("scheme", "settings", "seeds", "numbers", "best_known_attack")
SHOWN = ("reads", "reported", "where", "provenance")
MEASURED = ("mean", "low", "high", "verdict", "because")


def claims_in(folder: Path) -> tuple[list[Record], list[Excluded]]:
    """Those that can be shown, by name, and the files that cannot; neither where there is no folder."""
    found, bad = [], []
    for path in sorted(folder.glob("*.json")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            problem = next(_problems(content), None)
        except ValueError as error:
            content, problem = {}, f"is no JSON ({error})"
        if problem is None:
            found.append(_shown(path.stem, content))
        else:
            bad.append(Excluded(f"{folder.name}/{path.name}", "claim", problem))
    return found, bad


def _problems(content: Any) -> Iterator[str]:
    if not isinstance(content, dict):
        yield "is no object"
        return
    yield from (f"has no `{name}`" for name in NEEDED if not content.get(name))
    remeasured = content.get("remeasured")
    if remeasured is None:
        return
    if remeasured.get("seeds") != content["seeds"]:
        yield f"was measured over seeds {remeasured.get('seeds')}, and names {content['seeds']}; verify it again"
    reads = [number.get("reads") for number in (*content["numbers"], content["best_known_attack"])]
    missing = [name for name in reads if name not in remeasured.get("numbers", {})]
    if missing:
        yield f"was measured before it named {', '.join(map(str, missing))}; verify it again"


def _shown(name: str, content: Record) -> Record:
    remeasured = content.get("remeasured") or {}
    settings = dict(word.split("=", 1) for word in content["settings"] if "=" in word)
    numbers = [*content["numbers"], content["best_known_attack"]]

    def beside(number: Record) -> Record:
        one = remeasured.get("numbers", {}).get(number["reads"], {})
        return {**{n: number.get(n) for n in SHOWN}, **{n: one.get(n) for n in MEASURED}}

    return {
        "name": name,
        "scheme": content["scheme"],
        "task": settings.get("task"),
        "model": settings.get("model"),
        "paper": content.get("paper"),
        "differs": content.get("differs"),
        "seeds": len(content["seeds"]),
        "verdict": remeasured.get("verdict", "not measured"),
        "numbers": [beside(number) for number in numbers],
    }
