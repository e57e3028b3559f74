"""Scored positions against sets of windows; why repeats and prompts must not count."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from assay.kernels import text_dedup
from assay.kernels.text_dedup import (
    Dedup,
    first_of_runs,
    first_of_runs_sorted,
    scored_positions,
    scored_reference,
    window_keys,
    window_keys_reference,
    window_keys_triton,
)
from assay.kernels.text_mark import TextMark
from assay.kernels.text_scores import text_scores

MODES: tuple[Dedup, ...] = ("all", "v1", "v2")
ODD = (0, 1, 7, 31, 129)


def drawn(texts: int, length: int, *seed: int, ids: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """Texts of few different ids, so that windows repeat; lengths and prompts of any size."""
    draw = torch.Generator().manual_seed(hash((texts, length, seed)) & 0xFFFF)
    ids_BT = torch.randint(0, ids, (texts, length), generator=draw)
    lengths_B, context_B = (torch.randint(0, length + 1, (texts,), generator=draw) for _ in range(2))
    return ids_BT, lengths_B, context_B


@pytest.mark.parametrize("dedup", MODES)
@pytest.mark.parametrize("width", [0, 1, 2, 5])
@pytest.mark.parametrize("length", ODD)
@pytest.mark.parametrize("texts", [0, 1, 7])
def test_positions_equal_sets_of_windows(texts: int, length: int, width: int, dedup: Dedup) -> None:
    ids_BT, lengths_B, context_B = drawn(texts, length)
    full_B = torch.full((texts,), length)
    for corpus in (False, True):
        expected = scored_reference(ids_BT, width, lengths_B, dedup, context_B, corpus)
        found = scored_positions(ids_BT, width, lengths_B, dedup, context_B, corpus=corpus)
        assert found.dtype == torch.bool
        assert torch.equal(found, expected)
        whole = scored_positions(ids_BT, width, dedup=dedup, corpus=corpus)
        assert torch.equal(whole, scored_reference(ids_BT, width, full_B, dedup, corpus=corpus))


@pytest.mark.parametrize("dedup", MODES)
@pytest.mark.parametrize("width", [0, 1, 4])
@pytest.mark.parametrize("length", ODD)
def test_keys_equal_their_definition(length: int, width: int, dedup: Dedup, device: str) -> None:
    ids_BT = drawn(5, length, ids=50_257)[0]
    expected = window_keys_reference(ids_BT, width, dedup)
    assert torch.equal(window_keys(ids_BT, width, dedup), expected)
    for integers in (ids_BT, ids_BT.to(torch.int32)):
        assert torch.equal(window_keys_triton(integers.to(device), width, dedup).cpu(), expected)


def test_keys_of_long_texts_and_any_stride(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    ids_BT = drawn(6, 300, ids=50_257)[0]
    expected = window_keys_reference(ids_BT, 4)
    assert torch.equal(window_keys(ids_BT.T.contiguous().T, 4), expected)
    assert torch.equal(
        window_keys_triton(ids_BT.to(device)[::2, ::3], 4).cpu(), window_keys(ids_BT[::2, ::3], 4)
    )
    for chunk in (1, 7, 299, 300, 301, 700):
        monkeypatch.setattr(text_dedup, "CHUNK", chunk)
        assert torch.equal(window_keys(ids_BT, 4), expected)


def test_no_memory_is_left_unwritten(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    ids_BT, lengths_B, _ = drawn(5, 31)
    expected = window_keys_reference(ids_BT, 2), scored_reference(ids_BT, 2, lengths_B)
    fresh = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *shape, **options: fresh(*shape, **options).fill_(77))
    assert torch.equal(window_keys_triton(ids_BT.to(device), 2).cpu(), expected[0])
    assert torch.equal(scored_positions(ids_BT, 2, lengths_B), expected[1])


@pytest.mark.parametrize("distinct", [1, 2, 50])
@pytest.mark.parametrize("length", ODD)
def test_firsts_by_every_sort(length: int, distinct: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values with their places packed in, a stable sort, and keys that agree in all bits but those the places take."""
    draw = torch.Generator().manual_seed(length)
    for keys_D in (
        torch.randint(-(2**63), 2**63 - 1, (distinct,), generator=draw),
        torch.randint(0, 64, (distinct,), generator=draw) - 32,
        torch.randint(0, 4, (distinct,), generator=draw) + 2**63 - 4,
    ):
        keys_RT = keys_D[torch.randint(0, distinct, (4, length), generator=draw)]
        found = first_of_runs(keys_RT)
        assert torch.equal(found, first_of_runs_sorted(keys_RT))
        for row, keys in zip(found.tolist(), keys_RT.tolist(), strict=True):
            assert row == [key not in keys[:t] for t, key in enumerate(keys)]
        with monkeypatch.context() as patch:
            patch.setattr(text_dedup, "PACKED", 0)
            assert torch.equal(first_of_runs(keys_RT), found)


