"""The words of text marks, for ever: in Python's integers, which cannot wrap, and frozen; on the CPU, and in the kernels."""

import os
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from assay.kernels import text_words
from assay.kernels.text_mark import Prf, TextMark, checked_rows
from assay.kernels.text_prf import rows_of_words, uniforms, words_reference
from assay.kernels.text_words import vocabulary_words, vocabulary_words_reference, vocabulary_words_triton

KEY = 0x85A308D3243F6A88
PRFS: tuple[Prf, ...] = ("philox", "splitmix64")
Window = tuple[int, ...]


def philox_block(counter: Window, k0: int, k1: int) -> Window:
    c0, c1, c2, c3 = counter
    for _ in range(10):
        high0, low0 = divmod(0xD2511F53 * c0, 2**32)
        high1, low1 = divmod(0xCD9E8D57 * c2, 2**32)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return c0, c1, c2, c3


def philox_word(window: Window, candidate: int, key: int) -> int:
    k0, k1 = key % 2**32, key >> 32
    state: Window = (0x574D4358, len(window), 0, 0)
    for offset in range(0, len(window), 4):
        taken = [id_ % 2**32 for id_ in window[offset : offset + 4]]
        taken += [2**32 - 1 - i for i in range(len(taken), 4)]
        state = philox_block(tuple(s ^ w for s, w in zip(state, taken, strict=True)), k0 ^ offset, k1)
    return philox_block((candidate >> 2, *state[:3]), k0 ^ state[3], k1 ^ 0x574D544B)[candidate & 3]


def mix(z: int) -> int:
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
    return z ^ z >> 31


def splitmix_word(window: Window, candidate: int, key: int) -> int:
    golden = 0x9E3779B97F4A7C15
    state = len(window)
    for absorbed in (*window, key):
        state = mix(((state ^ absorbed % 2**64) + golden) % 2**64)
    return mix((state + (candidate + 1) * golden) % 2**64) >> 32


INTEGERS: dict[Prf, Callable[[Window, int, int], int]] = {"philox": philox_word, "splitmix64": splitmix_word}


