"""Trials of language models from end to end, and options that are meant for them alone."""

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from assay.core.errors import ConfigError, NotApplicable
from assay.core.examples import Examples
from assay.core.secret import Secret
from assay.core.texts import Quality
from assay.deployments.thief import Thief
from assay.experiments import quality as measure
from assay.experiments.api import build
from assay.experiments.author import Author
from assay.experiments.catalogue import catalogue
from assay.experiments.cli import main
from assay.experiments.config import CONF, composer, importable, options
from assay.experiments.exposure import utility as deployment_utility
from assay.experiments.own_key import check_shape
from assay.experiments.people import owner
from assay.experiments.quality import Answers
from assay.experiments.suite import chosen
from assay.leaderboard.ranking import labelled
from assay.watermarks.deepsigns import ActivationKey
from assay.zoo.language import LanguageModel
from assay.zoo.quality import quality

TOY = (
    "task=lm_tiny",
    "task.corpus=topics",
    "task.vocabulary=400",
    "task.window=32",
    "task.test_windows=8",
    "task.limit=60",
    "task.recipe.epochs=1",
    "model=gpt2_tiny",
    "model.layer=net.transformer.h.0.mlp.c_proj",
    "model.context=32",
    "model.width=16",
    "model.depth=1",
    "verification.null_models=0",
    "trainer.progress=false",
)


def test_a_trial_of_a_language_model_has_a_judge_s_accuracy(tmp_path: Path) -> None:
    trial = build(*TOY, "watermark=none", "attack=prune", f"paths.runs={tmp_path}")
    record = trial.run()
    assert record["id"].startswith("lm_tiny-gpt2_tiny-none-open-prune-s0-")
    parts: list[dict[str, Any]] = [record["marked"], *record["curve"]]
    for part in parts:
        assert set(part["quality"]) == {
            "perplexity",
            "rep_3",
            "distinct_2",
            "similarity",
            "semantic_similarity",
            "next_token",
        }
        assert 0 <= part["accuracy"] < 0.2
    assert record["owner"]["unmarked_quality"] == record["marked"]["quality"]
    assert record["owner"]["unmarked_accuracy"] == record["marked"]["accuracy"]
    first, last = record["curve"][0], record["curve"][-1]
    assert first["agreement"] > last["agreement"]
    assert set(first["seen"]) == {"accuracy", "marked"}


def test_the_owner_s_models_are_judged_once_for_all_attacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (
        *TOY,
        "watermark=llm/kgw",
        "watermark.texts=2",
        "watermark.tokens=20",
        "deployment=api_text",
        "seed=5",
    )
    judged: list[torch.nn.Module] = []

    def counted(judge: torch.nn.Module, suspect: torch.nn.Module, *rest: Any) -> Quality | None:
        judged.append(suspect)
        return quality(judge, suspect, *rest)

    monkeypatch.setattr(measure, "quality", counted)
    one, other = (
        build(*words, f"attack=llm/{attack}", f"paths.runs={tmp_path}").run() for attack in ("none", "swap")
    )
    assert len(judged) == 3 + 3  # victim, marked, the copy; then three shares of swapped words
    assert one["owner"] == other["owner"]
    assert one["marked"] == other["marked"]
    assert one["marked"]["quality"]["perplexity"] == pytest.approx(one["curve"][0]["quality"]["perplexity"])
    assert one["marked"]["quality"]["semantic_similarity"] is None, "who writes edits nothing"
    meanings = [point["quality"]["semantic_similarity"] for point in other["curve"]]
    assert all(0 < more < less <= 1 for less, more in itertools.pairwise(meanings)), meanings


