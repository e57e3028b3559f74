"""Facts of the schemes with trigger sets: known answers, invariants, bad input, and what their papers claim, as measured here."""

import copy
import math
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nobody import clean_models
from torch import Tensor, nn
from torch.nn import functional

from assay.core.errors import ConfigError, NotApplicable
from assay.core.examples import Examples
from assay.core.secret import Secret
from assay.core.suspects import Suspects
from assay.experiments.api import build
from assay.experiments.meter import Meter
from assay.experiments.people import Owner, owner
from assay.experiments.trial import Trial
from assay.experiments.verify import evidence
from assay.watermarks.app import App, worst_step
from assay.watermarks.certified import (
    Certified,
    certificate,
    certified_radius,
    noisy,
    order_index,
    trigger_accuracies,
)
from assay.watermarks.cfw import Cfw
from assay.watermarks.ewe import Ewe, soft_nearest_neighbours
from assay.watermarks.exponential_weighting import folded, transformed, weighted
from assay.watermarks.margin import Margin
from assay.watermarks.norms import normalised_by, norms_of
from assay.watermarks.rehearsal import Rehearsal, Stolen, spliced
from assay.watermarks.sew import Sew
from assay.watermarks.sew import margin as mean_margin
from assay.watermarks.target import drawn_class, own_pictures, with_noise
from assay.watermarks.trigger import TriggerKey
from assay.watermarks.zhang import Zhang
from assay.zoo.files import save_key, save_model

SECRET = Secret.simulated(1)


@cache
def trial(name: str, *overrides: str) -> Trial:
    return build(f"watermark={name}", "trainer.progress=false", *overrides)


@cache
def mine(name: str, *overrides: str) -> Owner:
    return owner(trial(name, *overrides), "owner")


@cache
def stolen(name: str, attack: str, deployment: str, *overrides: str) -> tuple[float, nn.Module]:
    """The accuracy of the attack's last surrogate of the owner's marked model, and the surrogate."""
    it = trial(name, f"attack={attack}", f"deployment={deployment}", *overrides)
    access = it.deployment.expose(mine(name, *(o for o in overrides if "watermark" in o)).marked)
    meter = Meter(access, it.trainer("thief"))
    *_, last = meter.over(it.attack(access, it.adversary(meter)))
    return accuracy(it, last.model), last.model


def accuracy(it: Trial, model: nn.Module) -> float:
    return float((model(it.task.test.inputs).argmax(-1) == it.task.test.targets).double().mean())


def hits(name: str, models: list[nn.Module], *overrides: str) -> list[int]:
    found = trial(name).watermark.score(Suspects(models), [mine(name, *overrides).key])
    return [int(h) for h in found.statistic_MK[:, 0]]


@dataclass
class Spy:
    """A `Fit` that trains nothing and keeps what it was given."""

    data: list[Examples] = field(default_factory=list)

    def __call__(self, model: nn.Module, data: Examples, **asked: Any) -> nn.Module:
        self.data.append(data)
        return model


def waves(count: int, shape: tuple[int, ...], phase: float = 0.0) -> Tensor:
    """S(n, shape, phase) of the known answers: sin(0.7 i + phase)."""
    return torch.sin(0.7 * torch.arange(count, dtype=torch.float64) + phase).reshape(shape)


# Known answers


@pytest.mark.parametrize(
    ("metric", "temperature", "expected"),
    [
        ("euclidean", 1.0, 2.21462364),
        ("euclidean", 100.0, 0.79207377),
        ("cosine", 1.0, 0.8404494),
        ("cosine", 100.0, 0.78878503),
    ],
)
def test_the_soft_nearest_neighbour_loss_is_that_of_the_official_code(
    metric: Any, temperature: float, expected: float
) -> None:
    kinds_N = torch.arange(12) < 6
    heat = torch.tensor(temperature, dtype=torch.float64)
    found = soft_nearest_neighbours(waves(240, (12, 20), 0.3), kinds_N, heat, metric)
    assert found.item() == pytest.approx(expected, abs=5e-7)


