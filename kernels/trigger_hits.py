"""How many of each key's triggers every suspect answers as the key expects, at one or many key lengths.

Suffixes: M suspects, U distinct triggers over all keys, K keys, T triggers of one key, P prefix lengths.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def trigger_hits(labels_MU: Tensor, index_KT: Tensor, targets_KT: Tensor, lengths: Sequence[int]) -> Tensor:
    """(M, K, P) int64: hits among the first `lengths[p]` triggers of key k.

    labels_MU: predicted class of suspect m on trigger u. index_KT: which u are key k's triggers. targets_KT: its labels.
    One suspect at a time, so memory is K x T.
    """
    if index_KT.shape != targets_KT.shape:
        raise ValueError(
            f"index {tuple(index_KT.shape)} and targets {tuple(targets_KT.shape)} differ in shape"
        )
    if lengths and not 0 <= min(lengths) <= max(lengths) <= index_KT.shape[1]:
        raise ValueError(f"lengths must lie in [0, {index_KT.shape[1]}], got {list(lengths)}")
    out_MKP = torch.empty(len(labels_MU), len(index_KT), len(lengths), dtype=torch.int64)
    for m, labels_U in enumerate(labels_MU):
        hits_KT = (labels_U[index_KT] == targets_KT).to(torch.int64)
        running_KT = torch.nn.functional.pad(hits_KT.cumsum(-1), (1, 0))
        out_MKP[m] = running_KT[:, list(lengths)]
    return out_MKP
