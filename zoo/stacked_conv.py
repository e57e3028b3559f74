"""Convolutions of several networks at once, as matrix products over strided views of the map: no patches are copied.

With columns beside channels in memory the taps of one kernel row are one contiguous window of the map, and windows and
rows end at the border, so padding costs no arithmetic. Stride-1 3x3 kernels are transformed along the rows by F(4, 3)
(Lavin & Gray, CVPR 2016, arXiv:1509.09308, section 4.1): half the multiplications. `torch.func.vmap` would make grouped
convolutions of these layers, which are slow on a CPU.

Suffixes as in stacked.py, and T kernel rows, P positions of the output.
"""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from .stacked import Layer, gradient

POINTS = (
    0.0,
    1.0,
    -1.0,
    0.5,
    -0.5,
)  # and infinity: small ones keep the rounding errors near those of a plain sum
TILE = 4  # outputs of one transform
Views = tuple[Tensor, Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Axis:
    """One direction of a convolution: output i reads the inputs i * stride - padding + (0, ..., taps - 1)."""

    size: int
    taps: int
    stride: int
    padding: int

    @property
    def outputs(self) -> int:
        return (self.size + 2 * self.padding - self.taps) // self.stride + 1

    @property
    def blocks(self) -> int:
        return -(-self.size // self.stride)

    def windows(self) -> Iterator[tuple[int, slice, slice]]:
        """(output, the inputs it reads, the taps that read them), cut at the border."""
        for i in range(self.outputs):
            start = i * self.stride - self.padding
            first, last = max(0, start), min(self.size, start + self.taps)
            if first < last:
                yield i, slice(first, last), slice(first - start, last - start)

    def reads(self) -> Iterator[tuple[int, int, slice, slice]]:
        """(tap, offset in the stride, the blocks it reads at that offset, the outputs they go to)."""
        for tap in range(self.taps):
            shift, offset = divmod(tap - self.padding, self.stride)
            first, last = max(0, -shift), min(self.outputs, self.blocks - shift)
            if first < last:
                yield tap, offset, slice(first + shift, last + shift), slice(first, last)


class FirstConv(Layer):
    """On the images themselves: few channels, so patches are small, and no gradient by the input."""

    def __init__(self, modules: Sequence[nn.Module], rows: Axis, columns: Axis) -> None:
        super().__init__(modules)
        self.rows, self.columns = rows, columns
        self.weight_GKO = self.train("weight", self.stack("weight").flatten(2).mT)

    def own_layout(self, name: str) -> Tensor:
        weight: Tensor = self.weight_GKO.mT.unflatten(2, (-1, self.rows.taps, self.columns.taps))
        return weight

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = self.rows, self.columns
        padding = (0, 0, columns.padding, columns.padding, 0, 0, rows.padding, rows.padding)
        patches = functional.pad(x, padding).unfold(1, rows.taps, rows.stride)
        patches = patches.unfold(3, columns.taps, columns.stride)
        self.patches_GKP = patches.permute(0, 4, 5, 6, 1, 2, 3).flatten(4).flatten(1, 3)
        y_GPO = torch.bmm(self.patches_GKP.mT, self.weight_GKO)
        return y_GPO.view(len(x), rows.outputs, -1, columns.outputs, y_GPO.shape[2])

    def backward(self, d: Tensor) -> Tensor:
        torch.bmm(self.patches_GKP, d.flatten(1, 3), out=gradient(self.weight_GKO))
        return d


@dataclass(frozen=True)
class Products:
    """Buffers for one size of batch, and the products between views into them: x (B, rows, K), y (B, rows, O),
    weight (B, K, O), dweight; B members, or members times points. Gradients take the place of x and y."""

    x: Tensor
    y: Tensor
    weight: Tensor
    dweight: Tensor
    views: list[Views]
    beta: int
    """0 where each output is one product, 1 where it is a sum of them."""

    def forward(self) -> None:
        if self.beta:
            self.y.zero_()
        for x, y, weight, _ in self.views:
            y.baddbmm_(x, weight, beta=self.beta)

    def backward(self) -> None:
        """From the gradient in `y` to that in `x`."""
        self.dweight.zero_()
        for x, y, _, dweight in self.views:
            dweight.baddbmm_(x.mT, y)
        self.x.zero_()
        for x, y, weight, _ in self.views:
            x.baddbmm_(y, weight.mT)


class Conv(Layer):
    """The taps of a kernel row and its channels lie together: the weight is (G, T, K, O)."""

    def __init__(self, modules: Sequence[nn.Module], rows: Axis, columns: Axis) -> None:
        super().__init__(modules)
        self.rows, self.columns = rows, columns
        self.weight_GTKO = self.train("weight", self.stack("weight").permute(0, 3, 4, 2, 1).flatten(2, 3))
        self.plans: dict[int, Products] = {}

    def own_layout(self, name: str) -> Tensor:
        weight: Tensor = self.weight_GTKO.unflatten(2, (self.columns.taps, -1))
        return weight.permute(0, 4, 3, 1, 2)

    def planned(self, x: Tensor) -> Products:
        """For this size of batch; an epoch has at most two."""
        self.shape = x.shape
        if x.shape[2] not in self.plans:
            self.plans[x.shape[2]] = self.plan(x)
        return self.plans[x.shape[2]]

    @abstractmethod
    def plan(self, x: Tensor) -> Products: ...

    def views(self, x: Tensor, y: Tensor, weight: Tensor, dweight: Tensor) -> Iterator[Views]:
        """A product per output column: x (B, rows, W * C), y (B, rows, W, O), weight and dweight (B, K, O)."""
        for column, inputs, taps in self.columns.windows():
            window, part = (slice(s.start * self.shape[4], s.stop * self.shape[4]) for s in (inputs, taps))
            yield x[..., window], y[:, :, column], weight[:, part], dweight[:, part]


class DirectConv(Conv):
    """Rows are split by their offset in the stride, so that those one tap reads lie together."""

    def plan(self, x: Tensor) -> Products:
        members, _, examples, columns, channels = x.shape
        split = x.new_empty(members, self.rows.stride, self.rows.blocks, examples, columns * channels)
        weight, dweight = self.weight_GTKO, gradient(self.weight_GTKO)
        y = x.new_empty(members, self.rows.outputs, examples, self.columns.outputs, weight.shape[3])
        views: list[Views] = []
        for tap, offset, read, to in self.rows.reads():
            count = (read.stop - read.start) * examples
            rows, into = (
                split[:, offset, read].view(members, count, -1),
                y[:, to].view(members, count, *y.shape[3:]),
            )
            views += self.views(rows, into, weight[:, tap], dweight[:, tap])
        return Products(split, y, weight, dweight, views, beta=1)

    def forward(self, x: Tensor) -> Tensor:
        plan, stride = self.planned(x), self.rows.stride
        for offset in range(stride):
            rows = x[:, offset::stride].flatten(3)
            plan.x[:, offset, : rows.shape[1]] = rows
            plan.x[:, offset, rows.shape[1] :] = 0
        plan.forward()
        return plan.y

    def backward(self, d: Tensor) -> Tensor:
        plan, stride = self.plans[self.shape[2]], self.rows.stride
        if d.data_ptr() != plan.y.data_ptr():
            plan.y.copy_(d)
        plan.backward()
        dx = d.new_empty(self.shape)
        for offset in range(stride):
            rows = dx[:, offset::stride].flatten(3)
            rows.copy_(plan.x[:, offset, : rows.shape[1]])
        return dx


class TransformedConv(Conv):
    """Rows by F(4, 3): y = A (G weight * B x), a product per point. For stride 1, three kernel rows and padding 1."""

    def __init__(self, modules: Sequence[nn.Module], rows: Axis, columns: Axis) -> None:
        super().__init__(modules, rows, columns)
        self.a, self.b, self.g = (matrix.to(self.weight_GTKO) for matrix in transform(rows.size))

    def plan(self, x: Tensor) -> Products:
        members, _, examples, columns, channels = x.shape
        batch, taps, outputs = members * len(self.b), self.columns.taps * channels, self.weight_GTKO.shape[3]
        u, du = (x.new_empty(batch, taps, outputs) for _ in range(2))
        v = x.new_empty(batch, examples, columns * channels)
        m = x.new_empty(batch, examples, self.columns.outputs, outputs)
        return Products(v, m, u, du, list(self.views(v, m, u, du)), beta=0)

    def forward(self, x: Tensor) -> Tensor:
        plan = self.planned(x)
        self._along(self.b, x, plan.x)
        self._along(self.g, self.weight_GTKO, plan.weight)
        plan.forward()
        return self._along(self.a, plan.y, x.new_empty(len(x), self.rows.outputs, *plan.y.shape[1:]))

    def backward(self, d: Tensor) -> Tensor:
        plan = self.plans[self.shape[2]]
        self._along(self.a.T, d, plan.y)
        plan.backward()
        self._along(self.g.T, plan.dweight, gradient(self.weight_GTKO))
        return self._along(self.b.T, plan.x, d.new_empty(self.shape))

    def _along(self, matrix: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """Rows of `x` mixed into those of `y`."""
        members = len(self.modules)
        torch.matmul(matrix, x.view(members, matrix.shape[1], -1), out=y.view(members, matrix.shape[0], -1))
        return y


def transform(size: int) -> tuple[Tensor, Tensor, Tensor]:
    """A (size, R), B (R, size) and G (R, 3), in float64: `size` outputs in tiles of four, the last one smaller, borders cut."""
    tiles = [TILE] * (size // TILE) + [size % TILE] * (size % TILE > 0)
    points = sum(tile + 2 for tile in tiles)
    a, b, g = (
        torch.zeros(shape, dtype=torch.float64) for shape in ((size, points), (points, size + 2), (points, 3))
    )
    row = point = 0
    for tile in tiles:
        rows, these = slice(row, row + tile), slice(point, point + tile + 2)
        a[rows, these], b[these, row : row + tile + 2], g[these] = _tile(tile)
        row, point = row + tile, point + tile + 2
    return a, b[:, 1:-1], g


def _tile(outputs: int) -> tuple[Tensor, Tensor, Tensor]:
    """Toom-Cook at POINTS and infinity, transposed: a product of polynomials becomes a correlation."""
    count = outputs + 2

    def evaluate(terms: int) -> Tensor:
        powers = torch.tensor(POINTS[: count - 1], dtype=torch.float64)[:, None] ** torch.arange(terms)
        infinity = torch.eye(terms, dtype=torch.float64)[-1:]
        return torch.cat((powers, infinity))

    return evaluate(outputs).T, torch.linalg.inv(evaluate(count)).T, evaluate(3)
