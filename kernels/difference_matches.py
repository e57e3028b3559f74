"""Bits in the weights themselves: of single weights (Nagai et al. 2018, "direct") or differences of two ("diff"). A bit is
[w[plus] > 0] or [w[plus] > w[minus]]; a comparison is exact in every dtype.

Bytes and operations: 16 bytes of indices and 1 of expectation a key and bit, read once per suspect, 2 gathered weights of 4
bytes, one comparison. 200 keys x 256 bits x 300 suspects are 15 M comparisons and 123 MB gathered from weights that fit the
second-level cache: microseconds, bound by the launch.

Suffixes: M suspects, J weights, K keys, B bits.
"""

import torch
from torch import Tensor

from .lang import Build, jit, on_gpu, tl

BITS = 256  # a tile of the Triton kernel
CELLS_AT_ONCE = 2**22  # suspects x keys x B at a time on the CPU: two gathered tensors of 32 MB in float64


def difference_matches_reference(
    weights_MJ: Tensor, plus_KB: Tensor, minus_KB: Tensor | None, expected_KB: Tensor
) -> Tensor:
    """The definition: (M, K) int64. Without `minus_KB` the comparison is with 0."""
    other_MKB = torch.zeros(()) if minus_KB is None else weights_MJ[:, minus_KB].double()
    return ((weights_MJ[:, plus_KB].double() > other_MKB) == expected_KB.bool()).sum(-1)


@jit
def _difference_kernel(
    out, weights, plus, minus, expected, keys, bits, stride_m, stride_j, DIFF: tl.constexpr, BITS: tl.constexpr
):  # fmt: skip
    """One suspect and key. The index rows are contiguous."""
    program = tl.program_id(0).to(tl.int64)
    key, weights_J = program % keys, weights + program // keys * stride_m
    matches = tl.zeros((BITS,), dtype=tl.int64)
    for start in range(0, bits, BITS):
        bit_B = start + tl.arange(0, BITS)
        inside_B = bit_B < bits
        plus_B = tl.load(plus + key * bits + bit_B, mask=inside_B, other=0)
        weight_B = tl.load(weights_J + plus_B * stride_j, mask=inside_B, other=0.0).to(tl.float64)
        if DIFF:
            minus_B = tl.load(minus + key * bits + bit_B, mask=inside_B, other=0)
            other_B = tl.load(weights_J + minus_B * stride_j, mask=inside_B, other=0.0).to(tl.float64)
            found_B = weight_B > other_B
        else:
            found_B = weight_B > 0
        expected_B = tl.load(expected + key * bits + bit_B, mask=inside_B, other=0) != 0
        matches += tl.where(inside_B & (found_B == expected_B), 1, 0)
    tl.store(out + program, tl.sum(matches, axis=0))


def difference_matches_triton(
    weights_MJ: Tensor, plus_KB: Tensor, minus_KB: Tensor | None, expected_KB: Tensor
) -> Tensor:
    (suspects, _), (keys, bits) = weights_MJ.shape, plus_KB.shape
    out_MK = torch.empty(suspects, keys, dtype=torch.int64, device=weights_MJ.device)
    if out_MK.numel():
        plus_KB, expected_KB = plus_KB.contiguous(), expected_KB.to(torch.uint8).contiguous()
        other_KB = plus_KB if minus_KB is None else minus_KB.contiguous()
        grid = (suspects * keys,)
        _difference_kernel[grid](
            out_MK, weights_MJ, plus_KB, other_KB, expected_KB, keys, bits, *weights_MJ.stride(),
            DIFF=minus_KB is not None, BITS=BITS,
        )  # fmt: skip
    return out_MK


BUILDS = tuple(
    Build(
        _difference_kernel,
        {
            **{"out": "*i64", "weights": f"*{dtype}", "plus": "*i64", "minus": "*i64", "expected": "*u8"},
            **dict.fromkeys(("keys", "bits", "stride_m", "stride_j"), "i64"),
        },
        {"DIFF": diff, "BITS": BITS},
        registers=64,
    )
    for dtype in ("fp32", "bf16")
    for diff in (True, False)
)


def difference_matches(
    weights_MJ: Tensor, plus_KB: Tensor, minus_KB: Tensor | None, expected_KB: Tensor
) -> Tensor:
    """(M, K) int64: how many bits [w[plus] > w[minus]], or [w[plus] > 0] without `minus_KB`, equal the expected ones (0 or 1).
    A NaN weight is not larger. ValueError for shapes that differ or positions outside [0, J). CPU memory beyond the result:
    CELLS_AT_ONCE gathered weights, or those of a suspect and key, twice in their dtype and in float64."""
    if weights_MJ.ndim != 2 or not weights_MJ.is_floating_point():
        raise ValueError(
            f"weights_MJ: expected a matrix of floats, got {weights_MJ.dtype} of shape {tuple(weights_MJ.shape)}"
        )
    for name, index_KB in (("plus_KB", plus_KB), ("minus_KB", minus_KB)):
        if index_KB is not None:
            _check_positions(name, index_KB, expected_KB.shape, weights_MJ.shape[1])
    indices = [plus_KB] if minus_KB is None else [plus_KB, minus_KB]
    if on_gpu(weights_MJ, expected_KB, *indices):
        return difference_matches_triton(weights_MJ, plus_KB, minus_KB, expected_KB)
    (suspects, _), (keys, bits) = weights_MJ.shape, plus_KB.shape
    out_MK = torch.empty(suspects, keys, dtype=torch.int64)
    some_m = max(1, min(suspects, CELLS_AT_ONCE // max(1, bits)))
    some_k = max(1, CELLS_AT_ONCE // max(1, some_m * bits))
    for m in range(0, suspects, some_m):
        for k in range(0, keys, some_k):
            part = slice(k, k + some_k)
            minus = None if minus_KB is None else minus_KB[part]
            of_keys = plus_KB[part], minus, expected_KB[part]
            out_MK[m : m + some_m, part] = difference_matches_reference(weights_MJ[m : m + some_m], *of_keys)
    return out_MK


def _check_positions(name: str, index_KB: Tensor, shape: torch.Size, weights: int) -> None:
    if index_KB.shape != shape or index_KB.dtype != torch.int64:
        raise ValueError(
            f"{name}: expected int64 positions of shape {tuple(shape)} as the expected bits, got {index_KB.dtype} of "
            f"{tuple(index_KB.shape)}"
        )
    if index_KB.numel() and not 0 <= int(index_KB.min()) <= int(index_KB.max()) < weights:
        raise ValueError(
            f"{name}: expected positions in [0, {weights}), got {int(index_KB.min())} to {int(index_KB.max())}"
        )
