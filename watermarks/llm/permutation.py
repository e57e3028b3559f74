"""Which ids torch.randperm puts among its first places, without the permutation: what transformers' green lists are made of.

On the CPU torch.randperm(V) is a Fisher-Yates shuffle by MT19937 words, seeded with the lower half of the seed: step i swaps
places i and i + word mod (V - i). An id is among the first G places iff a swap of the first G brings it there, so G words do.
tests/test_llm_compat.py holds this to torch.randperm itself. At V = 50,257 and G = V / 4 one id of a list takes 0.17 ms, all of
them 0.3, and an id of a list that is kept nothing to speak of. Suffixes: G steps, V vocabulary.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

BYTES = 2**29  # of lists kept: the 50,257 of GPT-2's vocabulary take 316 MB
MANY = 16  # ids of a list, which take as long one by one as all together
ASKED = 2**20  # seeds remembered: 60 MB


def swaps(seed: int, vocabulary: int, first: int) -> NDArray[np.uint32]:
    """(G,) the place that each of the first steps swaps with."""
    bits = np.random.MT19937(0)
    np.random.RandomState(bits).seed(seed % 2**32)
    step_G = np.arange(first, dtype=np.uint32)
    words_G = bits.random_raw(first).astype(np.uint32)
    return step_G + words_G % (np.uint32(vocabulary) - step_G)


class Lists:
    """Which ids are among the first of the permutation of a seed. A list that is asked about again, or about many ids at once, is
    kept whole; of others these ids alone are followed, which takes half the time."""

    def __init__(self, vocabulary: int, first: int) -> None:
        self.vocabulary, self.first = vocabulary, first
        self.asked: set[int] = set()
        self.packed = lru_cache(maxsize=max(1, 8 * BYTES // vocabulary))(self._packed)

    def among(self, seed: int, ids: Sequence[int]) -> list[bool]:
        """Whether each id is among torch.randperm(vocabulary, generator=torch.Generator().manual_seed(seed))[:first]."""
        known = seed in self.asked
        if len(self.asked) >= ASKED:
            self.asked.clear()
        self.asked.add(seed)
        if known or len(ids) > MANY:
            bits = self.packed(seed)
            return [bool(bits[i >> 3] >> (7 - (i & 7)) & 1) for i in ids]
        swap_G = swaps(seed, self.vocabulary, self.first)
        return [followed(swap_G, place) for place in ids]

    def _packed(self, seed: int) -> NDArray[np.uint8]:
        """A bit an id."""
        return np.packbits(first_places(seed, self.vocabulary, self.first))


lists = lru_cache(maxsize=1)(Lists)


def followed(swap_G: NDArray[np.uint32], place: int) -> bool:
    """From its place until a step fetches the id, or none will."""
    step = 0
    while not (swap_G[step:] == place).any():
        if place >= len(swap_G):
            return False
        step, place = place + 1, int(swap_G[place])  # its own step sent it on
    return True


def first_places(seed: int, vocabulary: int, first: int) -> NDArray[np.bool_]:
    """(V,) bool: all ids are followed at once."""
    swap_G = swaps(seed, vocabulary, first)
    fetched_V = np.full(vocabulary, -1)  # the last step that fetches from a place
    fetched_V[swap_G] = np.arange(first)
    among_V: NDArray[np.bool_] = fetched_V >= 0
    place = ids = np.flatnonzero(~among_V[:first])
    while len(ids):
        step, place = place, swap_G[place].astype(np.int64)  # an id's own step sends it on
        found = fetched_V[place] > step
        among_V[ids[found]] = True
        on = ~found & (place < first)
        ids, place = ids[on], place[on]
    return among_V
