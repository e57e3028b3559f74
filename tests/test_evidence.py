"""From scores to a decision: what counts, what does not, and how often a stranger is accused."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from assay.core.evidence import Evidence, NullResult, weigh
from assay.core.scores import Scores
from assay.core.statistics import binomial_log10_p
from assay.core.suspects import Suspects, logits, texts

BOTH = ("random_keys", "independent_models")
NAN = math.nan


def plain(statistic_MK: ArrayLike, centre: float | None = None) -> Scores:
    """Scores of a scheme without an exact tail."""
    return Scores(np.asarray(statistic_MK, dtype=np.float64), "cosine", centre=centre)


def judge(
    scores: Scores,
    null_models: Sequence[float] = (),
    valid: Sequence[str] = BOTH,
    fpr: float = 0.01,
    row: int = 0,
) -> Evidence:
    """Column 0 is the key, the others are random keys."""
    return weigh(scores, row, 0, range(1, scores.statistic_MK.shape[1]), null_models, valid, fpr)


def null_result(count: int, exceed: int, highest: float | None) -> NullResult:
    return NullResult(count, exceed, float(np.log10((1 + exceed) / (1 + count))), highest)


# --- scores


def test_binomial_scores_carry_their_exact_tail() -> None:
    scores = Scores.binomial([[60, 10], [100, 0]], 100, 0.1, "hits")
    assert (scores.unit, scores.trials, scores.centre) == ("hits", 100, None)
    assert scores.log10_p_MK is not None
    np.testing.assert_allclose(scores.log10_p_MK, binomial_log10_p([[60, 10], [100, 0]], 100, 0.1))
    np.testing.assert_array_equal(scores.extremity_MK, scores.statistic_MK)


def test_an_unreadable_suspect_is_no_evidence() -> None:
    """Rows of nan, and a single nan: log10 p = 0, last in every comparison, the readable ones untouched."""
    scores = Scores.binomial([[NAN, NAN], [256.0, NAN], [128.0, 3.0]], 256, 0.5, "bits", two_sided=True)
    assert scores.log10_p_MK is not None
    assert scores.log10_p_MK[0].tolist() == [0, 0]
    assert scores.log10_p_MK[1, 1] == 0
    assert scores.log10_p_MK[1, 0] == pytest.approx(-255 * math.log10(2))
    assert np.isnan(scores.statistic_MK).tolist() == [[True, True], [False, True], [False, False]]
    assert scores.extremity_MK.tolist() == [[-math.inf, -math.inf], [128, -math.inf], [0, 125]]
    for fpr in (0.01, 0.9999):
        found = judge(scores, [1.0] * 200, fpr=fpr)
        assert (found.statistic, found.log10_p, found.detected) == (None, 0.0, False)


def test_impossible_hits_are_refused() -> None:
    for hits in (-1, 101, 2.5, math.inf):
        with pytest.raises(ValueError, match="whole numbers"):
            Scores.binomial([[hits, NAN]], 100, 0.1, "hits")


def test_two_sided_scores_find_an_inverted_message() -> None:
    """3 % bit accuracy is as significant as 97 %, and 50 % is nothing; hits of triggers stay one-sided."""
    scores = Scores.binomial([[8], [248], [128]], 256, 0.5, "bits", two_sided=True)
    inverted, kept, removed = (judge(scores, row=row) for row in range(3))
    assert inverted.log10_p == pytest.approx(kept.log10_p, rel=1e-12)
    assert inverted.log10_p < -60
    assert (inverted.statistic, inverted.detected, kept.detected, removed.detected) == (8, True, True, False)
    assert judge(Scores.binomial([[0]], 100, 0.1, "hits")).log10_p == 0


def test_empirical_nulls_are_two_sided_with_the_score() -> None:
    """A score of 3 of 256 is farther from the centre than every random key between 100 and 160."""
    nulls = np.linspace(100, 160, 199)
    scores = plain(np.r_[3.0, nulls][None], centre=128)
    assert judge(scores).random_keys == null_result(199, 0, 32)
    assert judge(plain(np.r_[3.0, nulls][None])).log10_p == 0


def test_joined_scores_keep_every_p_at_its_place() -> None:
    """Further suspects stand below, further keys beside; p moves with the statistic."""
    one, other = (Scores.binomial([[k, k + 1]], 100, 0.1, "hits") for k in (10, 40))
    for axis, shape in ((0, (2, 2)), (1, (1, 4))):
        found = Scores.joined([one, other], axis)
        assert found.statistic_MK.shape == shape
        assert found.log10_p_MK is not None
        np.testing.assert_array_equal(found.log10_p_MK, binomial_log10_p(found.statistic_MK, 100, 0.1))
    assert Scores.joined([plain([[1.0]]), plain([[2.0]])], 0).log10_p_MK is None


# --- which null decides


def test_the_exact_tail_decides_and_the_nulls_are_reported() -> None:
    scores = Scores.binomial([[40, 10, 12, 41]], 100, 0.1, "hits")
    found = judge(scores, [9.0, 8.0, 45.0])
    assert found.source == "binomial"
    assert found.log10_p == pytest.approx(float(binomial_log10_p(40, 100, 0.1)))
    assert found.detected is True
    assert found.random_keys == null_result(3, 1, 41)
    assert found.independent_models == null_result(3, 1, 45)
    assert (found.statistic, found.unit, found.trials, found.fpr) == (40, "hits", 100, 0.01)


def test_random_keys_come_before_independent_models() -> None:
    scores = plain([[0.9, *np.linspace(0, 0.5, 99)]])
    found = judge(scores, [0.95] * 99)
    assert (found.source, found.detected) == ("random_keys", True)
    assert found.log10_p == pytest.approx(-2)
    assert found.independent_models == null_result(99, 99, 0.95)


def test_a_null_that_is_not_valid_for_the_scheme_is_ignored() -> None:
    """Keys that depend on the model: random keys prove nothing, however many."""
    scores = plain([[0.9, *np.linspace(0, 0.5, 999)]])
    found = judge(scores, [0.95] * 99, valid=("independent_models",))
    assert found.random_keys is None
    assert (found.source, found.log10_p, found.detected) == ("independent_models", 0.0, False)
    nothing = judge(scores, [0.1] * 99, valid=())
    assert (nothing.source, nothing.log10_p, nothing.detected) == ("none", 0.0, False)
    assert nothing.random_keys is nothing.independent_models is None


def test_no_null_scores_are_no_null() -> None:
    found = judge(plain([[0.9]]))
    assert (found.source, found.log10_p, found.detected) == ("none", 0.0, None), (
        "nothing was measured against"
    )
    assert judge(plain([[-np.inf]])).detected is False, "nothing could be read"
    assert judge(plain([[0.9]]), [0.1] * 99).source == "independent_models"


# --- decisions


@pytest.mark.parametrize(
    ("count", "exceed", "fpr", "detected"),
    [
        (8, 0, 0.01, None),  # the smallest p is 1/9: no decision at 1 %
        (98, 0, 0.01, None),
        (99, 0, 0.01, True),
        (99, 1, 0.01, False),
        (199, 1, 0.01, True),
        (199, 2, 0.01, False),
        (8, 1, 0.01, None),  # the true p may still lie below 1 %: at least 0.64 %
        (8, 2, 0.01, False),  # at least 4.6 %
        (98, 3, 0.01, None),
        (98, 5, 0.01, False),
        (8, 0, 0.2, True),
        (19, 0, 0.05, True),
        (999, 0, 0.001, True),
        (998, 0, 0.001, None),
    ],
)
@pytest.mark.parametrize("source", BOTH)
def test_a_null_decides_what_it_can_support(
    source: str, count: int, exceed: int, fpr: float, detected: bool | None
) -> None:
    null = [1.0] * exceed + [0.0] * (count - exceed)
    scores = plain([[0.5, *null]]) if source == "random_keys" else plain([[0.5]])
    found = judge(scores, null if source == "independent_models" else [], fpr=fpr)
    assert found.source == source
    assert found.log10_p == pytest.approx(math.log10((1 + exceed) / (1 + count)))
    assert found.detected is detected


def test_a_tie_with_a_null_counts_against_the_owner() -> None:
    assert judge(plain([[1.0]]), [1.0] + [0.0] * 98).detected is False
    assert judge(plain([[1.0]]), [0.99] + [0.0] * 98).detected is True


def test_a_tie_is_reported_as_exceeding() -> None:
    """The page's AUROC and the bound on a small null's p read this count."""
    assert judge(plain([[1.0]]), [1.0] + [0.0] * 98).independent_models == null_result(99, 1, 1.0)


@pytest.mark.parametrize(("hits", "detected"), [(18, False), (19, True)])
def test_the_exact_tail_decides_at_the_protocols_cut(hits: int, detected: bool) -> None:
    assert judge(Scores.binomial([[hits]], 100, 0.1, "hits")).detected is detected


def test_two_deposits_are_already_a_choice() -> None:
    """p of the better of two keys is 1 - (1 - p)^2: 19 of 100 hits are p = 0.0046 by themselves."""
    scores = Scores.binomial([[19]], 100, 0.1, "hits")
    alone, better = (weigh(scores, 0, 0, [], [], BOTH, 0.005, deposits=m) for m in (1, 2))
    assert (alone.detected, better.detected) == (True, False)
    assert 10**better.log10_p == pytest.approx(1 - (1 - 10**alone.log10_p) ** 2)


@pytest.mark.parametrize(
    ("count", "exceed", "deposits", "detected"),
    [
        (99, 0, 1, True),
        (99, 0, 10, None),  # the best of 10 keys has at least p = 0.096 here: no decision at 1 %
        (999, 0, 10, True),
        (999, 1, 10, False),
        (99, 1, 10, None),  # the true p of the best may still be 0.5 %
        (99, 1, 300, False),  # at least 14 %
    ],
)
def test_a_null_supports_less_when_the_best_of_many_keys_is_shown(
    count: int, exceed: int, deposits: int, detected: bool | None
) -> None:
    """Else an accuser's keys would fail, and the scheme survive him, for want of null scores."""
    null = [1.0] * exceed + [0.0] * (count - exceed)
    found = weigh(plain([[0.5, *null]]), 0, 0, range(1, count + 1), [], BOTH, 0.01, deposits=deposits)
    assert found.detected is detected


