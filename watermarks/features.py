"""What a network computes inside: the inputs of named modules, or of its head, during one forward pass."""

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from ..core.errors import ConfigError, NotApplicable
from ..zoo.models import head


def blocks(model: nn.Module) -> list[str]:
    """The smallest blocks in a row: residual blocks, a transformer's layers, or a layer with its norm and activation."""
    found = [
        f"{row}.{name}".removeprefix(".")
        for row, module in model.named_modules()
        if isinstance(module, nn.Sequential | nn.ModuleList)
        for name, block in module.named_children()
        if next(block.children(), None) is not None and next(block.parameters(), None) is not None
    ]
    return [name for name in found if not any(other.startswith(f"{name}.") for other in found)]


def inner_readers(model: nn.Module, count: int) -> list[str]:
    """The last `count` modules whose input is all that is left of the picture there: blocks, except one that reads the picture
    itself, and the head. NotApplicable when there are fewer."""
    first, _ = next(model.named_parameters())
    inner = [*(name for name in blocks(model) if not first.startswith(f"{name}.")), head(model)]
    if len(inner) < count:
        raise NotApplicable(
            f"the network has {len(inner)} blocks, its head among them, whose input could be read, {count} are asked for; "
            f"set watermark.layers={len(inner)}"
        )
    return inner[-count:]


def with_inputs(model: nn.Module, modules: Sequence[str], inputs: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Logits, and what the modules read, in their order. ConfigError for one that takes no part."""
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(_: nn.Module, given: tuple[Tensor, ...]) -> None:
            found[name] = given[0]

        return hook

    hooks = [model.get_submodule(name).register_forward_pre_hook(keep(name)) for name in modules]
    try:
        logits = model(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    if missing := [name for name in modules if name not in found]:
        raise ConfigError(f"the network's {', '.join(missing)} took no part in its forward pass")
    return logits, [found[name] for name in modules]


def with_features(model: nn.Module, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and the inputs of the head, (N, J)."""
    logits, (features,) = with_inputs(model, [head(model)], inputs)
    return logits, features.flatten(1)