@pytest.mark.parametrize(
    ("epsilon", "index"), [(0.2, 384), (0.6, 241), (1.0, 131), (1.2, 91), (1.6, 38), (2.0, 12)]
)
def test_the_certificate_reads_the_official_order_statistic(epsilon: float, index: int) -> None:
    assert order_index(epsilon, 1.0, 1000, 0.99) == index
    assert certificate(np.linspace(0, 100, 1000), [epsilon], 1.0, 0.99) == pytest.approx([index * 100 / 999])


def test_the_order_statistic_bounds_the_quantile_with_its_confidence() -> None:
    """Of 4,000 samples of 200 uniforms, at most 1 % (and a fluctuation) have the bound above the true quantile; the next value
    would break the promise."""
    draws = np.sort(np.random.default_rng(0).uniform(size=(4000, 200)), 1)
    quantile = 0.5 * (1 + math.erf(-1 / math.sqrt(2)))
    index = order_index(1.0, 1.0, 200, 0.99)
    assert index is not None
    assert (draws[:, index] > quantile).mean() <= 0.01 + 4 * math.sqrt(0.01 / 4000)
    assert (draws[:, index + 1] > quantile).mean() > 0.01
    assert order_index(4.0, 1.0, 200, 0.99) is None


# Invariants


def test_the_worst_step_has_the_relative_norm_it_is_given() -> None:
    weights = {"a": waves(12, (3, 4)), "b": 5 * waves(6, (6,), 1.0)}
    slopes = {"a": waves(12, (3, 4), 2.0), "b": 1e-3 * waves(6, (6,), 3.0)}
    layer = worst_step(weights, slopes, 0.02, "layer")
    for name, delta in layer.items():
        assert delta.norm().item() == pytest.approx(0.02 * weights[name].norm().item())
        assert functional.cosine_similarity(delta.flatten(), slopes[name].flatten(), 0) > 1 - 1e-9
    both = worst_step(weights, slopes, 0.02, "global")
    length = math.hypot(*(delta.norm().item() for delta in both.values()))
    assert length == pytest.approx(0.02 * math.hypot(*(w.norm().item() for w in weights.values())))
    assert both["a"].norm() > 100 * both["b"].norm()  # the global norm follows the slopes, the layers' do not


@pytest.mark.parametrize("shape", [(5, 3, 4, 4), (7, 3)])
def test_triggers_are_normalised_by_the_clean_rows(shape: tuple[int, ...]) -> None:
    """All rows get what the first four give them: those as in training, the others as by their statistics; nothing is learnt, and
    gradients are those of batch norm itself."""
    norm = (nn.BatchNorm2d if len(shape) == 4 else nn.BatchNorm1d)(3).double()
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([0.5, 2.0, -1.0]))
        norm.bias.copy_(torch.tensor([0.1, -0.3, 0.0]))
    model, inputs = nn.Sequential(norm), waves(math.prod(shape), shape).requires_grad_(True)
    before = {name: buffer.clone() for name, buffer in norm.named_buffers()}
    with normalised_by(norms_of(model).values(), 4):
        found = model(inputs)
    assert all(torch.equal(before[name], buffer) for name, buffer in norm.named_buffers())
    assert norm.training
    plain = model(inputs[:4])
    torch.testing.assert_close(found[:4], plain)
    mean, variance = (
        inputs[:4].mean((0, *range(2, len(shape)))),
        inputs[:4].var((0, *range(2, len(shape))), unbiased=False),
    )
    others = functional.batch_norm(inputs[4:], mean.detach(), variance.detach(), norm.weight, norm.bias)
    torch.testing.assert_close(found[4:], others)
    slopes = [
        torch.autograd.grad((out[:4] ** 3).sum(), inputs, retain_graph=True)[0] for out in (found, plain)
    ]
    torch.testing.assert_close(*slopes)


