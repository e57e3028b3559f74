"""Conformance of every sampling mark in conf/watermark/llm: a new yaml is tested without touching this file. The model is a random
GPT-2 of one small layer, whose texts are as free as texts can be."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from scipy import stats
from torch import Tensor, nn

from assay.attacks.llm.edits import deleted
from assay.attacks.llm.reseller import Edited
from assay.core.contracts import Recipe, Task
from assay.core.errors import ConfigError, NotApplicable
from assay.core.examples import Examples
from assay.core.secret import Secret
from assay.core.suspects import Suspects
from assay.experiments.config import CONF
from assay.experiments.trial import built
from assay.watermarks.llm.card import Card
from assay.watermarks.llm.corpus import Texts
from assay.watermarks.llm.messages import bits_of, number_of, shown
from assay.watermarks.llm.mpac import Mpac
from assay.watermarks.llm.sampling import KeyedSampler, SamplingMark, TextKey
from assay.watermarks.llm.synthid import played, played_reference
from assay.zoo.files import load_key, save_key
from assay.zoo.language import LanguageModel
from assay.zoo.language_models import Gpt2

FOLDER = CONF / "watermark" / "llm"


def samplers() -> list[str]:
    """Options that train nothing; the others are fingerprints (tests/test_llm_fingerprints.py)."""
    found = {path.stem: built(yaml.safe_load(path.read_text()), path.stem) for path in FOLDER.glob("*.yaml")}
    return sorted(name for name, mark in found.items() if isinstance(mark, SamplingMark) and not mark.trains)


SCHEMES = samplers()
V, PROMPT, TOKENS, TEXTS = 1024, 8, 32, 8


@cache
def scheme(name: str) -> SamplingMark:
    content = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    found = built({**content, "texts": TEXTS, "tokens": TOKENS, "prompt": PROMPT}, name)
    assert isinstance(found, SamplingMark)
    return found


@cache
def task() -> Task:
    draw = torch.Generator().manual_seed(7)
    ids = torch.randint(0, V, (16, 64), generator=draw)
    split = Examples(ids, ids.roll(-1, 1))
    return Task("tiny", V, split, split, split, Recipe(), lambda seed: model(seed or 0))


def model(seed: int) -> LanguageModel:
    return Gpt2(width=16, depth=1, heads=2, context=64).build((64,), V, seed)


def no_fit(*args: Any, **options: Any) -> nn.Module:
    raise AssertionError("a sampling mark trains nothing")


def key(name: str, secret: int) -> TextKey:
    return scheme(name).keygen(task(), Secret.simulated(secret), model(0))


@cache
def marked(name: str, secret: int) -> LanguageModel:
    found = scheme(name).embed(model(0), key(name, secret), task(), no_fit)
    assert isinstance(found, LanguageModel)
    return found


@pytest.mark.parametrize("name", SCHEMES)
def test_the_owner_is_found_and_strangers_are_not(name: str) -> None:
    keys = [key(name, 1), key(name, 2)]
    models = [marked(name, 1), model(0), marked(name, 2), nn.Linear(2, 2)]
    scores = scheme(name).score(Suspects(models), keys)
    log10_p_MK = scores.log10_p_MK
    assert log10_p_MK is not None
    assert max(log10_p_MK[0, 0], log10_p_MK[2, 1]) <= -3
    assert min(log10_p_MK[0, 1], *log10_p_MK[1], log10_p_MK[2, 0]) > -3
    assert scores.statistic_MK[0, 0] > max(scores.statistic_MK[0, 1], *scores.statistic_MK[1])
    assert np.isnan(scores.statistic_MK[3]).all()
    assert (log10_p_MK[3] == 0).all()
    cell = scheme(name).score(Suspects(models[:1]), keys[1:]).statistic_MK
    assert np.array_equal(cell[0], scores.statistic_MK[0, 1:])


@pytest.mark.parametrize("name", SCHEMES)
def test_generate_with_the_processor_writes_what_the_detector_finds(name: str) -> None:
    from assay.watermarks.llm.processor import MarkProcessor

    prompts = task().owner.inputs[:TEXTS, :PROMPT]
    processor = MarkProcessor(scheme(name), Secret.simulated(1), temperature=0.9)
    torch.manual_seed(3)
    options = {"do_sample": True, "temperature": 0.9, "top_k": 0, "min_new_tokens": TOKENS, "pad_token_id": 0}
    net: Any = model(0).net
    out = net.generate(
        prompts,
        attention_mask=torch.ones_like(prompts),
        max_new_tokens=TOKENS,
        logits_processor=[processor],
        **options,
    )
    found = scheme(name).examine(
        Texts.written(prompts, out[:, PROMPT:]), [Secret.simulated(1), Secret.simulated(2)], V
    )
    assert found.log10_p[0, 0] <= -3 < found.log10_p[0, 1]


@pytest.mark.parametrize("name", SCHEMES)
def test_embedding_trains_nothing_and_leaves_the_victim_as_it_was(name: str) -> None:
    victim = model(0)
    before = {n: t.clone() for n, t in victim.state_dict().items()}
    found = scheme(name).embed(victim, key(name, 1), task(), no_fit)
    assert victim.sampler is None
    assert all(torch.equal(before[n], t) for n, t in victim.state_dict().items())
    assert all(torch.equal(before[n], t) for n, t in found.state_dict().items())
    sampler = found.sampler
    assert isinstance(sampler, KeyedSampler)
    assert Secret.simulated(1).raw.hex() not in repr(sampler)
    assert not scheme(name).trains


@pytest.mark.parametrize("name", SCHEMES)
def test_same_secret_same_key_on_disk_too(name: str, tmp_path: Path) -> None:
    one = key(name, 1)
    assert one.fingerprint == key(name, 1).fingerprint != key(name, 2).fingerprint
    save_key(tmp_path / "key", one, {})
    restored = load_key(tmp_path / "key", TextKey)
    assert restored.fingerprint == one.fingerprint
    assert torch.equal(restored.prompts_NP, one.prompts_NP)


@pytest.mark.parametrize("name", SCHEMES)
def test_texts_are_reproduced_and_do_not_depend_on_each_other(name: str) -> None:
    prompts = task().owner.inputs[:4, :PROMPT]
    whole = marked(name, 1).write(prompts, 12, seed=5)
    assert torch.equal(whole, marked(name, 1).write(prompts, 12, seed=5))
    assert torch.equal(whole[:2], marked(name, 1).write(prompts[:2], 12, seed=5))


def repetitive(seed: int) -> Tensor:
    """(1, 240): a dozen ids by Zipf's law, so that windows, anchors and pairs come back all the time."""
    rng = np.random.default_rng(seed)
    chance = 1 / np.arange(1, 13)
    return torch.from_numpy(rng.choice(12, (1, 240), p=chance / chance.sum())) * 7


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("kind", ["fresh", "repetitive"])
def test_p_values_over_keys_are_not_anti_conservative(name: str, kind: str) -> None:
    """200 keys: P[p <= a] <= a up to a binomial fluctuation of probability 1e-4 a level."""
    count = 200
    ids = (
        repetitive(1)
        if kind == "repetitive"
        else model(0).write(task().owner.inputs[:1, :PROMPT], 50, seed=1)
    )
    secrets = [Secret.simulated(11, kind, k) for k in range(count)]
    texts = Texts.of(ids.tolist())
    # splitmix64 is the cheaper function; tests/test_text_prf.py holds both to their definition.
    p_K = 10 ** replace(scheme(name), prf="splitmix64").examine(texts, secrets, V).log10_p[0]
    assert len(p_K) == count
    for level in (0.5, 0.2, 0.1, 0.05, 0.01):
        assert (p_K <= level).sum() <= stats.binom.ppf(1 - 1e-4, count, level), level


