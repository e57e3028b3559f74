"""How often every suspect's labels agree with those of every reference, and how many bits differ between packed rows ("model DNA"):
whole registries at once.

Suffixes: M suspects, R references, N inputs or bits, W words of a row, P planes.

Both count differing bits. Labels are split into planes, plane p holding bit p of each label, packed; two labels agree where no
plane differs. A negative label is no answer (kernels/row_labels.py) and agrees with nothing, not even another: above the largest
label the suspects write it as one code and the references as the next. So 10 classes take 4 planes, 128 256 take 17.

Cost of labels: 8 bytes of each, read once; then for 32 comparisons P xors merged into the difference (one three-input operation
each), an addition, and a bit count, which runs beside them at a quarter of their rate: max(P + 1, 4) / 32 operations each. An
H200 makes 16.7 T integer operations/s (64 a cycle on each of 132 multiprocessors), 107 T comparisons/s at 4 planes where
comparing and adding label by label makes 8 T. 1 000 suspects, 100 000 references, 1 000 inputs: .8 GB in .17 ms at 4.8 TB/s, 1e11
comparisons in .94 ms; below 180 suspects memory is the floor. Packed bits are one plane: 134 T bits/s.
CPU, one core of an EPYC: 20 G comparisons/s at 4 planes, 2.5 times what comparing bytes and adding them makes; the product of
one-hot rows takes longer to build than this takes in all.
"""

import numpy as np
import torch
from torch import Tensor

from .bit_planes import differ_cpu, pack_cpu
from .lang import Build, ceil_div, jit, on_gpu, tl

LARGEST = 2**62  # labels below it: with the two codes for no answer they fit into 63 planes
FEW, MANY = (1, 64), (8, 8)  # suspects / 4 and references / 8 of a program; FEW for at most 4 suspects
ROWS = 32  # of a program that packs
PLANES = 4  # on a GPU at first: up to 14 classes


def agreement_reference(labels_MN: Tensor, labels_RN: Tensor) -> Tensor:
    """The definition: (M, R) int64."""
    return ((labels_MN[:, None] == labels_RN) & (labels_RN >= 0)).sum(-1)


def hamming_reference(words_MW: Tensor, words_RW: Tensor) -> Tensor:
    """The definition: (M, R) int64."""
    differ_MRW = words_MW[:, None] ^ words_RW
    bit_MRWB = differ_MRW[..., None] >> torch.arange(8 * words_MW.element_size(), device=words_MW.device) & 1
    return bit_MRWB.sum((-2, -1))


