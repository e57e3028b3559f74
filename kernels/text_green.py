"""The green list of one step of generation, over the whole vocabulary: which ids, and their bias on the logits.

Suffixes: B rows of a batch, H ids of a window (oldest first), V vocabulary. Token v is green iff its word F(w, v) is below
floor(gamma 2^32); a row's message m shifts its words, F(w, (v + m) mod V). The same `TextMark` and key count the green ids of a
text (kernels/text_scores.py). The bias keeps NaN and infinities as they are.

Cost of a candidate: a byte written (mask), or a logit read and 4 bytes written (bias); 25 integer operations of Philox or 30 of
splitmix64. An H200 needs 74 ns of them (17 T/s) for a row of 50,257, and 63 ns of memory (4.8 TB/s) to bias bfloat16 logits:
operations are the floor. CPU: 12 ns a candidate (philox), 8 (splitmix64).
"""

import math

import torch
from torch import Tensor

from .lang import Build, ceil_div, jit, on_gpu, tl
from .text_mark import TextMark, check_logits, checked_rows
from .text_prf import rows_of_words
from .text_words import row_state, row_tokens, row_words, vocabulary_words_reference

BLOCKS = 256  # blocks of 4 candidates a program


def green_mask_reference(
    windows_BH: Tensor, keys_B: Tensor, mark: TextMark, payload_B: Tensor | None = None
) -> Tensor:
    """The definition: (B, V) bool."""
    return vocabulary_words_reference(windows_BH, keys_B, mark, payload_B) < mark.threshold


def green_bias_reference(logits_BV: Tensor, green_BV: Tensor, delta: float) -> Tensor:
    """The definition, in float32."""
    return logits_BV.to(torch.float32) + torch.where(green_BV, delta, 0.0)


@jit
def _green_kernel(
    windows,
    keys,
    payloads,
    logits,
    out,
    stride,
    tiles,
    vocabulary,
    threshold,
    delta,
    WIDTH: tl.constexpr,
    SPLITMIX: tl.constexpr,
    BIAS: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) // tiles
    tile = tl.program_id(0).to(tl.int64) % tiles
    s0, s1, s2, seed = row_state(windows, keys, row, WIDTH, SPLITMIX)
    green = row_words(s0, s1, s2, seed, tile, SPLITMIX, BLOCKS).to(tl.int64) < threshold
    token, exists = row_tokens(payloads, row, tile, vocabulary, BLOCKS)
    if BIAS:
        logit = tl.load(logits + row * stride + token, mask=exists, other=0).to(tl.float32)
        tl.store(out + row * vocabulary + token, logit + tl.where(green, delta, 0.0), mask=exists)
    else:
        tl.store(out + row * vocabulary + token, green.to(tl.uint8), mask=exists)


def green_triton(
    windows_BH: Tensor,
    keys_B: Tensor,
    mark: TextMark,
    payload_B: Tensor,
    logits_BV: Tensor | None,
    delta: float,
) -> Tensor:
    """The launcher, of `checked_rows`: (B, V) bool, or with logits float32."""
    rows, tiles = len(windows_BH), ceil_div(mark.vocabulary, 4 * BLOCKS)
    shape = (rows, mark.vocabulary)
    dtype = torch.uint8 if logits_BV is None else torch.float32
    out_BV = torch.empty(shape, dtype=dtype, device=windows_BH.device)
    given = out_BV if logits_BV is None else logits_BV
    if rows:
        grid = (rows * tiles,)
        _green_kernel[grid](
            windows_BH,
            keys_B,
            payload_B,
            given,
            out_BV,
            given.stride(0),
            tiles,
            mark.vocabulary,
            mark.threshold,
            delta,
            WIDTH=mark.width,
            SPLITMIX=mark.prf == "splitmix64",
            BIAS=logits_BV is not None,
            BLOCKS=BLOCKS,
        )
    return out_BV.view(torch.bool) if logits_BV is None else out_BV


_TYPES = {
    **dict.fromkeys(("windows", "keys", "payloads"), "*i64"),
    **dict.fromkeys(("stride", "tiles", "vocabulary", "threshold"), "i64"),
    "delta": "fp32",
}
BUILDS = tuple(
    Build(
        _green_kernel,
        {**_TYPES, "logits": logits, "out": out},
        {"WIDTH": 4, "SPLITMIX": splitmix, "BIAS": out == "*fp32", "BLOCKS": BLOCKS},
        registers=56,
    )
    for logits, out in (("*u8", "*u8"), ("*bf16", "*fp32"))
    for splitmix in (False, True)
)


def green_mask(windows_BH: Tensor, keys_B: Tensor, mark: TextMark, payload_B: Tensor | None = None) -> Tensor:
    """(B, V) bool: the ids that are green after each row's window. keys: (B,) or (1,), 64 bits each (philox.packed). CPU memory
    beside the result: 4 V bytes, or 1 MB."""
    windows_BH, keys_B, payload_B = checked_rows(windows_BH, keys_B, mark, payload_B)
    if on_gpu(windows_BH, keys_B, payload_B):
        return green_triton(windows_BH, keys_B, mark, payload_B, None, 0.0)
    out_BV = torch.empty(len(windows_BH), mark.vocabulary, dtype=torch.bool)
    for rows, words_RV in rows_of_words(windows_BH, keys_B, payload_B, mark):
        out_BV.numpy()[rows] = words_RV < mark.threshold
    return out_BV


def green_bias(
    logits_BV: Tensor,
    windows_BH: Tensor,
    keys_B: Tensor,
    mark: TextMark,
    delta: float,
    payload_B: Tensor | None = None,
) -> Tensor:
    """(B, V) float32: the logits (float32, bfloat16 or float16) with delta added to green ids."""
    if not math.isfinite(delta):
        raise ValueError(f"delta: expected a finite bias, got {delta}")
    windows_BH, keys_B, payload_B = checked_rows(windows_BH, keys_B, mark, payload_B)
    logits_BV = check_logits(logits_BV, len(windows_BH), mark)
    if on_gpu(logits_BV, windows_BH, keys_B, payload_B):
        return green_triton(windows_BH, keys_B, mark, payload_B, logits_BV, delta)
    out_BV = torch.empty(logits_BV.shape, dtype=torch.float32)
    for rows, words_RV in rows_of_words(windows_BH, keys_B, payload_B, mark):
        green_RV = torch.from_numpy(words_RV < mark.threshold).to(torch.float32)
        torch.add(logits_BV[rows].to(torch.float32), green_RV, alpha=delta, out=out_BV[rows])
    return out_BV
