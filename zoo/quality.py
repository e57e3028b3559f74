"""What a suspect's texts are worth: what a judge, a model of nobody's trained on other text, thinks of those it writes to prompts.

So a model and a thief who edits texts are measured by the same number. Suffixes: N texts, P ids of a prompt, T ids of a text,
V vocabulary.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..core.errors import NotApplicable
from ..core.suspects import parts, texts
from ..core.texts import Quality, distinct, rep, repeated, similarity
from .sentences import semantic_similarity

TEXTS, PROMPT = 64, 16
"""Two standard errors of an accuracy of 25 % at 112 ids a text: 1.0 pp, were ids independent."""
COMPARED = 32
"""The first of them, compared by what they mean in 1.4 CPU seconds: with 30 to 50 % of the words deleted, cosines have a standard
deviation of 0.08 and their mean an error of 0.015."""
SHORTEST = 3
"""Ids of a text: one three-gram."""


def quality(
    judge: nn.Module,
    suspect: nn.Module,
    windows_NT: Tensor,
    seed: int,
    device: str = "cpu",
    decode: Callable[[Sequence[int]], str] | None = None,
) -> Quality | None:
    """`suspect` continues the first PROMPT ids of TEXTS windows to their length; None where an edit leaves less than SHORTEST.
    NotApplicable when it writes no texts, or the windows leave none. decode: ids as text, for what edits do to the meaning."""
    prompts_NP, tokens = windows_NT[:TEXTS, :PROMPT], windows_NT.shape[1] - PROMPT
    if tokens < SHORTEST:
        raise NotApplicable(
            f"windows of {PROMPT + tokens} ids leave {tokens} after a prompt, which no judge can read; "
            f"set task.window={PROMPT + SHORTEST} or more"
        )
    texts_NT = texts(suspect, prompts_NP, tokens, seed, device)
    if texts_NT.shape[1] < SHORTEST:
        return None
    right_NT, loss_NT = judged(judge, prompts_NP, texts_NT, device)
    source = getattr(suspect, "source", None) if hasattr(suspect, "edit") else None
    near = meaning = None
    if isinstance(source, nn.Module):
        unedited_NT = texts(source, prompts_NP, tokens, seed, device)
        near = similarity(texts_NT, unedited_NT)
        if decode is not None:
            pair = ([decode(t) for t in each[:COMPARED].tolist()] for each in (texts_NT, unedited_NT))
            meaning = semantic_similarity(*pair)
    return Quality(
        accuracy=float((right_NT & ~repeated(texts_NT, 3)).double().mean()),
        perplexity=math.exp(float(loss_NT.double().mean())),
        rep_3=rep(texts_NT, 3),
        distinct_2=distinct(texts_NT, 2),
        similarity=near,
        semantic_similarity=meaning,
    )


def judged(
    judge: nn.Module, prompts_NP: Tensor, texts_NT: Tensor, device: str = "cpu"
) -> tuple[Tensor, Tensor]:
    """Of every id of the texts whether the judge predicts it, (N, T) bool, and minus its log-probability, (N, T)."""
    whole_NL = torch.cat([prompts_NP, texts_NT], 1)
    right, loss, done = [], [], 0
    for logits_BVL in parts(judge, whole_NL[:, :-1], device):
        logits_BVT = logits_BVL[:, :, prompts_NP.shape[1] - 1 :].cpu()
        ids_BT = texts_NT[done : done + len(logits_BVT)]
        right.append(logits_BVT.argmax(1) == ids_BT)
        loss.append(functional.cross_entropy(logits_BVT, ids_BT, reduction="none"))
        done += len(logits_BVT)
    return torch.cat(right), torch.cat(loss)