def test_app_normalises_by_clean_inputs_at_the_weights_it_moved_to() -> None:
    """Statistics of other weights would let a deep network's activations run away: a step of 2 % per layer took the trigger loss of
    resnet18 from 3 to 482 so. Scaling a convolution before a batch norm must change nothing, moved or not."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)
    ).double()
    inputs, labels = torch.rand(9, 1, 6, 6).double(), torch.tensor([2, 1, 0])
    found = trial("app").watermark
    assert isinstance(found, App)
    scheme = replace(found, epsilon=0.5)
    first = scheme.moved_loss(model, inputs, labels)
    scaled = copy.deepcopy(model)
    with torch.no_grad():
        for part in ("0.weight", "0.bias"):
            scaled.get_parameter(part).mul_(50)
    second = scheme.moved_loss(scaled, inputs, labels)
    torch.testing.assert_close(
        second, first, rtol=1e-3, atol=0
    )  # 1e-5 within the root of batch norm is not scaled
    first.backward()
    assert model[1].weight.grad is None, "the triggers' loss trains no batch norm"
    assert model[0].weight.grad is not None


def test_the_exponential_weighting_is_folded_into_ordinary_weights() -> None:
    weight = torch.tensor([[-0.5, 0.25], [0.0, 0.1]], dtype=torch.float64)
    expected = weight * torch.exp(2 * weight.abs()) / math.exp(1.0)
    torch.testing.assert_close(weighted(weight, 2.0), expected)
    assert torch.equal(weighted(weight, 0.0), weight)
    model = trial("exponential_weighting").task.fresh(3).eval()
    inputs = trial("exponential_weighting").task.test.inputs[:8]
    through = torch.func.functional_call(model, transformed(model, 2.0), (inputs,))
    torch.testing.assert_close(folded(model, 2.0)(inputs), through)
    assert not torch.equal(through, model(inputs))


def test_pictures_are_spliced_from_halves_and_quarters() -> None:
    pictures = [torch.full((1, 1, 4, 4), float(i)) for i in range(4)]
    assert spliced(pictures[:2])[0, 0].tolist() == [[0, 0, 1, 1]] * 4
    assert spliced(pictures)[0, 0].tolist() == [[0, 0, 1, 1]] * 2 + [[2, 2, 3, 3]] * 2
    assert pictures[0].unique().tolist() == [0]


def test_the_rehearsed_step_moves_the_answers_and_not_the_surrogate() -> None:
    """After a step towards answers that name one class, the surrogate names it more; only the answers get a gradient."""
    task = trial("rehearsal").task
    surrogate, inputs = task.fresh(5), task.owner.inputs[:32]
    answers = functional.one_hot(torch.full((32,), 7), 10).float().requires_grad_(True)
    thief = Stolen(surrogate, inputs, answers)
    before = thief.after(1e-6, inputs).softmax(1)[:, 7].mean()
    after = thief.after(0.5, inputs).softmax(1)[:, 7].mean()
    assert after > before + 0.05
    after.backward()
    assert answers.grad is not None
    assert answers.grad.abs().sum() > 0
    assert all(p.grad is None for p in surrogate.parameters())


def test_the_rehearsed_step_takes_its_statistics_from_the_clean_inputs() -> None:
    """Running statistics lag behind a young surrogate: a convolution that grew before its batch norm must change nothing."""
    torch.manual_seed(0)
    young = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)
    ).double()
    inputs, answers = torch.rand(9, 1, 6, 6).double(), torch.rand(6, 3).double().softmax(1)
    grown = copy.deepcopy(young)
    with torch.no_grad():
        for part in ("0.weight", "0.bias"):
            grown.get_parameter(part).mul_(50)
    found = [Stolen(thief, inputs[:6], answers).after(1e-9, inputs[6:]) for thief in (young, grown)]
    torch.testing.assert_close(*found, rtol=0, atol=1e-3)  # 1e-5 within the root of batch norm is not scaled
    assert young[1].num_batches_tracked == 0, "nothing is learnt"


def test_the_margin_of_scores() -> None:
    """Each row's own label, whatever the size of its logits: (3 - 4) / 5 and 2 / 2."""
    scores = torch.tensor([[3.0, 4.0, 0.0], [0.0, 2.0, 0.0]], dtype=torch.float64)
    assert math.isclose(mean_margin(scores, torch.tensor([0, 1])), 0.4)
    assert math.isclose(mean_margin(scores * torch.tensor([[7.0], [0.1]]), torch.tensor([0, 1])), 0.4)


