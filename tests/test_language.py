"""Language models under the common contract: what they compute, how they write, and what texts are worth."""

import copy
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.pytorch_utils import Conv1D

from assay.core import suspects
from assay.core.errors import ConfigError, NotApplicable
from assay.core.suspects import Suspects, labels, logits, parts, texts
from assay.core.texts import ROWS, Plain, drawn
from assay.experiments.run import asked
from assay.zoo.files import load_model, save_model
from assay.zoo.language import LanguageModel, plain
from assay.zoo.language_models import Gpt2
from assay.zoo.models import CnnSmall, head
from assay.zoo.training import cross_entropy

V, T = 50, 12
GPT2 = Gpt2(layer="net.transformer.h.0.mlp.c_proj", context=T, width=16, depth=1, heads=2)


def model(seed: int = 0) -> LanguageModel:
    """Untrained, but far from uniform: its logits are 20 times as large."""
    built = GPT2.build((T,), V, seed).eval()
    with torch.no_grad():
        built.get_submodule("net.lm_head").weight.mul_(20)  # type: ignore[operator]
    return built


def ids(count: int, length: int, seed: int = 0, vocabulary: int = V) -> Tensor:
    return torch.randint(vocabulary, (count, length), generator=torch.Generator().manual_seed(seed))


@dataclass(frozen=True)
class Greedy:
    """The likeliest id; keeps what it was asked."""

    calls: list[tuple[Tensor, Tensor, int]] = field(default_factory=list)

    def __call__(
        self, logits_BV: Tensor, context_BL: Tensor, prompt: int, generator: torch.Generator
    ) -> Tensor:
        self.calls.append((logits_BV.clone(), context_BL.clone(), prompt))
        return logits_BV.argmax(1)


def test_a_network_made_plain_computes_the_same() -> None:
    config = GPT2Config(vocab_size=V, n_positions=T, n_embd=16, n_layer=2, n_head=2, tie_word_embeddings=True)
    net = GPT2LMHeadModel(config).eval()
    before = net(input_ids=ids(3, T)).logits
    made = plain(net)
    assert not any(isinstance(layer, Conv1D) for layer in made.modules())
    torch.testing.assert_close(made(input_ids=ids(3, T)).logits, before)
    assert made.get_submodule("transformer.h.0.mlp.c_fc").weight.shape == (64, 16), "outputs on axis 0"
    assert made.lm_head.weight is not made.transformer.wte.weight  # type: ignore[union-attr]
    assert "lm_head.weight" in dict(made.named_parameters())
    assert len({p.data_ptr() for p in made.parameters()}) == len(list(made.parameters()))


def test_logits_have_their_classes_on_axis_1_and_see_no_later_id() -> None:
    network, window = model(), ids(2, T)
    found = network(window)
    assert found.shape == (2, V, T)
    changed = window.clone()
    changed[:, 7:] = (changed[:, 7:] + 1) % V
    torch.testing.assert_close(network(changed)[:, :, :7], found[:, :, :7])
    assert not torch.allclose(network(changed)[:, :, 7], found[:, :, 7])
    with pytest.raises(ValueError, match="at most 12 ids, got 13"):
        network(ids(1, T + 1))