@jit
def _pack_kernel(
    labels, planes, largest, count, rows, columns, words, stride_row, stride_column, none, limit,
    ROWS: tl.constexpr,
):  # fmt: skip
    """One word of ROWS rows, in all planes. `largest` becomes the greatest label where that is over the limit."""
    program = tl.program_id(0).to(tl.int64)
    word, row = program % words, (program // words) * ROWS + tl.arange(0, ROWS)
    bit = tl.arange(0, 32)
    column = word * 32 + bit
    mask = (row < rows)[:, None] & (column < columns)[None, :]
    place = row[:, None] * stride_row + column[None, :] * stride_column
    label = tl.load(labels + place, mask=mask, other=-1).to(tl.int64)
    greatest = tl.max(tl.max(label, 1), 0)
    if greatest > limit:
        tl.atomic_max(largest, greatest)
    code = tl.where(label < 0, none, label)
    for plane in range(count):
        packed = tl.sum((((code >> plane) & 1) << bit[None, :]).to(tl.int32), 1)
        tl.store(planes + (plane * words + word) * rows + row, packed, mask=row < rows)


@jit
def _ones(word):
    """Bits that are one, in fields that double. LLVM knows this form and makes it one instruction where there is one."""
    word = word - ((word >> 1) & 0x55555555)
    word = (word & 0x33333333) + ((word >> 2) & 0x33333333)
    word = (word + (word >> 4)) & 0x0F0F0F0F
    return (word * 0x01010101) >> 24


@jit
def _differ_kernel(
    left,
    right,
    out,
    suspects,
    references,
    words,
    planes,
    AGREE: tl.constexpr,
    SUSPECTS: tl.constexpr,
    REFERENCES: tl.constexpr,
):
    """Bits that differ in some plane, or in none with AGREE. The two inner dimensions are a warp's 4 x 8 threads, so that a thread
    has SUSPECTS x REFERENCES / 4 pairs and fetches few words for each: of 64 x 64 pairs Triton gives it 32 x 1, and twice the
    fetches and registers."""
    program = tl.program_id(0).to(tl.int64)
    blocks = tl.cdiv(suspects, SUSPECTS * 4)  # of the same references follow each other
    inner_s, inner_r = tl.arange(0, 4)[None, None, :, None], tl.arange(0, 8)[None, None, None, :]
    block_s = (program % blocks) * SUSPECTS + tl.arange(0, SUSPECTS)[:, None, None, None]
    block_r = (program // blocks) * REFERENCES + tl.arange(0, REFERENCES)[None, :, None, None]
    suspect, reference = block_s * 4 + inner_s, block_r * 8 + inner_r
    total = tl.zeros((SUSPECTS, REFERENCES, 4, 8), tl.int32)
    for word in range(words):
        differ = tl.zeros((SUSPECTS, REFERENCES, 4, 8), tl.int32)
        for plane in range(planes):
            row = (plane * words + word).to(tl.int64)
            a = tl.load(left + row * suspects + suspect, mask=suspect < suspects, other=0)
            b = tl.load(right + row * references + reference, mask=reference < references, other=0)
            differ |= a ^ b
        total += _ones((~differ if AGREE else differ).to(tl.uint32, bitcast=True)).to(tl.int32)
    mask = (suspect < suspects) & (reference < references)
    tl.store(out + suspect * references + reference, total.to(tl.int64), mask=mask)


def pack_triton(labels_XN: Tensor, largest_1: Tensor, none: int, planes: int) -> Tensor:
    """Labels as planes (P, W, X) of int32 words; `none` is the code of no answer, also beyond N. A label of 2^P - 2 or more does
    not fit: largest_1 (1,) int64 becomes the greatest, if it was less."""
    (rows, columns), words = labels_XN.shape, ceil_div(labels_XN.shape[1], 32)
    planes_PWX = torch.empty(planes, words, rows, dtype=torch.int32, device=labels_XN.device)
    if planes_PWX.numel():
        grid = (ceil_div(rows, ROWS) * words,)
        numbers = planes, rows, columns, words, *labels_XN.stride(), none, 2**planes - 3
        _pack_kernel[grid](labels_XN, planes_PWX, largest_1, *numbers, ROWS=ROWS)
    return planes_PWX


def differ_triton(left_PWM: Tensor, right_PWR: Tensor, agree: bool) -> Tensor:
    """(M, R) int64 from planes of int32 words: bits that differ in some plane, or in none."""
    (planes, words, suspects), references = left_PWM.shape, right_PWR.shape[2]
    out_MR = torch.empty(suspects, references, dtype=torch.int64, device=left_PWM.device)
    if out_MR.numel():
        some, others = FEW if suspects <= 4 * FEW[0] else MANY
        grid = (ceil_div(suspects, 4 * some) * ceil_div(references, 8 * others),)
        counts = suspects, references, words, planes
        tile = {"SUSPECTS": some, "REFERENCES": others}
        _differ_kernel[grid](left_PWM, right_PWR, out_MR, *counts, AGREE=agree, **tile)
    return out_MR


def agreement_triton(labels_MN: Tensor, labels_RN: Tensor) -> Tensor:
    """(M, R) int64. Labels are read once if they fit into PLANES, else again into as many as they need."""
    left_PWM, right_PWR, largest = _packed(labels_MN, labels_RN, PLANES)
    if largest >= LARGEST:
        raise ValueError(f"labels_MN, labels_RN: expected labels below 2^62, got {largest}")
    if largest:
        left_PWM, right_PWR, _ = _packed(labels_MN, labels_RN, (largest + 2).bit_length())
    return differ_triton(left_PWM, right_PWR, agree=True)


def _packed(labels_MN: Tensor, labels_RN: Tensor, planes: int) -> tuple[Tensor, Tensor, int]:
    """Both in planes, and the largest label if it does not fit there, else 0."""
    largest_1 = torch.zeros(1, dtype=torch.int64, device=labels_MN.device)
    left_PWM = pack_triton(labels_MN, largest_1, 2**planes - 2, planes)
    return left_PWM, pack_triton(labels_RN, largest_1, 2**planes - 1, planes), int(largest_1)


def hamming_triton(words_MW: Tensor, words_RW: Tensor) -> Tensor:
    """(M, R) int64. The words are copied once, rows side by side."""
    left, right = (
        _bytes(words, 4).view(torch.int32).t().contiguous()[None] for words in (words_MW, words_RW)
    )
    return differ_triton(left, right, agree=False)


_PACK = {"labels": "*i64", "planes": "*i32", "largest": "*i64"} | dict.fromkeys(("count", "words"), "i32")
_PACK |= dict.fromkeys(("rows", "columns", "stride_row", "none", "limit"), "i64")
_DIFFER = {"left": "*i32", "right": "*i32", "out": "*i64", "words": "i32", "planes": "i32"}
_DIFFER |= {"suspects": "i64", "references": "i64"}
BUILDS = (
    Build(_pack_kernel, _PACK, {"stride_column": 1, "ROWS": ROWS}, registers=48),
    *(
        Build(_differ_kernel, _DIFFER, {"AGREE": agree, "SUSPECTS": s, "REFERENCES": r}, registers=80)
        for agree, (s, r) in ((True, MANY), (True, FEW), (False, MANY))
    ),
)


def agreement(labels_MN: Tensor, labels_RN: Tensor) -> Tensor:
    """(M, R) int64: on how many of the N inputs suspect and reference give the same answer; a negative label is none.

    Labels are int32 or int64 below 2^62, N below 2^25; ValueError otherwise. On a GPU the call waits for the largest label.
    CPU memory beyond the result: the labels in planes, P / 8 bytes each, CODES labels while they are packed, CELLS pairs."""
    _check(labels_MN, labels_RN, ("labels_MN", "labels_RN"), (torch.int32, torch.int64))
    is_gpu = on_gpu(labels_MN, labels_RN)
    if not labels_MN.numel() or not labels_RN.numel():
        return torch.zeros(len(labels_MN), len(labels_RN), dtype=torch.int64, device=labels_MN.device)
    if is_gpu:
        return agreement_triton(labels_MN, labels_RN)
    (low_m, high_m), (low_r, high_r) = labels_MN.aminmax(), labels_RN.aminmax()
    smallest, largest = int(torch.minimum(low_m, low_r)), max(0, int(torch.maximum(high_m, high_r)))
    if largest >= LARGEST:
        raise ValueError(f"labels_MN, labels_RN: expected labels below 2^62, got {largest}")
    planes = (largest + 2).bit_length()
    left_PWM = pack_cpu(labels_MN, largest + 1, planes, smallest < 0)
    right_PWR = pack_cpu(labels_RN, largest + 2, planes, smallest < 0)
    return torch.from_numpy(64 * left_PWM.shape[1] - differ_cpu(left_PWM, right_PWR))


def hamming(words_MW: Tensor, words_RW: Tensor) -> Tensor:
    """(M, R) int64: how many bits differ between rows of packed bits, uint8 or int64 words alike in both, fewer than 2^25 a row;
    ValueError otherwise. CPU memory beyond the result: the words once more, and CELLS pairs."""
    _check(words_MW, words_RW, ("words_MW", "words_RW"), (torch.uint8, torch.int64))
    is_gpu = on_gpu(words_MW, words_RW)
    if words_MW.dtype != words_RW.dtype:
        raise ValueError(
            f"words_MW, words_RW: expected the same dtype, got {words_MW.dtype} and {words_RW.dtype}"
        )
    if not words_MW.numel() or not words_RW.numel():
        return torch.zeros(len(words_MW), len(words_RW), dtype=torch.int64, device=words_MW.device)
    if is_gpu:
        return hamming_triton(words_MW, words_RW)
    left, right = (
        np.ascontiguousarray(_bytes(words, 8).numpy().view(np.uint64).T)[None]
        for words in (words_MW, words_RW)
    )
    return torch.from_numpy(differ_cpu(left, right))


def _check(
    left: Tensor, right: Tensor, names: tuple[str, str], dtypes: tuple[torch.dtype, torch.dtype]
) -> None:
    for tensor, name in zip((left, right), names, strict=True):
        if tensor.ndim != 2 or tensor.dtype not in dtypes:
            raise ValueError(
                f"{name}: expected a matrix of {dtypes[0]} or {dtypes[1]}, "
                f"got {tuple(tensor.shape)} {tensor.dtype}"
            )
    if left.shape[1] != right.shape[1] or left.shape[1] >= 2**25:
        raise ValueError(
            f"{names[0]}, {names[1]}: expected rows of one length, below 2^25, "
            f"got {tuple(left.shape)} and {tuple(right.shape)}"
        )


def _bytes(words_XW: Tensor, multiple: int) -> Tensor:
    """A copy of rows of any strides and alignment as uint8, of a length that `multiple` divides; the bits added are 0."""
    (rows, words), size = words_XW.shape, words_XW.element_size()
    length = multiple * ceil_div(words * size, multiple)
    octets_XO = torch.zeros(rows, length, dtype=torch.uint8, device=words_XW.device)
    octets_XO.view(words_XW.dtype)[:, :words] = words_XW
    return octets_XO
