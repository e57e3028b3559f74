"""Secret projections of weights, thresholded at 0 and compared with expected bits.

weights_MJ (M, J) x projection (J, B) per key -> matches (M, K). The matrix of one key is in memory at a time.
"""

from collections.abc import Iterable

import torch
from torch import Tensor


def projection_matches(weights_MJ: Tensor, keys: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """(M, K) int64: how many bits [w X > 0] equal the expected ones, for keys of (X (J, B), bits (B,)).

    Products in float64, so that the decision at 0 does not depend on the device's summation order.
    """
    weights_MJ = weights_MJ.to(torch.float64)
    columns = []
    for projection_JB, bits_B in keys:
        if projection_JB.shape != (weights_MJ.shape[1], *bits_B.shape):
            expected = (weights_MJ.shape[1], *bits_B.shape)
            raise ValueError(f"expected a projection {expected}, got {tuple(projection_JB.shape)}")
        columns.append(((weights_MJ @ projection_JB.to(torch.float64) > 0) == bits_B.bool()).sum(-1))
    return torch.stack(columns, -1) if columns else torch.empty(len(weights_MJ), 0, dtype=torch.int64)