def test_a_text_that_is_deleted_whole_is_worth_nothing_and_no_evidence(tmp_path: Path) -> None:
    words = ("watermark=llm/kgw", "watermark.texts=2", "watermark.tokens=20", "deployment=api_text")
    theft = ("attack=llm/delete", "attack.shares=[0.3,1.0]")
    some, none = build(*TOY, *words, *theft, f"paths.runs={tmp_path}").run()["curve"]
    assert some["statistic"] is not None
    assert some["quality"]["perplexity"] > 1
    assert (none["statistic"], none["log10_p"], none["accuracy"]) == (None, 0, 0)
    assert not none["detected"]
    texts = {name: value for name, value in none["quality"].items() if name != "next_token"}
    assert set(texts) == set(some["quality"]) - {"next_token"}
    assert set(texts.values()) == {None}


def test_the_marked_model_s_texts_and_labels_are_written_once_for_all_attacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (*TOY, "watermark=llm/kgw", "watermark.texts=2", "watermark.tokens=20", "deployment=api_text")
    asked: list[int] = []
    write = LanguageModel.write

    def counted(model: LanguageModel, prompts_NP: torch.Tensor, *rest: Any) -> torch.Tensor:
        asked.append(len(prompts_NP))
        return write(model, prompts_NP, *rest)

    def curve(runs: Path, *more: str) -> list[dict[str, Any]]:
        asked.clear()
        record = build(*words, *more, f"paths.runs={runs}", f"paths.cache={runs}/cache").run()
        return [{**point, "cost": None} for point in record["curve"]]

    monkeypatch.setattr(LanguageModel, "write", counted)
    curve(tmp_path / "one", "attack=llm/none")
    assert asked
    again = curve(tmp_path / "one", "attack=llm/swap")
    assert not asked
    assert curve(tmp_path / "other", "attack=llm/swap") == again
    assert asked
    curve(tmp_path / "one", "attack=llm/swap", "watermark.delta=4.0")
    assert asked


def test_who_changes_an_author_leaves_the_marked_model_as_it_is() -> None:
    marked = torch.nn.Linear(2, 2)
    before = marked.weight.detach().clone()
    theirs = Author(marked, lambda _, make: make())
    assert theirs.marked is marked
    for parameter in theirs.parameters():
        parameter.data.zero_()
    assert torch.equal(marked.weight, before)
    assert not theirs(torch.ones(1, 2)).any()


