"""Spectral signatures: among the inputs of one predicted class, triggers lie far along the top singular vector of their features
(Tran et al., NeurIPS 2018, arXiv:1811.00636)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..core.examples import Examples
from ..core.suspects import logits
from ..core.theft import Detector
from ..kernels.row_labels import row_labels
from ..zoo.features import penultimate


@dataclass(frozen=True)
class Spectral(Detector):
    paper = "Tran et al., NeurIPS 2018, arXiv:1811.00636"

    def suspicion(self, model: nn.Module, stream: Tensor, clean: Examples, seed: int) -> Tensor:
        """The squared projection on the top singular vector of the class's centred features."""
        features_NF = penultimate(model, stream).double()
        labels_N = row_labels(logits(model, stream))
        out_N = torch.zeros(len(stream), dtype=torch.float64)
        for label in labels_N.unique():
            rows = labels_N == label
            centred = features_NF[rows] - features_NF[rows].mean(0)
            if len(centred) > 2:
                _, _, v = torch.linalg.svd(centred, full_matrices=False)
                out_N[rows] = (centred @ v[0]).square()
        return out_N
