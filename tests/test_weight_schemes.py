"""Schemes that mark weights and activations: known answers, exact nulls over random keys, forging, capacity, what survives."""

import copy
import hashlib
import math
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from assay.core.contracts import Task, Watermark
from assay.core.errors import NotApplicable
from assay.core.examples import Examples
from assay.core.key import Key
from assay.core.secret import Secret
from assay.core.statistics import binomial_tails
from assay.core.suspects import Suspects
from assay.experiments.api import build
from assay.experiments.people import clean
from assay.experiments.trial import Trial
from assay.watermarks.activations import features_of, with_features
from assay.watermarks.adi import Adi
from assay.watermarks.deepsigns import DeepSigns, first_of_each, spread
from assay.watermarks.greedy_residuals import GreedyResiduals, residuals
from assay.watermarks.neuralmark import GRID, HashKey, NeuralMark, hash_bits, kept, pool, whole_matrix
from assay.watermarks.parameter import mean_filter
from assay.watermarks.passport import Passport, fit_of_passport, pairs
from assay.watermarks.riga import Hiding, Riga
from assay.watermarks.stack import Stack
from assay.watermarks.uchida import Uchida, bit_loss

LAYER = "net.block3.conv"
OPTIONS = ["neuralmark", "greedy_residuals", "deepsigns", "passport", "riga", "uchida_chosen"]


@cache
def trial(name: str) -> Trial:
    return build(f"watermark={name}", "trainer.progress=false")


@cache
def victim() -> nn.Module:
    return clean(trial("uchida"), 0)[0]


@cache
def marked(name: str) -> tuple[Key, nn.Module]:
    it = trial(name)
    key = it.watermark.keygen(it.task, Secret.simulated(1), victim())
    return key, it.watermark.embed(victim(), key, it.task, it.trainer("marked"))


def task() -> Task:
    return trial("uchida").task


def hits(scheme: Watermark, model: nn.Module, key: Key) -> float:
    return float(scheme.score(Suspects([model]), [key]).statistic_MK[0, 0])


def sines(count: int, *shape: int) -> Tensor:
    """S(n, shape, 0) of the reference values: sin(0.7 i), row-major."""
    return torch.sin(0.7 * torch.arange(count, dtype=torch.float64)).reshape(shape)


def permuted(model: nn.Module, conv: str, norm: str, after: str) -> nn.Module:
    """The same function: the output channels of `conv` in another order, and the inputs of `after` accordingly."""
    out = copy.deepcopy(model)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        state = out.state_dict()
        for name in (
            f"{conv}.weight",
            *(f"{norm}.{n}" for n in ("weight", "bias", "running_mean", "running_var")),
        ):
            state[name].copy_(state[name][order].clone())
        weight = state[f"{after}.weight"]
        if weight.ndim == 4:
            weight.copy_(weight[:, order].clone())
        else:
            weight.copy_(weight.reshape(len(weight), 64, -1)[:, order].reshape(weight.shape).clone())
    return out


def test_uchida_s_regulariser_has_its_known_value() -> None:
    """Of the official code: the mean over the last axis of HWIO weights, sum and mean of the cross-entropy, bit error rate."""
    mean_J = (0.05 * sines(3 * 3 * 16 * 32, 3, 3, 16, 32)).mean(-1).flatten()
    matrix_JB = torch.cos(0.37 * torch.arange(144 * 64, dtype=torch.float64)).reshape(144, 64)
    bits_B = (torch.arange(64) % 3 == 0).double()
    logits_B = mean_J @ matrix_JB
    loss = nn.functional.binary_cross_entropy_with_logits(logits_B, bits_B, reduction="sum")
    assert bit_loss(mean_J, matrix_JB, bits_B.double()).item() == pytest.approx(44.35818117, abs=1e-6)
    assert loss.item() / 64 == pytest.approx(0.69309658, abs=1e-8)
    assert float(((logits_B > 0) != bits_B.bool()).double().mean()) == 0.46875


def test_the_mean_filter_is_over_output_channels() -> None:
    weight_OIHW = (0.05 * sines(3 * 3 * 16 * 32, 3, 3, 16, 32)).permute(3, 2, 0, 1)
    expected_IHW = (0.05 * sines(3 * 3 * 16 * 32, 3, 3, 16, 32)).mean(-1).permute(2, 0, 1)
    assert torch.allclose(mean_filter(weight_OIHW), expected_IHW.flatten(), atol=1e-15)


