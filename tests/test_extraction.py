"""Extraction: what is asked, what is learnt from it, and how the budget is kept. Facts of each attack in attacks/."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from assay.attacks.active import Active, least_sure
from assay.attacks.adversarial_extraction import beside
from assay.attacks.data_free import DataFree, activated, disagreement, imitation
from assay.attacks.ensemble import Ensemble, Together
from assay.attacks.extract import Extract, affordable, within_budget
from assay.attacks.jbda import Jbda, stepped
from assay.attacks.knockoff import Bandit, Knockoff, clusters, soft_loss
from assay.attacks.prune import Prune
from assay.attacks.sequence import OnLabels, OnWeights
from assay.attacks.smooth_retrain import SmoothRetrain, jittered
from assay.core.contracts import Grant, Recipe
from assay.core.errors import ConfigError, NotApplicable
from assay.core.examples import Examples
from assay.core.secret import Secret
from assay.core.suspects import logits
from assay.core.theft import Access, Adversary, Attack, Surrogate
from assay.deployments.reach import Gateway
from assay.experiments.api import build
from assay.experiments.config import CONF
from assay.experiments.meter import Meter
from assay.experiments.people import clean
from assay.experiments.trial import Trial
from assay.watermarks.trigger import TriggerKey
from assay.zoo.models import Mlp, VitTiny
from assay.zoo.strangers import unrelated

ALL: tuple[Grant, ...] = ("weights", "scores", "labels")


@cache
def trial() -> Trial:
    return build("watermark=none", "trainer.progress=false")


@cache
def victim() -> nn.Module:
    return clean(trial(), trial().seed)[0]


@dataclass
class Asked(Gateway):
    """Keeps every query."""

    inputs: list[Tensor] = field(default_factory=list)

    def scores(self, inputs: Tensor) -> Tensor:
        self.inputs.append(inputs)
        return super().scores(inputs)

    def labels(self, inputs: Tensor) -> Tensor:
        self.inputs.append(inputs)
        return super().labels(inputs)


def ran(attack: Attack, **means: int | None) -> tuple[list[Surrogate], Asked]:
    access = Asked(victim(), ALL)
    meter = Meter(access, trial().trainer("thief"))
    adversary = replace(trial().adversary(meter), **means)  # type: ignore[arg-type]
    return list(meter.over(attack(access, adversary))), access


def accuracy(model: nn.Module) -> float:
    test = trial().task.test
    return float((logits(model, test.inputs).argmax(-1) == test.targets).double().mean())


FAST: dict[str, Attack] = {
    "extract": Extract(epochs=1),
    "smooth": SmoothRetrain(epochs=1),
    "random": Knockoff(count=200, epochs=1),
    "adaptive": Knockoff("adaptive", count=200, epochs=1),
    "jbda": Jbda(seeds=20, rounds=3, epochs=1),
    "active": Active(epochs=1, rounds=2),
    "ensemble": Ensemble(epochs=1),
    "data_free": DataFree(budget=600, rounds=2, batch=16, epochs=1),
}


@pytest.mark.parametrize("name", FAST)
@pytest.mark.parametrize("limit", [None, 100])
def test_every_query_is_counted_and_the_budget_is_kept(name: str, limit: int | None) -> None:
    surrogates, access = ran(FAST[name], queries=limit)
    assert sum(len(part) for part in access.inputs) == access.queries
    assert 0 < access.queries <= (limit or 1440)
    costs = [s.cost for s in surrogates if s.cost]
    assert [float(c.queries) for c in costs] == [s.strength for s in surrogates]
    assert all(part.min() >= 0 and part.max() <= 1 for part in access.inputs)


@pytest.mark.parametrize("name", ["extract", "random", "ensemble"])
def test_a_budget_that_limits_nothing_is_refused(name: str) -> None:
    """It would repeat the row of another."""
    count = 200 if name == "random" else len(trial().task.attacker)
    with pytest.raises(
        NotApplicable, match=rf"each of {count} inputs once.*set adversary\.queries={count} or lower"
    ):
        ran(FAST[name], queries=count + 1)


@pytest.mark.parametrize("name", ["jbda", "active", "smooth", "adaptive"])
def test_who_asks_otherwise_than_once_about_each_has_any_budget(name: str) -> None:
    """Jacobian augmentation makes inputs, smoothing asks of each several times, uncertainty and a policy leave most out."""
    surrogates, _ = ran(FAST[name], queries=2000)
    assert surrogates


def untaught(attack: Attack, **means: object) -> tuple[list[float], Asked]:
    """Strengths and questions of a thief whose students stay as they began, before a victim that learnt nothing."""
    access = Asked(trial().task.fresh(0), ALL)
    adversary = trial().adversary(Meter(access, trial().trainer("thief")))
    adversary = replace(adversary, fit=lambda model, *_, **__: model.eval(), **means)  # type: ignore[arg-type]
    return [s.strength for s in attack(access, adversary)], access


@pytest.mark.parametrize(("queries", "asked"), [(None, 100), (60, 60), (150, 100)])
def test_a_policy_spends_all_of_a_budget(queries: int | None, asked: int) -> None:
    """On half of the gallery at most."""
    strengths, access = untaught(FAST["adaptive"], queries=queries)
    assert (strengths[-1], access.queries) == (asked, asked)


def test_uncertainty_asks_to_the_end_where_rounds_are_more_than_queries() -> None:
    """Of 7 inputs it asks 4: 2 at random, then 0.2 a round."""
    few = trial().task.attacker.take(slice(0, 7))
    strengths, access = untaught(Active(rounds=10, epochs=1), data=few)
    assert (strengths, access.queries) == ([2, 3, 4], 4)


@pytest.mark.parametrize(
    ("attack", "asked", "held"),
    [
        ("knockoff", 2000, 2000),
        ("knockoff_adaptive", 1000, 2000),
        ("copycat", 2000, 2000),
        ("active attack.pictures=abstract", 1500, 3000),
        ("data_free", 5824, 0),
    ],
)
def test_who_asks_with_pictures_from_elsewhere_needs_no_data(attack: str, asked: int, held: int) -> None:
    """He holds his gallery, also where one example of the split is his."""
    it = build("adversary.data=0.003", *f"attack={attack}".split())
    access = Gateway(it.task.fresh(0), ALL)
    meter = Meter(access, it.trainer("thief"))
    adversary = replace(it.adversary(meter), fit=lambda model, *_, **__: model.eval())
    *_, last = meter.over(it.attack(access, adversary))
    assert last.cost
    assert (last.cost.queries, last.cost.examples) == (asked, held)


def test_a_thief_with_a_gallery_and_data_holds_both_and_goes_through_the_gallery_once_an_epoch() -> None:
    stages = OnLabels({"1": Active(pictures="abstract", count=20, epochs=1), "2": Active(epochs=1)})
    it = replace(trial(), settings=replace(trial().settings, attack=stages))
    meter = Meter(Gateway(it.task.fresh(0), ALL), it.trainer("thief"))
    it.adversary(meter)
    assert meter.examples == 20 + len(it.task.attacker)
    poor = replace(it.settings.adversary, data=0.05)
    replace(it, settings=replace(it.settings, adversary=poor)).adversary(meter)
    assert (meter.examples, meter.fit.share) == (20 + 14, 1.0)


def test_a_budget_too_small_for_smoothing_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"adversary\.queries=10"):
        ran(SmoothRetrain(epochs=1), queries=9)


def test_no_own_input_is_asked_twice() -> None:
    for name in ("extract", "active", "random", "adaptive"):
        _, access = ran(FAST[name])
        asked = torch.cat(access.inputs).flatten(1)
        own = trial().task.attacker.inputs.flatten(1)
        twice = len(own) - len(own.unique(dim=0))
        assert len(asked) - len(asked.unique(dim=0)) <= twice


def test_the_gallery_is_of_no_class_and_in_one_order() -> None:
    adversary = trial().adversary(Meter(Gateway(victim(), ALL), trial().trainer("thief")))
    pictures = within_budget(adversary, "abstract", 50)
    assert pictures.shape == (50, *trial().task.shape)
    assert torch.equal(pictures, within_budget(adversary, "abstract", 50))
    assert affordable(replace(adversary, queries=7), 50) == 7


def test_no_picture_of_the_thiefs_gallery_is_a_trigger() -> None:
    """adi takes the first pictures of the owners' gallery; zhang_unrelated and cfw choose among the first 200 on digits."""
    adversary = trial().adversary(Meter(Gateway(trial().task.fresh(0), ALL), trial().trainer("thief")))
    asked = (within_budget(adversary, "abstract", 2000) * 255).round().to(torch.uint8)
    owners = unrelated(trial().task, 2000)
    adi = build("watermark=adi").watermark.keygen(trial().task, Secret.simulated(0))
    assert isinstance(adi, TriggerKey)
    assert torch.equal(owners[:100], adi.images_T)
    assert len(torch.cat((asked, owners)).flatten(1).unique(dim=0)) == 4000


