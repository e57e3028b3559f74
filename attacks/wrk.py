"""WRK: boundary samples with wrong labels, a new head, and a penalty on its likeness to the old one (arXiv:2511.07947).

A few of the thief's inputs take one large sign step along the gradient of a random class's logit; what comes out, close to
two-valued pictures such as triggers are, is given a label that is not the input's own. Then the head is drawn anew and everything
is fine-tuned on both with CE + alpha sum(W W_old). The authors clip to [0, 1] after normalisation; here models normalise
themselves, so pictures stay pictures. Their budget of 5 % clean data is adversary.data=0.25 of the thief's fifth.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn

from ..core.contracts import Recipe
from ..core.examples import Examples
from ..core.secret import seed_for
from ..core.theft import Access, Adversary, Attack, Surrogate
from ..zoo.models import head
from .finetune import with_new_head
from .jbda import stepped
from .trajectory import drawing, followed


@dataclass(frozen=True)
class Wrk(Attack):
    needs = "weights"
    data = "labelled"
    axis = "epochs"
    pictures_only = True
    paper = "Xiao et al., AAAI 2026, arXiv:2511.07947"

    recipe: Recipe
    """The authors': 10 epochs of SGD at 0.001 without weight decay, cosine, batches of 32: 830 steps. Here 30 epochs at 0.01, 300
    steps of digits."""
    share: Annotated[float, Gt(0), Le(1)] = 0.05
    """Of the thief's inputs, which become boundary samples; 128 of 2,500 in the official code."""
    step: Annotated[float, Gt(0)] = 2.0
    """Of the sign step; 2 in the official code."""
    alpha: Annotated[float, Ge(0)] = 0.01
    """As in the official code."""
    skip_class_0: bool = False
    """As in the official code, whose random wrong labels are never 0."""
    report: tuple[int, ...] = (1, 2, 5, 10, 30)

    def __call__(self, access: Access, adversary: Adversary) -> Iterator[Surrogate]:
        model = access.weights()
        name = head(model)
        old = model.get_parameter(f"{name}.weight").detach().clone()
        data = adversary.data.join(self.boundary(model, adversary))

        def penalty(live: nn.Module) -> Tensor:
            new = live.get_parameter(f"{name}.weight")
            return self.alpha * (new * old.to(new.device)).sum()

        fresh = with_new_head(model, seed_for(adversary.seed, "head"))
        yield from followed(adversary, fresh, self.recipe, self.report, data=data, penalty=penalty)

    def boundary(self, model: nn.Module, adversary: Adversary) -> Examples:
        """The stepped inputs with labels that are not their own. A batch steps towards one class, as in the official code."""
        generator = drawing(adversary, "boundary")
        count = max(1, round(self.share * len(adversary.data)))
        picks = torch.randperm(len(adversary.data), generator=generator)[:count]
        chosen = adversary.data.take(picks)
        batches = -(-count // self.recipe.batch_size)
        towards = torch.randint(adversary.classes, (batches,), generator=generator)
        each = towards.repeat_interleave(self.recipe.batch_size)[:count]
        scores = torch.rand(count, adversary.classes, generator=generator)
        scores[torch.arange(count), chosen.targets] = -1
        if self.skip_class_0:
            scores[:, 0] = -1
        return Examples(stepped(model, Examples(chosen.inputs, each), self.step), scores.argmax(1))
