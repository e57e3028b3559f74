"""Which ids torch.randperm puts among its first places, without the permutation: what transformers' green lists are made of.

On the CPU torch.randperm(V) is a Fisher-Yates shuffle by MT19937 words, seeded with the lower half of the seed: step i swaps
places i and i + word mod (V - i). An id is among the first G places iff a swap of the first G brings it there, so G words and a
search for each id do. tests/test_llm_compat.py holds this to torch.randperm itself.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


@lru_cache(maxsize=16)  # the ids of one list are asked for in a row
def swaps(seed: int, vocabulary: int, first: int) -> NDArray[np.uint32]:
    """(G,) the place that each of the first steps swaps with."""
    bits = np.random.MT19937(0)
    np.random.RandomState(bits).seed(seed % 2**32)
    step_G = np.arange(first, dtype=np.uint32)
    words_G = bits.random_raw(first).astype(np.uint32)
    return step_G + words_G % (np.uint32(vocabulary) - step_G)


def among_first(seed: int, vocabulary: int, first: int, ids: Sequence[int]) -> list[bool]:
    """Whether each id is among torch.randperm(vocabulary, generator=torch.Generator().manual_seed(seed))[:first]."""
    return [first >= vocabulary or brought(seed, vocabulary, first, place) for place in ids]


@lru_cache(maxsize=2**18)  # 60 MB
def brought(seed: int, vocabulary: int, first: int, place: int) -> bool:
    """Follow an id from its place until a step fetches it, or none will."""
    swap_G, step = swaps(seed, vocabulary, first), 0
    while not (swap_G[step:] == place).any():
        if place >= first:
            return False
        step, place = place + 1, int(swap_G[place])  # its own step sent it on
    return True
