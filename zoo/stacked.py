"""Layers of several networks at once: stacked weights, forward and backward passes written out as batched products.

A step of one small network is mostly calls and memory traffic; stacked, the members share the calls, and what is kept
between the passes is small enough for a cache. Gradients are exact: the tests compare them with autograd.

Suffixes: G members, H rows, N examples, W columns, C channels in, O channels out, K inputs of one output.
A map is (G, H, N, W, C), features are (G, 1, N, 1, C).
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Layer(ABC):
    """One layer of all members. `backward` takes and returns the gradient of the summed losses by the layer's output and
    input, and leaves those by its weights in their `grad`. Both passes may overwrite what they are given."""

    first = False
    """No weights come before: the gradient by the input is not needed, and what `backward` returns is not read."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self.modules = modules
        self.weights: dict[str, Tensor] = {}
        self.statistics: dict[str, Tensor] = {}

    def stack(self, name: str) -> Tensor:
        return torch.stack([getattr(module, name).detach() for module in self.modules])

    def train(self, name: str, value: Tensor) -> Tensor:
        """A weight, with room for its gradient."""
        self.weights[name] = value = value.contiguous()
        value.grad = torch.zeros_like(value)
        return value

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor: ...

    @abstractmethod
    def backward(self, d: Tensor) -> Tensor: ...

    def own_layout(self, name: str) -> Tensor:
        """A weight or statistic as the modules hold it, members on axis 0."""
        return {**self.weights, **self.statistics}[name]

    def store(self) -> None:
        """Copies everything into the members' modules."""
        for name in (*self.weights, *self.statistics):
            for module, value in zip(self.modules, self.own_layout(name), strict=True):
                getattr(module, name).data.copy_(value)


def gradient(weight: Tensor) -> Tensor:
    assert weight.grad is not None
    return weight.grad


class Normalise(Layer):
    def __init__(self, modules: Sequence[nn.Module]) -> None:
        super().__init__(modules)
        self.mean, self.std = (self.stack(name).view(-1, 1, 1, 1, 1) for name in ("mean", "std"))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std

    def backward(self, d: Tensor) -> Tensor:
        return d / self.std


class Relu(Layer):
    def forward(self, x: Tensor) -> Tensor:
        self.y = x.relu_()
        return self.y

    def backward(self, d: Tensor) -> Tensor:
        dx: Tensor = torch.ops.aten.threshold_backward.grad_input(d, self.y, 0, grad_input=d)
        return dx


class Flatten(Layer):
    """Features stay ordered by (H, W, C): `Linear` reorders its columns instead, once."""

    def forward(self, x: Tensor) -> Tensor:
        self.shape = members, _, examples, *_ = x.shape
        return x.transpose(1, 2).reshape(members, 1, examples, 1, -1)

    def backward(self, d: Tensor) -> Tensor:
        members, rows, examples, columns, channels = self.shape
        return d.view(members, examples, rows, columns, channels).transpose(1, 2).contiguous()


class Bias(Layer):
    def __init__(self, modules: Sequence[nn.Module]) -> None:
        super().__init__(modules)
        self.bias = self.train("bias", self.stack("bias"))

    def forward(self, x: Tensor) -> Tensor:
        return x.add_(self.bias[:, None, None, None])

    def backward(self, d: Tensor) -> Tensor:
        torch.sum(d.flatten(1, 3), 1, out=gradient(self.bias))
        return d


class Linear(Layer):
    """`shape`: (H, W, C) of the map that was flattened before, (1, 1, C) when the input was a vector already."""

    def __init__(self, modules: Sequence[nn.Module], shape: tuple[int, int, int]) -> None:
        super().__init__(modules)
        self.shape = shape
        rows, columns, channels = shape
        weight_GOCHW = self.stack("weight").unflatten(2, (channels, rows, columns))
        self.weight_GOK = self.train("weight", weight_GOCHW.permute(0, 1, 3, 4, 2).flatten(2))

    def forward(self, x: Tensor) -> Tensor:
        self.x_GNK = x.view(x.shape[0], x.shape[2], -1)
        return torch.bmm(self.x_GNK, self.weight_GOK.mT)[:, None, :, None]

    def backward(self, d: Tensor) -> Tensor:
        d_GNO = d.reshape(d.shape[0], d.shape[2], -1)
        torch.bmm(d_GNO.mT, self.x_GNK, out=gradient(self.weight_GOK))
        return d if self.first else torch.bmm(d_GNO, self.weight_GOK)[:, None, :, None]

    def own_layout(self, name: str) -> Tensor:
        weight_GOHWC: Tensor = self.weight_GOK.unflatten(2, self.shape)
        return weight_GOHWC.permute(0, 1, 4, 2, 3).flatten(2)


class Norm(Layer):
    """Batch normalisation in training mode (Ioffe & Szegedy 2015): statistics of the batch, by member and channel, and
    their running averages with the unbiased variance. Vectors run over W x C, so that rows are long."""

    def __init__(self, modules: Sequence[nn.Module], momentum: float, eps: float) -> None:
        super().__init__(modules)
        self.momentum, self.eps = momentum, eps
        self.weight, self.bias = (self.train(name, self.stack(name)) for name in ("weight", "bias"))
        names = ("running_mean", "running_var", "num_batches_tracked")
        self.statistics = {name: self.stack(name) for name in names}

    def forward(self, x: Tensor) -> Tensor:
        self.shape, self.x = x.shape, x.view(x.shape[0], -1, x.shape[3] * x.shape[4])
        count = self._count()
        mean_GC = self._sum(self.x) / count
        var_GC = (self._sum(self.x * self.x) / count).addcmul_(mean_GC, mean_GC, value=-1).clamp_min_(0)
        self.statistics["running_mean"].lerp_(mean_GC, self.momentum)
        self.statistics["running_var"].lerp_(var_GC * (count / (count - 1)), self.momentum)
        self.statistics["num_batches_tracked"] += 1
        self.mean, self.rstd = mean_GC, (var_GC + self.eps).rsqrt_()
        self.scale = self.weight * self.rstd
        shift_GC = torch.addcmul(self.bias, mean_GC, self.scale, value=-1)
        return torch.addcmul(self._wide(shift_GC), self.x, self._wide(self.scale)).view(self.shape)

    def backward(self, d: Tensor) -> Tensor:
        """By the input: scale * (d - mean(d) - normalised * mean(d * normalised)), gathered as a * x + b + scale * d."""
        d, count = d.reshape(self.x.shape), self._count()
        sum_GC = gradient(self.bias).copy_(self._sum(d))
        torch.addcmul(self._sum(d * self.x), self.mean, sum_GC, value=-1, out=gradient(self.weight)).mul_(
            self.rstd
        )
        a_GC = self.scale * self.rstd * gradient(self.weight) / -count
        b_GC = (self.scale * sum_GC / -count).addcmul_(a_GC, self.mean, value=-1)
        torch.addcmul(self._wide(b_GC), self.x, self._wide(a_GC), out=self.x)
        return self.x.addcmul_(d, self._wide(self.scale)).view(self.shape)

    def _count(self) -> int:
        return self.shape[1] * self.shape[2] * self.shape[3]

    def _sum(self, values: Tensor) -> Tensor:
        return values.sum(1).view(self.shape[0], *self.shape[3:]).sum(1)

    def _wide(self, values_GC: Tensor) -> Tensor:
        return values_GC[:, None].expand(-1, self.shape[3], -1).reshape(len(values_GC), 1, -1)
