"""A step of generation over the vocabulary, against the same in torch and against plain sampling, which a Gumbel draw replaces."""

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from assay.kernels.philox import MASK, blocks
from assay.kernels.text_generation import gumbel_argmax
from assay.kernels.text_green import green_bias
from assay.kernels.text_mark import TextMark
from assay.kernels.text_prf import CONTEXT, TOKEN, uniforms, words_reference
from kernels import Case, Way

GPU = torch.cuda.is_available()
KEY, DELTA = 0x0123456789ABCDEF, 2.0


def eager_words(windows_BH: Tensor, vocabulary: int) -> Tensor:
    """Four words a block, as fast as torch's integers give them; windows of 4."""
    k0, k1 = KEY & MASK, KEY >> 32
    start_4 = torch.tensor([CONTEXT, 4, 0, 0], device=windows_BH.device)
    state_B4 = blocks(start_4 ^ windows_BH, (k0, k1))
    block_C = torch.arange(-(-vocabulary // 4), device=windows_BH.device)
    parts = torch.broadcast_tensors(block_C, *state_B4[:, :3, None].unbind(1))
    output_key = (state_B4[:, 3, None] ^ k0, k1 ^ TOKEN)
    return blocks(torch.stack(parts, -1), output_key).reshape(len(windows_BH), -1)[:, :vocabulary]  # type: ignore[arg-type]


def eager_draw(logits_BV: Tensor, windows_BH: Tensor) -> Tensor:
    u_BV = uniforms(eager_words(windows_BH, logits_BV.shape[1])).float()
    return (logits_BV - torch.log(-torch.log(u_BV))).argmax(1)


def eager_bias(logits_BV: Tensor, windows_BH: Tensor) -> Tensor:
    return logits_BV.float() + DELTA * (eager_words(windows_BH, logits_BV.shape[1]) < 2**30)


def looped_words(windows_BH: Tensor, vocabulary: int) -> Tensor:
    """A row at a time, a word at a time of each block."""
    candidates_V = torch.arange(vocabulary, device=windows_BH.device)
    rows = [words_reference(window_H.expand(vocabulary, -1), candidates_V, KEY) for window_H in windows_BH]
    return torch.stack(rows)


def looped_draw(logits_BV: Tensor, windows_BH: Tensor) -> Tensor:
    u_BV = uniforms(looped_words(windows_BH, logits_BV.shape[1]))
    return (logits_BV - torch.log(-torch.log(u_BV))).argmax(1)


def looped_bias(logits_BV: Tensor, windows_BH: Tensor) -> Tensor:
    return logits_BV.float() + DELTA * (looped_words(windows_BH, logits_BV.shape[1]) < 2**30)


def given(rows: int, vocabulary: int, device: str) -> tuple[Tensor, Tensor, Tensor, TextMark]:
    logits_BV = 3 * torch.randn(rows, vocabulary, device=device)
    windows_BH = torch.randint(vocabulary, (rows, 4), device=device)
    return logits_BV, windows_BH, torch.tensor([KEY], device=device), TextMark(vocabulary, 4)


def draws(rows: int, vocabulary: int, device: str) -> Mapping[str, Way]:
    logits_BV, windows_BH, key, mark = given(rows, vocabulary, device)
    compiled = torch.compile(eager_draw)
    ours_B = gumbel_argmax(logits_BV, windows_BH, key, mark)
    for way in (eager_draw, compiled, looped_draw):
        assert (way(logits_BV, windows_BH) == ours_B).double().mean() > 0.98  # float32 turns near ties
    return {
        "ours": Way(lambda: gumbel_argmax(logits_BV, windows_BH, key, mark)),
        "eager": Way(lambda: eager_draw(logits_BV, windows_BH)),
        "compiled": Way(lambda: compiled(logits_BV, windows_BH)),
        "loop": Way(lambda: looped_draw(logits_BV[:1], windows_BH[:1]), share=1 / rows),
        "plain sampling": Way(lambda: torch.multinomial(torch.softmax(logits_BV, -1), 1)),
    }


def biases(rows: int, vocabulary: int, device: str) -> Mapping[str, Way]:
    logits_BV, windows_BH, key, mark = given(rows, vocabulary, device)
    compiled = torch.compile(eager_bias)
    ours_BV = green_bias(logits_BV, windows_BH, key, mark, DELTA)
    for way in (eager_bias, compiled, looped_bias):
        assert torch.equal(way(logits_BV, windows_BH), ours_BV)
    return {
        "ours": Way(lambda: green_bias(logits_BV, windows_BH, key, mark, DELTA)),
        "eager": Way(lambda: eager_bias(logits_BV, windows_BH)),
        "compiled": Way(lambda: compiled(logits_BV, windows_BH)),
        "loop": Way(lambda: looped_bias(logits_BV[:1], windows_BH[:1]), share=1 / rows),
    }


SIZES = ((1, 50_257), (8, 50_257), (64 if GPU else 8, 128_256))
CASES = [
    *(Case("gumbel_argmax", f"B={b} V={v:,}", partial(draws, b, v), moved=4 * b * v) for b, v in SIZES),
    *(Case("green_bias", f"B={b} V={v:,}", partial(biases, b, v), moved=8 * b * v) for b, v in SIZES),
]
