"""Any transformers folder as a task: read as data, or refused."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from assay.core.contracts import Recipe
from assay.core.errors import ConfigError
from assay.experiments.api import build
from assay.experiments.people import clean, training
from assay.zoo.folders import Folder, OfTask, contents
from assay.zoo.language import LanguageModel
from assay.zoo.text_tasks import Language
from assay.zoo.tokens import BYTES, Tokens

TOPICS = Language(corpus="topics", vocabulary=400, window=32, test_windows=8)
TOY = (
    *("task=lm_folder", "task.window=32", "task.corpus=topics", "task.limit=9", "model=of_task"),
    *("watermark=none", "attack=none", "verification.null_models=0"),
)


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
    trial = build(f"task.model={tmp_path / 'own'}", *TOY)
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
        build(f"task.model={tmp_path / 'own'}", *TOY[:-1]).run()


def test_another_model_in_the_same_folder_is_another_entry_of_the_cache(tmp_path: Path) -> None:
    small_llama(tmp_path)
    first = training(build(f"task.model={tmp_path}", *TOY), 0)
    assert training(build(f"task.model={tmp_path}", *TOY), 0) == first
    net = small_llama(tmp_path)
    with torch.no_grad():
        net.model.norm.weight[0] += 1
    net.save_pretrained(tmp_path)
    contents.cache_clear()
    assert training(build(f"task.model={tmp_path}", *TOY), 0) != first


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


@pytest.mark.parametrize(
    "config", [5, {"model_type": "vit"}, {"vocab_size": "x"}, {"num_attention_heads": 3}]
)
def test_a_config_of_something_else_is_refused(config: Any, tmp_path: Path) -> None:
    small_llama(tmp_path)
    path = tmp_path / "config.json"
    whole = isinstance(config, int) or "model_type" in config
    path.write_text(json.dumps(config if whole else {**json.loads(path.read_text()), **config}))
    with pytest.raises(ConfigError, match=r"task\.model=FOLDER"):
        folder(tmp_path).load(OfTask(), 0)


def test_a_weight_that_is_not_there_is_not_drawn(tmp_path: Path) -> None:
    """transformers draws it at random and says so on standard error alone."""
    name = "model.layers.0.mlp.up_proj.weight"
    small_llama(tmp_path)
    path = tmp_path / "model.safetensors"
    weights = load_file(path)
    save_file({n: w for n, w in weights.items() if n != name}, path, {"format": "pt"})
    with pytest.raises(ConfigError, match=f"lack 1 weights of the model, {name}"):
        folder(tmp_path).load(OfTask(), 0).fresh(None)
    weights[name][0, 0] = torch.nan
    save_file(weights, path, {"format": "pt"})
    with pytest.raises(ConfigError, match=f"NaN or infinite values in .*{name}"):
        folder(tmp_path).load(OfTask(), 0).fresh(None)