def test_the_loss_is_torchs_and_so_is_its_gradient() -> None:
    network, window, targets = model(), ids(4, T), ids(4, T, 1)
    losses = (functional.cross_entropy(network(window), targets), cross_entropy(network(window), targets))
    torch.testing.assert_close(losses[0], losses[1])
    first, second = (torch.autograd.grad(loss, list(network.parameters())) for loss in losses)
    for one, other in zip(first, second, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)
    scores, classes = torch.randn(6, 5, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 5
    assert torch.equal(cross_entropy(scores, classes), functional.cross_entropy(scores, classes))


@pytest.mark.parametrize("tokens", [T - 4, 3 * T])
def test_writing_with_a_cache_is_asking_again_for_every_id(tokens: int) -> None:
    """Also beyond the context, where the model goes on from the later half."""
    network, prompts = model(), ids(3, 4)
    network.sampler = Greedy()
    found = network.write(prompts, tokens, seed=0)
    text, start = prompts, 0
    for _ in range(tokens):
        if text.shape[1] - start > T:
            start = text.shape[1] - T // 2
        text = torch.cat([text, network(text[:, start:])[:, :, -1].argmax(1)[:, None]], 1)
    assert torch.equal(found, text[:, 4:])
    assert len({tuple(row) for row in found.tolist()}) == 3


def test_a_sampler_gets_tempered_logits_all_ids_so_far_and_the_prompt() -> None:
    network, prompts = model(), ids(2, 4)
    network.sampler = greedy = Greedy()
    text = network.write(prompts, 3, seed=0, temperature=0.5)
    whole = torch.cat([prompts, text], 1)
    assert [call[2] for call in greedy.calls] == [4, 4, 4]
    for i, (logits_BV, context_BL, _) in enumerate(greedy.calls):
        assert torch.equal(context_BL, whole[:, : 4 + i])
        torch.testing.assert_close(logits_BV, network(whole[:, : 4 + i])[:, :, -1] / 0.5)
        assert logits_BV.dtype == torch.float32


def test_a_text_depends_on_seed_place_and_prompt_alone() -> None:
    network, prompts = model(), ids(ROWS + 6, 3)
    state = torch.get_rng_state()
    every = network.train().write(prompts, 8, seed=5)
    assert network.training
    assert torch.equal(torch.get_rng_state(), state)
    network.eval()
    assert torch.equal(network.write(prompts, 8, seed=5), every)
    assert torch.equal(network.write(prompts[:9], 8, seed=5), every[:9])
    assert torch.equal(network.write(prompts[:9], 5, seed=5), every[:9, :5])
    assert not torch.equal(network.write(prompts, 8, seed=6), every)
    same = network.write(prompts[:1].repeat(ROWS + 6, 1), 8, seed=5)
    assert len({tuple(row) for row in same.tolist()}) > ROWS, "every text is a draw of its own"
    assert network.write(prompts[:0], 8, seed=5).shape == (0, 8)


def test_it_draws_from_the_softmax_at_its_temperature() -> None:
    network, count = model(), 20 * ROWS
    network.temperature = 2.0
    prompt = ids(1, 3)
    expected_V = torch.softmax(network(prompt)[0, :, -1] / 2, 0).detach().double()
    for temperature in (None, 2.0):
        drawn_N = network.write(prompt.repeat(count, 1), 1, seed=1, temperature=temperature)[:, 0]
        found_V = torch.bincount(drawn_N, minlength=V).double()
        chi = float(((found_V - count * expected_V) ** 2 / (count * expected_V)).sum())
        assert chi < V - 1 + 4 * math.sqrt(2 * (V - 1))
    cold = network.write(prompt.repeat(9, 1), 1, seed=1, temperature=1e-4)
    assert (cold == expected_V.argmax()).all()


def test_a_draw_takes_as_much_from_the_generator_whatever_its_rows() -> None:
    after = []
    for rows in (1, ROWS):
        generator = torch.Generator().manual_seed(0)
        found = drawn(torch.full((rows, 4), 3.0), generator)
        assert found.shape == (rows,)
        after.append(generator.get_state())
    assert torch.equal(*after)
    certain = torch.tensor([[0.0, 1e-30, 0.0], [0.0, 0.0, 5.0]])
    assert drawn(certain, torch.Generator().manual_seed(0)).tolist() == [1, 2]
    with pytest.raises(ValueError, match=f"at most {ROWS} rows"):
        drawn(torch.ones(ROWS + 1, 2), torch.Generator())


@pytest.mark.parametrize(
    ("prompts", "tokens", "temperature", "message"),
    [
        (ids(2, T), 1, None, "fewer than the context"),
        (ids(2, 0), 1, None, "1 to 11 ids"),
        (ids(2, 3)[0], 1, None, "1 to 11 ids"),
        (ids(2, 3), 0, None, "at least 1 token"),
        (ids(2, 3, vocabulary=1) + V, 1, None, "another tokenizer"),
        (ids(2, 3), 1, 0.0, "temperature above 0"),
    ],
)
def test_what_it_cannot_write_it_refuses(
    prompts: Tensor, tokens: int, temperature: float | None, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        model().write(prompts, tokens, 0, temperature)


def test_a_copy_keeps_the_sampler_and_a_file_holds_weights_alone(tmp_path: Path) -> None:
    network = model()
    network.sampler, network.tokenizer = Plain(), "abc"
    assert copy.deepcopy(network).sampler == Plain()
    assert (network.vocabulary, network.context) == (V, T)
    save_model(tmp_path / "model.safetensors", network, {})
    again = load_model(tmp_path / "model.safetensors", lambda: GPT2.build((T,), V, 9))
    assert isinstance(again, LanguageModel)
    assert again.sampler is None
    assert torch.equal(again(ids(2, T)), network(ids(2, T)))
    assert torch.equal(again.write(ids(2, 3), 5, 0), network.write(ids(2, 3), 5, 0))


def test_an_architecture_is_built_by_seed_and_marked_in_a_linear_layer() -> None:
    state = torch.get_rng_state()
    one, again, other = (GPT2.build((T,), V, seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one["net.lm_head.weight"], other["net.lm_head.weight"])
    (weight,) = Suspects([model()]).weights(GPT2.layer)
    assert weight is not None
    assert weight.shape == (16, 64)
    assert head(model()) == "net.lm_head"
    with pytest.raises(ConfigError, match="task=lm_tiny"):
        GPT2.build((1, 8, 8), 10, 0)


def test_labels_of_windows_are_read_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    network, windows = model(), ids(11, T)
    whole = network(windows)
    monkeypatch.setattr(suspects, "LOGITS", 3 * V * T + 1)
    sizes = [len(part) for part in parts(network, windows)]
    assert sizes == [1, 3, 3, 3, 1]
    torch.testing.assert_close(logits(network, windows), whole)
    found = Suspects([network, network]).labels(windows)
    assert found.shape == (2, 11, T)
    assert torch.equal(found[1], whole.argmax(1))
    pictures = torch.rand(5, 1, 8, 8)
    assert labels(CnnSmall(width=4).build((1, 8, 8), 10, 0), pictures).shape == (5,)


def test_reading_leaves_gradients_on_also_half_way() -> None:
    network = model()
    one, other = parts(network, ids(4, T)), parts(network, ids(4, T))
    for _ in zip(one, other, strict=False):
        assert torch.is_grad_enabled()
    assert torch.is_grad_enabled()
    assert not network(ids(1, T)).detach().requires_grad


def test_suspects_write_and_who_cannot_says_so() -> None:
    network, prompts = model(), ids(3, 4)
    first, second = Suspects([network, model(1)]).texts(prompts, 6, seed=3)
    assert torch.equal(first, network.write(prompts, 6, 3))
    assert not torch.equal(first, second)
    with pytest.raises(NotApplicable, match="writes no texts"):
        Suspects([nn.Flatten()]).texts(prompts, 6, 0)


def test_verification_counts_inputs_and_prompts() -> None:
    network = model()
    with asked(network) as counts:
        texts(network, ids(5, 3), 4, 0)
        labels(network, ids(7, T))
    assert sum(counts) == 12
    texts(network, ids(5, 3), 4, 0)
    assert sum(counts) == 12
    assert "write" not in vars(network)


@pytest.mark.parametrize("settings", [{"width": 30}, {"context": 1}, {"temperature": 0.0}])
def test_an_architecture_that_makes_no_sense_is_refused(settings: dict[str, Any]) -> None:
    from pydantic import TypeAdapter, ValidationError

    with pytest.raises(ValidationError):
        TypeAdapter(Gpt2).validate_python(settings)
