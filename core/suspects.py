"""The rows of the verification matrix: models that are read, never changed.

Suffixes: M suspects, N inputs, C classes, J weights; of language models P ids of a prompt, T ids of a window, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..kernels.row_labels import row_labels
from .errors import NotApplicable
from .texts import Writer

LOGITS = 2**24  # numbers at a time where inputs are ids, each of which has V logits


@contextmanager
def reading(model: nn.Module, device: str) -> Iterator[None]:
    """The model on the device and in eval mode; left as it was."""
    modes = [(module, module.training) for module in model.modules()]
    home = next(iter(model.parameters()), torch.empty(0)).device
    model.to(device).eval()
    try:
        yield
    finally:
        model.to(home)
        for module, mode in modes:  # one by one: a frozen batch norm evaluates inside a model that trains
            module.training = mode


def parts(model: nn.Module, inputs: Tensor, device: str = "cpu", batch: int = 1024) -> Iterator[Tensor]:
    """Logits of all inputs, a batch at a time: (B, C), or (B, V, T) of windows of ids, in float32 on the device. Of windows as many
    at a time as have LOGITS logits."""
    with reading(model, device):
        done, batch = 0, batch if inputs.is_floating_point() else 1  # the first window tells V
        while done < len(inputs):
            with torch.no_grad():  # not around the yield: the reader's gradients are his
                found = model(inputs[done : done + batch].to(device)).float()
            yield found
            done += len(found)
            if not inputs.is_floating_point():
                batch = max(1, LOGITS // found[0].numel())


def logits(model: nn.Module, inputs: Tensor, device: str = "cpu", batch: int = 1024) -> Tensor:
    """Logits (N, C), or (N, V, T) of windows of ids, in float32 on the CPU; the model is read in eval mode and left as it was."""
    found = [part.cpu() for part in parts(model, inputs, device, batch)]
    return torch.cat(found) if found else torch.empty(0)


def labels(model: nn.Module, inputs: Tensor, device: str = "cpu") -> Tensor:
    """(N,), or (N, T) of windows of ids, int64: as `Suspects.labels`."""
    found = [row_labels(part.movedim(1, -1).cpu()) for part in parts(model, inputs, device)]
    return torch.cat(found) if found else torch.empty(0, dtype=torch.int64)


@dataclass(frozen=True)
class Suspects:
    models: Sequence[nn.Module]
    device: str = "cpu"

    def __len__(self) -> int:
        return len(self.models)

    def logits(self, inputs: Tensor) -> Tensor:
        """(M, N, C): one forward pass per model over all inputs, so put the union of all keys' triggers in one call."""
        return torch.stack([logits(model, inputs, self.device) for model in self.models])

    def labels(self, inputs: Tensor) -> Tensor:
        """(M, N), or (M, N, T) of windows of ids, int64 predicted classes: the lowest of those with the largest logit, -1 where a
        logit is NaN, which agrees with nothing. Memory: a batch's logits of one model at a time."""
        if not self.models:
            return torch.empty(0, len(inputs), dtype=torch.int64)
        return torch.stack([labels(model, inputs, self.device) for model in self.models])

    def texts(self, prompts_NP: Tensor, tokens: int, seed: int) -> list[Tensor]:
        """What each suspect writes to the prompts, (N, tokens) int64. NotApplicable for a suspect that writes none."""
        return [texts(model, prompts_NP, tokens, seed, self.device) for model in self.models]

    def weights(self, layer: str) -> list[Tensor | None]:
        """The layer's weight of every suspect in float32, None for a suspect without this layer."""
        return [_weight(model, layer) for model in self.models]


def texts(
    model: nn.Module,
    prompts_NP: Tensor,
    tokens: int,
    seed: int,
    device: str = "cpu",
    temperature: float | None = None,
) -> Tensor:
    """(N, tokens) int64 on the CPU, without the prompts. NotApplicable for a model that writes no texts."""
    if not isinstance(model, Writer):
        raise NotApplicable(f"{type(model).__name__} writes no texts: it needs a language model")
    with reading(model, device), torch.no_grad():
        return model.write(prompts_NP.to(device), tokens, seed, temperature).cpu()


def _weight(model: nn.Module, layer: str) -> Tensor | None:
    try:
        weight = model.get_submodule(layer).weight
    except AttributeError:
        return None
    if not isinstance(weight, Tensor):
        return None
    if not torch.isfinite(weight).all():
        raise ValueError(
            f"the suspect's {layer}.weight holds NaN or infinite values; a model that computes has none"
        )
    return weight.detach().float().cpu()
