"""The modify attacks' own facts: arithmetic of weights, masks, triggers and curves; bad input; what the papers say they do."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from assay.attacks.adversarial_training import hardened
from assay.attacks.anp import Anp, Masks
from assay.attacks.anp import pruned as without_masked
from assay.attacks.blend import flat, merged, merged_vector, placed, refreshed
from assay.attacks.clp import Clp, bounds
from assay.attacks.dehydra import Dehydra, recovered, targets_of
from assay.attacks.fine_pruning import without
from assay.attacks.ibau import Ibau
from assay.attacks.inversion import Inverted, Stamp, invert, inverting, suspects
from assay.attacks.jbda import stepped
from assay.attacks.label_smoothing import LabelSmoothing
from assay.attacks.laundering import Laundering
from assay.attacks.lora import Adapters, Lora, merged_back
from assay.attacks.mcr import Mcr, along_curve, bezier
from assay.attacks.nad import attention, positions, spread, taught
from assay.attacks.neural_cleanse import Cleanse, Unlearn, with_stamps
from assay.attacks.neurons import activity, neurons, recorded, silence
from assay.attacks.overwrite import Overwrite, strengthened
from assay.attacks.perturb import adversarial, evaluating
from assay.attacks.prune import prunable, pruned
from assay.attacks.prune_finetune import PruneFinetune
from assay.attacks.quantize import Quantize, quantised
from assay.attacks.regularisation import Regularisation
from assay.attacks.transfer import Transfer, with_head_for
from assay.attacks.weight_noise import noisy
from assay.attacks.weight_shift import shifted
from assay.attacks.wrk import Wrk
from assay.core.contracts import EachEpoch, Recipe
from assay.core.errors import ConfigError, NotApplicable
from assay.core.examples import Examples
from assay.core.scores import Scores
from assay.core.suspects import Suspects, logits
from assay.core.theft import Adversary, Cost, Surrogate
from assay.deployments.reach import Gateway
from assay.experiments.api import build
from assay.experiments.meter import Meter
from assay.experiments.people import Owner, owner
from assay.experiments.trial import Trial
from assay.watermarks.uchida import Uchida
from assay.zoo.byte_models import BertBytes
from assay.zoo.models import CnnSmall, Mlp, Resnet18, VitTiny, head

SHAPE, CLASSES = (1, 8, 8), 10
SHORT = Recipe(epochs=1, lr=0.01, schedule="constant")


@cache
def small() -> nn.Module:
    return CnnSmall().build(SHAPE, CLASSES, 1).eval()


@cache
def resnet() -> nn.Module:
    return Resnet18().build(SHAPE, CLASSES, 1).eval()


def pictures(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(seed))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def parameter(model: nn.Module, name: str) -> Tensor:
    return model.get_parameter(name).detach()


@cache
def trial(*overrides: str) -> Trial:
    return build(*overrides, "trainer.progress=false")


@cache
def marked(scheme: str) -> Owner:
    return owner(trial(f"watermark={scheme}"), "owner")


def means(it: Trial, model: nn.Module) -> tuple[Gateway, Meter, Adversary]:
    access = Gateway(model, ("weights",))
    meter = Meter(access, it.trainer("thief"))
    return access, meter, it.adversary(meter)


@cache
def stolen(scheme: str, *overrides: str) -> list[Surrogate]:
    it = trial(f"watermark={scheme}", *overrides)
    access, meter, adversary = means(it, marked(scheme).marked)
    return list(meter.over(it.attack(access, adversary)))


def judged(scheme: str, model: nn.Module) -> Scores:
    return trial(f"watermark={scheme}").watermark.score(Suspects([model]), [marked(scheme).key])


def log10_p(scores: Scores) -> float:
    assert scores.log10_p_MK is not None
    return float(scores.log10_p_MK[0, 0])


def accuracy(model: nn.Module) -> float:
    test = trial("watermark=none").task.test
    return float((logits(model, test.inputs).argmax(-1) == test.targets).double().mean())


# --- means -----------------------------------------------------------------------------------------------------------------


def test_a_thief_with_few_examples_takes_as_many_steps() -> None:
    steps = []
    for share in (0.05, 1.0):
        it = trial("watermark=none", "attack=finetune", f"adversary.data={share}")
        access, meter, adversary = means(it, it.task.fresh(0))
        found = list(meter.over(it.attack(access, adversary)))
        steps.append([s.cost.steps for s in found if s.cost])
        assert len(adversary.data) == round(share * 288)
    assert steps[0] == steps[1]
    assert len(steps[0]) > 1


# --- formats ---------------------------------------------------------------------------------------------------------------


def test_fp8_weights_are_e4m3_times_one_scale_and_close() -> None:
    for (_, before), (_, after) in zip(prunable(small()), prunable(quantised(small(), "fp8")), strict=True):
        stored = after.parametrizations.weight
        assert stored.original0.dtype == torch.float8_e4m3fn
        scale, weight = stored.original1, before.weight.detach()
        assert torch.equal(after.weight, stored.original0.float() * scale)
        assert torch.equal((after.weight / scale).to(torch.float8_e4m3fn).float(), stored.original0.float())
        assert float(stored.original0.float().abs().max()) == 448.0
        normal = (weight / scale).abs() >= 2**-6
        error = ((after.weight.detach() - weight).abs() / weight.abs())[normal]
        assert 0 < float(error.max()) <= 2**-4 + 1e-6  # half a unit in the last of 3 bits


def test_fp16_computes_in_fp16_and_formats_rise_in_strength() -> None:
    model = quantised(small(), "fp16")
    floats = [t for t in model.get_submodule("net").state_dict().values() if t.is_floating_point()]
    assert {t.dtype for t in floats} == {torch.float16}
    assert model(pictures(2)).dtype == torch.float16
    access, _, adversary = means(trial("watermark=none"), small())
    attack = Quantize(formats=("int4", "fp8", "bf16", "fp16", "int8"))
    assert [s.strength for s in attack(access, adversary)] == [13.0, 16.0, 20.0, 24.0, 28.0]


@pytest.mark.parametrize(("to", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_bytes_are_decoded_before_they_are_rounded(to: Literal["bf16", "fp16"], dtype: torch.dtype) -> None:
    """In bf16 1/255 would be 1/256, and 255 would decode to 256. The quarters are for schemes that follow gradients."""
    whole = torch.arange(256.0).view(1, 1, 1, 256)
    model = BertBytes(width=8, depth=1, heads=1, byte=4).build((1, 1, 256), CLASSES, 1).eval()
    rounded = quantised(model, to)
    for inputs in (whole / 255, (whole + 0.25) / 255):
        with torch.no_grad(), recorded(model, ["normalise", "net.bytes"]) as exact:
            model(inputs)
        with torch.no_grad(), recorded(rounded, ["normalise", "net.bytes"]) as outputs:
            assert rounded(inputs).dtype == dtype
        assert torch.equal(outputs["normalise"], exact["normalise"])
        torch.testing.assert_close(outputs["net.bytes"], exact["net.bytes"].to(dtype), atol=0.02, rtol=0.02)


@pytest.mark.parametrize("to", ["bf16", "fp16"])
def test_pictures_are_normalised_before_they_are_rounded(to: Literal["bf16", "fp16"]) -> None:
    with torch.no_grad(), recorded(rounded := quantised(small(), to), ["normalise"]) as outputs:
        said = rounded(pictures(64))
        with recorded(small(), ["normalise"]) as exact:
            expected = small()(pictures(64))
    assert torch.equal(outputs["normalise"], exact["normalise"].to(said.dtype))
    assert not any(module.training for module in rounded.modules())
    torch.testing.assert_close(said.float(), expected, atol=0.05, rtol=0.05)


# --- arithmetic of weights -------------------------------------------------------------------------------------------------


def test_noise_has_the_spread_it_says_and_is_a_ray() -> None:
    name = "net.block3.conv.weight"
    original = parameter(small(), name)
    weak, strong = (parameter(noisy(small(), s, seeded()), name) - original for s in (0.05, 0.5))
    assert float(strong.std() / original.std()) == pytest.approx(0.5, rel=0.02)
    torch.testing.assert_close(strong, 10 * weak, atol=1e-6, rtol=1e-3)
    assert torch.equal(parameter(noisy(small(), 0.5, seeded()), "net.block3.norm.weight"), torch.ones(64))


@pytest.mark.parametrize("shift", [1.5, 2.5])
def test_a_shift_scales_the_mean_filter_by_one_minus_itself(shift: float) -> None:
    before = parameter(small(), "net.block3.conv.weight")
    after = parameter(shifted(small(), shift, 0.0, seeded()), "net.block3.conv.weight")
    torch.testing.assert_close(after.mean(0), (1 - shift) * before.mean(0), atol=1e-7, rtol=1e-4)
    torch.testing.assert_close(after - after.mean(0), before - before.mean(0), atol=1e-7, rtol=1e-4)
    noise = parameter(shifted(small(), shift, 1.0, seeded()), "net.block3.conv.weight") - after
    assert float(noise.std() / before.std()) == pytest.approx(1.0, rel=0.02)


@pytest.mark.parametrize(
    "attacked",
    [
        lambda model: noisy(model, 0.5, seeded()),
        lambda model: shifted(model, 1.5, 0.0, seeded()),
        lambda model: pruned(model, 0.5, "structured"),
        lambda model: quantised(model, "int4"),
    ],
    ids=["noise", "shift", "prune", "int4"],
)
def test_convolutions_of_sequences_are_convolutions(attacked: Callable[[nn.Module], nn.Module]) -> None:
    model = BertBytes(width=8, depth=1, heads=1, byte=4).build((1, 1, 32), CLASSES, 1).eval()
    before, after = model.get_submodule("net.words").weight, attacked(model).get_submodule("net.words").weight
    assert isinstance(before, Tensor)
    assert isinstance(after, Tensor)
    assert not torch.equal(before, after)


def test_a_network_without_convolutions_cannot_be_shifted() -> None:
    with pytest.raises(NotApplicable, match="no convolution"):
        shifted(Mlp().build(SHAPE, CLASSES, 1), 1.5, 0.0, seeded())


@pytest.mark.slow
def test_shift_inverts_uchida_and_the_two_sided_test_still_finds_it() -> None:
    for surrogate in stolen("uchida", "attack=weight_shift"):
        scores = judged("uchida", surrogate.model)
        assert scores.statistic_MK[0, 0] < 0.5 * 256
        assert log10_p(scores) < -20
        assert accuracy(surrogate.model) > 0.9


# --- overwriting -----------------------------------------------------------------------------------------------------------


def test_multipliers_scale_the_strength_and_schemes_without_one_are_taken_once() -> None:
    scheme = Uchida(layer="net.block3.conv", strength=0.01)
    grid = list(strengthened(scheme, (100.0, 1.0)))
    assert [(m, s.strength) for m, s in grid] == [(1.0, 0.01), (100.0, 1.0)]
    adi = trial("watermark=adi").watermark
    assert list(strengthened(adi, (1.0, 10.0))) == [(1.0, adi)]


@pytest.mark.slow
def test_overwriting_leaves_two_marks_until_it_is_strong() -> None:
    """At the scheme's own strength both owners are found; the owner's evidence falls with the thief's multiplier."""
    it = trial("watermark=uchida", "attack=overwrite", "attack.multipliers=[1.0,100.0]")
    attack = it.attack
    assert isinstance(attack, Overwrite)
    access, _, adversary = means(it, marked("uchida").marked)
    weak, strong = attack(access, adversary)
    theirs = attack.key(adversary, adversary.scheme, access.weights())
    assert theirs.fingerprint != marked("uchida").key.fingerprint
    for surrogate in (weak, strong):
        assert log10_p(it.watermark.score(Suspects([surrogate.model]), [theirs])) < -20
    assert log10_p(judged("uchida", weak.model)) < -20
    assert log10_p(judged("uchida", strong.model)) > log10_p(judged("uchida", weak.model)) + 20


