"""Conformance of every attack in conf/attack/llm: a new yaml is tested without touching this file; then each attack's own facts.

The model is not trained: what an attack must hold does not depend on what the model has learnt.
"""

from collections.abc import Iterator
from functools import cache
from importlib import import_module
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

from assay.attacks.llm.distill import divergence, most_likely
from assay.attacks.llm.imitate import UNSEEN, Imitate, lessons
from assay.attacks.llm.paraphrase import Redrawn
from assay.attacks.llm.permute import Permute, moved, some, transformer
from assay.attacks.llm.reseller import Edited, Edits
from assay.attacks.llm.rewrite import Retold, tokens_of
from assay.attacks.llm.spoof import Favoured, learnt
from assay.core.contracts import Grant
from assay.core.errors import Denied, NotApplicable
from assay.core.suspects import logits
from assay.core.theft import Surrogate
from assay.deployments.gateway import Gateway
from assay.experiments.api import build
from assay.experiments.config import CONF
from assay.experiments.meter import Meter
from assay.experiments.trial import Trial

YAMLS = {
    path.stem: yaml.safe_load(path.read_text()) for path in sorted((CONF / "attack" / "llm").glob("*.yaml"))
}
NAMES = list(YAMLS)
ALL: tuple[Grant, ...] = ("weights", "scores", "labels", "texts")
SMALL = (
    *(
        "task=lm_tiny",
        "task.limit=60",
        "task.window=32",
        "model=gpt2_tiny",
        "model.context=32",
        "model.width=32",
    ),
    *("model.heads=2", "watermark=llm/kgw", "deployment=api_text", "trainer.progress=false"),
)
TOKENS = 20


def short(name: str) -> tuple[str, ...]:
    """One epoch, whatever trains."""
    content = YAMLS[name]
    recipes = [field for field, value in content.items() if isinstance(value, dict) and "epochs" in value]
    epochs = [f"attack.{field}.epochs=1" for field in recipes]
    stages = ["attack.stages.first.epochs=1"] if name == "imitate_finetune" else []
    return (*epochs, *stages, *(["attack.epochs=1"] if "epochs" in content else []))


@cache
def trial(name: str) -> Trial:
    return build(f"attack=llm/{name}", *SMALL, *short(name))


@cache
def victim() -> nn.Module:
    return trial("none").task.fresh(0).eval()


def edits(name: str) -> bool:
    module, _, kind = YAMLS[name]["_target_"].rpartition(".")
    return issubclass(getattr(import_module(module), kind), Edits)


def attacked(name: str, grants: tuple[Grant, ...]) -> tuple[Iterator[Surrogate], Gateway]:
    it = trial(name)
    access = Gateway(victim(), grants)
    meter = Meter(access, it.trainer("thief"))
    return meter.over(it.attack(access, it.adversary(meter))), access


@cache
def stolen(name: str) -> tuple[list[Surrogate], Gateway]:
    found, access = attacked(name, (trial(name).attack.needs,))
    return list(found), access


def written(model: Any, seed: int = 1) -> Tensor:
    texts_NT: Tensor = model.write(trial("none").task.test.inputs[:6, :8], TOKENS, seed)
    return texts_NT


@pytest.mark.parametrize("name", NAMES)
def test_trajectory(name: str) -> None:
    """Input untouched, text or model really changed, strengths rising, costs reported, within what was granted."""
    before = {key: tensor.clone() for key, tensor in victim().state_dict().items()}
    surrogates, access = stolen(name)
    assert all(torch.equal(before[key], tensor) for key, tensor in victim().state_dict().items())
    assert [s.strength for s in surrogates] == sorted({s.strength for s in surrogates})
    assert surrogates
    attack = trial(name).attack
    for surrogate in surrogates:
        assert surrogate.model is not access.model
        assert not any(module.training for module in surrogate.model.modules())
        changed = not torch.equal(written(surrogate.model), written(victim()))
        assert changed == (not attack.preserves and name != "none")
        assert surrogate.cost is not None
    costs = [s.cost for s in surrogates if s.cost]
    assert [c.seconds for c in costs] == sorted(c.seconds for c in costs)
    assert costs[-1].examples == (0 if attack.data == "none" else len(trial(name).task.attacker))
    assert (costs[-1].steps > 0) == (attack.data == "labelled" or attack.axis == "queries")
    asks = attack.axis in ("queries", "stages")
    assert (costs[-1].queries > 0) == asks
    if attack.axis == "queries":
        assert [float(c.queries) for c in costs] == [s.strength for s in surrogates]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_same_seed_same_texts(name: str) -> None:
    """The first of the trajectory."""
    first = stolen(name)[0][0].model
    again = next(attacked(name, ALL)[0]).model
    assert torch.equal(written(first), written(again))
    assert torch.equal(written(first), written(first))


