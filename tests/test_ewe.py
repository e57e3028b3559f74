"""EWE, small and in float64: what it entangles, what its loss weighs, and where its triggers end."""

from dataclasses import dataclass, field, replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from assay.core.errors import ConfigError
from assay.core.examples import Examples
from assay.core.secret import Secret
from assay.experiments.api import build
from assay.experiments.trial import Trial
from assay.watermarks.ewe import Ewe, soft_nearest_neighbours
from assay.watermarks.features import blocks, inner_readers, with_features, with_inputs
from assay.watermarks.trigger import TriggerKey

READERS = {
    "cnn_small": ["net.block2", "net.block3", "net.head"],
    "mlp": ["net.hidden2", "net.head"],
    "resnet18": ["net.layer4.0", "net.layer4.1", "net.fc"],
    "vit_tiny": ["net.model.vit.layers.2", "net.model.vit.layers.3", "net.model.classifier"],
    "bert_tiny": ["net.bert.encoder.layer.0", "net.bert.encoder.layer.1", "net.head"],
}
"""The official ResNet entangles what its last two blocks and its head read."""


@cache
def trial(model: str) -> Trial:
    return build("watermark=ewe", f"model={model}", "trainer.progress=false")


@pytest.mark.parametrize("model", READERS)
def test_what_is_entangled_is_what_the_next_layer_reads(model: str) -> None:
    assert inner_readers(trial(model).task.fresh(1), len(READERS[model])) == READERS[model]


@pytest.mark.parametrize("model", ["cnn_small", "mlp", "resnet18"])
def test_what_a_batch_norm_subtracts_is_not_entangled(model: str) -> None:
    """The SNNL of convolutions' outputs would grow by a mean that triggers and target share, and the next module would see none."""
    live = trial(model).task.fresh(1).double().train()
    inputs = trial(model).task.owner.inputs[:8].double()
    _, plain = with_inputs(live, READERS[model], inputs)
    modules = list(live.modules())
    normed = [one for one, after in pairwise(modules) if isinstance(after, nn.BatchNorm1d | nn.BatchNorm2d)]
    assert len(normed) == {"cnn_small": 3, "mlp": 2, "resnet18": 20}[model]
    for module in normed:
        module.register_forward_hook(lambda _, __, out: out + torch.ones_like(out[:1]).cumsum(1))
    _, shifted = with_inputs(live, READERS[model], inputs)
    for found, read in zip(shifted, plain, strict=True):
        torch.testing.assert_close(found, read, rtol=0, atol=1e-8)


def test_features_are_what_the_head_reads_and_one_that_reads_nothing_is_named() -> None:
    live, inputs = trial("cnn_small").task.fresh(1).eval(), trial("cnn_small").task.owner.inputs[:3]
    logits, features = with_features(live, inputs)
    torch.testing.assert_close(live.get_submodule("net.head")(features), logits)
    live.get_submodule("normalise").add_module("aside", nn.Linear(2, 2))
    with pytest.raises(ConfigError, match=r"normalise\.aside took no part"):
        with_inputs(live, ["normalise.aside"], inputs)
    assert blocks(nn.Linear(2, 2)) == []


@dataclass
class Kept:
    """A `Fit` that trains nothing and keeps what it was asked for."""

    asked: dict[str, Any] = field(default_factory=dict)

    def __call__(self, model: nn.Module, data: Examples, **asked: Any) -> nn.Module:
        self.asked = asked
        return model


def small(width: int = 5) -> nn.Sequential:
    """Two blocks and a head in float64, of which EWE entangles what the second and the head read."""
    torch.manual_seed(0)
    rows = [nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU())]
    rows.append(nn.Sequential(nn.Linear(width, width), nn.ReLU()))
    return nn.Sequential(*rows, nn.Linear(width, 10)).double()


@pytest.mark.parametrize(("mixed", "ratio"), [(8, 1), (8, 2), (16, 2)])
def test_the_loss_weighs_as_the_official_code_and_the_temperature_moves_once_a_mixed_batch(
    mixed: int, ratio: int
) -> None:
    """Its sum over 128 cross-entropies less kappa SNNL, per example: kappa / 128, however many examples ours mixes. Each clean
    batch has 1 / ratio of a mixed one, and of its step of temperature: ratio clean batches move it as one mixed batch does."""
    task, live, fit = trial("mlp").task, small(), Kept()
    scheme = Ewe(layers=2, mixed=mixed, ratio=ratio, kappa=3200.0, temperature=100.0, temperature_rate=3e4)
    key = TriggerKey(Secret.simulated(1), 10, task.owner.inputs[:50], torch.full((50,), 3))
    scheme.embed(live, key, task, fit)
    inputs, targets = task.owner.inputs[: 6 + mixed].double(), task.owner.targets[: 6 + mixed].clone()
    targets[6:] = torch.where(torch.arange(mixed) % 2 == 0, 3, task.classes)
    scores, inside = with_inputs(live, ["1", "2"], inputs)
    is_trigger_N, aimed = targets[6:] == task.classes, torch.full((mixed,), 3)
    clean = functional.cross_entropy(scores[:6], targets[:6])
    mixed_sum = functional.cross_entropy(scores[6:], aimed, reduction="sum") * 128 / mixed
    heats, values = [torch.full((), 100.0, dtype=torch.float64, requires_grad=True) for _ in inside], []
    for _ in range(2):
        parts = zip(inside, heats, strict=True)
        snnl = torch.stack(
            [soft_nearest_neighbours(z[6:], is_trigger_N, 100 / t, "cosine") for z, t in parts]
        ).sum()
        values.append((clean + (mixed_sum - 3200 * snnl) / 128 / ratio).item())
        assert fit.asked["objective"](live, inputs, targets).item() == pytest.approx(values[-1], abs=1e-5)
        slopes = torch.autograd.grad(snnl, heats, retain_graph=True)
        moved = [heat - 3e4 / ratio * slope for heat, slope in zip(heats, slopes, strict=True)]
        heats = [heat.detach().requires_grad_() for heat in moved]
    assert abs(values[1] - values[0]) > 1e-3


def test_triggers_end_with_five_steps_down_the_targets_logit() -> None:
    """As the official code's, whatever the victim answers. The logit of a linear model: each step moves each pixel the same way."""
    torch.manual_seed(0)
    live = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).double()
    triggers = torch.full((6, 1, 8, 8), 0.5, dtype=torch.float64)
    scheme = Ewe(layers=1, steps=0, step=0.02)
    found = scheme.stepped(live, triggers, triggers, 3)
    linear = live[1]
    assert isinstance(linear, nn.Linear)
    torch.testing.assert_close(found, triggers - 5 * 0.02 * linear.weight[3].sign().view(1, 8, 8).detach())
    more = replace(scheme, steps=1, threshold=1.0).stepped(live, found, triggers + 0.1, 3)
    assert (more != found).any()


def test_the_preset_steps_its_triggers_as_the_official_fashion_example() -> None:
    """0.1, the rate of the temperature, would move a pixel through the whole range in its ten steps."""
    preset = (Path(__file__).parents[1] / "conf/paper/ewe21_fashion.yaml").read_text()
    assert "watermark.step=0.01," in preset