def test_a_chosen_matrix_is_forged_with_no_bit_error_and_derived_keys_refuse_it() -> None:
    """Gradient descent on X, the model untouched; a derived scheme rejects such a key, and its own accuser only fishes."""
    chosen, derived = trial("uchida_chosen").watermark, trial("uchida").watermark
    before = {name: t.clone() for name, t in victim().state_dict().items()}
    forged = {
        f.tries: f.key
        for f in chosen.forge(victim(), task(), Secret.simulated(3), 1000, trial("uchida").trainer("accuser"))
    }
    assert list(forged) == [1, 10, 100, 1000]
    assert hits(chosen, victim(), forged[1000]) == 256
    assert all(torch.equal(before[name], t) for name, t in victim().state_dict().items())
    with pytest.raises(
        ValueError, match=r"expected keys whose matrix comes from their secret.*derivation=chosen"
    ):
        derived.score(Suspects([victim()]), [forged[1000]])
    fished = {
        f.tries: f.key
        for f in derived.forge(victim(), task(), Secret.simulated(3), 100, trial("uchida").trainer("accuser"))
    }
    assert hits(derived, victim(), fished[100]) < 180


def test_neuralmark_resists_the_forging_that_uchida_does_not() -> None:
    """100 secrets do not find a model they did not mark; and bits that a model shows, put into a key, are not its hash."""
    scheme = trial("neuralmark").watermark
    fished = {
        f.tries: f.key
        for f in scheme.forge(victim(), task(), Secret.simulated(3), 100, trial("uchida").trainer("accuser"))
    }
    log10_p = scheme.score(Suspects([victim()]), [fished[100]]).log10_p_MK
    assert log10_p is not None
    assert log10_p[0, 0] > -5
    key = scheme.keygen(task(), Secret.simulated(3), victim())
    assert isinstance(key, HashKey)
    bent = replace(key, bits_B=1 - key.bits_B)
    refused = scheme.score(Suspects([victim()]), [bent])
    assert math.isnan(refused.statistic_MK[0, 0])
    assert refused.log10_p_MK is not None
    assert refused.log10_p_MK[0, 0] == 0


def test_neuralmark_s_bits_are_the_hash_of_its_matrix() -> None:
    secret = Secret.simulated(4)
    whole_PB = whole_matrix(secret, 256)
    digest = hashlib.shake_256(whole_PB.numpy().astype("<i2").tobytes()).digest(32)
    expected = [int(bit) for byte in digest for bit in f"{byte:08b}"]
    assert hash_bits(whole_PB).tolist() == expected
    assert abs(float((whole_PB.double() / GRID).std()) - 1) < 0.01


def test_the_papers_threshold_is_the_first_below_2_to_the_minus_128() -> None:
    upper, _ = binomial_tails(256, 0.5)
    assert upper[227] < -128 * math.log10(2) < upper[226]
    assert 10 ** upper[227] == pytest.approx(1.5e-39, rel=0.05)


def test_the_filter_keeps_what_the_repeated_bits_say_and_pools_as_declared() -> None:
    bits_B = torch.tensor([1, 0, 1, 1], dtype=torch.uint8)
    assert kept(bits_B, 10, 0).tolist() == list(range(10))
    assert kept(bits_B, 10, 1).tolist() == [0, 2, 3, 4, 6, 7, 8]
    assert kept(bits_B, 10, 2).tolist() == [0, 3, 4, 6, 8]
    weights = torch.arange(7.0)[None]
    assert pool(weights, 3, "adaptive")[0].tolist() == [1.0, 3.0, 5.0]
    assert pool(weights, 3, "strided")[0].tolist() == [1.5, 2.5, 3.5]


def test_filters_of_two_keys_share_a_sixteenth_of_a_sixteenth() -> None:
    """Four rounds halve the layer four times, so two keys meet in about 1/256 of the weights: overwriting mostly misses."""
    one, other = (kept(hash_bits(whole_matrix(Secret.simulated(s), 8)), 36864, 4) for s in (1, 2))
    shared = len(set(one.tolist()) & set(other.tolist()))
    assert shared < 3 * len(one) * len(other) / 36864


def test_residuals_drop_the_smallest_half_of_every_row() -> None:
    weights_J = torch.tensor([4.0, -1.0, 0.5, -3.0, 1.0, -6.0, 2.0, 0.0], dtype=torch.float64)
    assert residuals(weights_J, 2, 4, 0.5).tolist() == [0.25, -1.0]
    assert residuals(weights_J, 2, 4, 0.0).tolist() == [0.125, -0.75]
    pooled = residuals(weights_J, 2, 2, 0.5).tolist()
    assert pooled == [0.75, -1.25]


