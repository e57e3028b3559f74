"""Agreement of labels and distances of packed bits against loops that anybody can read, on every path."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from assay.kernels import agreement as file
from assay.kernels import bit_planes
from assay.kernels.agreement import agreement, agreement_reference, hamming, hamming_reference
from assay.kernels.bit_planes import pack_bits

ROOT = Path(__file__).resolve().parent.parent
# suspects, references, inputs
SIZES = [(1, 1, 1), (3, 5, 7), (7, 31, 31), (4, 600, 33), (33, 65, 32), (2, 7, 129), (5, 9, 1000)]


@pytest.fixture(params=["cpu", "triton"])
def place(request: pytest.FixtureRequest, device: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where the tensors are. The kernels take those of the CPU too, when they are interpreted."""
    if request.param == "triton" and device == "cpu":
        monkeypatch.setattr(file, "on_gpu", lambda *tensors: True)
    return device if request.param == "triton" else "cpu"


def drawn(
    size: tuple[int, int, int], classes: int, dtype: torch.dtype = torch.int64
) -> tuple[Tensor, Tensor]:
    """Labels, some of them no answer; the first reference is a copy of the last suspect."""
    suspects, references, inputs = size
    draw = torch.Generator().manual_seed(hash((*size, classes)) & 0xFFFF)
    labels_MN = torch.randint(-1, classes, (suspects, inputs), generator=draw)
    labels_RN = torch.randint(-2, classes, (references, inputs), generator=draw)
    labels_RN[0] = labels_MN[-1]
    return labels_MN.to(dtype), labels_RN.to(dtype)


