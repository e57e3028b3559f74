"""What p-values of text marks promise on unmarked text, and every defect of published detectors as a test that ours has not got
it."""

import math
import tracemalloc
from functools import cache

import numpy as np
import pytest
import torch
import yaml
from scipy import stats

from assay.core.gamma_sums import LEAST, two_gammas_log10_p
from assay.core.secret import Secret
from assay.core.text_tails import counts_log10_p
from assay.core.tilted_sums import sum_log10_p
from assay.experiments.config import CONF
from assay.experiments.trial import built
from assay.kernels.text_mark import TextMark
from assay.kernels.text_prf import words_reference
from assay.kernels.text_scores import text_scores
from assay.watermarks.llm.compat_synthid import TransformersSynthId
from assay.watermarks.llm.corpus import Texts
from assay.watermarks.llm.sampling import SamplingMark, stream
from assay.watermarks.llm.synthid import SynthId

FOLDER = CONF / "watermark" / "llm"


def samplers() -> list[str]:
    """Options that train nothing; the others are fingerprints (tests/test_llm_fingerprints.py)."""
    found = {path.stem: built(yaml.safe_load(path.read_text()), path.stem) for path in FOLDER.glob("*.yaml")}
    return sorted(name for name, mark in found.items() if isinstance(mark, SamplingMark) and not mark.trains)


SCHEMES = samplers()
V, TEXTS, RATE = 50_000, 5000, 0.01
CHEAP = {"cyclic": {"bits": 4}, "mpac": {"places": 2}}
ME = Secret.simulated(21)


@cache
def scheme(name: str) -> SamplingMark:
    content = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    found = built({**content, "prf": "splitmix64", **CHEAP.get(name, {})}, name)
    assert isinstance(found, SamplingMark)
    return found


def clean(texts: int, tokens: int, seed: int) -> torch.Tensor:
    """Uniform ids: no two texts share a window, so that they are independent under one key."""
    return torch.randint(0, V, (texts, tokens), generator=torch.Generator().manual_seed(seed))


def texts_of(ids_BT: torch.Tensor) -> Texts:
    full_B = torch.full((len(ids_BT),), ids_BT.shape[1])
    return Texts(ids_BT, full_B, torch.zeros_like(full_B))


def bounds(count: int, low: float, high: float) -> tuple[float, float]:
    """Between which a count of claims lies but for 1e-4 on either side."""
    least, most = (np.asarray(stats.binom.ppf(q, count, p)) for q, p in ((1e-4, low), (1 - 1e-4, high)))
    return float(least), float(most)


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("tokens", [30, 200])
def test_false_positives_are_as_declared(name: str, tokens: int) -> None:
    """5,000 unmarked texts. Counts come in steps, so that the rate may lie below the declared one, but not far."""
    found = scheme(name).examine(texts_of(clean(TEXTS, tokens, tokens)), [ME], V)
    claims = int((found.log10_p[:, 0] <= math.log10(RATE)).sum())
    least = RATE if name in ("gumbel", "dual_gumbel", "cyclic") else RATE / 4
    low, high = bounds(TEXTS, least, RATE)
    assert low <= claims <= high


@pytest.mark.parametrize("name", SCHEMES)
def test_a_text_repeated_ten_times_says_no_more(name: str) -> None:
    once = clean(2000, 12, 3)
    found = scheme(name).examine(texts_of(once.repeat(1, 10)), [ME], V)
    assert found.scored.max() <= once.shape[1]
    assert (found.log10_p[:, 0] <= math.log10(0.05)).sum() <= bounds(2000, 0.05, 0.05)[1]


@pytest.mark.parametrize("depth", [1, 2, 10, 30, 32])
def test_layers_weigh_from_10_to_1(depth: int) -> None:
    weights = SynthId(depth=depth).weights()
    np.testing.assert_allclose(weights / weights[0], np.linspace(10, 1, depth) / 10)
    found = SynthId(depth=depth).examine(texts_of(clean(2000, 40, 12)), [ME], V)
    assert (found.log10_p[:, 0] <= math.log10(0.05)).sum() <= bounds(2000, 0.05, 0.05)[1]