def test_no_leading_zero_of_the_bits_is_lost() -> None:
    """The official code's number drops them: over many secrets the first bit would be 1 always."""
    scheme = GreedyResiduals(LAYER)
    first = [int(scheme.keygen(task(), Secret.simulated(k), victim()).bits_B[0]) for k in range(64)]
    assert 12 < sum(first) < 52
    assert all(len(scheme.keygen(task(), Secret.simulated(k), victim()).bits_B) == 256 for k in range(8))


@pytest.mark.parametrize("name", ["greedy_residuals", "deepsigns", "passport", "riga", "uchida"])
def test_a_payload_is_read_back(name: str) -> None:
    it = trial(name)
    scheme = it.watermark
    key, model = marked(name)
    found, nothing = scheme.read(model, key), scheme.read(victim(), key)
    assert found is not None
    assert nothing is not None
    assert found.accuracy > 0.95
    assert nothing.accuracy < 0.7
    assert scheme.read(trial_mlp().fresh(1), key) is None


@cache
def trial_mlp() -> Task:
    return build("watermark=uchida", "model=mlp", "trainer.progress=false").task


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIONS)
def test_hits_of_random_keys_on_a_marked_model_are_binomial(name: str) -> None:
    """Another owner's mark in the model changes nothing for strangers' keys: 400 of them, chi-squared at 1e-4 over eight bins of
    the exact law (of the two-sided p-values' hits)."""
    it = trial(name)
    _, model = marked(name)
    keys = [it.watermark.keygen(it.task, Secret.simulated(8, k), victim()) for k in range(400)]
    scores = it.watermark.score(Suspects([model]), keys)
    assert scores.trials is not None
    edges = stats.binom.ppf(np.arange(1, 8) / 8, scores.trials, 0.5)
    cumulative = np.concatenate(([0], stats.binom.cdf(edges, scores.trials, 0.5), [1]))
    found = np.bincount(np.searchsorted(edges, scores.statistic_MK[0]), minlength=8)
    assert stats.chisquare(found, 400 * np.diff(cumulative)).pvalue > 1e-4


def narrow(width: int) -> nn.Module:
    layers = [nn.Conv2d(1, width, 3, padding=1, bias=False), nn.Flatten(), nn.Linear(64 * width, 10)]
    return nn.Sequential(*layers)


@pytest.mark.parametrize(
    ("scheme", "message"),
    [
        (NeuralMark("0"), r"0 has 36 weights, of which 4 rounds leave \d+.*watermark\.pooled to at most"),
        (GreedyResiduals("0"), r"0 has 36 weights, too few.*watermark\.bits to at most 18"),
        (
            DeepSigns("0", bits=257),
            r"0 has 256 features, too few for 257 bits.*watermark\.bits to at most 256",
        ),
        (DeepSigns("2", bits=4), r"no layer reads what 2 gives; set watermark\.layer to an earlier one"),
        (DeepSigns("0", bits=4, classes=11), r"10 classes; set watermark\.classes to at most 10"),
        (DeepSigns("0", bits=4, per_class=10**6), r"only \d+ examples.*watermark\.per_class=\d+"),
        (Passport(), r"passports need a batch norm behind a convolution, which no layer has"),
        (Riga("1"), r"no layer '1' with filters; watermark\.layer=0\|2"),
        (DeepSigns("9"), r"no layer '9'; watermark\.layer=0\|2"),
    ],
)
def test_a_layer_too_small_or_missing_is_named_with_the_largest_that_fits(
    scheme: Watermark, message: str
) -> None:
    with pytest.raises(NotApplicable, match=message):
        scheme.keygen(task(), Secret.simulated(1), narrow(4))


def test_passports_are_found_where_a_norm_follows_a_layer() -> None:
    assert pairs(victim()) == [(f"net.block{i}.conv", f"net.block{i}.norm") for i in (1, 2, 3)]
    resnet = build("watermark=uchida", "model=resnet18").task.fresh(1)
    found = pairs(resnet)
    assert len(found) == 20
    assert ("net.layer2.0.downsample.0", "net.layer2.0.downsample.1") in found
    with pytest.raises(NotApplicable, match=r"which net\.head has; watermark\.layers=\[net\.block1\.conv"):
        Passport(layers=("net.head",)).keygen(task(), Secret.simulated(1), victim())


def test_a_passport_gives_the_scales_of_its_owners_model_alone() -> None:
    scheme = trial("passport").watermark
    key, model = marked("passport")
    stranger = scheme.keygen(task(), Secret.simulated(99), victim())
    assert fit_of_passport(model, key) == pytest.approx(1, abs=1e-4)  # type: ignore[arg-type]
    assert abs(fit_of_passport(model, stranger)) < 0.4  # type: ignore[arg-type]


