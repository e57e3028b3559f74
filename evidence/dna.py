"""Model DNA: what a registry remembers of a model, so that its copies are known again.

Labels on secret probes: pictures of the task blended in pairs by a PRF, so that they lie where models of one task disagree; nobody
who does not hold the secret can answer them apart. They need nothing but answers, so extracted copies may show too. Weights: a
sketch that no reordering of channels changes (dna_sketch.py).

Suffixes: N probes, X models, Q queries, R entries, P planes, W words of 64 probes.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..core.secret import Secret
from ..kernels.bit_planes import differ_cpu, pack_cpu
from .dna_sketch import sketch_distances
from .registry import Distances, Metric, Print

PROBES = 512
WORDS = PROBES // 64


def probes(secret: Secret, pictures_XCHW: Tensor) -> Tensor:
    """(PROBES, C, H, W) uint8 from pictures in [0, 1]: means of two, chosen by the secret."""
    one, other = (secret.integers(f"dna/{side}", PROBES, len(pictures_XCHW)) for side in ("one", "other"))
    mixed = (pictures_XCHW[one] + pictures_XCHW[other]) / 2
    return (mixed * 255).round().to(torch.uint8)


def label_print(labels_N: Tensor, classes: int, kin: str) -> Print:
    """Of a model's labels on the probes that `kin` names; -1 is no answer."""
    if labels_N.shape != (PROBES,) or int(labels_N.max()) >= classes:
        raise ValueError(
            f"expected {PROBES} labels below {classes}, got {tuple(labels_N.shape)} up to {labels_N.max()}"
        )
    planes = (classes + 1).bit_length()  # the codes of no answer are the two largest
    packed_PW1 = pack_cpu(labels_N[None], 2**planes - 1, planes, has_none=True)
    return Print("labels", kin, packed_PW1[:, :, 0].astype("<u8").tobytes())


def label_distances(queries: Sequence[bytes], entries: Sequence[bytes]) -> Distances:
    """(Q, R) shares of the probes on which the labels differ; no answer differs from every other, also from none."""
    left_PWQ, right_PWR = _planes(queries), _planes(entries)
    left_PWQ[0] ^= np.bitwise_and.reduce(
        left_PWQ, 0
    )  # a query's code of no answer is another than an entry's
    return differ_cpu(left_PWQ, right_PWR) / PROBES


def _planes(prints: Sequence[bytes]) -> NDArray[np.uint64]:
    """(P, W, X), the words of many models side by side."""
    words_XPW = np.frombuffer(b"".join(prints), dtype="<u8").reshape(len(prints), -1, WORDS)
    return np.ascontiguousarray(words_XPW.transpose(1, 2, 0)).astype(np.uint64)


METRICS: dict[str, Metric] = {"labels": label_distances, "weights": sketch_distances}
