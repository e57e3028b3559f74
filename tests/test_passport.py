"""What a passport's owner reads in a suspect: the signs that the suspect's own convolutions give, whatever its norms hold."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from assay.core.secret import Secret
from assay.core.suspects import Suspects
from assay.watermarks.passport import Passport, PassportKey, averaged, computed, passports, scales

LAYERS = [["0", "1"], ["3", "4"]]
BITS = 20 + 24


def network(seed: int = 0) -> nn.Module:
    """Two convolutions with batch norms, (20, 6, 3, 3) and (24, 20, 3, 3)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers: list[nn.Module] = [nn.Conv2d(6, 20, 3, bias=False), nn.BatchNorm2d(20), nn.ReLU()]
        layers += [nn.Conv2d(20, 24, 3, bias=False), nn.BatchNorm2d(24)]
        return nn.Sequential(*layers).eval()


def key_of(number: int) -> PassportKey:
    secret = Secret.simulated(31, number)
    return PassportKey(secret, LAYERS, 1.0, secret.bits("passport/bits", BITS))


def marked(key: PassportKey) -> nn.Module:
    """A network whose filters, and with them its norms, give the key's signs."""
    model = network()
    state = model.state_dict()
    bits = key.bits_B.split([20, 24])
    with torch.no_grad():
        for (layer, norm), signs in zip(LAYERS, bits, strict=True):
            weight = state[f"{layer}.weight"]
            passport = key.passport(layer, "gamma", weight.shape[1:])
            wrong = (averaged(weight, passport) > 0) != signs.bool()
            weight[wrong] *= -1
            state[f"{norm}.weight"].copy_(averaged(weight, passport))
    return model


def hits(model: nn.Module, key: PassportKey) -> float:
    return float(Passport().score(Suspects([model]), [key]).statistic_MK[0, 0])


def test_a_computed_scale_is_the_mean_of_the_convolution_over_positions() -> None:
    """avg(W * p) of the paper, over an activation map without borders: the mean patch is all that it depends on."""
    generator = torch.Generator().manual_seed(5)
    weight = torch.randn(7, 4, 3, 3, generator=generator, dtype=torch.float64)
    activations = torch.randn(1, 4, 9, 8, generator=generator, dtype=torch.float64)
    mean_patch = nn.functional.unfold(activations, 3).mean(2).reshape(4, 3, 3)
    expected = nn.functional.conv2d(activations, weight).mean((0, 2, 3))
    assert torch.allclose(averaged(weight, mean_patch), expected, atol=1e-12)


def test_signs_are_read_from_the_convolutions_and_not_from_the_norms() -> None:
    """Weights set to zero under intact norms leave no mark: what matches is by chance, the bits that are 0. Norms set anew, as by
    an overwriter, leave all of it."""
    key = key_of(0)
    model = marked(key)
    assert hits(model, key) == BITS
    overwritten = marked(key)
    with torch.no_grad():
        for _, norm in LAYERS:
            overwritten.get_parameter(f"{norm}.weight").neg_()
    assert hits(overwritten, key) == BITS
    with torch.no_grad():
        for layer, _ in LAYERS:
            model.get_parameter(f"{layer}.weight").zero_()
    assert hits(model, key) == BITS - int(key.bits_B.sum())


def test_pruning_that_turns_computed_signs_is_counted() -> None:
    """Each filter keeps the one weight that speaks most against its bit: the norms are untouched, and no sign is left."""
    key = key_of(0)
    model = marked(key)
    bits = key.bits_B.split([20, 24])
    with torch.no_grad():
        for (layer, _), signs in zip(LAYERS, bits, strict=True):
            weight = model.get_parameter(f"{layer}.weight")
            passport = key.passport(layer, "gamma", weight.shape[1:])
            towards = ((weight * passport).flatten(1)) * (2.0 * signs[:, None] - 1)
            worst = nn.functional.one_hot(towards.argmin(1), towards.shape[1]).reshape(weight.shape)
            weight.mul_(worst)
    assert hits(model, key) == 0


def identical(model: nn.Module) -> None:
    """Every filter of a layer the same: all computed scales of a layer have one sign."""
    for layer, _ in LAYERS:
        weight = model.get_parameter(f"{layer}.weight")
        weight.copy_(weight[:1].expand_as(weight).clone())


def dead(model: nn.Module) -> None:
    for layer, _ in LAYERS:
        model.get_parameter(f"{layer}.weight").zero_()


def untouched(model: nn.Module) -> None:
    pass


@pytest.mark.parametrize("change", [untouched, identical, dead])
def test_matches_of_strangers_are_binomial_however_the_filters_are_related(
    change: Callable[[nn.Module], None],
) -> None:
    """600 keys, chi-squared at 1e-4 over six bins of Bin(44, 1/2)."""
    model = network(3)
    with torch.no_grad():
        change(model)
    keys = [key_of(1 + k) for k in range(600)]
    statistic_K = Passport().score(Suspects([model]), keys).statistic_MK[0]
    edges = stats.binom.ppf(np.arange(1, 6) / 6, BITS, 0.5)
    cumulative = np.concatenate(([0], stats.binom.cdf(edges, BITS, 0.5), [1]))
    found = np.bincount(np.searchsorted(edges, statistic_K), minlength=6)
    assert stats.chisquare(found, len(keys) * np.diff(cumulative)).pvalue > 1e-4


def test_over_independent_models_one_key_s_matches_vary_about_a_half() -> None:
    """A batch norm's scales are all positive in a model of nobody, so matches read there are one number for all models."""
    key = key_of(0)
    suspects = Suspects([network(100 + m) for m in range(200)])
    statistic_M = Passport().score(suspects, [key]).statistic_MK[:, 0]
    assert abs(statistic_M.mean() - BITS / 2) < 2
    assert 2 < statistic_M.std() < 5  # of Bin(44, 1/2): 3.3


def test_positive_factors_of_outputs_leave_signs_and_permuted_inputs_do_not() -> None:
    key = key_of(0)
    scaled, moved = marked(key), marked(key)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(2))
    factors = torch.rand(24, 1, 1, 1, generator=torch.Generator().manual_seed(1)) + 0.5
    with torch.no_grad():
        scaled.get_parameter("3.weight").mul_(factors)
        weight = moved.get_parameter("3.weight")
        weight.copy_(weight[:, order].clone())
    assert hits(scaled, key) == BITS
    assert 20 <= hits(moved, key) < BITS - 3  # of the second layer's 24 bits chance leaves about 12


def test_suspects_of_any_precision_are_read_and_of_other_layers_are_not() -> None:
    key = key_of(0)
    assert hits(marked(key).to(torch.bfloat16), key) >= BITS - 3
    wider = nn.Sequential(nn.Conv2d(6, 21, 3), nn.BatchNorm2d(21), nn.ReLU(), nn.Conv2d(21, 24, 3))
    for other in (wider, nn.Sequential(nn.Linear(3, 3))):
        scores = Passport().score(Suspects([other]), [key])
        assert np.isnan(scores.statistic_MK[0, 0])
        assert scores.log10_p_MK is not None
        assert scores.log10_p_MK[0, 0] == 0


def test_the_reading_is_the_scale_that_training_computes() -> None:
    key = key_of(0)
    model = network(7)
    gamma_B: Tensor = scales(computed(model, passports(model, key)), key).detach()
    assert hits(model, key) == int(((gamma_B > 0) == key.bits_B.bool()).sum())