def test_keys_that_are_tried_are_corrected_for() -> None:
    from assay.core.statistics import best_of_log10_p

    secrets = [Secret.simulated(5, k) for k in range(40)]
    found = scheme("gumbel").examine(texts_of(clean(500, 30, 9)), secrets, V)
    best = best_of_log10_p(found.log10_p.min(1), len(secrets))
    low, high = bounds(500, 0.05, 0.05)
    assert low <= (best <= math.log10(0.05)).sum() <= high


def test_two_weighted_gammas_have_their_own_tail() -> None:
    """Against simulation, the closed form of T = 1 far out, and the moment-matched gamma, which claims too much there."""
    draws = np.random.default_rng(0).gamma(30, size=(2, 200_000))
    sums = 0.9 * draws[0] + 0.1 * draws[1]
    for s in (28, 35, 42):
        share = (sums >= s).mean()
        exact = 10 ** float(two_gammas_log10_p(s, 30, 0.1))
        assert abs(share - exact) < 5 * math.sqrt(exact / len(sums))
    expected = (math.log(0.9 / 0.8) - 2000 / 0.9) / math.log(10)
    assert float(two_gammas_log10_p(2000, 1, 0.1)) == pytest.approx(expected, rel=1e-12)
    assert float(two_gammas_log10_p(50, 40, 0.5)) == pytest.approx(stats.gamma.logsf(100, 80) / math.log(10))
    spread = 0.82
    matched = stats.gamma.logsf(600 / spread, 200 / spread) / math.log(10)
    assert matched < float(two_gammas_log10_p(600, 200, 0.1)) - 4


def test_the_masses_of_many_texts_are_not_kept() -> None:
    """At the least weight a text of 100 trials has 1 MB of them: 40 texts leave a few."""
    tracemalloc.start()
    two_gammas_log10_p(np.full(40, 150.0), np.arange(81, 121), LEAST)
    left, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert left < 16e6


@pytest.mark.parametrize("weight", [0.001, -0.1, 1.2])
def test_weights_too_small_for_the_series_are_refused(weight: float) -> None:
    with pytest.raises(ValueError, match="weight"):
        two_gammas_log10_p(5, 3, weight)


@pytest.mark.parametrize("log_chance", [-150.0, -230.0, -800.0, -5000.0])
def test_sums_of_chances_that_nobody_meets(log_chance: float) -> None:
    """A long response is said by chance once in e^800: k of n of them have C(n, k) such terms to the k-th power."""
    law = np.array([np.log1p(-np.exp(log_chance)), log_chance])
    for n, k in ((10, 3), (32, 31), (5, 1)):
        expected = (math.log(math.comb(n, k)) + k * log_chance) / math.log(10)
        assert sum_log10_p(k, [law], copies=n) == pytest.approx(expected, rel=1e-9)
    even = np.log([0.5, 0.5])
    assert sum_log10_p(3, [law, even, even]) == pytest.approx((log_chance + math.log(0.25)) / math.log(10))
    assert sum_log10_p(2, [law, even, even]) == pytest.approx(math.log10(0.25))


def test_values_that_are_impossible_have_no_chance() -> None:
    law = np.array([math.log(0.5), math.log(0.5), -math.inf])
    found = [sum_log10_p(k, [law], copies=2) for k in range(5)]
    assert found == pytest.approx([0, math.log10(0.75), math.log10(0.25), -math.inf, -math.inf], abs=1e-8)


def test_sums_of_whole_numbers_far_out() -> None:
    """200 Bernoulli numbers are binomial, 1e-120 included."""
    law = np.log([0.75, 0.25])
    for k in (30, 50, 80, 150, 199, 200):
        assert sum_log10_p(k, [law], copies=200) == pytest.approx(
            float(counts_log10_p(k, 200, 0.25)), abs=1e-8
        )
    assert sum_log10_p(0, [law]) == 0
    with pytest.raises(ValueError, match="at most 2"):
        sum_log10_p(3, [law, law])


# Defects found in published detectors, by their number in docs/texts.md.


def test_1_a_threshold_on_z_is_no_rate() -> None:
    """z > 4 at 20 ids and a quarter green: nominal 3.2e-5, in truth 5.8 times that."""
    count = math.floor(20 * 0.25 + 4 * math.sqrt(20 * 0.25 * 0.75)) + 1
    assert 10 ** float(counts_log10_p(count, 20, 0.25)) > 5 * stats.norm.sf(4)


