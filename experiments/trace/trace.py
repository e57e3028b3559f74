"""`assay trace`: which registered model a suspect comes from. DNA ranks the registry; the committed marks of the nearest are tested
by their schemes' own score. What is not found is not found: no result says that a model comes from nowhere.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ...core.atomic import write_atomically
from ...core.errors import ConfigError
from ...core.statistics import best_of_log10_p
from ...evidence.dna import METRICS
from ...evidence.registry import Entry, Found, Registry
from ...zoo.files import load_tensors
from ..catalogue import catalogue
from ..show import p_value
from ..verify import verify
from .suspect import Suspect, about, prints, suspect

KEYS = "keys"
"""The folder of a registry's keys: private, a file each."""


@dataclass(frozen=True)
class Hit:
    """An entry near the suspect. score: the smallest of its distances, each as a share of the strangers' median; views: distance
    and log10 p by view. mark: evidence of its owner's key, p corrected for all registered keys; None without one."""

    entry: Entry
    score: float
    views: dict[str, dict[str, float]]
    mark: dict[str, Any] | None = None


def add(
    path: Path, folder: Path, title: str | None, key: Path | None, stranger: bool, words: list[str],
    config_dir: str | None = None,
) -> Entry:  # fmt: skip
    """The new entry, or the one that this file has already."""
    if key is not None and stranger:
        raise ConfigError("a stranger's key is nobody's to test: give --key or --stranger")
    registry = Registry(folder, METRICS, create=True)
    one = suspect(path, words, config_dir)
    content = about(one)
    if key is not None:
        content["key"] = _kept(key, folder, f"{KEYS}/{one.id[:32]}.safetensors")
    entry = registry.add(one.id, title or path.stem, prints(one, folder, create=True), content, stranger)
    if key is not None and "key" not in entry.about:
        (folder / content["key"]).unlink()
        raise ConfigError(f"{path} is in the registry already, without a key: entries never change")
    return entry


def _kept(key: Path, folder: Path, name: str) -> str:
    """Copies the key into the registry; ConfigError for no key, and for another one than this model has there."""
    load_tensors(key, "key")
    content, place = key.read_bytes(), folder / name
    if place.exists() and place.read_bytes() != content:
        raise ConfigError(f"this model is in the registry already, with another key than {key}")
    write_atomically(place, content, private=True)
    return name


def trace(
    path: Path, folder: Path, fpr: float, top: int, words: list[str], config_dir: str | None = None
) -> dict[str, Any]:
    """The hits, the verdict (`mark`, `dna`, `undecided`, `not found`) and a `sentence`."""
    if not 0 < fpr < 1 or top < 1:
        raise ConfigError(f"expected 0 < --fpr < 1 and --top of at least 1, got {fpr} and {top}")
    registry = Registry(folder, METRICS)
    one = suspect(path, words, config_dir)
    found = {p.view: registry.find(p, top) for p in prints(one, folder, create=False)}
    hits = marked(ranked(registry, found, top), one, folder, words, config_dir)
    entries, strangers = registry.counts()
    verdict, sentence = concluded(hits, found, fpr)
    return {
        "suspect": str(path),
        "entries": entries,
        "strangers": strangers,
        "fpr": fpr,
        "verdict": verdict,
        "sentence": f"{path}: {sentence}",
        "hits": [asdict(hit) for hit in hits],
    }


def ranked(registry: Registry, found: dict[str, Found], top: int) -> list[Hit]:
    """The nearest of each view, and then others, the nearer first: `top` of them, and no fewer than there are views."""
    views: dict[int, dict[str, dict[str, float]]] = {}
    scores: dict[int, float] = {}
    for view, nearest in found.items():
        for match in nearest.matches:
            score = match.distance / (nearest.typical or 1.0)  # 0: a registry of the suspect alone
            scores[match.number] = min(score, scores.get(match.number, math.inf))
            here = {"distance": match.distance, "log10_p": match.log10_p}
            views.setdefault(match.number, {})[view] = here
    first = {nearest.matches[0].number for nearest in found.values() if nearest.matches}
    order = sorted(scores, key=lambda number: (number not in first, scores[number], number))
    order = order[: max(top, len(first))]
    return [Hit(registry.entry(number), scores[number], views[number]) for number in order]


