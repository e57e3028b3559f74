"""Batch norms whose scale and shift are computed from secret passports (DeepIPR: Fan et al., NeurIPS 2019; TPAMI 2021,
arXiv:1909.07830).

Training replaces scale and shift of a batch norm by what the convolution before it makes of two passports: gamma = avg(W * p) and
beta = avg(W * q). The signs of gamma are the owner's bits. What is deployed is an ordinary network with gamma and beta folded in,
so anyone's tools run it.

The signs are read from avg(W * p) of the suspect's own convolutions, whatever was done to it. The official code reads so after
pruning, and always where passports are private; after fine-tuning of public ones it reads the batch norm's scale. That scale is
not read here: pruning never touches it, and an overwriter's mark replaces it. The bits are fair, and independent of the passports
and of every model that was made without the secret, so matches are Bin(B, 1/2) exactly, however alike filters are; a filter of
zeros has no sign, reads as negative and matches by chance. That the scale in the suspect is what the passport gives
(`fit_of_passport`) is a second fact, without a p.

Positive factors of a convolution's outputs leave the signs. Outputs permuted or negated lose their bits, and so do permuted inputs,
since a passport has an entry for every input. Positive factors of inputs weigh these entries otherwise: no sign is sure to
hold then, as it is in a batch norm, but on digits all do.

The mean of a convolution over positions is the convolution of the mean patch, so a passport is one mean patch: (I, H, W), one
number a channel. That leaves out borders only.

Suffixes: M suspects, K keys, B bits: the channels of all marked layers.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Annotated

import numpy as np
import torch
from annotated_types import Gt
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from ..core.contracts import Fit, Task, Watermark
from ..core.errors import NotApplicable
from ..core.key import Key, expect_length
from ..core.payload import Message, decoded, encoded
from ..core.scores import Scores
from ..core.secret import Secret
from ..core.suspects import Suspects
from ..kernels import philox
from .parameter import weight_of

PURPOSE = "passport/bits"
HELD = 1e-5  # weight of gamma's square in the official loss
Pair = tuple[str, str]


@dataclass(frozen=True, eq=False)
class PassportKey(Key):
    """layers: the names of (convolution, batch norm); bits_B in their order. Passports come from the secret."""

    layers: list[list[str]]
    scale: float
    bits_B: Tensor

    def passport(self, layer: str, what: str, shape: torch.Size) -> Tensor:
        """(I, H, W) normal, of standard deviation `scale` over the square root of their number; what: gamma or beta."""
        stream = self.secret.stream(f"passport/{what}/{layer}")
        return philox.normals(stream, shape.numel()).reshape(shape) * (self.scale / math.sqrt(shape.numel()))


def pairs(model: nn.Module) -> list[Pair]:
    """Convolutions and linear layers, each with the batch norm of its width that follows it."""
    layers = [(n, m) for n, m in model.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear, _BatchNorm))]
    return [
        (name, norm_name)
        for (name, layer), (norm_name, norm) in pairwise(layers)
        if not isinstance(layer, _BatchNorm) and isinstance(norm, _BatchNorm)
        if norm.affine and len(layer.weight) == norm.num_features
    ]


def passports(model: nn.Module, key: PassportKey) -> dict[str, tuple[str, Tensor]]:
    """By the name of each marked scale and shift: the layer it is computed from, and its passport."""
    found = {}
    for layer, norm in key.layers:
        shape = weight_of(model, layer).shape[1:]
        found[f"{norm}.weight"] = layer, key.passport(layer, "gamma", shape)
        found[f"{norm}.bias"] = layer, key.passport(layer, "beta", shape)
    return found


def averaged(weight: Tensor, passport: Tensor) -> Tensor:
    """(O,): the mean over positions of the layer's output for inputs of this mean patch."""
    return (weight * passport.to(weight.device, weight.dtype)).flatten(1).sum(1)


def computed(model: nn.Module, given: dict[str, tuple[str, Tensor]]) -> dict[str, Tensor]:
    """Scale and shift of every marked norm, by name, from the *live* weights."""
    out = {}
    for name, (layer, passport) in given.items():
        out[name] = averaged(weight_of(model, layer), passport)
    return out


def scales(values: Mapping[str, Tensor], key: PassportKey) -> Tensor:
    """gamma of all marked layers, (B,)."""
    return torch.cat([values[f"{norm}.weight"] for _, norm in key.layers])