@pytest.mark.parametrize("scheme", ["uchida", "adi", "deepsigns"])
def test_overwriting_trains_by_its_own_recipe(scheme: str) -> None:
    other = "batch_size: 64, optimizer: sgd, lr: 0.01, momentum: 0.9, weight_decay: 0, schedule: constant"
    words = "attack=overwrite", "attack.multipliers=[1.0]"
    recipes = [f"+attack.recipe={{epochs: {n}, {other}, step_epochs: 5, step_factor: 0.5}}" for n in (1, 2)]
    one, two = (stolen(scheme, *words, recipe)[0].cost for recipe in recipes)
    assert one is not None
    assert two is not None
    assert two.steps == 2 * one.steps > 0


def test_a_strength_that_diverges_ends_the_grid() -> None:
    (only,) = stolen("uchida", "attack=overwrite", "attack.multipliers=[1.0,1e38]")
    assert only.strength == 1.0


# --- WRK -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("skip", [False, True])
def test_boundary_samples_are_pictures_with_wrong_labels(skip: bool) -> None:
    _, _, adversary = means(trial("watermark=none"), small())
    attack = Wrk(recipe=SHORT, skip_class_0=skip)
    assert len(attack.boundary(small(), adversary)) == round(0.05 * len(adversary.data)) == 14
    found = replace(attack, share=1.0).boundary(small(), adversary)
    assert 0 <= float(found.inputs.min()) <= float(found.inputs.max()) <= 1
    own = torch.randperm(len(adversary.data), generator=drawn(adversary, "boundary"))
    assert len(found) == len(own)
    assert not (found.targets == adversary.data.targets[own]).any()
    assert (0 in found.targets.tolist()) != skip
    assert found.targets.unique().numel() == (9 if skip else 10)
    batch = adversary.data.take(own[: SHORT.batch_size])
    whole = [
        stepped(small(), Examples(batch.inputs, torch.full_like(batch.targets, c)), 2.0) for c in range(10)
    ]
    assert any(torch.equal(found.inputs[: len(batch)], moved) for moved in whole), "a class per batch"