@pytest.mark.parametrize("name", SCHEMES)
def test_terms_sum_up_to_the_statistic(name: str) -> None:
    """The picture shows what the test counts: as many positions, and more for the owner than for a stranger."""
    texts = Texts.of(marked(name, 1).write(task().owner.inputs[:3, :PROMPT], 30, seed=5).tolist())
    found = scheme(name).examine(texts, [Secret.simulated(1)], V)
    means = []
    for secret in (1, 2):
        term_BT, scored_BT = scheme(name).terms(texts, Secret.simulated(secret), V)
        assert ((term_BT >= 0) & (term_BT <= 1)).all()
        means.append(float(term_BT[scored_BT].mean()))
    _, scored_BT = scheme(name).terms(texts, Secret.simulated(1), V)
    assert scored_BT.sum(1).tolist() == found.scored[:, 0].tolist()
    assert means[0] > means[1]


@pytest.mark.parametrize("name", SCHEMES)
def test_cards_hold_no_secret_and_name_what_differs(name: str) -> None:
    mine = Card.of(scheme(name), Secret.simulated(1), V, "abc")
    assert Secret.simulated(1).raw.hex() not in mine.text()
    again = Card.read(mine.text())
    again.expect(mine)
    changes: tuple[dict[str, Any], ...] = ({"vocabulary": 7}, {"key_id": "0" * 16}, {"tokenizer": "xyz"})
    for change in changes:
        with pytest.raises(ConfigError, match=f"^{next(iter(change))}: the card says"):
            mine.expect(replace(mine, **change))
    for field in mine.settings:
        with pytest.raises(ConfigError, match=f"^{field}: the card says"):
            mine.expect(replace(mine, settings={**mine.settings, field: -1}))


