"""DeepMarks: the design and its codes, decoding averages, the exact null of the cosine, colluders of real models."""

import copy
import math
from functools import cache
from itertools import combinations

import numpy as np
import pytest
import torch
from scipy import special
from torch import nn

from assay.core.errors import ConfigError, NotApplicable
from assay.core.secret import Secret
from assay.core.suspects import Suspects
from assay.experiments.api import build
from assay.experiments.people import clean
from assay.experiments.trial import Trial
from assay.watermarks.deepmarks import (
    COLLUDERS,
    LENGTH,
    BuyerKey,
    DeepMarks,
    basis,
    codes,
    decode,
    marks,
    projected,
    two_sided_log10_p,
)


@cache
def trial() -> Trial:
    return build("watermark=deepmarks", "trainer.progress=false")


@cache
def victim() -> nn.Module:
    return clean(trial(), 0)[0]


def scheme() -> DeepMarks:
    found = trial().watermark
    assert isinstance(found, DeepMarks)
    return found


@cache
def buyers(count: int) -> list[BuyerKey]:
    return [scheme().buyer_key(trial().task, Secret.simulated(0), b, victim()) for b in range(count)]


@cache
def copy_of(buyer: int) -> nn.Module:
    return scheme().embed(victim(), buyers(LENGTH)[buyer], trial().task, trial().trainer("copies"))


def averaged(models: list[nn.Module]) -> nn.Module:
    states = [model.state_dict() for model in models]
    mean = {n: torch.stack([s[n].double() for s in states]).mean(0).to(t.dtype) for n, t in states[0].items()}
    out = copy.deepcopy(models[0])
    out.load_state_dict(mean)
    return out


def test_the_codes_are_those_of_a_31_6_1_design() -> None:
    lines_UV = codes() < 0
    assert torch.equal(lines_UV.sum(1), torch.full((31,), 6))
    assert torch.equal(lines_UV.sum(0), torch.full((31,), 6))
    shared_UU = lines_UV.double() @ lines_UV.double().T
    assert torch.equal(shared_UU, torch.ones(31, 31) + 5 * torch.eye(31))
    pairs_VV = lines_UV.double().T @ lines_UV.double()
    assert torch.equal(pairs_VV, torch.ones(31, 31) + 5 * torch.eye(31))


def test_the_basis_is_orthonormal_and_the_secrets() -> None:
    one, other = basis(Secret.simulated(1)), basis(Secret.simulated(2))
    assert torch.allclose(one @ one.T, torch.eye(31, dtype=torch.float64), atol=1e-12)
    assert not torch.allclose(one, other)


def test_every_pair_and_many_larger_coalitions_are_decoded_exactly() -> None:
    secret = Secret.simulated(3)
    marks_UV = marks(secret)
    rng = np.random.default_rng(0)
    coalitions = [c for size in (1, 2) for c in combinations(range(LENGTH), size)]
    for size in (3, 4, COLLUDERS):
        coalitions += [tuple(sorted(rng.choice(LENGTH, size, replace=False).tolist())) for _ in range(300)]
    for coalition in coalitions:
        assert decode(0.07 * marks_UV[list(coalition)].mean(0), secret) == list(coalition)


def test_concurrent_lines_the_worst_coalition_are_decoded() -> None:
    """Five lines through one point cover 26 of 31 points, the most that five can: every one of 31 such pencils."""
    secret = Secret.simulated(3)
    marks_UV, lines_UV = marks(secret), codes() < 0
    for point in range(LENGTH):
        pencil = lines_UV[:, point].nonzero()[:, 0].tolist()
        for coalition in combinations(pencil, COLLUDERS):
            assert int(lines_UV[list(coalition)].any(0).sum()) == 26
            assert decode(marks_UV[list(coalition)].mean(0), secret) == list(coalition)


