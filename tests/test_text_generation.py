"""One step of generation against its definition: green lists, Gumbel draws and tournaments, ties and numbers that are none."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from assay.kernels import text_generation
from assay.kernels.text_generation import (
    gumbel_argmax,
    gumbel_argmax_reference,
    gumbel_argmax_triton,
    tournament,
)
from assay.kernels.text_green import (
    green_bias,
    green_bias_reference,
    green_mask,
    green_mask_reference,
    green_triton,
)
from assay.kernels.text_mark import LOGITS, Prf, TextMark, checked_rows
from assay.kernels.text_prf import uniforms
from assay.kernels.text_words import vocabulary_words

PRFS: tuple[Prf, ...] = ("philox", "splitmix64")
INF, NAN = float("inf"), float("nan")


def drawn(width: int, vocabulary: int, rows: int = 3, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    windows_BH = torch.randint(0, vocabulary, (rows, width), generator=draw)
    keys_B = torch.randint(-(2**63), 2**63 - 1, (rows,), generator=draw)
    return windows_BH, keys_B, torch.randint(0, vocabulary, (rows,), generator=draw)


def random_logits(rows: int, vocabulary: int, seed: int = 0) -> Tensor:
    return 3 * torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(seed))


def draw_by_kernel(
    logits_BV: Tensor,
    windows_BH: Tensor,
    keys_B: Tensor,
    mark: TextMark,
    temperature: float = 1.0,
    payload_B: Tensor | None = None,
    device: str = "cuda" if torch.cuda.is_available() else "cpu",
) -> Tensor:
    rows = checked_rows(windows_BH, keys_B, mark, payload_B)
    windows_BH, keys_B, payload_B = (part.to(device) for part in rows)
    found = gumbel_argmax_triton(logits_BV.to(device), windows_BH, keys_B, mark, temperature, payload_B)
    return found.cpu()


def poison(monkeypatch: pytest.MonkeyPatch) -> None:
    fresh = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *shape, **options: fresh(*shape, **options).fill_(1))


@pytest.mark.parametrize("prf", PRFS)
@pytest.mark.parametrize("vocabulary", [1, 7, 31, 1000, 4097])
@pytest.mark.parametrize("width", [0, 5])
def test_green_lists_and_biases(
    prf: Prf, vocabulary: int, width: int, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = TextMark(vocabulary, width, prf, payloads=vocabulary)
    windows_BH, keys_B, payload_B = drawn(width, vocabulary)
    green_BV = green_mask_reference(windows_BH, keys_B, mark, payload_B)
    poison(monkeypatch)
    rows = tuple(part.to(device) for part in checked_rows(windows_BH, keys_B, mark, payload_B))
    assert torch.equal(green_mask(windows_BH, keys_B, mark, payload_B), green_BV)
    assert torch.equal(green_triton(rows[0], rows[1], mark, rows[2], None, 0.0).cpu(), green_BV)
    for dtype in LOGITS if vocabulary == 31 else LOGITS[:1]:
        logits_BV = random_logits(3, vocabulary).to(dtype)
        expected_BV = green_bias_reference(logits_BV, green_BV, 2.5)
        found_BV = green_bias(logits_BV, windows_BH, keys_B, mark, 2.5, payload_B)
        assert found_BV.dtype == torch.float32
        assert torch.equal(found_BV, expected_BV)
        kernel_BV = green_triton(rows[0], rows[1], mark, rows[2], logits_BV.to(device), 2.5)
        assert torch.equal(kernel_BV.cpu(), expected_BV)


@pytest.mark.parametrize("prf", PRFS)
@pytest.mark.parametrize("vocabulary", [1, 7, 31, 1000, 4097])
@pytest.mark.parametrize("width", [0, 5])
def test_draws_equal_their_definition(
    prf: Prf, vocabulary: int, width: int, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = TextMark(vocabulary, width, prf, payloads=vocabulary)
    windows_BH, keys_B, payload_B = drawn(width, vocabulary)
    poison(monkeypatch)
    for dtype in LOGITS if vocabulary == 31 else LOGITS[:1]:
        given = (random_logits(3, vocabulary).to(dtype), windows_BH, keys_B, mark, 0.7, payload_B)
        expected_B = gumbel_argmax_reference(*given)
        assert torch.equal(gumbel_argmax(*given), expected_B)
        with monkeypatch.context() as patch:
            patch.setattr(text_generation, "PIECE", 29)
            assert torch.equal(gumbel_argmax(*given), expected_B)
        assert torch.equal(draw_by_kernel(*given, device=device), expected_B)


def test_draws_over_many_programs(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program of 2 tiles of 64 candidates: the best of a row is found in whichever it lies."""
    monkeypatch.setattr(text_generation, "BLOCKS", 16)
    monkeypatch.setattr(text_generation, "TILES", 2)
    mark = TextMark(1000, 1, "splitmix64")
    windows_BH, keys_B, _ = drawn(1, 1000, rows=8)
    logits_BV = random_logits(8, 1000)
    expected_B = gumbel_argmax_reference(logits_BV, windows_BH, keys_B, mark)
    assert len(torch.unique(expected_B // 128)) > 4  # of the 8 programs
    assert torch.equal(draw_by_kernel(logits_BV, windows_BH, keys_B, mark, device=device), expected_B)


@pytest.mark.parametrize(
    ("way", "piece"),
    [(gumbel_argmax, 2**17), (gumbel_argmax, 300), (draw_by_kernel, 0), (gumbel_argmax_reference, 0)],
)
def test_ties_and_numbers_that_are_none(
    way: Callable[..., Tensor], piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NaN and -inf are never drawn, the lowest of several +inf is, and a row of nothing gives -1; a message turns none of it."""
    monkeypatch.setattr(text_generation, "PIECE", piece)
    mark = TextMark(1000, 2, payloads=1000)
    windows_BH, keys_B, payload_B = drawn(2, 1000, rows=8)
    logits_BV = torch.full((8, 1000), -INF)
    logits_BV[1, 700] = 0
    logits_BV[2] = NAN
    logits_BV[2, 3] = -1000
    logits_BV[3] = torch.randn(1000)
    logits_BV[3, [999, 5, 400]] = INF
    logits_BV[4] = NAN
    logits_BV[5] = random_logits(1, 1000)
    logits_BV[6, [10, 20]] = torch.tensor([NAN, INF])
    logits_BV[7] = INF
    for payload in (torch.zeros_like(payload_B), payload_B):
        found = way(logits_BV, windows_BH, keys_B, mark, 1.0, payload)
        usual = gumbel_argmax_reference(logits_BV[5:6], windows_BH[5:6], keys_B[5:6], mark, 1.0, payload[5:6])
        assert found.tolist() == [-1, 700, 3, 5, -1, usual.item(), 20, 0]


def test_equal_scores_go_to_the_lowest_id(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    """Two candidates of one word: a constant uniform leaves the logits to decide, and ties to the order of ids."""
    mark = TextMark(300, 1, payloads=300)
    windows_BH, keys_B, _ = drawn(1, 300, rows=2)
    words_BV = vocabulary_words(windows_BH, keys_B, mark)
    noise_BV = -torch.log(-torch.log(uniforms(words_BV)))
    logits_BV = (20 - noise_BV).float()  # all scores alike but for rounding
    logits_BV[:, ::2] = -INF
    scores_BV = logits_BV.double() + noise_BV
    found_B = draw_by_kernel(logits_BV, windows_BH, keys_B, mark, device=device)
    chosen_B = scores_BV.gather(1, found_B[:, None]).squeeze(1)
    assert (scores_BV.amax(1) - chosen_B < 1e-5).all()
    monkeypatch.setattr(
        text_generation, "rows_of_words", lambda *_: [(slice(0, 2), np.ones((2, 300), dtype=np.uint32))]
    )
    flat_BV = torch.zeros(2, 300)
    flat_BV[:, :7] = NAN
    assert gumbel_argmax(flat_BV, windows_BH, keys_B, mark).tolist() == [7, 7]


@pytest.mark.parametrize(("size", "temperature"), [(20.0, 1.0), (1e6, 1.0), (3e38, 0.5), (1e-3, 50.0)])
def test_scores_that_float32_cannot_tell_apart(size: float, temperature: float) -> None:
    """All scores of a row alike but for the rounding of the logits: float64 decides, as in the definition."""
    mark = TextMark(1000, 1)
    windows_BH, keys_B, _ = drawn(1, 1000, rows=16)
    noise_BV = -torch.log(-torch.log(uniforms(vocabulary_words(windows_BH, keys_B, mark))))
    logits_BV = (size - temperature * noise_BV).float()
    given = (logits_BV, windows_BH, keys_B, mark, temperature)
    assert torch.equal(gumbel_argmax(*given), gumbel_argmax_reference(*given))


def test_biases_keep_what_is_no_number(device: str) -> None:
    mark = TextMark(31, 2, gamma=0.9)
    windows_BH, keys_B, payload_B = drawn(2, 31, rows=1)
    logits_BV = torch.tensor([[NAN, INF, -INF] + [0.0] * 28])
    kernel = green_triton(
        windows_BH.to(device), keys_B.to(device), mark, 0 * payload_B.to(device), logits_BV.to(device), 2.0
    )
    for found in (green_bias(logits_BV, windows_BH, keys_B, mark, 2.0), kernel.cpu()):
        assert torch.isnan(found[0, 0])
        assert found[0, 1:3].tolist() == [INF, -INF]
        assert torch.equal(found[0, 3:] == 2, green_mask(windows_BH, keys_B, mark)[0, 3:])


def test_logits_of_any_row_stride(device: str) -> None:
    """The last position of (rows, positions, V), as a model returns it; and a transpose."""
    mark = TextMark(31, 2)
    windows_BH, keys_B, payload_B = drawn(2, 31, rows=4)
    deep = random_logits(4 * 5, 31).reshape(4, 5, 31)
    for logits_BV in (deep[:, -1], deep[:, -1].T.contiguous().T):
        plain_BV = logits_BV.contiguous()
        expected_B = gumbel_argmax(plain_BV, windows_BH, keys_B, mark)
        assert torch.equal(gumbel_argmax(logits_BV, windows_BH, keys_B, mark), expected_B)
        biased_BV = green_bias(plain_BV, windows_BH, keys_B, mark, 1.0)
        assert torch.equal(green_bias(logits_BV, windows_BH, keys_B, mark, 1.0), biased_BV)
    rows = (windows_BH.to(device), keys_B.to(device), mark)
    assert torch.equal(draw_by_kernel(deep[:, -1], windows_BH, keys_B, mark, device=device), expected_B)
    kernel_BV = green_triton(*rows, 0 * payload_B.to(device), deep.to(device)[:, -1], 1.0)
    assert torch.equal(kernel_BV.cpu(), biased_BV)


def test_rows_more_than_2_to_the_31_apart(tmp_path: Path, device: str) -> None:
    """A view of a sparse file, of which two pages exist."""
    apart = 2**31 + 40
    memory = np.memmap(tmp_path / "sparse", dtype=np.float16, mode="w+", shape=(apart + 31,))
    logits_BV = torch.from_numpy(memory).as_strided((2, 31), (apart, 1))
    logits_BV.copy_(random_logits(2, 31))
    mark = TextMark(31, 2)
    windows_BH, keys_B, payload_B = drawn(2, 31, rows=2)
    expected_B = gumbel_argmax_reference(logits_BV, windows_BH, keys_B, mark)
    assert torch.equal(gumbel_argmax(logits_BV, windows_BH, keys_B, mark), expected_B)
    biased_BV = green_bias_reference(logits_BV, green_mask(windows_BH, keys_B, mark), 1.0)
    if device == "cpu":  # a GPU has no sparse files
        assert torch.equal(draw_by_kernel(logits_BV, windows_BH, keys_B, mark), expected_B)
        kernel_BV = green_triton(windows_BH, keys_B, mark, 0 * payload_B, logits_BV, 1.0)
        assert torch.equal(kernel_BV, biased_BV)
    assert torch.equal(green_bias(logits_BV, windows_BH, keys_B, mark, 1.0), biased_BV)


@pytest.mark.parametrize("prf", PRFS)
def test_no_rows(prf: Prf, device: str) -> None:
    mark = TextMark(31, 2, prf)
    windows_BH, keys_B, payload_B = (part.to(device) for part in drawn(2, 31, rows=0))
    none = torch.zeros(0, 31, device=device)
    assert gumbel_argmax_triton(none, windows_BH, keys_B, mark, 1.0, payload_B).shape == (0,)
    assert green_triton(windows_BH, keys_B, mark, payload_B, none, 1.0).shape == (0, 31)
    assert gumbel_argmax(none.cpu(), windows_BH.cpu(), keys_B.cpu(), mark).shape == (0,)
    assert green_bias(none.cpu(), windows_BH.cpu(), keys_B.cpu(), mark, 1.0).shape == (0, 31)
    assert green_mask(windows_BH.cpu(), keys_B.cpu(), mark).shape == (0, 31)


def test_logits_that_want_gradients() -> None:
    mark, windows_BH, key = TextMark(9, 1), torch.zeros(2, 1, dtype=torch.int64), torch.tensor([7])
    logits_BV = torch.randn(2, 9, requires_grad=True)
    assert not green_bias(logits_BV, windows_BH, key, mark, 1.0).requires_grad
    assert torch.equal(
        gumbel_argmax(logits_BV, windows_BH, key, mark),
        gumbel_argmax(logits_BV.detach(), windows_BH, key, mark),
    )


def test_two_runs_are_equal_bit_for_bit(device: str) -> None:
    mark = TextMark(1000, 2)
    windows_BH, keys_B, _ = drawn(2, 1000, rows=3)
    logits_BV = random_logits(3, 1000)
    runs = [draw_by_kernel(logits_BV, windows_BH, keys_B, mark, device=device) for _ in range(2)]
    assert torch.equal(runs[0], runs[1])
    biased = [green_bias(logits_BV, windows_BH, keys_B, mark, 1.0) for _ in range(2)]
    assert torch.equal(biased[0], biased[1])


@pytest.mark.parametrize("prf", PRFS)
def test_draws_follow_the_softmax(prf: Prf) -> None:
    """Over windows, the key draws each id as often as the model would: the mark distorts nothing."""
    mark = TextMark(20, 1, prf)
    rows = 20_000
    logits_V = torch.randn(20, generator=torch.Generator().manual_seed(5))
    windows_BH = torch.arange(rows)[:, None]
    found_B = gumbel_argmax(logits_V.expand(rows, 20), windows_BH, torch.tensor([11]), mark, temperature=0.8)
    expected_V = torch.softmax(logits_V.double() / 0.8, -1) * rows
    assert stats.chisquare(torch.bincount(found_B, minlength=20).numpy(), expected_V.numpy()).pvalue > 1e-4


def test_tournaments_equal_their_formula() -> None:
    words_BV = vocabulary_words(*drawn(2, 50)[:2], TextMark(50, 2))
    p_BV = torch.softmax(random_logits(3, 50).double(), -1)
    for depth in (1, 7, 32):
        found_BV = tournament(p_BV, words_BV, depth)
        for b in range(3):
            p = p_BV[b].tolist()
            for layer in range(depth):
                g = [int(word) >> layer & 1 for word in words_BV[b]]
                mean = sum(x * bit for x, bit in zip(p, g, strict=True))
                p = [x * (1 + bit - mean) for x, bit in zip(p, g, strict=True)]
            assert (found_BV[b] - torch.tensor(p, dtype=torch.float64)).norm() < 1e-13
        assert torch.allclose(found_BV.sum(1), torch.ones(3, dtype=torch.float64))
    assert torch.isnan(tournament(torch.full((1, 3), NAN), torch.zeros(1, 3, dtype=torch.int64))).all()
    assert tournament(p_BV.float(), words_BV).dtype == torch.float32


def test_tournaments_distort_nothing_on_average() -> None:
    """Averaged over windows, the probabilities after all layers are the model's own."""
    mark = TextMark(10, 1)
    rows = 20_000
    p_V = torch.softmax(torch.randn(10, generator=torch.Generator().manual_seed(5)).double(), -1)
    words_BV = vocabulary_words(torch.arange(rows)[:, None], torch.tensor([11]), mark)
    after_BV = tournament(p_V.expand(rows, 10), words_BV, 30)
    error_V = after_BV.std(0) / rows**0.5
    assert ((after_BV.mean(0) - p_V).abs() < 5 * error_V).all()


def test_bad_input_is_named() -> None:
    mark = TextMark(31, 2)
    windows_BH, keys_B, _ = drawn(2, 31, rows=4)
    logits_BV = random_logits(4, 31)
    for logits in (logits_BV[:3], logits_BV[:, :-1], logits_BV.double(), logits_BV.long(), logits_BV[0]):
        with pytest.raises(ValueError, match=r"^logits: expected \(4, 31\) of float32"):
            gumbel_argmax(logits, windows_BH, keys_B, mark)
        with pytest.raises(ValueError, match=r"^logits: expected \(4, 31\) of float32"):
            green_bias(logits, windows_BH, keys_B, mark, 1.0)
    for temperature in (0.0, -1.0, NAN, INF):
        with pytest.raises(ValueError, match=r"^temperature: expected"):
            gumbel_argmax(logits_BV, windows_BH, keys_B, mark, temperature)
    for delta in (NAN, INF):
        with pytest.raises(ValueError, match=r"^delta: expected"):
            green_bias(logits_BV, windows_BH, keys_B, mark, delta)
    with pytest.raises(ValueError, match=r"^windows: expected"):
        green_mask(windows_BH[:, :1], keys_B, mark)
    with pytest.raises(ValueError, match="one device"):
        gumbel_argmax(logits_BV.to("meta"), windows_BH, keys_B, mark)
    words_BV = vocabulary_words(windows_BH, keys_B, mark)
    for depth in (0, 33):
        with pytest.raises(ValueError, match=r"^depth: expected"):
            tournament(logits_BV, words_BV, depth)
    for probabilities in (logits_BV[:3], logits_BV.long()):
        with pytest.raises(ValueError, match=r"^probabilities: expected"):
            tournament(probabilities, words_BV)


def test_green_is_as_common_as_gamma() -> None:
    for gamma in (0.1, 0.25, 0.5):
        mark = TextMark(50_257, 4, gamma=gamma)
        windows_BH, keys_B, _ = drawn(4, 50_257, rows=2)
        count = int(green_mask(windows_BH, keys_B, mark).sum())
        assert stats.binomtest(count, 2 * 50_257, gamma).pvalue > 1e-4
