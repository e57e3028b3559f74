"""Models as points: sums of their weights, batch-norm statistics made anew, and ways of merging fine-tunes of one base.

uniform: the mean (Wortsman et al., ICML 2022, arXiv:2203.05482). arithmetic: base + scale x sum of task vectors (Ilharco et al.,
ICLR 2023, arXiv:2212.04089). ties: of each vector the largest entries, a sign elected per entry, the mean of those that agree
(Yadav et al., NeurIPS 2023, arXiv:2306.01708). dare: entries dropped at random, the rest rescaled, then the mean (Yu et al.,
ICML 2024, arXiv:2311.03099). Suffixes: V models, P all parameters.
"""

import copy
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

Method = Literal["uniform", "arithmetic", "ties", "dare"]


def flat(model: nn.Module) -> Tensor:
    """All parameters (P,)."""
    return parameters_to_vector([parameter.detach() for parameter in model.parameters()])


@torch.no_grad()
def placed(model: nn.Module, parameters_P: Tensor) -> nn.Module:
    """A copy with these parameters; its buffers are the model's."""
    model = copy.deepcopy(model)
    vector_to_parameters(parameters_P, model.parameters())
    return model


@torch.no_grad()
def refreshed(model: nn.Module, inputs: Tensor, batch: int = 256) -> nn.Module:
    """A copy whose batch norms take mean and variance from these inputs, as their weights call for new ones."""
    model = copy.deepcopy(model).eval()
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative mean over the batches
        norm.train()
    if norms:
        for part in inputs.tensor_split(max(1, len(inputs) // batch)):
            model(part)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return model.eval()


def merged_vector(
    vectors_VP: Tensor, method: Method, scale: float, density: float, draws_VP: Tensor
) -> Tensor:
    """One task vector (P,) out of several. scale: of arithmetic's sum, and of the means of ties and dare. density: the share of
    entries that ties and dare keep. draws: uniform in [0, 1), for dare."""
    if method == "uniform":
        return vectors_VP.mean(0)
    if method == "arithmetic":
        return scale * vectors_VP.sum(0)
    if method == "dare":
        return scale * (vectors_VP * (draws_VP < density) / density).mean(0)
    return scale * _elected(_trimmed(vectors_VP, density))


def _trimmed(vectors_VP: Tensor, density: float) -> Tensor:
    """Each vector's largest entries, the rest zero."""
    kept = max(1, round(density * vectors_VP.shape[1]))
    index = vectors_VP.abs().topk(kept, dim=1).indices
    return torch.zeros_like(vectors_VP).scatter(1, index, vectors_VP.gather(1, index))


def _elected(vectors_VP: Tensor) -> Tensor:
    """Per entry: the mean of those that have the sign of the sum."""
    agree = vectors_VP * vectors_VP.sum(0) > 0
    return (vectors_VP * agree).sum(0) / agree.sum(0).clamp_min(1)


def merged(
    base: nn.Module,
    tuned: Sequence[nn.Module],
    method: Method,
    scale: float,
    density: float,
    draws_VP: Tensor,
) -> nn.Module:
    """The base moved by the merged task vector; the buffers are the base's."""
    start = flat(base)
    if method == "uniform":  # of one model: exactly that model
        return placed(base, torch.stack([flat(model) for model in tuned]).mean(0))
    vectors_VP = torch.stack([flat(model) - start for model in tuned])
    return placed(base, start + merged_vector(vectors_VP, method, scale, density, draws_VP))
