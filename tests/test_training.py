"""The one training everything shares: inputs untouched, bit-equal by seed, and each hook does what the contract says."""

import math
import random
import signal
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from assay.core.contracts import Recipe
from assay.core.errors import ConfigError
from assay.core.examples import Examples
from assay.core.suspects import logits
from assay.experiments.trial import validated
from assay.zoo.models import CnnSmall, Mlp, VitTiny
from assay.zoo.progress import EpochBar
from assay.zoo.tasks import Digits
from assay.zoo.training import Hardware, Trainer, freeze_all_but

SHORT = Recipe(epochs=2, batch_size=16)
QUIET = Hardware(progress=False)


def network(seed: int = 0) -> nn.Module:
    return CnnSmall(width=4).build((1, 8, 8), 10, seed).eval()


def examples(count: int = 40, seed: int = 0) -> Examples:
    generator = torch.Generator().manual_seed(seed)
    return Examples(
        torch.rand(count, 1, 8, 8, generator=generator), torch.randint(10, (count,), generator=generator)
    )


def trainer(recipe: Recipe = SHORT, seed: int = 0, hardware: Hardware = QUIET) -> Trainer:
    return Trainer(hardware, recipe, seed)


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def changed(before: nn.Module | dict[str, Tensor], after: nn.Module) -> set[str]:
    old = state(before) if isinstance(before, nn.Module) else before
    return {name for name, tensor in after.state_dict().items() if not torch.equal(tensor, old[name])}


def test_the_input_is_untouched_and_the_result_is_a_new_model_in_eval_mode() -> None:
    model = network()
    model.get_parameter("net.head.bias").requires_grad_(False)
    before, modes = state(model), [module.training for module in model.modules()]
    strides = [parameter.stride() for parameter in model.parameters()]
    trained = trainer()(model, examples())
    assert not changed(before, model)
    assert [module.training for module in model.modules()] == modes
    assert [parameter.stride() for parameter in model.parameters()] == strides
    assert [n for n, p in model.named_parameters() if not p.requires_grad] == ["net.head.bias"]
    assert all(parameter.grad is None for parameter in model.parameters())
    assert changed(model, trained)
    assert not any(module.training for module in trained.modules())
    assert not {p.data_ptr() for p in model.parameters()} & {p.data_ptr() for p in trained.parameters()}


def test_the_result_is_plain_contiguous_and_carries_no_gradients() -> None:
    trained = trainer()(network(), examples(), only=["net.head"])
    assert all(tensor.is_contiguous() for tensor in trained.state_dict().values())
    assert all(p.grad is None and p.requires_grad and p.device.type == "cpu" for p in trained.parameters())
    assert type(trained) is nn.Sequential
    assert list(trained.state_dict()) == list(network().state_dict())


def test_channels_last_is_for_the_training_only() -> None:
    seen: list[bool] = []

    def look(_: int, live: nn.Module) -> None:
        seen.append(
            live.get_parameter("net.block2.conv.weight").is_contiguous(memory_format=torch.channels_last)
        )

    trained = trainer()(network(), examples(), each_epoch=look)
    assert seen == [True, True]
    weight = trained.get_parameter("net.block2.conv.weight")
    assert not weight.is_contiguous(memory_format=torch.channels_last)


def test_the_same_seed_gives_the_same_bits_and_another_seed_others() -> None:
    one, again, other = (trainer(seed=seed)(network(), examples()) for seed in (1, 1, 2))
    assert not changed(one, again)
    assert changed(one, other)


def test_two_fits_of_one_trainer_differ_and_are_counted() -> None:
    fit = trainer()
    one, two = fit(network(), examples()), fit(network(), examples())
    assert changed(one, two)
    assert (fit.fits, fit.steps) == (2, 2 * 2 * 3)