def test_permuted_channels_of_the_marked_layer_spare_mean_filters_and_kill_what_is_read_by_position() -> None:
    """Permuting the output channels of the marked convolution leaves the function, and its mean over filters, as they were;
    positions (neuralmark), rows (greedy residuals), features (deepsigns) and signs (passport) are lost."""
    inputs = task().test.inputs[:64]
    left = {}
    for name in ("uchida", "riga", "neuralmark", "greedy_residuals", "deepsigns", "passport"):
        key, model = marked(name)
        moved = permuted(model, LAYER, "net.block3.norm", "net.head")
        assert torch.allclose(moved(inputs), model(inputs), atol=1e-4)
        scores = trial(name).watermark.score(Suspects([model, moved]), [key])
        assert scores.trials is not None
        left[name] = (scores.statistic_MK[1, 0] - scores.trials / 2) / (
            scores.statistic_MK[0, 0] - scores.trials / 2
        )
    assert left["uchida"] == left["riga"] == 1
    assert max(left["neuralmark"], left["greedy_residuals"], left["deepsigns"]) < 0.3
    assert 0.4 < left["passport"] < 0.9  # one of three marked layers is permuted


def test_permuted_inputs_of_the_marked_layer_kill_mean_filters_too() -> None:
    for name in ("uchida", "riga"):
        key, model = marked(name)
        moved = permuted(model, "net.block2.conv", "net.block2.norm", LAYER)
        scores = trial(name).watermark.score(Suspects([moved]), [key])
        assert scores.log10_p_MK is not None
        assert scores.log10_p_MK[0, 0] > -3


def test_deepsigns_needs_classes() -> None:
    ids = torch.zeros(4, 3, dtype=torch.int64)
    with pytest.raises(NotApplicable, match="means of classes"):
        first_of_each(Examples(ids, ids), 2, 1)


def test_deepsigns_reads_one_mean_for_all_keys_of_an_owner_and_leaves_no_hooks() -> None:
    key, model = marked("deepsigns")
    counted: list[int] = []
    hook = model.register_forward_hook(lambda module, inputs, output: counted.append(len(output)))
    keys = [trial("deepsigns").watermark.keygen(task(), Secret.simulated(k), victim()) for k in range(5)]
    trial("deepsigns").watermark.score(Suspects([model]), [key, *keys])
    hook.remove()
    assert counted == [160]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_deepsigns_reads_what_the_next_layer_reads() -> None:
    """Not the convolution's own output, whose scale the batch norm takes away: weights could shrink towards the centres."""
    inputs = task().test.inputs[:8]
    small, read = victim(), []
    small.get_submodule("net.head").register_forward_pre_hook(lambda _, given: read.append(given[0]))
    model = copy.deepcopy(small)
    small.get_submodule("net.head")._forward_pre_hooks.clear()
    found = features_of(small, LAYER, inputs)
    model(inputs)
    assert torch.allclose(found, read[0])
    assert float(found.min()) == 0
    with torch.no_grad():
        model.get_parameter(f"{LAYER}.weight").mul_(0.1)
        model.get_buffer("net.block3.norm.running_mean").mul_(0.1)
        model.get_buffer("net.block3.norm.running_var").mul_(0.01)
    assert torch.allclose(features_of(model, LAYER, inputs), found, atol=0.01 * float(found.max()))


def test_a_residual_block_is_read_behind_its_shortcut() -> None:
    """The shortcut's own convolution runs after conv2 and reads the block's input: it is no next layer."""
    resnet, inputs = build("watermark=uchida", "model=resnet18").task.fresh(1).eval(), task().test.inputs[:4]
    for block in ("net.layer3.0", "net.layer3.1"):
        outputs: list[Tensor] = []
        hook = resnet.get_submodule(block).register_forward_hook(
            lambda _, __, out, to=outputs: to.append(out)
        )
        _, found = with_features(resnet, f"{block}.conv2", inputs)
        hook.remove()
        assert torch.equal(found, outputs[0].mean((2, 3)))