WITH_STUDENT = [
    path.stem for path in sorted((CONF / "attack").glob("*.yaml")) if "student:" in path.read_text()
]


@pytest.mark.parametrize("name", [*WITH_STUDENT, "sequence"])
def test_a_transformer_is_trained_by_what_trains_it_whoever_asks(name: str) -> None:
    """SGD at the task's rate leaves it at chance; any other architecture keeps the task's recipe."""
    recipes: list[Recipe] = []

    def fit(model: nn.Module, *_: object, recipe: Recipe | None = None, **__: object) -> nn.Module:
        assert recipe
        recipes.append(recipe)
        return model.eval()

    extract: Any = build(f"attack={'extract' if name == 'sequence' else name}").attack
    it = build("adversary.data=0.05")
    meter = Meter(Gateway(it.task.fresh(0), ALL), it.trainer("thief"))
    adversary = replace(it.adversary(meter), fit=fit)
    found = []
    for architecture in (VitTiny(width=8, depth=1), Mlp()):
        attack: Attack = replace(extract, student=architecture)
        recipes.clear()
        next(iter((OnLabels({"first": attack}) if name == "sequence" else attack)(meter.access, adversary)))
        found.append({(r.optimizer, r.lr, r.weight_decay) for r in recipes})
    own = it.task.recipe
    assert found == [{("adam", 1e-3, 0.0)}, {(own.optimizer, own.lr, own.weight_decay)}]


