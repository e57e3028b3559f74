"""Generator and detector together: marked text is found by its own key alone, and clean text follows the null it is judged by."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from assay.kernels.text_dedup import scored_positions
from assay.kernels.text_generation import gumbel_argmax, tournament
from assay.kernels.text_green import green_bias, green_mask
from assay.kernels.text_mark import Prf, TextMark
from assay.kernels.text_scores import text_scores
from assay.kernels.text_words import vocabulary_words

V, TEXTS, LENGTH = 1000, 4, 160
PRFS: tuple[Prf, ...] = ("philox", "splitmix64")
KEY = torch.tensor([0x1234_5678_9ABC_DEF])
MODEL_VV = 2 * torch.randn(V, V, generator=torch.Generator().manual_seed(1))
"""A toy model: the logits of the next id, given the last."""

Step = Callable[[Tensor, Tensor], Tensor]


def written(width: int, step: Step | None = None) -> Tensor:
    """(TEXTS, LENGTH) ids; without `step`, sampled from the model. A draw by the key alone repeats itself once its window does,
    so that Gumbel text needs windows of 4 here."""
    draw = torch.Generator().manual_seed(2)
    ids_BT = torch.randint(0, V, (TEXTS, max(1, width)), generator=draw)
    while ids_BT.shape[1] < LENGTH:
        logits_BV = MODEL_VV[ids_BT[:, -1]]
        windows_BH = ids_BT[:, ids_BT.shape[1] - width :]
        if step is None:
            next_B = torch.multinomial(torch.softmax(logits_BV, -1), 1, generator=draw)[:, 0]
        else:
            next_B = step(logits_BV, windows_BH)
        ids_BT = torch.cat((ids_BT, next_B[:, None]), 1)
    return ids_BT


def with_bias(mark: TextMark, payload_B: Tensor | None = None) -> Step:
    draw = torch.Generator().manual_seed(3)

    def step(logits_BV: Tensor, windows_BH: Tensor) -> Tensor:
        biased_BV = green_bias(logits_BV, windows_BH, KEY, mark, 3.0, payload_B)
        return torch.multinomial(torch.softmax(biased_BV, -1), 1, generator=draw)[:, 0]

    return step


def with_tournament(mark: TextMark) -> Step:
    draw = torch.Generator().manual_seed(3)

    def step(logits_BV: Tensor, windows_BH: Tensor) -> Tensor:
        words_BV = vocabulary_words(windows_BH, KEY, mark)
        p_BV = tournament(torch.softmax(logits_BV.double(), -1), words_BV, mark.depth)
        return torch.multinomial(p_BV.clamp(min=0), 1, generator=draw)[:, 0]

    return step


def p_values(ids_BT: Tensor, mark: TextMark, keys_K: Tensor) -> NDArray[np.float64]:
    """(B, K[, P]) by scipy's exact tails."""
    scores = text_scores(ids_BT, keys_K, mark, dedup="v2")
    statistic, count = scores.statistic.numpy(), scores.scored_B.numpy()
    count = count.reshape(-1, *[1] * (statistic.ndim - 1))
    if mark.statistic == "gumbel":
        return np.asarray(stats.gamma.sf(statistic, np.maximum(count, 1)))
    if mark.statistic == "layers":
        return np.asarray(stats.binom.sf(statistic.sum(-1) - 1, mark.depth * count[..., 0], 0.5))
    return np.asarray(stats.binom.sf(statistic - 1, count, mark.gamma))


OTHERS = torch.arange(1, 201) * 0x9E37_79B9_7F4A_7C1


def assert_found(marked_BT: Tensor, clean_BT: Tensor, mark: TextMark) -> None:
    """By its own key, by no other one, and nothing in clean text. 800 p-values are above 1e-7 but in one case of 10,000."""
    assert (p_values(marked_BT, mark, KEY) < 1e-9).all()
    assert (p_values(marked_BT, mark, OTHERS) > 1e-7).all()
    assert (p_values(clean_BT, mark, torch.cat((KEY, OTHERS))) > 1e-7).all()


@pytest.mark.parametrize("prf", PRFS)
def test_green_text_is_found(prf: Prf) -> None:
    mark = TextMark(V, 2, prf)
    assert_found(written(2, with_bias(mark)), written(2), mark)