def drawn(adversary: Adversary, name: str) -> torch.Generator:
    from assay.attacks.trajectory import drawing

    return drawing(adversary, name)


@pytest.mark.slow
def test_wrk_lowers_adi_more_than_plain_finetuning() -> None:
    ours, plain = (stolen("adi", f"attack={name}")[-1].model for name in ("wrk", "finetune"))
    hits = [float(judged("adi", model).statistic_MK[0, 0]) for model in (ours, plain)]
    assert hits[0] < 30
    assert hits[1] > 90
    assert accuracy(ours) > 0.9


# --- neurons ---------------------------------------------------------------------------------------------------------------


def test_neurons_of_every_architecture() -> None:
    assert [(n.layer, n.norm, n.count) for n in neurons(small())] == [
        (f"net.block{i}.conv", f"net.block{i}.norm", 32 if i == 1 else 64) for i in (1, 2, 3)
    ]
    assert {n.norm is not None for n in neurons(resnet())} == {True}
    assert len(neurons(resnet())) == 20
    vit = VitTiny().build(SHAPE, CLASSES, 1)
    assert {n.norm for n in neurons(vit)} == {None}
    assert [tuple(a.shape) for a in activity(vit.eval(), pictures(3), neurons(vit)[-1:])] == [(3, 64)]
    with pytest.raises(NotApplicable, match="no layer but its classifier"):
        neurons(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))


def test_silenced_channels_are_silent_and_hooks_are_gone() -> None:
    model = CnnSmall().build(SHAPE, CLASSES, 1).eval()
    which = neurons(model)[1]
    silence(model, which, torch.tensor([3, 7]))
    (active_NC,) = activity(model, pictures(300), [which])
    assert active_NC.shape == (300, 64)
    assert (active_NC == 0).all(0).nonzero().flatten().tolist() == [3, 7]
    with recorded(model, [which.carrier]) as outputs:
        model(pictures(2))
    assert outputs[which.carrier].shape == (2, 64, 4, 4)
    outputs.clear()
    model(pictures(2))
    assert not outputs


def test_recorded_outputs_are_those_of_the_module_not_of_what_is_done_to_them_in_place() -> None:
    """In a residual block the norm's output is summed with the shortcut and rectified in place."""
    with recorded(resnet(), ["net.layer1.0.bn1", "net.layer1.0.bn2"]) as outputs:
        resnet()(pictures(4))
    for output in outputs.values():
        assert (output < 0).any()


def test_fine_pruning_tunes_the_pruned_network_from_the_first_step() -> None:
    """The loss is that of the silenced network; a channel that momentum brought back is silenced again."""
    model, (*_, which) = CnnSmall().build(SHAPE, CLASSES, 1).eval(), neurons(small())
    gone, inputs, targets = torch.arange(40), pictures(16), torch.arange(16) % CLASSES
    expected = CnnSmall().build(SHAPE, CLASSES, 1).eval()
    silence(expected, which, gone)
    objective = without(partial(silence, which=which, gone=gone))
    for _ in range(2):
        loss = float(objective(model, inputs, targets).detach())
        assert loss == pytest.approx(float(functional.cross_entropy(expected(inputs), targets).detach()))
        with torch.no_grad():
            model.get_parameter(f"{which.carrier}.bias")[gone] = 1


@pytest.mark.parametrize("scope", ["global", "structured"])
def test_what_was_pruned_stays_so_while_the_rest_is_tuned(scope: Literal["global", "structured"]) -> None:
    """Weights of pruned filters, and their norms' weights too."""
    access, _, adversary = means(trial("watermark=none"), small())
    attack = PruneFinetune(recipe=SHORT, scope=scope, sparsities=(0.5,))
    ((surrogate,), start) = list(attack(access, adversary)), pruned(small(), 0.5, scope)
    for (_, after), (name, layer) in zip(prunable(surrogate.model), prunable(start), strict=True):
        assert ((after.weight == 0) == (layer.weight == 0)).all(), name
        assert not torch.equal(after.weight, layer.weight), name
    for name in ("net.block2.norm.weight", "net.block2.conv.weight"):
        zeros = [int((parameter(model, name) == 0).sum()) for model in (start, surrogate.model)]
        assert zeros[0] == zeros[1]


