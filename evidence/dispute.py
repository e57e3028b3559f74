"""A dispute as a judge hears it: marks against models, controls beside them, three possible outcomes.

The judge makes the keys again from what was committed and from R1; what an accuser says his triggers are is never read. Every mark
is tested in the suspect, in each deposited model, and in independent ones; the suspect answers one shuffled stream of triggers,
decoys and ordinary inputs. Tests are at alpha / m for m keys deposited by anybody. "Inconclusive" is an answer.

Counter-claims are settled by the deposited models: a thief's copy holds the owner's mark, and the owner's model not the thief's.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import Tensor, nn

from ..core.contracts import Task, Watermark
from ..core.errors import ConfigError
from ..core.key import Key
from ..core.secret import Secret
from ..core.suspects import Suspects
from .deposit import log10_corrected
from .stream import asked

INDEPENDENT, DECOYS = 5, 20
"""The fewest independent models, and the keys of nobody that the suspect is asked about too."""
CONSISTENT, NOTHING, INCONCLUSIVE = "consistent with the claim", "no evidence for the claim", "inconclusive"
COUNTER = "consistent with the counter-claim"
Labels = Callable[[Tensor], Tensor]
"""A suspect that is only asked: inputs (N, ...) -> classes (N,), -1 where it refuses."""


@dataclass(frozen=True)
class Party:
    """Who claims. key: made again by the judge. deposited: the model of the party's second deposit, None when it is not shown. The
    entries are the places of both deposits in the log `origin`. declared: the rate of the key's deposit; each mark is tested at
    its own party's where that is below the judge's, for a rival who declares 1e-300 must not silence the other's mark."""

    name: str
    scheme: Watermark
    key: Key
    origin: str
    key_entry: int
    deposited: nn.Module | None = None
    model_entry: int | None = None
    declared: float = 1.0


@dataclass(frozen=True)
class Test:
    """One mark in one model. cut: log10 (alpha / m), alpha the lower of the judge's rate and the party's."""

    __test__ = False  # pytest: not a test of ours

    mark: str
    model: str
    statistic: float | None
    trials: int | None
    unit: str
    log10_p: float
    cut: float
    passes: bool


@dataclass(frozen=True)
class Rules:
    """alpha: the highest rate that the judge accepts. draws: m. judge: the judge's own secret, drawn for this hearing."""

    alpha: float
    draws: int
    judge: Secret

    def cut(self, party: Party) -> float:
        return log10_corrected(min(self.alpha, party.declared), self.draws)


@dataclass(frozen=True)
class Hearing:
    """Everything that was found; no secrets. alpha, draws: as in Rules. refused: (refused, asked) of each mark's triggers and of
    the controls."""

    outcome: str
    why: str
    alpha: float
    draws: int
    tests: tuple[Test, ...]
    independents: int
    decoys: int
    refused: dict[str, tuple[int, int]]
    precedence: str | None = None

    def plain(self) -> dict[str, Any]:
        return asdict(self)


def hear(
    suspect: nn.Module | Labels,
    claimant: Party,
    rival: Party | None,
    independents: Sequence[nn.Module],
    task: Task,
    rules: Rules,
) -> Hearing:
    """suspect: a model, or a way to ask one. independents: at least 5 models trained without either mark. ConfigError for parties
    or models that cannot be judged."""
    parties = [claimant] if rival is None else [claimant, rival]
    _admit(parties, independents)
    tests: list[Test] = []
    refused: dict[str, tuple[int, int]] = {}
    for party in parties:
        found, refused[f"{party.name}'s triggers"], controls = _in_suspect(party, suspect, task, rules)
        tests += [*found, *_in_models(party, parties, independents, rules)]
        before = refused.get("controls", (0, 0))
        refused["controls"] = (before[0] + controls[0], before[1] + controls[1])
    precedence, order = _precedence(tests, parties)
    outcome, why = _decided(tests, parties, refused, precedence, order)
    return Hearing(
        outcome, why, rules.alpha, rules.draws, tuple(tests), len(independents), DECOYS, refused, precedence
    )


def _admit(parties: Sequence[Party], independents: Sequence[nn.Module]) -> None:
    if len(independents) < INDEPENDENT:
        raise ConfigError(
            f"a hearing needs at least {INDEPENDENT} independent models, got {len(independents)}; set --independent"
        )
    for party in parties:
        if party.scheme.derivation != "derived" or "random_keys" not in party.scheme.nulls:
            raise ConfigError(
                f"the {party.name}'s scheme lets its owner choose keys, so a claim can be made up; a hearing takes derived ones "
                "alone (derivation=derived)"
            )


def _in_suspect(
    party: Party, suspect: nn.Module | Labels, task: Task, rules: Rules
) -> tuple[list[Test], tuple[int, int], tuple[int, int]]:
    """The mark and the decoys in the suspect; refusals among the triggers, and among decoys and ordinary inputs."""
    decoys = [
        party.scheme.keygen(task, Secret(rules.judge.derive(f"decoy/{party.name}/{i}", 32)), party.deposited)
        for i in range(DECOYS)
    ]
    keys = [party.key, *decoys]
    answered: nn.Module
    if party.scheme.reads == "labels":
        order = Secret(
            rules.judge.derive(f"stream/{party.name}", 32)
        )  # or one party's places would tell the other's
        replay = asked(suspect, party.scheme, keys, task, order)
        answered, triggers, controls = replay.answers, replay.triggers, replay.controls
    else:
        answered, triggers, controls = _whole(suspect, party), (0, 0), (0, 0)
    found = _tests(party, ["suspect"], [answered], [party.key], rules)
    others = _tests(party, ["suspect"], [answered], decoys, rules)
    worst = min(others, key=lambda test: test.log10_p)
    return [*found, replace(worst, mark=f"most extreme of {DECOYS} decoys")], triggers, controls