# --- models that cannot be read


def test_unreadable_null_models_buy_no_significance() -> None:
    found = judge(plain([[0.5]]), [-math.inf] * 99)
    assert found.independent_models == null_result(0, 0, None)
    assert (found.log10_p, found.detected) == (0.0, None)
    mixed = judge(plain([[0.5]]), [-math.inf] * 91 + [0.1] * 8)
    assert mixed.independent_models == null_result(8, 0, 0.1)
    assert mixed.detected is None
    assert judge(plain([[0.5]]), [NAN] * 99 + [0.1] * 8).independent_models == mixed.independent_models


@pytest.mark.parametrize("null_models", [[], [0.1] * 8, [-math.inf] * 99])
def test_an_unreadable_suspect_is_not_detected_and_not_undecided(null_models: list[float]) -> None:
    """The thief changed the architecture: that removes the mark; it is not for want of null models."""
    found = judge(plain([[NAN] * 100]), null_models)
    assert (found.statistic, found.log10_p, found.detected) == (None, 0.0, False)
    found = judge(plain([[NAN] * 100]), null_models, valid=("independent_models",))
    assert (found.log10_p, found.detected) == (0.0, False)


# --- the declared false-positive rate is kept


@pytest.mark.parametrize("fpr", [0.01, 0.05])
def test_size_with_independent_models(fpr: float) -> None:
    """A hundred exchangeable models, one of them accused; continuous scores reach the rate exactly."""
    rng = np.random.default_rng(0)
    draws = rng.normal(size=(4000, 100))
    accused = np.mean([judge(plain([[d[0]]]), d[1:], fpr=fpr).detected is True for d in draws])
    assert accused == pytest.approx(fpr, abs=4 * math.sqrt(fpr / 4000))