@pytest.mark.slow
def test_fine_pruning_keeps_dormant_channels_at_zero() -> None:
    (surrogate,) = stolen("none", "attack=fine_pruning", "attack.shares=[0.5]", "attack.recipe.epochs=2")
    norm = parameter(surrogate.model, "net.block3.norm.weight")
    kernels = parameter(surrogate.model, "net.block3.conv.weight").flatten(1).abs().sum(1)
    assert int((norm == 0).sum()) == int((kernels == 0).sum()) == 32
    assert accuracy(surrogate.model) > 0.9


def test_lipschitz_bounds_are_singular_values_times_the_norms_factor() -> None:
    model = CnnSmall().build(SHAPE, CLASSES, 1).eval()
    which = neurons(model)[2]
    norm: Any = model.get_submodule("net.block3.norm")
    with torch.no_grad():
        norm.weight[5], norm.running_var[5] = -30.0, 3.0
    kernel = parameter(model, "net.block3.conv.weight")[5].reshape(64, 9).double()
    expected = torch.linalg.svdvals(kernel)[0] * 30 / math.sqrt(3 + norm.eps)
    bound_C = bounds(model, which)
    assert float(bound_C[5]) == pytest.approx(float(expected), rel=1e-5)
    access, _, adversary = means(trial("watermark=none"), model)
    first, *others = Clp()(access, adversary)
    assert parameter(first.model, "net.block3.norm.weight")[5] == 0
    highest = max(Clp().deviations)
    assert torch.equal(
        parameter(first.model, "net.block3.norm.weight") == 0,
        bound_C > bound_C.mean() + highest * bound_C.std(correction=1),
    )
    for surrogate in (first, *others):
        silent = parameter(surrogate.model, "net.block3.norm.weight") == 0
        assert bound_C[silent].min() > bound_C[~silent].max()


def test_lipschitz_pruning_on_resnet18_and_on_equal_channels() -> None:
    access, _, adversary = means(trial("watermark=none"), resnet())
    shares = [s.strength for s in Clp()(access, adversary)]
    assert shares == sorted(set(shares))
    even = CnnSmall().build(SHAPE, CLASSES, 1)
    for which in neurons(even):
        nn.init.constant_(even.get_parameter(f"{which.layer}.weight"), 0.1)
    access, _, adversary = means(trial("watermark=none"), even)
    with pytest.raises(NotApplicable, match=r"attack\.deviations"):
        list(Clp()(access, adversary))


def test_anp_masks_of_one_change_nothing_and_prune_the_smallest() -> None:
    masks = Masks(neurons(small()))
    none = [torch.zeros(2, which.count) for which in masks.layers]
    same = torch.func.functional_call(small(), masks.parameters_of(small(), none), (pictures(4),))
    torch.testing.assert_close(same, small()(pictures(4)))
    with torch.no_grad():
        masks.masks[1][:16] = torch.linspace(-1, 0.5, 16)
        masks.masks[2][0] = 2.0
    masks.clip()
    assert all(0 <= float(m.detach().min()) <= float(m.detach().max()) <= 1 for m in masks.masks)
    model = without_masked(small(), masks, 0.1)
    silent = [int((parameter(model, f"{w.carrier}.weight") == 0).sum()) for w in masks.layers]
    assert silent == [0, 16, 0]
    for which in masks.layers:  # the masks were trained with biases and kernels in place
        for name in (f"{which.carrier}.bias", f"{which.layer}.weight"):
            assert torch.equal(parameter(model, name), parameter(small(), name))


def test_anp_normalises_every_pass_by_its_own_batch() -> None:
    """With epsilon 0 and masks of 1 the loss is that of training mode, whatever mode the norms are in; no statistic moves."""
    model = CnnSmall().build(SHAPE, CLASSES, 1).eval()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    inputs, targets = 3 * pictures(32), torch.arange(32) % CLASSES
    masks, attack = Masks(neurons(model)), Anp(recipe=SHORT, epsilon=0.0)
    loss = float(attack.loss(model, masks, inputs, targets).detach())
    assert not any(module.training for module in model.modules())
    assert all(torch.equal(before[name], buffer) for name, buffer in model.named_buffers())
    apart = float(functional.cross_entropy(model(inputs), targets).detach())
    expected = float(functional.cross_entropy(model.train()(inputs), targets).detach())
    assert loss == pytest.approx(expected, rel=1e-5)
    assert abs(loss - apart) > 1e-3


@pytest.mark.slow
def test_anp_trains_masks_between_zero_and_one_and_prunes_the_share_it_says() -> None:
    surrogates = stolen("none", "attack=anp", "attack.recipe.epochs=3", "attack.shares=[0.1,0.5]")
    for surrogate in surrogates:
        zeros = [int((parameter(surrogate.model, f"net.block{i}.norm.weight") == 0).sum()) for i in (1, 2, 3)]
        assert sum(zeros) == round(160 * surrogate.strength)


# --- losses ----------------------------------------------------------------------------------------------------------------


def test_smoothed_labels_share_epsilon_among_all_classes() -> None:
    scores, targets = torch.randn(6, 5, dtype=torch.float64, generator=seeded()), torch.arange(6) % 5
    log_p = functional.log_softmax(scores, -1)
    expected = -(0.7 * log_p[torch.arange(6), targets] + 0.3 * log_p.mean(1)).mean()
    assert float(LabelSmoothing(recipe=SHORT, smoothing=0.3).loss(scores, targets)) == pytest.approx(
        float(expected), abs=1e-12
    )


def test_regularisation_is_the_weight_decay_of_sgd() -> None:
    _, _, adversary = means(trial("watermark=none"), small())
    decays: list[tuple[float, bool]] = []

    def fit(model: nn.Module, data: Examples, *, recipe: Recipe, label: str, **rest: object) -> nn.Module:
        decays.append((recipe.weight_decay, bool(rest)))
        return model

    attack = Regularisation(destroy=SHORT, recover=SHORT)
    list(attack(Gateway(small(), ("weights",)), replace(adversary, fit=fit)))  # type: ignore[arg-type]
    usual = (SHORT.weight_decay, False)
    assert decays == [(0.1, False), usual, (0.25, False), usual]