def test_answers_are_asked_for_once_and_an_editor_s_are_his_source_s() -> None:
    asked: list[int] = []

    class Own(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            asked.append(len(x))
            return torch.stack([x, 1 - x], 1)

    one, other = Own(), Own()
    editor = torch.nn.Sequential()
    editor.source = torch.nn.Sequential()
    editor.source.marked = one
    data = Examples(torch.tensor([0.0, 1.0, 1.0]), torch.tensor([1, 0, 1]))
    answers = Answers(data, "cpu")
    assert [answers.accuracy(m) for m in (one, editor, one, other)] == [pytest.approx(2 / 3)] * 4
    assert asked == [3, 3]


def test_a_weight_mark_lives_in_a_linear_layer_of_a_language_model(tmp_path: Path) -> None:
    words = (
        "watermark=uchida",
        "watermark.bits=16",
        "task.recipe.epochs=8",
        "task.recipe.lr=0.01",
        "watermark.strength=1.0",
    )
    record = build(*TOY, *words, "attack=quantize", f"paths.runs={tmp_path}").run()
    assert record["marked"]["statistic"] == 16
    assert record["marked"]["detected"]
    assert not record["controls"]["unmarked"]["detected"]
    assert record["curve"][0]["detected"]


SAMPLING = '''
import copy
from collections.abc import Sequence
from dataclasses import dataclass
import numpy as np
import torch
from assay.core.contracts import Watermark
from assay.core.key import Key
from assay.core.scores import Scores


@dataclass(frozen=True)
class Always:
    """The id of the secret."""

    choice: int

    def __call__(self, logits_BV, context_BL, prompt, generator):
        return logits_BV.argmax(1) * 0 + self.choice


@dataclass(frozen=True)
class Sampling(Watermark):
    family = "language"
    reads = "texts"
    derivation = "derived"
    nulls = ("random_keys",)
    paper = "none"
    trains = False

    def keygen(self, task, secret, model=None, fit=None):
        return Key(secret)

    def embed(self, model, key, task, fit):
        marked = copy.deepcopy(model)
        marked.sampler = Always(key.secret.derive("id", 1)[0])
        return marked

    def score(self, suspects, keys):
        texts = suspects.texts(torch.zeros(3, 2, dtype=int), 4, 0)
        ids = [key.secret.derive("id", 1)[0] for key in keys]
        hits = [[float((text == i).sum()) for i in ids] for text in texts]
        return Scores(np.array(hits), "ids")
'''


@pytest.fixture
def sampling(tmp_path: Path) -> str:
    """A folder with a sampling mark: watermark=odd/sampling."""
    (tmp_path / "watermark" / "odd").mkdir(parents=True)
    target = "_target_: assay_test_sampling.Sampling\n"
    (tmp_path / "watermark" / "odd" / "sampling.yaml").write_text(f"# A toy.\n{target}")
    (tmp_path / "assay_test_sampling.py").write_text(SAMPLING)
    return str(tmp_path)


def test_a_sampling_mark_is_the_victim_with_another_sampler(sampling: str, tmp_path: Path) -> None:
    words = (*TOY, "watermark=odd/sampling", "deployment=api_text", f"paths.runs={tmp_path}")
    trial = build(*words, "attack=llm/none", config_dir=sampling)
    mine = owner(trial, "owner")
    assert vars(mine.victim)["sampler"] is None
    assert vars(mine.marked)["sampler"] is not None
    state = mine.victim.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in mine.marked.state_dict().items())
    record = trial.run()
    assert record["id"].startswith("lm_tiny-gpt2_tiny-odd.sampling-api_text-llm.none-s0-")
    assert record["marked"]["statistic"] == record["curve"][0]["statistic"] == 12
    assert record["controls"]["unmarked"]["statistic"] < 12
    assert record["curve"][0]["quality"]["similarity"] in (1.0, None)
    assert record["owner"]["verification"]["queries"] == 3
    assert record["curve"][0]["quality"]["rep_3"] > 0.9


