"""Attacks on what marks prove: chosen triggers, grinding, overwriting, forged counter-marks, suspects that refuse.

Success means that a judge who follows the named rule decides for the attacker.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from ...attacks.false_claim import targeted
from ...core.key import Key
from ...core.secret import Secret, seed_for
from ...core.statistics import binomial_log10_p
from ...core.suspects import Suspects, logits
from ...evidence.canonical import canonical
from ...evidence.certificates import issued
from ...evidence.commitment import openings
from ...evidence.deposit import counted, key_facts, owner_signer
from ...evidence.dispute import CONSISTENT, Hearing, Rules, hear
from .rows import Row, Tried, timed
from .world import World

EPSILON, STEPS = 0.5, 20
"""Of adversarial triggers: digits have wide margins (protocol: 99-100 % transfer at .5)."""
DECLARED = 0.01
"""The rate of the grinding rows: with 1e-6 every row would need a million tries to show what 1,000 show here."""


Entry = tuple[str, str, Callable[[World], Tried]]
"""Attack, the rule that the judge follows, how it is tried."""


def attacks(world: World, wanted: Sequence[Entry]) -> Iterator[Row]:
    for attack, defence, work in wanted:
        yield timed(attack, defence, lambda work=work: work(world))  # type: ignore[misc]


def chosen_triggers(world: World) -> Tried:
    """Committed in advance and dated, yet fitted to what all models of the task get wrong: against models of nobody."""
    images, labels = _adversarial(world)
    hits = [int((found == labels).sum()) for found in Suspects(world.independents).labels(images)]
    log10_p = binomial_log10_p(hits, len(labels), 1 / world.task.classes)
    accused = int((log10_p <= _log10(world.alpha)).sum())
    why = (
        f"{accused} of {len(hits)} independent models accused; hits {min(hits)}-{max(hits)} of {len(labels)}"
    )
    return Tried(
        accused > 0, 1, why, f"{len(world.accusers)} models trained, {STEPS} gradient steps on the inputs"
    )


def derived_triggers(world: World) -> Tried:
    """The same accuser under derived keys: one deposit, and other openings for the same commitment."""
    who = world.accuser
    log10_p = _log10_p(world, [who.key], world.independents)[:, 0]
    secret = Secret.simulated(world.trial.seed, "evidence", "accuser")
    name = world.trial.spec.choices["watermark"]
    root = openings(secret, "accuser", name, {}, 1)[0].commitment
    others = [openings(secret, f"accuser {i}", name, {}, 1)[0].commitment for i in range(world.tries)]
    opened, accused = (
        sum(other == root for other in others),
        int((log10_p <= _log10(world.alpha / world.draws)).sum()),
    )
    why = f"{accused} of {len(world.independents)} independent models accused; {opened} of {world.tries} other keys open it"
    return Tried(accused + opened > 0, 1 + world.tries, why, f"1 / alpha deposits, {1 / world.alpha:.0e}")


def grinding(world: World, draws: int, rule: str) -> Tried:
    """Tries keys against the victim and shows the best. draws: what the judge corrects for."""
    best = world.best_of_tries
    won = best <= _log10(DECLARED / draws)
    cost = (
        f"about 1 / alpha = {1 / DECLARED:.0f} tries"
        if won
        else f"{draws} times as many tries, which count again"
    )
    return Tried(won, world.tries, f"best p {10**best:.1e}, tested at {DECLARED}/{draws}: {rule}", cost)


def free_grinding(world: World) -> Tried:
    return grinding(world, 1, "the owner knew R1 before he deposited, and deposited the best key alone")


def counted_grinding(world: World) -> Tried:
    entries = _deposits(world, owners=1)
    return grinding(world, counted(entries, _issuer(0)).owner, "every deposit of the owner counts")


def sybil_grinding(world: World) -> Tried:
    entries = _deposits(world, owners=world.tries)
    return grinding(
        world,
        counted(entries, _issuer(0)).owner,
        "each key was deposited by another owner, and owners are counted apart",
    )


def sybil_counted(world: World) -> Tried:
    entries = _deposits(world, owners=world.tries)
    return grinding(
        world, counted(entries, _issuer(0)).everybody, "every deposit in the log counts, whoever made it"
    )


def overwrite_alone(world: World) -> Tried:
    """The thief's mark is in the copy that he sells, and nobody asks for deposited models of others."""
    found = _heard(world, world.overwritten, with_owner=False)
    return Tried(found.outcome == CONSISTENT, 1, _told(found), "one training on the stolen copy")


