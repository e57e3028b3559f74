"""Activation clustering: the features of one predicted class fall into two clusters, and triggers are the smaller one (Chen et al.,
SafeAI 2019, arXiv:1811.03728)."""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from annotated_types import Ge
from sklearn.cluster import KMeans
from sklearn.metrics import silhouette_score
from torch import Tensor, nn

from ..core.examples import Examples
from ..core.secret import seed_for
from ..core.suspects import logits
from ..core.theft import Detector
from ..kernels.row_labels import row_labels
from ..zoo.features import penultimate


@dataclass(frozen=True)
class Clusters(Detector):
    paper = "Chen et al., SafeAI 2019, arXiv:1811.03728"

    components: Annotated[int, Ge(1)] = 10
    """Principal components kept; the paper takes 10 independent ones."""

    def suspicion(self, model: nn.Module, stream: Tensor, clean: Examples, seed: int) -> Tensor:
        """One minus the share of the query's cluster, times how well the two clusters of its predicted class are separated (the
        mean silhouette): two tests of the paper as one number."""
        features_NF = penultimate(model, stream).double()
        labels_N = row_labels(logits(model, stream))
        out_N = torch.zeros(len(stream), dtype=torch.float64)
        for label in labels_N.unique():
            rows = (labels_N == label).nonzero()[:, 0]
            if len(rows) > 3:
                out_N[rows] = self._smallness(features_NF[rows], seed_for(seed, "clusters", int(label)))
        return out_N

    def _smallness(self, features_RF: Tensor, seed: int) -> Tensor:
        centred = features_RF - features_RF.mean(0)
        _, _, v = torch.linalg.svd(centred, full_matrices=False)
        reduced = (centred @ v[: self.components].T).numpy()
        if len(np.unique(reduced, axis=0)) < 3:
            return torch.zeros(len(reduced), dtype=torch.float64)
        means = KMeans(2, n_init=5, random_state=seed % 2**32)  # type: ignore[arg-type, unused-ignore]  # pyright: ignore
        labels = means.fit(reduced).labels_
        found = torch.from_numpy(labels).long()
        share_R = (torch.bincount(found, minlength=2) / len(found)).double()[found]
        return (1 - share_R) * max(float(silhouette_score(reduced, labels)), 0.0)
