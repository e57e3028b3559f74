"""A sketch of a network's weights that no reordering of its channels changes, in a few hundred numbers.

Channels may be permuted, but a kernel's positions may not, nor the first layer's inputs, nor the last layer's outputs. Of every
layer the sketch keeps the Gram matrix over what stays put, summed over the channels; of a layer between two permutable sides,
which has neither, the largest singular values. Each is scaled to norm 1: the distance of two sketches is that of directions.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from ..kernels import philox
from .registry import Distances, Print

VALUES, WIDEST = 16, 64
"""Singular values of a layer; and the most inputs or classes that are kept apart, more are mixed at random into so many."""


def sketch(tensors: Mapping[str, Tensor]) -> Print:
    """Of a network's tensors in the order of its layers; all but matrices and kernels are left out. ValueError without any."""
    layers = [tensor.detach().double() for tensor in tensors.values() if tensor.ndim >= 2]
    if not layers:
        raise ValueError("expected a network with at least one matrix or kernel, got none")
    last = len(layers) - 1
    parts = [part for i, layer in enumerate(layers) for part in _layer(layer, i == 0, i == last)]
    content = torch.cat(parts) / len(parts) ** 0.5
    kin = [[list(layer.shape[2:]) for layer in layers], layers[0].shape[1], len(layers[-1])]
    named = hashlib.sha256(json.dumps(kin).encode()).hexdigest()[:16]
    return Print("weights", named, content.float().numpy().astype("<f4").tobytes())


def _layer(weight: Tensor, first: bool, last: bool) -> list[Tensor]:
    """Unit vectors of one layer (outputs, inputs, ...)."""
    parts = []
    if weight.ndim > 2:
        parts.append(_gram(weight.flatten(2).flatten(0, 1)))
    if first:
        parts.append(_gram(_mixed(weight.flatten(1))))
    if last:
        parts.append(_gram(_mixed(weight.flatten(1).T)))
    if not parts:
        values = torch.linalg.svdvals(weight.flatten(1))[:VALUES]
        parts.append(_unit(torch.nn.functional.pad(values, (0, VALUES - len(values)))))
    return parts


def _gram(rows_RA: Tensor) -> Tensor:
    """The upper half of rows' inner products over A, as a unit vector."""
    one, other = torch.triu_indices(rows_RA.shape[1], rows_RA.shape[1])
    gram_AA: Tensor = rows_RA.T @ rows_RA
    return _unit(gram_AA[one, other])


def _unit(values: Tensor) -> Tensor:
    length: Tensor = values.norm()
    return values / length.clamp_min(torch.finfo(torch.float64).tiny)


def _mixed(rows_RA: Tensor) -> Tensor:
    """At most WIDEST columns: sums of all with random signs, the same for everybody."""
    count = rows_RA.shape[1]
    if count <= WIDEST:
        return rows_RA
    signs = (philox.octets((0, 0), count * WIDEST) % 2).reshape(count, WIDEST).to(rows_RA.dtype) * 2 - 1
    mixed: Tensor = rows_RA @ signs / count**0.5
    return mixed


def sketch_distances(queries: Sequence[bytes], entries: Sequence[bytes]) -> Distances:
    """(Q, R): 0 for equal sketches, 1 for orthogonal ones."""
    left_QF, right_RF = (
        np.frombuffer(b"".join(part), dtype="<f4").reshape(len(part), -1) for part in (queries, entries)
    )
    return (
        np.stack([np.linalg.norm(right_RF - row_F, axis=1) for row_F in left_QF]).astype(np.float64) / 2**0.5
    )
