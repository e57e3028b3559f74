"""Where a network's channels run: which tensors write them, which read them, and what may be done to them unnoticed.

Channels of one group share an order: to permute them, permute every slot. Channels of one scale run from writers to readers
through functions that commute with a factor per channel: positive through ReLU, of any sign where there is none. The paths are
found by tracing the network (torch.fx); transformers, which fx cannot trace, are described in zoo/channels_vit.py.
"""

import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.proxy import TraceError
from torch.nn import functional

from ..core.errors import NotApplicable

Norm = nn.modules.batchnorm._BatchNorm
Linear = (nn.Conv2d, nn.Linear)
PASSES = (
    nn.ReLU, nn.LeakyReLU, nn.Identity, nn.Flatten, nn.Dropout, nn.Dropout2d,
    nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d,
)  # fmt: skip
LINEAR_PASSES = (nn.Identity, nn.Flatten, nn.Dropout, nn.Dropout2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d)
BENDS = (nn.GELU, nn.Tanh, nn.Sigmoid, nn.SiLU, nn.ELU)
ADDS = {operator.add, operator.iadd, torch.add}
SAME = {torch.flatten: True, "flatten": True, torch.relu: False, functional.relu: False, "relu": False}
"""Functions and methods that keep the channels; whether they are linear."""


@dataclass(frozen=True)
class Slot:
    """Channels along one axis of a parameter or buffer, each `repeat` entries long (after a flattened map)."""

    tensor: str
    axis: int
    repeat: int = 1


@dataclass
class Group:
    """Channels in one order. `blocks`: channels may only move within so many equal runs (a head's dimensions). `grows`: more may
    be added, given more slots of the same kind."""

    count: int = 0
    writers: list[Slot] = field(default_factory=list)
    readers: list[Slot] = field(default_factory=list)
    blocks: int = 1
    grows: bool = True
    fixed: bool = False


@dataclass
class Scale:
    """Channels that one factor each runs through. `norms` are batch norms that read it, and divide it out."""

    count: int = 0
    writers: list[Slot] = field(default_factory=list)
    readers: list[Slot] = field(default_factory=list)
    norms: list[str] = field(default_factory=list)
    signed: bool = True
    fixed: bool = False


@dataclass(frozen=True)
class Layout:
    """In the order of the forward pass: what writes a group was read by an earlier one."""

    groups: tuple[Group, ...]
    scales: tuple[Scale, ...]


def tensors(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def layout(model: nn.Module) -> Layout:
    """NotApplicable when no channel of the network is free."""
    from .channels_vit import described

    found = described(model) or _traced(model)
    known = tensors(model)
    parts: list[Any] = [*found.groups, *found.scales]
    used = {slot.tensor for part in parts for slot in (*part.writers, *part.readers)}
    if not found.groups or not used <= known.keys():
        raise NotApplicable(
            "no hidden channels were found that can be reordered: the network's layers are not plain convolutions, linear "
            "layers and batch norms, or its weights are not stored plainly"
        )
    return found


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, (*Linear, Norm)) or not any(True for _ in m.children())


@dataclass
class _Value:
    """What a node of the graph returns: its group of channels and their scale."""

    group: Group
    scale: Scale