def test_size_with_random_keys_that_tie() -> None:
    rng = np.random.default_rng(1)
    draws = rng.binomial(20, 0.1, size=(4000, 100))
    accused = np.mean([judge(plain(d[None]), fpr=0.05).detected is True for d in draws])
    assert 0.005 < accused <= 0.05 + 4 * math.sqrt(0.05 / 4000)


def test_size_when_half_of_the_null_models_cannot_be_read() -> None:
    """Counted as beaten, they would double the rate of false accusations."""
    rng = np.random.default_rng(2)
    draws = rng.normal(size=(4000, 80))
    draws[:, 1:][rng.random((4000, 79)) < 0.5] = -np.inf
    accused = np.mean([judge(plain([[d[0]]]), d[1:], fpr=0.1).detected is True for d in draws])
    assert 0.05 < accused <= 0.1 + 4 * math.sqrt(0.1 / 4000)


@pytest.mark.parametrize("shift", [0.0, 3.0])
@pytest.mark.parametrize("is_rivals", [False, True])
def test_size_over_nobodys_and_rivals_models(is_rivals: bool, shift: float) -> None:
    """Rivals' models score `shift` above nobody's: the rate holds for an accused of either kind, where a null of both, mixed,
    would accuse rivals of the shift 5 times too often: whoever is among the first 5 of 20."""
    rng = np.random.default_rng(4)
    accused, pooled = 0, 0
    for _ in range(4000):
        nobodys, rivals = rng.normal(size=99), rng.normal(size=19) + shift
        suspect = plain([[rng.normal() + (shift if is_rivals else 0)]])
        found = weigh(suspect, 0, 0, (), nobodys.tolist(), BOTH, 0.05, rivals=rivals.tolist())
        accused += found.detected is True
        pooled += judge(suspect, [*nobodys, *rivals], fpr=0.05).detected is True
    assert accused / 4000 <= 0.05 + 4 * math.sqrt(0.05 / 4000)
    if is_rivals and shift:
        assert pooled / 4000 == pytest.approx(0.25, abs=4 * math.sqrt(0.25 * 0.75 / 4000))


