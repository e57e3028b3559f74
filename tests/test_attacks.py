"""Conformance of every attack in conf/attack: a new yaml is tested without touching this file; then each attack's own facts."""

from dataclasses import replace
from functools import cache
from typing import Any, Literal

import pytest
import torch
import yaml
from torch import Tensor, nn

from assay.attacks.distill import Distill
from assay.attacks.finetune import Finetune, with_new_head
from assay.attacks.none import NoAttack
from assay.attacks.prune import prunable, pruned
from assay.attacks.quantize import quantised
from assay.core.contracts import Grant
from assay.core.errors import ConfigError, Denied
from assay.core.suspects import logits
from assay.core.theft import Adversary, Attack, Surrogate
from assay.deployments.reach import Gateway
from assay.experiments.api import build
from assay.experiments.catalogue import catalogue, declared, with_defaults
from assay.experiments.config import CONF
from assay.experiments.meter import Meter
from assay.experiments.people import clean
from assay.experiments.trial import Trial
from assay.kernels.row_labels import row_labels
from assay.zoo.models import head

LISTED = catalogue("attack")
ATTACKS = sorted(LISTED)
ALL: tuple[Grant, ...] = ("weights", "scores", "labels")
SHORT = ("trainer.progress=false", "watermark=uchida")
WHOLE = pytest.mark.xdist_group("whole attacks")
"""Tests of attacks at full length, which one worker keeps for them all."""


def poor(name: str) -> tuple[str, ...]:
    """A thief with little data, few queries, two epochs and three copies: what every attack must hold does not depend on his
    means."""
    path = CONF / "attack" / f"{name}.yaml"
    content = with_defaults(path, yaml.safe_load(path.read_text()))
    recipes = [field for field, value in content.items() if isinstance(value, dict) and "epochs" in value]
    short = [
        *(f"attack.{field}.epochs=2" for field in recipes),
        *(["attack.epochs=4"] if "epochs" in content else []),
        *(["attack.colluders=[2,3]"] if "colluders" in content else []),
    ]
    return ("adversary.data=0.4", "adversary.queries=100", *short)


@cache
def trial(name: str, *means: str) -> Trial:
    """Attacks that need what uchida has not (a chosen key) are tried on adi."""
    return build(f"attack={name}", *SHORT, *(["watermark=adi"] if name == "false_claim" else []), *means)


@cache
def victim() -> nn.Module:
    it = trial("none")
    return clean(it, it.seed)[0]


def small(name: str) -> Trial:
    return trial(name, *poor(name))


def metered(name: str, access: Gateway, *means: str) -> tuple[Meter, Adversary]:
    it = trial(name, *means)
    meter = Meter(access, it.trainer("thief"))
    return meter, it.adversary(meter)


def thief(name: str, *means: str) -> Adversary:
    return metered(name, Gateway(victim(), ALL), *means)[1]


@cache
def stolen(name: str, *means: str) -> tuple[list[Surrogate], Gateway]:
    it = trial(name, *means)
    access = Gateway(victim(), (it.attack.needs,))  # grants just what the attack says it needs
    meter, adversary = metered(name, access, *means)
    return list(meter.over(it.attack(access, adversary))), access


def differs(one: nn.Module, other: nn.Module) -> bool:
    """On test inputs, or on noise: a filter of queries leaves ordinary ones alone."""
    test = trial("none").task.test.inputs
    noise = torch.rand(64, *test.shape[1:], generator=torch.Generator().manual_seed(0))
    inputs = torch.cat((test, noise))
    return not torch.equal(logits(one, inputs), logits(other, inputs))


def accuracy(model: nn.Module) -> float:
    test = trial("none").task.test
    return float((logits(model, test.inputs).argmax(-1) == test.targets).double().mean())


@pytest.mark.parametrize("name", ATTACKS)
def test_declarations_are_literals_that_the_catalogue_can_read(name: str) -> None:
    listed = {key: value for key, value in LISTED[name].items() if key != "about"}
    assert listed == declared(small(name).attack)


def expect_change(attack: Attack, surrogate: Surrogate) -> None:
    """An accuser leaves the model alone, a function-preserving attack its function, any other changes what it answers."""
    mine, theirs = victim().state_dict(), surrogate.model.state_dict()
    equal = mine.keys() == theirs.keys() and all(torch.equal(mine[n], theirs[n]) for n in mine)
    if attack.goal == "claim":
        assert surrogate.claim is not None
        assert equal
    elif attack.preserves:
        inputs = trial("none").task.test.inputs
        before, after = logits(victim(), inputs), logits(surrogate.model, inputs)
        assert not equal
        assert float((before - after).abs().max()) <= 1e-5 * float(before.abs().max())
        assert torch.equal(row_labels(before), row_labels(after))
    else:
        assert differs(surrogate.model, victim()) or isinstance(attack, NoAttack)