def test_smoothed_answers_outvote_one_that_is_changed() -> None:
    """An API that lies about one view in five (at random) changes no mean's largest class."""
    generator = torch.Generator().manual_seed(0)
    inputs = trial().task.attacker.inputs[:50]
    views = jittered(inputs, 5, 0.02, 0, generator)
    answers = logits(victim(), views.flatten(0, 1)).argmax(-1).reshape(50, 5)
    true = logits(victim(), inputs).argmax(-1)
    answers[:, 0] = (answers[:, 0] + 1) % 10
    assert float((answers.mode(1).values == true).double().mean()) > 0.95


def test_jittered_views_move_by_whole_pixels_at_most() -> None:
    inputs = torch.rand(3, 1, 8, 8)
    still = jittered(inputs, 2, 1e-9, 0, torch.Generator().manual_seed(0))
    torch.testing.assert_close(still[:, 0], inputs, atol=1e-6, rtol=0)
    moved = jittered(inputs, 30, 1e-9, 1, torch.Generator().manual_seed(0))
    inside = [inputs[..., 1:-1, 1:-1], moved[..., 1:-1, 1:-1]]
    assert not torch.allclose(inside[0][:, None], inside[1])


def test_soft_loss_is_cross_entropy_with_probabilities() -> None:
    predicted, labels = torch.randn(6, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 0, 1])
    hard = nn.functional.one_hot(labels, 4).double()
    expected = nn.functional.cross_entropy(predicted, labels)
    assert soft_loss(predicted, hard).item() == pytest.approx(expected.item(), rel=1e-9)


def test_the_bandit_prefers_what_pays() -> None:
    """Two kinds, one pays 1 and one 0: preferences move by (r - mean)(1 - pi), the first by hand."""
    bandit = Bandit(torch.zeros(2), torch.zeros(2))
    bandit.learn(0, 1.0)
    assert bandit.preference_Z.tolist() == [0.0, 0.0]  # the first reward is its own mean
    bandit.learn(1, 0.0)
    torch.testing.assert_close(bandit.preference_Z, torch.tensor([0.25, -0.25]))
    for _ in range(50):
        bandit.learn(0, 1.0)
        bandit.learn(1, 0.0)
    assert bandit.policy_Z[0] > 0.6


def test_clusters_find_what_lies_apart() -> None:
    generator = torch.Generator().manual_seed(3)
    middle = torch.arange(3.0).repeat_interleave(20)[:, None].expand(60, 4)
    found = clusters(middle + 0.01 * torch.randn(60, 4, generator=generator), 3, generator)
    assert all(len(found[i * 20 : (i + 1) * 20].unique()) == 1 for i in range(3))