def poison(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is not written shows: fresh memory holds 77."""
    fresh = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *shape, **options: fresh(*shape, **options).fill_(77))


def drawn(width: int, vocabulary: int, rows: int = 3, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    windows_BH = torch.randint(0, vocabulary, (rows, width), generator=draw)
    windows_BH[:1] = -1  # as vLLM pads the beginning of a text
    keys_B = torch.randint(-(2**63), 2**63 - 1, (rows,), generator=draw)
    return windows_BH, keys_B, torch.randint(0, vocabulary, (rows,), generator=draw)


FROZEN: dict[Prf, dict[Window, tuple[int, ...]]] = {
    "philox": {
        (): (0xE0ED54DA, 0xEACD0FA1, 0x8EC04F26, 0x06E7AC7B, 0x7EA7C259, 0xF7DB1BDD),
        (5,): (0x2433195F, 0xB088D7A4, 0x34CBE276, 0xC8FAFD47, 0xD782B6B7, 0xE03CE416),
        (-1, -1, -1, -1): (0x1A01ED12, 0x7162CDE3, 0xFF761869, 0x71A36C06, 0x9900C47E, 0x58B1A4B0),
        (50256, 0, 13, 11): (0x756B79DA, 0x87059A8A, 0x80335590, 0x0553C8D3, 0x16698BAB, 0x38C9D234),
        (1, 2, 3, 4, 5): (0x199350D1, 0x1946C005, 0x66FD44DC, 0x497F4542, 0x859395C0, 0x2DAC35E2),
        (128255, 7, 7, 7, 7, 7, 7, 7, 9): (
            0x21FA673C,
            0x49B2EDB8,
            0x13893666,
            0xEADF91F6,
            0x7AB3FFC8,
            0x992E6CEA,
        ),
    },
    "splitmix64": {
        (): (0xC31B6C73, 0xC3B72ABA, 0xAE5CEB55, 0xC97F4BB2, 0xA29C2760, 0x2240FC20),
        (5,): (0xA1517E90, 0x3A993D32, 0xC9E73E24, 0x64F38A04, 0x1B49F123, 0xBC71BB65),
        (-1, -1, -1, -1): (0xF262D069, 0x09E8C7E3, 0x17FA7CED, 0x53755983, 0x9762C033, 0xD2703FD1),
        (50256, 0, 13, 11): (0x41C4FF53, 0x5F862AAC, 0xA6486035, 0x6FFE7903, 0x8C90AA20, 0x472DFC2F),
        (1, 2, 3, 4, 5): (0x66A77BF2, 0x5F7DC9B0, 0x7E1CE70A, 0x8D02D452, 0x3CC2B091, 0x9D8B0EE3),
        (128255, 7, 7, 7, 7, 7, 7, 7, 9): (
            0xF44E0252,
            0xB72CA044,
            0x14C413DA,
            0x707F266E,
            0x4A3CFCB2,
            0xAED1EFA3,
        ),
    },
}


@pytest.mark.parametrize("prf", PRFS)
def test_frozen_words(prf: Prf) -> None:
    """A mark made today is found in ten years. The windows are whole, too short and too long for one block; h may be 0."""
    for window, words in FROZEN[prf].items():
        candidates = (0, 1, 2, 3, 50_256, 2**31 - 2)
        windows_NH = torch.tensor([window] * len(candidates), dtype=torch.int64).reshape(len(candidates), -1)
        found = words_reference(windows_NH, torch.tensor(candidates), KEY, prf)
        assert tuple(found.tolist()) == words
        assert tuple(INTEGERS[prf](window, v, KEY) for v in candidates) == words


def test_philox_gives_vllms_published_answers() -> None:
    """The mantissas that its own test of the PRF expects (test_philox_compatibility_vector): its text can be checked here."""
    windows_NH = torch.tensor([[1, 2, 3, 4], [1, 2, 3, 4], [4, 5, 6, 7], [4, 5, 6, 7]])
    words_N = words_reference(windows_NH, torch.tensor([7, 8, 7, 8]), 42)
    assert (words_N >> 8).tolist() == [1661833, 10571167, 9742331, 13375724]


@pytest.mark.parametrize("prf", PRFS)
@pytest.mark.parametrize("width", [0, 1, 3, 4, 5, 8, 9])
def test_words_equal_integer_arithmetic(prf: Prf, width: int) -> None:
    rng = np.random.default_rng(width)
    windows = rng.integers(-1, 2**33, size=(20, width))
    candidates = rng.integers(0, 2**31 - 1, size=20)
    key = int(rng.integers(-(2**63), 2**63 - 1))
    found = words_reference(torch.from_numpy(windows), torch.from_numpy(candidates), key, prf).tolist()
    for word, window, candidate in zip(found, windows.tolist(), candidates.tolist(), strict=True):
        assert word == INTEGERS[prf](tuple(window), candidate, key % 2**64)


@pytest.mark.parametrize("prf", PRFS)
@pytest.mark.parametrize("vocabulary", [1, 7, 31, 1000, 4097])
@pytest.mark.parametrize("width", [0, 1, 4, 5])
def test_the_cpu_and_the_kernel_give_the_defined_words(
    prf: Prf, vocabulary: int, width: int, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = TextMark(vocabulary, width, prf, payloads=vocabulary)
    windows_BH, keys_B, payload_B = drawn(width, vocabulary)
    expected_BV = vocabulary_words_reference(windows_BH, keys_B, mark, payload_B)
    poison(monkeypatch)
    found_BV = vocabulary_words(windows_BH, keys_B, mark, payload_B)
    assert found_BV.dtype == torch.int64
    assert torch.equal(found_BV, expected_BV)
    rows = checked_rows(windows_BH.to(device), keys_B.to(device), mark, payload_B.to(device))
    assert torch.equal(vocabulary_words_triton(rows[0], rows[1], mark, rows[2]).cpu(), expected_BV)


@pytest.mark.parametrize("prf", PRFS)
def test_a_real_vocabulary(prf: Prf, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """128,256 candidates are two chunks of the CPU's path."""
    monkeypatch.setattr(text_words, "BLOCKS", 2**14)  # the interpreter takes its time for every program
    mark = TextMark(128_256, 4, prf)
    windows_BH, keys_B, payload_B = drawn(4, 128_256, rows=1)
    found_BV = vocabulary_words(windows_BH, keys_B, mark)
    for v in (0, 1, 65_535, 65_536, 65_537, 128_255):
        assert found_BV[0, v] == INTEGERS[prf](tuple(windows_BH[0].tolist()), v, int(keys_B[0]) % 2**64)
    kernel_BV = vocabulary_words_triton(
        windows_BH.to(device), keys_B.to(device), mark, 0 * payload_B.to(device)
    )
    assert torch.equal(kernel_BV.cpu(), found_BV)


@pytest.mark.parametrize("prf", PRFS)
def test_a_message_turns_the_vocabulary(prf: Prf) -> None:
    mark = TextMark(31, 2, prf, payloads=31)
    windows_BH, keys_B, _ = drawn(2, 31, rows=1)
    plain_V = vocabulary_words(windows_BH, keys_B, mark)[0]
    for m in (0, 1, 17, 30):
        turned_V = vocabulary_words(windows_BH, keys_B, mark, torch.tensor([m]))[0]
        assert all(turned_V[v] == plain_V[(v + m) % 31] for v in range(31))


@pytest.mark.parametrize("prf", PRFS)
def test_rows_are_independent_of_their_batch_and_one_key_serves_all(prf: Prf) -> None:
    mark = TextMark(129, 4, prf)
    windows_BH, keys_B, _ = drawn(4, 129, rows=300)  # more rows than a chunk of the CPU's path holds
    whole_BV = vocabulary_words(windows_BH, keys_B, mark)
    order = torch.randperm(300, generator=torch.Generator().manual_seed(1))
    assert torch.equal(vocabulary_words(windows_BH[order], keys_B[order], mark), whole_BV[order])
    for b in (0, 1, 299):
        assert torch.equal(vocabulary_words(windows_BH[b : b + 1], keys_B[b : b + 1], mark)[0], whole_BV[b])
    one = vocabulary_words(windows_BH, keys_B[:1], mark)
    assert torch.equal(one, vocabulary_words(windows_BH, keys_B[:1].repeat(300), mark))


def test_windows_of_any_stride_and_integer() -> None:
    mark = TextMark(31, 3)
    windows_BH, keys_B, _ = drawn(3, 31, rows=6)
    expected_BV = vocabulary_words(windows_BH[::2], keys_B[::2], mark)
    assert torch.equal(vocabulary_words(windows_BH.T.contiguous().T[::2], keys_B[::2], mark), expected_BV)
    assert torch.equal(vocabulary_words(windows_BH.to(torch.int32)[::2], keys_B[::2], mark), expected_BV)


@pytest.mark.parametrize("prf", PRFS)
def test_no_rows(prf: Prf, device: str) -> None:
    mark = TextMark(31, 3, prf)
    none = torch.zeros(0, dtype=torch.int64, device=device)
    assert vocabulary_words(none.reshape(0, 3).cpu(), none.cpu(), mark).shape == (0, 31)
    assert vocabulary_words_triton(none.reshape(0, 3), none, mark, none).shape == (0, 31)


def test_the_vocabulary_is_computed_in_bounded_pieces() -> None:
    mark = TextMark(1000, 4)
    windows_BH, keys_B, payload_B = drawn(4, 1000, rows=1000)
    for rows, words_RV in rows_of_words(windows_BH, keys_B, payload_B, mark):
        assert len(words_RV) == rows.stop - rows.start <= 2**14 // 250


@pytest.mark.slow
def test_another_process_finds_the_same_words() -> None:
    """A table of hashes that is drawn at start, or a seed that depends on the interpreter, is a mark nobody finds again."""
    program = (
        "import torch; from assay.kernels.text_prf import words_reference; "
        "w, v = torch.tensor([[3, 1, 4, 1]]), torch.tensor([5]); "
        "print([words_reference(w, v, 9, prf).item() for prf in ('philox', 'splitmix64')])"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "1"}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    windows_BH, keys_B = torch.tensor([[3, 1, 4, 1]]), torch.tensor([9])
    here = [vocabulary_words(windows_BH, keys_B, TextMark(31, 4, prf))[0, 5].item() for prf in PRFS]
    assert done.stdout.strip() == str(here)


@pytest.mark.parametrize("prf", PRFS)
def test_ids_65536_apart_share_nothing(prf: Prf) -> None:
    """SynthID-Text keeps 16 bits of its hash, so that v and v + 65,536 have all bits alike; here they agree in half."""
    words_V = vocabulary_words(*drawn(4, 1000, rows=1)[:2], TextMark(2**17, 4, prf))[0]
    low, high = words_V[: 2**16], words_V[2**16 :]
    assert (low == high).sum() <= 3
    for layer in range(32):
        alike = ((low ^ high) >> layer & 1 == 0).sum().item()
        assert stats.binomtest(alike, 2**16, 0.5).pvalue > 1e-5, layer


@pytest.mark.parametrize("prf", PRFS)
def test_windows_have_states_of_their_own(prf: Prf) -> None:
    """A product of ids as the seed leaves 1,539 of 32,000: here every window has its own, whatever its order and zeros."""
    side = torch.arange(179)
    windows_NH = torch.cartesian_prod(side, side)
    count = len(windows_NH)
    assert count > 32_000
    words = [words_reference(windows_NH, torch.full((count,), v), KEY, prf) for v in (0, 4)]
    assert len(torch.unique(words[0] << 31 ^ words[1])) == count
    by_key_B4 = vocabulary_words(
        torch.tensor([[1, 2]]).expand(count, 2), torch.arange(count), TextMark(4, 2, prf)
    )
    assert len(torch.unique(by_key_B4[:, 0] << 31 ^ by_key_B4[:, 1])) == count


@pytest.mark.parametrize("prf", PRFS)
def test_every_bit_is_fair_and_neighbours_share_nothing(prf: Prf) -> None:
    """Over candidates, windows and keys that differ in one bit or by one."""
    count = 2**14
    along = {
        "candidates": words_reference(torch.tensor([[1, 2]]).expand(count, 2), torch.arange(count), KEY, prf),
        "windows": words_reference(
            torch.stack((torch.full((count,), 5), torch.arange(count)), 1), torch.full((count,), 7), KEY, prf
        ),
        "keys": vocabulary_words(torch.full((count, 2), 9), torch.arange(count), TextMark(1, 2, prf))[:, 0],
        "high keys": vocabulary_words(
            torch.full((count, 2), 9), torch.arange(count) << 40, TextMark(1, 2, prf)
        )[:, 0],
    }
    for name, words_N in along.items():
        bits_NL = (words_N[:, None] >> torch.arange(32) & 1).double() * 2 - 1
        error = 5 / count**0.5
        assert bits_NL.mean(0).abs().max() < error, name
        for lag in (1, 2, 4, 64):
            assert (bits_NL[:-lag] * bits_NL[lag:]).mean(0).abs().max() < 1.1 * error, (name, lag)
        pairs_LL = bits_NL.T @ bits_NL / count
        assert (pairs_LL - torch.eye(32, dtype=torch.float64)).abs().max() < 1.2 * error, name
        assert stats.kstest(uniforms(words_N).numpy(), "uniform").pvalue > 1e-4, name


def test_uniforms_are_vllms_and_never_touch_their_ends() -> None:
    extremes = uniforms(torch.tensor([0, 255, 256, 2**32 - 1]))
    assert extremes.tolist() == [1 / (2**24 + 1), 1 / (2**24 + 1), 2 / (2**24 + 1), 2**24 / (2**24 + 1)]
    assert torch.isfinite(torch.log1p(-extremes)).all()
    assert torch.isfinite(torch.log(-torch.log(extremes))).all()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("vocabulary", 0),
        ("vocabulary", 2**31),
        ("width", -1),
        ("prf", "md5"),
        ("statistic", "z"),
        ("gamma", 0.0),
        ("gamma", 1.0),
        ("gamma", float("nan")),
        ("depth", 0),
        ("depth", 33),
        ("payloads", 0),
        ("payloads", 51),
    ],
)
def test_a_mark_names_the_field_that_does_not_fit(field: str, value: object) -> None:
    fields: dict[str, object] = {"vocabulary": 50, field: value}
    with pytest.raises(ValueError, match=f"^{field}: expected"):
        TextMark(**fields)  # type: ignore[arg-type]


