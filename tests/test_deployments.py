"""What a deployment grants, denies, counts and changes."""

import math
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from assay.attacks.extract import Extract
from assay.attacks.sequence import OnLabels
from assay.core.contracts import Grant
from assay.core.errors import ConfigError, Denied, NotApplicable
from assay.core.examples import Examples, Ledger
from assay.core.secret import Secret
from assay.core.suspects import logits
from assay.core.theft import Access, Adversary, Attack
from assay.deployments.defences import Defence, Filter, LabelOnly, Noise, Rounded, TopK, relabelled
from assay.deployments.gateway import Refused
from assay.deployments.guard import Guard
from assay.deployments.home import Home
from assay.deployments.misinformation import Misinformation, Misled, wrong_loss
from assay.deployments.monitors import Watch
from assay.deployments.rate import Rate
from assay.deployments.reach import Deployment, Gateway
from assay.deployments.thief import Thief
from assay.experiments import isolate
from assay.experiments.api import build
from assay.experiments.config import CONF, composer
from assay.experiments.endured import endured
from assay.experiments.exposure import admit, answered, untimed
from assay.experiments.meter import Meter
from assay.experiments.people import Owner
from assay.experiments.suite import grid
from assay.experiments.trial import built
from assay.zoo.models import CnnSmall, Mlp
from assay.zoo.tasks import Digits

GRANTS: tuple[Grant, ...] = get_args(Grant)
NAMES = sorted(path.stem for path in (CONF / "deployment").glob("*.yaml"))
MODEL = CnnSmall(width=4).build((1, 8, 8), 10, seed=0).eval()
PROMPTS = torch.zeros(7, 3, dtype=torch.int64)
INPUTS = torch.rand(7, 1, 8, 8, generator=torch.Generator().manual_seed(0))


class Author(nn.Module):
    """Answers pictures as MODEL does, and prompts with the seed: whatever a deployment grants, it can give."""

    def __init__(self) -> None:
        super().__init__()
        self.model = MODEL

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.model(x)
        return found

    def write(self, prompts: Tensor, tokens: int, seed: int, temperature: float | None = None) -> Tensor:
        return torch.full((len(prompts), tokens), seed)


def use(access: Access, grant: Grant) -> Any:
    calls = {
        "weights": access.weights,
        "scores": lambda: access.scores(INPUTS),
        "labels": lambda: access.labels(INPUTS),
        "texts": lambda: access.texts(PROMPTS, 5),
    }
    return calls[grant]()


def untrained(model: nn.Module, *_: object, **__: object) -> nn.Module:
    return model.eval()


@cache
def home() -> Home:
    task = Digits(limit=60).load(CnnSmall(width=4), 0)
    return Home(task, MODEL, untrained, 0)


@cache
def declared() -> dict[str, Deployment]:
    """Every yaml, as a trial builds it."""
    with composer() as compose:
        configs = {name: compose([f"deployment={name}"]).config["deployment"] for name in NAMES}
    return {name: built(config, "deployment") for name, config in configs.items()}


def exposed(name: str, licensed: bool = False) -> Gateway:
    """With a monitor that raises no alarm."""
    found = declared()[name]
    monitor = found.monitor
    watch = None if monitor is None else Watch(monitor, monitor.learnt(home().task.owner.inputs), math.inf)
    return found.expose(Author(), guard=found.guarded(home(), watch), licensed=licensed)


@pytest.mark.parametrize(("name", "grant"), list(product(NAMES, GRANTS)))
def test_every_deployment_gives_what_it_grants_and_nothing_else(name: str, grant: Grant) -> None:
    access, granted = exposed(name), declared()[name].grants
    if grant in granted:
        assert use(access, grant) is not None
        assert access.queries == (0 if grant == "weights" else 7)
    else:
        with pytest.raises(Denied, match=f"grants {' and '.join(granted) or 'nothing'}, not {grant}"):
            use(access, grant)
        assert access.queries == 0, "a refused query is not counted"


