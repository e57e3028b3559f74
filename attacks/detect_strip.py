"""STRIP: a trigger dominates whatever it is blended with, so blended copies of a query all get one label (Gao et al., ACSAC 2019,
arXiv:1902.06531)."""

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor, nn

from ..core.examples import Examples
from ..core.secret import seed_for
from ..core.suspects import logits
from ..core.theft import Detector


@dataclass(frozen=True)
class Strip(Detector):
    paper = "Gao et al., ACSAC 2019, arXiv:1902.06531"

    blends: Annotated[int, Ge(1)] = 32
    """Clean pictures each query is blended with; 100 in the official code."""
    share: Annotated[float, Gt(0), Lt(1)] = 0.5
    """Of the clean picture; 0.5 in TrojanZoo's code, which keeps pixels in their range. The official code adds query and
    picture with weight 1 each."""

    def suspicion(self, model: nn.Module, stream: Tensor, clean: Examples, seed: int) -> Tensor:
        """Minus the mean entropy, in nats, of the blended copies' predictions."""
        generator = torch.Generator().manual_seed(seed_for(seed, "strip"))
        picks = torch.randint(len(clean), (len(stream), self.blends), generator=generator)
        entropy_N = []
        for query, pick in zip(stream, picks, strict=True):
            mixed = (1 - self.share) * query + self.share * clean.inputs[pick]
            log_p = torch.log_softmax(logits(model, mixed).double(), -1)
            entropy_N.append(-(log_p.exp() * log_p).sum(-1).mean())
        return -torch.stack(entropy_N)