def test_spread_draws_features_in_and_centres_apart_and_keeps_their_length() -> None:
    features_NF = torch.tensor([[1.0, 0], [3, 0], [0, 2]], dtype=torch.float64)
    means_SF = torch.tensor([[1.0, 0], [0, 1]], dtype=torch.float64)
    targets_N = torch.tensor([0, 0, 1])
    within = (0 + 4 + 1) / 3
    assert spread(features_NF, targets_N, means_SF).item() == pytest.approx(within - 2)
    long = spread(2 * features_NF, targets_N, 2 * means_SF)
    assert long.item() == pytest.approx(4 * (within - 2) + 2 * 3)
    nobody = spread(features_NF[:0], targets_N[:0], means_SF[:1])
    assert nobody.item() == 0


def test_hiding_s_critic_prefers_the_victim_s_mean_filter() -> None:
    natural_J = torch.randn(64, generator=torch.Generator().manual_seed(0))
    hide = Hiding(natural_J, torch.Generator().manual_seed(1), 50)
    wide_J = 3 * natural_J
    losses = [float(hide(wide_J.clone().requires_grad_(True)).detach()) for _ in range(50)]
    sorted_2J = torch.stack((natural_J, wide_J)).sort(1).values / hide.scale
    with torch.no_grad():
        natural, wide = hide.detector(sorted_2J).tolist()
    assert natural > wide
    assert losses[-1] > losses[0]


def test_riga_hides_the_mean_filter_and_not_single_weights() -> None:
    """The same weights in an order that widens their mean over filters: a critic of single weights sees no difference."""
    model = narrow(64)
    other = copy.deepcopy(model)
    with torch.no_grad():
        weight = other.get_parameter("0.weight")
        weight.copy_(weight.flatten().sort().values.reshape(9, 64).T.reshape(weight.shape))
    assert (
        mean_filter(other.get_parameter("0.weight")).std()
        > 3 * mean_filter(model.get_parameter("0.weight")).std()
    )
    scheme = Riga("0", bits=8, strength=1e-9, hiding=1.0, rounds=100)
    found: list[float] = []

    def fit(fresh: nn.Module, data: Examples, **asked: Any) -> nn.Module:
        found.extend(float(asked["penalty"](live).detach()) for live in [other] * 21)
        return fresh

    scheme.embed(model, scheme.keygen(task(), Secret.simulated(1), model), task(), fit)  # type: ignore[arg-type]
    assert found[-1] > 1


def stacked(**parts: Watermark) -> Stack:
    return Stack(parts=parts)


def test_a_stack_is_found_when_any_part_is() -> None:
    """Bonferroni: two parts double the smaller p; an attack on the weights alone leaves the triggers."""
    it = trial("stack")
    assert isinstance(it.watermark, Stack)
    key, model = marked("stack")
    each = it.watermark.each(Suspects([model, victim()]), [key])  # type: ignore[list-item]
    tails = [s.log10_p_MK for s in each.values() if s.log10_p_MK is not None]
    whole = it.watermark.score(Suspects([model, victim()]), [key]).log10_p_MK  # type: ignore[list-item]
    assert whole is not None
    assert max(float(t[0, 0]) for t in tails) < -20
    assert whole[0, 0] == pytest.approx(min(float(t[0, 0]) for t in tails) + math.log10(2))
    assert whole[1, 0] > -3
    wiped = copy.deepcopy(model)
    with torch.no_grad():
        wiped.get_parameter(f"{LAYER}.weight").mul_(-1)
        wiped.get_parameter("net.block3.norm.weight").mul_(-1)
        wiped.get_buffer("net.block3.norm.running_mean").mul_(-1)
    found = it.watermark.score(Suspects([wiped]), [key]).log10_p_MK  # type: ignore[list-item]
    assert found is not None
    assert found[0, 0] < -20


def test_parts_that_do_not_stack_are_refused() -> None:
    weights, triggers = Uchida(LAYER), Adi("derived")
    with pytest.raises(ValueError, match="expected at least 2 parts, got 1"):
        stacked(weights=weights)
    with pytest.raises(ValueError, match="akh is no scheme that embeds and has an exact null"):
        stacked(akh=build("watermark=akh").watermark, weights=weights)
    folding = stacked(passport=Passport(), triggers=triggers)
    key = folding.keygen(task(), Secret.simulated(1), victim())
    with pytest.raises(NotApplicable, match="passport changes the model outside its training"):
        folding.embed(victim(), key, task(), never)
    twice = stacked(one=DeepSigns(LAYER), other=DeepSigns("net.block2.conv"))
    with pytest.raises(NotApplicable, match="2 parts have objectives of their own"):
        twice.embed(victim(), twice.keygen(task(), Secret.simulated(1), victim()), task(), never)


def never(model: nn.Module, data: Examples, **asked: object) -> nn.Module:
    raise AssertionError("a refused stack trains nothing")