def test_the_global_random_state_neither_matters_nor_changes() -> None:
    dropout = replace(VitTiny(), width=8, depth=1, heads=1, dropout=0.5).build((1, 8, 8), 10, 0)
    torch.manual_seed(1)
    one = trainer()(dropout, examples())
    torch.manual_seed(2)
    before = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    two = trainer()(dropout, examples())
    assert torch.equal(before[0], torch.get_rng_state())
    np.testing.assert_equal(before[1], np.random.get_state())  # noqa: NPY002
    assert before[2] == random.getstate()
    assert not changed(one, two)


def test_a_penalty_sees_the_live_weights_and_its_gradient_counts() -> None:
    sizes: list[float] = []

    def shrink(live: nn.Module) -> Tensor:
        size = live.get_parameter("net.head.weight").square().sum()
        sizes.append(float(size.detach()))
        return size

    plain, shrunk = trainer()(network(), examples()), trainer()(network(), examples(), penalty=shrink)
    assert len(sizes) == 6
    assert len(set(sizes)) == 6, "the value follows the weights, step by step"
    assert sizes[0] == float(network().state_dict()["net.head.weight"].square().sum())
    norm = [float(model.state_dict()["net.head.weight"].norm()) for model in (plain, shrunk)]
    assert norm[1] < 0.5 * norm[0]


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_examples_are_refused(count: int) -> None:
    with pytest.raises(ConfigError, match=f"at least 2 examples, got {count}; raise"):
        trainer()(network(), examples(count))


def test_only_trains_just_those_parameters_and_leaves_all_else_bit_equal() -> None:
    model = network()
    trained = trainer()(model, examples(), only=["net.head"])
    assert changed(model, trained) == {"net.head.weight", "net.head.bias"}


def test_only_moves_the_statistics_of_the_norms_it_trains() -> None:
    model = network()
    trained = trainer()(model, examples(), only=["net.block3", "net.head"])
    names = {name.rpartition(".")[0] for name in changed(model, trained)}
    assert names == {"net.block3.conv", "net.block3.norm", "net.head"}
    assert "net.block3.norm.running_mean" in changed(model, trained)


def test_a_look_at_the_live_model_changes_nothing() -> None:
    def look(_: int, live: nn.Module) -> None:
        logits(live, examples().inputs)
        live.eval()

    model = network()
    for only in (None, ["net.head"]):
        unseen = trainer()(model, examples(), only=only, each_epoch=lambda *_: None)
        assert not changed(unseen, trainer()(model, examples(), only=only, each_epoch=look))


def test_a_prefix_that_names_no_parameter_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'net\.haed'; there are .*net\.head\.weight"):
        trainer()(network(), examples(), only=["net.haed"])


def test_freeze_all_but_returns_what_it_froze() -> None:
    model = network()
    model.get_parameter("net.block1.conv.weight").requires_grad_(False)
    assert freeze_all_but(model, None) == []
    frozen = freeze_all_but(model, ["net.head", "net.block2"])
    assert len(frozen) == 2 + 3, "normed block1 less its convolution, and block3"
    assert not any(parameter.requires_grad for parameter in frozen)


def test_each_epoch_is_called_once_per_epoch_with_the_live_model() -> None:
    seen: list[tuple[int, dict[str, Tensor]]] = []
    recipe = replace(SHORT, epochs=4)
    trained = trainer(recipe)(network(), examples(), each_epoch=lambda n, live: seen.append((n, state(live))))
    assert [number for number, _ in seen] == [1, 2, 3, 4]
    assert not changed(seen[-1][1], trained)
    assert changed(seen[0][1], trained)


def test_soft_targets_and_a_loss_of_ones_own() -> None:
    data = Examples(
        examples().inputs, torch.softmax(torch.randn(40, 10, generator=torch.Generator().manual_seed(1)), -1)
    )

    def divergence(logits_NC: Tensor, targets_NC: Tensor) -> Tensor:
        return functional.kl_div(logits_NC.log_softmax(-1), targets_NC, reduction="batchmean")

    def distance(model: nn.Module) -> float:
        return float(divergence(logits(model, data.inputs), data.targets))

    recipe = Recipe(epochs=30, batch_size=16)
    assert distance(trainer(recipe)(network(), data, loss=divergence)) < 0.7 * distance(network())


