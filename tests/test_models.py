"""Every architecture in conf/model, on every shape of input: built by seed, normalising by itself, ready to be marked."""

import copy
import pickle
import random
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from pydantic import TypeAdapter, ValidationError
from safetensors.torch import load, save
from torch import nn

import assay.conf
from assay.core.errors import NotApplicable
from assay.core.suspects import logits
from assay.zoo.models import Architecture, CnnSmall, Mlp, Normalise, Resnet18, VitTiny, head


def architecture(path: Path) -> Architecture:
    fields = yaml.safe_load(path.read_text())
    module, _, name = fields.pop("_target_").rpartition(".")
    kind = getattr(import_module(module), name)
    built = TypeAdapter(kind).validate_python(fields)
    assert isinstance(built, Architecture)
    return built


FOLDER = Path(str(assay.conf.__file__)).parent / "model"
YAMLS = [path for path in sorted(FOLDER.glob("*.yaml")) if architecture(path).takes == "pictures"]


def cases(*shapes: tuple[int, ...]) -> list[Any]:
    """Every yaml with every shape. The ResNet's 11 M parameters are slow."""
    return [
        pytest.param(
            path,
            shape,
            id=f"{path.stem}-{'x'.join(map(str, shape))}",
            marks=[pytest.mark.slow] if path.stem.startswith("resnet") else [],
        )
        for path in YAMLS
        for shape in shapes
    ]


EVERY = cases((1, 8, 8), (1, 28, 28), (3, 32, 32))
ONCE = cases((1, 8, 8))


def inputs(count: int, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(0))


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("classes", [10, 100])
@pytest.mark.parametrize(("path", "shape"), EVERY)
def test_it_builds_for_every_task_and_returns_logits(
    path: Path, shape: tuple[int, ...], classes: int
) -> None:
    model = architecture(path).build(shape, classes, seed=0)
    for count in (1, 2):
        found = logits(model, inputs(count, shape))
        assert found.shape == (count, classes)
        assert found.isfinite().all()
    assert logits(model, inputs(2, shape)).std() > 0
    last = model.get_submodule(head(model))
    assert isinstance(last, nn.Linear)
    assert last.out_features == classes


@pytest.mark.parametrize(("path", "shape"), EVERY)
def test_its_layer_has_a_weight_with_outputs_on_axis_0(path: Path, shape: tuple[int, ...]) -> None:
    built = architecture(path)
    model = built.build(shape, 10, seed=0)
    layer = model.get_submodule(built.layer)
    weight = layer.weight
    assert isinstance(weight, nn.Parameter)
    assert weight.ndim >= 2
    assert weight.shape[0] == (layer.out_channels if isinstance(layer, nn.Conv2d) else layer.out_features)
    assert built.layer != head(model), "marks are not put into the classifier, which an attack replaces first"


@pytest.mark.parametrize(("path", "shape"), ONCE)
def test_the_seed_alone_decides_the_weights(path: Path, shape: tuple[int, ...]) -> None:
    built = architecture(path)
    before = torch.get_rng_state(), pickle.dumps(np.random.get_state()), random.getstate()  # noqa: NPY002
    one, again, other = (built.build(shape, 10, seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == pickle.dumps(np.random.get_state())  # noqa: NPY002
    assert before[2] == random.getstate()
    assert all(torch.equal(tensor, again[name]) for name, tensor in one.items())
    drawn = [name for name, tensor in one.items() if tensor.ndim >= 2 and tensor.std() > 0]
    assert drawn
    assert all(not torch.equal(one[name], other[name]) for name in drawn)


@pytest.mark.parametrize(("path", "shape"), ONCE)
def test_normalisation_is_inside_and_first(path: Path, shape: tuple[int, ...]) -> None:
    model = architecture(path).build(shape, 10, 0, mean=0.3, std=0.4)
    first = next(iter(model.children()))
    assert isinstance(first, Normalise)
    assert (float(first.mean), float(first.std)) == pytest.approx((0.3, 0.4))
    assert torch.allclose(first(inputs(2, shape)), (inputs(2, shape) - 0.3) / 0.4)
    others = [name for name, module in model.named_modules() if isinstance(module, Normalise)]
    assert others == ["normalise"]


@pytest.mark.parametrize(("path", "shape"), ONCE)
def test_a_bfloat16_copy_takes_float_inputs(path: Path, shape: tuple[int, ...]) -> None:
    model = architecture(path).build(shape, 10, 0).eval()
    exact = logits(model, inputs(8, shape))
    found = logits(model.to(torch.bfloat16), inputs(8, shape))
    assert found.dtype == torch.float32
    assert (found - exact).abs().max() < 0.1 * exact.abs().max() + 0.05


@pytest.mark.parametrize(("path", "shape"), ONCE)
def test_no_two_tensors_share_memory(path: Path, shape: tuple[int, ...]) -> None:
    model = architecture(path).build(shape, 10, 0)
    state = model.state_dict()
    assert len({tensor.untyped_storage().data_ptr() for tensor in state.values()}) == len(state)
    assert all(tensor.is_contiguous() for tensor in state.values())
    kept = load(save(state))  # safetensors refuses shared memory
    assert all(torch.equal(tensor, kept[name]) for name, tensor in state.items())


@pytest.mark.parametrize(("path", "shape"), ONCE)
def test_every_parameter_is_reached_by_the_gradient(path: Path, shape: tuple[int, ...]) -> None:
    model = architecture(path).build(shape, 10, 0).train()
    nn.functional.cross_entropy(model(inputs(8, shape)), torch.arange(8)).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28)])