def test_open_weights_grant_everything_and_an_api_no_weights() -> None:
    granted = {name: set(found.grants) for name, found in declared().items()}
    assert granted["open"] == set(GRANTS) - {"texts"}
    assert granted["api_label"] == {"labels"}
    assert granted["package"] == set()
    for name in set(granted) - {"open", "api_label", "package", "api_text"}:
        assert granted[name] == {"scores", "labels"}, name


def test_a_licence_opens_the_package_and_nothing_else() -> None:
    assert use(exposed("package", licensed=True), "weights") is not None
    for name in NAMES:
        if name != "package":
            assert declared()[name].granted(licensed=True) == declared()[name].grants
    outsider, insider = (
        build("deployment=package", "attack=prune", f"adversary={name}") for name in ("standard", "licensee")
    )
    with pytest.raises(Denied, match="prune needs weights, the deployment grants nothing"):
        admit(outsider)
    admit(insider)


def test_what_a_deployment_denies_is_recorded_as_blocked(tmp_path: Path) -> None:
    with composer() as compose:
        words = [f"paths.runs={tmp_path}", f"paths.cache={tmp_path}", "trainer.progress=false"]
        spec = compose([*words, "deployment=package", "attack=extract"])
    record = isolate.perform(spec)
    assert (record["status"], record["reason"]) == (
        "blocked",
        "extract needs labels, the deployment grants nothing",
    )
    assert "deployment" not in record


def test_every_extraction_attack_stands_in_the_suite_under_every_deployment() -> None:
    blocks = grid("deployment", [CONF])
    asked = {(a, d) for axes in blocks for a in axes["attack"] for d in axes["deployment"]}
    suited = {name: set(found.grants) for name, found in declared().items() if name != "api_text"}
    for name in sorted(path.stem for path in (CONF / "attack").glob("*.yaml")):
        attack = build(f"attack={name}").attack if name in {a for a, _ in asked} else None
        for deployment in suited if attack is not None and attack.needs != "weights" else ():
            assert (name, deployment) in asked, (name, deployment)


def test_a_deployment_of_nothing_says_so() -> None:
    with pytest.raises(Denied, match="grants nothing, not labels"):
        Deployment(()).expose(MODEL).labels(INPUTS)


def test_queries_are_counted_by_example() -> None:
    access = Deployment(GRANTS).expose(MODEL)
    access.scores(INPUTS)
    access.labels(INPUTS[:3])
    access.weights()
    assert access.queries == 10
    access.labels(INPUTS[:0])
    assert access.queries == 10
    assert Deployment(GRANTS).expose(MODEL).queries == 0, "every exposure counts for itself"


def test_texts_are_new_at_every_call_and_each_prompt_is_a_query() -> None:
    access = Deployment(("texts",)).expose(Author())
    first, second = access.texts(PROMPTS, 5), access.texts(PROMPTS, 5)
    assert first.shape == (7, 5)
    assert not torch.equal(first, second)
    assert access.queries == 14
    assert torch.equal(Deployment(("texts",)).expose(Author()).texts(PROMPTS, 5), first)
    with pytest.raises(NotApplicable, match="writes no texts"):
        Deployment(("texts",)).expose(MODEL).texts(PROMPTS, 5)


def test_weights_are_the_thief_s_own_copy() -> None:
    before = {name: tensor.clone() for name, tensor in MODEL.state_dict().items()}
    stolen = Deployment(("weights",)).expose(MODEL).weights()
    assert not stolen.training
    with torch.no_grad():
        for tensor in stolen.state_dict().values():
            tensor.zero_()
    assert all(torch.equal(tensor, before[name]) for name, tensor in MODEL.state_dict().items())


def test_scores_are_probabilities_and_labels_their_first_maximum() -> None:
    access = Deployment(("scores", "labels")).expose(MODEL)
    scores = access.scores(INPUTS)
    assert scores.shape == (7, 10)
    assert torch.allclose(scores.sum(-1), torch.ones(7))
    assert torch.equal(scores, torch.softmax(logits(MODEL, INPUTS), -1))
    assert torch.equal(access.labels(INPUTS), scores.argmax(-1))
    assert access.labels(INPUTS).dtype == torch.int64
    assert not scores.requires_grad


