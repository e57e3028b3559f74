"""Evasion at verification: what filters do to pictures and answers, and that a stolen model's weights stay readable behind them."""

import copy
import io
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Literal

import pytest
import torch
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from torch import Tensor, nn
from torch.nn import functional

from assay.attacks import evade_learned, filters
from assay.attacks.ensemble import Together
from assay.attacks.evade import FILTERS, Evade, Transform
from assay.attacks.evade_ensemble import EvadeEnsemble
from assay.attacks.evade_learned import Autoencoder, EvadeAutoencoder, EvadeFilter, Suspicion
from assay.attacks.jpeg import CHROMINANCE, LUMINANCE, jpeg, table
from assay.core.contracts import Recipe
from assay.core.examples import Examples
from assay.core.suspects import Suspects, logits
from assay.core.theft import Adversary, Attack, Surrogate
from assay.deployments.reach import Gateway
from assay.experiments.api import build
from assay.experiments.meter import Meter
from assay.experiments.people import Owner, owner
from assay.experiments.trial import Trial
from assay.zoo.files import load_model, save_model

PICTURES = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@cache
def trial(scheme: str) -> Trial:
    return build(f"watermark={scheme}", "trainer.progress=false")


@cache
def mine(scheme: str) -> Owner:
    return owner(trial(scheme), "owner")


def evading(attack: Attack, scheme: str = "adi") -> list[Surrogate]:
    it = trial(scheme)
    access = Gateway(mine(scheme).marked, ("weights",))
    return list(attack(access, it.adversary(Meter(access, it.trainer("thief")))))


def hits(model: nn.Module, scheme: str = "adi") -> float:
    scores = trial(scheme).watermark.score(Suspects([model]), [mine(scheme).key])
    return float(scores.statistic_MK[0, 0])


def accuracy(model: nn.Module) -> float:
    test = trial("adi").task.test
    return float((logits(model, test.inputs).argmax(-1) == test.targets).double().mean())


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (2, 9, 7)])
@pytest.mark.parametrize("name", sorted(set(FILTERS) - {"coarse"}))
def test_filters_keep_shape_range_and_the_original(name: str, shape: tuple[int, ...]) -> None:
    inputs = torch.rand(4, *shape, generator=torch.Generator().manual_seed(1))
    before = inputs.clone()
    for strength in (0.5, 1.0) if name in ("flip", "blur", "noise") else (2.0, 3.0):
        changed = FILTERS[name](inputs, strength)
        assert changed.shape == inputs.shape
        assert changed.dtype == inputs.dtype
        assert changed.min() >= -1e-6
        assert changed.max() <= 1 + 1e-6
        assert torch.equal(changed, FILTERS[name](inputs, strength))
        assert not torch.equal(changed, inputs)
    assert torch.equal(before, inputs)


def test_a_blur_keeps_the_mean_of_what_repeats_and_spreads_a_point() -> None:
    constant = torch.full((1, 1, 9, 9), 0.3, dtype=torch.float64)
    torch.testing.assert_close(filters.blur(constant, 0.7), constant)
    point = torch.zeros(1, 1, 9, 9, dtype=torch.float64)
    point[..., 4, 4] = 1
    spread = filters.blur(point, 0.5)
    line = torch.exp(-torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64) / (2 * 0.25))
    total = 1 + 2 * torch.exp(torch.tensor(-2.0, dtype=torch.float64)) + 2 * torch.exp(torch.tensor(-8.0))
    assert spread[0, 0, 4, 4].item() == pytest.approx((line[1] / total).item() ** 2, rel=1e-6)
    assert spread[0, 0, 4, 5].item() == pytest.approx((line[1] * line[0] / total**2).item(), rel=1e-6)


def test_a_median_removes_a_lone_pixel() -> None:
    picture = torch.zeros(1, 1, 8, 8)
    picture[..., 3, 3] = 1
    assert filters.median(picture, 3).max() == 0
    assert torch.equal(filters.median(PICTURES, 1), PICTURES)


@pytest.mark.parametrize(("dropped", "levels"), [(4, 16), (7, 2)])
def test_quantised_pictures_have_so_many_levels(dropped: float, levels: int) -> None:
    found = filters.quantise(torch.linspace(0, 1, 1001).reshape(1, 1, 7, 143), dropped).unique()
    assert len(found) == levels


def test_flips_at_one_are_mirror_images() -> None:
    assert torch.equal(filters.flip(PICTURES, 1.0), PICTURES.flip(-1))


def test_jpeg_loses_more_at_lower_quality() -> None:
    smooth = torch.linspace(0, 1, 64).reshape(1, 1, 8, 8)
    assert (filters.jpeg(smooth, 5) - smooth).abs().mean() < 0.02
    errors = [float((filters.jpeg(PICTURES, s) - PICTURES).square().mean()) for s in (5, 35, 55, 90)]
    assert errors == sorted(errors)