@dataclass(frozen=True)
class Passport(Watermark):
    family = "parameter"
    reads = "weights"
    derivation = "derived"
    nulls = ("random_keys", "independent_models")
    paper = "Fan et al., DeepIPR, NeurIPS 2019, arXiv:1909.07830"
    key_type = PassportKey

    layers: tuple[str, ...] | None = None
    """Names of convolutions with a batch norm behind them. None: all of them, which are three in cnn_small. The official
    configurations mark the last: three of AlexNet's five, and of ResNet-18's twenty the five of the last stage, layer4."""
    scale: Annotated[float, Gt(0)] = 1.0
    """Of a passport's norm. The rate at which a computed scale learns grows with its square: with entries of size 1, a norm of 24
    for 576 of them, digits lose 4 to 20 points of accuracy."""
    margin: Annotated[float, Gt(0)] = 0.1
    """Beyond which a sign costs nothing; 0.1 in the official code."""
    strength: Annotated[float, Gt(0)] = 0.1
    """alpha, of the hinge summed over channels; 0.1 to 1 in the official code."""
    payload: str | None = None
    """What the signs say, in hexadecimal, under a secret pad and repeated; None: the pad alone."""

    def keygen(
        self, task: Task, secret: Secret, model: nn.Module | None = None, fit: Fit | None = None
    ) -> PassportKey:
        probe = model if model is not None else task.fresh(None)
        found = pairs(probe)
        names = [layer for layer, _ in found]
        unknown = [layer for layer in self.layers or () if layer not in names]
        if not found or unknown:
            raise NotApplicable(
                f"passports need a batch norm behind a convolution, which {', '.join(unknown) or 'no layer'} has; "
                f"watermark.layers=[{','.join(names)}]"
            )
        layers = [list(pair) for pair in found if self.layers is None or pair[0] in self.layers]
        bits = sum(len(weight_of(probe, layer)) for layer, _ in layers)
        return PassportKey(secret, layers, self.scale, encoded(self.payload, secret, bits, PURPOSE))

    def embed(self, model: nn.Module, key: PassportKey, task: Task, fit: Fit) -> nn.Module:
        """Train from scratch with scales and shifts computed from the passports, then fold them in."""
        start = task.fresh(None)
        given = passports(start, key)

        def objective(live: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
            values = computed(live, given)
            gamma_B = scales(values, key)
            signs_B = 2 * key.bits_B.to(gamma_B.device, gamma_B.dtype) - 1
            hinge = (self.margin - signs_B * gamma_B).relu().sum()
            logits = functional_call(live, values, (inputs,))
            return (
                functional.cross_entropy(logits, targets)
                + self.strength * hinge
                + HELD * gamma_B.square().sum()
            )

        marked = fit(start, task.owner, objective=objective, label="marked")
        with torch.no_grad():
            for name, value in computed(marked, given).items():
                marked.get_parameter(name).copy_(value)
        return marked

    def score(self, suspects: Suspects, keys: Sequence[PassportKey]) -> Scores:
        """Matching signs, two-sided: an attack that inverts them has not removed them. A suspect without these layers is nan.
        ValueError for keys of several lengths."""
        trials = len(keys[0].bits_B)
        expect_length((key.bits_B for key in keys), trials, "watermark.layers")
        hits_MK = np.full((len(suspects), len(keys)), np.nan)
        for k, key in enumerate(keys):
            draw = cache(key.passport)  # suspects mostly share their shapes
            for m, model in enumerate(suspects.models):
                signs_B = read_signs(model, key, draw)
                if signs_B is not None:
                    hits_MK[m, k] = int((signs_B == key.bits_B.bool()).sum())
        return Scores.binomial(hits_MK, trials, 0.5, "matching signs", two_sided=True)

    def read(self, suspect: nn.Module, key: PassportKey) -> Message | None:
        signs_B = read_signs(suspect, key)
        if signs_B is None:
            return None
        return decoded(signs_B.to(torch.uint8), self.payload, key.secret, PURPOSE)


def read_signs(
    model: nn.Module, key: PassportKey, draw: Callable[[str, str, torch.Size], Tensor] | None = None
) -> Tensor | None:
    """(B,) bool: which scales that the model's convolutions make of the passports are positive; None for a model that has not
    all of them. draw: the key's passports, where they are kept."""
    draw = draw or key.passport
    try:
        weights = [(layer, weight_of(model, layer).detach().cpu().float()) for layer, _ in key.layers]
    except NotApplicable:
        return None
    gamma_B = torch.cat(
        [averaged(weight, draw(layer, "gamma", weight.shape[1:])) for layer, weight in weights]
    )
    return gamma_B > 0 if len(gamma_B) == len(key.bits_B) else None


def fit_of_passport(model: nn.Module, key: PassportKey) -> float:
    """The correlation of the model's scales with those its own convolutions make of the key's passports: 1 as trained, about 0
    for a stranger's passport."""
    made_B = scales(computed(model, passports(model, key)), key).detach().cpu()
    found_B = scales(dict(model.named_parameters()), key).detach().cpu()
    return float(torch.corrcoef(torch.stack((made_B, found_B)))[0, 1])