def marked(
    hits: Sequence[Hit], one: Suspect, folder: Path, words: list[str], config_dir: str | None
) -> list[Hit]:
    """The hits with the evidence of their owners' keys. DNA chose them, and a marked model's DNA depends on its key; so every key
    of the registry counts in the correction, tested or not."""
    keys = sum(1 for _ in (folder / KEYS).glob("*"))
    return [
        replace(hit, mark=mark_of(one.path, folder / hit.entry.about["key"], keys, words, config_dir))
        if "key" in hit.entry.about
        else hit
        for hit in hits
    ]


def mark_of(path: Path, key: Path, keys: int, words: list[str], config_dir: str | None) -> dict[str, Any]:
    """Evidence of one key; where scheme and suspect do not fit, `unread` says why and p is 1."""
    name = str(load_tensors(key, "key")[1].get("watermark", {}).get("name"))
    known = catalogue("watermark", [Path(config_dir)] if config_dir else [], nested=True).get(name, {})
    # An exact tail, or random keys, decide by themselves: no null models need be trained.
    spared = ["verification.null_models=0"] if "random_keys" in known.get("nulls", ()) else []
    try:
        found = verify(path, key, [*spared, *words], config_dir)
    except ConfigError as error:
        return {"scheme": name, "keys": keys, "log10_p": 0.0, "corrected": 0.0, "unread": str(error)}
    corrected = float(best_of_log10_p(found["log10_p"], keys))
    kept = {name: found[name] for name in ("statistic", "unit", "trials", "source", "derivation", "log10_p")}
    return {"scheme": name, "keys": keys, **kept, "corrected": corrected, "unread": None}


def concluded(hits: Sequence[Hit], found: dict[str, Found], fpr: float) -> tuple[str, str]:
    """A mark decides before DNA does. Of several views the smallest p counts times their number (Bonferroni)."""
    limit = math.log10(fpr)
    proven = [hit for hit in hits if hit.mark is not None and hit.mark["corrected"] <= limit]
    if proven:
        best = min(proven, key=lambda hit: hit.mark["corrected"] if hit.mark else 0.0)
        assert best.mark is not None
        p, keys = p_value(best.mark["corrected"]), best.mark["keys"]
        chosen = ", which its owner chose" if best.mark["derivation"] == "chosen" else ""
        return (
            "mark",
            f"consistent with a copy of {best.entry.title}: its mark is there{chosen}, p = {p} (of {keys} registered).",
        )
    compared = {view: nearest for view, nearest in found.items() if nearest.matches}
    if not compared:
        return "not found", "not found: the registry holds nothing that this model can be compared with."
    view = min(compared, key=lambda name: compared[name].matches[0].log10_p)
    first = compared[view].matches[0]
    title = next(hit.entry.title for hit in hits if hit.entry.number == first.number)
    strangers = compared[view].strangers
    p = p_value(min(first.log10_p + math.log10(len(compared)), 0))
    near = f"by its {view} {title} is nearest, p = {p} by {strangers} strangers"
    if within(first.log10_p, len(compared), fpr):
        return "dna", f"consistent with a copy of {title}: {near}; no registered mark shows it."
    needed = math.ceil(len(compared) / fpr) - 1
    if strangers < needed:
        return (
            "undecided",
            f"undecided: {near}; a rate of {fpr:g} takes {needed} (`assay trace add --stranger`).",
        )
    return "not found", f"not found: {near}."


def within(log10_p: float, views: int, fpr: float) -> bool:
    """Whether the smallest p of so many views supports the rate. 1/40 twice is 1/20, whatever the rounding of logarithms."""
    return log10_p + math.log10(views) <= math.log10(fpr) + 1e-9
