"""Works that a registry knows again: texts, pictures, videos, sounds, and what models answer. How two of a kind are compared; what
a distance is worth says evidence/registry.py.
"""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from . import works_audio, works_image, works_text
from .registry import Distances, Metric

Distance = Callable[[bytes, bytes], float]
KINDS: dict[str, tuple[Distance, str]] = {
    "text": (works_text.distance, "share of one's runs of words that the other lacks"),
    "labels": (works_text.distance, "share of the smaller table's rows that the other lacks"),
    "image": (works_image.distance, "share of 256 bits that differ"),
    "video": (works_image.video_distance, "median share of 256 bits that differ, over frames"),
    "audio": (works_audio.distance, "bit error rate"),
}
"""How far apart two works are, and the unit."""


def each(distance: Distance, queries: Sequence[bytes], works: Sequence[bytes]) -> Distances:
    """(queries, works), one pair after another."""
    pairs = [[distance(query, work) for work in works] for query in queries]
    return np.array(pairs, dtype=np.float64).reshape(len(queries), len(works))


METRICS: dict[str, Metric] = {
    **{kind: partial(each, distance) for kind, (distance, _) in KINDS.items()},
    "image": works_image.distances,
}
