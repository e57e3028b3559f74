"""Detectors for other libraries' texts against those libraries: transformers generates and counts, we count the same."""

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from assay.kernels.philox import MASK, blocks
from assay.watermarks.llm.compat_kgw import TransformersKgw, greens_log10_p
from assay.watermarks.llm.compat_synthid import TransformersSynthId, absorbed
from assay.watermarks.llm.compat_vllm import VllmGumbel, derived
from assay.watermarks.llm.corpus import Texts
from assay.watermarks.llm.permutation import Lists, first_places

transformers = pytest.importorskip("transformers")
V, TOKENS, KEY = 211, 40, 15_485_863
LAYERS = [654, 400, 836, 123, 340, 443, 597, 160, 57]


@cache
def gpt2() -> Any:
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=V, n_positions=128, n_embd=16, n_layer=1, n_head=2, bos_token_id=V - 1, eos_token_id=V - 1
    )
    return transformers.GPT2LMHeadModel(config).eval()


def generated(marking: Any) -> Tensor:
    """(3, TOKENS) ids after a prompt of 6."""
    torch.manual_seed(1)
    prompts = torch.randint(0, V - 1, (3, 6))
    options = {"do_sample": True, "max_new_tokens": TOKENS, "min_new_tokens": TOKENS, "pad_token_id": V - 1}
    out: Tensor = gpt2().generate(
        prompts, attention_mask=torch.ones_like(prompts), watermarking_config=marking, **options
    )
    return out[:, 6:]


@pytest.mark.parametrize(
    ("vocabulary", "first"), [(2, 1), (100, 25), (1000, 999), (1000, 1000), (50_257, 12_564)]
)
@pytest.mark.parametrize("seed", [0, KEY * 977, 2**64 - 2])
def test_the_first_of_a_permutation_are_torchs(seed: int, vocabulary: int, first: int) -> None:
    order = torch.randperm(vocabulary, generator=torch.Generator().manual_seed(seed))
    ids = list(range(min(vocabulary, 300)))
    expected = torch.isin(torch.tensor(ids), order[:first]).tolist()
    found = Lists(vocabulary, first)
    assert found.among(seed, ids[:9]) == expected[:9]
    assert found.packed.cache_info().currsize == 0, "few ids, for the first time"
    assert found.among(seed, ids) == expected
    assert found.packed.cache_info().currsize == 1


def test_a_list_that_many_ids_were_asked_of_answers_the_next_few() -> None:
    found, ids = Lists(100, 25), list(range(100))
    answers = found.among(3, ids)
    assert found.among(3, ids[:2]) == answers[:2]
    assert found.packed.cache_info().hits == 1


@pytest.mark.parametrize(("vocabulary", "first"), [(2, 1), (7, 0), (100, 25), (1000, 999), (1000, 1000)])
def test_all_places_are_followed_at_once(vocabulary: int, first: int) -> None:
    for seed in range(50):
        order = torch.randperm(vocabulary, generator=torch.Generator().manual_seed(seed))
        assert set(np.flatnonzero(first_places(seed, vocabulary, first))) == set(order[:first].tolist())


def test_as_many_lists_are_kept_as_their_bytes_allow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("assay.watermarks.llm.permutation.BYTES", 50)
    monkeypatch.setattr("assay.watermarks.llm.permutation.ASKED", 6)
    found, ids = Lists(100, 25), list(range(100))
    first = [found.among(seed, ids) for seed in range(9)]
    assert found.packed.cache_info().currsize == 4  # of 100 bits each
    assert [found.among(seed, ids[:3]) for seed in range(9)] == [answers[:3] for answers in first]
    assert len(found.asked) <= 6


@pytest.mark.parametrize(
    ("scheme", "width"), [("lefthash", 1), ("lefthash", 3), ("selfhash", 4), ("selfhash", 1)]
)
def test_counts_are_transformers(scheme: Any, width: int) -> None:
    marking = transformers.WatermarkingConfig(
        bias=4.0, greenlist_ratio=0.3, seeding_scheme=scheme, context_width=width, hashing_key=KEY
    )
    ids_BT = generated(marking)
    ids_BT[1, 20:40] = ids_BT[1, :20].clone()  # repeats
    ours = TransformersKgw(0.3, scheme, width)
    for unique in (False, True):
        theirs = transformers.WatermarkDetector(gpt2().config, "cpu", marking, ignore_repeated_ngrams=unique)(
            ids_BT, return_dict=True
        )
        scored_B, green_B = ours.counts(ids_BT, KEY, V, unique)
        assert scored_B.tolist() == theirs.num_tokens_scored.tolist()
        assert green_B.tolist() == theirs.num_green_tokens.tolist()
    found = ours.examine(Texts.of(ids_BT.tolist()), [KEY, KEY + 1], V)
    assert (found.log10_p[[0, 2], 0] < -3).all()
    assert (found.log10_p[:, 1] > -3).all()