@pytest.mark.parametrize("prf", PRFS)
def test_unigram_text_is_found_among_its_distinct_ids(prf: Prf) -> None:
    """One green list for every position: the ids count once, drawn without replacement from the vocabulary (hypergeometric)."""
    mark = TextMark(V, 0, prf)
    green_V = green_mask(torch.zeros(1, 0, dtype=torch.int64), KEY, mark)[0]
    for ids_BT, found in ((written(0, with_bias(mark)), True), (written(0), False)):
        scores = text_scores(ids_BT, KEY, mark, dedup="v2")
        for b, ids_T in enumerate(ids_BT):
            distinct = torch.unique(ids_T)
            assert scores.scored_B[b] == len(distinct)
            assert scores.statistic[b, 0] == green_V[distinct].sum()
        p_B = stats.hypergeom.sf(scores.statistic[:, 0] - 1, V, int(green_V.sum()), scores.scored_B.numpy())
        assert (p_B < 1e-9).all() if found else (p_B > 1e-4).all()


@pytest.mark.parametrize("prf", PRFS)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_gumbel_text_is_found(prf: Prf, temperature: float) -> None:
    mark = TextMark(V, 4, prf, "gumbel")
    step = lambda logits_BV, windows_BH: gumbel_argmax(logits_BV, windows_BH, KEY, mark, temperature)  # noqa: E731
    assert_found(written(4, step), written(4), mark)


@pytest.mark.parametrize("prf", PRFS)
def test_tournament_text_is_found(prf: Prf) -> None:
    mark = TextMark(V, 2, prf, "layers", depth=30)
    assert_found(written(2, with_tournament(mark)), written(2), mark)


@pytest.mark.parametrize("prf", PRFS)
@pytest.mark.parametrize("statistic", ["green", "gumbel"])
def test_messages_are_read(prf: Prf, statistic: str) -> None:
    """Each text carries its own; all 100 messages are scored in one pass, and the sent one wins."""
    mark = TextMark(V, 4, prf, "green" if statistic == "green" else "gumbel", payloads=100)
    message_B = torch.tensor([0, 1, 42, 99])
    gumbel: Step = lambda logits_BV, windows_BH: gumbel_argmax(  # noqa: E731
        logits_BV, windows_BH, KEY, mark, payload_B=message_B
    )
    marked_BT = written(4, with_bias(mark, message_B) if statistic == "green" else gumbel)
    p_BP = p_values(marked_BT, mark, KEY)[:, 0]
    assert p_BP.argmin(1).tolist() == message_B.tolist()
    assert (p_BP.min(1) < 1e-9).all()
    sent = np.eye(100, dtype=bool)[message_B]
    assert (p_BP[~sent] > 1e-7).all()
    assert (p_values(written(4), mark, KEY) > 1e-7).all()


def test_text_is_lost_by_another_mark() -> None:
    """Whatever the card names must agree: the function, the width, the vocabulary of a message, the message's absence."""
    mark = TextMark(V, 4, "philox", "gumbel", payloads=V)
    seven_B = torch.full((TEXTS,), 7)
    step: Step = lambda logits_BV, windows_BH: gumbel_argmax(  # noqa: E731
        logits_BV, windows_BH, KEY, mark, payload_B=seven_B
    )
    marked_BT = written(4, step)
    assert (p_values(marked_BT, mark, KEY)[:, 0, 7] < 1e-9).all()
    for other in (
        TextMark(V, 4, "splitmix64", "gumbel", payloads=V),
        TextMark(V, 3, "philox", "gumbel", payloads=V),
        TextMark(V, 4, "philox", "gumbel"),
    ):
        assert (p_values(marked_BT, other, KEY) > 1e-7).all()


def test_a_prompt_that_is_marked_accuses_nobody() -> None:
    """Scored with its marked prompt, clean text is found; with the prompt as context it is not, even where it copies from it."""
    mark = TextMark(V, 2)
    prompt_BT = written(2, with_bias(mark))
    ids_BT = torch.cat((prompt_BT, written(2)[:, 2:], prompt_BT), 1)
    context_B = torch.full((TEXTS,), LENGTH)
    together = text_scores(ids_BT, KEY, mark)
    assert (stats.binom.sf(together.statistic[:, 0] - 1, together.scored_B, 0.25) < 1e-9).all()
    scored_BT = scored_positions(ids_BT, 2, context_B=context_B)
    apart = text_scores(ids_BT, KEY, mark, scored_BT=scored_BT)
    assert (apart.scored_B > 100).all()
    assert (stats.binom.sf(apart.statistic[:, 0] - 1, apart.scored_B, 0.25) > 1e-4).all()


# --- the null: clean text under keys drawn at random


def chance_of_counts(counts: NDArray[np.int64], trials: int, chance: float) -> float:
    """chi-square p of binomial counts, in cells of equal expected size."""
    inner = np.unique(stats.binom.ppf(np.arange(1, 20) / 20, trials, chance))
    edges = np.concatenate(([-1], inner, [trials]))
    expected = np.diff(stats.binom.cdf(edges, trials, chance)) * len(counts)
    observed = np.histogram(counts, np.concatenate(([-0.5], inner + 0.5, [trials + 0.5])))[0]
    kept = expected > 0
    return float(
        stats.chisquare(observed[kept], expected[kept] * observed.sum() / expected[kept].sum()).pvalue
    )