def _whole(suspect: nn.Module | Labels, party: Party) -> nn.Module:
    if not isinstance(suspect, nn.Module):
        raise ConfigError(
            f"the {party.name}'s scheme reads {party.scheme.reads}, and the suspect only answers labels"
        )
    return suspect


def _in_models(
    party: Party, parties: Sequence[Party], independents: Sequence[nn.Module], rules: Rules
) -> list[Test]:
    """The mark in each deposited model, and the most extreme of the independent ones."""
    shown = [(f"{one.name}'s deposited model", one.deposited) for one in parties if one.deposited is not None]
    names = [name for name, _ in shown]
    found = _tests(party, names, [model for _, model in shown], [party.key], rules)
    free = _tests(party, ["independent"] * len(independents), independents, [party.key], rules)
    worst = min(free, key=lambda test: test.log10_p)
    return [*found, replace(worst, model=f"most extreme of {len(free)} independent models")]


def _tests(
    party: Party, names: Sequence[str], models: Sequence[nn.Module], keys: Sequence[Key], rules: Rules
) -> list[Test]:
    if not models:
        return []
    try:
        scores = party.scheme.score(Suspects(models), keys)
    except ValueError as error:
        raise ConfigError(f"the {party.name}'s mark cannot be read: {error}") from None
    if scores.log10_p_MK is None:
        raise ConfigError(f"the {party.name}'s scheme has no exact tail, which a hearing needs")
    return [
        Test(
            mark=f"{party.name}'s mark",
            model=name,
            statistic=None if math.isnan(scores.statistic_MK[m, k]) else float(scores.statistic_MK[m, k]),
            trials=scores.trials,
            unit=scores.unit,
            log10_p=float(scores.log10_p_MK[m, k]),
            cut=rules.cut(party),
            passes=bool(scores.log10_p_MK[m, k] <= rules.cut(party)),
        )
        for m, name in enumerate(names)
        for k in range(len(keys))
    ]


def passes(tests: Sequence[Test], mark: str, model: str) -> bool | None:
    """None when it was not tested."""
    return next((test.passes for test in tests if (test.mark, test.model) == (f"{mark}'s mark", model)), None)


def _precedence(tests: Sequence[Test], parties: Sequence[Party]) -> tuple[str | None, str]:
    """Whose mark is in the other's deposited model, and not the other way round; and why."""
    if len(parties) < 2:
        return None, ""
    one, other = parties
    there = passes(tests, one.name, f"{other.name}'s deposited model")
    back = passes(tests, other.name, f"{one.name}'s deposited model")
    if there is None or back is None:
        return None, "A deposited model was not shown, so the two marks cannot be ordered."
    if there == back:
        return None, f"{'Each' if there else 'Neither'} mark is in the other's deposited model."
    first, second = (one, other) if there else (other, one)
    if (
        first.origin == second.origin
        and second.model_entry is not None
        and second.model_entry < first.key_entry
    ):
        return (
            None,
            f"The {first.name}'s mark is in a model that was deposited before that mark could be known.",
        )
    return first.name, (
        f"The {first.name}'s mark is in the model that the {second.name} deposited, and not the other way round: "
        f"the {second.name}'s deposited model is consistent with a copy of the {first.name}'s."
    )


def _decided(
    tests: Sequence[Test],
    parties: Sequence[Party],
    refused: dict[str, tuple[int, int]],
    precedence: str | None,
    order: str,
) -> tuple[str, str]:
    claimant = parties[0]
    void = _void(tests, claimant)
    if void:
        return INCONCLUSIVE, void
    if not passes(tests, claimant.name, "suspect"):
        return _nothing(refused[f"{claimant.name}'s triggers"][0])
    if len(parties) == 1 or not passes(tests, parties[1].name, "suspect"):
        return CONSISTENT, f"The {claimant.name}'s mark is in the suspect and in none of the controls."
    outcome = {None: INCONCLUSIVE, claimant.name: CONSISTENT}.get(precedence, COUNTER)
    return outcome, f"Both marks are in the suspect. {order}"


def _void(tests: Sequence[Test], claimant: Party) -> str:
    """Why nothing can be concluded, whatever the suspect shows; empty when it can."""
    failed = [t for t in tests if t.passes and ("decoys" in t.mark or "independent" in t.model)]
    if failed:
        return f"A control failed: {failed[0].mark} passes in {failed[0].model}."
    own = passes(tests, claimant.name, f"{claimant.name}'s deposited model")
    if not own:
        why = "was not shown" if own is None else "does not carry the mark"
        return f"The {claimant.name}'s own deposited model {why}."
    return ""


def _nothing(refused: int) -> tuple[str, str]:
    if refused:
        return INCONCLUSIVE, f"The suspect refused {refused} triggers, and those it answered do not decide."
    return (
        NOTHING,
        "The suspect is not distinguishable from an independent model by this mark. It may still be a copy.",
    )
