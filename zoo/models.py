"""Architectures. A specification (conf/model/*.yaml) builds a fresh network for any task by seed.

Every network takes inputs in [0, 1] and normalises them itself: one normalisation everywhere, for data,
triggers and queries. `layer` names where weight marks go unless the scheme says otherwise; its weight has its
outputs on axis 0.
"""

from abc import ABC, abstractmethod
from collections import OrderedDict
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor, nn

from ..core.contracts import Configured
from ..core.errors import NotApplicable

Shape = tuple[int, ...]


def head(model: nn.Module) -> str:
    """The name of the last linear layer: the classifier."""
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not names:
        raise NotApplicable("the network has no linear layer, so no last layer to treat apart")
    return str(names[-1])


class Normalise(nn.Module):
    """(x - mean) / std, whole-data constants; casts to its own dtype, so a bf16 model takes float inputs."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: float, std: float) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("std", torch.tensor(std))

    def forward(self, x: Tensor) -> Tensor:
        return (x.to(self.mean.dtype) - self.mean) / self.std


@dataclass(frozen=True)
class Architecture(Configured, ABC):
    layer: str
    takes: ClassVar[Literal["pictures", "bytes", "ids"]] = "pictures"
    """The inputs it is made for."""
    learns_by: ClassVar[dict[str, Any]] = {}
    """Fields of a recipe that a student of this architecture takes in place of the task's, which may not train it."""

    @abstractmethod
    def network(self, shape: Shape, classes: int) -> nn.Module: ...

    def build(self, shape: Shape, classes: int, seed: int, mean: float = 0.5, std: float = 0.25) -> nn.Module:
        """A fresh network, the same for the same seed; the global random state is left as it was."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = self.network(shape, classes)
        return nn.Sequential(OrderedDict(normalise=Normalise(mean, std), net=network))


def _conv(inputs: int, outputs: int, stride: int = 1, size: int = 3) -> list[tuple[str, nn.Module]]:
    conv = nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)
    return [("conv", conv), ("norm", nn.BatchNorm2d(outputs)), ("act", nn.ReLU())]


@dataclass(frozen=True)
class CnnSmall(Architecture):
    """Three convolutions with batch norm, then a linear head on the flattened map: 66 k parameters on digits,
    88 k on 28x28. Strides instead of pooling: max-pooling 28x28x32 costs a CPU more than the convolution."""

    layer: str = "net.block3.conv"
    width: Annotated[int, Ge(1)] = 32

    def network(self, shape: Shape, classes: int) -> nn.Module:
        channels, size = shape[0], shape[1]
        if shape[1] != shape[2]:
            raise NotApplicable(f"cnn_small needs square images, not {shape}; set model=mlp")
        first = _conv(channels, self.width) if size < 16 else _conv(channels, self.width, stride=2, size=5)
        blocks = [first, _conv(self.width, 2 * self.width, stride=2), _conv(2 * self.width, 2 * self.width)]
        layers = [(f"block{i}", nn.Sequential(OrderedDict(block))) for i, block in enumerate(blocks, 1)]
        side = -(-size // 2) if size < 16 else -(-size // 4)
        head = nn.Linear(2 * self.width * side * side, classes)
        return nn.Sequential(OrderedDict([*layers, ("flatten", nn.Flatten()), ("head", head)]))


@dataclass(frozen=True)
class Mlp(Architecture):
    """Fully connected, ReLU, batch norm."""

    layer: str = "net.hidden2.linear"
    width: Annotated[int, Ge(1)] = 256
    depth: Annotated[int, Ge(1)] = 2

    def network(self, shape: Shape, classes: int) -> nn.Module:
        sizes = [int(torch.Size(shape).numel()), *[self.width] * self.depth]
        layers: list[tuple[str, nn.Module]] = [("flatten", nn.Flatten())]
        for i in range(self.depth):
            linear = nn.Linear(sizes[i], sizes[i + 1], bias=False)
            block: list[tuple[str, nn.Module]] = [
                ("linear", linear),
                ("norm", nn.BatchNorm1d(sizes[i + 1])),
                ("act", nn.ReLU()),
            ]
            layers.append((f"hidden{i + 1}", nn.Sequential(OrderedDict(block))))
        return nn.Sequential(OrderedDict([*layers, ("head", nn.Linear(self.width, classes))]))


class _Centred(nn.Conv2d):
    """A 3x3 convolution with padding 1 that knows that a map of one pixel meets the kernel's centre alone: a product,
    where oneDNN takes half of a ResNet's training on 8x8 pictures for its weights' gradient."""

    @classmethod
    def of(cls, conv: nn.Conv2d) -> "_Centred":
        centred = cls(conv.in_channels, conv.out_channels, 3, padding=1, bias=False, device="meta")
        centred.weight = conv.weight
        return centred

    def forward(self, input: Tensor) -> Tensor:
        if input.shape[-2:] != (1, 1):
            return super().forward(input)
        return nn.functional.linear(input.flatten(-3), self.weight[:, :, 1, 1], self.bias)[..., None, None]


@dataclass(frozen=True)
class Resnet18(Architecture):
    """torchvision's blocks under the CIFAR stem (3x3, stride 1, no max-pool; He et al. 2016, section 4.2)."""

    layer: str = "net.layer3.1.conv2"

    def network(self, shape: Shape, classes: int) -> nn.Module:
        from torchvision.models import resnet18  # torchvision costs seconds to import

        network: nn.Module = resnet18(num_classes=classes)
        network.conv1 = nn.Conv2d(shape[0], 64, 3, padding=1, bias=False)
        network.register_module("maxpool", nn.Identity())
        for block, name in ((0, "conv2"), (1, "conv1"), (1, "conv2")):
            parent = network.get_submodule(f"layer4.{block}")
            setattr(parent, name, _Centred.of(getattr(parent, name)))
        return network


class _Logits(nn.Module):
    """A transformers classifier that returns plain logits."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(pixel_values=x).logits
        return logits


@dataclass(frozen=True)
class VitTiny(Architecture):
    """ViTForImageClassification from a configuration, no download."""

    learns_by = {"optimizer": "adam", "lr": 1e-3, "weight_decay": 0.0}  # noqa: RUF012 - a class variable, as declared above

    layer: str = "net.model.vit.layers.3.mlp.fc2"
    patch: Annotated[int, Ge(1)] = 2
    width: Annotated[int, Ge(8)] = 64
    depth: Annotated[int, Ge(1)] = 4
    heads: Annotated[int, Ge(1)] = 4
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.0
    init: Annotated[float, Gt(0)] = 0.02

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"expected a width that the {self.heads} heads divide, got {self.width}")

    def network(self, shape: Shape, classes: int) -> nn.Module:
        from transformers import ViTConfig, ViTForImageClassification

        if len(shape) != 3 or shape[1] != shape[2] or shape[1] % self.patch:
            raise NotApplicable(f"a ViT of patch {self.patch} needs square images it divides, not {shape}")
        settings: dict[str, Any] = {  # num_labels is a keyword of the base class, unknown to type checkers
            "image_size": shape[1],
            "patch_size": self.patch,
            "num_channels": shape[0],
            "hidden_size": self.width,
            "intermediate_size": 4 * self.width,
            "num_hidden_layers": self.depth,
            "num_attention_heads": self.heads,
            "hidden_dropout_prob": self.dropout,
            "attention_probs_dropout_prob": self.dropout,
            "initializer_range": self.init,
            "num_labels": classes,
        }
        return _Logits(ViTForImageClassification(ViTConfig(**settings)))