def test_a_loss_that_is_not_a_number_names_the_step_and_the_remedy() -> None:
    calls: list[int] = []

    def poison(live: nn.Module) -> Tensor:
        calls.append(1)
        return live.get_parameter("net.head.bias").sum() * (float("nan") if len(calls) == 4 else 1.0)

    kept: list[int] = []
    with pytest.raises(
        FloatingPointError, match=r"the loss is NaN .* step 4: .*lower the learning rate, 0\.05"
    ):
        trainer()(network(), examples(), penalty=poison, each_epoch=lambda n, _: kept.append(n))
    assert kept == [1]


def test_weights_that_diverge_in_the_very_last_step_are_found() -> None:
    def explode(live: nn.Module) -> Tensor:
        weight = live.get_parameter("net.head.bias").sum()
        return weight.clamp(-1, 1) * 1e38  # finite, its step is not

    recipe = Recipe(epochs=1, batch_size=64, lr=100)
    with pytest.raises(FloatingPointError, match=r"net\.head\.bias is NaN .* step 1"):
        trainer(recipe)(network(), examples(), penalty=explode)


def test_ctrl_c_stays_a_keyboard_interrupt_and_keeps_its_handler() -> None:
    def interrupt(_: int, __: nn.Module) -> None:
        raise KeyboardInterrupt

    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        trainer()(network(), examples(), each_epoch=interrupt)
    assert signal.getsignal(signal.SIGINT) is handler


def test_nothing_is_written_or_printed_and_nothing_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer(hardware=Hardware())(network(), examples(), only=["net.head"])
    assert [str(warning.message) for warning in caught] == []
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_the_progress_line_is_for_terminals_and_ends_with_the_training(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bars: list[EpochBar] = []

    class Kept(EpochBar):
        def __init__(self, label: str) -> None:
            super().__init__(label)
            bars.append(self)

    monkeypatch.setattr("assay.zoo.lightning.EpochBar", Kept)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    fit = trainer(hardware=Hardware())
    fit(network(), examples())
    with pytest.raises(FloatingPointError):
        fit(
            network(),
            examples(),
            penalty=lambda live: live.get_parameter("net.head.bias").sum() * float("nan"),
        )
    assert [bar.progress is not None and bar.progress.finished for bar in bars] == [True, False]
    assert not any(bar.progress is None or bar.progress.live.is_started for bar in bars)


def test_a_device_that_is_not_there_is_a_configuration_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="trainer=cpu"):
        Hardware(device="cuda").check()


def test_float16_on_a_cpu_is_a_configuration_error() -> None:
    """Lightning takes bfloat16 in its place, and the record would say float16."""
    with pytest.raises(ConfigError, match="bf16-mixed"):
        Hardware(precision="16-mixed").check()


@pytest.mark.parametrize(
    "settings",
    [{"step_epochs": 0}, {"step_factor": 0.0}, {"step_factor": math.nan}, {"weight_decay": math.inf}],
)
def test_a_recipe_of_no_numbers_is_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=r"step_|finite"):
        validated(Recipe, settings, "task.recipe")


def test_check_sets_the_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", seen.append)
    Hardware(threads=3).check()
    assert seen == [3]


def test_an_mlp_and_a_vit_train_as_well() -> None:
    for architecture in (
        Mlp(width=16),
        VitTiny(width=8, depth=1, heads=2, layer="net.model.vit.layers.0.mlp.fc2"),
    ):
        model = architecture.build((1, 8, 8), 10, 0)
        assert changed(model, trainer()(model, examples()))


@pytest.mark.slow
def test_the_digits_victim_reaches_96_percent() -> None:
    recipe = Recipe(epochs=15, batch_size=64, lr=0.05)
    task = Digits(recipe=recipe).load(CnnSmall(), seed=0)
    model = trainer(recipe)(task.fresh(None), task.owner)
    accuracy = (logits(model, task.test.inputs).argmax(-1) == task.test.targets).double().mean()
    assert float(accuracy) >= 0.96