def drawn_words(size: tuple[int, int, int], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(size)
    suspects, references, words = size
    width = torch.iinfo(dtype).bits // 8
    octets = [rng.integers(0, 256, (rows, words * width), dtype=np.uint8) for rows in (suspects, references)]
    octets[1][0] = octets[0][-1]
    left, right = (torch.from_numpy(rows).view(dtype) for rows in octets)
    return left, right


def agreement_by_loop(left: Sequence[Sequence[int]], right: Sequence[Sequence[int]]) -> list[list[int]]:
    return [[sum(x == y >= 0 for x, y in zip(a, b, strict=True)) for b in right] for a in left]


def hamming_by_loop(left: Tensor, right: Tensor) -> list[list[int]]:
    rows = [[int.from_bytes(row.numpy().tobytes(), "big") for row in words] for words in (left, right)]
    return [[(a ^ b).bit_count() for b in rows[1]] for a in rows[0]]


# --- labels


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("classes", [1, 2, 10])
def test_agreement_equals_the_loop(size: tuple[int, int, int], classes: int, place: str) -> None:
    labels_MN, labels_RN = drawn(size, classes)
    found = agreement(labels_MN.to(place), labels_RN.to(place))
    assert found.dtype == torch.int64
    assert found.tolist() == agreement_by_loop(labels_MN.tolist(), labels_RN.tolist())
    assert torch.equal(found.cpu(), agreement_reference(labels_MN, labels_RN))


@pytest.mark.parametrize("classes", [253, 254, 255, 256, 65_535, 128_256, 2**31, 2**40])
def test_labels_of_any_size(classes: int, place: str) -> None:
    """The largest label and the two codes for no answer fill one, two or more bytes."""
    labels_MN, labels_RN = drawn((2, 3, 70), classes)
    labels_MN[0, :9] = labels_RN[0, :9] = torch.tensor(
        [0, 1, 127, 128, 252, classes - 1, classes - 2, -1, -2]
    )
    found = agreement(labels_MN.to(place), labels_RN.to(place))
    assert torch.equal(found.cpu(), agreement_reference(labels_MN, labels_RN))
    assert found[0, 0] >= 7


@pytest.mark.parametrize("dtypes", [(torch.int32, torch.int64), (torch.int64, torch.int32)])
def test_integers_of_both_widths(dtypes: tuple[torch.dtype, torch.dtype], place: str) -> None:
    labels_MN, labels_RN = drawn((3, 5, 40), 10)
    found = agreement(labels_MN.to(place, dtypes[0]), labels_RN.to(place, dtypes[1]))
    assert torch.equal(found.cpu(), agreement_reference(labels_MN, labels_RN))


def test_no_answer_agrees_with_nothing(place: str) -> None:
    labels_MN = torch.tensor([[-1, -1, 3], [-5, -1, -1]], device=place)
    assert agreement(labels_MN, labels_MN).tolist() == [[1, 0], [0, 0]]
    assert agreement(labels_MN[1:], labels_MN[1:]).tolist() == [[0]]
    all_answered = torch.tensor([[0, 1, 3], [3, 1, 1]], device=place)  # -5 and 3 share 3 bits
    assert agreement(labels_MN, all_answered).tolist() == [[1, 0], [0, 0]]
    assert agreement(all_answered, labels_MN).tolist() == [[1, 0], [0, 0]]
    largest = torch.tensor([[2**62 - 1, -1]], device=place)
    assert agreement(largest, largest).tolist() == [[1]]


# --- bits


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
@pytest.mark.parametrize("size", [(1, 1, 1), (3, 5, 7), (33, 65, 3), (4, 513, 2), (2, 7, 31)])
def test_distances_equal_the_loop(size: tuple[int, int, int], dtype: torch.dtype, place: str) -> None:
    words_MW, words_RW = drawn_words(size, dtype)
    found = hamming(words_MW.to(place), words_RW.to(place))
    assert found.dtype == torch.int64
    assert found.tolist() == hamming_by_loop(words_MW, words_RW)
    assert torch.equal(found.cpu(), hamming_reference(words_MW, words_RW))


@pytest.mark.parametrize("bits", [1, 31, 63, 64, 65, 1000])
def test_packed_bits_keep_their_distance(bits: int, place: str) -> None:
    draw = torch.Generator().manual_seed(bits)
    left = torch.randint(0, 2, (3, bits), generator=draw).to(place)
    right = torch.randint(0, 2, (5, bits), generator=draw).to(place)
    expected = (left[:, None] != right).sum(-1)
    for dtype in (torch.bool, torch.uint8, torch.float32):
        words_MW, words_RW = pack_bits(left.to(dtype)), pack_bits(right.to(dtype))
        assert (words_MW.shape, words_MW.dtype) == ((3, -(-bits // 64)), torch.int64)
        assert torch.equal(hamming(words_MW, words_RW), expected)
    for i in range(bits):
        assert torch.equal(words_MW[:, i // 64] >> i % 64 & 1, left[:, i])


# --- both


def test_any_strides(place: str) -> None:
    labels_MN, labels_RN = (labels.to(place) for labels in drawn((6, 8, 70), 10))
    views = [
        (labels_MN.T.contiguous().T, labels_RN[::2]),
        (labels_MN[:, :69:3], labels_RN[:, 1::3]),
        (labels_MN[:1].expand(4, -1), labels_RN[:, :1].expand(-1, 70)),
        (labels_MN[1:, 3:], labels_RN[2:, 3:]),
    ]
    for left, right in views:
        assert torch.equal(agreement(left, right), agreement_reference(left, right))
        assert torch.equal(hamming(left, right), hamming_reference(left, right))
    octets = drawn_words((6, 8, 41), torch.uint8)[1].to(place)
    for left, right in [
        (octets[1:, 1:9], octets[:, 3:11]),
        (octets[:1, :1].T, octets[:, 40:]),
        (octets[:, :9].T, octets[:, :7].T),
    ]:
        assert torch.equal(hamming(left, right), hamming_reference(left, right))


@pytest.mark.parametrize("size", [(0, 3, 4), (2, 0, 4), (2, 3, 0), (0, 0, 0)])
def test_nothing(size: tuple[int, int, int], place: str) -> None:
    suspects, references, inputs = size
    for dtype in (torch.int64, torch.int32, torch.uint8):
        left = torch.zeros(suspects, inputs, dtype=dtype, device=place)
        right = torch.zeros(references, inputs, dtype=dtype, device=place)
        compare = hamming if dtype == torch.uint8 else agreement
        assert torch.equal(compare(left, right).cpu(), torch.zeros(suspects, references, dtype=torch.int64))
    assert hamming(left.long(), right.long()).shape == (suspects, references)
    assert pack_bits(left).shape == (suspects, -(-inputs // 64))


def test_every_result_is_written_and_twice_the_same(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = [labels.to(place) for labels in drawn((5, 37, 70), 10)]
    words = [words.to(place) for words in drawn_words((5, 37, 3), torch.int64)]
    inputs = [tensor.clone() for tensor in (*labels, *words)]
    before = agreement(labels[0], labels[1]), hamming(words[0], words[1])
    empty, numpy_empty = torch.empty, np.empty

    def poisoned(shape: int | tuple[int, ...], dtype: type = float) -> np.ndarray:
        return numpy_empty(shape, dtype).view(np.uint8).__ior__(0xA5).view(dtype)

    monkeypatch.setattr(torch, "empty", lambda *size, **options: empty(*size, **options).fill_(77))
    monkeypatch.setattr(np, "empty", poisoned)
    assert torch.equal(agreement(labels[0], labels[1]), before[0])
    assert torch.equal(hamming(words[0], words[1]), before[1])
    assert all(map(torch.equal, (*labels, *words), inputs))


@settings(max_examples=25, deadline=None)
@given(m=st.permutations(range(5)), r=st.permutations(range(6)), classes=st.sampled_from([1, 3, 300]))
def test_permuted_rows_have_permuted_counts(m: list[int], r: list[int], classes: int) -> None:
    labels_MN, labels_RN = drawn((5, 6, 40), classes)
    count_MR = agreement(labels_MN, labels_RN)
    assert torch.equal(agreement(labels_MN[m], labels_RN[r]), count_MR[m][:, r])
    assert torch.equal(agreement(labels_RN, labels_MN), count_MR.T)
    words_MW, words_RW = drawn_words((5, 6, 4), torch.int64)
    assert torch.equal(hamming(words_MW[m], words_RW[r]), hamming(words_MW, words_RW)[m][:, r])


@settings(max_examples=25, deadline=None)
@given(cells=st.integers(1, 300), references=st.integers(1, 40), codes=st.integers(1, 1000))
def test_the_chunk_changes_nothing(cells: int, references: int, codes: int) -> None:
    labels_MN, labels_RN = drawn((5, 37, 300), 10)
    bits = torch.rand(9, 200) < 0.5
    expected, packed = agreement_reference(labels_MN, labels_RN), pack_bits(bits)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bit_planes, "CELLS", cells)
        patch.setattr(bit_planes, "REFERENCES", references)
        patch.setattr(bit_planes, "CODES", codes)
        assert torch.equal(agreement(labels_MN, labels_RN), expected)
        assert torch.equal(hamming(packed, packed), (bits[:, None] != bits).sum(-1))
        assert torch.equal(pack_bits(bits), packed)


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 70).flatmap(
        lambda n: st.lists(st.lists(st.integers(-3, 9), min_size=n, max_size=n), min_size=2, max_size=6)
    )
)
def test_any_labels(rows: list[list[int]]) -> None:
    labels = torch.tensor(rows)
    assert agreement(labels, labels[1:]).tolist() == agreement_by_loop(rows, rows[1:])


def test_a_count_of_bits_in_every_word() -> None:
    """More words than 8 bits can count at once, all bits of them different."""
    words_MW, words_RW = torch.zeros(2, 50, dtype=torch.int64), torch.full((3, 50), -1)
    assert hamming(words_MW, words_RW).tolist() == [[3200] * 3] * 2


@pytest.mark.slow
def test_the_kernels_compute_every_address_in_64_bits() -> None:
    """Rows x words, and pairs, pass 2^31 long before a GPU's memory ends."""
    code = """
import json, sys
sys.path.insert(0, sys.argv[1])
from resources import TARGETS, compiled
from assay.kernels.agreement import BUILDS
print(json.dumps([compiled(build, TARGETS["sm_90"]).asm["ttir"] for build in BUILDS]))
"""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    command = [sys.executable, "-c", code, str(ROOT / "benchmarks")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    for text in json.loads(done.stdout):
        places = re.findall(r"tt\.addptr .*", text)
        assert places
        for place in places:
            assert re.search(r"(xi64>|, i64)( loc\(.*\))?$", place), place


# --- errors


def test_what_does_not_fit_is_refused() -> None:
    labels = torch.zeros(2, 5, dtype=torch.int64)
    for left, right, name in (
        (labels.float(), labels, "labels_MN"),
        (labels, labels.short(), "labels_RN"),
        (labels[0], labels, "labels_MN"),
        (labels, labels[None], "labels_RN"),
    ):
        with pytest.raises(ValueError, match=f"{name}: expected a matrix of torch.int32 or torch.int64"):
            agreement(left, right)
    with pytest.raises(ValueError, match=r"words_RW: expected a matrix of torch\.uint8 or torch\.int64"):
        hamming(labels, labels.int())
    with pytest.raises(ValueError, match=r"words_MW, words_RW: expected the same dtype"):
        hamming(labels, labels.to(torch.uint8))
    with pytest.raises(ValueError, match=r"labels_MN, labels_RN: expected rows of one length"):
        agreement(labels, labels[:, 1:])
    with pytest.raises(ValueError, match=r"labels_MN, labels_RN: expected labels below 2\^62"):
        agreement(labels, labels + 2**62)
    with pytest.raises(ValueError, match="one device, got cpu, meta"):
        agreement(labels, labels.to("meta"))
    with pytest.raises(ValueError, match="one device, got cpu, meta"):
        hamming(labels, labels.to("meta"))
    with pytest.raises(ValueError, match=r"bits_XN: expected a matrix, got \(5,\)"):
        pack_bits(labels[0])