def on_grid(scores: Tensor, decimals: int) -> bool:
    scaled = scores.double() * 10**decimals
    return bool(((scaled - scaled.round()).abs() < 1e-4).all())


@pytest.mark.parametrize("decimals", [0, 1, 3])
def test_rounding_keeps_so_many_decimals(decimals: int) -> None:
    exact = Deployment(("scores",)).expose(MODEL).scores(INPUTS)
    rounded = Deployment(("scores",), decimals).expose(MODEL).scores(INPUTS)
    assert on_grid(rounded, decimals)
    assert not on_grid(exact, decimals)
    assert (rounded - exact).abs().max() <= 0.5 * 10**-decimals + 1e-6


def test_answers_do_not_depend_on_the_mode_and_leave_it() -> None:
    model = CnnSmall(width=4).build((1, 8, 8), 10, seed=0).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    gateway = Gateway(model, GRANTS)
    assert torch.equal(gateway.labels(INPUTS), Gateway(MODEL, GRANTS).labels(INPUTS))
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    "fields", [{"grants": ["weight"]}, {"grants": ["scores"], "decimals": -1}, {}, {"grants": [], "x": 1}]
)
def test_a_deployment_that_makes_no_sense_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Deployment).validate_python(fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"defences": {"first": 3}}, r"expected a defence as first, got 3; set \+defence@"),
        ({"monitor": "prada"}, r"expected a monitor, got 'prada'; set \+monitor@"),
        ({"on_alarm": "revoke"}, "on_alarm=revoke needs a monitor"),
        ({"monitor": Rate(), "on_alarm": "degrade"}, "expected `degraded` with on_alarm=degrade"),
        ({"monitor": Rate(), "degraded": LabelOnly()}, "expected `degraded` with on_alarm=degrade"),
    ],
)
def test_parts_that_do_not_fit_are_refused_with_a_remedy(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Deployment(("labels",), **fields)


def test_what_is_set_up_at_home_is_not_exposed_without_it() -> None:
    with pytest.raises(ConfigError, match=r"pass guard=deployment\.guarded\(home\)"):
        Deployment(("labels",), monitor=Rate()).expose(MODEL)


def test_an_api_mark_answers_and_its_ledger_keeps_what_was_said() -> None:
    """Every third answer of an owner who turns the first class up; labels follow what the API says."""

    def answer(inputs: Tensor, scores: Tensor, ledger: Ledger) -> Tensor:
        asked = sum(len(part) for part in ledger.inputs)
        turned = (torch.arange(asked, asked + len(inputs)) % 3 == 0)[:, None]
        return torch.where(turned, torch.eye(scores.shape[1])[0], scores)

    inputs = torch.rand(10, 1, 8, 8)
    plain = Gateway(MODEL, ("scores", "labels"))
    marked = Gateway(MODEL, ("scores", "labels"), answer=answer)
    first, second = marked.scores(inputs[:4]), marked.labels(inputs[4:])
    assert first[[0, 3]].argmax(-1).tolist() == [0, 0]
    assert torch.equal(first[[1, 2]], plain.scores(inputs[1:3]))
    assert second[[2, 5]].tolist() == [0, 0]
    assert marked.queries == 10
    kept = marked.ledger.examples()
    assert torch.equal(kept.inputs, inputs)
    assert torch.equal(kept.targets[:4], first)
    assert torch.equal(kept.targets[4:].argmax(-1), second)
    with pytest.raises(ValueError, match="nobody asked"):
        plain.ledger.examples()


SCORES = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.45, 0.45], [0.05, 0.05, 0.9], [1 / 3, 1 / 3, 1 / 3]])
ASKED = INPUTS[:4]


def ready(defence: Defence) -> Filter:
    return defence.ready(home())