def overwrite_claim(world: World) -> Tried:
    """He claims his copy and the owner's own model; the owner claims back, and both marks are tested in both deposited models."""
    found = [_heard(world, model, with_owner=True) for model in (world.overwritten, world.marked)]
    won = any(one.outcome == CONSISTENT for one in found)
    why = "; ".join(map(_told, found))
    return Tried(won, len(found), why, "unknown: his mark would have to be in the owner's deposited model")


def decoy_deposit(world: World) -> Tried:
    """The owner accuses the overwritten copy; the thief claims back, and deposits a model of his own making with his mark in it."""
    owner, thief = world.party(world.owner, world.marked), world.party(world.thief, world.decoy)
    found = hear(world.overwritten, owner, thief, world.independents, world.task, _rules(world))
    return Tried(
        found.outcome != CONSISTENT, 1, _told(found), "two trainings; the owner is not accused either"
    )


def chosen_counter(world: World) -> Tried:
    """A counter-mark read off the owner's model: any pictures, with the labels it gives them."""
    generator = torch.Generator().manual_seed(seed_for(world.trial.seed, "counter-mark"))
    images = torch.randint(256, (100, *world.task.shape), generator=generator).float() / 255
    labels = Suspects([world.marked]).labels(images)[0]
    hits = int((Suspects([world.marked]).labels(images)[0] == labels).sum())
    log10_p = float(binomial_log10_p(hits, len(labels), 1 / world.task.classes))
    return Tried(
        log10_p <= _log10(world.alpha),
        1,
        f"{hits} of {len(labels)} hits in the owner's model",
        f"{len(labels)} queries",
    )


def derived_counter(world: World) -> Tried:
    """The same with derived keys: the best of many in the owner's model, each a deposit."""
    best = world.best_of_tries
    won = best <= _log10(world.alpha / world.tries)
    return Tried(
        won,
        world.tries,
        f"best p {10**best:.1e}, tested at {world.alpha:g}/{world.tries}",
        "grows with m as fast as it helps",
    )


def refuses(world: World) -> Tried:
    """Serves a verbatim copy, and refuses what is far from its customers' inputs."""
    return _asked(
        world,
        lambda labels, strange: labels.masked_fill(strange, -1),
        "a filter of inputs; the refusals are seen",
    )


def answers_at_random(world: World) -> Tried:
    """The same, but strange inputs get a random class: nothing is refused, nothing is seen."""
    generator = torch.Generator().manual_seed(seed_for(world.trial.seed, "refuse"))

    def mislead(labels: Tensor, strange: Tensor) -> Tensor:
        other = torch.randint(world.task.classes, labels.shape, generator=generator)
        return torch.where(strange, other, labels)

    return _asked(world, mislead, "a filter of inputs; strange customers are answered wrongly")


def refuses_half(world: World) -> Tried:
    """Refuses every second request, whatever it is."""
    generator = torch.Generator().manual_seed(seed_for(world.trial.seed, "half"))

    def half(labels: Tensor, _: Tensor) -> Tensor:
        return labels.masked_fill(torch.rand(labels.shape, generator=generator) < 0.5, -1)

    return _asked(world, half, "half of the customers")


