"""What a network computes inside: the outputs of named layers, or the inputs of its head, during one forward pass."""

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from ..core.errors import ConfigError, NotApplicable
from ..zoo.models import head


def inner_layers(model: nn.Module, count: int) -> list[str]:
    """The last `count` convolutions and linear layers before the head. NotApplicable when there are fewer."""
    kinds = (nn.Linear, nn.modules.conv._ConvNd)
    names = [name for name, module in model.named_modules() if isinstance(module, kinds)]
    inner = [name for name in names if name != head(model)]
    if len(inner) < count:
        raise NotApplicable(
            f"the network has {len(inner)} layers before its head, {count} are to be entangled; "
            f"set watermark.layers={len(inner)}"
        )
    return inner[-count:] if count else []


def with_outputs(model: nn.Module, layers: Sequence[str], inputs: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Logits, and the outputs of the layers, in their order."""
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> None:
            found[name] = output

        return hook

    hooks = [model.get_submodule(name).register_forward_hook(keep(name)) for name in layers]
    try:
        logits = model(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return logits, [found[name] for name in layers]


def with_features(model: nn.Module, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and the inputs of the head, (N, J)."""
    found: list[Tensor] = []

    def hook(_: nn.Module, given: tuple[Tensor, ...]) -> None:
        found.append(given[0])

    handle = model.get_submodule(head(model)).register_forward_pre_hook(hook)
    try:
        logits = model(inputs)
    finally:
        handle.remove()
    if not found:
        raise ConfigError("the network's last linear layer took no part in its forward pass")
    return logits, found[-1].flatten(1)
