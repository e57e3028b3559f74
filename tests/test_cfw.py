"""CFW's second training: each term of its loss against values written out by hand, and the choice of its pictures."""

import math
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from assay.core.examples import Examples
from assay.core.secret import Secret
from assay.core.suspects import Suspects, labels
from assay.experiments.api import build
from assay.experiments.trial import Trial
from assay.watermarks.cfw import Cfw, class_axes, evenly, largest, likeness, spread

SECRET = Secret.simulated(1)


@cache
def trial() -> Trial:
    return build("watermark=cfw", "trainer.progress=false")


def waves(*shape: int, phase: float = 0.0) -> Tensor:
    return torch.sin(0.7 * torch.arange(math.prod(shape), dtype=torch.float64) + phase).reshape(shape)


def test_pictures_come_in_rounds_of_the_answers() -> None:
    answers = torch.tensor([2, 2, 2, 0, 2, 0, 1])
    assert evenly(answers, 7).tolist() == [0, 3, 6, 1, 5, 2, 4]
    assert evenly(answers, 3).tolist() == [0, 3, 6]


def test_the_axis_of_a_class_is_its_first_principal_component() -> None:
    """Points along (3, 4) with a little beside it, and a second class along (1, 0), both far from the origin."""
    along = torch.tensor([[-2.0], [-1.0], [0.0], [3.0]], dtype=torch.float64)
    beside = torch.tensor([[0.1], [-0.2], [0.2], [-0.1]], dtype=torch.float64)
    first = along * torch.tensor([0.6, 0.8]) + beside * torch.tensor([-0.8, 0.6]) * 0.01 + 50
    second = along * torch.tensor([1.0, 0.0]) - 70
    data = Examples(torch.zeros(8, 1), torch.tensor([0, 1]).repeat_interleave(4))
    axes = class_axes(data, torch.cat((first, second)))
    expected = torch.tensor([[0.6, 0.8], [1.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(axes.abs(), expected, atol=5e-3, rtol=0)


def test_likeness_is_the_cosine_of_mean_outputs() -> None:
    """Means (1, 0) and (1, 1), then (0, 2) and (0, -1): cosines 1 / sqrt 2 and -1."""
    one = torch.tensor([[2.0, 0.0], [0.0, 0.0], [1.0, 1.0]], dtype=torch.float64)
    two = torch.tensor([[0.0, 1.0], [0.0, 3.0], [0.0, -1.0]], dtype=torch.float64)
    assert likeness([one], 2).item() == pytest.approx(math.sqrt(0.5))
    assert likeness([one, two], 2).item() == pytest.approx((math.sqrt(0.5) - 1) / 2)
    maps = waves(5, 2, 3, 3)
    assert likeness([maps], 3).item() == pytest.approx(likeness([maps.flatten(1)], 3).item())


def test_spread_is_measured_along_axes_over_all_pairs() -> None:
    """Marks (0, 0) and (3, 4) lie 5 apart along (0.6, 0.8), 0 along (0.8, -0.6) and 3 along (1, 0); half of the four ordered pairs
    count, the others are of a mark with itself."""
    marks = torch.tensor([[0.0, 0.0], [3.0, 4.0]], dtype=torch.float64)
    axes = torch.tensor([[0.6, 0.8], [0.8, -0.6], [1.0, 0.0]], dtype=torch.float64)
    assert spread(marks, axes[:2]).item() == pytest.approx(10 / 8)
    assert spread(marks, axes).item() == pytest.approx((10 + 6) / 12)
    assert spread(marks[1:].repeat(3, 1), axes).item() == 0


def test_the_loss_weighs_its_terms_as_the_official_code() -> None:
    """.02 CE + KL over all N x C elements - .003 x 9 cosines + .15 PDDC, in units of the .02, at C = 10."""
    now, before, axes = waves(9, 10), waves(6, 10, phase=0.3), functional.normalize(waves(10, 10, phase=1))
    targets, inside = torch.full((3,), 4), [waves(9, 4, 2, 2, phase=2), now]
    kl = (before.softmax(1) * (before.log_softmax(1) - now[:6].log_softmax(1))).mean()
    ce = -now[6:].log_softmax(1)[:, 4].mean()
    pairs = now[6:, None] - now[6:]
    total = (
        kl
        + 0.02 * ce
        - 0.003 * 9 * likeness(inside, 6)
        + 0.15 * torch.einsum("ijc,ac->ija", pairs, axes).abs().mean()
    )
    found = Cfw().loss(now, inside, before, targets, axes)
    assert found.item() == pytest.approx(total.item() / 0.02)
    assert found.item() != pytest.approx(Cfw(similarity=0).loss(now, inside, before, targets, axes).item())
    assert found.item() != pytest.approx(Cfw(clustering=0).loss(now, inside, before, targets, axes).item())


def test_an_unmarked_victim_answers_the_marks_with_every_class_alike() -> None:
    """A network of random weights that answers the gallery with a few classes still has them in as equal shares as there are."""
    it = trial()
    model = it.task.fresh(3).eval()
    scheme = it.watermark
    assert isinstance(scheme, Cfw)
    key, again = (scheme.keygen(it.task, SECRET, model) for _ in range(2))
    assert torch.equal(key.images_T, again.images_T)
    assert len(key.images_T.flatten(1).unique(dim=0)) == scheme.triggers
    shares = labels(model, key.examples().inputs).bincount(minlength=10)
    chosen = labels(model, scheme.keygen(it.task, SECRET).examples().inputs).bincount(minlength=10)
    assert shares.max() < chosen.max()
    assert torch.equal(key.labels_T, scheme.keygen(it.task, SECRET).labels_T)


class Constant(nn.Module):
    """Answers class 3, whatever it sees; NaN for the first input."""

    def forward(self, x: Tensor) -> Tensor:
        scores = functional.one_hot(torch.full((len(x),), 3), 10).float()
        scores[0] = torch.nan
        return scores


def test_a_cluster_is_read_whatever_its_label() -> None:
    assert largest(torch.tensor([-1, -1, -1, 4, 4, 0])) == 2
    assert largest(torch.tensor([-1, -1])) == 0
    it = trial()
    keys = [Cfw(target=t).keygen(it.task, SECRET) for t in (3, 5)]
    found = Cfw(counts="cluster").score(Suspects([Constant()]), keys).statistic_MK
    assert found.dtype == np.float64
    assert found.tolist() == [[49.0, 49.0]]
    assert Cfw().score(Suspects([Constant()]), keys).statistic_MK.tolist() == [[49.0, 0.0]]
