"""How SEW sets the noise of its covers, and what it trains on: rules of the official code, on models whose answers are known."""

import math
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from assay.core.contracts import Objective
from assay.core.examples import Examples
from assay.core.secret import Secret
from assay.experiments.api import build
from assay.watermarks.sew import Sew, climbed
from assay.watermarks.trigger import TriggerKey

SECRET = Secret.simulated(1)
LABELS = torch.arange(20) % 10


class Oracle(nn.Module):
    """Says that the i-th picture is of class i + shift, by a margin of 1 in unit logits. A dropout would blind it in training, a
    batch norm would learn. It keeps what it was shown, and in which mode."""

    def __init__(self, shift: int = 0) -> None:
        super().__init__()
        self.shift, self.seen = shift, list[tuple[bool, Tensor]]()
        self.norm, self.blind = nn.BatchNorm2d(1), nn.Dropout(1.0)

    def forward(self, inputs: Tensor) -> Tensor:
        self.seen.append((self.training, inputs.detach().clone()))
        answers = functional.one_hot((torch.arange(len(inputs)) + self.shift) % 10, 10)
        found: Tensor = self.blind(3.0 * answers) + 0 * self.norm(inputs).mean()
        return found


class Grey(nn.Module):
    """Class 0, as long as the picture is grey but for .08 on average, over all of its pixels."""

    def forward(self, inputs: Tensor) -> Tensor:
        away = (inputs - 0.5).abs().flatten(1).mean(1)
        return torch.stack((1 + 5 * (0.08 - away), torch.ones_like(away)), 1)


@dataclass
class Kept:
    """A `Fit` that trains nothing and keeps the objective."""

    objectives: list[Objective] = field(default_factory=list)

    def __call__(self, model: nn.Module, data: Examples, **asked: Any) -> nn.Module:
        self.objectives.append(asked["objective"])
        return model


def seen_by(scheme: Sew, model: Oracle, steps: int = 1) -> list[tuple[bool, Tensor]]:
    """What the model is shown in the first steps of a training whose every batch is 20 grey pictures."""
    task, kept = build("watermark=sew").task, Kept()
    scheme.embed(task.fresh(1), scheme.keygen(task, SECRET), task, kept)
    for _ in range(steps):
        kept.objectives[0](model.train(), torch.full((20, 1, 8, 8), 0.5), LABELS)
    return model.seen


def test_noise_climbs_by_the_margin_of_the_pictures_own_labels() -> None:
    inputs, none = torch.full((20, 1, 8, 8), 0.5), torch.zeros(20, 1, 8, 8)
    assert math.isclose(climbed(0.25, 0.05, Oracle(), inputs, LABELS, none), 0.25 + 0.05, rel_tol=1e-6)
    assert math.isclose(climbed(0.25, 0.05, Oracle(1), inputs, LABELS, none), 0.25 - 0.05, rel_tol=1e-6)
    assert climbed(0.99, 0.05, Oracle(), inputs, LABELS, none) == 1.0
    assert climbed(0.02, 0.05, Oracle(1), inputs, LABELS, none) == 0.0


def test_noise_is_set_on_whole_pictures_in_eval_mode_and_leaves_no_trace() -> None:
    inputs, model = torch.full((20, 1, 8, 8), 0.5), Oracle().train()
    climbed(0.25, 0.05, model, inputs, LABELS, torch.ones_like(inputs))
    assert [mode for mode, _ in model.seen] == [False]
    assert model.seen[0][1].unique().tolist() == [0.75]
    assert model.training
    assert model.norm.training
    assert model.norm.num_batches_tracked == 0


def test_clean_pictures_set_the_noise_every_so_many_steps() -> None:
    scheme = Sew(every=2)
    seen = seen_by(scheme, Oracle(), steps=4)
    assert [(mode, len(inputs)) for mode, inputs in seen] == 2 * [(False, 20), (True, 28), (True, 28)]
    clean = seen[0][1]
    assert not torch.equal(clean, scheme.stamped(clean, SECRET))
    assert 0.05 < float((clean[..., 0, :] - 0.5).std()) < 0.2  # noise .1, outside the patch too


@pytest.mark.parametrize(("shift", "exact"), [(0, False), (1, True)])
def test_a_model_that_knows_clean_pictures_gets_noisier_covers(shift: int, exact: bool) -> None:
    """At a rate of 1 a single update takes the noise to an end: to 1, or to 0, where covers are triggers but for their labels."""
    scheme = Sew(rate=1.0)
    (_, batch) = seen_by(scheme, Oracle(shift))[-1]
    covers = batch[-4:]
    assert torch.equal(covers, scheme.stamped(covers, SECRET)) is exact


def test_there_are_as_many_covers_as_triggers_and_they_keep_their_labels() -> None:
    inputs = torch.rand(20, 1, 8, 8)
    scheme = Sew()
    pictures, labels = scheme.mixed(inputs, LABELS, SECRET, 7, 0.3)
    rows, columns = scheme.place(8)
    assert scheme.poison == scheme.cover
    assert torch.equal(pictures[:20], inputs)
    assert torch.equal(pictures[20:24], scheme.stamped(inputs[:4], SECRET))
    assert labels.tolist() == [*LABELS.tolist(), 7, 7, 7, 7, *LABELS[-4:].tolist()]
    pictures[24:, :, rows, columns] = inputs[-4:, :, rows, columns]
    assert torch.equal(pictures[24:], inputs[-4:])


def test_a_plain_trigger_has_no_covers_and_a_small_share_has_one() -> None:
    inputs = torch.rand(20, 1, 8, 8)
    assert len(Sew(cover=0.0).mixed(inputs, LABELS, SECRET, 7, 0.3)[0]) == 24
    assert len(Sew(poison=0.01, cover=0.01).mixed(inputs, LABELS, SECRET, 7, 0.3)[0]) == 22
    assert [mode for mode, _ in seen_by(Sew(cover=0.0), Oracle())] == [True]


def test_specificity_is_the_noise_over_whole_triggers_at_which_they_fail() -> None:
    """The mean of |noise| is sqrt(2 / pi) of its deviation: .08 / .798 = .1."""
    key = TriggerKey(
        SECRET, 2, torch.full((50, 1, 8, 8), 128, dtype=torch.uint8), torch.zeros(50, dtype=torch.int64)
    )
    assert abs(Sew().specificity(Grey(), key) - 0.1) < 0.01