@pytest.mark.parametrize("name", ["cyclic", "mpac"])
@pytest.mark.parametrize("payload", [None, "c5"])
def test_messages_are_read(name: str, payload: str | None) -> None:
    options: dict[str, Any] = {"payload": payload, **({"delta": 6.0} if name == "mpac" else {})}
    carrier = replace(scheme(name), **options)
    written = carrier.embed(model(0), key(name, 1), task(), no_fit)
    message = carrier.read(written, key(name, 1))
    assert message is not None
    assert message.whole
    assert message.decoded == (payload or "")
    unread = carrier.read(model(0), key(name, 1))
    assert unread is not None
    assert not unread.whole


def test_messages_of_more_than_63_bits_are_read() -> None:
    number = 2**199 + 2**64 + 5
    assert number_of(bits_of(number, 256)) == number
    carrier, draw = Mpac(delta=30.0, places=64, symbol_bits=4), torch.Generator().manual_seed(3)
    texts = torch.randint(0, V, (40, 1), generator=draw)
    for _ in range(40):
        logits_BV = torch.randn(len(texts), V, generator=draw)
        texts = torch.cat((texts, carrier.next_ids(logits_BV, texts, Secret.simulated(21), draw)[:, None]), 1)
    found = carrier.examine(Texts.written(texts[:, :1], texts[:, 1:]), [Secret.simulated(21)], V)
    assert shown(int(found.message[0, 0]), None, Secret.simulated(21), 256, carrier.scheme).accuracy > 0.9


@pytest.mark.parametrize("tournament", [played, played_reference])
def test_no_probability_falls_below_zero(tournament: Callable[[Tensor, Tensor, int], Tensor]) -> None:
    """Where one id has nearly all, a layer's share rounds to more than 1, and the logarithm of what is left would be NaN."""
    draw = torch.Generator().manual_seed(1)
    p_BV = torch.softmax(3 * torch.randn(2000, 64, generator=draw), -1)
    found_BV = tournament(p_BV, torch.randint(2**32, (2000, 64), generator=draw), 32)
    assert float(found_BV.min()) >= 0