@pytest.mark.slow
def test_regularisation_shrinks_before_it_recovers() -> None:
    (weak, strong) = stolen(
        "none", "attack=regularisation", "attack.coefficients=[0.1,0.25]", "attack.recover.epochs=1"
    )
    norms = [float(flat(model).norm()) for model in (marked("none").marked, weak.model, strong.model)]
    assert norms[0] > 1.5 * norms[1] > 1.5 * norms[2]


def test_adversarial_inputs_stay_near_and_raise_the_loss() -> None:
    inputs, targets = pictures(32), small()(pictures(32)).argmax(-1)
    moved = adversarial(small(), inputs, targets, 0.1, 5)
    assert float((moved - inputs).abs().max()) <= 0.1 + 1e-6
    assert 0 <= float(moved.min()) <= float(moved.max()) <= 1
    assert functional.cross_entropy(small()(moved), targets) > functional.cross_entropy(
        small()(inputs), targets
    )


def test_attacks_on_inputs_leave_modes_and_statistics_alone() -> None:
    model = CnnSmall().build(SHAPE, CLASSES, 1).train()
    model.get_submodule("net.block1.norm").eval()
    before = [module.training for module in model.modules()]
    with evaluating(model):
        assert not any(module.training for module in model.modules())
    adversarial(model, pictures(8), torch.arange(8), 0.1, 2)
    assert [module.training for module in model.modules()] == before
    assert model.get_buffer("net.block3.norm.num_batches_tracked") == 0
    hardened(0.1, 2)(model, pictures(8), torch.arange(8)).backward()
    assert model.get_buffer("net.block3.norm.num_batches_tracked") == 1
    assert model.get_buffer("net.block1.norm.num_batches_tracked") == 0


def test_attention_is_a_unit_map_and_a_teacher_like_the_student_costs_nothing() -> None:
    maps = attention(torch.randn(3, 8, 4, 4, generator=seeded()))
    assert maps.shape == (3, 16)
    torch.testing.assert_close(maps.norm(dim=1), torch.ones(3))
    assert attention(torch.randn(3, 7, 8, generator=seeded())).shape == (3, 7)
    assert attention(torch.randn(3, 8, generator=seeded())).shape == (3, 8)
    assert spread(small(), 3) == [f"net.block{i}.norm" for i in (1, 2, 3)]
    assert spread(resnet(), 4) == [f"net.layer{i}.1" for i in (1, 2, 3, 4)]
    assert len(spread(resnet(), 3)) == 3
    inputs, targets = pictures(8), torch.arange(8)
    other = CnnSmall().build(SHAPE, CLASSES, 2).eval()
    plain, alike, unlike = (
        float(loss.detach())
        for loss in (
            functional.cross_entropy(small()(inputs), targets),
            taught(small(), spread(small(), 3), 2000.0)(small(), inputs, targets),
            taught(other, spread(other, 3), 2000.0)(small(), inputs, targets),
        )
    )
    assert alike == pytest.approx(plain)
    assert unlike > plain + 0.1


def test_a_map_weighs_the_same_whatever_the_size_of_the_picture() -> None:
    """beta is for 32x32: on 8x8 the loss of the maps is beta/16 of their mean squared differences."""
    inputs, targets = pictures(8), torch.arange(8)
    other, names = CnnSmall().build(SHAPE, CLASSES, 2).eval(), spread(small(), 3)
    plain, whole = (float(taught(other, names, b)(small(), inputs, targets).detach()) for b in (0.0, 160.0))
    with torch.no_grad(), recorded(small(), names) as mine, recorded(other, names) as theirs:
        small()(inputs)
        other(inputs)
    apart = sum(float(functional.mse_loss(attention(mine[n]), attention(theirs[n]))) for n in names)
    assert whole - plain == pytest.approx(10 * apart, rel=1e-4)
    assert positions(torch.zeros(2, 3, 32, 32)) == 1024
    assert positions(torch.zeros(2, 16)) == 16


