"""Statistics of texts against their definition: on the CPU and in the kernels, at shapes that fit no tile."""

import math
import tracemalloc
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from assay.kernels import text_payloads, text_scores, text_sums
from assay.kernels.text_dedup import scored_positions
from assay.kernels.text_mark import Prf, Statistic, TextMark
from assay.kernels.text_prf import words_reference
from assay.kernels.text_scores import text_scores_reference

PRFS: tuple[Prf, ...] = ("philox", "splitmix64")
STATISTICS: tuple[Statistic, ...] = ("green", "gumbel", "layers")


class Texts(NamedTuple):
    ids_BT: Tensor
    lengths_B: Tensor
    keys_K: Tensor
    scored_BT: Tensor


def drawn(
    mark: TextMark,
    texts: int,
    length: int,
    keys: int,
    seed: int = 0,
    ragged: bool = True,
    repeats: bool = True,
) -> Texts:
    draw = torch.Generator().manual_seed(seed)
    ids_BT = torch.randint(0, mark.vocabulary, (texts, length), generator=draw)
    if repeats:
        ids_BT[:, length // 2 :] = ids_BT[:, : length - length // 2].clone()
    lengths_B = torch.randint(0, length + 1, (texts,), generator=draw)
    lengths_B = lengths_B if ragged else torch.full((texts,), length)
    keys_K = torch.randint(-(2**63), 2**63 - 1, (keys,), generator=draw)
    return Texts(ids_BT, lengths_B, keys_K, scored_positions(ids_BT, mark.width, lengths_B))


def by_kernel(texts: Texts, mark: TextMark, device: str) -> Tensor:
    launch = text_scores.text_sums_triton if mark.payloads is None else text_payloads.payload_sums_triton
    sums = launch(texts.ids_BT.to(device), texts.scored_BT.to(device), texts.keys_K.to(device), mark).cpu()
    assert sums.dtype == torch.int64
    return sums.double() / 2**32 if mark.statistic == "gumbel" else sums


def assert_same(found: Tensor, expected: Tensor, scored_B: Tensor, error: float) -> None:
    """Integers exactly; sums of logarithms to `error` for every scored position."""
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    if expected.dtype == torch.int64:
        assert torch.equal(found, expected)
    else:
        bound_B = error * scored_B.reshape(-1, *[1] * (expected.ndim - 1))
        assert ((found - expected).abs() <= bound_B).all()


def check(texts: Texts, mark: TextMark, device: str) -> None:
    expected = text_scores_reference(texts.ids_BT, texts.scored_BT, texts.keys_K, mark)
    scores = text_scores.text_scores(texts.ids_BT, texts.keys_K, mark, texts.lengths_B)
    assert torch.equal(scores.scored_B, texts.scored_BT.sum(1))
    assert_same(scores.statistic, expected, scores.scored_B, 1.001 * 2**-33)
    assert_same(by_kernel(texts, mark, device), expected, scores.scored_B, 2**-22)  # a term is at most 16.7


@pytest.mark.parametrize("prf", PRFS)
@pytest.mark.parametrize("statistic", STATISTICS)
@pytest.mark.parametrize(("width", "vocabulary"), [(0, 7), (1, 31), (4, 1000), (5, 128_256)])
def test_statistics_equal_their_definition(
    prf: Prf, statistic: Statistic, width: int, vocabulary: int, device: str
) -> None:
    mark = TextMark(vocabulary, width, prf, statistic, depth=30)
    for texts, length, keys in ((1, 1, 1), (2, 129, 2)):
        check(drawn(mark, texts, length, keys, seed=length), mark, device)


@pytest.mark.parametrize("prf", PRFS)
@pytest.mark.parametrize("statistic", ["green", "gumbel"])
@pytest.mark.parametrize(
    ("width", "vocabulary", "payloads"), [(0, 7, 7), (1, 31, 1), (4, 30, 30), (5, 129, 128), (2, 50_257, 131)]
)
def test_messages_equal_their_definition(
    prf: Prf, statistic: Statistic, width: int, vocabulary: int, payloads: int, device: str
) -> None:
    """Runs that wrap past V begin anywhere; payloads that fit no block of 4; more than one tile."""
    mark = TextMark(vocabulary, width, prf, statistic, payloads=payloads)
    texts = drawn(mark, 1, 12, 1, seed=payloads, ragged=False)
    texts.ids_BT[0, -1] = vocabulary - 1
    check(texts, mark, device)


@pytest.mark.parametrize("partial", [1, 2**24])
def test_messages_of_many_tiles(partial: int, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tile of 16 candidates: some wholly past V, some wholly wrapped; parts of 3 positions, then one text, key and part."""
    monkeypatch.setattr(text_payloads, "SMALL", 4)
    monkeypatch.setattr(text_payloads, "LARGE", 4)
    monkeypatch.setattr(text_payloads, "POSITIONS", 3)
    monkeypatch.setattr(text_payloads, "PARTIAL", partial)
    mark = TextMark(37, 1, "splitmix64", payloads=37)
    texts = drawn(mark, 2, 5, 2, ragged=False, repeats=False)
    texts.ids_BT[:, 2:4] = torch.tensor([36, 0])
    check(texts._replace(scored_BT=scored_positions(texts.ids_BT, 1)), mark, device)


@pytest.mark.parametrize("statistic", STATISTICS)
def test_texts_longer_than_a_program_reads(
    statistic: Statistic, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_scores, "TILE", 16)
    monkeypatch.setattr(text_scores, "TILES", 2)
    monkeypatch.setattr(text_scores, "PARTIAL", 1)  # one text and key at a time
    mark = TextMark(1000, 2, "splitmix64", statistic)
    check(drawn(mark, 3, 70, 2), mark, device)


@pytest.mark.parametrize("statistic", STATISTICS)
def test_no_texts_no_positions_no_keys(statistic: Statistic, device: str) -> None:
    mark = TextMark(31, 2, statistic=statistic)
    for texts, length, keys in ((0, 5, 2), (2, 0, 1), (2, 5, 0), (0, 0, 0)):
        check(drawn(mark, texts, length, keys, repeats=False), mark, device)
    if statistic != "layers":
        carrying = TextMark(31, 2, statistic=statistic, payloads=3)
        for texts, length, keys in ((0, 5, 2), (2, 0, 1), (2, 5, 0)):
            check(drawn(carrying, texts, length, keys, repeats=False), carrying, device)


@pytest.mark.parametrize("width", [0, 1, 4])
def test_texts_shorter_than_a_window_say_nothing(width: int) -> None:
    mark = TextMark(31, width)
    ids_BT = torch.zeros(width + 2, width + 1, dtype=torch.int64)
    scores = text_scores.text_scores(ids_BT, torch.tensor([1, 2]), mark, torch.arange(width + 2))
    assert scores.scored_B.tolist() == [0] * (width + 1) + [1]
    assert (scores.statistic[:-1] == 0).all()


@pytest.mark.parametrize("statistic", STATISTICS)
def test_every_sum_is_written(statistic: Statistic, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *shape, **options: fresh(*shape, **options).fill_(77))
    mark = TextMark(31, 2, "splitmix64", statistic)
    check(drawn(mark, 3, 31, 2), mark, device)
    if statistic != "layers":
        carrying = TextMark(31, 2, "splitmix64", statistic, payloads=5)
        check(drawn(carrying, 1, 7, 1), carrying, device)


@pytest.mark.parametrize("payloads", [None, 5])
def test_ids_of_any_stride_and_integer(payloads: int | None, device: str) -> None:
    mark = TextMark(31, 2, "splitmix64", payloads=payloads)
    whole = drawn(mark, 4, 14, 2, ragged=False, repeats=False)
    strided = whole.ids_BT.T.contiguous().T[::2]
    expected = text_scores_reference(strided, scored_positions(strided, 2), whole.keys_K[::2], mark)
    for ids_BT in (strided, strided.to(torch.int32)):
        found = text_scores.text_scores(ids_BT, whole.keys_K[::2], mark)
        assert torch.equal(found.statistic, expected)
        scored_BT = scored_positions(ids_BT, 2).T.contiguous().T
        kept = Texts(ids_BT, whole.lengths_B[::2], whole.keys_K[::2].contiguous(), scored_BT)
        assert torch.equal(by_kernel(kept, mark, device), expected)


def test_padding_is_never_read() -> None:
    mark = TextMark(31, 2)
    texts = drawn(mark, 5, 20, 2)
    padded = torch.where(torch.arange(20) < texts.lengths_B[:, None], texts.ids_BT, -100)
    found = text_scores.text_scores(padded, texts.keys_K, mark, texts.lengths_B)
    expected = text_scores.text_scores(texts.ids_BT, texts.keys_K, mark, texts.lengths_B)
    assert torch.equal(found.statistic, expected.statistic)


def test_positions_of_the_callers_choice() -> None:
    """Those before the first whole window and past the end are dropped, and the others scored as they come."""
    mark = TextMark(31, 2)
    texts = drawn(mark, 5, 20, 2)
    all_BT = torch.ones(5, 20, dtype=torch.bool)
    found = text_scores.text_scores(texts.ids_BT, texts.keys_K, mark, texts.lengths_B, scored_BT=all_BT)
    expected = text_scores.text_scores(texts.ids_BT, texts.keys_K, mark, texts.lengths_B, dedup="all")
    assert torch.equal(found.scored_B, expected.scored_B)
    assert torch.equal(found.scored_B, (texts.lengths_B - 2).clamp(min=0))
    assert torch.equal(found.statistic, expected.statistic)


@given(
    st.integers(0, 10**6),
    st.sampled_from(PRFS),
    st.sampled_from([(s, None) for s in STATISTICS] + [("green", 9), ("gumbel", 9)]),
)
@settings(max_examples=30, deadline=None)
def test_order_and_chunks_change_nothing(seed: int, prf: Prf, kind: tuple[Statistic, int | None]) -> None:
    """Not a bit, for the sums are of integers."""
    mark = TextMark(31, 2, prf, kind[0], payloads=kind[1])
    texts = drawn(mark, 4, 40, 3, seed)
    found = text_scores.text_scores(texts.ids_BT, texts.keys_K, mark, texts.lengths_B).statistic
    draw = torch.Generator().manual_seed(seed)
    rows, columns = (torch.randperm(size, generator=draw) for size in (4, 3))
    permuted = text_scores.text_scores(texts.ids_BT[rows], texts.keys_K[columns], mark, texts.lengths_B[rows])
    assert torch.equal(permuted.statistic, found[rows][:, columns])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_sums, "CHUNK", 7)
        patch.setattr(text_sums, "POSITIONS", 50)
        chunked = text_scores.text_scores(texts.ids_BT, texts.keys_K, mark, texts.lengths_B)
    assert torch.equal(chunked.statistic, found)


@pytest.mark.parametrize("statistic", STATISTICS)
def test_two_runs_are_equal_bit_for_bit(statistic: Statistic, device: str) -> None:
    mark = TextMark(31, 2, statistic=statistic)
    texts = drawn(mark, 3, 129, 2)
    assert torch.equal(by_kernel(texts, mark, device), by_kernel(texts, mark, device))
    first, second = (text_scores.text_scores(texts.ids_BT, texts.keys_K, mark) for _ in range(2))
    assert torch.equal(first.statistic, second.statistic)


def test_a_byte_counts_every_layer_without_a_carry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Words of ones for more than 255 positions: each counter is full, and none runs into the next."""
    monkeypatch.setattr(text_sums, "word_of", lambda state, candidates, prf: 0 * state[3] + 2**32 - 1)
    mark = TextMark(31, 1, statistic="layers")
    ids_BT = torch.randint(0, 31, (2, 700))
    found = text_scores.text_scores(ids_BT, torch.tensor([1]), mark, torch.tensor([700, 256]), dedup="all")
    assert (found.statistic[0] == 699).all()
    assert (found.statistic[1] == 255).all()


def test_layers_are_the_bits_of_the_words() -> None:
    mark = TextMark(1000, 1, statistic="layers", depth=32)
    ids_BT = torch.tensor([[5, 9]])
    word = int(words_reference(torch.tensor([[5]]), torch.tensor([9]), 77))
    found = text_scores.text_scores(ids_BT, torch.tensor([77]), mark).statistic[0, 0]
    assert found.tolist() == [word >> layer & 1 for layer in range(32)]


def test_gumbel_sums_keep_their_precision_over_long_texts() -> None:
    """20,000 positions against a sum without rounding: each is within 2^-33 of its term."""
    mark = TextMark(50_257, 1, "splitmix64", "gumbel")
    ids_BT = torch.randint(0, 50_257, (1, 20_001), generator=torch.Generator().manual_seed(0))
    found = text_scores.text_scores(ids_BT, torch.tensor([3]), mark, dedup="all").statistic.item()
    words = words_reference(ids_BT[0, :-1, None], ids_BT[0, 1:], 3, "splitmix64").tolist()
    exact = math.fsum(-math.log1p(-((word >> 8) + 1) / (2**24 + 1)) for word in words)
    assert abs(found - exact) <= 20_000 * 2**-33
    assert abs(found - exact) <= 10 * math.sqrt(20_000) * 2**-33  # errors of either sign cancel


@pytest.mark.parametrize(("keys", "payloads"), [(300, None), (2, 4096)])
def test_memory_is_bounded_whatever_the_keys_and_messages(keys: int, payloads: int | None) -> None:
    mark = TextMark(50_257, 4, payloads=payloads)
    texts = drawn(mark, 4, 300, keys, repeats=False)
    result = 4 * keys * (payloads or 1) * 8
    tracemalloc.start()
    text_sums.text_sums(texts.ids_BT, texts.scored_BT, texts.keys_K, mark)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < result + 12 * 2**20


def test_bad_input_is_named() -> None:
    mark = TextMark(31, 2)
    ids_BT, lengths_B, keys_K, scored_BT = drawn(mark, 3, 7, 2, ragged=False)
    bad = ids_BT.clone()
    for value in (-1, 31):
        bad[1, 4] = value
        with pytest.raises(ValueError, match=r"^ids: expected values in \[0, 31\), got"):
            text_scores.text_scores(bad, keys_K, mark)
        text_scores.text_scores(bad, keys_K, mark, torch.tensor([7, 4, 7]))
        with pytest.raises(ValueError, match=r"^ids: expected values in"):
            text_scores.text_scores(bad, keys_K, mark, torch.tensor([7, 5, 7]))
    for ids in (ids_BT[0], ids_BT.float()):
        with pytest.raises(ValueError, match=r"^ids: expected 2 dimensions"):
            text_scores.text_scores(ids, keys_K, mark)
    for keys in (keys_K.double(), keys_K[None], keys_K[0]):
        with pytest.raises(ValueError, match=r"^keys: expected 1 dimensions"):
            text_scores.text_scores(ids_BT, keys, mark)
    for lengths in (lengths_B + 1, lengths_B - 8, lengths_B[:2], lengths_B.float()):
        with pytest.raises(ValueError, match=r"^lengths: expected"):
            text_scores.text_scores(ids_BT, keys_K, mark, lengths)
    for scored in (scored_BT[:, :-1], scored_BT.long()):
        with pytest.raises(ValueError, match=r"^scored: expected \(3, 7\) of bool"):
            text_scores.text_scores(ids_BT, keys_K, mark, scored_BT=scored)
    with pytest.raises(ValueError, match=r"^dedup: expected"):
        text_scores.text_scores(ids_BT, keys_K, mark, dedup="v0")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="one device"):
        text_scores.text_scores(ids_BT, keys_K.to("meta"), mark)
