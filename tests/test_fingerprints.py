"""Fingerprints and marks of adversarial keys: known answers, published properties on digits, bad input."""

import copy
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from nobody import clean_models
from torch import Tensor, nn

from assay.core.contracts import Fit, Task
from assay.core.errors import ConfigError, NotApplicable
from assay.core.examples import Examples
from assay.core.key import Key
from assay.core.secret import Secret
from assay.core.suspects import Suspects, logits
from assay.experiments.api import build
from assay.experiments.people import clean
from assay.experiments.trial import Trial
from assay.watermarks.adversarial_keys import away_from, frozen, pgd
from assay.watermarks.akh import filled
from assay.watermarks.blackmarks import BlackMarksKey, bit_loss, read_bits, two_groups
from assay.watermarks.cae import conferrability
from assay.watermarks.cutmix import cutmix
from assay.watermarks.deepjudge import RobD, RobustnessKey, jensen_shannon, successes, surest
from assay.watermarks.fingerprint import FLOOR, AnswerKey, QueryKey, ScoreFingerprint, outputs_of, scores_of
from assay.watermarks.ipguard import boundary_loss
from assay.watermarks.modeldiff import ModelDiff, decision_distances
from assay.watermarks.sac import correlation, correlation_distance, near_corner
from assay.watermarks.trigger import to_grey_levels
from assay.watermarks.zest import Zest, explanations, segment_of, shown_segments
from assay.zoo.models import CnnSmall


def sines(count: int, shape: tuple[int, ...], phase: float = 0.0) -> Tensor:
    """The known answers' inputs: sin(0.7 i + phase) in float64, row by row."""
    return torch.sin(0.7 * torch.arange(count, dtype=torch.float64) + phase).reshape(shape)


@cache
def trial(name: str, *overrides: str) -> Trial:
    return build(f"watermark={name}", "trainer.progress=false", *overrides)


@cache
def victim() -> nn.Module:
    it = trial("none")
    return clean(it, it.seed)[0]


@cache
def key_of(name: str, *overrides: str) -> Key:
    it = trial(name, *overrides)
    return it.watermark.keygen(it.task, Secret.simulated(1), victim(), it.trainer("key"))