def test_queries_of_margin_are_held_out_and_their_labels_are_drawn() -> None:
    it = trial("margin")
    scheme, spy = it.watermark, Spy()
    assert isinstance(scheme, Margin)
    key = scheme.keygen(it.task, SECRET)
    scheme.embed(it.task.fresh(None), key, it.task, spy)
    queries = {image.numpy().tobytes() for image in key.examples().inputs}
    kept = {image.numpy().tobytes() for image in spy.data[0].inputs}
    twins = len(it.task.owner) - len({image.numpy().tobytes() for image in it.task.owner.inputs})
    assert len(spy.data[0]) == len(it.task.owner) - scheme.triggers
    assert len(queries & kept) <= twins
    wrong = replace(scheme, wrong=True)
    truth = it.task.owner.targets[scheme.held(len(it.task.owner), SECRET)]
    assert (wrong.keygen(it.task, SECRET).labels_T != truth).all()
    assert ((key.labels_T == truth).double().mean() - 0.1).abs() < 0.12  # 100 uniform labels


def test_wrong_labels_are_bounded_by_one_chance_in_nine() -> None:
    """A model that always knows the truth never hits; one that never does hits with probability 1/9: the tail is that of 1/9."""
    it = trial("margin")
    scheme = replace(it.watermark, wrong=True)  # type: ignore[type-var]
    assert isinstance(scheme, Margin)
    key = scheme.keygen(it.task, SECRET)
    scores = scheme.score(Suspects([it.task.fresh(1).eval()]), [key])
    assert scores.log10_p_MK is not None
    h = int(scores.statistic_MK[0, 0])
    tail = sum(math.comb(100, i) * (1 / 9) ** i * (8 / 9) ** (100 - i) for i in range(h, 101))
    assert scores.log10_p_MK[0, 0] == pytest.approx(math.log10(tail))


@pytest.mark.parametrize("kind", ["content", "noise", "unrelated"])
def test_triggers_follow_the_secret(kind: Any) -> None:
    """Target and pictures differ between secrets, source and target never meet, and triggers carry one label."""
    task = trial("zhang_content").task
    scheme = Zhang(kind=kind, triggers=20)
    keys = [scheme.keygen(task, Secret.simulated(s)) for s in range(30)]
    assert all(len(key.labels_T.unique()) == 1 for key in keys)
    assert len({int(key.labels_T[0]) for key in keys}) >= 6
    assert len({key.images_T.numpy().tobytes() for key in keys}) == 30
    assert all(len(set(scheme.classes(Secret.simulated(s), 10))) == 2 for s in range(30))