@dataclass(frozen=True)
class Solved(Ibau):
    """With the exact maximiser in place of a few steps: Newton by plain ascent, g being strictly concave here."""

    def ascended(self, live: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        delta = torch.zeros_like(inputs[:1]).requires_grad_(True)
        for _ in range(400):
            delta = (
                (delta + 0.1 * self.slope(live, delta, inputs, targets, graph=False))
                .detach()
                .requires_grad_(True)
            )
        return delta


def test_the_hypergradient_is_the_total_derivative() -> None:
    """Against central differences of theta -> outer loss at the maximiser of theta, in float64."""
    model = nn.Linear(3, 2, bias=False).double()
    inputs = 0.4 + 0.2 * torch.rand(8, 3, dtype=torch.float64, generator=seeded())
    targets = model(inputs).argmax(-1)  # the perturbation is made against what the model says
    attack = Solved(recipe=SHORT, decay=5.0, rate=0.1, terms=400)

    def outer() -> float:
        delta = attack.ascended(model, inputs, targets).detach()
        return (
            sum(float(functional.cross_entropy(model(x), targets).detach()) for x in (inputs, inputs + delta))
            / 2
        )

    attack.loss(model, inputs, targets).backward()
    gradient = model.weight.grad
    assert gradient is not None
    for i, j in ((0, 0), (1, 2)):
        start = model.weight.detach().clone()
        reached = []
        for step in (1e-5, -1e-5):
            model.weight.data[i, j] = start[i, j] + step
            reached.append(outer())
        model.weight.data[i, j] = start[i, j]
        assert float(gradient[i, j]) == pytest.approx((reached[0] - reached[1]) / 2e-5, abs=1e-7)


def test_ibau_evaluates_the_network_and_leaves_perturbed_inputs_as_they_are() -> None:
    """In training mode the norms would take their statistics from the batch, and keep them. One term of the series is dL/ddelta."""
    model = CnnSmall().build(SHAPE, CLASSES, 1).train()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    inputs, targets = pictures(16).round(), torch.arange(16) % CLASSES
    attack = Ibau(recipe=SHORT, share=0.25, terms=1)
    loss = float(attack.loss(model, inputs, targets).detach())
    assert model.training
    assert all(torch.equal(before[name], buffer) for name, buffer in model.named_buffers())
    model.eval()
    delta = attack.ascended(model, inputs, model(inputs).argmax(-1))
    outer = functional.cross_entropy(model(inputs + delta), targets) * 0.25
    (v,) = torch.autograd.grad(outer, delta, retain_graph=True)
    implicit = ((delta + attack.rate * attack.slope(model, delta, inputs, targets, graph=False)) * v).sum()
    clean = functional.cross_entropy(model(inputs), targets) * 0.75
    assert loss == pytest.approx(float((clean + outer + implicit).detach()), rel=1e-4)


def test_the_hypergradient_passes_through_attention() -> None:
    model = VitTiny().build(SHAPE, CLASSES, 1)
    Ibau(recipe=SHORT, steps=1, terms=1).loss(model, pictures(4), torch.arange(4)).backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    assert all(g is not None and bool(g.isfinite().all()) for g in gradients)


def test_the_universal_perturbation_fills_its_ball_and_raises_the_loss() -> None:
    attack, inputs = Ibau(recipe=SHORT), pictures(32)
    targets = small()(inputs).argmax(-1)
    delta = attack.ascended(small(), inputs, targets).detach()
    assert delta.shape == (1, *SHAPE)
    assert float(delta.norm()) <= 0.1 * 8 * (1 + 1e-5)
    assert functional.cross_entropy(small()(inputs + delta), targets) > functional.cross_entropy(
        small()(inputs), targets
    )


# --- triggers --------------------------------------------------------------------------------------------------------------


def test_a_stamp_is_its_pattern_under_its_mask() -> None:
    stamp = Stamp(torch.Size(SHAPE), seeded())
    mask = stamp.mask.detach()
    assert 0 <= float(mask.min()) <= float(mask.max()) <= 1
    nn.init.constant_(stamp.free_mask, -50.0)
    assert torch.equal(stamp(pictures(2)), pictures(2))
    nn.init.constant_(stamp.free_mask, 50.0)
    torch.testing.assert_close(stamp(pictures(2)), stamp.pattern.expand(2, *SHAPE))


def test_classes_that_need_little_are_suspected() -> None:
    assert suspects([10.0, 11.0, 9.5, 1.0, 10.2, 10.4, 2.0]) == [3, 6]
    assert suspects([10.0, 11.0, 9.0]) == [2]
    assert suspects([20.0, 10.0, 11.0, 10.5, 9.5]) == [4]


def test_stamped_inputs_take_turns_and_keep_their_labels() -> None:
    stamps = [Stamp(torch.Size(SHAPE), seeded(i)).requires_grad_(False) for i in range(3)]
    found = Inverted(stamps, [0, 2])
    out = found.stamped(pictures(5))
    assert torch.equal(out[0::2], stamps[0](pictures(5)[0::2]))
    assert torch.equal(out[1::2], stamps[2](pictures(5)[1::2]))
    data = with_stamps(Examples(pictures(10), torch.arange(10)), found, 0.2)
    assert data.targets.tolist() == [*range(10), 0, 1]


def corner(inputs: Tensor) -> Tensor:
    """A 2x2 patch of white in a corner."""
    out = inputs.clone()
    out[:, :, -2:, -2:] = 1
    return out


@cache
def backdoored() -> nn.Module:
    """A planted trigger of one target class, which is what trigger inversion is made for."""
    it = trial("watermark=none")
    task = it.task
    planted = Examples(corner(task.owner.inputs), torch.full_like(task.owner.targets, 3))
    return it.trainer("planted")(task.fresh(None), task.owner, extra=planted, extra_per_batch=8)


def success(model: nn.Module) -> float:
    test = trial("watermark=none").task.test
    others = test.inputs[test.targets != 3]
    return float((logits(model, corner(others)).argmax(-1) == 3).double().mean())


@pytest.mark.slow
def test_neural_cleanse_finds_the_planted_class_and_unlearns_it() -> None:
    it = trial("watermark=none", "attack=neural_cleanse_unlearn")
    attack = it.attack
    assert isinstance(attack, Unlearn)
    assert success(backdoored()) > 0.9
    _, _, adversary = means(it, backdoored())
    found = invert(adversary, backdoored(), attack.inversion, attack.sparsity)
    assert 3 in found.suspected
    assert all(0 <= float(s.mask.min()) <= float(s.mask.max()) <= 1 for s in found.stamps)
    stamped = with_stamps(adversary.data, found, attack.share)
    cleaned, plain = (
        adversary.fit(backdoored(), data, recipe=attack.recipe) for data in (stamped, adversary.data)
    )
    assert success(cleaned) < 0.3
    assert success(plain) > success(cleaned) + 0.2
    assert accuracy(cleaned) > 0.9


@pytest.mark.slow
def test_ibau_weakens_a_planted_trigger() -> None:
    """From 100 % of other digits to none in 20 epochs, at a cost of 3.1 pp of accuracy; 1.9 pp in the attack's 40."""
    it = trial("watermark=none", "attack=ibau", "attack.recipe.epochs=20", "attack.report=[20]")
    access, meter, adversary = means(it, backdoored())
    *_, last = meter.over(it.attack(access, adversary))
    assert success(backdoored()) > 0.9
    assert success(last.model) < 0.2
    assert accuracy(last.model) > 0.9


def test_laundering_resets_weights_that_can_learn_again() -> None:
    """Where a stamp raises a channel's mean output at any position most, in the later half of the layers; norms stay."""
    stamps = [Stamp(torch.Size(SHAPE), seeded(i)).requires_grad_(False) for i in range(CLASSES)]
    found = Inverted(stamps, [4])
    _, _, adversary = means(trial("watermark=none"), small())
    attack = Laundering(inversion=SHORT, recipe=SHORT, conv=0.6)
    inputs = adversary.data.inputs
    model = attack.reset(small(), adversary, found).train()
    for which in neurons(small())[1:]:
        maps = []
        for x in (inputs, found.stamped(inputs)):
            with torch.no_grad(), recorded(small(), [which.layer]) as outputs:
                small()(x)
            maps.append(outputs[which.layer].mean(0).flatten(1))
        raised = (maps[1] - maps[0]).amax(1)
        silent = parameter(model, f"{which.layer}.weight").flatten(1).abs().sum(1) == 0
        assert silent[raised.argmax()]
        assert torch.equal(silent, raised > 0.6 * raised.max())
    assert changed(small(), model) == {"net.block2.conv.weight", "net.block3.conv.weight"}
    nn.init.constant_(model.get_parameter("net.block3.norm.bias"), 0.1)
    functional.cross_entropy(model(inputs), adversary.data.targets).backward()
    weight = model.get_parameter("net.block3.conv.weight")
    assert weight.grad is not None
    assert (weight.grad[silent] != 0).any()


def changed(one: nn.Module, other: nn.Module) -> set[str]:
    mine, theirs = one.state_dict(), other.state_dict()
    return {name for name in mine if not torch.equal(mine[name], theirs[name])}


def test_a_stamp_is_not_asked_to_move_its_own_class() -> None:
    stamps = [Stamp(torch.Size(SHAPE), seeded(i)) for i in range(CLASSES)]
    inputs = pictures(40)
    said = small()(inputs).argmax(-1)
    expected = 0.1 * sum(float(stamp.mask.detach().sum()) for stamp in stamps)
    for label, stamp in enumerate(stamps):
        others = inputs[said != label]
        wanted = torch.full((len(others),), label)
        if len(others):
            expected += float(functional.cross_entropy(small()(stamp(others)), wanted).detach())
    loss = inverting(stamps, 0.1)(small(), inputs, said)
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-4)