class Line(nn.Module):
    """Logits (x, -x): the gradient's sign is known."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack((x.flatten(1).sum(1), -x.flatten(1).sum(1)), 1)


def test_jacobian_steps_go_where_the_answered_class_grows() -> None:
    inputs = torch.full((2, 1, 2, 2), 0.5)
    moved = stepped(Line(), Examples(inputs, torch.tensor([0, 1])), 0.1)
    torch.testing.assert_close(moved[0], torch.full((1, 2, 2), 0.6))
    torch.testing.assert_close(moved[1], torch.full((1, 2, 2), 0.4))
    back = stepped(Line(), Examples(inputs, torch.tensor([0, 1])), -0.1)
    torch.testing.assert_close(back[0], torch.full((1, 2, 2), 0.4))


def test_the_least_sure_have_the_largest_entropy() -> None:
    inputs = torch.tensor([3.0, 0.1, -2.0, 0.0]).reshape(4, 1, 1, 1)
    assert least_sure(Line(), inputs, 2).tolist() == [3, 1]
    scores = torch.tensor([[0.49, 0.49, 0.02], [0.4, 0.3, 0.3]])  # the first has the smaller margin
    assert least_sure(nn.Identity(), scores.log(), 1).tolist() == [1]


def test_the_least_sure_windows_of_ids_have_the_largest_mean_entropy() -> None:
    """Logits (N, V, T) of 3 ids at 2 places: the first window is sure at both, the last at neither."""
    words = nn.Embedding.from_pretrained(torch.tensor([[9.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]))

    class Windows(nn.Module):
        def forward(self, ids_NT: Tensor) -> Tensor:
            logits_NTV: Tensor = words(ids_NT)
            return logits_NTV.transpose(1, 2)

    windows_NT = torch.tensor([[0, 0], [0, 2], [1, 2]])
    assert least_sure(Windows(), windows_NT, 3).tolist() == [2, 1, 0]


def test_disagreement_is_the_distance_from_the_victims_logits_without_their_mean() -> None:
    logits_NC = torch.tensor([[2.0, 1.0, -3.0], [0.5, -0.25, -0.25]], dtype=torch.float64)
    scores = torch.softmax(logits_NC + 7, -1)
    assert disagreement(scores, logits_NC).abs().max() < 1e-9
    assert disagreement(scores, torch.zeros(2, 3).double()).tolist() == pytest.approx([2.0, 1 / 3])
    assert imitation(logits_NC + 0.5, scores).item() == pytest.approx(0.5)


def test_the_student_learns_from_fresh_batches_and_the_generator_asks_before_its_activation() -> None:
    """Budget 240 of batches of 10 in 2 rounds: a generator's step asks 2 x 10, the student gets 5 x 10 new ones after it."""
    access = Asked(victim(), ALL)
    adversary = trial().adversary(Meter(access, trial().trainer("thief")))
    taught: list[Examples] = []

    def fit(model: nn.Module, data: Examples, **rest: object) -> nn.Module:
        assert rest["loss"] is imitation
        taught.append(data)
        return model

    list(DataFree(budget=240, rounds=2, batch=10)(access, replace(adversary, fit=fit)))
    assert [len(part) for part in access.inputs] == [10] * 21
    assert [len(data) for data in taught] == [50, 150]
    fresh = [part for i, part in enumerate(access.inputs) if i % 7 > 1]
    assert torch.equal(taught[-1].inputs, torch.cat(fresh))
    assert len(torch.cat(fresh).flatten(1).unique(dim=0)) == 150
    here, there = (torch.logit(part.double()) for part in access.inputs[:2])
    steps = torch.linalg.vector_norm((there - here).flatten(1) / 3, dim=1)
    torch.testing.assert_close(steps, torch.full_like(steps, 0.01), rtol=0.1, atol=0)
    torch.testing.assert_close(activated(torch.zeros(2)), torch.full((2,), 0.5))


def test_a_budget_too_small_for_a_generator_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least 42 queries"):
        ran(DataFree(), queries=41)


def test_few_inputs_are_perturbed_beside_all_clean_ones() -> None:
    seen: list[Tensor] = []

    class Watched(Line):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x.detach())
            return super().forward(x)

    inputs, targets = torch.full((100, 1, 2, 2), 0.5), torch.zeros(100, dtype=torch.int64)
    value = beside((0.01, 0.25), 0.02, 3)(Watched(), inputs, targets)
    last = seen[-1]
    assert last.shape[0] == 104
    assert torch.equal(last[:100], inputs)
    torch.testing.assert_close(last[100:102], torch.full((2, 1, 2, 2), 0.49))
    torch.testing.assert_close(last[102:], torch.full((2, 1, 2, 2), 0.25))
    expected = nn.functional.cross_entropy(Line()(last), torch.zeros(104, dtype=torch.int64))
    torch.testing.assert_close(value, expected)