class _Paths:
    """Follows the values of a graph; `add` joins two groups, so everything is kept by reference and merged in place."""

    def __init__(self, model: nn.Module) -> None:
        self.modules = dict(model.named_modules())
        self.groups: list[Group] = []
        self.scales: list[Scale] = []
        self.values: dict[fx.Node, _Value] = {}

    def fresh(self, count: int = 0, fixed: bool = False) -> _Value:
        value = _Value(Group(count, fixed=fixed), Scale(count, fixed=fixed))
        self.groups.append(value.group)
        self.scales.append(value.scale)
        return value

    def visit(self, node: fx.Node) -> None:
        sources = [self.values[n] for n in node.all_input_nodes]
        self.values[node] = self._outcome(node, sources)

    def _outcome(self, node: fx.Node, sources: list[_Value]) -> _Value:
        module = self.modules[str(node.target)] if node.op == "call_module" else None
        if isinstance(module, Linear) and getattr(module, "groups", 1) == 1 and len(sources) == 1:
            return self._linear(str(node.target), module, sources[0])
        if isinstance(module, Norm) and module.affine and module.track_running_stats:
            return self._norm(str(node.target), sources[0])
        if isinstance(module, (*PASSES, *BENDS)):
            sources[0].scale.fixed |= isinstance(module, BENDS)
            return self._passed(sources[0], isinstance(module, LINEAR_PASSES))
        target: Any = node.target
        if node.op in ("call_function", "call_method") and target in SAME and len(sources) == 1:
            return self._passed(sources[0], SAME[target])
        if node.op == "call_function" and target in ADDS and len(sources) == 2:
            return self._joined(*sources)
        for value in sources:  # unknown: neither what goes in nor what comes out may change
            value.group.fixed = value.scale.fixed = True
        return self.fresh(fixed=True)

    def _linear(self, name: str, module: Any, source: _Value) -> _Value:
        weight = module.weight
        repeat = max(1, weight.shape[1] // source.group.count) if source.group.count else 1
        reader = Slot(f"{name}.weight", 1, repeat)
        source.group.readers.append(reader)
        source.scale.readers.append(reader)
        out = self.fresh(len(weight))
        parts = ["weight"] if module.bias is None else ["weight", "bias"]
        _write(out, [Slot(f"{name}.{part}", 0) for part in parts], both=True)
        return out

    def _norm(self, name: str, source: _Value) -> _Value:
        """The order goes on, the scale ends: the norm divides it out and writes its own."""
        source.scale.norms.append(name)
        out = _Value(source.group, Scale(source.group.count))
        self.scales.append(out.scale)
        _write(out, [Slot(f"{name}.{part}", 0) for part in ("weight", "bias")], both=True)
        _write(out, [Slot(f"{name}.{part}", 0) for part in ("running_mean", "running_var")], both=False)
        return out

    def _passed(self, source: _Value, linear: bool) -> _Value:
        source.scale.signed &= linear
        return source

    def _joined(self, one: _Value, other: _Value) -> _Value:
        """Of a sum: one order and one scale, kept where the earlier of the two stands."""
        if self._place(self.groups, one.group) > self._place(self.groups, other.group):
            one, other = other, one
        if one.group.count != other.group.count:
            one.group.fixed = one.scale.fixed = other.group.fixed = other.scale.fixed = True
        if one.group is not other.group:
            _absorb(one.group, other.group)
            self._drop(self.groups, other.group)
        if one.scale is not other.scale:
            _absorb(one.scale, other.scale)
            one.scale.norms += other.scale.norms
            one.scale.signed &= other.scale.signed
            self._drop(self.scales, other.scale)
        group, scale = other.group, other.scale
        for value in self.values.values():
            value.group = one.group if value.group is group else value.group
            value.scale = one.scale if value.scale is scale else value.scale
        return _Value(one.group, one.scale)

    def _place(self, parts: list[Any], part: Any) -> int:
        return next(i for i, known in enumerate(parts) if known is part)

    def _drop(self, parts: list[Any], part: Any) -> None:
        del parts[self._place(parts, part)]


def _write(value: _Value, slots: list[Slot], both: bool) -> None:
    value.group.writers += slots
    if both:
        value.scale.writers += slots


def _absorb(one: Any, other: Any) -> None:
    one.writers += other.writers
    one.readers += other.readers
    one.fixed |= other.fixed


def _traced(model: nn.Module) -> Layout:
    try:
        graph = _Tracer().trace(model)
    except (TraceError, TypeError) as error:
        raise NotApplicable(f"the network cannot be traced to find its channels: {error}") from None
    paths = _Paths(model)
    for node in graph.nodes:
        if node.op == "output":
            for source in node.all_input_nodes:
                paths.values[source].group.fixed = paths.values[source].scale.fixed = True
        else:
            paths.visit(node)
    _unshared(paths, [str(n.target) for n in graph.nodes if n.op == "call_module"])
    return Layout(tuple(_free(paths.groups)), tuple(_free(paths.scales)))


def _unshared(paths: _Paths, calls: list[str]) -> None:
    """A layer that is called twice writes two values with one weight: both stay as they are."""
    twice = {f"{name}.weight" for name in calls if calls.count(name) > 1}
    parts: list[Any] = [*paths.groups, *paths.scales]
    for part in parts:
        part.fixed |= any(slot.tensor in twice for slot in (*part.writers, *part.readers))


def _free(parts: Iterable[Any]) -> list[Any]:
    """Those that something hidden writes and something reads."""
    return [p for p in parts if not p.fixed and p.writers and (p.readers or getattr(p, "norms", []))]


Change = Callable[[Tensor], Tensor]


@torch.no_grad()
def change(model: nn.Module, slot: Slot, how: Change) -> None:
    """Replace one tensor, in place, by `how` of its slot laid out as (channels, ...) in float64."""
    tensor = tensors(model)[slot.tensor]
    moved = tensor.detach().movedim(slot.axis, 0)
    rows = how(moved.reshape(-1, slot.repeat, *moved.shape[1:]).to(torch.float64))
    laid = rows.reshape(-1, *moved.shape[1:]).movedim(0, slot.axis)
    tensor.data = laid.to(tensor.dtype).contiguous()


def rows_of(model: nn.Module, slot: Slot) -> Tensor:
    """The slot's entries, one channel a row: (channels, ...) flattened, float64."""
    moved = tensors(model)[slot.tensor].detach().movedim(slot.axis, 0)
    return moved.reshape(-1, slot.repeat, *moved.shape[1:]).flatten(1).to(torch.float64)