def test_coarse_filters_tell_less() -> None:
    tell = ready(TopK(2))
    kept = torch.tensor([[1, 1, 0], [0, 1, 1], [1, 0, 1], [1, 1, 0]])
    assert torch.equal(tell(ASKED, SCORES), SCORES * kept), "of equal scores the lower classes"
    assert torch.equal(ready(TopK(9))(ASKED, SCORES), SCORES)
    label = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0]])
    assert torch.equal(ready(LabelOnly())(ASKED, SCORES), label)
    assert torch.equal(ready(Rounded(1))(ASKED, SCORES), SCORES.round(decimals=1))


@pytest.mark.parametrize("law", ["laplace", "gaussian"])
def test_noise_is_of_its_law_and_the_same_for_the_same_input(law: Any) -> None:
    """Where nothing is cut off, the scores before they are divided by their sum differ by the noise alone."""
    inputs = torch.rand(4000, 1, 2, 2, generator=torch.Generator().manual_seed(3))
    scores = torch.full((4000, 4), 0.25)
    scale = 0.004
    noise = Noise(law, scale, keep_label=False)
    found = ready(noise)(inputs, scores)
    assert torch.equal(found[100:200], ready(noise)(inputs[100:200], scores[100:200])), "of any batch"
    assert not torch.equal(found, noise.noisy(inputs, scores, 1)), "another seed, another noise"
    assert torch.allclose(found.sum(1), torch.ones(4000), atol=1e-6)
    # (1/4 + e_i) / (1 + sum e) is 1/4 + e_i - mean e to first order: 3/4 of the variance.
    variance = float((found.double() - 0.25).var()) / 0.75
    expected = scale**2 * (2 if law == "laplace" else 1)
    assert variance == pytest.approx(expected, rel=0.06)
    fourth = float(((found.double() - 0.25) ** 4).mean()) / float((found.double() - 0.25).var()) ** 2
    assert (fourth > 3.5) == (law == "laplace"), "Laplace has heavy tails"


def test_zeros_of_either_sign_get_the_same_noise() -> None:
    """-0 equals 0, and the model answers both alike: else a picture's black pixels would average the noise out."""
    inputs = torch.rand(3, 1, 2, 2, generator=torch.Generator().manual_seed(6)).round()
    assert (inputs == 0).any()
    noisy = ready(Noise(keep_label=False))
    assert torch.equal(noisy(inputs, SCORES[:3]), noisy(torch.where(inputs == 0, -0.0, inputs), SCORES[:3]))


def test_noise_keeps_the_label_where_it_should() -> None:
    inputs = torch.rand(500, 1, 2, 2, generator=torch.Generator().manual_seed(4))
    scores = torch.softmax(torch.randn(500, 5, generator=torch.Generator().manual_seed(5)), 1)
    kept, free = (ready(Noise(scale=0.3, keep_label=keep))(inputs, scores) for keep in (True, False))
    assert torch.equal(kept.argmax(1), scores.argmax(1))
    assert (free.argmax(1) != scores.argmax(1)).double().mean() > 0.2
    assert torch.equal(kept.sort(1).values, free.sort(1).values), "the best class trades places"
    assert ((kept >= 0) & (kept <= 1)).all()
    moved = relabelled(SCORES, torch.tensor([2, 1, -1, 0]))
    assert torch.equal(moved[0], torch.tensor([0.2, 0.3, 0.5]))
    assert torch.equal(moved[1:], SCORES[1:])


class Fixed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.tensor([[0.7, 0.2, 0.1]]).log().expand(len(x), 3)


def test_misinformation_answers_what_the_model_is_unsure_of() -> None:
    """Equation 4: the model above tau, the wrong one below it, half of each at tau."""
    answered = Misled(Fixed(), tau=0.45, sharpness=1000.0)(ASKED, SCORES)
    wrong = torch.tensor([0.7, 0.2, 0.1])
    assert torch.allclose(answered[0], SCORES[0])
    assert torch.allclose(answered[1], (SCORES[1] + wrong) / 2, atol=1e-5)
    assert torch.allclose(answered[2], SCORES[2])
    assert torch.allclose(answered[3], wrong)