@cache
def further(kind: str) -> nn.Module:
    """The victim trained on by its thief for 5 epochs: on his data, or on adversarial examples of them."""
    it = trial("none")
    recipe = replace(it.task.recipe, epochs=5, lr=0.01, schedule="constant")

    def robust(live: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        moved = pgd(inputs, away_from(frozen(live), targets), 0.2, 5)
        return nn.functional.cross_entropy(live(moved), targets)

    objective = robust if kind == "robust" else None
    return it.trainer("thief")(victim(), it.task.attacker, recipe=recipe, objective=objective)


def shares(name: str) -> tuple[float, float, float]:
    """The share of answers kept by fine-tuning, by adversarial training, and by the best of 3 independent models."""
    models = [further("plain"), further("robust"), *clean_models(trial("none"), 3)]
    found = trial(name).watermark.score(Suspects(models), [key_of(name)]).statistic_MK[:, 0] / 100
    return float(found[0]), float(found[1]), float(found[2:].max())


def test_sac_known_answer() -> None:
    one, other = sines(60, (6, 10)), sines(60, (6, 10), 0.5)
    assert correlation_distance(correlation(one), correlation(other)) == pytest.approx(0.01465278, abs=5e-9)


def test_sac_is_blind_to_the_scale_of_an_answer() -> None:
    one = sines(60, (6, 10))
    assert correlation_distance(correlation(one), correlation(3 * one)) == pytest.approx(0, abs=1e-15)


def test_jensen_shannon_is_0_for_equal_rows_and_ln_2_for_disjoint_ones() -> None:
    one, other = (
        torch.tensor([[1.0, 0.0]], dtype=torch.float64),
        torch.tensor([[0.0, 1.0]], dtype=torch.float64),
    )
    assert jensen_shannon(one, one) == 0
    assert jensen_shannon(one, other) == pytest.approx(np.log(2), abs=1e-12)
    # Rows (3/4, 1/4) and (1/4, 3/4): (3/4) ln (3/2) + (1/4) ln (1/2), by hand.
    mixed = torch.tensor([[0.75, 0.25]], dtype=torch.float64)
    expected = 0.75 * np.log(1.5) + 0.25 * np.log(0.5)
    assert jensen_shannon(mixed, mixed.flip(1)) == pytest.approx(expected, abs=1e-12)


def test_boundary_loss_by_hand() -> None:
    logits_NC = torch.tensor([[5.0, 1.0, 2.0, -3.0], [0.0, 6.0, -1.0, -2.0]], dtype=torch.float64)
    source, target = torch.tensor([0, 0]), torch.tensor([3, 1])
    # 5 + 3 + 5, no third class above; then 0 - 6 + 5 < 0 and no third class above 0.
    assert boundary_loss(logits_NC, source, target, 5.0).tolist() == [13.0, 0.0]


def test_decision_distance_and_conferrability_by_hand() -> None:
    one = torch.tensor([[1.0, 0.0], [1.0, 1.0]], dtype=torch.float64)
    other = torch.tensor([[0.0, 1.0], [2.0, 2.0]], dtype=torch.float64)
    assert decision_distances(one, other).tolist() == pytest.approx([1.0, 0.0])
    assert float(conferrability(torch.tensor(0.8), torch.tensor(0.25))) == pytest.approx(0.6)


def test_least_squares_recover_a_linear_model() -> None:
    """Answers that are linear in the shown segments are explained by their weights, without ridge or kernel to shift them; and
    there is no intercept to take up a constant: it is spread over the segments."""
    shown_VS = shown_segments(Secret.simulated(1), 200, 16)
    weights = sines(32, (16, 2))
    found = explanations(shown_VS, torch.stack((shown_VS @ weights, shown_VS @ weights + 0.3)))
    assert torch.allclose(found[0], weights, atol=1e-12)
    assert float((found[1] - weights).min()) > 0.01
    always_together = explanations(
        torch.tensor([[1.0, 1.0], [0.0, 0.0]]).double(), torch.ones(1, 2, 1).double()
    )
    assert torch.allclose(always_together.flatten(), torch.tensor([0.5, 0.5]).double())


@pytest.mark.parametrize("size", [8, 28, 30, 3])
def test_segments_cover_a_picture_of_any_size(size: int) -> None:
    segment_HW = segment_of((size, size), 4)
    assert sorted(set(segment_HW.flatten().tolist())) == list(range(min(size, 4) ** 2))


def test_cutmix_pastes_one_rectangle_into_every_picture() -> None:
    mixed = cutmix(torch.zeros(3, 2, 10, 20), torch.ones(3, 2, 10, 20), (0.5, 0.25), 0.2)
    assert mixed.sum() == 3 * 2 * 2 * 4
    assert mixed[:, :, 4:6, 3:7].all()
    generator = torch.Generator().manual_seed(0)
    points = torch.tensor([near_corner(generator) for _ in range(200)])
    assert bool(((points < 1 / 6) | (points > 5 / 6)).all())
    assert (points > 5 / 6).any(0).all()
    assert (points < 1 / 6).any(0).all()


def test_negatives_come_first_and_their_mixes_fill_up() -> None:
    negatives = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    found = filled(negatives, 20, torch.Generator().manual_seed(1))
    assert torch.equal(found[:3], negatives)
    assert torch.equal(found[6:9], found[3:6].flip(-1))
    assert torch.equal(found[9:12], found[3:6].flip(-2))
    pixel_of_either = (found[3:6] == negatives) | (found[3:6] == negatives.roll(1, 0))
    assert pixel_of_either.all()
    assert len(found) == 20
    assert torch.equal(filled(negatives, 2, torch.Generator()), negatives[:2])


class Fixed(nn.Module):
    """Says the rows it was given, whatever it is asked; or, of pixels, the first `classes`."""

    def __init__(self, rows: Tensor | None = None, classes: int = 0) -> None:
        super().__init__()
        self.rows, self.classes = rows, classes

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.flatten(1)[:, : self.classes] if self.rows is None else self.rows


def test_outputs_are_centred_logits_and_finite_where_an_api_rounds_to_0() -> None:
    rows = torch.tensor([[30.0, 0.0, -6.0], [1.0, 2.0, 3.0]])
    found = outputs_of(Fixed(rows), torch.zeros(2, 1))
    assert torch.allclose(found, rows.double() - rows.double().mean(1, keepdim=True), atol=1e-12)
    rounded = torch.tensor([[0.0, -torch.inf, -torch.inf]])
    assert outputs_of(Fixed(rounded), torch.zeros(1, 1)).tolist() == [
        pytest.approx([-2 / 3 * FLOOR, FLOOR / 3, FLOOR / 3])
    ]


def test_confident_models_of_equal_labels_differ_in_sac_and_modeldiff() -> None:
    """Of probabilities, SAC's matrix would say which labels agree, and ModelDiff's entries would be 0 or 1."""
    generator = torch.Generator().manual_seed(0)
    first, second = (40 * torch.eye(4) + 8 * torch.rand(4, 4, generator=generator) for _ in range(2))
    one, other = (outputs_of(Fixed(rows), torch.zeros(4, 1)) for rows in (first, second))
    assert correlation_distance(correlation(one), correlation(other)) > 0.01
    assert float((decision_distances(one[:2], one[2:]) - 1).abs().min()) > 0.01
    labels = [torch.softmax(rows.double(), 1) for rows in (first, second)]
    assert correlation_distance(correlation(labels[0]), correlation(labels[1])) < 1e-6


def test_test_cases_are_the_successes_of_the_surest_in_order() -> None:
    """Four seeds, the surest first, the fifth misread; the attack takes the second and the fourth to class 1."""
    inputs = torch.tensor([[0.6, 0.0], [0.9, 0.0], [0.8, 0.0], [0.7, 0.0], [0.0, 0.5]])[:, None, :, None]
    task = replace(trial("none").task, test=Examples(inputs, torch.zeros(5, dtype=torch.int64)))
    model = Fixed(classes=2)
    assert torch.equal(surest(model, task.test).inputs, inputs[[1, 2, 3, 0]])

    def attack(seeds: Examples) -> Tensor:
        hit = torch.isin(seeds.inputs[:, 0, 0, 0], torch.tensor([0.8, 0.6]))
        return torch.where(hit[:, None, None, None], seeds.inputs.flip(2), seeds.inputs)

    found, labels = successes(model, task, 2, attack)
    assert found.flatten(1).tolist() == [[0, 204], [0, 153]]
    assert labels.tolist() == [0, 0]
    with pytest.raises(NotApplicable, match=r"2 of the 4 .* set watermark\.queries=2"):
        successes(model, task, 3, attack)


def test_deepjudge_starts_from_noise_and_does_not_project() -> None:
    """Along a constant gradient each pixel ends 10 steps of 0.01 from a start that is uniform in +-0.2."""
    inputs = torch.full((400, 1, 8, 8), 0.5)
    task = replace(trial("none").task, test=Examples(inputs, torch.zeros(400, dtype=torch.int64)))
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    with torch.no_grad():
        model.get_parameter("1.weight").copy_(torch.stack((-torch.ones(64), torch.ones(64))))
        model.get_parameter("1.bias").copy_(torch.tensor([34.0, -34.0]))
    scheme = RobD(queries=100, epsilon=0.2, step=0.01)
    moved, labels = scheme.cases(model, task, torch.Generator().manual_seed(0))
    start = moved.double() / 255 - 0.6
    assert float(start.min()) < -0.19
    assert 0.19 < float(start.max()) < 0.21
    assert labels.sum() == 0


def test_the_victim_gets_none_of_its_test_cases_right() -> None:
    key: Any = key_of("deepjudge_robd")
    scheme: Any = trial("deepjudge_robd").watermark
    assert len(key.labels_N) == scheme.queries
    assert not (logits(victim(), key.inputs_N.float() / 255).argmax(1) == key.labels_N).any()


def rows_of(pictures: Tensor) -> set[bytes]:
    return {row.numpy().tobytes() for row in pictures}


def test_queries_are_the_owners_held_out_inputs() -> None:
    """None is a training input of the victim, and akh's first are its errors."""
    task = trial("none").task
    held, learnt = (rows_of(to_grey_levels(data.inputs)) for data in (task.test, task.owner))
    for name in ("random_queries", "akh", "sac"):
        key: Any = key_of(name)
        assert not rows_of(key.inputs_N) & (learnt - held), name
    asked: Any = key_of("random_queries")
    assert rows_of(asked.inputs_N) <= held
    wrong = logits(victim(), task.test.inputs).argmax(1) != task.test.targets
    negatives: Any = key_of("akh")
    assert rows_of(negatives.inputs_N[: int(wrong.sum())]) == rows_of(to_grey_levels(task.test.inputs[wrong]))


def test_a_victim_without_errors_has_no_negatives() -> None:
    it = trial("akh")
    right = logits(victim(), it.task.test.inputs).argmax(1) == it.task.test.targets
    task = replace(it.task, test=it.task.test.take(right))
    with pytest.raises(NotApplicable, match="held-out inputs right"):
        it.watermark.keygen(task, Secret.simulated(1), victim())


def test_pgd_stays_within_its_bounds_and_raises_the_loss() -> None:
    data = trial("none").task.test.take(slice(0, 50))
    loss = away_from(frozen(victim()), data.targets)
    moved = pgd(data.inputs, loss, 0.1, 5)
    assert float((moved - data.inputs).abs().max()) <= 0.1 + 1e-6
    assert 0 <= float(moved.min()) <= float(moved.max()) <= 1
    assert float(loss(moved).sum()) < float(loss(data.inputs).sum())


def test_two_groups_and_bits_by_hand() -> None:
    points = torch.tensor([[0.0, 0.0], [9.0, 9.0], [0.5, 0.0], [9.0, 8.0]])
    group_C = two_groups(points)
    assert group_C.tolist() == [0, 1, 0, 1]
    logits_NC = torch.zeros(2, 4, dtype=torch.float64)
    assert float(bit_loss(logits_NC, group_C, torch.tensor([1, 0]))) == pytest.approx(0.5)
    assert float(bit_loss(logits_NC[:0], group_C, torch.tensor([]))) == 0
    assert read_bits(torch.tensor([1, 2, -1, 7]), group_C).tolist() == [1, 0, 0, 0]


@pytest.mark.slow
def test_fine_tuning_leaves_every_label_fingerprint_above_independent_models() -> None:
    """QRD's claim that the simple baseline is on par: akh is kept as others are, by models that were never asked."""
    for name in ("akh", "ipguard"):
        kept, _, others = shares(name)
        assert kept > others + 0.1, name
        assert kept > 0.8, name


@pytest.mark.slow
def test_adversarial_training_takes_more_of_a_boundary_fingerprint_than_fine_tuning() -> None:
    """IrisFP, table of attacks: ipguard falls to .511 under adversarial training, from .656 under fine-tuning."""
    kept, robust, _ = shares("ipguard")
    assert robust < kept


@pytest.mark.slow
def test_blackmarks_carry_a_payload() -> None:
    it = trial("blackmarks", "watermark.payload='c0ffee01'")
    key = it.watermark.keygen(it.task, Secret.simulated(1), victim())
    marked = it.watermark.embed(victim(), key, it.task, it.trainer("marked"))
    message = it.watermark.read(marked, key)
    assert message is not None
    assert message.decoded == "c0ffee01"
    assert message.whole
    clean_message = it.watermark.read(victim(), key)
    assert clean_message is not None
    assert not clean_message.whole


def test_frontier_keys_are_half_true_and_half_false_adversaries() -> None:
    key: Any = key_of("frontier_stitching")
    right = logits(victim(), key.images_T.float() / 255).argmax(1) == key.labels_T
    assert right.sum() == len(right) / 2


def test_queries_have_the_shape_of_the_task() -> None:
    for name in ("ipguard", "sac", "modeldiff", "zest", "random_queries"):
        key: Any = key_of(name)
        assert key.inputs_N.dtype == torch.uint8
        assert tuple(key.inputs_N.shape[1:]) == trial("none").task.shape


def test_a_key_without_its_victim_is_refused() -> None:
    for name in ("akh", "ipguard", "deepjudge_robd", "deepjudge_jsd", "frontier_stitching", "blackmarks"):
        it = trial(name)
        with pytest.raises(ValueError, match="pass the trained model"):
            it.watermark.keygen(it.task, Secret.simulated(1))


def test_cae_needs_a_trainer() -> None:
    it = trial("cae")
    with pytest.raises(ValueError, match="pass a fit"):
        it.watermark.keygen(it.task, Secret.simulated(1), victim())


def test_too_many_queries_are_refused_with_the_largest_that_fit() -> None:
    task = trial("none").task
    for name, data in (("random_queries", task.test), ("sac", task.test), ("zest", task.owner)):
        it = trial(name, "watermark.queries=5000")
        with pytest.raises(ConfigError, match=rf"set watermark\.queries={len(data)}"):
            it.watermark.keygen(it.task, Secret.simulated(1), victim())
    it = trial("deepjudge_robd", "watermark.queries=5000")
    with pytest.raises(NotApplicable, match=r"set watermark\.queries="):
        it.watermark.keygen(it.task, Secret.simulated(1), victim())
    it = trial("frontier_stitching", "watermark.epsilon=0.9")
    with pytest.raises(NotApplicable, match=r"smaller watermark\.epsilon"):
        it.watermark.keygen(it.task, Secret.simulated(1), victim())


@dataclass(frozen=True)
class Careless(ScoreFingerprint):
    """A distance that sees no NaN."""

    paper = "none"
    unit = "gap"

    def asked(self, model: nn.Module, task: Task, generator: torch.Generator, fit: Fit | None) -> Tensor:
        raise NotImplementedError

    def distance(self, victim: Tensor, suspect: Tensor) -> float:
        return float((victim - suspect).nan_to_num().abs().sum())


def test_answers_that_are_no_numbers_are_no_evidence() -> None:
    """A suspect that answers NaN is unreadable, whatever the distance makes of it."""
    inputs = torch.rand(3, 1, 2, 2)
    whole = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    broken = copy.deepcopy(whole)
    next(broken.parameters()).data[0, 0] = float("nan")
    key = AnswerKey(Secret.simulated(1), inputs, scores_of(whole, inputs))
    found = Careless(queries=3).score(Suspects([whole, broken]), [key]).statistic_MK[:, 0]
    assert found[0] == 0
    assert np.isnan(found[1])


def test_keys_of_another_length_are_refused() -> None:
    images = torch.zeros(3, 1, 8, 8, dtype=torch.uint8)
    labels = torch.zeros(3, dtype=torch.int64)
    short = {
        "ipguard": QueryKey(Secret.simulated(1), images, labels),
        "deepjudge_robd": RobustnessKey(Secret.simulated(1), images, labels),
        "blackmarks": BlackMarksKey(Secret.simulated(1), images, labels.to(torch.uint8), torch.ones(10)),
    }
    for name, key in short.items():
        with pytest.raises(ValueError, match=r"watermark\."):
            trial(name).watermark.score(Suspects([victim()]), [key])


def test_a_suspect_with_other_classes_is_read_where_answers_compare_and_nan_elsewhere() -> None:
    """SAC and ModelDiff compare a model's answers with each other, so its classes may be others."""
    twenty = nn.Sequential(nn.Flatten(), nn.Linear(64, 20)).eval()
    for name, readable in (("sac", True), ("modeldiff", True), ("deepjudge_jsd", False), ("zest", False)):
        (found,) = trial(name).watermark.score(Suspects([twenty]), [key_of(name)]).statistic_MK[0]
        assert np.isfinite(found) == readable, name


@pytest.mark.parametrize("scheme", [Zest(), ModelDiff(queries=16)])
def test_a_key_of_answers_that_are_no_numbers_finds_nobody(scheme: Zest | ModelDiff) -> None:
    """The distance to NaN was 0, the owner's own."""
    model = CnnSmall().build((1, 8, 8), 10, 0).eval()
    inputs = torch.zeros(32 if isinstance(scheme, ModelDiff) else 16, 1, 8, 8, dtype=torch.uint8)
    secret = Secret.simulated(0)
    answers = scheme.represent(model, inputs, secret)
    good, bad = (AnswerKey(secret, inputs, a) for a in (answers + 1, torch.full_like(answers, torch.nan)))
    found = scheme.score(Suspects([model]), [good, bad]).statistic_MK[0]
    assert np.isfinite(found[0])
    assert np.isnan(found[1])