def test_the_noise_of_a_key_is_one_pattern_of_its_secret() -> None:
    """The judge makes it again from the secret."""
    grey = torch.full((2, 1, 4, 4), 0.5)
    first, again, other = (with_noise(grey, Secret.simulated(s), "noise", 0.1) for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert torch.equal(first[0], first[1])
    assert not torch.equal(first, other)


def test_covers_spare_everything_but_the_patch() -> None:
    task = trial("sew").task
    scheme, inputs = Sew(), task.test.inputs[:3]
    rows, columns = scheme.place(8)
    noise = torch.ones_like(inputs)
    plain, noisy_ones = scheme.stamped(inputs, SECRET), scheme.stamped(inputs, SECRET, noise)
    outside = torch.ones(8, 8, dtype=torch.bool)
    outside[rows, columns] = False
    assert torch.equal(plain[..., outside], inputs[..., outside])
    assert torch.equal(noisy_ones[..., outside], inputs[..., outside])
    assert noisy_ones[..., rows, columns].unique().tolist() == [1.0]
    assert plain[0, 0, rows, columns].tolist() == plain[1, 0, rows, columns].tolist()


# Bad input


def test_bad_settings_are_explained() -> None:
    task = trial("zhang_content").task
    with pytest.raises(ConfigError, match=r"from 0 to 9, got 10.*set watermark\.source or watermark\.target"):
        Zhang(target=10).keygen(task, SECRET)
    with pytest.raises(ConfigError, match=r"both class 3; set watermark\.target"):
        Zhang(source=3, target=3).keygen(task, SECRET)
    with pytest.raises(
        ConfigError, match=r"pictures outside class \d, .* 5000 triggers; set watermark\.trig"
    ):
        Zhang(triggers=5000).keygen(task, SECRET)
    with pytest.raises(ConfigError, match=r"both class 3; set watermark\.target"):
        Sew(source=3, target=3).keygen(task, SECRET)
    with pytest.raises(ConfigError, match=r"no picture of class 0 to splice"):
        Rehearsal().pictures(task.owner.take(task.owner.targets > 0), SECRET, 0, 0)
    with pytest.raises(
        ConfigError, match=r"1149 queries are held out of 1150 examples; set watermark\.triggers"
    ):
        Margin(triggers=1149).held(1150, SECRET)
    with pytest.raises(NotApplicable, match="does not fit 8 pixels"):
        Sew(patch=1.0, inset=0.5).place(8)
    with pytest.raises(NotApplicable, match="quarters and a target need 5 classes, the task has 3"):
        Rehearsal(splice="quarters").classes(SECRET, 3)
    with pytest.raises(ConfigError, match="at least 0, got -1"):
        Certified().certify(task.fresh(1), Zhang().keygen(task, SECRET), [-1.0], 0)
    with pytest.raises(ValueError, match="pass the trained model"):
        Ewe().keygen(task, SECRET)
    assert drawn_class(SECRET, "x", 10, None, None) in range(10)


def test_a_class_with_few_pictures_is_filled_up_from_the_others() -> None:
    """As a thief who overwrites has them: a fifth of the owner's."""
    task = trial("zhang_content").task
    index = own_pictures(task.attacker, SECRET, "x", 60, 2, 7)
    labels = task.attacker.targets[index]
    owned = int((task.attacker.targets == 2).sum())
    assert owned < 60
    assert labels[:owned].unique().tolist() == [2]
    assert not set(labels[owned:].tolist()) & {2, 7}
    assert len(index.unique()) == 60
    thief = Rehearsal(triggers=60)
    parts = [thief.pictures(task.attacker, SECRET, c, place) for place, c in enumerate((2, 3))]
    assert len({image.numpy().tobytes() for image in spliced(parts)}) == 60


def test_a_network_with_few_layers_cannot_be_entangled_in_many() -> None:
    it = trial("ewe", "model=mlp")
    with pytest.raises(NotApplicable, match=r"2 blocks, .* 3 are asked for; set watermark\.layers=2"):
        it.watermark.keygen(it.task, SECRET, it.task.fresh(1))


def test_a_mark_of_class_features_leaves_an_ordinary_network() -> None:
    it = trial("cfw")
    assert isinstance(it.watermark, Cfw)
    fresh = it.task.fresh(None)
    marked = it.watermark.embed(fresh, it.watermark.keygen(it.task, SECRET), it.task, Spy())
    shapes = {name: t.shape for name, t in marked.state_dict().items()}
    assert shapes == {name: t.shape for name, t in it.task.fresh(1).state_dict().items()}


# What the papers claim


@pytest.mark.slow
def test_a_covered_patch_is_specific() -> None:
    """SEW, README: CIFAR-10's noise at margin 0 falls from .357 to .036. Digits, plain against covered, seeds 0, 1, 2: measured
    1.0, .97, 1.0 and .13, .13, .12."""
    it, plain = trial("sew"), trial("sew", "watermark.cover=0")
    covered, bare = mine("sew"), mine("sew", "watermark.cover=0")
    assert isinstance(it.watermark, Sew)
    assert isinstance(plain.watermark, Sew)
    assert isinstance(covered.key, TriggerKey)
    assert hits("sew", [covered.marked])[0] >= 45
    assert it.watermark.specificity(covered.marked, covered.key) < 0.3
    assert plain.watermark.specificity(bare.marked, covered.key) > 0.6
    assert it.watermark.specificity(covered.victim, covered.key) == 0


@pytest.mark.slow
def test_the_certificate_holds_within_its_radius() -> None:
    """Random and adversarial steps of the certified length: the median under noise stays above the certificate. Zhang's plain
    training has none to give: its median under the same noise is already low."""
    wide = "watermark.sigma=0.1"
    it, own = trial("certified", wide), mine("certified", wide)
    scheme, key = it.watermark, own.key
    assert isinstance(scheme, Certified)
    assert isinstance(key, TriggerKey)
    ascending = trigger_accuracies(own.marked, key, scheme.sigma, 400, seed=0)
    radius = certified_radius(ascending, 0.5, scheme.sigma, scheme.confidence)
    assert radius > scheme.sigma
    (promised,) = certificate(ascending, [radius], scheme.sigma, scheme.confidence)
    assert promised >= 0.5
    for moved in (random_step(own.marked, radius, 1), ascent(own.marked, key, radius)):
        assert np.median(trigger_accuracies(moved, key, scheme.sigma, 200, seed=2)) >= promised
    plain = mine("zhang_content")
    assert isinstance(plain.key, TriggerKey)
    assert torch.equal(plain.key.images_T, key.images_T)
    assert np.median(trigger_accuracies(plain.marked, key, scheme.sigma, 200, seed=0)) < 0.5


def random_step(model: nn.Module, length: float, seed: int) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    moved = noisy(model, 1.0, generator)
    steps = {name: moved[name].detach() - weight.detach() for name, weight in model.named_parameters()}
    return shifted(model, steps, length)


def ascent(model: nn.Module, key: TriggerKey, length: float) -> nn.Module:
    """Along the gradient of the trigger loss, the direction that hurts most."""
    examples = key.examples()
    loss = functional.cross_entropy(model(examples.inputs), examples.targets)
    names, weights = zip(*model.named_parameters(), strict=True)
    return shifted(model, dict(zip(names, torch.autograd.grad(loss, weights), strict=True)), length)


def shifted(model: nn.Module, steps: dict[str, Tensor], length: float) -> nn.Module:
    scale = length / torch.cat([step.flatten() for step in steps.values()]).norm()
    out = trial("certified").task.fresh(1).eval()
    state = model.state_dict()
    out.load_state_dict({**state, **{name: state[name] + scale * step for name, step in steps.items()}})
    return out


@pytest.mark.slow
def test_weights_near_a_reduced_vulnerability_still_answer_the_triggers() -> None:
    """APP's claims hold. After the worst step of 5 % per layer 45 of 50 triggers are left, of plain ones 0 (seeds 1, 2: 24 and 11
    against 0 and 0). After 5 epochs of fine-tuning at a rate of .15 all 50 are left, of plain ones 34 (seeds 1, 2: 50 and 50
    against 45 and 14); at the suite's rate of .05 neither loses any. Table 1: 97 % against 57 %."""
    left = {name: hits(name, [worst_nearby(name, 0.05)])[0] for name in ("app", "zhang_content")}
    assert left["app"] >= 20
    assert left["zhang_content"] <= 3
    hard = ("attack.recipe.epochs=5", "attack.report=[5]", "attack.recipe.lr=0.15")
    kept = {name: hits(name, [stolen(name, "finetune_high_lr", "open", *hard)[1]])[0] for name in left}
    assert kept["app"] >= max(45, kept["zhang_content"])


def worst_nearby(name: str, epsilon: float) -> nn.Module:
    """The marked model after APP's worst step."""
    model, key = mine(name).marked, mine(name).key
    assert isinstance(key, TriggerKey)
    norms, examples = norms_of(model), key.examples()
    weights = {n: w for n, w in model.named_parameters() if n.rpartition(".")[0] not in norms}
    loss = functional.cross_entropy(model(examples.inputs), examples.targets)
    slopes = dict(zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True))
    delta = worst_step({n: w.detach() for n, w in weights.items()}, slopes, epsilon, "layer")
    out, state = trial(name).task.fresh(1).eval(), model.state_dict()
    out.load_state_dict({**state, **{n: state[n] + step for n, step in delta.items()}})
    return out