@pytest.mark.parametrize("quality", [30, 65, 95])
def test_jpeg_is_libjpegs(quality: int) -> None:
    """Measured against Pillow: the same tables, and pixels within a level on average. Its cosine transform is one of integers, so
    coefficients near the middle of a step may fall to the other side."""
    generator = torch.Generator().manual_seed(3)
    rough = torch.rand(1, 1, 16, 24, generator=generator)
    smooth = functional.interpolate(
        torch.rand(1, 3, 4, 5, generator=generator), size=(16, 20), mode="bilinear"
    )
    for picture, mode in ((rough, "L"), (smooth, "RGB")):
        levels = (picture * 255).round().to(torch.uint8)[0]
        raw = levels[0] if mode == "L" else levels.permute(1, 2, 0)
        file = io.BytesIO()
        Image.fromarray(raw.contiguous().numpy()).save(file, "JPEG", quality=quality, subsampling=0)
        opened = Image.open(file)
        assert isinstance(opened, JpegImageFile)
        for number, base in enumerate((LUMINANCE, CHROMINANCE)[: len(opened.quantization)]):
            assert sorted(opened.quantization[number]) == sorted(table(base, quality).flatten().tolist())
        theirs = torch.tensor(list(opened.convert(mode).tobytes())).reshape(raw.shape)
        ours = (jpeg(levels[None].float() / 255, quality)[0] * 255).round()
        apart = ((ours[0] if mode == "L" else ours.permute(1, 2, 0)) - theirs).abs()
        assert apart.mean() < 1
        assert (
            raw - theirs
        ).abs().float().mean() > 2 * apart.mean() or quality > 90  # it loses far more than that


def test_coarse_answers_keep_the_label_and_lose_the_rest() -> None:
    answers = 3 * torch.randn(50, 10, generator=torch.Generator().manual_seed(2))
    for strength in (1, 2, 3):
        assert torch.equal(filters.coarse(answers, strength).argmax(-1), answers.argmax(-1))
    alone = torch.softmax(filters.coarse(answers, 3), -1)
    assert alone.amax(-1).min() > 0.9999
    two = torch.softmax(filters.coarse(answers, 1), -1)
    assert (two - torch.softmax(answers, -1)).abs().max() < 0.02  # half of 0.01, and what makes the sum 1


MANY: tuple[Transform, ...] = ("jpeg", "blur", "coarse")


@pytest.mark.parametrize("transform", MANY)
def test_hooks_leave_the_weights_and_go_with_copies(transform: Transform) -> None:
    (surrogate,) = evading(Evade(transform, (2.0,)))
    plain, evades = mine("adi").marked, surrogate.model
    assert plain.state_dict().keys() == evades.state_dict().keys()
    assert all(torch.equal(t, evades.state_dict()[n]) for n, t in plain.state_dict().items())
    inputs = trial("adi").task.test.inputs[:64]
    answers = logits(evades, inputs)
    assert not torch.equal(answers, logits(plain, inputs))
    assert torch.equal(answers, logits(copy.deepcopy(evades), inputs))


def test_an_evading_model_is_saved_as_plain_weights(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    (surrogate,) = evading(Evade("blur", (2.0,)))
    save_model(path, surrogate.model, {})
    loaded = load_model(path, lambda: trial("adi").task.fresh(None))
    inputs = trial("adi").task.test.inputs[:8]
    assert torch.equal(logits(loaded, inputs), logits(mine("adi").marked, inputs))


def test_a_weight_mark_is_read_through_any_filter() -> None:
    attacks: list[Attack] = [Evade("blur", (0.7,)), Evade("flip", (1.0,)), Evade("coarse", (3.0,))]
    for attack in attacks:
        (surrogate,) = evading(attack, "uchida")
        assert hits(surrogate.model, "uchida") == hits(mine("uchida").marked, "uchida")


def test_every_trial_s_thief_draws_his_own_noise() -> None:
    class Echo(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1)

    access = Gateway(Echo(), ("weights",))
    thief = trial("adi").adversary(Meter(access, trial("adi").trainer("thief")))
    one, again, other = (
        next(Evade("noise", (0.1,))(access, replace(thief, seed=seed))).model(PICTURES) for seed in (1, 1, 2)
    )
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    answers = torch.arange(30.0).reshape(3, 10)
    first, second = (
        Suspicion(Constant(), -1.0, "random", None, seed)(PICTURES[:3], answers)  # type: ignore[arg-type]
        for seed in (1, 2)
    )
    assert not torch.equal(first, second)


class Constant(nn.Module):
    """An autoencoder's place: reconstructs everything as grey."""

    def error(self, x: Tensor) -> Tensor:
        return (x - 0.5).square().flatten(1).mean(1)


@pytest.mark.parametrize("answer", ["second", "random"])
def test_suspicious_queries_get_another_label_and_others_do_not(answer: Literal["second", "random"]) -> None:
    inputs = torch.tensor([0.5, 1.0]).reshape(2, 1, 1, 1).expand(2, 1, 4, 4)
    answers = torch.tensor([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]])
    change = Suspicion(Constant(), 0.1, answer, None, 0)  # type: ignore[arg-type]
    changed = change(inputs, answers)
    assert torch.equal(changed[0], answers[0])
    assert sorted(changed[1].tolist()) == [1.0, 2.0, 3.0]
    assert changed[1].argmax() == 1 if answer == "second" else changed[1].argmax() != 2