def test_the_list_after_id_0_is_every_keys_and_no_evidence() -> None:
    ids = [7, 0, 5, 9]
    found = TransformersKgw().examine(Texts.of([ids]), [KEY, KEY + 2], V)
    assert found.scored.tolist() == [[2, 2]]


def test_green_ids_of_seeds_sum_up_as_by_hand() -> None:
    """Two seeds with 1 id, one with 4, of lists of 12 ids in 40; and one with 30, of which 2 must be green."""
    masses = [stats.hypergeom(40, 12, d).pmf(np.arange(min(d, 12) + 1)) for d in (1, 1, 4, 30)]
    law = np.ones(1)
    for mass in masses:
        law = np.convolve(law, mass)
    found = [10 ** greens_log10_p(k, ((1, 2), (4, 1), (30, 1)), 40, 12) for k in range(len(law))]
    np.testing.assert_allclose(found, law[::-1].cumsum()[::-1], rtol=1e-8)


@pytest.mark.parametrize(("scheme", "count"), [("lefthash", 500), ("selfhash", 100)])
def test_p_of_repeated_seeds_is_valid_over_keys(scheme: Any, count: int) -> None:
    """A text of eight different ids: every seed comes with many ids, and the lists alone are random."""
    draw, vocabulary = np.random.default_rng(4), 40
    texts = Texts.of([draw.integers(1, 9, 120).tolist()])
    keys = draw.integers(2**20, 2**40, count).tolist()
    found = TransformersKgw(0.3, scheme, 1 if scheme == "lefthash" else 3).examine(texts, keys, vocabulary)
    for rate in (0.5, 0.2, 0.05, 0.01):
        claims = (found.log10_p[0] <= np.log10(rate)).sum()
        assert stats.binom.ppf(1e-5, count, rate / 4) <= claims <= stats.binom.ppf(1 - 1e-5, count, rate)


def test_what_counts_is_a_new_pair_of_seed_and_id() -> None:
    """As many as transformers' different bigrams; a pair of the prompt is no news, its seed with another id is."""
    ids, scheme = [7, 5, 7, 6, 7, 5, 9, 7, 8], TransformersKgw()
    scored, _ = scheme.counts(torch.tensor([ids]), KEY, V, ignore_repeated=True)
    assert scheme.examine(Texts.of([ids]), [KEY], V).scored[0, 0] == scored[0] == 7
    _, scored_BT = scheme.terms(Texts.of([ids], [4]), KEY, V)
    assert scored_BT[0].tolist() == [False] * 4 + [True, False, True, True, True]


def test_a_prompt_enters_no_synthid_context() -> None:
    """Behind a prompt a text counts as alone, but for n-grams which that holds."""
    scheme = TransformersSynthId(4)
    ids = [*range(10, 30), *range(12, 18), 50, 51]
    alone, prompt = Texts.of([ids]), [1, 2, 3, 40, 11, 12, 13, 41]
    told = Texts.of([prompt + ids], [len(prompt)])
    assert scheme.scored(told)[0, len(prompt) :].tolist() == scheme.scored(alone)[0].tolist()
    a, b = (scheme.examine(texts, [LAYERS], V) for texts in (alone, told))
    assert (a.scored.item(), a.log10_p.item()) == (b.scored.item(), b.log10_p.item())
    quoted = scheme.scored(Texts.of([[10, 11, 12, 13, *ids]], [4]))[0, 4:]
    assert (quoted != scheme.scored(alone)[0]).nonzero().tolist() == [[3]]


def test_vllm_windows_of_a_stretch_hold_the_ids_before_it() -> None:
    scheme, key = VllmGumbel(), 12345
    whole = Texts.of([vllm_text(scheme, key, 40)])
    part = whole.stretches(scheme.scored(whole), [20], 6, scheme.width)
    assert scheme.examine(part, [key], V).scored[0, 0] == 6
    every = scheme.uniforms(whole, key)[0, 20:26]
    assert torch.equal(scheme.uniforms(part, key)[0, 4:], every)


def test_synthid_values_masks_and_means_are_transformers() -> None:
    marking = transformers.SynthIDTextWatermarkingConfig(keys=LAYERS, ngram_len=4, context_history_size=32)
    ids_BT = generated(marking)
    ids_BT[1, 20:] = ids_BT[1, :20].clone()
    ids_BT[2, 3:] = 7
    theirs = marking.construct_processor(V, torch.device("cpu"))
    ours = TransformersSynthId(4, context_history_size=32)
    assert torch.equal(ours.g_values(ids_BT, LAYERS), theirs.compute_g_values(ids_BT))
    mask_BN = theirs.compute_context_repetition_mask(ids_BT)
    assert torch.equal(ours.context_mask(ids_BT), mask_BN)
    g_BNL = theirs.compute_g_values(ids_BT) * mask_BN[..., None]
    expected_B = g_BNL.sum((1, 2)) / (len(LAYERS) * mask_BN.sum(1))
    assert torch.equal(ours.mean(ids_BT, LAYERS), expected_B)
    found = ours.examine(Texts.of(ids_BT.tolist()), [LAYERS, [key + 1 for key in LAYERS]], V)
    assert found.log10_p[0, 0] < -3 < found.log10_p[:, 1].min()