def test_misinformation_learns_to_be_wrong_and_spares_its_share_of_customers() -> None:
    found, labels = torch.randn(6, 4), torch.tensor([0, 1, 2, 3, 0, 1])
    right = torch.softmax(found, 1).gather(1, labels[:, None])[:, 0]
    assert wrong_loss(found, labels) == pytest.approx(float(-torch.log1p(-right).mean()), rel=1e-5)
    filter_ = Misinformation(share=0.05, per_kind=2).ready(home())
    assert isinstance(filter_, Misled)
    sure = torch.softmax(logits(MODEL, home().task.test.inputs), 1).amax(1)
    assert 0 < filter_.tau < float(sure.quantile(0.5))


def test_misinformation_learns_to_be_wrong_of_strange_inputs_too() -> None:
    """As many outliers as owner's inputs in every batch, of the classes that the served model answers."""
    taken: list[tuple[Examples, int]] = []

    def fit(model: nn.Module, data: Examples, **means: Any) -> nn.Module:
        assert data is home().task.owner
        assert means["loss"] is wrong_loss
        taken.append((means["extra"], means["extra_per_batch"]))
        return model.eval()

    Misinformation(per_kind=1).ready(replace(home(), fit=fit))
    [(extra, per_batch)] = taken
    own = home().task.owner.inputs
    assert per_batch == home().task.recipe.batch_size
    assert extra.inputs.shape == own.shape
    assert torch.equal(extra.targets, logits(MODEL, extra.inputs).argmax(1))
    assert float(torch.cdist(extra.inputs.flatten(1), own.flatten(1)).min()) > 1, "none is the owner's"


def test_a_mark_has_the_last_word_on_the_label_and_coarse_filters_come_after_it() -> None:
    def answer(inputs: Tensor, scores: Tensor, ledger: Ledger) -> Tensor:
        return scores.flip(1)

    def half(inputs: Tensor, scores: Tensor) -> Tensor:
        return scores * torch.tensor([0.5, *[1.0] * 9])

    guard = Guard(filters=((True, LabelOnly()), (False, half)))
    gateway = Gateway(MODEL, ("scores", "labels"), answer=answer, guard=guard)
    plain = torch.softmax(logits(MODEL, INPUTS), 1)
    marked = half(INPUTS, plain).flip(1)
    assert torch.equal(gateway.scores(INPUTS), LabelOnly()(INPUTS, marked))
    assert torch.equal(gateway.labels(INPUTS), marked.argmax(1))
    assert torch.equal(gateway.ledger.examples().targets, torch.cat((marked, marked)))


def test_a_mark_in_answers_costs_customers_their_right_labels() -> None:
    """Every answer is another class than the model's. A mark in weights answers as the model does."""
    it = build("watermark=dawn", "watermark.rate=1.0", "attack=extract")
    test = it.task.test
    own = logits(MODEL, test.inputs).argmax(1)
    right = it.task.test.targets == own
    key = it.watermark.keygen(it.task, Secret.simulated(0))
    found = answered(it, Owner(key, MODEL, MODEL, 0.0, 0.0))["answered"]
    told = it.watermark.answer(key, test.inputs, torch.softmax(logits(MODEL, test.inputs), 1), Ledger())
    assert found == pytest.approx(float((told.argmax(1) == test.targets).double().mean()))
    assert 0 < found <= 1 - float(right.double().mean())
    assert answered(build("attack=extract"), Owner(key, MODEL, MODEL, 0.0, 0.0)) == {}


def thief(api: Gateway, *words: str) -> tuple[Thief, Adversary]:
    """One who trains nothing."""
    it, mine = build("attack=extract", "task.limit=200", *words), Thief(api)
    return mine, replace(it.adversary(Meter(mine, it.trainer("thief"))), fit=untrained)