def test_an_autoencoder_takes_any_shape() -> None:
    network = Autoencoder((3, 5, 5), 4, 16, True).eval()
    inputs = torch.rand(2, 3, 5, 5)
    assert network(inputs).shape == inputs.shape
    assert network(inputs).min() >= 0
    assert network.error(inputs).shape == (2,)


RECIPE = Recipe(epochs=40, batch_size=32, optimizer="adam", lr=2e-3, weight_decay=0.0)


@pytest.mark.slow
def test_abstract_triggers_are_recognised_at_little_cost() -> None:
    """Measured on digits: a filter that refuses 1 % of ordinary queries leaves 1 of 100 abstract triggers; one that looks at
    activations leaves 8. An autoencoder in front repairs them, at the cost of some accuracy."""
    plain = accuracy(mine("adi").marked)
    assert hits(mine("adi").marked) > 95
    looks: tuple[Literal["pictures", "activations"], ...] = ("pictures", "activations")
    for look in looks:
        (surrogate,) = evading(EvadeFilter(RECIPE, look, rates=(0.01,)))
        assert hits(surrogate.model) < 20
        assert accuracy(surrogate.model) > plain - 0.05
    (surrogate,) = evading(EvadeAutoencoder(RECIPE, shares=(0.25,)))
    assert hits(surrogate.model) < 30
    assert accuracy(surrogate.model) > plain - 0.06


@pytest.mark.slow
def test_helpers_outvote_the_mark_at_no_cost() -> None:
    """Measured: with four models of the thief's own the triggers fall to about 20 of 100 and accuracy by a point."""
    surrogates = evading(EvadeEnsemble((1, 4)))
    few, many = (hits(s.model) for s in surrogates)
    assert many < 40 < few
    assert accuracy(surrogates[-1].model) > accuracy(mine("adi").marked) - 0.03


def test_the_vote_is_the_mean_over_all_models() -> None:
    surrogates = evading(EvadeEnsemble((1,)))
    inputs = trial("adi").task.test.inputs[:16]
    (hook,) = surrogates[0].model._forward_hooks.values()
    helper = hook.change.helpers[0]  # type: ignore[attr-defined]
    expected = Together([mine("adi").marked, helper]).eval()
    torch.testing.assert_close(
        torch.softmax(logits(surrogates[0].model, inputs), -1),
        torch.softmax(logits(expected, inputs), -1),
        atol=1e-5,
        rtol=1e-4,
    )


@pytest.mark.parametrize(
    ("transform", "strength"),
    [("quantise", 8.0), ("squeeze", 7.5), ("jpeg", 100.0), ("median", 0.3), ("flip", 1.5), ("coarse", 4.0)],
)
def test_a_strength_that_the_filter_has_not_is_refused(transform: Transform, strength: float) -> None:
    """No bit, no quality and no pixel left: pictures of NaN, or a division by zero."""
    with pytest.raises(ValueError, match=f"{transform} has strengths from"):
        Evade(transform, (0.5, strength) if transform != "median" else (1.0, strength))


def test_an_autoencoder_tells_the_share_that_it_drops_of_any_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """At most 256 numbers are left of 784."""

    def untrained(_: Adversary, rows: Tensor, size: int, *rest: object) -> Autoencoder:
        return Autoencoder(tuple(rows.shape[1:]), size, 8, True)

    monkeypatch.setattr(evade_learned, "learned", untrained)
    access = Gateway(nn.Identity(), ("weights",))
    adversary = trial("adi").adversary(Meter(access, trial("adi").trainer("thief")))
    for side, expected in ((8, [0.25, 0.5, 0.75]), (28, [1 - 192 / 784, 1 - 128 / 784, 1 - 64 / 784])):
        own = replace(adversary, data=Examples(torch.rand(2, 1, side, side), torch.zeros(2)))
        assert [s.strength for s in EvadeAutoencoder(RECIPE)(access, own)] == expected