def test_cnn_small_is_small(shape: tuple[int, ...]) -> None:
    assert 40_000 <= parameters(CnnSmall().build(shape, 10, 0)) <= 100_000


@pytest.mark.slow
@pytest.mark.parametrize(("shape", "count"), [((3, 32, 32), 11_173_962), ((1, 8, 8), 11_172_810)])
def test_resnet18_is_the_one_of_the_cifar_papers(shape: tuple[int, ...], count: int) -> None:
    path = next(path for path in YAMLS if path.stem == "resnet18")
    assert parameters(architecture(path).build(shape, 10, 0)) == count


def test_a_map_of_one_pixel_meets_the_kernel_s_centre_alone() -> None:
    model = Resnet18().build((1, 8, 8), 10, 0).double()
    plain = copy.deepcopy(model)
    for block, name in ((0, "conv2"), (1, "conv1"), (1, "conv2")):
        conv = nn.Conv2d(512, 512, 3, padding=1, bias=False, dtype=torch.float64)
        conv.weight.data.copy_(model.get_parameter(f"net.layer4.{block}.{name}.weight"))
        setattr(plain.get_submodule(f"net.layer4.{block}"), name, conv)
    x = inputs(8, (1, 8, 8)).double()
    for one in (model, plain):
        nn.functional.cross_entropy(one(x), torch.arange(8)).backward()
    for (name, ours), (_, theirs) in zip(model.named_parameters(), plain.named_parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-9, atol=1e-12, msg=name)


def test_a_vit_knows_its_classes() -> None:
    config = VitTiny().build((3, 32, 32), 100, 0).get_submodule("net.model").config
    assert (config.num_labels, config.image_size, config.num_channels) == (100, 32, 3)  # type: ignore[union-attr]


def test_a_vit_that_cannot_be_built_says_why() -> None:
    with pytest.raises(ValidationError, match="the 4 heads divide, got 66"):
        TypeAdapter(VitTiny).validate_python({"width": 66})
    with pytest.raises(NotApplicable, match="patch 3"):
        VitTiny(patch=3).build((1, 8, 8), 10, 0)
    with pytest.raises(NotApplicable, match="square"):
        VitTiny().build((1, 8, 16), 10, 0)


@pytest.mark.parametrize("depth", [1, 3])
def test_the_depth_of_an_mlp_and_a_vit_is_a_field(depth: int) -> None:
    mlp = replace(Mlp(), depth=depth).build((1, 8, 8), 10, 0)
    vit = replace(VitTiny(), depth=depth).build((1, 8, 8), 10, 0)
    assert f"net.hidden{depth}.linear.weight" in mlp.state_dict()
    assert f"net.model.vit.layers.{depth - 1}.mlp.fc2.weight" in vit.state_dict()


def test_head_is_the_last_linear_layer_or_not_applicable() -> None:
    assert head(CnnSmall().build((1, 8, 8), 10, 0)) == "net.head"
    assert head(VitTiny().build((1, 8, 8), 10, 0)) == "net.model.classifier"
    with pytest.raises(NotApplicable, match="no linear layer"):
        head(nn.Sequential(nn.Conv2d(1, 10, 8), nn.Flatten()))


def test_a_misspelt_field_is_refused() -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(CnnSmall).validate_python({"widht": 8})
