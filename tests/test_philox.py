"""Key material for ever: the published answers, a second implementation, and every line of the layout by itself."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from assay.kernels import philox

KEY = (0x243F6A88, 0x85A308D3)
ODD = [0, 1, 2, 3, 7, 31, 129]


def block_of_integers(counter: tuple[int, ...], key: tuple[int, int]) -> list[int]:
    """Philox4x32-10 as the paper writes it, in integers of any size: nothing can wrap."""
    (c0, c1, c2, c3), (k0, k1) = counter, key
    for _ in range(10):
        high0, low0 = divmod(0xD2511F53 * c0, 2**32)
        high1, low1 = divmod(0xCD9E8D57 * c2, 2**32)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return [c0, c1, c2, c3]


def word_of_integers(key: tuple[int, int], i: int) -> int:
    """Word i of the stream, by the first line of the layout."""
    return block_of_integers((i // 4 % 2**32, i // 4 >> 32, 0, 0), key)[i % 4]


@pytest.mark.parametrize(
    ("counter", "key", "answer"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((2**32 - 1,) * 4, (2**32 - 1,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_known_answers(counter: tuple[int, ...], key: tuple[int, int], answer: tuple[int, ...]) -> None:
    """Random123's kat_vectors for philox4x32 with 10 rounds."""
    assert philox.blocks(torch.tensor([counter]), key).tolist() == [list(answer)]
    assert block_of_integers(counter, key) == list(answer)


def test_blocks_equal_integer_arithmetic() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        counters = rng.integers(0, 2**32, size=(16, 4))
        counters[rng.random((16, 4)) < 0.1] = 2**32 - 1
        key = (int(rng.integers(2**32)), int(rng.integers(2**32)))
        expected = [block_of_integers(tuple(row), key) for row in counters.tolist()]
        assert philox.blocks(torch.from_numpy(counters), key).tolist() == expected


@pytest.mark.parametrize("start", [0, 1, 5, 4 * (2**32 - 2) + 3, 4 * 2**32, 2**40 + 2, 2**62 + 1])
def test_words_equal_integer_arithmetic_far_beyond_32_bits(start: int) -> None:
    """A stream does not repeat after 2^32 blocks: the counter carries into its second word."""
    found = philox.words(KEY, 13, start)
    assert found.dtype == torch.int64
    assert found.tolist() == [word_of_integers(KEY, i) for i in range(start, start + 13)]


@pytest.mark.parametrize("count", ODD)
@pytest.mark.parametrize("start", [*ODD, 2**34 - 5])
def test_a_slice_is_a_part_of_the_whole(start: int, count: int) -> None:
    origin = start - start % 1024
    whole = philox.words(KEY, 1024 + 256, origin)
    assert torch.equal(philox.words(KEY, count, start), whole[start - origin :][:count])


@pytest.mark.parametrize("count", ODD)
def test_a_shorter_stream_is_the_beginning_of_a_longer_one(count: int) -> None:
    for draw in (philox.signs, philox.uniforms, philox.normals, philox.octets):
        assert draw(KEY, count).tolist() == draw(KEY, 200)[:count].tolist(), draw.__name__


def test_shapes_and_dtypes() -> None:
    draws = {
        philox.signs: torch.float32,
        philox.uniforms: torch.float64,
        philox.normals: torch.float32,
        philox.octets: torch.uint8,
    }
    for draw, dtype in draws.items():
        for count in ODD:
            found = draw(KEY, count)
            assert (found.shape, found.dtype) == ((count,), dtype), draw.__name__


