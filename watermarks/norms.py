"""Batch norm under triggers: the statistics of a clean batch, noted and used again."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

Tensors = dict[str, Tensor]


def norms_of(model: nn.Module) -> dict[str, _BatchNorm]:
    return {name: module for name, module in model.named_modules() if isinstance(module, _BatchNorm)}


@contextmanager
def noted_statistics(model: nn.Module, into: Tensors) -> Iterator[None]:
    """While open, every batch norm's input leaves its mean and variance (biased, as batch norm divides) in `into`, under the names
    of the running statistics."""

    def noting(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            values = inputs[0].detach()
            dims = [d for d in range(values.ndim) if d != 1]
            into[f"{name}.running_mean"] = values.mean(dims)
            into[f"{name}.running_var"] = values.var(dims, unbiased=False)

        return hook

    hooks = [norm.register_forward_pre_hook(noting(name)) for name, norm in norms_of(model).items()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def evaluating(modules: Iterable[nn.Module]) -> Iterator[None]:
    """These modules evaluate while open: batch norms use the statistics they have, and learn none."""
    modes = [(module, module.training) for module in modules]
    for module, _ in modes:
        module.training = False
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
