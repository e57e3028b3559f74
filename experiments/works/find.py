"""Looks for a work among those of a registry, and says what the distance is worth."""

import math
from dataclasses import asdict
from typing import Any

from ...core.errors import ConfigError
from ...evidence.registry import Found, Registry
from ...evidence.works import KINDS
from .. import show
from .read import Work


def find(registry: Registry, work: Work, fpr: float, top: int) -> dict[str, Any]:
    """The nearest works, and `sentence`. found: None when there are too few strangers to say so at this rate."""
    if not 0 < fpr < 1 or top < 1:
        raise ConfigError(f"expected 0 < --fpr < 1 and --top of at least 1, got {fpr} and {top}")
    nearest = registry.find(work.print, top)
    matches = [{**asdict(match), "title": registry.entry(match.number).title} for match in nearest.matches]
    about = {"work": str(work.path), "kind": work.kind, "unit": KINDS[work.kind][1], "fpr": fpr}
    verdict = decision(nearest, fpr)
    counts = {"strangers": nearest.strangers, "compared": nearest.compared}
    return {
        **about,
        **counts,
        "found": verdict,
        "matches": matches,
        "sentence": sentence(matches, counts, verdict, fpr),
    }


def decision(found: Found, fpr: float) -> bool | None:
    """Whether the nearest entry is nearer than strangers are at this rate; None: too few strangers to say so."""
    if not found.matches:
        return False
    if found.matches[0].log10_p <= math.log10(fpr) + 1e-9:  # 1/100 is 1 %, whatever the rounding
        return True
    return None if found.strangers + 1 < 1 / fpr else False


def sentence(matches: list[dict[str, Any]], counts: dict[str, int], verdict: bool | None, fpr: float) -> str:
    """What may be concluded: a match, no match, or that nothing can be said."""
    if not matches:
        return "not found: the registry holds no work of this kind."
    first, strangers = matches[0], counts["strangers"]
    nearest = f"the nearest of {counts['compared']} is {first['title']} at {first['distance']:.3f}"
    shown = f"p = {show.p_value(first['log10_p'])} by {strangers} strangers"
    if verdict is None:
        needed = math.ceil(1 / fpr) - 1
        return (
            f"undecided: {nearest}, {shown}; a rate of {fpr:g} takes {needed} strangers, "
            "which `assay works add --stranger` adds."
        )
    return f"found: {nearest}, {shown}." if verdict else f"not found: {nearest}, {shown}."