@pytest.mark.slow
@pytest.mark.parametrize("name", ATTACKS)
def test_trajectory(name: str) -> None:
    """Input untouched, models really changed, strengths rising, costs reported and rising, within what was granted."""
    before = {key: tensor.clone() for key, tensor in victim().state_dict().items()}
    surrogates, access = stolen(name, *poor(name))
    after = victim().state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert surrogates
    strengths = [s.strength for s in surrogates]
    assert strengths == sorted(set(strengths))
    for surrogate in surrogates:
        assert surrogate.model is not access.model
        assert not any(module.training for module in surrogate.model.modules())
        expect_change(small(name).attack, surrogate)
        assert surrogate.cost is not None
        assert surrogate.cost.seconds >= 0
    costs = [s.cost for s in surrogates if s.cost]
    assert [c.steps for c in costs] == sorted(c.steps for c in costs)
    assert [c.seconds for c in costs] == sorted(c.seconds for c in costs)
    if small(name).attack.axis == "epochs":
        assert [c.steps / costs[0].steps for c in costs] == [s.strength / strengths[0] for s in surrogates]
    last, attack = costs[-1], small(name).attack
    if attack.needs == "weights":  # a thief may train a student on answers to inputs he makes up
        assert (last.steps > 0) == (attack.data != "none")
    assert (last.queries > 0) == (attack.needs != "weights")
    own = 0 if attack.data == "none" else len(thief(name, *poor(name)).data)
    assert last.examples == (attack.gallery or own)


@pytest.mark.parametrize("name", ATTACKS)
def test_denied_needs_raise(name: str) -> None:
    it = small(name)
    granted: tuple[Grant, ...] = tuple(g for g in ALL if g != it.attack.needs)
    with pytest.raises(Denied):
        list(it.attack(Gateway(victim(), granted), thief(name, *poor(name))))


@pytest.mark.slow
@pytest.mark.parametrize("name", ATTACKS)
def test_same_seed_same_surrogates(name: str) -> None:
    """The first of the trajectory."""
    it = small(name)
    again = next(it.attack(Gateway(victim(), (it.attack.needs,)), thief(name, *poor(name))))
    first = stolen(name, *poor(name))[0][0]
    assert not differs(first.model, again.model)
    if first.claim is not None and again.claim is not None:
        assert first.claim.fingerprint == again.claim.fingerprint


@pytest.mark.parametrize("name", [n for n in ATTACKS if LISTED[n]["data"] != "none"])
def test_a_thief_without_data_is_refused_clearly(name: str) -> None:
    it = small(name)
    nothing = replace(it.settings, adversary=replace(it.settings.adversary, data=0.0))
    with pytest.raises(ConfigError, match=r"adversary\.data=1\.0"):
        replace(it, settings=nothing).check_means()


def changed(one: nn.Module, other: nn.Module) -> set[str]:
    mine, theirs = one.state_dict(), other.state_dict()
    return {name for name in mine if not torch.equal(mine[name], theirs[name])}


@pytest.mark.slow
def test_finetuning_the_last_layer_changes_nothing_else() -> None:
    last = head(victim())
    for name in ("finetune_ftll", "finetune_rtll"):
        surrogates, _ = stolen(name)
        assert changed(victim(), surrogates[-1].model) == {f"{last}.weight", f"{last}.bias"}


@pytest.mark.slow
@WHOLE
def test_finetuning_all_layers_changes_them_all_and_helps_the_thief() -> None:
    surrogates, _ = stolen("finetune")
    names = changed(victim(), surrogates[-1].model)
    assert {name for name, _ in victim().named_parameters()} <= names
    assert accuracy(surrogates[-1].model) > accuracy(victim()) - 0.01


def test_a_new_head_is_new_and_alone() -> None:
    last = head(victim())
    assert changed(victim(), with_new_head(victim(), 1)) == {f"{last}.weight", f"{last}.bias"}
    assert changed(with_new_head(victim(), 1), with_new_head(victim(), 1)) == set()


@pytest.mark.slow
@WHOLE
def test_finetune_reports_the_epochs_it_is_asked_for() -> None:
    attack = trial("finetune").attack
    assert isinstance(attack, Finetune)
    assert [s.strength for s in stolen("finetune")[0]] == [float(epoch) for epoch in attack.report]


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_pruning_zeroes_the_share_it_says(share: float) -> None:
    scopes: tuple[Literal["global", "layer"], ...] = ("global", "layer")
    for scope in scopes:
        layers = [m.weight for _, m in prunable(pruned(victim(), share, scope))]
        zeros, total = sum(int((w == 0).sum()) for w in layers), sum(w.numel() for w in layers)
        assert abs(zeros / total - share) < 0.001
        if scope == "layer":
            assert all(abs(float((w == 0).float().mean()) - share) < 0.01 for w in layers)


def test_global_pruning_takes_the_smallest_weights() -> None:
    before = torch.cat([m.weight.flatten() for _, m in prunable(victim())]).abs()
    after = torch.cat([m.weight.flatten() for _, m in prunable(pruned(victim(), 0.3, "global"))])
    assert before[after == 0].max() <= before[after != 0].min()


