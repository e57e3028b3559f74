"""Agreement of labels and distances of packed bits against comparisons of whole matrices, products of one-hot rows, and a loop
over the pairs."""

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from assay.kernels.agreement import agreement, hamming
from kernels import Case, Way

GPU = torch.cuda.is_available()
PAIRS = 2000  # that the loop does
ROOM = 2**31 if GPU else 2**22  # comparisons at a time


def compared(left_MN: Tensor, right_RN: Tensor) -> Tensor:
    """Bytes compared and added, some suspects at a time."""
    left_MN, right_RN = left_MN.to(torch.uint8), right_RN.to(torch.uint8)
    some = max(1, ROOM // right_RN.numel())
    return torch.cat([(part[:, None] == right_RN).sum(-1) for part in left_MN.split(some)])


def multiplied(left_MN: Tensor, right_RN: Tensor) -> Tensor:
    """One-hot rows: 2 operations for each class of each comparison, in a matrix product."""
    classes = torch.arange(10, device=left_MN.device)
    left, right = ((x[..., None] == classes).float().flatten(1) for x in (left_MN, right_RN))
    return (left @ right.T).long()


def counted(left_MW: Tensor, right_RW: Tensor) -> Tensor:
    """Bits of the difference by additions in ever wider fields: torch has no operation that counts them."""
    some = max(1, ROOM // 8 // right_RW.numel())
    parts = []
    for part_MW in left_MW.split(some):
        x = part_MW[:, None] ^ right_RW
        x = x - ((x >> 1) & 0x5555555555555555)
        x = (x & 0x3333333333333333) + ((x >> 2) & 0x3333333333333333)
        x = (x + (x >> 4)) & 0x0F0F0F0F0F0F0F0F
        parts.append(((x * 0x0101010101010101) >> 56 & 0xFF).sum(-1))
    return torch.cat(parts)


def pairs(equal: bool, left: Tensor, right: Tensor) -> None:
    """The first PAIRS pairs one after another."""
    for i in range(min(PAIRS, len(left) * len(right))):
        a, b = left[i // len(right)], right[i % len(right)]
        if equal:
            (a == b).sum().item()
        else:
            sum(word.bit_count() for word in (a ^ b).tolist())


def ways(equal: bool, M: int, R: int, N: int, device: str) -> Mapping[str, Way]:
    low, high = (0, 10) if equal else (-(2**63), 2**63 - 1)
    left, right = (torch.randint(low, high, (rows, N), device=device) for rows in (M, R))
    ours, eager = (agreement, compared) if equal else (hamming, counted)
    compiled = torch.compile(eager, dynamic=False)
    others = {"eager": eager, "compiled": compiled} | ({"one-hot": multiplied} if equal else {})
    for other in others.values():
        assert torch.equal(ours(left, right), other(left, right))
    found = {"ours": Way(lambda: ours(left, right))}
    found |= {name: Way(partial(other, left, right)) for name, other in others.items()}
    return found | {"loop": Way(lambda: pairs(equal, left, right), share=min(1, PAIRS / (M * R)))}


def case(M: int, R: int, N: int) -> Case:
    return Case(
        "agreement",
        f"{M:,} x {R:,} of {N:,} labels",
        partial(ways, True, M, R, N),
        8 * (M * N + R * N + M * R),
    )


def bits(M: int, R: int, W: int) -> Case:
    return Case(
        "hamming",
        f"{M:,} x {R:,} of {64 * W:,} bits",
        partial(ways, False, M, R, W),
        8 * (M * W + R * W + M * R),
    )


MANY = 100_000 if GPU else 4096
CASES = [
    case(300, 100, 100),
    case(1, MANY, 1000),
    case(64, MANY, 1000),
    bits(300, 100, 4),
    bits(1, 100_000, 16),
    bits(64, 100_000 if GPU else 20_000, 16),
]