@pytest.mark.parametrize("name", NAMES)
def test_denied_needs_raise(name: str) -> None:
    with pytest.raises(Denied):
        next(attacked(name, tuple(grant for grant in ALL if grant != trial(name).attack.needs))[0])


@pytest.mark.parametrize("name", NAMES)
def test_the_catalogue_describes_it(name: str) -> None:
    """The first line cites, or says what it stands for; the fields of the yaml are all the fields there are."""
    text = (CONF / "attack" / "llm" / f"{name}.yaml").read_text()
    assert text.startswith("# ")
    attack = trial(name).attack
    assert attack.paper
    assert {"stages"} == set(vars(attack)) or set(vars(attack)) <= set(YAMLS[name])


@pytest.mark.parametrize("name", [name for name in NAMES if edits(name)])
def test_share_0_leaves_the_text_and_another_seed_edits_elsewhere(name: str) -> None:
    edited = stolen(name)[0][-1].model
    assert isinstance(edited, Edited)
    none = Edited(victim(), edited.edit, 0.0, edited.seed, edited.longer)
    assert torch.equal(written(none), written(victim()))
    assert not torch.equal(written(edited, 1), written(edited, 2))
    assert written(edited).shape[1] <= TOKENS
    inputs = trial("none").task.test.inputs[:2]
    assert torch.equal(logits(edited, inputs), logits(victim(), inputs))


def test_a_reseller_of_pictures_has_no_words() -> None:
    with pytest.raises(NotApplicable, match="edits text, and digits has none"):
        tokens_of(build("attack=none", "trainer.progress=false").settings.task)


def test_retelling_is_decoding_editing_and_encoding() -> None:
    tokens = tokens_of(trial("none").settings.task)
    text = "And God said, Let there be light: and there was light."
    ids = torch.tensor(tokens.encode([text, text]))

    def louder(text: str, share: float, generator: torch.Generator) -> str:
        return text.replace("light", "LIGHT")

    out = Retold(tokens, louder)(ids, 1.0, torch.Generator())
    assert tokens.decode(out[0].tolist()) == "And God said, Let there be LIGHT: and there was LIGHT."
    assert torch.equal(Retold(tokens, lambda text, share, generator: text)(ids, 1.0, torch.Generator()), ids)


def test_lessons_leave_the_prompt_out() -> None:
    found = lessons(torch.tensor([[1, 2, 3]]), torch.tensor([[4, 5]]))
    assert found.inputs.tolist() == [[1, 2, 3, 4]]
    assert found.targets.tolist() == [[UNSEEN, UNSEEN, 4, 5]]


def test_imitation_asks_each_prompt_once_and_respects_the_budget() -> None:
    it = build("attack=llm/imitate", "adversary.queries=7", *SMALL, *short("imitate"))
    access = Gateway(victim(), ("texts",))
    attack = it.attack
    assert isinstance(attack, Imitate)
    surrogates = list(attack(access, it.adversary(Meter(access, it.trainer("thief")))))
    assert access.queries == 7
    assert [s.strength for s in surrogates] == [2.0, 7.0]
    assert all(s.model.sampler is None for s in surrogates)


def test_a_student_of_all_probabilities_has_the_gradient_of_kl() -> None:
    """softmax(student) - teacher, over windows and ids."""
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(2, 5, 3, generator=generator, requires_grad=True)
    teacher = torch.softmax(torch.randn(2, 5, 3, generator=generator), 1)

    class Constant(nn.Module):
        def forward(self, _: Tensor) -> Tensor:
            return student

    divergence(Constant(), torch.zeros(2, 3), most_likely(teacher, 64)).backward()
    torch.testing.assert_close(student.grad, (torch.softmax(student.detach(), 1) - teacher) / 6)
    kept = most_likely(teacher, 2)
    assert kept.shape == (2, 2, 2, 3)
    torch.testing.assert_close(kept[:, 0].sum(1), torch.ones(2, 3))
    assert torch.equal(kept[:, 1, 0].long(), teacher.argmax(1))


def test_redrawing_changes_the_share_it_says() -> None:
    ids = torch.randint(2048, (3, 50), generator=torch.Generator().manual_seed(0))
    out = Redrawn(victim(), 32, 0.7)(ids, 0.4, torch.Generator().manual_seed(1))
    assert (out != ids).sum(1).tolist() == [round(0.4 * 49)] * 3
    assert torch.equal(out[:, 0], ids[:, 0])