def test_a_tournament_carries_no_message() -> None:
    with pytest.raises(ValueError, match=r"^payloads: a tournament"):
        TextMark(50, statistic="layers", payloads=2)


def test_the_chance_of_green_never_exceeds_gamma() -> None:
    for gamma in (0.25, 0.1, 1 / 3, 1e-12, 1 - 1e-12):
        assert TextMark(50, gamma=gamma).threshold / 2**32 <= gamma
    assert TextMark(50, gamma=0.25).threshold == 2**30


def test_generation_names_the_argument_that_does_not_fit() -> None:
    mark = TextMark(31, 3, payloads=5)
    windows_BH, keys_B, payload_B = drawn(3, 5, rows=4)
    for windows in (windows_BH[0], windows_BH.float(), windows_BH[:, :2]):
        with pytest.raises(ValueError, match=r"^windows: expected"):
            vocabulary_words(windows, keys_B, mark)
    for keys in (keys_B[:2], keys_B[:, None], keys_B.double(), keys_B[:0]):
        with pytest.raises(ValueError, match=r"^keys: expected"):
            vocabulary_words(windows_BH, keys, mark)
    for payload in (payload_B[:1], payload_B.float(), payload_B - 5, payload_B + 5):
        with pytest.raises(ValueError, match=r"^payload: expected"):
            vocabulary_words(windows_BH, keys_B, mark, payload)
    with pytest.raises(ValueError, match=r"^payload: expected"):
        vocabulary_words(windows_BH, keys_B, TextMark(31, 3), payload_B)
