"""Drawing the next id by the key: Gumbel-max over the whole vocabulary, and the tournament of SynthID-Text.

Suffixes: B rows of a batch, H ids of a window (oldest first), V vocabulary. The same `TextMark` and key find the mark again
(kernels/text_scores.py). A row's message m shifts its words: token v has F(w, (v + m) mod V).
  gumbel_argmax  argmax of logits / temperature - ln(-ln u): a draw from the softmax, made by the key alone (Aaronson, 2022)
  tournament     probabilities after every layer, p <- p (1 + g - sum of g p), g the layer's bits (Dathathri et al., 2024)

A logit that is NaN or -inf is never drawn; the lowest id wins a tie, among +inf too; a row without a candidate gives -1.

Cost of gumbel_argmax: a logit read, 25 integer operations of Philox and 40 of two logarithms a candidate; no uniform is ever
stored. Floor on an H200 for a row of 50,257: 42 ns of memory in float32, about 100 ns of arithmetic (17 T integer, 33 T float
operations/s). CPU: 0.58 ms (philox), 0.42 (splitmix64), where plain sampling takes 1.25.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .lang import Build, ceil_div, jit, on_gpu, tl
from .text_mark import TextMark, check_logits, checked_rows
from .text_prf import rows_of_words, uniforms
from .text_words import row_state, row_tokens, row_words, vocabulary_words_reference

BLOCKS = 256  # blocks of 4 candidates at a time
TILES = 4  # of a program: 4,096 candidates
PIECE = 2**17  # candidates at a time on the CPU: pieces of 2^14 take 1.6 times as long
SLACK = (
    2**-18
)  # of |score| + 32; float32 rounds a quotient and two logarithms of 4 ulp each (numpy's bound): below 2^-20 of it


def gumbel_argmax_reference(
    logits_BV: Tensor,
    windows_BH: Tensor,
    keys_B: Tensor,
    mark: TextMark,
    temperature: float = 1.0,
    payload_B: Tensor | None = None,
) -> Tensor:
    """The definition, in float64: (B,) int64. torch.argmax gives a tie to the lowest id."""
    u_BV = uniforms(vocabulary_words_reference(windows_BH, keys_B, mark, payload_B))
    score_BV = logits_BV.to(torch.float64) / temperature - torch.log(-torch.log(u_BV))
    score_BV = torch.where(score_BV.isnan(), -torch.inf, score_BV)
    return torch.where((score_BV > -torch.inf).any(1), score_BV.argmax(1), -1)


@jit
def _gumbel_kernel(
    windows,
    keys,
    payloads,
    logits,
    scores,
    tokens,
    stride,
    parts,
    vocabulary,
    inverse_temperature,
    WIDTH: tl.constexpr,
    SPLITMIX: tl.constexpr,
    BLOCKS: tl.constexpr,
    TILES: tl.constexpr,
):
    """The best of a part of a row: score and token; -inf and V where there is none."""
    program = tl.program_id(0).to(tl.int64)
    row = program // parts
    s0, s1, s2, seed = row_state(windows, keys, row, WIDTH, SPLITMIX)
    best = tl.full([BLOCKS * 4], float("-inf"), tl.float32)
    winner = tl.zeros([BLOCKS * 4], tl.int64) + vocabulary
    for i in range(TILES):
        tile = program % parts * TILES + i
        words = row_words(s0, s1, s2, seed, tile, SPLITMIX, BLOCKS)
        token, exists = row_tokens(payloads, row, tile, vocabulary, BLOCKS)
        logit = tl.load(logits + row * stride + token, mask=exists, other=float("-inf")).to(tl.float32)
        # In float32 the product is 1 - j 2^-24 above 1/2, so that -ln u keeps its relative precision where u is near 1.
        u = ((words >> 8) + 1).to(tl.float32) * (1 / 16777217)
        score = logit * inverse_temperature - tl.log(-tl.log(u))
        better = (score > best) | ((score == best) & (score > float("-inf")) & (token < winner))
        best, winner = tl.where(better, score, best), tl.where(better, token, winner)
    top = tl.max(best, 0)
    tl.store(scores + program, top)
    tl.store(tokens + program, tl.min(tl.where(best == top, winner, vocabulary), 0))


def gumbel_argmax_triton(
    logits_BV: Tensor,
    windows_BH: Tensor,
    keys_B: Tensor,
    mark: TextMark,
    temperature: float,
    payload_B: Tensor,
) -> Tensor:
    """The launcher, of `checked_rows`. A program's best, then the best of a row's programs."""
    rows, parts = len(windows_BH), ceil_div(mark.vocabulary, 4 * BLOCKS * TILES)
    score_BP = torch.empty(rows, parts, dtype=torch.float32, device=logits_BV.device)
    token_BP = torch.empty(rows, parts, dtype=torch.int64, device=logits_BV.device)
    if rows:
        grid = (rows * parts,)
        _gumbel_kernel[grid](
            windows_BH,
            keys_B,
            payload_B,
            logits_BV,
            score_BP,
            token_BP,
            logits_BV.stride(0),
            parts,
            mark.vocabulary,
            1 / temperature,
            WIDTH=mark.width,
            SPLITMIX=mark.prf == "splitmix64",
            BLOCKS=BLOCKS,
            TILES=TILES,
        )
    top_B1 = score_BP.amax(1, keepdim=True)
    token_B = torch.where(score_BP == top_B1, token_BP, mark.vocabulary).amin(1)
    return torch.where(token_B < mark.vocabulary, token_B, -1)


_TYPES = {
    **dict.fromkeys(("windows", "keys", "payloads", "tokens"), "*i64"),
    **dict.fromkeys(("stride", "parts", "vocabulary"), "i64"),
    **{"logits": "*bf16", "scores": "*fp32", "inverse_temperature": "fp32"},
}
BUILDS = tuple(
    Build(
        _gumbel_kernel,
        _TYPES,
        {"WIDTH": 4, "SPLITMIX": splitmix, "BLOCKS": BLOCKS, "TILES": TILES},
        registers=96,
    )
    for splitmix in (False, True)
)


def gumbel_argmax(
    logits_BV: Tensor,
    windows_BH: Tensor,
    keys_B: Tensor,
    mark: TextMark,
    temperature: float = 1.0,
    payload_B: Tensor | None = None,
) -> Tensor:
    """(B,) int64: the id drawn after each row's window, -1 where none can be. keys: (B,) or (1,), 64 bits each (philox.packed).
    The GPU scores in float32, so that it may differ where two ids score alike to 1e-6 of their size; the CPU in float64, with
    4 V bytes of memory and 5 MB."""
    if not 2**-126 <= temperature < float("inf"):
        raise ValueError(f"temperature: expected a positive number that float32 holds, got {temperature}")
    windows_BH, keys_B, payload_B = checked_rows(windows_BH, keys_B, mark, payload_B)
    logits_BV = check_logits(logits_BV, len(windows_BH), mark)
    if on_gpu(logits_BV, windows_BH, keys_B, payload_B):
        return gumbel_argmax_triton(logits_BV, windows_BH, keys_B, mark, temperature, payload_B)
    best_B = np.full(len(logits_BV), -np.inf)
    out_B = np.full(len(logits_BV), -1)
    for rows, words_RV in rows_of_words(windows_BH, keys_B, payload_B, mark):
        for first in range(0, mark.vocabulary, PIECE):
            logits_RC = logits_BV[rows, first : first + PIECE].to(torch.float32).numpy()
            top_R, token_R = _top(logits_RC, words_RV[:, first : first + PIECE], temperature)
            better_R = top_R > best_B[rows]  # an equal one further on has a higher id
            best_B[rows][better_R] = top_R[better_R]
            out_B[rows][better_R] = first + token_R[better_R]
    return torch.from_numpy(out_B)


def _top(
    logits_RC: NDArray[np.float32], words_RC: NDArray[np.uint32], temperature: float
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The largest score of every row and its first place. Scores in float32, then in float64 those that may be the largest."""
    noise_RC = ((words_RC >> 8) + np.uint32(1)).astype(np.float32)
    noise_RC *= 1 / (2**24 + 1)  # rounds as in _gumbel_kernel
    np.log(np.negative(np.log(noise_RC, out=noise_RC), out=noise_RC), out=noise_RC)
    with np.errstate(over="ignore", invalid="ignore"):
        coarse_RC = logits_RC / np.float32(temperature) - noise_RC
        top_R1 = np.fmax.reduce(coarse_RC, 1, keepdims=True)  # passes NaN over
        least_R1 = np.where(np.isfinite(top_R1), top_R1 - SLACK * (np.abs(top_R1) + 32), top_R1)
        maybe_N = np.flatnonzero(coarse_RC >= least_R1)
    row_N, place_N = np.divmod(maybe_N, logits_RC.shape[1])
    u_N = uniforms(torch.from_numpy(words_RC[row_N, place_N].astype(np.int64)))
    score_N = logits_RC[row_N, place_N].astype(np.float64) / temperature - u_N.log_().neg_().log_().numpy()
    order_N = np.lexsort((place_N, -score_N, row_N))
    found_R, first_R = np.unique(row_N[order_N], return_index=True)
    top_R, out_R = np.full(len(logits_RC), -np.inf), np.zeros(len(logits_RC), dtype=np.int64)
    top_R[found_R], out_R[found_R] = score_N[order_N][first_R], place_N[order_N][first_R]
    return top_R, out_R


def tournament(probabilities_BV: Tensor, words_BV: Tensor, depth: int = 32) -> Tensor:
    """Probabilities after `depth` layers of two, from those of the model and `vocabulary_words`. Each row still sums to 1."""
    if not 1 <= depth <= 32:
        raise ValueError(f"depth: expected 1 to 32 layers, got {depth}")
    if probabilities_BV.shape != words_BV.shape or not probabilities_BV.is_floating_point():
        raise ValueError(
            f"probabilities: expected {tuple(words_BV.shape)} of a float as the words, "
            f"got {tuple(probabilities_BV.shape)} of {probabilities_BV.dtype}"
        )
    p_BV = probabilities_BV
    for layer in range(depth):
        bit_BV = (words_BV >> layer & 1).to(p_BV.dtype)
        # A share of all but rounding's worth can come out above 1, and a probability below 0.
        p_BV = p_BV * (bit_BV + (1 - (bit_BV * p_BV).sum(-1, keepdim=True)).clamp_min(0))
    return p_BV