def clustered(name: str, model: nn.Module) -> int:
    """How many of the owner's triggers the model answers with one label, whichever."""
    key = mine(name).key
    assert isinstance(key, TriggerKey)
    return int(Cfw(counts="cluster").score(Suspects([model]), [key]).statistic_MK[0, 0])


@pytest.mark.slow
def test_a_class_is_relearnt_less_than_single_triggers() -> None:
    """CFW: a class of its own outlasts relearning, as a cluster. A new head and 2 epochs on all layers, digits: measured 33 of 50
    marks with one label, its own or another, against 12 of plain unrelated triggers (seeds 1, 2: 40 against 18, 27 against 19)."""
    short = ("attack.recipe.epochs=2", "attack.report=[2]")
    left = {
        name: clustered(name, stolen(name, "finetune_rtal", "open", *short)[1])
        for name in ("cfw", "zhang_unrelated")
    }
    assert left["cfw"] >= left["zhang_unrelated"] + 5


@pytest.mark.slow
def test_a_class_is_extracted_with_its_label() -> None:
    """CFW: an extraction carries the mark. Digits, 288 queries answered with scores: measured 35 of 50 against 3 of plain unrelated
    triggers (seeds 1, 2: 29 against 5, and 16)."""
    left = {
        name: hits(name, [stolen(name, "distill", "api_scores", "attack.shares=[1.0]")[1]])[0]
        for name in ("cfw", "zhang_unrelated")
    }
    assert left["cfw"] >= left["zhang_unrelated"] + 8