RANDOM_KEYS = torch.randint(-(2**63), 2**63 - 1, (3000,), generator=torch.Generator().manual_seed(9))


@pytest.mark.parametrize("prf", PRFS)
@pytest.mark.parametrize("gamma", [0.25, 0.1])
def test_clean_counts_are_binomial(prf: Prf, gamma: float) -> None:
    scores = text_scores(written(1)[:1], RANDOM_KEYS, TextMark(V, 1, prf, gamma=gamma))
    assert chance_of_counts(scores.statistic[0].numpy(), int(scores.scored_B[0]), gamma) > 1e-4


@pytest.mark.parametrize("prf", PRFS)
def test_clean_unigram_counts_are_binomial_over_keys(prf: Prf) -> None:
    """Over keys the green list is drawn anew for each id, so that the count of distinct ids is Bin(m, gamma)."""
    scores = text_scores(written(1)[:1], RANDOM_KEYS, TextMark(V, 0, prf), dedup="v2")
    assert chance_of_counts(scores.statistic[0].numpy(), int(scores.scored_B[0]), 0.25) > 1e-4


@pytest.mark.parametrize("prf", PRFS)
def test_clean_sums_are_gamma(prf: Prf) -> None:
    scores = text_scores(written(1)[:1], RANDOM_KEYS, TextMark(V, 1, prf, "gumbel"))
    null = stats.gamma(int(scores.scored_B[0]))
    assert stats.kstest(scores.statistic[0].numpy(), null.cdf).pvalue > 1e-4


@pytest.mark.parametrize("prf", PRFS)
def test_clean_layers_are_binomial_in_sum_each_and_weighted(prf: Prf) -> None:
    scores = text_scores(written(1)[:1], RANDOM_KEYS, TextMark(V, 1, prf, "layers"))
    ones_KL, count = scores.statistic[0].numpy(), int(scores.scored_B[0])
    assert chance_of_counts(ones_KL.sum(1), 32 * count, 0.5) > 1e-4
    for layer in (0, 1, 15, 31):
        assert chance_of_counts(ones_KL[:, layer], count, 0.5) > 1e-4
    weight_L = np.linspace(10, 1, 32)
    z_K = (ones_KL @ weight_L - 0.5 * count * weight_L.sum()) / np.sqrt(0.25 * count * (weight_L**2).sum())
    assert stats.kstest(z_K, "norm").pvalue > 1e-4


@pytest.mark.parametrize("prf", PRFS)
def test_clean_messages_are_binomial_each(prf: Prf) -> None:
    scores = text_scores(written(1)[:1], RANDOM_KEYS, TextMark(V, 1, prf, payloads=5))
    for m in range(5):
        assert chance_of_counts(scores.statistic[0, :, m].numpy(), int(scores.scored_B[0]), 0.25) > 1e-4
    pairs = np.corrcoef(scores.statistic[0].numpy().T) - np.eye(5)
    assert np.abs(pairs).max() < 5 / np.sqrt(3000)


def test_long_clean_text_does_not_drift() -> None:
    """SynthID-Text's table has not mean 1/2: 20,000 clean tokens drift by up to 7 sd. Here z is normal over keys."""
    ids_BT = torch.randint(0, 50_257, (1, 20_000), generator=torch.Generator().manual_seed(0))
    mark = TextMark(50_257, 4, "splitmix64", "layers", depth=30)
    scores = text_scores(ids_BT, RANDOM_KEYS[:200], mark)
    total = 30 * int(scores.scored_B[0])
    z_K = (scores.statistic[0].sum(-1).numpy() - total / 2) / np.sqrt(total / 4)
    assert stats.kstest(z_K, "norm").pvalue > 1e-4
    assert np.abs(z_K).max() < 4.5


def test_equal_texts_of_one_key_are_no_new_evidence() -> None:
    """Null p-values need independent words: over texts that share windows, a corpus must count each window once."""
    ids_BT = written(1)[:1].expand(50, -1)
    alone = text_scores(ids_BT[:1], RANDOM_KEYS[:5], TextMark(V, 1))
    scored_BT = scored_positions(ids_BT, 1, corpus=True)
    corpus = text_scores(ids_BT, RANDOM_KEYS[:5], TextMark(V, 1), scored_BT=scored_BT)
    assert corpus.scored_B.tolist() == [int(alone.scored_B[0])] + [0] * 49
    assert torch.equal(corpus.statistic.sum(0), alone.statistic[0])
