"""Weight invariants: products of a transformer's matrices, between the vectors of some ids, that no reordering or rotation of its
channels changes (HuRef: Zeng et al., NeurIPS 2024, arXiv:2312.04828).

Of every block the residual stream sees W_q^T W_k, W_o W_v and W_down W_up. Heads, their channels and hidden units cancel in these
products; the stream's own basis cancels between the vectors of ids, X M X^T, which turn with it. Gains of the norms before are part
of the matrices, and vectors are centred as the norms centre them. The statistic is the mean correlation between the victim's
invariants and the suspect's, each less its mean, over all blocks; the paper takes the last two. Left out are biases, and the
picture that the paper makes of the invariants.

Suffixes: K ids, D width of the stream, H hidden units or heads x channels, L blocks.
"""

from dataclasses import dataclass
from typing import Annotated, Any

import torch
from annotated_types import Ge
from torch import Tensor, nn
from torch.nn import functional

from ...core.contracts import Fit, Task
from ...core.errors import NotApplicable
from ...core.key import Key
from ...core.secret import Secret
from ...zoo.language import LanguageModel
from .pairs import ids_of
from .resemblance import Resemblance


@dataclass(frozen=True, eq=False)
class InvariantKey(Key):
    """ids_K (K,) int64, and the victim's invariants_LKK (3 L, K, K) float32 between their vectors."""

    ids_K: Tensor
    invariants_LKK: Tensor


def gpt2_of(model: nn.Module) -> Any:
    """The GPT-2 whose weights the suspect itself holds; None for others, and for who passes on another's texts."""
    found = getattr(model.net, "transformer", None) if isinstance(model, LanguageModel) else None
    return found if type(found).__name__ == "GPT2Model" else None


@torch.no_grad()
def invariants(net: Any, ids_K: Tensor) -> Tensor:
    """(3 L, K, K) in float64: attention, values and MLP of every block."""
    vectors_KD = net.wte.weight.detach().double().cpu()[ids_K]
    vectors_KD = vectors_KD - vectors_KD.mean(1, keepdim=True)
    found = []
    for block in net.h:
        query_HD, key_HD, value_HD = _gained(block.attn.c_attn, block.ln_1).chunk(3)
        reads_KH, up_KH = (vectors_KD @ w.T for w in (value_HD, _gained(block.mlp.c_fc, block.ln_2)))
        out_KH, down_KH = (vectors_KD @ _matrix(layer) for layer in (block.attn.c_proj, block.mlp.c_proj))
        found += [
            (vectors_KD @ query_HD.T) @ (vectors_KD @ key_HD.T).T,
            out_KH @ reads_KH.T,
            down_KH @ up_KH.T,
        ]
    return torch.stack(found)


def _matrix(layer: Any) -> Tensor:
    matrix: Tensor = layer.weight.detach().double().cpu()
    return matrix


def _gained(layer: Any, norm: Any) -> Tensor:
    """(H, D): a layer that reads the stream, with the gain of the norm before it."""
    gain: Tensor = norm.weight.detach().double().cpu()
    return _matrix(layer) * gain


@dataclass(frozen=True)
class HuRef(Resemblance):
    reads = "weights"
    paper = "Zeng et al., NeurIPS 2024, arXiv:2312.04828"
    key_type = InvariantKey
    unit = "mean correlation of invariants"

    ids: Annotated[int, Ge(2)] = 128
    """Between whose vectors the products are taken, drawn by the secret; 4,096 of a large vocabulary's rarest in the paper."""

    def keygen(
        self, task: Task, secret: Secret, model: nn.Module | None = None, fit: Fit | None = None
    ) -> InvariantKey:
        """NotApplicable for a victim that is no GPT-2."""
        ids_of(task, self.name)
        net = gpt2_of(self.victim_of(model))
        if net is None:
            raise NotApplicable(
                "huref reads the blocks of GPT-2, and the victim has none; set model=gpt2_tiny"
            )
        ids_K = secret.order("huref/ids", task.classes)[: self.ids]
        return InvariantKey(secret, ids_K, invariants(net, ids_K).float())

    def near(self, model: nn.Module, key: InvariantKey, device: str) -> float:
        net = gpt2_of(model)
        if net is None or int(key.ids_K.max()) >= len(net.wte.weight):
            return float("nan")
        ours, theirs = key.invariants_LKK.double(), invariants(net, key.ids_K)
        if ours.shape != theirs.shape or not theirs.isfinite().all():
            return float("nan")
        ours_LX, theirs_LX = (t.flatten(1) - t.flatten(1).mean(1, keepdim=True) for t in (ours, theirs))
        return float(functional.cosine_similarity(ours_LX, theirs_LX).mean())