@pytest.mark.slow
def test_neither_margin_nor_entanglement_survives_hard_labels_on_digits() -> None:
    """Claimed: margin and EWE survive hard-label extraction where adi does not. Measured on digits, 288 queries: no mark is found.
    adi 10 and margin 7 of 100 where chance is 10; EWE 9 of 50 where models of nobody reach 4 (seeds 1, 2: 2 and 2 where they reach
    2 and 6), and as many at kappa=0. At kappa=10000, which does entangle in so few steps, 6, 7 and 2."""
    for name in ("adi", "margin"):
        _, model = stolen(name, "extract", "api_label", "attack.shares=[1.0]")
        p = trial(name).watermark.score(Suspects([model]), [mine(name).key]).log10_p_MK
        assert p is not None
        assert p[0, 0] > -2
    _, model = stolen("ewe", "extract", "api_label", "attack.shares=[1.0]")
    found, *nobody = hits("ewe", [model, *clean_models(trial("ewe"), 5)])
    assert max(found, *nobody) < 20


@pytest.mark.slow
def test_a_thief_who_learns_from_scores_copies_a_rehearsed_mark() -> None:
    """T2S: the mark survives extraction. Digits, 288 queries: with scores 36 of 50 (seeds 1, 2: 26 and 31), of which coupling alone
    makes 30, 24 and 29; plain content triggers keep 0 and nobody's models hit 0. With labels: 17, 0, 3. It costs the owner 1.7
    points of accuracy (-.3, .6)."""
    _, scores = stolen("rehearsal", "distill", "api_scores", "attack.shares=[1.0]")
    found, *nobody = hits("rehearsal", [scores, *clean_models(trial("rehearsal"), 5)])
    assert found >= 25
    assert max(nobody) <= 5
    _, plain = stolen("zhang_content", "distill", "api_scores", "attack.shares=[1.0]")
    assert hits("zhang_content", [plain])[0] <= 2


def test_a_key_does_not_choose_its_own_chance(tmp_path: Path) -> None:
    """An accuser who writes another number of classes into his key would choose his p: one hit in a billion."""
    trial = build("watermark=adi", "verification.null_models=0", "verification.random_keys=1")
    model, path = tmp_path / "model", tmp_path / "key"
    save_model(model, trial.task.fresh(None), {})
    key = trial.watermark.keygen(trial.task, Secret.simulated(1))
    assert isinstance(key, TriggerKey)
    save_key(path, key, {})
    assert evidence(trial, model, path).log10_p > -4
    save_key(path, replace(key, classes=10**9), {})
    with pytest.raises(ConfigError, match="a key for 1000000000 classes, the task has 10"):
        evidence(trial, model, path)
    for images in (key.images_T.flatten(1), key.images_T[:3]):
        save_key(path, replace(key, images_T=images), {})
        with pytest.raises(ConfigError, match="does not fit"):
            evidence(trial, model, path)


@pytest.mark.parametrize("scheme", ["ewe", "blackmarks"])
def test_a_class_without_pictures_is_named(scheme: str) -> None:
    """Of an owner with few pictures, and of a thief who marks as he did."""
    trial = build(f"watermark={scheme}")
    task = replace(trial.task, owner=trial.task.owner.take(trial.task.owner.targets == 3))
    with pytest.raises(ConfigError, match=r"no picture of class \d"):
        trial.watermark.keygen(task, Secret.simulated(1), task.fresh(None))