def test_a_mark_must_stand_out_from_rivals_too() -> None:
    """The larger p decides and says which models it is of; too few rivals leave it open."""
    suspect = plain([[0.9]])
    nobodys, rivals = [0.1] * 99, [0.5] * 98 + [0.95]
    beaten = weigh(suspect, 0, 0, (), nobodys, BOTH, 0.01, rivals=rivals)
    assert (beaten.source, beaten.detected) == ("rivals", False)
    assert beaten.rivals == null_result(99, 1, 0.95)
    assert beaten.independent_models == null_result(99, 0, 0.1)
    assert weigh(suspect, 0, 0, (), nobodys, BOTH, 0.01, rivals=[*rivals[:98], 0.5]).detected is True
    assert weigh(suspect, 0, 0, (), nobodys, BOTH, 0.01, rivals=rivals[:20]).detected is None
    assert weigh(suspect, 0, 0, (), nobodys, ("random_keys",), 0.01, rivals=rivals).rivals is None


@pytest.mark.parametrize(("trials", "chance", "two_sided"), [(256, 0.5, True), (100, 0.1, False)])
def test_size_of_the_exact_tail(trials: int, chance: float, two_sided: bool) -> None:
    rng = np.random.default_rng(3)
    scores = Scores.binomial(rng.binomial(trials, chance, (4000, 1)), trials, chance, "hits", two_sided)
    accused = np.mean([judge(scores, row=row, fpr=0.05).detected is True for row in range(4000)])
    assert 0.01 < accused <= 0.05 + 4 * math.sqrt(0.05 / 4000)


# --- suspects


def test_no_suspects_have_no_labels() -> None:
    """Null models may be none: the matrix has no rows then, and no error."""
    labels = Suspects([]).labels(torch.rand(5, 3))
    assert (labels.shape, labels.dtype) == ((0, 5), torch.int64)
    assert Suspects([]).weights("0") == []


def test_suspects_are_read_and_left_as_they_were() -> None:
    norm = nn.BatchNorm1d(4)
    model = nn.Sequential(nn.Linear(3, 4), norm, nn.Dropout(0.5), nn.Linear(4, 2)).train()
    norm.eval()  # a frozen batch norm inside a model that trains
    before = {name: value.clone() for name, value in model.state_dict().items()}
    inputs = torch.rand(7, 3)
    found = Suspects([model, model]).labels(inputs)
    assert torch.equal(found[0], found[1]), "dropout is off"
    assert [module.training for module in model] == [True, False, True, True]
    assert model.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_logits_come_in_batches_that_change_nothing() -> None:
    model = nn.Linear(3, 2).double()
    inputs = torch.rand(7, 3).double()
    whole = logits(model, inputs)
    assert whole.dtype == torch.float32
    assert torch.equal(whole, logits(model, inputs, batch=7))
    torch.testing.assert_close(whole, logits(model, inputs, batch=2))
    assert not whole.requires_grad


def test_a_suspect_without_the_layer_has_no_weight() -> None:
    models = [nn.Sequential(nn.Linear(3, 2)), nn.Sequential(nn.ReLU()), nn.Linear(3, 2)]
    first, second, third = Suspects(models).weights("0")
    assert first is not None
    assert torch.equal(first, models[0].state_dict()["0.weight"])
    assert second is third is None
    broken = nn.Linear(3, 2)
    broken.weight.data[0, 0] = NAN
    with pytest.raises(ValueError, match="NaN"):
        Suspects([nn.Sequential(broken)]).weights("0")


class Echo(nn.Module):
    """Writes the seed, and the temperature in percent."""

    def write(self, prompts_NP: Tensor, tokens: int, seed: int, temperature: float | None = None) -> Tensor:
        percent = -1 if temperature is None else round(100 * temperature)
        return torch.tensor([[seed, percent]] * len(prompts_NP))


def test_a_suspect_writes_by_the_seed_and_temperature_it_is_asked_with() -> None:
    """Samples of one prompt differ by their seeds alone."""
    prompts = torch.zeros(2, 3, dtype=torch.int64)
    assert Suspects([Echo()]).texts(prompts, 2, 7)[0].tolist() == [[7, -1]] * 2
    assert texts(Echo(), prompts, 2, 8, temperature=0.5).tolist() == [[8, 50]] * 2