def test_sign_i_is_a_bit_of_word_i_over_32() -> None:
    signs = philox.signs(KEY, 129)
    for i in range(129):
        bit = word_of_integers(KEY, i // 32) >> (i % 32) & 1
        assert signs[i].item() == (1 if bit else -1)


def test_byte_i_is_an_eighth_of_word_i_over_4() -> None:
    octets = philox.octets(KEY, 131)
    for i in range(131):
        assert octets[i].item() == word_of_integers(KEY, i // 4) >> 8 * (i % 4) & 0xFF


def test_uniform_i_is_the_top_of_word_i() -> None:
    uniforms = philox.uniforms(KEY, 131)
    for i in range(131):
        assert uniforms[i].item() == ((word_of_integers(KEY, i) >> 8) + 0.5) / 2**24


def test_uniforms_never_touch_their_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """The logarithm of a uniform is finite even at the extreme words."""
    extremes = torch.tensor([0, 2**32 - 1])
    monkeypatch.setattr(philox, "words", lambda key, count: extremes.repeat(count)[:count])
    low, high = philox.uniforms(KEY, 2).tolist()
    assert 0 < low < 2**-24
    assert 1 - 2**-24 < high < 1
    corners = np.array([0, 0, 0, 2**32 - 1, 2**32 - 1, 0, 2**32 - 1, 2**32 - 1], dtype=np.uint32)
    assert torch.isfinite(philox.normals_of(corners)).all()


def test_normals_come_in_pairs_of_box_and_muller() -> None:
    normals = philox.normals(KEY, 131)
    for i in range(131):
        u, v = (((word_of_integers(KEY, j) >> 8) + 0.5) / 2**24 for j in (i - i % 2, i - i % 2 + 1))
        turn = math.sin if i % 2 else math.cos
        expected = math.sqrt(-2 * math.log(u)) * turn(2 * math.pi * v)
        assert normals[i].item() == pytest.approx(expected, rel=2**-23, abs=1e-12)


def test_uniforms_are_uniform() -> None:
    u = philox.uniforms(KEY, 200_000).numpy()
    assert stats.kstest(u, "uniform").pvalue > 1e-3
    assert u.mean() == pytest.approx(0.5, abs=4 / math.sqrt(12 * 200_000))
    assert abs(np.corrcoef(u[:-1], u[1:])[0, 1]) < 4 / math.sqrt(200_000)


def test_normals_are_normal() -> None:
    z = philox.normals(KEY, 200_000).double().numpy()
    assert stats.kstest(z, "norm").pvalue > 1e-3
    error = 4 / math.sqrt(200_000)
    assert z.mean() == pytest.approx(0, abs=error)
    assert (z**2).mean() == pytest.approx(1, abs=error * math.sqrt(2))
    assert (z**3).mean() == pytest.approx(0, abs=error * math.sqrt(15))
    assert (z**4).mean() == pytest.approx(3, abs=error * math.sqrt(96))
    assert abs((z[::2] * z[1::2]).mean()) < error * math.sqrt(2)  # the two of a pair do not know each other


def test_signs_and_bytes_are_fair() -> None:
    signs = philox.signs(KEY, 200_000).numpy()
    assert abs(signs.mean()) < 4 / math.sqrt(200_000)
    for lag in (1, 31, 32, 128):
        assert abs((signs[:-lag] * signs[lag:]).mean()) < 4 / math.sqrt(200_000 - lag)
    counts = np.bincount(philox.octets(KEY, 200_000).numpy(), minlength=256)
    assert stats.chisquare(counts).pvalue > 1e-3


def test_streams_of_neighbouring_keys_share_nothing() -> None:
    base = philox.signs(KEY, 100_000)
    for other in ((KEY[0] + 1, KEY[1]), (KEY[0], KEY[1] + 1), (KEY[1], KEY[0])):
        assert abs((base * philox.signs(other, 100_000)).mean().item()) < 4 / math.sqrt(100_000)


@pytest.mark.parametrize("start", [0, 1, 5, 4 * (2**32 - 2) + 3, 2**40 + 2])
@pytest.mark.parametrize("count", [*ODD, 1000, 2049])
def test_every_path_gives_the_words_of_the_definition(start: int, count: int, device: str) -> None:
    expected = philox.words_reference(KEY, count, start)
    assert torch.equal(philox.words(KEY, count, start), expected)
    found = philox.words_triton(KEY, count, start, torch.device(device))
    assert found.dtype == torch.int32
    assert torch.equal(found.cpu().to(torch.int64) & philox.MASK, expected)


def test_keys_with_the_highest_bit_reach_the_kernel(device: str) -> None:
    for key in ((2**32 - 1, 2**32 - 1), (0, 2**31), (2**31, 0)):
        found = philox.words_triton(key, 9, 0, torch.device(device)).cpu().to(torch.int64) & philox.MASK
        assert found.tolist() == [word_of_integers(key, i) for i in range(9)]


def test_encrypted_blocks_do_not_depend_on_the_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, normals = philox.block_words(KEY, 5, 100), philox.normals(KEY, 399)
    monkeypatch.setattr(philox, "CHUNK", 7)
    assert (philox.block_words(KEY, 5, 100) == whole).all()
    assert torch.equal(philox.normals(KEY, 399), normals)


def test_bad_counts_are_refused() -> None:
    for count, start in ((-1, 0), (1, -1)):
        with pytest.raises(ValueError, match="expected count >= 0 and start >= 0"):
            philox.words(KEY, count, start)