def test_the_law_of_a_synthid_layer_is_that_of_all_keys() -> None:
    """Every one of the 65,536 keys that differ, in turn."""
    scheme = TransformersSynthId(3)
    ids = torch.randint(0, 500, (1, 14), generator=torch.Generator().manual_seed(3))
    hash_N = scheme.hashes(ids, 3)[0]
    entries = torch.randint(0, 2, (2**16,), generator=torch.Generator().manual_seed(0))
    sums = entries[absorbed(hash_N[:, None], torch.arange(2**16)) % 2**16].sum(0)
    expected = torch.bincount(sums, minlength=len(hash_N) + 1) / 2**16
    np.testing.assert_allclose(np.exp(scheme.law(hash_N)), expected.numpy(), atol=1e-12)


def test_ids_that_share_a_hash_do_not_fool_the_synthid_null() -> None:
    """v and v + 65,536 always agree, and the table's mean is not 1/2: a binomial null would claim far more than 5 % of clean texts
    whose windows say the same thing ten times."""
    scheme, rng = TransformersSynthId(2), np.random.default_rng(0)
    base = rng.integers(0, 2**16, (40, 1))
    first = (base + 2**16 * np.arange(10)).reshape(-1)
    rows = [[int(v) for pair in zip(first, np.roll(first, 1) % 2**16, strict=True) for v in pair]]
    keys = [rng.integers(0, 2**40, 4).tolist() for _ in range(400)]
    found = scheme.examine(Texts.of(rows), keys, 2**20)
    claims = (found.log10_p[0] <= np.log10(0.05)).sum()
    assert claims <= stats.binom.ppf(1 - 1e-4, len(keys), 0.05)
    ones = np.array([float(scheme.g_values(Texts.of(rows).ids_BT, key).sum()) for key in keys])
    count = 4 * (len(rows[0]) - 1)
    assert (stats.norm.sf((ones - count / 2) / np.sqrt(count / 4)) < 0.05).mean() > 0.1


def test_philox_is_random123s() -> None:
    """Known answers of Salmon et al.'s kat_vectors: counters and keys of zeros, of ones, and of pi."""
    counters = [[0] * 4, [MASK] * 4, [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344]]
    keys = [(0, 0), (MASK, MASK), (0xA4093822, 0x299F31D0)]
    answers = [
        [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8],
        [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ]
    for counter, key, answer in zip(counters, keys, answers, strict=True):
        assert blocks(torch.tensor([counter]), key)[0].tolist() == answer


def vllm_text(scheme: VllmGumbel, key: int, tokens: int) -> list[int]:
    """By the definition: windows of generated ids, padded with -1 before the first."""
    from assay.kernels.text_prf import uniforms, words_reference, wrapped

    rng, ids = np.random.default_rng(5), [-1] * scheme.context_width
    for _ in range(tokens):
        one = (
            key
            if scheme.algorithm == "gumbel"
            else derived(key, rng.choice(["key_a", "key_b"], p=[0.9, 0.1]))
        )
        window_1H = torch.tensor([ids[-scheme.context_width :]]).expand(V, -1)
        u_V = uniforms(words_reference(window_1H, torch.arange(V), wrapped(one))).numpy()
        logits_V = rng.normal(size=V) * 2
        ids.append(int(np.argmax(logits_V - np.log(-np.log(u_V)))))
    return ids[scheme.context_width :]


@pytest.mark.parametrize("algorithm", ["gumbel", "dual_key_gumbel"])
def test_vllm_texts_are_found_from_their_first_id(algorithm: Any) -> None:
    scheme, key = VllmGumbel(algorithm), 2**63 + 12345
    rows = [vllm_text(scheme, key, 40), np.random.default_rng(1).integers(0, V, 40).tolist()]
    found = scheme.examine(Texts.of(rows), [key, 7], V)
    assert found.scored[0, 0] == 40
    assert found.log10_p[0, 0] < -6
    assert min(found.log10_p[0, 1], *found.log10_p[1]) > -3


def test_vllm_keys_are_derived_as_documented() -> None:
    import hashlib

    digest = hashlib.sha256(b"key_a" + (5).to_bytes(8, "big")).hexdigest()
    assert f"{derived(5, 'key_a'):016x}" == digest[:16]


def test_vllm_windows_hold_no_prompt() -> None:
    with pytest.raises(ValueError, match="leave the prompt out"):
        VllmGumbel().examine(Texts.of([[1, 2, 3]], [1]), [5], V)