@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(0, 3), st.sampled_from(MODES))
@settings(max_examples=40, deadline=None)
def test_order_of_texts_chunks_and_padding_change_nothing(
    seed: int, texts: int, width: int, dedup: Dedup
) -> None:
    draw = torch.Generator().manual_seed(seed)
    ids_BT = torch.randint(0, 3, (texts, 20), generator=draw)
    lengths_B, context_B = (torch.randint(0, 21, (texts,), generator=draw) for _ in range(2))
    found = scored_positions(ids_BT, width, lengths_B, dedup, context_B)
    order = torch.randperm(texts, generator=draw)
    assert torch.equal(
        scored_positions(ids_BT[order], width, lengths_B[order], dedup, context_B[order]), found[order]
    )
    padded = torch.where(torch.arange(20) < lengths_B[:, None], ids_BT, -100)
    assert torch.equal(scored_positions(padded, width, lengths_B, dedup, context_B), found)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(text_dedup.POSITIONS, "cpu", 1)
        assert torch.equal(scored_positions(ids_BT, width, lengths_B, dedup, context_B), found)


def test_a_window_that_hashes_to_the_padding_still_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        text_dedup, "window_keys", lambda ids, width, dedup: torch.full(ids.shape, text_dedup.LAST)
    )
    found = scored_positions(torch.zeros(1, 5, dtype=torch.int64), 1, torch.tensor([3]))
    assert found.tolist() == [[False, True, False, False, False]]


def test_by_hand() -> None:
    """a b a b a c under h = 1: windows a b a b a, pairs ab ba ab ba ac."""
    ids_BT = torch.tensor([[0, 1, 0, 1, 0, 2]])
    assert scored_positions(ids_BT, 1).tolist() == [[False, True, True, False, False, False]]
    assert scored_positions(ids_BT, 1, dedup="v2").tolist() == [[False, True, True, False, False, True]]
    assert scored_positions(ids_BT, 1, dedup="all").tolist() == [[False, True, True, True, True, True]]
    assert scored_positions(ids_BT, 0, dedup="v2").tolist() == [[True, True, False, False, False, True]]
    assert scored_positions(ids_BT, 0).tolist() == [[True, False, False, False, False, False]]


def test_a_corpus_counts_a_window_once_in_the_order_of_its_texts() -> None:
    ids_BT = torch.tensor([[0, 1, 5], [0, 2, 1]])
    assert scored_positions(ids_BT, 1, corpus=True).tolist() == [[False, True, True], [False, False, True]]
    assert scored_positions(ids_BT, 1, dedup="v2", corpus=True)[1].tolist() == [False, True, True]