def test_an_ensemble_answers_the_mean_of_its_members() -> None:
    class Constant(nn.Module):
        def __init__(self, scores: list[float]) -> None:
            super().__init__()
            self.register_buffer("logits", torch.tensor([scores]).log())

        def forward(self, x: Tensor) -> Tensor:
            logits = self.logits
            assert isinstance(logits, Tensor)
            return logits.expand(len(x), -1)

    together = Together([Constant([0.9, 0.1]), Constant([0.3, 0.7])])
    answered = torch.softmax(together(torch.zeros(2, 1)), -1)
    torch.testing.assert_close(answered, torch.tensor([[0.6, 0.4]] * 2))


def test_members_see_parts_that_do_not_overlap_and_smoothed_labels() -> None:
    data = Examples(torch.arange(90.0)[:, None], torch.zeros(90, dtype=torch.int64))
    parts = list(Ensemble()._parts(data))
    assert [len(part) for part in parts] == [30, 30, 30]
    assert len(torch.cat([part.inputs for part in parts]).unique()) == 90
    predicted, targets = torch.randn(6, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 0, 1])
    soft = 0.8 * nn.functional.one_hot(targets, 4).double() + 0.2 / 4
    torch.testing.assert_close(Ensemble().loss(predicted, targets), soft_loss(predicted, soft))


@pytest.mark.slow
def test_the_victims_function_is_copied_without_any_data_of_its_task() -> None:
    """Measured on digits: 2,000 abstract pictures, or a generator and 6,000 queries, give a student within 10 points."""
    gallery, _ = ran(Knockoff(shares=(1.0,)))
    generated, access = ran(DataFree(budget=6000, rounds=3))
    assert access.queries <= 6000
    assert min(accuracy(gallery[-1].model), accuracy(generated[-1].model)) > accuracy(victim()) - 0.1


@pytest.mark.slow
def test_a_sequence_hands_on_the_last_surrogate_and_asks_only_in_its_first_stage() -> None:
    seen: list[nn.Module] = []

    @dataclass(frozen=True)
    class Look(Attack):
        needs = "weights"
        data = "none"
        axis = "none"
        paper = "none"

        def __call__(self, access: object, adversary: Adversary) -> Iterator[Surrogate]:
            assert isinstance(access, object)
            model = access.weights()  # type: ignore[attr-defined]
            access.labels(trial().task.test.inputs)  # type: ignore[attr-defined]
            seen.append(model)
            yield Surrogate(1.0, model)

    surrogates, access = ran(OnLabels({"first": Extract(epochs=1), "second": Look()}))
    assert [s.strength for s in surrogates] == [1.0, 2.0]
    assert access.queries == len(trial().task.attacker)
    inputs = trial().task.test.inputs
    assert torch.equal(logits(seen[0], inputs), logits(surrogates[0].model, inputs))


def test_a_sequence_says_what_is_wrong_with_its_stages() -> None:
    with pytest.raises(ConfigError, match="expected attacks as stages"):
        OnWeights({})
    with pytest.raises(ConfigError, match="needs labels"):
        OnWeights({"first": Extract()})
    stages = {"first": Extract(), "second": "finetune"}
    with pytest.raises(ConfigError, match="second"):
        OnLabels(stages)


@dataclass(frozen=True)
class Budgeted(Attack):
    """A second stage, which notes what budget it is told of."""

    needs = "weights"
    data = "none"
    axis = "none"
    paper = "none"

    told: list[int | None] = field(default_factory=list)

    def __call__(self, access: Access, adversary: Adversary) -> Iterator[Surrogate]:
        self.told.append(adversary.queries)
        yield Surrogate(1.0, access.weights())


def test_a_held_model_answers_without_a_budget() -> None:
    first, second = Budgeted(), Budgeted()
    ran(OnWeights({"first": first, "second": second}), queries=7)
    assert (first.told, second.told) == ([7], [None])


def test_a_stage_that_yields_nothing_is_named() -> None:
    with pytest.raises(ConfigError, match="stage second yielded no model"):
        ran(OnWeights({"first": Budgeted(), "second": Prune(sparsities=())}))