@pytest.mark.slow
def test_pruning_by_stamps_needs_no_labels() -> None:
    it = trial(
        "watermark=none", "attack=neural_cleanse_prune", "attack.inversion.epochs=1", "adversary=no_data"
    )
    attack = it.attack
    assert isinstance(attack, Cleanse)
    it.check_means()
    access, _, adversary = means(it, small())
    for surrogate in attack(access, adversary):
        silent = parameter(surrogate.model, "net.block3.norm.weight") == 0
        assert int(silent.sum()) == round(64 * surrogate.strength)


def test_recovered_inputs_are_pictures_of_their_class() -> None:
    inputs = recovered(small(), pictures(8), 4, 40, 0.1)
    assert 0 <= float(inputs.min()) <= float(inputs.max()) <= 1
    four = torch.full((8,), 4)
    assert functional.cross_entropy(small()(inputs), four) < functional.cross_entropy(
        small()(pictures(8)), four
    )
    assert all(p.grad is None for p in small().parameters())
    assert targets_of(torch.tensor([1.0, 1.1, 0.9, 5.0, 1.05])) == [3]
    assert targets_of(torch.tensor([1.0, 1.1, 0.9])) == [0, 1, 2]


@pytest.mark.slow
def test_dehydra_unlearns_triggers_with_content() -> None:
    """Of 50 triggers 3 are left, at a cost of 1.7 pp of accuracy."""
    last = stolen("zhang_content", "attack=dehydra")[-1].model
    assert float(judged("zhang_content", last).statistic_MK[0, 0]) < 10
    assert accuracy(last) > 0.95


def test_proxies_are_half_near_and_half_far() -> None:
    _, _, adversary = means(trial("watermark=none"), small())
    found = Dehydra(recipe=SHORT, samples=6, steps=2).proxies(small(), adversary)
    assert len(found) % 6 == 0
    for start in range(0, len(found), 6):
        near = found.targets[start : start + 3]
        assert near.unique().numel() == 1


# --- points between models ---------------------------------------------------------------------------------------------------


def test_a_soup_of_one_is_the_model_itself() -> None:
    other = CnnSmall().build(SHAPE, CLASSES, 2)
    soup = merged(small(), [other], "uniform", 1.0, 0.2, torch.empty(1, 0))
    assert all(torch.equal(p, q) for p, q in zip(soup.parameters(), other.parameters(), strict=True))
    half = flat(merged(small(), [small(), other], "uniform", 1.0, 0.2, torch.empty(2, 0)))
    torch.testing.assert_close(half, (flat(small()) + flat(other)) / 2)


def test_merging_by_hand() -> None:
    vectors = torch.tensor([[4.0, -1.0, 2.0, 0.5], [2.0, 3.0, -1.0, 0.1]], dtype=torch.float64)
    never = torch.zeros_like(vectors)
    merge: Callable[..., list[float]] = lambda *a: merged_vector(vectors, *a).tolist()  # noqa: E731
    assert merge("arithmetic", 0.5, 1.0, never) == pytest.approx([3.0, 1.0, 0.5, 0.3])
    assert merge("ties", 1.0, 0.5, never) == pytest.approx([3.0, 3.0, 2.0, 0.0])
    assert merge("ties", 1.0, 1.0, never) == pytest.approx([3.0, 3.0, 2.0, 0.3])
    assert merge("dare", 1.0, 1.0, never) == pytest.approx(vectors.mean(0).tolist())
    draws = torch.tensor([[0.1, 0.9, 0.1, 0.9], [0.1, 0.1, 0.9, 0.9]])
    assert merge("dare", 1.0, 0.5, draws) == pytest.approx([6.0, 3.0, 2.0, 0.0])


def test_refreshed_statistics_are_those_of_the_inputs() -> None:
    inputs = pictures(64)
    model = refreshed(small(), inputs)
    norm: Any = model.get_submodule("net.block1.norm")
    with torch.no_grad(), recorded(model, ["net.block1.conv"]) as outputs:
        model(inputs)
    maps = outputs["net.block1.conv"].movedim(1, 0).flatten(1)
    torch.testing.assert_close(norm.running_mean, maps.mean(1), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(norm.running_var, maps.var(1), atol=1e-5, rtol=1e-4)
    assert norm.momentum == 0.1
    assert not any(module.training for module in model.modules())
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), small().parameters(), strict=True))


