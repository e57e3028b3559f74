"""What a language model's head says about each position: its argmax and log-sum-exp, and the log-probability and rank of one
given token, without the (N, V) logits. Fingerprints ask whether a response is top-1, radioactivity tests for probability and rank.

Suffixes: N positions, V vocabulary, D width of a hidden state, S splits of the vocabulary, R positions of a tile, C tokens of one.

Cost: 2NVD operations against the V x D numbers of the head (hidden states and results are small). An H200 reads a bfloat16 head at
4.8 TB/s and multiplies it at 989 T/s: the head's bytes are the floor below N = 206 positions, the product above it; with float32
(67 T/s) it turns at N = 28. N = 1024, V = 128,256, D = 4096 in bfloat16: 1.05 GB or .22 ms, 1.08 T operations or 1.09 ms. Beside
its 2D operations a logit costs 20 plain ones and an exponential, and never leaves the registers: written once and read once in
bfloat16 all of them are 525 MB or .11 ms, and a float32 log-softmax moves them four times more.

Numbers: sums are float32 (IEEE, no TF32). The target's logit is computed once, in float64, and stands in its own column everywhere:
no target outranks itself, and rank 0 and argmax agree. Where two logits differ by less than the rounding of a sum, at worst
D 2^-24 |hidden| |row of the head|, either may come first; sums of small integers are exact.

A nan among a position's logits: token -1, logit, log-sum-exp and log-probability nan, rank V. Infinite logits are numbers like
others: of equal ones the lowest id wins; with a +inf the log-sum-exp is +inf and a finite target has log-probability -inf; where
target and log-sum-exp are the same infinity the log-probability is nan, for inf - inf says nothing.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .lang import Build, ceil_div, jit, on_gpu, tl

DTYPES = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float16: "*fp16"}
LARGEST = torch.finfo(torch.float32).max
PROGRAMS = 528  # four for each of 132 multiprocessors; a constant, so that sums do not depend on the device
FEW = 16  # positions up to which the small tile wastes no product
CHUNK_POSITIONS, CHUNK_TOKENS = 256, 4096  # CPU: 4 MB of logits at a time
OWN = {"cpu": 2**20, "cuda": 2**24}  # 8 and 128 MB
CHUNK_NUMBERS = 2**22  # CPU: of the head, widened to float32, at a time: 16 MB

Maybe = Tensor | None


class Readout(NamedTuple):
    """One entry a position: token and rank int64 (rank -1 without a target), the others float32 (log_prob nan without one)."""

    token_N: Tensor
    logit_N: Tensor
    logsumexp_N: Tensor
    log_prob_N: Tensor
    rank_N: Tensor


def head_argmax_reference(
    hidden_ND: Tensor, head_VD: Tensor, target_N: Maybe = None, bias_V: Maybe = None
) -> Readout:
    """The definition, in float64. rank: how many other tokens have a larger logit, or an equal one and a lower id."""
    logits_NV, V = hidden_ND.double() @ head_VD.double().T, len(head_VD)
    logits_NV = logits_NV if bias_V is None else logits_NV + bias_V.double()
    top_N, bad_N = logits_NV.amax(1), logits_NV.isnan().any(1)
    token_N = torch.where(bad_N, -1, (logits_NV == top_N[:, None]).to(torch.uint8).argmax(1))
    lse_N = torch.where(bad_N, math.nan, logits_NV.logsumexp(1))
    target_N = torch.full_like(token_N, -1) if target_N is None else target_N
    own_N1 = logits_NV.gather(1, target_N.clamp(min=0)[:, None])
    lower_NV = torch.arange(V, device=target_N.device) < target_N[:, None]
    rank_N = ((logits_NV > own_N1) | ((logits_NV == own_N1) & lower_NV)).sum(1)
    rank_N = torch.where(bad_N, V, rank_N).masked_fill(target_N < 0, -1)
    log_prob_N = (own_N1[:, 0] - lse_N).masked_fill(target_N < 0, math.nan)
    return Readout(token_N, top_N, lse_N, log_prob_N, rank_N)


@jit
def _product(
    left, right, i, j, D, hidden_d, head_d, DEPTH: tl.constexpr, ALIGNED: tl.constexpr, WIDE: tl.constexpr
):
    """Rows left + i times columns right + j. i and j are 32-bit: with 64-bit pointers for every element the kernel spilled."""
    i, j = i[:, None], j[None, :]
    depth = tl.arange(0, DEPTH)
    if ALIGNED:
        i, j, hidden_d, head_d = tl.multiple_of(i, (16, 16)), tl.multiple_of(j, (16, 16)), 1, 1
    i = i + (depth * tl.cast(hidden_d, tl.int32))[None, :]
    j = j + (depth * tl.cast(head_d, tl.int32))[:, None]
    x = tl.zeros((i.shape[0], j.shape[1]), tl.float32)
    for d in range(0, D, DEPTH):
        if ALIGNED:
            a, b = tl.load(tl.multiple_of(left + d, 16) + i), tl.load(tl.multiple_of(right + d, 16) + j)
        else:
            inside = depth < tl.cast(D - d, tl.int32)
            a = tl.load(left + tl.cast(d, tl.int64) * hidden_d + i, mask=inside[None, :], other=0)
            b = tl.load(right + tl.cast(d, tl.int64) * head_d + j, mask=inside[:, None], other=0)
        if WIDE:
            a, b = a.to(tl.float32), b.to(tl.float32)
        x = tl.dot(a, b, x, input_precision="ieee")
    return x


@jit
def _merged(x, token, top, top_token, mass):
    """Maximum, its lowest token and the sum of exponentials, with one more tile. A nan stays in the sum."""
    tile_top = tl.max(x, 1)
    tile_token = tl.min(tl.where(x == tl.expand_dims(tile_top, 1), token[None, :], 2147483647), 1)
    top_token = tl.where(tile_top > top, tile_token, top_token)
    new = tl.maximum(tile_top, top)
    # Infinite maxima must not meet in a difference; exp(inf - 3e38) is inf and exp(-inf + 3e38) is 0, as they should be.
    shift = tl.minimum(tl.maximum(new, -3.4028234663852886e38), 3.4028234663852886e38)
    mass = mass * tl.exp(top - shift) + tl.sum(tl.exp(x - shift[:, None]), 1)
    return new, top_token, mass


@jit
def _split_kernel(
    hidden,
    head,
    bias,
    target,
    own,
    reals,
    counts,
    N,
    V,
    D,
    hidden_n,
    hidden_d,
    head_v,
    head_d,
    tiles,
    ROWS: tl.constexpr,
    TOKENS: tl.constexpr,
    DEPTH: tl.constexpr,
    ALIGNED: tl.constexpr,
    WIDE: tl.constexpr,
):
    """A tile of positions against `tiles` tiles of the vocabulary. Positions come first in the grid, so that programs that run
    together read the same part of the head. Rows and columns beyond the end repeat the last: no mask on a load."""
    first, split = tl.program_id(0).to(tl.int64) * ROWS, tl.program_id(1).to(tl.int64)
    row, column = tl.arange(0, ROWS), tl.arange(0, TOKENS)
    there = first + row < N
    i = tl.minimum(row, tl.cast(N - 1 - first, tl.int32)) * tl.cast(hidden_n, tl.int32)
    wanted = tl.load(target + first + row, mask=there, other=-1).to(tl.int32)[:, None]
    logit = tl.load(own + first + row, mask=there, other=0)[:, None]
    top = tl.full((ROWS,), float("-inf"), tl.float32)
    top_token = tl.zeros((ROWS,), tl.int32) + tl.cast(split * tiles * TOKENS, tl.int32)
    mass, above = tl.zeros((ROWS,), tl.float32), tl.zeros((ROWS,), tl.int32)
    for tile in range(split * tiles, tl.minimum((split + 1) * tiles, tl.cdiv(V, TOKENS))):
        start = tile * TOKENS
        rest = tl.minimum(column, tl.cast(V - 1 - start, tl.int32))
        left, right, j = hidden + first * hidden_n, head + start * head_v, rest * tl.cast(head_v, tl.int32)
        x = _product(left, right, i, j, D, hidden_d, head_d, DEPTH, ALIGNED, WIDE)
        if bias is not None:
            x += tl.load(bias + start + rest).to(tl.float32)[None, :]
        token = tl.cast(start, tl.int32) + column
        x = tl.where((column == rest)[None, :], x, float("-inf"))
        x = tl.where(token[None, :] == wanted, logit, x)
        before = (x > logit) | ((x == logit) & (token[None, :] < wanted))
        above += tl.sum(before.to(tl.int32), 1)
        top, top_token, mass = _merged(x, token, top, top_token, mass)
    place, size = split * N + first + row, tl.num_programs(1).to(tl.int64) * N
    tl.store(reals + place, top, mask=there)
    tl.store(reals + size + place, mass, mask=there)
    tl.store(counts + place, top_token, mask=there)
    tl.store(counts + size + place, above, mask=there)


# Positions, tokens and numbers of D in a tile, warps, stages, and the most registers a thread takes on an NVIDIA target. Ragged:
# what cannot be loaded in 16 aligned bytes is rare, and needs smaller tiles. The largest tile puts part of a finished tile's logits
# on the stack, and takes 7.2 ms on an H200 where 128 x 128, without a stack, takes 9.1 (N = 4,096, D = 4,096; docs/kernels.md).
HALF = {"many": (128, 256, 64, 8, 3, 255), "few": (16, 128, 64, 4, 3, 128), "ragged": (64, 64, 64, 8, 3, 255)}
FULL = {"many": (64, 64, 32, 8, 3, 128), "few": (16, 64, 32, 4, 3, 80), "ragged": (64, 64, 16, 8, 3, 255)}


def _tile(hidden_ND: Tensor, head_VD: Tensor) -> str:
    """Which tile: the aligned ones take rows of whole tiles, 16 bytes at a load."""
    whole = hidden_ND.shape[1] % (32 if hidden_ND.dtype == torch.float32 else 64) == 0
    for x in (hidden_ND, head_VD):
        whole &= x.stride(1) == 1 and x.stride(0) % 16 == 0 and x.data_ptr() % 16 == 0
    return ("few" if len(hidden_ND) <= FEW else "many") if whole else "ragged"


def _own(hidden_ND: Tensor, head_VD: Tensor, target_N: Tensor, bias_V: Maybe) -> Tensor:
    """(N,) float32 logits of the targets (of token 0 where there is none), OWN numbers of each side in float64 at a time."""
    rows = max(1, OWN[hidden_ND.device.type] // max(hidden_ND.shape[1], 1))
    picked_N = target_N.clamp(min=0)
    parts = zip(hidden_ND.split(rows), picked_N.split(rows), strict=True)
    own_N = torch.cat([torch.linalg.vecdot(h_RD.double(), head_VD[t_R].double()) for h_RD, t_R in parts])
    return (own_N if bias_V is None else own_N + bias_V[picked_N]).float()


def _combined(reals_2SN: Tensor, counts_2SN: Tensor, target_N: Tensor, own_N: Tensor, V: int) -> Readout:
    """The splits as one, in their order. They hold the maximum and the sum of exp(logit - maximum), nan where a logit is; the
    maximum's token and how many stand before the target."""
    top_N, shift_SN = reals_2SN[0].amax(0), reals_2SN[0].clamp(-LARGEST, LARGEST).double()
    token_N = torch.where(reals_2SN[0] == top_N, counts_2SN[0].to(torch.int64), V).amin(0)
    shift_N = shift_SN.amax(0)
    mass_N = (reals_2SN[1].double() * torch.exp(shift_SN - shift_N)).sum(0)
    bad_N, lse_N = mass_N.isnan(), shift_N + mass_N.log()
    token_N, top_N = token_N.masked_fill(bad_N, -1), top_N.masked_fill(bad_N, math.nan)
    rank_N = counts_2SN[1].sum(0).masked_fill(bad_N, V).masked_fill(target_N < 0, -1)
    log_prob_N = (own_N - lse_N).clamp(max=0).float().masked_fill(target_N < 0, math.nan)
    return Readout(token_N, top_N, lse_N.float(), log_prob_N, rank_N)


