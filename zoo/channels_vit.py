"""The channels of transformers' ViT: dimensions within a head, heads, hidden units of the MLP, the residual stream, and the scales
between queries and keys, values and outputs, norms and what reads them.
"""

from typing import Any

from torch import nn

from .channels import Group, Layout, Scale, Slot


def described(model: nn.Module) -> Layout | None:
    """None unless the network is, or wraps, a ViTForImageClassification."""
    kinds = {type(module).__name__: (name, module) for name, module in model.named_modules()}
    if "ViTForImageClassification" not in kinds:
        return None
    vit: Any
    prefix, vit = kinds["ViTForImageClassification"]
    if any(isinstance(m, nn.utils.parametrize.ParametrizationList) for m in model.modules()):
        return Layout((), ())
    at = f"{prefix}." if prefix else ""
    heads = int(vit.config.num_attention_heads)
    blocks = [f"{at}vit.layers.{i}" for i in range(len(vit.vit.layers))]
    width = int(vit.config.hidden_size)
    groups = [_residual(at, blocks, width)]
    scales = []
    for block in blocks:
        groups += _attention_groups(block, heads, width)
        groups.append(_hidden(model, block))
        scales += _scales(block, width)
    final = Scale(width, _both(f"{at}vit.layernorm"), [Slot(f"{at}classifier.weight", 1)])
    return Layout(tuple(groups), (*scales, final))


def _both(layer: str, repeat: int = 1) -> list[Slot]:
    """Weight and bias, outputs on axis 0."""
    return [Slot(f"{layer}.weight", 0, repeat), Slot(f"{layer}.bias", 0, repeat)]


def _residual(at: str, blocks: list[str], width: int) -> Group:
    """Everything as wide as a token. It cannot grow: layer norms average over it."""
    embeddings = f"{at}vit.embeddings"
    group = Group(width, _both(f"{embeddings}.patch_embeddings.projection"), grows=False)
    group.writers += [Slot(f"{embeddings}.cls_token", 2), Slot(f"{embeddings}.position_embeddings", 2)]
    for block in blocks:
        group.writers += _both(f"{block}.attention.o_proj") + _both(f"{block}.mlp.fc2")
        group.writers += _both(f"{block}.layernorm_before") + _both(f"{block}.layernorm_after")
        group.readers += [Slot(f"{block}.attention.{p}_proj.weight", 1) for p in "qkv"]
        group.readers.append(Slot(f"{block}.mlp.fc1.weight", 1))
    group.writers += _both(f"{at}vit.layernorm")
    group.readers.append(Slot(f"{at}classifier.weight", 1))
    return group


def _attention_groups(block: str, heads: int, width: int) -> list[Group]:
    """Within each head the dimensions of queries and keys, and those of values; then whole heads."""
    size = width // heads
    q, k, v = (f"{block}.attention.{part}_proj" for part in "qkv")
    out = f"{block}.attention.o_proj.weight"
    whole = [slot for layer in (q, k, v) for slot in _both(layer, size)]
    return [
        Group(width, _both(q) + _both(k), [], blocks=heads, grows=False),
        Group(width, _both(v), [Slot(out, 1)], blocks=heads, grows=False),
        Group(heads, whole, [Slot(out, 1, size)], grows=False),
    ]


def _hidden(model: nn.Module, block: str) -> Group:
    """The MLP's units: GELU lets their order change, not their scale."""
    fc1 = model.get_submodule(f"{block}.mlp.fc1")
    assert isinstance(fc1, nn.Linear)
    return Group(fc1.out_features, _both(f"{block}.mlp.fc1"), [Slot(f"{block}.mlp.fc2.weight", 1)])


def _scales(block: str, width: int) -> list[Scale]:
    q, k, v = (f"{block}.attention.{part}_proj" for part in "qkv")
    readers = [Slot(f"{layer}.weight", 1) for layer in (q, k, v)]
    return [
        Scale(width, _both(f"{block}.layernorm_before"), readers),
        Scale(width, _both(q), _both(k)),
        Scale(width, _both(v), [Slot(f"{block}.attention.o_proj.weight", 1)]),
        Scale(width, _both(f"{block}.layernorm_after"), [Slot(f"{block}.mlp.fc1.weight", 1)]),
    ]