@pytest.mark.parametrize("move", ["heads", "hidden", "residual"])
def test_permuting_moves_the_weights_and_not_the_function(move: Any) -> None:
    it = trial("permute")
    access = Gateway(victim(), ("weights",))
    attack = Permute(moves=(move,), shares=(1.0,))
    (surrogate,) = attack(access, it.adversary(Meter(access, it.trainer("thief"))))
    mine, theirs = victim().state_dict(), surrogate.model.state_dict()
    moved = {name for name in mine if not torch.equal(mine[name], theirs[name])}
    parts = {"heads": "attn.c_attn.weight", "hidden": "mlp.c_fc.weight", "residual": "wte.weight"}
    assert any(name.endswith(parts[move]) for name in moved)
    inputs = it.task.test.inputs[:8]
    before, after = logits(victim(), inputs), logits(surrogate.model, inputs)
    assert float((before - after).abs().max()) <= 1e-5 * float(before.abs().max())


@pytest.mark.parametrize(("share", "count"), [(0.01, 2), (0.25, 2), (0.5, 2), (0.75, 3), (1.0, 4)])
def test_all_that_are_chosen_change_places(share: float, count: int) -> None:
    for seed in range(100):
        order = some(4, share, torch.Generator().manual_seed(seed))
        assert sorted(order.tolist()) == [0, 1, 2, 3]
        assert int(moved(order).sum()) == count


def test_the_strength_of_a_permutation_is_the_share_that_moved() -> None:
    """2 heads cannot be moved by a half; shares that move as much are one point."""
    it = trial("permute")
    access = Gateway(victim(), ("weights",))
    adversary = it.adversary(Meter(access, it.trainer("thief")))
    assert [s.strength for s in Permute(moves=("heads",))(access, adversary)] == [1.0]
    assert [s.strength for s in Permute(moves=("residual",))(access, adversary)] == [0.25, 0.5, 1.0]
    both = [s.strength for s in Permute(moves=("heads", "residual"), shares=(0.25,))(access, adversary)]
    blocks = len(list(transformer(victim())[0].h))  # type: ignore[arg-type]
    assert both == [pytest.approx((blocks + 0.25) / (blocks + 1))]
    with pytest.raises(NotApplicable, match="change places"):
        list(Permute(moves=())(access, adversary))


def test_heads_are_those_of_gpt2() -> None:
    access = Gateway(nn.Sequential(nn.Linear(2, 2)), ("weights",))
    it = trial("permute")
    with pytest.raises(NotApplicable, match="GPT-2"):
        list(it.attack(access, it.adversary(Meter(access, it.trainer("thief")))))


class Uniform(nn.Module):
    """Expects nothing."""

    def forward(self, ids_NT: Tensor) -> Tensor:
        return torch.zeros(ids_NT.shape[0], 8, ids_NT.shape[1])


def test_a_forger_learns_what_follows_a_window_more_often_than_expected() -> None:
    """After 1 always 2, after 2 always 3, after 3 anything: what is favoured is found, and drawn."""
    generator = torch.Generator().manual_seed(0)
    rows = []
    for _ in range(40):
        row = [1]
        while len(row) < 32:
            last = row[-1]
            row.append(last + 1 if last in (1, 2) else int(torch.randint(8, (1,), generator=generator)))
        rows.append(row)
    texts = torch.tensor(rows)
    found = learnt(Uniform(), texts[:, :1], texts[:, 1:], width=1, windows=100, strength=10.0)
    place, known = found.rows(torch.tensor([[0, 1], [0, 2]]))
    assert known.all()
    assert found.bias_WV[place].argmax(1).tolist() == [2, 3]
    counts = torch.bincount(
        texts[:, 1:][texts[:, :-1] == 3], minlength=8
    )  # of the ids after 3, each expected alike
    ratio = counts / counts.sum() * 8
    after_3 = found.bias_WV[found.rows(torch.tensor([[3]]))[0][0]]
    assert torch.allclose(after_3, torch.where(ratio >= 1, ratio.clamp(max=2) / 2, 0), atol=1e-5)
    assert (after_3 == 0).any()
    rare = torch.tensor([[5, 6, 7, 7, 7]])  # each pair once but 7, 7
    once = learnt(Uniform(), rare[:, :1], rare[:, 1:], width=1, windows=100, strength=1.0)
    assert once.bias_WV.nonzero()[:, 1].tolist() == [7]
    drawn = found(torch.zeros(50, 8), torch.ones(50, 3, dtype=torch.int64), 1, generator)
    assert float((drawn == 2).double().mean()) > 0.9
    assert not Favoured(found.keys_W, found.bias_WV, 2, 1.0).rows(torch.tensor([[5]]))[1].any()
