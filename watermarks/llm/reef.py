"""Centred kernel alignment of what two models make of the same texts (REEF: Zhang et al., ICLR 2025, arXiv:2410.14273).

The representation of a text is the stream after its last id, at every block, each channel standardised over the texts. Linear CKA
then does not see the order of the channels, nor the scale of each, nor their number, so suspects of other widths and depths can be
read: each block of the victim is compared with the suspect's most similar one. It would not see rotations either, but the scales
that are divided out are of the given channels. The paper takes one late layer, and texts of a public data set, here pieces of the
owner's.

Suffixes: N texts, T ids of a text, D width, L blocks.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from annotated_types import Ge
from torch import Tensor, nn

from ...core.contracts import Fit, Task
from ...core.errors import ConfigError, NotApplicable
from ...core.key import Key
from ...core.secret import Secret
from ...core.suspects import reading
from ...zoo.language import LanguageModel
from .pairs import ids_of
from .resemblance import Resemblance

BATCH = 64


@dataclass(frozen=True, eq=False)
class ProbeKey(Key):
    """probes_NT (N, T) int64, and the victim's representations_LND (L, N, D) float32 of them."""

    probes_NT: Tensor
    representations_LND: Tensor


@torch.no_grad()
def representations(model: LanguageModel, probes_NT: Tensor, device: str = "cpu") -> Tensor:
    """(L, N, D) float32 on the CPU: the stream after every block at the last id, the last block's before the final norm."""
    base: Any = model.net.base_model
    blocks = next(part for part in base.children() if isinstance(part, nn.ModuleList))
    found: list[list[Tensor]] = [[] for _ in blocks]

    def kept(layer: int) -> Callable[[nn.Module, Any, Any], None]:
        def keep(block: nn.Module, inputs: Any, output: Any) -> None:
            stream_BTD = output[0] if isinstance(output, tuple) else output
            found[layer].append(stream_BTD[:, -1].float().cpu())

        return keep

    hooks = [block.register_forward_hook(kept(layer)) for layer, block in enumerate(blocks)]
    try:
        with reading(model, device):
            for ids_BT in probes_NT.split(BATCH):
                base(input_ids=ids_BT.to(device), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return torch.stack([torch.cat(parts) for parts in found])


def linear_cka(one_ND: Tensor, other_NE: Tensor) -> float:
    """||Y^T X||^2 / (||X^T X|| ||Y^T Y||) of standardised columns (Kornblith et al., ICML 2019, arXiv:1905.00414); constant ones
    count nothing; nan where nothing varies."""
    x_ND, y_NE = (standardised(t.double()) for t in (one_ND, other_NE))
    scale = (x_ND.T @ x_ND).norm() * (y_NE.T @ y_NE).norm()
    return float((y_NE.T @ x_ND).square().sum() / scale) if scale > 0 else float("nan")


def standardised(values_ND: Tensor) -> Tensor:
    """Columns of mean 0 and variance 1; constant ones are 0."""
    centred_ND = values_ND - values_ND.mean(0)
    spread_D = centred_ND.square().mean(0).sqrt()
    return centred_ND / torch.where(spread_D > 0, spread_D, 1)


@dataclass(frozen=True)
class Reef(Resemblance):
    reads = "weights"
    paper = "Zhang et al., ICLR 2025, arXiv:2410.14273"
    key_type = ProbeKey
    unit = "mean linear CKA"

    probes: Annotated[int, Ge(3)] = 256
    """Texts; 200 in the paper."""
    length: Annotated[int, Ge(1)] = 16
    """Ids of each."""

    def keygen(
        self, task: Task, secret: Secret, model: nn.Module | None = None, fit: Fit | None = None
    ) -> ProbeKey:
        """Pieces of the owner's windows that the secret draws. ConfigError where he has fewer, NotApplicable for a victim without
        blocks."""
        windows_WT, victim = ids_of(task, self.name), self.victim_of(model)
        if not isinstance(victim, LanguageModel):
            raise NotApplicable(f"reef reads the blocks of language models, {type(victim).__name__} is none")
        each = windows_WT.shape[1] // self.length
        pieces_NT = windows_WT[:, : each * self.length].reshape(-1, self.length)
        if len(pieces_NT) < self.probes:
            raise ConfigError(
                f"the owner's text has {len(pieces_NT)} pieces of {self.length} ids, {self.probes} are to be read; "
                f"set watermark.probes={max(3, len(pieces_NT))}"
            )
        probes_NT = pieces_NT[secret.order("reef/probes", len(pieces_NT))[: self.probes]]
        return ProbeKey(secret, probes_NT, representations(victim, probes_NT))

    def near(self, model: nn.Module, key: ProbeKey, device: str) -> float:
        if not isinstance(model, LanguageModel) or int(key.probes_NT.max()) >= model.vocabulary:
            return float("nan")
        theirs_LND = representations(model, key.probes_NT, device)
        if not theirs_LND.isfinite().all():
            return float("nan")
        best = [max(linear_cka(own, other) for other in theirs_LND) for own in key.representations_LND]
        return sum(best) / len(best)