@pytest.mark.parametrize("depth", [1, 8, 13, 32])
def test_grouped_layers_play_the_same_tournament(depth: int) -> None:
    """And over keys the mean is the model's own distribution, for what plays and for what does not."""
    draw = torch.Generator().manual_seed(depth)
    p_BV = torch.softmax(3 * torch.randn(4, 999, generator=draw), -1)
    words_BV = torch.randint(2**32, (4, 999), generator=draw)
    found_BV = played(p_BV, words_BV, depth)
    torch.testing.assert_close(found_BV, played_reference(p_BV, words_BV, depth), rtol=1e-4, atol=1e-9)
    torch.testing.assert_close(found_BV.sum(1), torch.ones(4))
    small_BV = torch.softmax(torch.randn(1, 5, generator=draw), -1).expand(4000, 5)
    mean_V = played(small_BV, torch.randint(2**32, (4000, 5), generator=draw), 2).mean(0)
    torch.testing.assert_close(mean_V, small_BV[0], rtol=0, atol=0.02)


def test_marks_need_texts_and_a_writer() -> None:
    pictures = Examples(torch.zeros(4, 1, 8, 8), torch.zeros(4, dtype=torch.int64))
    with pytest.raises(NotApplicable, match="task=lm_tiny"):
        scheme("kgw").keygen(replace(task(), owner=pictures), Secret.simulated(1))
    with pytest.raises(NotApplicable, match="writes nothing"):
        scheme("kgw").embed(nn.Linear(2, 2), key("kgw", 1), task(), no_fit)


@pytest.mark.parametrize("vocabulary", [4 * V, V // 2])
def test_another_vocabulary_is_no_evidence(vocabulary: int) -> None:
    """A suspect whose ids are not the owner's cannot be read."""
    other = Gpt2(width=16, depth=1, heads=2, context=64).build((64,), vocabulary, 0)
    scores = scheme("kgw").score(Suspects([other]), [key("kgw", 1)])
    assert np.isnan(scores.statistic_MK).all()


@pytest.mark.parametrize("name", SCHEMES)
def test_a_text_of_which_nothing_is_left_is_no_evidence(name: str) -> None:
    emptied = Edited(marked(name, 1), deleted, 1.0, 0)
    scores = scheme(name).score(Suspects([emptied]), [key(name, 1)])
    assert np.isnan(scores.statistic_MK).all()
    assert scores.log10_p_MK is not None
    assert (scores.log10_p_MK == 0).all()
    assert scheme(name).read(emptied, key(name, 1)) is None


class Counting(nn.Module):
    """Writes ids that follow from the prompt's last one, the largest first."""

    def __init__(self, largest: int) -> None:
        super().__init__()
        self.largest = largest

    def write(self, prompts_NP: Tensor, tokens: int, seed: int, temperature: float | None = None) -> Tensor:
        found = (prompts_NP[:, -1:] * 31 + torch.arange(tokens) ** 2 * 7) % self.largest
        found[:, 0] = self.largest
        return found


def test_an_id_that_the_vocabulary_has_not_is_no_evidence() -> None:
    """Ids end at V - 1: one of V is another vocabulary's."""
    prompts = torch.arange(V).reshape(-1, PROMPT)
    assert scheme("kgw").corpus_of(Counting(V - 1), prompts, V) is not None
    assert scheme("kgw").corpus_of(Counting(V), prompts, V) is None


def test_a_key_is_read_in_texts_to_its_own_prompts() -> None:
    """Keys of other prompts beside it change nothing, and neither does their order."""
    one = key("kgw", 1)
    other = replace(one, secret=Secret.simulated(2), prompts_NP=(one.prompts_NP + 5) % V)
    suspects = Suspects([Counting(V - 1)])
    apart = [float(scheme("kgw").score(suspects, [k]).statistic_MK[0, 0]) for k in (one, other)]
    for keys, expected in (([one, other], apart), ([other, one], apart[::-1])):
        assert scheme("kgw").score(suspects, keys).statistic_MK[0].tolist() == pytest.approx(expected)