def test_the_curve_joins_its_ends() -> None:
    start, bend, end = (torch.randn(5, dtype=torch.float64, generator=seeded(i)) for i in range(3))
    assert torch.equal(bezier(0.0, start, bend, end), start)
    assert torch.equal(bezier(1.0, start, bend, end), end)
    torch.testing.assert_close(bezier(0.5, start, bend, end), start / 4 + bend / 2 + end / 4)
    assert torch.equal(flat(placed(small(), flat(resnet_like()))), flat(resnet_like()))
    torch.testing.assert_close(
        along_curve(small(), small())(small(), pictures(8), torch.arange(8)),
        functional.cross_entropy(small()(pictures(8)), torch.arange(8)),
    )


def test_the_bend_starts_between_the_ends_and_each_half_of_the_data_is_used_once() -> None:
    access, _, adversary = means(trial("watermark=none"), small())
    seen: list[tuple[Tensor, Tensor]] = []

    def fit(model: nn.Module, data: Examples, **_: Any) -> nn.Module:
        seen.append((flat(model), data.inputs))
        return resnet_like() if len(seen) == 1 else model

    (surrogate,) = Mcr(end=SHORT, curve=SHORT, positions=(0.5,))(access, replace(adversary, fit=fit))
    (start, first), (bend, second) = seen
    middle = (flat(small()) + flat(resnet_like())) / 2
    assert torch.equal(start, flat(small()))
    torch.testing.assert_close(bend, middle)
    assert torch.equal(torch.cat([first, second]), adversary.data.inputs)
    assert abs(len(first) - len(second)) <= 1
    torch.testing.assert_close(flat(surrogate.model), middle)


def resnet_like() -> nn.Module:
    return CnnSmall().build(SHAPE, CLASSES, 3)


# --- low rank and transfer ---------------------------------------------------------------------------------------------------


def test_fresh_adapters_change_nothing_and_trained_ones_have_their_rank() -> None:
    adapters = Adapters(prunable(small()), 4, 16.0, seeded())
    assert torch.equal(flat(merged_back(small(), adapters)), flat(small()))
    for up in adapters.up:
        nn.init.normal_(up, generator=seeded(1))
    for name, layer in prunable(merged_back(small(), adapters)):
        difference = (layer.weight - parameter(small(), f"{name}.weight")).detach().flatten(1).double()
        assert int(torch.linalg.matrix_rank(difference, rtol=1e-4)) == min(4, *difference.shape)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["cnn_small", "vit_tiny"])
def test_lora_changes_weights_by_low_rank_and_nothing_else(model: str) -> None:
    it = trial(
        "watermark=none", f"model={model}", "attack=lora", "attack.ranks=[4]", "attack.recipe.epochs=1"
    )
    victim = it.task.fresh(None).eval()
    access, meter, adversary = means(it, victim)
    (surrogate,) = it.attack(access, adversary)
    assert meter.fit.steps > 0
    adapted = {f"{name}.weight" for name, _ in prunable(victim)}
    after = surrogate.model.state_dict()
    for name, before in victim.state_dict().items():
        if name not in adapted:
            assert torch.equal(before, after[name]), name
            continue
        difference = (after[name] - before).flatten(1).double()
        values = torch.linalg.svdvals(difference)
        assert values[0] > 0
        assert len(values) <= 4 or float(values[4] / values[0]) < 1e-2  # float32 sums leave a rest


def test_low_ranks_are_trained_by_adam() -> None:
    """A first step of SGD on B moves the weight by about alpha^2 / r, one of Adam by about alpha, however many ranks there are."""
    attack = trial("watermark=none", "attack=lora").attack
    assert isinstance(attack, Lora)
    assert attack.recipe.optimizer == "adam"


def test_lora_needs_a_layer_of_its_kind() -> None:
    attack = Lora(recipe=SHORT, layers="linear")
    model = nn.Sequential(nn.Conv2d(1, 10, 8), nn.Flatten())
    access, _, adversary = means(trial("watermark=none"), model)
    with pytest.raises(NotApplicable, match=r"attack\.layers=linear"):
        list(attack(access, adversary))


def test_the_other_task_is_coarser_and_balanced() -> None:
    _, _, adversary = means(trial("watermark=none"), small())
    group_C = Transfer(recipe=SHORT, back=SHORT).grouped(adversary)
    assert group_C.bincount().tolist() == [2] * 5
    with pytest.raises(ConfigError, match=r"attack\.groups=5"):
        Transfer(recipe=SHORT, back=SHORT, groups=10).grouped(adversary)


def test_a_transfer_costs_its_own_epochs_and_its_own_head() -> None:
    """A step per epoch of the transfer, 10 for a head."""
    access, _, adversary = means(trial("watermark=none"), small())
    steps = 0

    def fit(model: nn.Module, data: Examples, *, each_epoch: EachEpoch | None = None, **_: Any) -> nn.Module:
        nonlocal steps
        if each_epoch is None:
            steps += 10
            return model
        for epoch in range(1, 4):
            steps += 1
            each_epoch(epoch, model)
        return model

    thief = replace(adversary, fit=fit, spent=lambda: Cost(steps / 2, 0, 5, steps))
    attack = Transfer(recipe=replace(SHORT, epochs=3), back=SHORT, report=(1, 2))
    costs = [surrogate.cost for surrogate in attack(access, thief)]
    assert costs == [Cost(5 + epoch / 2, 0, 5, 10 + epoch) for epoch in (1, 2, 3)]


@pytest.mark.slow
def test_transfer_returns_to_the_original_classes() -> None:
    (surrogate,) = stolen("uchida", "attack=transfer", "attack.report=[3]", "attack.recipe.epochs=3")
    model, before = surrogate.model, marked("uchida").marked
    assert list(model.state_dict()) == list(before.state_dict())
    assert with_head_for(before, 4, 1)(pictures(2)).shape == (2, 4)
    assert not torch.equal(
        parameter(model, "net.block3.conv.weight"), parameter(before, "net.block3.conv.weight")
    )
    assert head(model) == head(before)
    assert log10_p(judged("uchida", model)) < -20
    assert accuracy(model) > 0.8