def test_more_colluders_than_the_design_allows_can_frame_an_innocent() -> None:
    """Six lines cover a seventh: the bound of the design is sharp, and the decoder says so by naming the innocent too."""
    secret, lines_UV = Secret.simulated(3), codes() < 0
    innocent = 0
    points = lines_UV[innocent].nonzero()[:, 0].tolist()
    six = [next(u for u in range(1, LENGTH) if bool(lines_UV[u, p])) for p in points]
    assert len(set(six)) == 6
    amplitude = marks(secret)[six].mean(0)
    assert innocent in decode(amplitude, secret)


@pytest.mark.parametrize("dimensions", [5, 31, 200])
def test_the_tail_of_the_cosine_is_the_incomplete_beta_function(dimensions: int) -> None:
    cosine = np.array([[0.0, 0.1, -0.3, 0.6, 0.9]])
    expected = special.betainc((dimensions - 1) / 2, 0.5, 1 - cosine**2)
    assert np.allclose(10 ** two_sided_log10_p(cosine, dimensions), expected, rtol=1e-9)
    assert two_sided_log10_p(np.array([[math.nan]]), dimensions)[0, 0] == 0
    assert -260 < two_sided_log10_p(np.array([[1.0]]), 31)[0, 0] < -200


def test_the_null_of_the_cosine_is_exact_over_random_keys() -> None:
    """Skewed weights with a large mean: what a projection with a mean other than 0 would mistake for a mark. Kolmogorov-Smirnov
    against uniform p-values, critical value of 1e-4."""
    weights = torch.rand(64, 16, 3, 3, generator=torch.Generator().manual_seed(0)) ** 3 + 1
    model = nn.Sequential(nn.Conv2d(16, 64, 3, bias=False))
    with torch.no_grad():
        model.get_parameter("0.weight").copy_(weights)
    keys = [BuyerKey(Secret.simulated(5, k), "0", 144, k % LENGTH) for k in range(1000)]
    log10_p = DeepMarks("0").score(Suspects([model]), keys).log10_p_MK
    assert log10_p is not None
    p = np.sort(10 ** log10_p[0])
    gap = np.abs(p - (np.arange(1000) + 0.5) / 1000).max()
    assert gap < math.sqrt(-math.log(1e-4 / 2) / 2 / 1000)


@pytest.mark.slow
def test_colluders_are_named_and_nobody_else() -> None:
    """Averages of 1 to 5 real copies keep their accuracy; each colluder is named, no innocent is, although innocents' codes
    resemble the average (which is why evidence alone does not accuse)."""
    test = trial().task.test
    keys = buyers(LENGTH)
    for count in range(1, COLLUDERS + 1):
        stolen = averaged([copy_of(b) for b in range(count)])
        assert (stolen(test.inputs).argmax(-1) == test.targets).double().mean() > 0.95
        assert scheme().accuse(stolen, keys, 0.01) == list(range(count))
    stolen = averaged([copy_of(b) for b in range(COLLUDERS)])
    cosine_K = scheme().score(Suspects([stolen]), keys).statistic_MK[0]
    assert cosine_K[COLLUDERS:].mean() > 0.3


def test_nobody_is_accused_of_an_unmarked_model_or_of_another_owners() -> None:
    assert scheme().accuse(victim(), buyers(LENGTH), 0.01) == []
    strangers = [scheme().buyer_key(trial().task, Secret.simulated(9), b, victim()) for b in range(LENGTH)]
    assert scheme().accuse(copy_of(0), strangers, 0.01) == []
    assert scheme().accuse(copy_of(0), buyers(LENGTH), 0.01) == [0]


def test_users_beyond_the_codebook_and_missing_layers_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"users 0 to 30, got 31.*watermark\.user"):
        scheme().buyer_key(trial().task, Secret.simulated(0), 31, victim())
    with pytest.raises(NotApplicable, match=r"no layer .net\.no."):
        DeepMarks("net.no").keygen(trial().task, Secret.simulated(0), victim())


def test_every_tag_of_a_copy_has_the_sign_of_its_code() -> None:
    key = buyers(1)[0]
    weight = copy_of(0).get_parameter(f"{scheme().layer}.weight")
    tags_V = projected(weight.detach(), key) @ basis(key.secret)
    assert torch.equal(tags_V.sign(), codes()[0].double())
