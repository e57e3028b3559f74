"""Layers split and merged, outputs equal: a mark that is bound to a layer finds another in its place (Yan et al., USENIX Security
2023, arXiv:2303.09732; folding of batch norms: Jacob et al., CVPR 2018, section 3.2).

split: a linear layer W x + b becomes (W Q') (Q x) + b with a random rotation Q. merge: a batch norm joins the layer before it.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from ..core.errors import NotApplicable
from ..core.secret import seed_for
from ..core.theft import Access, Adversary, Attack, Surrogate
from ..zoo.channels import layout

Pair = tuple[str, str]


@torch.no_grad()
def split_linear(layer: nn.Linear, generator: torch.Generator) -> nn.Sequential:
    """Two linear layers in place of one. The narrower side is rotated: what is added is the square of its width."""
    outputs, inputs = layer.weight.shape
    size = min(outputs, inputs)
    q, _ = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))
    weight = layer.weight.to(torch.float64)
    first, second = (q.T @ weight, q) if size == outputs else (q, weight @ q.T)
    parts = [  # without weights: drawing some would move the global random state
        nn.Linear(inputs, size, bias=False, device="meta"),
        nn.Linear(size, outputs, bias=layer.bias is not None, device="meta"),
    ]
    for part, value in zip(parts, (first, second), strict=True):
        part.weight = nn.Parameter(value.to(layer.weight.dtype))
    if layer.bias is not None:
        parts[1].bias = nn.Parameter(layer.bias.detach().clone())
    return nn.Sequential(*parts)


@torch.no_grad()
def merge_norm(layer: Any, norm: Any) -> None:
    """Fold a batch norm's scale and shift into the layer before it, in place: W <- g W, b <- g (b - m) + beta."""
    gain = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    bias = torch.zeros_like(gain) if layer.bias is None else layer.bias.double()
    shape = (-1, *[1] * (layer.weight.ndim - 1))
    folded = gain * (bias - norm.running_mean.double()) + norm.bias.double()
    layer.weight.data = (layer.weight.double() * gain.reshape(shape)).to(layer.weight.dtype)
    layer.bias = nn.Parameter(folded.to(layer.weight.dtype))


def replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module.eval())


def norms_after(model: nn.Module) -> list[Pair]:
    """(layer, batch norm) where the norm alone reads the layer."""
    alone = [s for s in layout(model).scales if len(s.norms) == 1 and not s.readers]
    writers = [{slot.tensor.rpartition(".")[0] for slot in scale.writers} for scale in alone]
    return [(next(iter(w)), s.norms[0]) for w, s in zip(writers, alone, strict=True) if len(w) == 1]


@dataclass(frozen=True)
class Relayer(Attack):
    needs = "weights"
    data = "none"
    preserves = True
    axis = "layers changed"
    paper = "Yan et al., USENIX Security 2023, arXiv:2303.09732"

    how: Literal["split", "merge"]

    def __call__(self, access: Access, adversary: Adversary) -> Iterator[Surrogate]:
        model = access.weights()
        generator = torch.Generator().manual_seed(seed_for(adversary.seed, "layers"))
        linear = [name for name, module in model.named_modules() if type(module) is nn.Linear]
        places: list[Any] = linear if self.how == "split" else norms_after(model)
        if not places:
            raise NotApplicable(
                f"the network has no layer to {self.how}: expected linear layers, or batch norms"
            )
        done = 0
        for half in sorted({max(1, len(places) // 2), len(places)}):
            for place in places[done:half]:
                self._change(model, place, generator)
            done = half
            yield Surrogate(float(done), copy.deepcopy(model).eval())

    def _change(self, model: nn.Module, place: Any, generator: torch.Generator) -> None:
        if self.how == "split":
            layer = model.get_submodule(place)
            assert isinstance(layer, nn.Linear)
            replace(model, place, split_linear(layer, generator))
        else:
            merge_norm(model.get_submodule(place[0]), model.get_submodule(place[1]))
            replace(model, place[1], nn.Identity())
