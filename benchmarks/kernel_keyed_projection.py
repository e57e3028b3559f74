"""Secret projections against the matrix drawn by torch and multiplied, per key, in float32 and in float64.

"eager" draws another matrix from torch's own generator, so it cannot give the same bits: what it gives is checked against the
definition with the same matrix instead."""

from collections.abc import Mapping
from functools import partial
from typing import get_args

import torch
from torch import Tensor

from assay.kernels import keyed_projection as kp
from assay.kernels import philox
from assay.kernels.projection_columns import Kind, Stream
from kernels import Case, Way


def drawn(weights_MJ: Tensor, expected_KB: Tensor, kind: Kind, dtype: torch.dtype) -> Tensor:
    """Matches with a matrix from torch.randn (or its signs) per key, which lives for its key."""
    columns = []
    for expected_B in expected_KB:
        shape = weights_MJ.shape[1], len(expected_B)
        x_JB = torch.randn(shape, device=weights_MJ.device)
        if kind == "sign":
            x_JB = (
                torch.randint(0, 2, shape, device=weights_MJ.device, dtype=torch.int8)
                .to(dtype)
                .mul_(2)
                .sub_(1)
            )
        columns.append(((weights_MJ.to(dtype) @ x_JB.to(dtype) > 0) == expected_B.bool()).sum(-1))
    return torch.stack(columns, -1)


def bit_by_bit(
    weights_MJ: Tensor, streams: list[Stream], expected_KB: Tensor, kind: Kind, bits: int
) -> Tensor:
    """The naive loop: a column at a time; the first `bits` of each key."""
    draw = {"sign": philox.signs, "normal": philox.normals}[kind]
    out_MK = torch.zeros(len(weights_MJ), len(streams), dtype=torch.int64, device=weights_MJ.device)
    for k, stream in enumerate(streams):
        for b in range(bits):
            column_J = draw(stream, weights_MJ.shape[1], b << 32).to(weights_MJ.device, torch.float64)
            out_MK[:, k] += (weights_MJ.double() @ column_J > 0) == bool(expected_KB[k, b])
    return out_MK


def ways(suspects: int, weights: int, keys: int, bits: int, kind: Kind, device: str) -> Mapping[str, Way]:
    weights_MJ = torch.randn(suspects, weights, device=device)
    streams = [(k, 7) for k in range(keys)]
    expected_KB = torch.randint(0, 2, (keys, bits), device=device, dtype=torch.uint8)
    part = max(1, min(bits, 2**20 // (weights * keys)))
    first = kp.projection_matches(weights_MJ, streams[:1], expected_KB[:1, :part], kind)
    assert torch.equal(first, bit_by_bit(weights_MJ, streams[:1], expected_KB[:1], kind, part))
    loop = partial(bit_by_bit, weights_MJ, streams, expected_KB, kind, part)
    return {
        "ours": Way(lambda: kp.projection_matches(weights_MJ, streams, expected_KB, kind)),
        "eager": Way(lambda: drawn(weights_MJ, expected_KB, kind, torch.float32)),
        "eager_float64": Way(lambda: drawn(weights_MJ, expected_KB, kind, torch.float64)),
        "randn": Way(lambda: drawn(weights_MJ, expected_KB, "normal", torch.float32)),
        "loop": Way(loop, share=part / bits),
    }


def case(suspects: int, weights: int, keys: int, bits: int, kind: Kind) -> Case:
    return Case(
        f"keyed_projection {kind}",
        f"M={suspects} J={weights:,} K={keys} B={bits}",
        partial(ways, suspects, weights, keys, bits, kind),
        moved=4 * suspects * weights + keys * bits + 8 * suspects * keys,
        flops=2 * suspects * weights * keys * bits,
    )


SIZES = ((1, 288, 200, 256), (8, 65_536, 1, 256), (64, 16_384, 2, 256))
CASES = [case(*size, kind) for kind in get_args(Kind) for size in SIZES]
CASES.append(case(1, 2_400_000, 1, 256, "sign"))  # normals of this size take 10 s on a core
