"""A head's argmax, log-probability and rank against the (N, V) logits and their reductions. bfloat16 on a GPU, float32 on a CPU.

The floor of kernels.py is a float32 product; a bfloat16 one is 989 / 67 times faster on an H100 or H200, and counted so."""

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from assay.kernels.head_argmax import head_argmax
from kernels import Case, Way

GPU = torch.cuda.is_available()


def reduced(hidden_ND: Tensor, head_VD: Tensor, target_N: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Token, log-probability and rank from all logits."""
    logits_NV = (hidden_ND @ head_VD.T).float()
    own_N1 = logits_NV.gather(1, target_N[:, None])
    lower_NV = torch.arange(len(head_VD), device=target_N.device) < target_N[:, None]
    rank_N = ((logits_NV > own_N1) | ((logits_NV == own_N1) & lower_NV)).sum(1)
    return logits_NV.argmax(1), own_N1[:, 0] - logits_NV.logsumexp(1), rank_N


def by_log_softmax(hidden_ND: Tensor, head_VD: Tensor, target_N: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """As it is usually written; ties count for the target."""
    logits_NV = hidden_ND @ head_VD.T
    log_prob_N1 = torch.log_softmax(logits_NV, -1, dtype=torch.float32).gather(1, target_N[:, None])
    rank_N = (logits_NV > logits_NV.gather(1, target_N[:, None])).sum(1)
    return logits_NV.argmax(1), log_prob_N1[:, 0], rank_N


def one_by_one(hidden_ND: Tensor, head_VD: Tensor, target_N: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
    """The naive loop: sort every position's vocabulary."""
    found = []
    for hidden_D, target in zip(hidden_ND, target_N, strict=True):
        logits_V = (head_VD @ hidden_D).float()
        order_V = logits_V.argsort(descending=True, stable=True)
        rank = (order_V == target).nonzero()[0, 0]
        found.append((order_V[0], logits_V.log_softmax(0)[target], rank))
    return found


def ways(N: int, V: int, D: int, device: str) -> Mapping[str, Way]:
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    hidden_ND = torch.randn(N, D, device=device).to(dtype)
    head_VD = (torch.randn(V, D, device=device) * D**-0.5).to(dtype)
    target_N = torch.randint(V, (N,), device=device)
    given = hidden_ND, head_VD, target_N
    some = max(1, min(N, 2**22 // (V * 4)))
    ours = head_argmax(*given)
    compiled = torch.compile(reduced)
    # bfloat16 logits are rounded to 2^-8 and tie by thousands; float32 ones agree but for near ties.
    near, slack = (1e-4, 2) if device == "cpu" else (5e-2, V // 20)
    for token_N, log_prob_N, rank_N in (reduced(*given), by_log_softmax(*given), compiled(*given)):
        assert (token_N == ours.token_N).double().mean() > 0.9
        torch.testing.assert_close(log_prob_N, ours.log_prob_N, rtol=0, atol=near)
        assert ((rank_N - ours.rank_N).abs() <= slack).all()
    for n, (token, log_prob, rank) in enumerate(one_by_one(hidden_ND[:some], head_VD, target_N[:some])):
        assert abs(float(log_prob - ours.log_prob_N[n])) <= near
        assert abs(int(rank - ours.rank_N[n])) <= slack
        assert token == ours.token_N[n] or device != "cpu"
    return {
        "ours": Way(lambda: head_argmax(*given)),
        "eager": Way(lambda: reduced(*given)),
        "log_softmax": Way(lambda: by_log_softmax(*given)),
        "compiled": Way(lambda: compiled(*given)),
        "product": Way(lambda: hidden_ND @ head_VD.T),
        "loop": Way(lambda: one_by_one(hidden_ND[:some], head_VD, target_N[:some]), share=some / N),
    }


def case(N: int, V: int, D: int) -> Case:
    size = 2 if GPU else 4
    return Case(
        "head_argmax",
        f"N={N:,} V={V:,} D={D:,}",
        partial(ways, N, V, D),
        moved=size * (N + V) * D + 44 * N,
        flops=2 * N * V * D * 67 // 989 if GPU else 2 * N * V * D,
    )


SIZES = (
    ((16, 128_256, 576), (1024, 128_256, 2048), (4096, 128_256, 4096))
    if GPU
    else ((64, 8_192, 256), (256, 50_257, 128), (256, 128_256, 576))
)
CASES = [case(*size) for size in SIZES]
