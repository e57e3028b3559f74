"""Drawing the next id by the key: Gumbel-max over the whole vocabulary, and the tournament of SynthID-Text.

Suffixes: B rows of a batch, H ids of a window (oldest first), V vocabulary. The same `TextMark` and key find the mark again
(kernels/text_scores.py). A row's message m shifts its words: token v has F(w, (v + m) mod V).
  gumbel_argmax  argmax of logits / temperature - ln(-ln u): a draw from the softmax, made by the key alone (Aaronson, 2022)
  tournament     probabilities after every layer, p <- p (1 + g - sum of g p), g the layer's bits (Dathathri et al., 2024)

A logit that is NaN or -inf is never drawn; the lowest id wins a tie, among +inf too; a row without a candidate gives -1.

Cost of gumbel_argmax: a logit read, 25 integer operations of Philox and 40 of two logarithms a candidate; no uniform is ever
stored. Floor on an H200 for a row of 50,257: 42 ns of memory in float32, about 100 ns of arithmetic (17 T integer, 33 T float
operations/s). CPU: 1.2 ms (philox), 1.1 (splitmix64), where plain sampling takes 1.25.
"""

import numpy as np
import torch
from torch import Tensor

from .lang import Build, ceil_div, jit, on_gpu, tl
from .text_mark import TextMark, check_logits, checked_rows
from .text_prf import rows_of_words, uniforms
from .text_words import row_state, row_tokens, row_words, vocabulary_words_reference

BLOCKS = 256  # blocks of 4 candidates at a time
TILES = 4  # of a program: 4,096 candidates
PIECE = 2**17  # candidates at a time on the CPU: torch's calls take a third of the time of pieces of 2^14


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
    if not 0 < temperature < float("inf"):
        raise ValueError(f"temperature: expected a positive number, got {temperature}")
    windows_BH, keys_B, payload_B = checked_rows(windows_BH, keys_B, mark, payload_B)
    logits_BV = check_logits(logits_BV, len(windows_BH), mark)
    if on_gpu(logits_BV, windows_BH, keys_B, payload_B):
        return gumbel_argmax_triton(logits_BV, windows_BH, keys_B, mark, temperature, payload_B)
    best_B = torch.full((len(logits_BV),), -torch.inf, dtype=torch.float64)
    out_B = torch.full((len(logits_BV),), -1)
    for rows, words_RV in rows_of_words(windows_BH, keys_B, payload_B, mark):
        for first in range(0, mark.vocabulary, PIECE):
            words_RC = torch.from_numpy(words_RV[:, first : first + PIECE].astype(np.int64))
            logits_RC = logits_BV[rows, first : first + PIECE].to(torch.float64)
            noise_RC = uniforms(words_RC).log_().neg_().log_()
            top_R, token_R = _top(logits_RC.div_(temperature).sub_(noise_RC))
            better_R = top_R > best_B[rows]  # an equal one further on has a higher id
            best_B[rows] = torch.where(better_R, top_R, best_B[rows])
            out_B[rows] = torch.where(better_R, first + token_R, out_B[rows])
    return out_B


def _top(score_RC: Tensor) -> tuple[Tensor, Tensor]:
    """The largest of every row and its first place; NaN counts as -inf."""
    place_R = torch.from_numpy(score_RC.numpy().argmax(1))  # 10 us for 50,257, where torch takes 58
    top_R = score_RC.gather(1, place_R[:, None]).squeeze(1)
    if top_R.isnan().any():  # argmax takes NaN for the largest
        return _top(torch.where(score_RC.isnan(), -torch.inf, score_RC))
    return top_R, place_R


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
