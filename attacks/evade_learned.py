"""Evasion with a learned picture of ordinary queries: triggers are repaired, or recognised and answered at random.

autoencoder: every query is replaced by its reconstruction (Meng & Chen, CCS 2017, MagNet; Lukas et al., S&P 2022). filter: a query
unlike the thief's data, by the error of reconstructing it or the activations it causes, gets another answer (Hitaj et al. 2019,
arXiv:1809.00615; Chen et al. 2018, arXiv:1811.03728, look at activations).
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor, nn

from ..core.contracts import Recipe
from ..core.examples import Examples
from ..core.secret import seed_for
from ..core.theft import Access, Adversary, Attack, Surrogate
from ..zoo.models import head
from .evade import Before, Behind


class Autoencoder(nn.Module):
    """Any rows to themselves through `size` numbers; `low` and `high` bound what comes out."""

    def __init__(self, shape: tuple[int, ...], size: int, width: int, bounded: bool) -> None:
        super().__init__()
        self.shape = shape
        count = int(torch.Size(shape).numel())
        inner = [
            nn.Linear(count, width),
            nn.ReLU(),
            nn.Linear(width, size),
            nn.ReLU(),
            nn.Linear(size, width),
        ]
        self.net = nn.Sequential(nn.Flatten(), *inner, nn.ReLU(), nn.Linear(width, count))
        self.bounded = bounded

    def forward(self, x: Tensor) -> Tensor:
        rows: Tensor = self.net(x.float()).reshape(-1, *self.shape)
        return rows.clamp(0, 1).to(x.dtype) if self.bounded and not self.training else rows.to(x.dtype)

    def error(self, x: Tensor) -> Tensor:
        """(N,) mean square of the reconstruction's error."""
        rows: Tensor = (self(x) - x).square().flatten(1).mean(1)
        return rows


def squared(live: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    loss: Tensor = (live(inputs) - inputs).square().mean()
    return loss


def learned(adversary: Adversary, rows: Tensor, size: int, recipe: Recipe, bounded: bool) -> Autoencoder:
    """An autoencoder of the rows (N, ...), trained by the thief's trainer."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(adversary.seed, "autoencoder", size))
        fresh = Autoencoder(tuple(rows.shape[1:]), size, max(128, 2 * size), bounded)
    data = Examples(rows, torch.zeros(len(rows), dtype=torch.int64))
    trained = adversary.fit(
        fresh, data, recipe=recipe, objective=squared, label=f"autoencoder, {size} numbers"
    )
    assert isinstance(trained, Autoencoder)
    return trained.requires_grad_(False)


@dataclass
class Reconstruct:
    """Inputs -> reconstructions; the network moves to where the inputs are."""

    network: Autoencoder

    def __call__(self, inputs: Tensor) -> Tensor:
        rows: Tensor = self.network.to(inputs.device).eval()(inputs)
        return rows


@dataclass(frozen=True)
class EvadeAutoencoder(Attack):
    needs = "weights"
    data = "unlabelled"
    axis = "share of dimensions dropped"
    pictures_only = True
    paper = "Meng & Chen, CCS 2017, arXiv:1705.09064"

    recipe: Recipe
    shares: tuple[Annotated[float, Gt(0), Lt(1)], ...] = (0.25, 0.5, 0.75)
    """Of at most 256 of a picture's J numbers: it passes through (1 - share) min(256, J). The strength is the share
    of all J that is dropped."""

    def __call__(self, access: Access, adversary: Adversary) -> Iterator[Surrogate]:
        model, inputs = access.weights(), adversary.data.inputs
        count = inputs[0].numel()
        sizes = {max(1, round((1 - share) * min(256, count))) for share in self.shares}
        for size in sorted(sizes, reverse=True):
            evading = copy.deepcopy(model).eval()
            network = learned(adversary, inputs, size, self.recipe, True)
            evading.register_forward_pre_hook(Before(Reconstruct(network)))
            yield Surrogate(1 - size / count, evading)


@dataclass
class Seen:
    """A forward pre-hook that keeps what a layer was called with, until it is asked for."""

    rows: Tensor | None = None

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self.rows = args[0].detach().flatten(1)


@dataclass
class Suspicion:
    """(inputs, logits) -> logits, other ones for queries whose error of reconstruction is beyond the limit."""

    network: Autoencoder
    limit: float
    answer: Literal["second", "random"]
    seen: Seen | None
    seed: int
    """Of random answers."""

    def error(self, inputs: Tensor) -> Tensor:
        rows = inputs if self.seen is None or self.seen.rows is None else self.seen.rows
        found: Tensor = self.network.to(rows.device).eval().error(rows)
        return found

    def __call__(self, inputs: Tensor, logits: Tensor) -> Tensor:
        suspect = self.error(inputs) > self.limit
        best = logits.topk(2, -1).indices
        other = logits.clone()
        if self.answer == "second":
            other.scatter_(1, best, logits.gather(1, best.flip(1)))
        else:
            generator = torch.Generator().manual_seed(self.seed)
            turns = torch.randint(1, logits.shape[1], (len(logits), 1), generator=generator)
            place = (torch.arange(logits.shape[1]) + turns) % logits.shape[1]
            other = logits.gather(1, place.to(logits.device))
        return torch.where(suspect[:, None], other, logits)


@dataclass(frozen=True)
class EvadeFilter(Attack):
    needs = "weights"
    data = "unlabelled"
    axis = "share of ordinary queries refused"
    pictures_only = True
    paper = "Hitaj et al., SDS 2019, arXiv:1809.00615"

    recipe: Recipe
    looks_at: Literal["pictures", "activations"] = "pictures"
    """activations: what the last linear layer reads."""
    answer: Literal["second", "random"] = "second"
    """The second most probable class, or a rotation of the scores."""
    size: Annotated[int, Ge(1)] = 32
    """Numbers the autoencoder keeps."""
    rates: tuple[Annotated[float, Gt(0), Lt(1)], ...] = (0.01, 0.05, 0.1)
    """Of the thief's own data, held out from the autoencoder, that the filter may take for triggers."""

    def __call__(self, access: Access, adversary: Adversary) -> Iterator[Surrogate]:
        model, inputs = access.weights(), adversary.data.inputs
        rows = inputs if self.looks_at == "pictures" else activations(model, inputs)
        kept = max(2, len(rows) * 2 // 3)
        network = learned(adversary, rows[:kept], self.size, self.recipe, False)
        with torch.no_grad():
            errors = network.error(rows[kept:] if kept < len(rows) else rows)
        for rate in sorted(self.rates):
            evading = copy.deepcopy(model).eval()
            seen = Seen() if self.looks_at == "activations" else None
            if seen is not None:
                evading.get_submodule(head(evading)).register_forward_pre_hook(seen)
            limit = float(errors.quantile(1 - rate))
            seed = seed_for(adversary.seed, "random answers")
            change = Suspicion(copy.deepcopy(network), limit, self.answer, seen, seed)
            evading.register_forward_hook(Behind(change))
            yield Surrogate(rate, evading)


@torch.no_grad()
def activations(model: nn.Module, inputs: Tensor) -> Tensor:
    """(N, J) what the last linear layer is called with."""
    seen, rows = Seen(), []
    handle = model.get_submodule(head(model)).register_forward_pre_hook(seen)
    for part in torch.split(inputs, 256):
        model(part)
        assert seen.rows is not None
        rows.append(seen.rows)
    handle.remove()
    return torch.cat(rows)