def test_2_counted_repeats_claim_clean_texts() -> None:
    """A phrase 25 times: z > 4 in more than one of ten."""
    phrases = clean(400, 12, 8).repeat(1, 25)
    mark = TextMark(V, 1, "splitmix64")
    key = torch.tensor([stream(ME, "kgw")])
    green, scored = text_scores(phrases, key, mark, dedup="all")
    z = (green[:, 0] - 0.25 * scored) / (0.1875 * scored).sqrt()
    assert (z > 4).double().mean() > 0.1
    found = scheme("kgw").examine(texts_of(phrases), [ME], V)
    assert (found.log10_p < math.log10(1e-3)).sum() <= bounds(400, 1e-3, 1e-3)[1]


def test_3_ids_65536_apart_have_their_own_words() -> None:
    ids = torch.tensor([[5, 9, 11], [5, 9, 11 + 2**16]])
    theirs = TransformersSynthId(3).g_values(ids, list(range(30)))
    assert torch.equal(theirs[0], theirs[1])
    ours = words_reference(ids[:, :2], ids[:, 2], 77)
    assert int(ours[0]) != int(ours[1])


def test_4_bits_are_fair() -> None:
    """The table of transformers is not half ones, and the null that we give it knows; 640,000 bits of ours are."""
    entries = torch.randint(0, 2, (2**16,), generator=torch.Generator().manual_seed(0)).double()
    law = TransformersSynthId(2).law(clean(1, 500, 2)[0])
    assert entries.mean() != 0.5
    assert float(np.exp(law) @ np.arange(len(law))) == pytest.approx(500 * float(entries.mean()))
    found = scheme("synthid").examine(texts_of(clean(1, 20_000, 4)), [ME], V)
    assert abs(found.statistic[0, 0]) < 4


def test_5_a_threshold_on_a_mean_is_no_rate() -> None:
    """mean > 0.52 of 30 layers at 30 ids: more than one clean text in ten."""
    count = math.floor(0.52 * 900) + 1
    assert 10 ** float(counts_log10_p(count, 900, 0.5)) > 0.1


def test_6_windows_do_not_collapse() -> None:
    """A product of ids is the same in every order, and 0 with one id 0: 1,000 windows of ten ids have few seeds."""
    windows = torch.randint(0, 10, (1000, 4), generator=torch.Generator().manual_seed(2)).unique(dim=0)
    words = words_reference(windows, torch.zeros(len(windows), dtype=torch.int64), 5)
    assert len(windows.prod(1).unique()) < len(windows) / 3
    assert len(words.unique()) == len(windows)


def test_7_the_sum_is_standardised_by_its_own_spread() -> None:
    """-ln(1 - u) has variance 1, not pi^2 / 6."""
    found = scheme("gumbel").examine(texts_of(clean(4000, 60, 6)), [ME], V)
    assert abs(float(found.statistic.std()) - 1) < 0.05


def test_8_a_marked_prompt_is_no_evidence() -> None:
    """A reader who quotes a marked text wrote nothing of it; nor does a model that goes on by copying its prompt."""
    mark, draw = scheme("kgw"), torch.Generator().manual_seed(4)
    prompt = [3]
    for _ in range(80):
        logits = mark.adjusted(torch.randn(1, V, generator=draw), torch.tensor([prompt]), ME)
        prompt.append(int(logits.argmax()))
    clean_ids = clean(1, 40, 5)[0].tolist()
    whole = Texts.of([prompt + clean_ids])
    told = Texts.of([prompt + clean_ids], [len(prompt)])
    copied = Texts.of([prompt + prompt[1:]], [len(prompt)], corpus=True)
    p = [float(mark.examine(texts, [ME], V).log10_p[0, 0]) for texts in (whole, told, copied)]
    assert p[0] < -10
    assert min(p[1:]) > -2


def test_9_words_are_the_same_in_every_process() -> None:
    """By their values: nothing is drawn from a generator that a process seeds."""
    window, ids = torch.tensor([[1, 2, 3, 4]]), torch.tensor([5])
    assert [int(words_reference(window, ids, 6, prf)) for prf in ("philox", "splitmix64")] == [
        2746723987,
        3642850228,
    ]
    assert stream(Secret(bytes(32)), "kgw") == -2791046000878917689
