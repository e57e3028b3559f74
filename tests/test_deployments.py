"""What a deployment grants, denies and counts."""

from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
import yaml
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

import assay.conf
from assay.core.contracts import Grant
from assay.core.errors import Denied, NotApplicable
from assay.core.examples import Ledger
from assay.core.suspects import logits
from assay.core.theft import Access
from assay.deployments.reach import Deployment, Gateway
from assay.zoo.models import CnnSmall

GRANTS: tuple[Grant, ...] = get_args(Grant)
YAMLS = sorted((Path(str(assay.conf.__file__)).parent / "deployment").glob("*.yaml"))
MODEL = CnnSmall(width=4).build((1, 8, 8), 10, seed=0).eval()
PROMPTS = torch.zeros(7, 3, dtype=torch.int64)


class Author(nn.Module):
    """Writes the seed."""

    def write(self, prompts_NP: Tensor, tokens: int, seed: int, temperature: float | None = None) -> Tensor:
        return torch.full((len(prompts_NP), tokens), seed)


INPUTS = torch.rand(7, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def use(access: Access, grant: Grant) -> Any:
    calls = {
        "weights": access.weights,
        "scores": lambda: access.scores(INPUTS),
        "labels": lambda: access.labels(INPUTS),
        "texts": lambda: access.texts(PROMPTS, 5),
    }
    return calls[grant]()


def deployment(path: Path) -> Deployment:
    fields = yaml.safe_load(path.read_text())
    module, _, name = fields.pop("_target_").rpartition(".")
    built = TypeAdapter(getattr(import_module(module), name)).validate_python(fields)
    assert isinstance(built, Deployment)
    return built


@pytest.mark.parametrize(
    ("path", "grant"), list(product(YAMLS, GRANTS)), ids=lambda part: getattr(part, "stem", part)
)
def test_every_deployment_gives_what_it_grants_and_nothing_else(path: Path, grant: Grant) -> None:
    declared = deployment(path)
    access = declared.expose(Author() if grant == "texts" else MODEL)
    if grant in declared.grants:
        assert use(access, grant) is not None
    else:
        with pytest.raises(Denied, match=f"grants {' and '.join(declared.grants)}, not {grant}"):
            use(access, grant)
        assert access.queries == 0, "a refused query is not counted"


def test_open_weights_grant_everything_and_an_api_no_weights() -> None:
    granted = {path.stem: set(deployment(path).grants) for path in YAMLS}
    assert granted["open"] == set(GRANTS) - {"texts"}
    assert granted["api_text"] == {"texts"}
    assert granted["api_scores"] == {"scores", "labels"}
    assert granted["api_label"] == {"labels"}


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
