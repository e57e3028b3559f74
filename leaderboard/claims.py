"""Claims for the page (claims/<scheme>-<year>.json): what was reported of a scheme beside what `assay claim verify` measured.

The file's form is checked by experiments/claim/claim.py; here only what is shown must be there, and what is not there is
excluded with its reason.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .ranking import Record
from .store import Excluded, parsed

NEEDED = {"scheme": str, "settings": list, "seeds": list, "numbers": list, "best_known_attack": dict}
SHOWN = ("reads", "reported", "where", "provenance")
MEASURED = ("mean", "low", "high", "verdict", "because")


def claims_in(folder: Path) -> tuple[list[Record], list[Excluded]]:
    """Those that can be shown, by name, and the files that cannot; neither where there is no folder."""
    found, bad = [], []
    for path in sorted(folder.glob("*.json")):
        try:
            content = parsed(path.read_bytes())
            problem = next(_problems(content), None)
        except (ValueError, RecursionError) as error:
            content, problem = {}, f"is no JSON ({error})"
        except OSError as error:
            content, problem = {}, f"cannot be read ({error.strerror})"
        if problem is None:
            found.append(_shown(path.stem, content))
        else:
            bad.append(Excluded(f"{folder.name}/{path.name}", "claim", problem))
    return found, bad


def _problems(content: Any) -> Iterator[str]:
    if not isinstance(content, dict):
        yield "is no object"
        return
    for name, kind in NEEDED.items():
        if not isinstance(content.get(name), kind) or not content[name]:
            yield f"has no `{name}`"
    numbers = [*content["numbers"], content["best_known_attack"]]
    if not all(isinstance(number, dict) and isinstance(number.get("reads"), str) for number in numbers):
        yield "has a number that does not say what it reads"
    if len({number["reads"] for number in numbers}) < len(numbers):
        yield "has two numbers that read the same"
    if not all(isinstance(word, str) for word in content["settings"]):
        yield "has settings that are no words"
    yield from _stale(content, numbers)


def _stale(content: Record, numbers: list[Record]) -> Iterator[str]:
    """How what was measured does not fit what is named now."""
    remeasured = content.get("remeasured")
    if remeasured is None:
        return
    if not isinstance(remeasured, dict):
        yield "has `remeasured` that is no object; verify it again"
    if remeasured.get("seeds") != content["seeds"]:
        yield f"was measured over seeds {remeasured.get('seeds')}, and names {content['seeds']}; verify it again"
    measured = remeasured.get("numbers")
    known = (
        {name for name, one in measured.items() if isinstance(one, dict)}
        if isinstance(measured, dict)
        else set()
    )
    if missing := [number["reads"] for number in numbers if number["reads"] not in known]:
        yield f"was measured before it named {', '.join(missing)}; verify it again"


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
