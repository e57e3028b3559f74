"""A member of a fleet is the model trained alone: equal in float64 but for the order of sums, close in float32."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from assay.core.contracts import Recipe, Task
from assay.core.errors import ConfigError, NotApplicable
from assay.core.examples import Examples
from assay.core.suspects import logits
from assay.zoo.fleet import cross_entropy, stacked, train_fleet
from assay.zoo.models import Architecture, CnnSmall, Mlp
from assay.zoo.stacked_conv import Axis, Conv, DirectConv, FirstConv, TransformedConv, transform
from assay.zoo.tasks import Digits
from assay.zoo.training import Hardware, Trainer

QUIET = Hardware(progress=False)
SHORT = Recipe(epochs=3, batch_size=16)
CNN, MLP = CnnSmall(width=4), Mlp(width=16)


def task(
    seed: int,
    architecture: Architecture = CNN,
    recipe: Recipe = SHORT,
    count: int = 39,
    shape: tuple[int, int, int] = (1, 8, 8),
    dtype: torch.dtype = torch.float64,
    soft: bool = False,
) -> Task:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(10, (count,), generator=generator)
    scores = torch.rand(count, 10, generator=generator).softmax(1).to(dtype)
    data = Examples(torch.rand(count, *shape, generator=generator), scores if soft else labels)

    def fresh(_: int | None) -> nn.Module:
        return architecture.build(shape, 10, seed).to(dtype)

    return Task("random", 10, data, data, data, recipe, fresh)


def alone(own: Task, seed: int) -> nn.Module:
    return Trainer(QUIET, own.recipe, seed)(own.fresh(None), own.owner)


def far(one: nn.Module, other: nn.Module) -> dict[str, float]:
    """By tensor: the norm of the difference by the norm."""
    theirs = other.state_dict()
    pairs = {name: (tensor.double(), theirs[name].double()) for name, tensor in one.state_dict().items()}
    return {name: float((a - b).norm() / b.norm().clamp_min(1e-30)) for name, (a, b) in pairs.items()}


SETTINGS: dict[str, dict[str, Any]] = {
    "cnn": {},
    "mlp": {"architecture": MLP},
    "large images": {"shape": (3, 20, 20), "recipe": replace(SHORT, epochs=2)},
    "adam": {"recipe": replace(SHORT, optimizer="adam", lr=1e-3)},
    "schedule step": {"recipe": replace(SHORT, schedule="step", step_epochs=1)},
    "schedule constant, no momentum": {"recipe": replace(SHORT, schedule="constant", momentum=0.0)},
    "scores": {"soft": True, "architecture": MLP},
    "a last batch of one": {"count": 33},
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_a_member_is_the_model_trained_alone(settings: dict[str, Any]) -> None:
    """In float64, where no rounding hides a difference of algorithm: 1e-9 is a million of its roundings."""
    tasks, seeds = [task(seed, **settings) for seed in range(3)], [5, 6, 7]
    members = list(train_fleet(tasks, seeds, QUIET, group=2))
    assert len(members) == 3
    for own, seed, member in zip(tasks, seeds, members, strict=True):
        reference = alone(own, seed)
        assert list(member.state_dict()) == list(reference.state_dict())
        assert max(far(member, reference).values()) < 1e-9
        assert far(member, own.fresh(None))["net.head.weight"] > 1e-3, "it was trained at all"


@pytest.mark.slow
def test_in_float32_a_member_is_close_and_its_labels_are_alike() -> None:
    """Rounding is amplified wherever the input of a ReLU changes its sign, so closeness is asked where it means the fleet:
    to the training alone in float64 within 1e-3 (6e-5 and 6e-7 were seen), and to that in float32 within 1e-4 for the
    seed (1) where the latter itself stays that close to float64; with seed 0 it does not (0.1, and 3 labels of 359)."""
    recipe = replace(Digits().recipe, epochs=2)
    tasks = [Digits(recipe=recipe).load(CnnSmall(width=16), seed) for seed in range(2)]
    members = list(train_fleet(tasks, range(2), QUIET))
    exact = [
        Trainer(QUIET, recipe, seed)(tasks[seed].fresh(None).double(), tasks[seed].owner) for seed in range(2)
    ]
    pairs = [
        (members[0], exact[0], 1e-3),
        (members[1], exact[1], 1e-3),
        (members[1], alone(tasks[1], 1), 1e-4),
    ]
    for (member, reference, tolerance), own in zip(pairs, (tasks[0], tasks[1], tasks[1]), strict=True):
        assert max(far(member, reference).values()) < tolerance
        labels = [logits(model, own.test.inputs).argmax(-1) for model in (member, reference)]
        assert torch.equal(*labels)


def test_the_result_is_a_plain_model_in_eval_mode_without_gradients() -> None:
    (member,) = train_fleet([task(0, dtype=torch.float32)], [1], QUIET)
    assert type(member) is nn.Sequential
    assert not any(module.training for module in member.modules())
    assert all(tensor.is_contiguous() for tensor in member.state_dict().values())
    assert all(p.grad is None and p.requires_grad and p.dtype == torch.float32 for p in member.parameters())
    assert int(member.get_buffer("net.block1.norm.num_batches_tracked")) == 3 * 3


def test_members_do_not_depend_on_their_group() -> None:
    tasks = [task(seed) for seed in range(3)]
    for one, other in zip(
        train_fleet(tasks, range(3), QUIET, group=1),
        train_fleet(tasks, range(3), QUIET, group=3),
        strict=True,
    ):
        assert max(far(one, other).values()) < 1e-9


def test_tasks_are_taken_when_their_group_is_trained_and_the_random_state_is_left_alone() -> None:
    taken: list[int] = []

    def tasks() -> Iterator[Task]:
        for seed in range(4):
            taken.append(seed)
            yield task(seed, MLP)

    before = torch.get_rng_state()
    fleet = train_fleet(tasks(), range(4), QUIET, group=2)
    assert taken == []
    next(fleet)
    assert taken == [0, 1]
    assert len(list(fleet)) == 3
    assert torch.equal(torch.get_rng_state(), before)


def test_a_task_too_few_is_an_error() -> None:
    with pytest.raises(ValueError, match="expected a task per seed, got 1 for 2 seeds"):
        list(train_fleet([task(0, MLP)], [0, 1], QUIET))


@pytest.mark.parametrize(
    ("other", "what"),
    [
        (task(1, count=40), "number of examples"),
        (task(1, recipe=replace(SHORT, lr=0.1)), "recipe"),
        (task(1, shape=(1, 10, 10)), "shape of the inputs"),
        (task(1, CnnSmall(width=8)), "architecture"),
    ],
    ids=["size", "recipe", "shape", "architecture"],
)
def test_members_that_do_not_belong_together_are_refused(other: Task, what: str) -> None:
    with pytest.raises(ConfigError, match=f"expected the same {what} in all members of a group, got "):
        next(train_fleet([task(0), other], [0, 1], QUIET))


def network(*layers: nn.Module) -> Callable[[int | None], nn.Module]:
    return lambda _: nn.Sequential(nn.Flatten(), nn.Linear(64, 8), *layers, nn.Linear(8, 10)).double()


class Own(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


def frozen(_: int | None) -> nn.Module:
    model = CNN.build((1, 8, 8), 10, 0)
    model.get_parameter("net.head.bias").requires_grad_(False)
    return model


@pytest.mark.parametrize(
    "fresh",
    [
        network(nn.Dropout(0.5)),
        network(nn.GELU()),
        network(Own()),
        network(nn.BatchNorm1d(8, affine=False)),
        network(nn.BatchNorm1d(8, momentum=None)),
        network(nn.BatchNorm1d(8, track_running_stats=False)),
        lambda _: nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 10)),
        lambda _: nn.Sequential(nn.Conv2d(1, 10, 3, dilation=2)),
        lambda _: nn.Sequential(nn.Conv2d(1, 10, 3)),
        lambda _: nn.Linear(8, 10),
        lambda _: CNN.build((1, 8, 8), 10, 0).bfloat16(),
        frozen,
    ],
)
def test_what_cannot_be_stacked_is_left_to_the_trainer(fresh: Callable[[int | None], nn.Module]) -> None:
    with pytest.raises(NotApplicable, match="a fleet "):
        next(train_fleet([replace(task(0), fresh=fresh)], [0], QUIET))


def test_members_of_other_sizes_are_left_to_the_trainer_too_where_nothing_stacks() -> None:
    fresh = network(nn.GELU())
    with pytest.raises(NotApplicable, match="a fleet "):
        next(train_fleet([replace(task(i, count=39 + i), fresh=fresh) for i in range(2)], [0, 1], QUIET))


def test_other_precisions_are_left_to_the_trainer() -> None:
    with pytest.raises(NotApplicable, match="in float32, not in bf16-mixed"):
        next(train_fleet([task(0)], [0], Hardware(precision="bf16-mixed", progress=False)))


def test_a_member_that_diverges_is_named_with_the_step_and_the_remedy() -> None:
    bad = task(1)
    bad.owner.inputs[:] = float("inf")
    message = (
        r"the loss of the member with seed 9 is NaN or infinite at step 1: .* lower the learning rate, 0\.05"
    )
    with pytest.raises(FloatingPointError, match=message):
        next(train_fleet([task(0), bad], [8, 9], QUIET))


def test_weights_that_diverge_in_the_last_step_are_found() -> None:
    recipe = Recipe(epochs=1, batch_size=64, lr=1e308)  # infinite in float32
    with pytest.raises(
        FloatingPointError, match=r"conv.weight of the member with seed 8 is NaN or infinite at step 1"
    ):
        next(train_fleet([task(0, recipe=recipe, dtype=torch.float32)], [8], QUIET))


def test_nothing_is_printed_where_there_is_no_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    list(train_fleet([task(0, MLP)], [0], Hardware()))
    assert capfd.readouterr() == ("", "")


CONVOLUTIONS = [
    (FirstConv, (8, 8), 3, 1, 1),
    (FirstConv, (9, 12), 5, 2, 2),
    (DirectConv, (8, 8), 3, 2, 1),
    (DirectConv, (7, 9), 3, 2, 1),
    (DirectConv, (6, 5), 5, 3, 2),
    (DirectConv, (4, 4), 1, 1, 0),
    (DirectConv, (5, 4), (3, 2), (1, 2), (0, 1)),
    (DirectConv, (5, 5), 2, 3, 0),
    (TransformedConv, (4, 4), 3, 1, 1),
    (TransformedConv, (7, 6), 3, 1, 1),
    (TransformedConv, (9, 5), (3, 5), 1, (1, 2)),
]


@pytest.mark.parametrize(("kind", "size", "kernel", "stride", "padding"), CONVOLUTIONS)
def test_convolutions_and_their_gradients_are_exact(
    kind: type[FirstConv | Conv], size: tuple[int, int], kernel: Any, stride: Any, padding: Any
) -> None:
    torch.manual_seed(0)
    modules = [nn.Conv2d(3, 4, kernel, stride, padding, bias=False).double() for _ in range(2)]
    one = modules[0]
    axes = [Axis(size[i], one.kernel_size[i], one.stride[i], int(one.padding[i])) for i in range(2)]
    layer = kind(modules, axes[0], axes[1])
    for count in (5, 3, 5):  # plans are kept by size of batch
        images = torch.randn(2, count, 3, *size, dtype=torch.float64, requires_grad=True)
        expected = torch.stack([module(x) for module, x in zip(modules, images, strict=True)])
        d = torch.randn_like(expected)
        weights = [module.weight for module in modules]
        dx, *dweights = torch.autograd.grad(expected, [images, *weights], d)
        with torch.no_grad():
            y = layer.forward(images.permute(0, 3, 1, 4, 2).contiguous())
            torch.testing.assert_close(y.permute(0, 2, 4, 1, 3), expected, rtol=1e-11, atol=1e-11)
            back = layer.backward(d.permute(0, 3, 1, 4, 2).contiguous())
        if kind is not FirstConv:
            torch.testing.assert_close(back.permute(0, 2, 4, 1, 3), dx, rtol=1e-11, atol=1e-11)
        for weight in layer.weights.values():
            assert weight.grad is not None
            weight.data = weight.grad
        torch.testing.assert_close(layer.own_layout("weight"), torch.stack(dweights), rtol=1e-11, atol=1e-11)
        layer = kind(modules, axes[0], axes[1])


@pytest.mark.parametrize("size", range(1, 11))
def test_the_transform_is_a_correlation_cut_at_the_border(size: int) -> None:
    generator = torch.Generator().manual_seed(size)
    x, taps = (torch.randn(n, dtype=torch.float64, generator=generator) for n in (size, 3))
    a, b, g = transform(size)
    expected = nn.functional.conv1d(x[None, None], taps[None, None], padding=1)[0, 0]
    torch.testing.assert_close(a @ ((g @ taps) * (b @ x)), expected, rtol=1e-12, atol=1e-12)
    assert len(b) < 3 * size or size == 1


def test_the_first_layer_with_weights_ends_the_backward_pass() -> None:
    for architecture in (CNN, MLP):
        layers = stacked([architecture.build((1, 8, 8), 10, 0)], (1, 8, 8))
        assert [name for name, layer in layers.items() if layer.first] == [
            next(name for name, layer in layers.items() if layer.weights)
        ]


def test_the_loss_is_each_members_mean() -> None:
    logits_GNC = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([[0, 1, 2, 0, 1], [2, 2, 2, 1, 0]])
    losses, d = cross_entropy(logits_GNC, targets)
    for member in range(2):
        own = logits_GNC[member].clone().requires_grad_()
        loss = nn.functional.cross_entropy(own, targets[member])
        assert losses[member].item() == pytest.approx(loss.item(), rel=1e-6)
        torch.testing.assert_close(d[member], torch.autograd.grad(loss, own)[0])