def test_a_thief_who_is_stopped_trains_on_what_he_was_told() -> None:
    """Of 40 inputs he asks 10, 20 and 40, and is answered 25 times."""
    mine, adversary = thief(Gateway(MODEL, ("labels",), guard=Guard(budget=25)))
    taken: list[Examples] = []

    def fit(model: nn.Module, data: Examples, **_: object) -> nn.Module:
        taken.append(data)
        return model.eval()

    found = list(endured(Extract(), mine, replace(adversary, fit=fit)))
    assert [s.strength for s in found] == [10, 20, 25]
    assert [len(data) for data in taken] == [10, 20, 25]
    assert torch.equal(taken[2].targets, logits(MODEL, taken[2].inputs).argmax(1))
    assert torch.equal(taken[2].inputs[:20], taken[1].inputs)
    assert mine.reason == "budget"


@pytest.mark.parametrize("attack", [Extract(student=Mlp()), OnLabels({"first": Extract(student=Mlp())})])
def test_a_stopped_thief_keeps_to_his_own_architecture(attack: Attack) -> None:
    mine, adversary = thief(Gateway(MODEL, ("labels",), guard=Guard(budget=25)))
    *_, last = endured(attack, mine, adversary)
    assert last.model.state_dict().keys() == Mlp().build((1, 8, 8), 10, seed=0).state_dict().keys()
    assert mine.reason == "budget"


def test_a_thief_who_learnt_nothing_is_blocked() -> None:
    mine, adversary = thief(Gateway(MODEL, ("labels",), guard=Guard(budget=1)))
    with pytest.raises(Refused, match="its budget is spent"):
        list(endured(Extract(), mine, adversary))


def test_a_simulation_is_not_timed() -> None:
    curve = [{"strength": 1.0, "cost": {"seconds": 3.0, "queries": 5}}]
    assert untimed(build("deployment=tee_model"), curve)[0]["cost"] == {"seconds": None, "queries": 5}
    assert curve[0]["cost"] == {"seconds": 3.0, "queries": 5}
    assert untimed(build("deployment=api_scores"), curve) == curve


@pytest.mark.slow
def test_a_record_says_what_the_deployment_saw(tmp_path: Path) -> None:
    """A watched API, once without and once with a mark in its answers."""
    tiny = ["task.limit=300", "task.recipe.epochs=2", "verification.null_models=0", "attack.epochs=1"]
    with composer() as compose:
        words = [*tiny, f"paths.runs={tmp_path}", f"paths.cache={tmp_path}", "trainer.progress=false"]
        words += [
            "attack=extract",
            "deployment=monitored_rate",
            "deployment.monitor.hours=1000",
            "adversary=sybil_4",
        ]
        words += ["deployment.monitor.per_kind=4", "+adversary.pace=1000", "task.attacker_share=0.9"]
        spec = compose([*words, "watermark=dawn", "watermark.rate=0.5"])
    record = isolate.perform(spec)
    assert record["status"] == "ok", record.get("reason")
    told, last = record["deployment"], record["curve"][-1]
    assert (told["accounts"], told["licensed"], told["simulation"], told["stopped"]) == (4, False, None, None)
    assert told["clone"]["queries"] == last["cost"]["queries"] == 270
    assert told["clone"]["fidelity"] == last["agreement"]
    alarm, benign = told["alarm"], told["benign"]
    assert (alarm["monitor"], alarm["on_alarm"], alarm["queries"], alarm["leaked"]) == (
        "rate",
        "revoke",
        None,
        0,
    )
    assert alarm["threshold"] >= 270 / 4, "four accounts stay below it"
    assert benign["customers"] == 120 == 6 * benign["kinds"]["frames"]["customers"]
    assert benign["alarmed"] == sum(kind["alarmed"] for kind in benign["kinds"].values())
    assert benign["worst"]["rate"] == max(kind["alarmed"] / 20 for kind in benign["kinds"].values())
    assert told["utility"] is None, "no filter"
    assert record["marked"]["answered"] < record["marked"]["accuracy"], "half of the answers are wrong"
    assert told["book"]["entries"] == 4 + 3 * 4
    assert len(told["book"]["head"]) == 64