def _asked(world: World, change: Callable[[Tensor, Tensor], Tensor], cost: str) -> Tried:
    """The hearing of a copy that sees what it is asked. strange: farther from the thief's data than 99 % of it is from the rest."""
    own = world.task.attacker.inputs.flatten(1)
    near = torch.cdist(own, own).fill_diagonal_(torch.inf).amin(1)
    limit = near.quantile(0.99)

    def labels(inputs: Tensor) -> Tensor:
        strange = torch.cdist(inputs.flatten(1), own).amin(1) > limit
        return change(Suspects([world.marked]).labels(inputs)[0].long(), strange)

    party = world.party(world.owner, world.marked)
    found = hear(labels, party, None, world.independents, world.task, _rules(world))
    refused = ", ".join(f"{count} of {asked} {name}" for name, (count, asked) in found.refused.items())
    return Tried(
        found.outcome != CONSISTENT,
        sum(asked for _, asked in found.refused.values()),
        f"{found.outcome}; refused {refused}",
        cost,
    )


def _heard(world: World, suspect: torch.nn.Module, with_owner: bool) -> Hearing:
    """The thief accuses; his deposited model is the overwritten copy."""
    thief, owner = world.party(world.thief, world.overwritten), world.party(world.owner, world.marked)
    return hear(suspect, thief, owner if with_owner else None, world.independents, world.task, _rules(world))


def _told(found: Hearing) -> str:
    return f"{found.outcome}: {found.why}"


def _rules(world: World) -> Rules:
    return Rules(world.alpha, world.draws, Secret.simulated(world.trial.seed, "judge"))


def _adversarial(world: World) -> tuple[Tensor, Tensor]:
    """The accuser's 100 best triggers: his data, moved towards random wrong classes on his models, chosen by one he did not use."""
    data, own = world.task.attacker, world.accusers
    generator = torch.Generator().manual_seed(seed_for(world.trial.seed, "targets"))
    turns = torch.randint(1, world.task.classes, (len(data),), generator=generator)
    targets = (data.targets + turns) % world.task.classes
    moved = targeted(own[:-1], data.inputs, targets, EPSILON, STEPS)
    sure = torch.log_softmax(logits(own[-1], moved), -1).gather(1, targets[:, None])[:, 0]
    best = sure.argsort(descending=True, stable=True)[:100]
    return moved[best], targets[best]


def _log10_p(world: World, keys: list[Key], models: list[torch.nn.Module]) -> Tensor:
    """(M, K)."""
    return torch.as_tensor(world.log10_p(keys, models))


def _deposits(world: World, owners: int) -> list[bytes]:
    """As many key deposits as the grinder tries, by so many owners."""
    facts = key_facts(world.trial.spec.choices["watermark"], 1, "1e-2", 1)
    signers = [owner_signer(_grinder(i)) for i in range(owners)]
    said = [
        issued(signers[i % owners], "key", commitment=f"{i + 1:064x}", facts=facts)
        for i in range(world.tries)
    ]
    return [canonical({**one.body(), "signature": one.signature}) for one in said]


def _grinder(number: int) -> Secret:
    return Secret.simulated(number, "grinder's name")


def _issuer(number: int) -> str:
    return owner_signer(_grinder(number)).verifier.public.hex()


def _log10(value: float) -> float:
    return float(torch.tensor(value, dtype=torch.float64).log10())


TABLE: tuple[Entry, ...] = (
    ("free adversarial triggers", "chosen keys, committed and dated", chosen_triggers),
    ("free adversarial triggers", "derived keys", derived_triggers),
    ("grinding", "R1 known before (no witness)", free_grinding),
    ("grinding", "deposits counted by owner", counted_grinding),
    ("grinding, an owner per key", "deposits counted by owner", sybil_grinding),
    ("grinding, an owner per key", "deposits counted over the log", sybil_counted),
    ("overwrite and claim", "the suspect alone is tested", overwrite_alone),
    ("overwrite and claim", "deposited models are tested", overwrite_claim),
    ("overwrite, deposit another model", "deposited models are tested", decoy_deposit),
    ("forged counter-mark", "chosen keys", chosen_counter),
    ("forged counter-mark", "derived keys, alpha / m", derived_counter),
    ("suspect refuses strange inputs", "shuffled with controls", refuses),
    ("suspect answers strange inputs at random", "shuffled with controls", answers_at_random),
    ("suspect refuses half of all", "shuffled with controls", refuses_half),
)