def head_argmax_triton(hidden_ND: Tensor, head_VD: Tensor, target_N: Tensor, bias_V: Maybe = None) -> Readout:
    # Offsets within a tile, of 256 tokens at most, are 32-bit: what is farther apart is copied.
    hidden_ND, head_VD = (x if max(x.stride()) < 2**23 else x.contiguous() for x in (hidden_ND, head_VD))
    (N, D), V, device, name = hidden_ND.shape, len(head_VD), hidden_ND.device, _tile(hidden_ND, head_VD)
    rows, tokens, depth, warps, stages, _ = (FULL if hidden_ND.dtype == torch.float32 else HALF)[name]
    row_tiles, token_tiles = ceil_div(N, rows), ceil_div(V, tokens)
    tiles = ceil_div(token_tiles, min(token_tiles, max(1, PROGRAMS // max(row_tiles, 1))))
    grid = (row_tiles, ceil_div(token_tiles, tiles))
    reals_2SN = torch.empty(2, grid[1], N, dtype=torch.float32, device=device)
    counts_2SN = torch.empty(2, grid[1], N, dtype=torch.int32, device=device)
    own_N = _own(hidden_ND, head_VD, target_N, bias_V)
    # The interpreter, alone on the CPU, holds bfloat16 as integers, and its dot would multiply those.
    options: dict[str, int] = {"ALIGNED": name != "ragged", "WIDE": device.type == "cpu"}
    options |= {"num_warps": warps, "num_stages": stages}
    if N:
        data = (x if x is None else x.contiguous() for x in (bias_V, target_N))
        pointers = hidden_ND, head_VD, *data, own_N, reals_2SN, counts_2SN
        sizes = N, V, D, *hidden_ND.stride(), *head_VD.stride(), tiles
        _split_kernel[grid](*pointers, *sizes, rows, tokens, depth, **options)
    return _combined(reals_2SN, counts_2SN, target_N, own_N, V)


def _build(kernel: Any, dtype: torch.dtype, name: str) -> Build:
    rows, tokens, depth, warps, stages, registers = (FULL if dtype == torch.float32 else HALF)[name]
    steps = {} if name == "ragged" else {"hidden_d": 1, "head_d": 1}  # as the launch specialises them
    sizes = ("N", "V", "D", "hidden_n", "hidden_d", "head_v", "head_d", "tiles")
    types = dict.fromkeys(("hidden", "head", "bias"), DTYPES[dtype]) | {"target": "*i64", "counts": "*i32"}
    types |= {"own": "*fp32", "reals": "*fp32"} | {size: "i64" for size in sizes if size not in steps}
    constants = {"ROWS": rows, "TOKENS": tokens, "DEPTH": depth}
    constants |= {"ALIGNED": bool(steps), "WIDE": False} | steps
    return Build(kernel, types, constants, registers, warps, stages, stack=1024 if tokens == 256 else 0)


BUILDS = tuple(_build(_split_kernel, dtype, name) for dtype in DTYPES for name in HALF)


def _chunked(hidden_RD: Tensor, head_VD: Tensor, target_R: Tensor, bias_V: Maybe) -> Readout:
    """The CPU's way, for CHUNK_POSITIONS at most: chunks of the vocabulary are its splits."""
    (V, D), R = head_VD.shape, len(hidden_RD)
    C = min(V, max(64, min(CHUNK_TOKENS, CHUNK_NUMBERS // max(D, 1))))
    own_R, hidden_RD = _own(hidden_RD, head_VD, target_R, bias_V), hidden_RD.float()
    next_R = torch.nextafter(own_R, torch.full_like(own_R, math.inf)).masked_fill(own_R == math.inf, math.nan)
    reals_2SR = torch.empty(2, ceil_div(V, C), R)
    counts_2SR = torch.empty_like(reals_2SR, dtype=torch.int64)
    # Comparisons into float32 and their sums take a third of bool's time.
    logits_RC, flags_RC, column_C = torch.empty(R, C), torch.empty(R, C), torch.arange(0.0, C)
    for s, first in enumerate(range(0, V, C)):
        tokens = slice(first, min(first + C, V))
        c = tokens.stop - first
        x_RC = torch.mm(hidden_RD, head_VD[tokens].float().T, out=logits_RC[:, :c])
        if bias_V is not None:
            x_RC += bias_V[tokens].float()
        here = torch.nonzero((target_R >= first) & (target_R < tokens.stop))[:, 0]
        x_RC[here, target_R[here] - first] = own_R[here]
        # Before the target: of a chunk of lower ids what is as large; else what is as large as the next float, and lower ties.
        limit_R = torch.where(target_R >= tokens.stop, own_R, next_R)
        counts_2SR[1, s] = torch.ge(x_RC, limit_R[:, None], out=flags_RC[:, :c]).sum(1)
        near_RC = x_RC[here]
        tied = here[torch.eq(near_RC, own_R[here, None], out=near_RC).sum(1) > 1]
        lower_RC = (x_RC[tied] == own_R[tied, None]) & (column_C[:c] < target_R[tied, None] - first)
        counts_2SR[1, s, tied] += lower_RC.sum(1)
        reals_2SR[0, s] = top_R = x_RC.amax(1)
        back_RC = torch.eq(x_RC, top_R[:, None], out=flags_RC[:, :c]).mul_(C - column_C[:c])
        counts_2SR[0, s] = first + C - back_RC.amax(1).long()
        reals_2SR[1, s] = x_RC.sub_(top_R.clamp(-LARGEST, LARGEST)[:, None]).exp_().sum(1)
    return _combined(reals_2SR, counts_2SR, target_R, own_R, V)


def _check(hidden_ND: Tensor, head_VD: Tensor, target_N: Maybe, bias_V: Maybe) -> None:
    def refuse(name: str, expected: str, x: Tensor) -> None:
        raise ValueError(f"{name}: expected {expected}, got {tuple(x.shape)} {x.dtype}")

    if hidden_ND.ndim != 2 or hidden_ND.dtype not in DTYPES:
        refuse("hidden", "(N, D) float32, bfloat16 or float16", hidden_ND)
    if head_VD.ndim != 2 or head_VD.dtype != hidden_ND.dtype or head_VD.shape[1] != hidden_ND.shape[1]:
        refuse("head", f"(V, {hidden_ND.shape[1]}) {hidden_ND.dtype} as in hidden", head_VD)
    if not 0 < (V := len(head_VD)) < 2**31:
        refuse("head", "1 to 2^31 - 1 tokens", head_VD)
    if bias_V is not None and (bias_V.shape != (V,) or bias_V.dtype not in DTYPES):
        refuse("bias", f"({V},) float32, bfloat16 or float16", bias_V)
    if target_N is not None and (target_N.shape != hidden_ND.shape[:1] or target_N.dtype != torch.int64):
        refuse("target", f"({len(hidden_ND)},) int64", target_N)
    if target_N is not None and ((target_N < -1) | (target_N >= V)).any():
        found = f"{target_N.min()} to {target_N.max()}"
        raise ValueError(f"target: expected ids in [0, {V}), or -1 for none, got {found}")


@torch.no_grad()
def head_argmax(hidden_ND: Tensor, head_VD: Tensor, target_N: Maybe = None, bias_V: Maybe = None) -> Readout:
    """Readout of every position. hidden and head: one dtype of float32, bfloat16, float16, strided as they come; bias: any of them;
    target: int64, -1 for none. No gradient flows. Memory beside the result: on a GPU 16 bytes for N + 128 x 528 partial results, on
    the CPU 64 MB. ValueError: shapes, dtypes, devices that differ, a target outside the vocabulary, an empty vocabulary."""
    _check(hidden_ND, head_VD, target_N, bias_V)
    if target_N is None:
        target_N = torch.full((len(hidden_ND),), -1, device=hidden_ND.device)
    if on_gpu(hidden_ND, head_VD, target_N, *(() if bias_V is None else (bias_V,))):
        return head_argmax_triton(hidden_ND, head_VD, target_N, bias_V)
    rows = max(1, min(CHUNK_POSITIONS, 2**20 // max(hidden_ND.shape[1], 1)))
    parts = zip(hidden_ND.split(rows), target_N.split(rows), strict=True)
    done = [_chunked(hidden_RD, head_VD, target_R, bias_V) for hidden_RD, target_R in parts]
    return Readout(*map(torch.cat, zip(*done, strict=True)))