def test_what_a_trial_saves_of_a_mark_of_texts_is_what_detect_reads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All texts together have the p-value of the record, and those of the unmarked model none."""
    out = tmp_path / "out"
    words = ("watermark=llm/kgw", "watermark.texts=4", "watermark.tokens=24", "verification.random_keys=20")
    more = ("deployment=api_text", "attack=llm/delete", "attack.shares=[0.3]")
    record = build(*TOY, *words, *more, f"paths.runs={tmp_path}", f"save={out}").run()
    expected = {
        "marked": record["marked"]["log10_p"],
        "unmarked": record["controls"]["unmarked"]["log10_p"],
        "surrogate-0.3": record["curve"][0]["log10_p"],
    }
    for name, log10_p in expected.items():
        assert main(["detect", str(out / f"{name}.jsonl"), "--card", str(out / "card.json"), "--json"]) == 0
        *texts, together = json.loads(capsys.readouterr().out)["found"]
        assert len(texts) == 4
        assert together["log10_p"] == pytest.approx(log10_p, rel=1e-12)
    assert expected["marked"] < -6 < expected["unmarked"]
    assert main(["detect", str(out / "marked.jsonl"), "--card", str(out / "card.json"), "--tokens"]) == 0
    assert not (out / "marked.safetensors").exists()


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        (
            ("watermark=odd/sampling", "attack=finetune"),
            NotApplicable,
            "not its weights; finetune takes these",
        ),
        (("watermark=adi_derived", "attack=none"), NotApplicable, "asks for the labels of pictures"),
        (("watermark=none", "attack=evade_label_only"), NotApplicable, "attacks classifiers of pictures"),
        (
            ("watermark=none", "attack=distill", "deployment=api_scores"),
            NotApplicable,
            "reads ids: set attack=llm/distill",
        ),
        (
            ("watermark=none", "attack=sequence_extract_wrk", "deployment=api_label"),
            NotApplicable,
            "sequence_extract_wrk attacks classifiers of pictures",
        ),
        (
            ("watermark=none", "attack=extract", "deployment=monitored_mmd"),
            NotApplicable,
            "monitored_mmd filters or watches what is asked about pictures",
        ),
        (("watermark=none", "attack=extract", "deployment=api_noise"), NotApplicable, "api_noise filters"),
        (
            ("watermark=odd/sampling", "attack=llm/none", "deployment=api_text", "save=somewhere"),
            ConfigError,
            "leave save out",
        ),
    ],
)
def test_what_does_not_fit_is_said_before_anything_is_trained(
    words: tuple[str, ...], error: type[Exception], message: str, sampling: str, tmp_path: Path
) -> None:
    trial = build(*TOY, *words, f"paths.cache={tmp_path / 'empty'}", config_dir=sampling)
    with pytest.raises(error, match=message):
        trial.run()
    assert not list((tmp_path / "empty").iterdir())


def test_rounded_scores_of_windows_cost_customers_nothing_but_decimals() -> None:
    it = build(*TOY, "watermark=none", "attack=extract", "deployment=api_round")
    model = it.task.fresh(0)
    told = deployment_utility(it, model, Thief(it.deployment.expose(model)))
    own = Answers(it.task.test, "cpu").accuracy(model)
    assert (told["accuracy"], told["labels_changed"]) == (own, 0)
    assert told["scores_moved"] > 0


def test_a_matrix_in_a_key_may_be_as_wide_as_it_likes() -> None:
    """A task of windows has inputs (T,), and a key's bits (S, B) are none of them."""
    secret = Secret.simulated(0)
    bits = ActivationKey(secret, "layer", 8, torch.zeros(2, 32), torch.zeros(2), torch.zeros(10, 4))
    check_shape(bits, (32,), Path("key"))
    pictures = replace(bits, inputs_T=torch.zeros(2, 1, 8, 8))
    check_shape(pictures, (1, 8, 8), Path("key"))
    with pytest.raises(ConfigError, match=r"inputs_T of shape \(1, 8, 8\), the task has inputs of \(32,\)"):
        check_shape(pictures, (32,), Path("key"))


def test_texts_are_marked_where_models_write(sampling: str) -> None:
    words = ("task=digits", "watermark=odd/sampling", "attack=llm/none", "deployment=api_text")
    with pytest.raises(NotApplicable, match="a model of digits writes none"):
        build(*words, config_dir=sampling).run()


def test_options_in_folders_are_listed_and_meant_only_where_no_other_is(sampling: str) -> None:
    importable(sampling)
    folder = Path(sampling)
    assert "odd/sampling" not in catalogue("watermark", [folder])
    listed = catalogue("watermark", [folder], nested=True)["odd/sampling"]
    assert (listed["family"], listed["about"]) == ("language", "A toy.")
    assert "odd/sampling" in options("watermark", [folder])
    assert "odd/sampling" in chosen("watermark", {"family": "language"}, [CONF, folder])
    assert "odd/sampling" not in chosen("watermark", {}, [CONF, folder])
    assert all("/" not in name for name in chosen("attack", {"needs": "weights"}, [CONF]))
    assert chosen("watermark", ["odd/sampling", "adi"], [CONF]) == ["odd/sampling", "adi"]
    with composer(sampling) as compose, pytest.raises(ConfigError, match="no watermark/odd called 'samplin'"):
        compose(["watermark=odd/samplin"])


def test_a_setting_said_twice_stands_once_in_the_record() -> None:
    words = ("verification.null_models=1", "verification.null_models=0", "watermark.tokens=20")
    with composer() as compose:
        spec = compose([*TOY, "watermark=llm/kgw", *words])
    said = [word for word in spec.overrides if word.startswith("verification.null_models")]
    assert said == ["verification.null_models=0"]
    once, twice = ({"choices": spec.choices, "overrides": said * n} for n in (1, 2))
    assert labelled(once)["choices"] == labelled(twice)["choices"]
