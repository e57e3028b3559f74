"""A thief whom the API stops answering keeps what he was told, and trains on it."""

from collections.abc import Iterator

import torch

from ..attacks.extract import student
from ..attacks.knockoff import soft_loss
from ..attacks.sequence import stages_of
from ..core.examples import Examples
from ..core.theft import Adversary, Attack, Surrogate
from ..deployments.gateway import Refused
from ..deployments.thief import Thief

EPOCHS = 60
"""As attack=extract."""


def endured(attack: Attack, thief: Thief, adversary: Adversary) -> Iterator[Surrogate]:
    """The attack's trajectory; where it breaks off, one more surrogate: a student of the attack's architecture (of attacks in a
    row, of the first, which asks), trained on all answers. Refused when there are fewer than two, or texts, which train no
    classifier."""
    strength = 0.0
    try:
        for surrogate in attack(thief, adversary):
            strength = surrogate.strength
            yield surrogate
    except Refused:
        want = next((want for want in ("scores", "labels") if want in thief.told), None)
        told = [] if want is None else thief.told[want]
        if sum(map(len, told)) < 2:
            raise
        data = Examples(torch.cat([t.inputs for t in told]), torch.cat([t.targets for t in told]))
        loss = soft_loss if want == "scores" else None
        architecture = getattr(stages_of(attack)[0], "student", None)
        model = student(adversary, architecture, data, EPOCHS, loss)
        yield Surrogate(float(len(data)) if attack.axis == "queries" else strength + 1, model)