def test_what_the_prompt_holds_is_not_new() -> None:
    """Scored with its prompt, or copying from it, a text would be charged with another's mark."""
    ids_BT = torch.tensor([[4, 5, 6, 4, 5, 6, 7]])
    found = scored_positions(ids_BT, 1, context_B=torch.tensor([3]))
    # 4 follows the prompt's last 6, whose continuation is new; the windows 4 and 5 were in the prompt; then 6 repeats.
    assert found.tolist() == [[False, False, False, True, False, False, False]]
    assert not scored_positions(ids_BT, 1, context_B=torch.tensor([7])).any()


@pytest.mark.parametrize("dedup", MODES)
def test_what_was_seen_elsewhere_is_dropped(dedup: Dedup) -> None:
    train_BT, test_BT = drawn(2, 8)[0], drawn(6, 31)[0]
    seen_S = window_keys(train_BT, 2, dedup)[:, 2:].reshape(-1)
    found = scored_positions(test_BT, 2, dedup=dedup, seen_S=seen_S)
    pair = dedup == "v2"
    known = {tuple(row[t - 2 : t + pair]) for row in train_BT.tolist() for t in range(2, 8)}
    expected = scored_reference(test_BT, 2, torch.full((6,), 31), dedup)
    for b, row in enumerate(test_BT.tolist()):
        for t in range(2, 31):
            expected[b, t] &= tuple(row[t - 2 : t + pair]) not in known
    assert torch.equal(found, expected)
    assert torch.equal(scored_positions(test_BT, 2, dedup=dedup, seen_S=seen_S[:0]), expected) == (not known)


def test_two_runs_are_equal_bit_for_bit() -> None:
    ids_BT, lengths_B, context_B = drawn(31, 129)
    runs = [scored_positions(ids_BT, 2, lengths_B, "v1", context_B) for _ in range(2)]
    assert torch.equal(runs[0], runs[1])


@pytest.mark.parametrize("dedup", ["v1", "v2"])
def test_a_repeated_phrase_counts_once(dedup: Dedup) -> None:
    """25 repeats at z > 4 accuse 1 text in 5 when all positions count; scored once, the exact test keeps its level."""
    keys_K = torch.arange(4000) * 7919
    phrase = torch.randperm(1000, generator=torch.Generator().manual_seed(3))[None, :20]
    text_BT = phrase.repeat(1, 25)
    mark = TextMark(1000, width=1)
    everything = text_scores(text_BT, keys_K, mark, dedup="all")
    z_K = (everything.statistic[0] - 0.25 * 499) / np.sqrt(499 * 0.25 * 0.75)
    assert (z_K > 4).float().mean() > 0.1
    once = text_scores(text_BT, keys_K, mark, dedup=dedup)
    assert once.scored_B.tolist() == [20]
    p_K = stats.binom.sf(once.statistic[0].numpy() - 1, 20, 0.25)
    for level in (0.1, 0.01, 1e-3):
        assert stats.binomtest(int((p_K <= level).sum()), 4000, level, alternative="greater").pvalue > 1e-4


def test_bad_input_is_named() -> None:
    ids_BT, lengths_B, _ = drawn(3, 7)
    for ids in (ids_BT[0], ids_BT.float(), ids_BT.bool()):
        with pytest.raises(ValueError, match=r"^ids: expected"):
            scored_positions(ids, 1)
    for lengths in (lengths_B[:2], lengths_B.float(), lengths_B[:, None], lengths_B + 8, lengths_B - 8):
        with pytest.raises(ValueError, match=r"^lengths: expected"):
            scored_positions(ids_BT, 1, lengths)
    with pytest.raises(ValueError, match=r"^context: expected values in \[0, 8\)"):
        scored_positions(ids_BT, 1, context_B=torch.tensor([0, 0, 8]))
    with pytest.raises(ValueError, match=r"^width: expected"):
        scored_positions(ids_BT, -1)
    with pytest.raises(ValueError, match=r"^dedup: expected"):
        scored_positions(ids_BT, 1, dedup="v3")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="one device"):
        scored_positions(ids_BT, 1, torch.empty(3, dtype=torch.int64, device="meta"))