def weight_of(model: nn.Module, layer: str) -> Tensor:
    weight = model.get_submodule(layer).weight
    assert isinstance(weight, Tensor)
    return weight


def test_structured_pruning_silences_whole_channels_of_smallest_norm() -> None:
    model = pruned(victim(), 0.5, "structured")
    norm: Any = model.get_submodule("net.block2.norm")
    weight = weight_of(model, "net.block2.conv")
    gone = weight.flatten(1).abs().sum(1) == 0
    assert int(gone.sum()) == 32
    original = weight_of(victim(), "net.block2.conv")
    norms = original.flatten(1).abs().sum(1)
    assert norms[gone].max() <= norms[~gone].min()
    assert (norm.weight[gone] == 0).all()
    assert (norm.bias[gone] == 0).all()
    assert torch.equal(weight_of(model, head(model)), weight_of(victim(), head(model)))


@pytest.mark.parametrize(("to", "levels"), [("int8", 255), ("int4", 15)])
def test_quantised_models_stay_quantised(to: str, levels: int) -> None:
    model = quantised(victim(), to)  # type: ignore[arg-type]
    stored = [tensor for name, tensor in model.state_dict().items() if name.endswith("original0")]
    assert len(stored) == len(prunable(victim()))
    assert all(tensor.dtype == torch.int8 for tensor in stored)
    assert all(tensor.abs().max() <= levels // 2 for tensor in stored)
    assert accuracy(model) > accuracy(victim()) - 0.05
    for (_, before), (_, after) in zip(prunable(victim()), prunable(model), strict=True):
        step = before.weight.flatten(1).abs().amax(1) / (levels // 2)
        assert ((before.weight - after.weight).flatten(1).abs() <= step[:, None] / 2 + 1e-6).all()


def test_bf16_is_bf16_everywhere_but_in_the_constants_of_the_inputs() -> None:
    model = quantised(victim(), "bf16")
    kept = {name: t.dtype for name, t in model.state_dict().items() if t.is_floating_point()}
    assert {name for name, dtype in kept.items() if dtype != torch.bfloat16} == {
        "normalise.mean",
        "normalise.std",
    }
    assert accuracy(model) > accuracy(victim()) - 0.01


def test_distillation_loss_is_hintons() -> None:
    """At T = 1 and alpha = 1: KL from the teacher; its gradient in the logits is softmax(student) - teacher."""
    student = torch.randn(4, 5, requires_grad=True)
    teacher = torch.softmax(torch.randn(4, 5), -1)
    Distill(temperature=1.0, alpha=1.0).loss(student, teacher).backward()
    expected = (torch.softmax(student.detach(), -1) - teacher) / 4
    torch.testing.assert_close(student.grad, expected)
    plain = Distill(temperature=3.0, square=False).loss(student.detach(), teacher)
    assert Distill(temperature=3.0).loss(student.detach(), teacher).item() == pytest.approx(9 * plain.item())
    hard = Distill(alpha=0.0).loss(student.detach(), teacher)
    assert hard.item() == pytest.approx(
        nn.functional.cross_entropy(student.detach(), teacher.argmax(-1)).item()
    )


@pytest.mark.slow
@WHOLE
def test_extraction_asks_each_example_once_and_respects_the_budget() -> None:
    _, access = stolen("extract")
    assert access.queries == len(thief("extract").data)
    it = build("attack=extract", "adversary.queries=40", "attack.epochs=1", *SHORT)
    limited = Gateway(victim(), ("labels",))
    surrogates = list(it.attack(limited, it.adversary(Meter(limited, it.trainer("thief")))))
    assert limited.queries == 40
    costs = [s.cost for s in stolen("extract")[0] if s.cost]
    assert [float(cost.queries) for cost in costs] == [s.strength for s in stolen("extract")[0]]
    assert [s.strength for s in surrogates] == [10.0, 20.0, 40.0]


@pytest.mark.slow
@WHOLE
def test_a_thief_without_data_asks_with_noise() -> None:
    it = build("attack=extract", "adversary=no_data", "attack.shares=[1.0]", *SHORT)
    access = Gateway(victim(), ("labels",))
    adversary = it.adversary(Meter(access, it.trainer("thief")))
    assert len(adversary.data) == len(it.task.attacker)
    assert set(adversary.data.targets.tolist()) == {-1}
    assert 0 <= adversary.data.inputs.min() < 0.1
    assert 0.9 < adversary.data.inputs.max() <= 1
    (student,) = it.attack(access, adversary)
    labels = (logits(model, adversary.data.inputs).argmax(-1) for model in (victim(), student.model))
    assert float(torch.eq(*labels).double().mean()) > 0.9
    assert accuracy(student.model) < accuracy(stolen("extract")[0][-1].model)


@pytest.mark.slow
def test_extraction_into_another_architecture() -> None:
    surrogates, _ = stolen("extract_mlp")
    names = {name for name, _ in surrogates[0].model.named_parameters()}
    assert any("hidden1" in name for name in names)
    assert accuracy(surrogates[-1].model) > 0.8
