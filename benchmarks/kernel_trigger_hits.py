"""Hits of triggers against gathers and comparisons of whole matrices, and against a loop over the cells.

Shared: all keys have the same 100 triggers, and only the expected labels differ. Own: every key has 100 of its own. 10 classes."""

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from assay.kernels.row_labels import row_labels
from assay.kernels.trigger_hits import hits_and_margins, trigger_hits
from kernels import Case, Way

GPU = torch.cuda.is_available()
TRIGGERS, CLASSES, TOP = 100, 10, 5
CELLS = 1000  # that the loop does


def hits(logits_MUC: Tensor, targets_KT: Tensor, index_KT: Tensor) -> Tensor:
    return (logits_MUC.argmax(-1)[:, index_KT] == targets_KT).sum(-1)


def hits_shared(logits_MTC: Tensor, targets_KT: Tensor, index_KT: None) -> Tensor:
    return (logits_MTC.argmax(-1)[:, None] == targets_KT).sum(-1)


def hits_of_labels(labels_MU: Tensor, targets_KT: Tensor, index_KT: Tensor) -> Tensor:
    return (labels_MU[:, index_KT] == targets_KT).sum(-1)


def hits_at_lengths(labels_MU: Tensor, targets_KT: Tensor, index_KT: Tensor) -> Tensor:
    return (labels_MU[:, index_KT] == targets_KT).cumsum(-1)[..., 9::10]


def hits_among_top(logits_MTC: Tensor, targets_KT: Tensor, index_KT: None) -> Tensor:
    best_MTB = logits_MTC.topk(TOP).indices
    return (best_MTB[:, None] == targets_KT[..., None]).any(-1).sum(-1)


def margins(logits_MTC: Tensor, targets_KT: Tensor, index_KT: None) -> Tensor:
    value_MT2, class_MT2 = logits_MTC.topk(2)
    target_MKT = logits_MTC[:, torch.arange(TRIGGERS, device=targets_KT.device), targets_KT]
    is_best_MKT = class_MT2[:, None, :, 0] == targets_KT
    return (target_MKT - torch.where(is_best_MKT, value_MT2[:, None, :, 1], value_MT2[:, None, :, 0])).mean(
        -1
    )


def cell(eager: Callable[..., Tensor], answers: Tensor, targets_KT: Tensor, index_KT: Tensor | None) -> None:
    """The first CELLS cells one after another, as a call for each suspect and key computes them."""
    for m in range(len(answers)):
        for k in range(len(targets_KT)):
            if m * len(targets_KT) + k >= CELLS:
                return
            if index_KT is None:
                eager(answers[m : m + 1], targets_KT[k : k + 1], None).tolist()
            else:
                own_T = index_KT[k]
                place_1T = torch.arange(len(own_T), device=own_T.device)[None]
                eager(answers[m : m + 1, own_T], targets_KT[k : k + 1], place_1T).tolist()


def ways(
    ours: Callable[..., Tensor], eager: Callable[..., Tensor], M: int, K: int, own: bool, device: str
) -> Mapping[str, Way]:
    logits_MUC = torch.randn(M, K * TRIGGERS if own else TRIGGERS, CLASSES, device=device)
    targets_KT = torch.randint(CLASSES, (K, TRIGGERS), device=device)
    index_KT = torch.arange(K * TRIGGERS, device=device).reshape(K, TRIGGERS) if own else None
    answers = row_labels(logits_MUC) if eager in (hits_of_labels, hits_at_lengths) else logits_MUC
    given = answers, targets_KT, index_KT
    compiled = torch.compile(eager, dynamic=False)
    for other in (eager, compiled):
        torch.testing.assert_close(ours(*given), other(*given), rtol=1e-5, atol=1e-5)
    return {
        "ours": Way(lambda: ours(*given)),
        "eager": Way(lambda: eager(*given)),
        "compiled": Way(lambda: compiled(*given)),
        "loop": Way(lambda: cell(eager, *given), share=min(1, CELLS / (M * K))),
    }


def lengths(answers: Tensor, targets_KT: Tensor, index_KT: Tensor | None) -> Tensor:
    return trigger_hits(answers, targets_KT, index_KT, range(10, TRIGGERS + 1, 10))


def best(answers: Tensor, targets_KT: Tensor, index_KT: Tensor | None) -> Tensor:
    return trigger_hits(answers, targets_KT, index_KT, top=TOP)


def mean_margins(answers: Tensor, targets_KT: Tensor, index_KT: Tensor | None) -> Tensor:
    return hits_and_margins(answers, targets_KT, index_KT)[1]


def vocabulary(device: str) -> Mapping[str, Way]:
    logits_MUC = torch.randn(4, TOKENS // 4, 128_256, device=device)
    compiled = torch.compile(lambda: logits_MUC.argmax(-1))
    for labels_MU in (logits_MUC.argmax(-1), compiled()):
        assert torch.equal(row_labels(logits_MUC), labels_MU)
    return {
        "ours": Way(lambda: row_labels(logits_MUC)),
        "eager": Way(lambda: logits_MUC.argmax(-1)),
        "compiled": Way(compiled),
    }


def case(
    name: str, ours: Callable[..., Tensor], eager: Callable[..., Tensor], M: int, K: int, own: bool = False
) -> Case:
    """moved: logits or labels, keys, the result, each once."""
    rows = M * TRIGGERS * (K if own else 1)
    row = 8 if eager in (hits_of_labels, hits_at_lengths) else 4 * CLASSES
    moved = rows * row + K * TRIGGERS * (16 if own else 8) + M * K * (80 if eager is hits_at_lengths else 8)
    size = f"{M:,} x {K:,} keys, {'own' if own else 'shared'}"
    return Case(name, size, partial(ways, ours, eager, M, K, own), moved)


MANY = 1000 if GPU else 300
TOKENS = 4000 if GPU else 400
CASES = [
    case("trigger_hits", trigger_hits, hits_shared, 10, 100),
    case("trigger_hits", trigger_hits, hits_shared, 300, 100),
    case("trigger_hits", trigger_hits, hits_shared, 300, 1000),
    case("trigger_hits", trigger_hits, hits, 10, 100, own=True),
    case("trigger_hits", trigger_hits, hits, 300, 100, own=True),
    case("trigger_hits", trigger_hits, hits, 300, MANY, own=True),
    case("hits of labels", trigger_hits, hits_of_labels, 300, 100, own=True),
    case("10 lengths", lengths, hits_at_lengths, 300, 100, own=True),
    case("top 5", best, hits_among_top, 300, 100),
    case("margins", mean_margins, margins, 300, 100),
    Case("row_labels", f"{TOKENS:,} rows of 128,256", vocabulary, TOKENS * (128_256 * 4 + 8)),
]
