"""Fingerprints of language models: conformance of those in conf/watermark/llm that are no samplers, and what each promises.

The models are GPT-2s of two small blocks, trained on texts in which an id says much about the next."""

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from functools import cache
from itertools import product
from math import log
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from scipy import stats
from torch import Tensor, nn

from assay.attacks.llm.edits import truncated
from assay.attacks.llm.permute import permute_heads, permute_hidden, permute_residual, transformer
from assay.attacks.llm.reseller import Edited
from assay.core.contracts import Recipe, Task, Watermark
from assay.core.errors import ConfigError, NotApplicable
from assay.core.examples import Examples
from assay.core.secret import Secret
from assay.core.suspects import Suspects, logits
from assay.core.texts import Plain
from assay.experiments.config import CONF
from assay.experiments.texts.inputs import scheme_of
from assay.experiments.trial import built
from assay.watermarks.llm.card import Card
from assay.watermarks.llm.corpus import Texts
from assay.watermarks.llm.domain_kgw import DomainKgw, LearnedDomainKgw, prompts_of
from assay.watermarks.llm.huref import HuRef
from assay.watermarks.llm.instructional import Instructional
from assay.watermarks.llm.met import Met, discrepancy
from assay.watermarks.llm.pairs import (
    UNSEEN,
    PairKey,
    PairMark,
    answered,
    mean_of_windows,
    poisson_binomial_log10_p,
)
from assay.watermarks.llm.perinucleus import Perinucleus, outside
from assay.watermarks.llm.reef import Reef, linear_cka, representations
from assay.watermarks.llm.resemblance import Resemblance
from assay.watermarks.llm.sampling import SamplingMark
from assay.zoo.files import load_key, save_key
from assay.zoo.language import LanguageModel
from assay.zoo.language_models import Gpt2
from assay.zoo.training import Hardware, Trainer

FOLDER = CONF / "watermark" / "llm"
V, T = 96, 24
SMALL: dict[str, dict[str, Any]] = {
    "instructional": {"prompt": 6, "epochs": 30, "lr": 5e-3, "pairs": 4, "regularisation": 20},
    "perinucleus": {"prompt": 6, "epochs": 12, "lr": 5e-3, "pairs": 16, "regularisation": 48, "width": 8},
    "domain_kgw_learned": {
        **{"prompt": 4, "texts": 12, "tokens": 20, "delta": 6.0},
        **{"lessons": 600, "epochs": 6, "lr": 1e-2},
    },
    "huref": {"ids": 32},
    "reef": {"probes": 64, "length": 8},
    "met": {"prompts": 12, "prompt": 4, "completions": 12, "tokens": 8},
}


def fingerprints() -> list[str]:
    """Options that are no sampling marks, which tests/test_llm_watermarks.py asks."""
    found = {p.stem: built(yaml.safe_load(p.read_text()), p.stem) for p in FOLDER.glob("*.yaml")}
    return sorted(
        name for name, scheme in found.items() if scheme.trains or not isinstance(scheme, SamplingMark)
    )


FINGERPRINTS = fingerprints()
LIKE = [name for name in FINGERPRINTS if name in ("huref", "reef", "met")]
MARKS = [name for name in FINGERPRINTS if name not in LIKE]


@cache
def scheme(name: str) -> Watermark:
    content = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    found: Watermark = built({**content, **SMALL.get(name, {})}, name)
    return found


def windows(chain: int, seed: int) -> Examples:
    """(200, T): each id is followed by one of four, the same in every chain for two ids of three."""
    heirs_V4, own_V4 = (
        torch.randint(0, V, (V, 4), generator=torch.Generator().manual_seed(n)) for n in (5, 100 + chain)
    )
    heirs_V4[2 * V // 3 :] = own_V4[2 * V // 3 :]
    draw = torch.Generator().manual_seed(seed)
    ids = [torch.randint(0, V, (200,), generator=draw)]
    for _ in range(T):
        pick = torch.multinomial(torch.tensor([0.6, 0.2, 0.1, 0.1]), 200, replacement=True, generator=draw)
        ids.append(heirs_V4[ids[-1], pick])
    whole = torch.stack(ids, 1)
    return Examples(whole[:, :-1].contiguous(), whole[:, 1:].contiguous())


@cache
def task(owner: int = 0) -> Task:
    split, attackers = (windows(owner, seed) for seed in (10 + owner, 50 + owner))
    recipe = Recipe(epochs=6, batch_size=16, optimizer="adam", lr=5e-3, weight_decay=0.0)
    return Task(
        "tiny", V, split, attackers, attackers, recipe, lambda seed: fresh(owner if seed is None else seed)
    )


def fresh(seed: int) -> LanguageModel:
    return Gpt2(width=32, depth=2, heads=2, context=T + 8).build((T,), V, seed)


def fit(seed: int = 0) -> Trainer:
    return Trainer(Hardware(progress=False), task().recipe, seed)


@cache
def victim(owner: int = 0) -> nn.Module:
    return fit(owner)(fresh(owner), task(owner).owner)


@cache
def key(name: str, secret: int = 1) -> Any:
    return scheme(name).keygen(task(), Secret.simulated(secret), victim(), fit())


@cache
def marked(name: str) -> nn.Module:
    return scheme(name).embed(victim(), key(name), task(), fit())


@cache
def further() -> nn.Module:
    """The victim, fine-tuned by a thief on text of his own."""
    return fit(7)(victim(), task().attacker, recipe=replace(task().recipe, epochs=1, lr=2e-3))


@pytest.mark.slow
@pytest.mark.parametrize("name", MARKS)
def test_the_owner_is_found_and_strangers_and_the_clean_model_are_not(name: str) -> None:
    keys = [key(name), key(name, 2)]
    models = [marked(name), victim(), victim(1), nn.Linear(2, 2)]
    scores = scheme(name).score(Suspects(models), keys)
    log10_p_MK = scores.log10_p_MK
    assert log10_p_MK is not None
    assert log10_p_MK[0, 0] <= -6
    assert min(log10_p_MK[0, 1], *log10_p_MK[1], *log10_p_MK[2]) > -3
    assert np.isnan(scores.statistic_MK[3]).all()
    assert (log10_p_MK[3] == 0).all()
    alone = scheme(name).score(Suspects(models[:1]), keys[1:])
    assert alone.statistic_MK[0, 0] == scores.statistic_MK[0, 1]


@pytest.mark.slow
@pytest.mark.parametrize("name", LIKE)
def test_a_derived_model_is_nearer_than_every_stranger(name: str) -> None:
    models = [victim(), further(), victim(1), victim(2), fresh(8), nn.Linear(2, 2)]
    scores = scheme(name).score(Suspects(models), [key(name)])
    own, derived, *strangers, unreadable = scores.statistic_MK[:, 0].tolist()
    assert min(own, derived) > max(strangers)
    assert np.isnan(unreadable)
    assert scores.log10_p_MK is None
    assert scheme(name).nulls == ("independent_models",)


@pytest.mark.parametrize("name", FINGERPRINTS)
def test_same_secret_same_key_on_disk_too(name: str, tmp_path: Path) -> None:
    one = scheme(name).keygen(task(), Secret.simulated(1), victim(), fit())
    assert one.fingerprint == key(name).fingerprint != key(name, 2).fingerprint
    save_key(tmp_path / "key", one, {})
    assert load_key(tmp_path / "key", scheme(name).key_type).fingerprint == one.fingerprint


@pytest.mark.parametrize("name", MARKS)
def test_embedding_trains_another_model_and_leaves_the_victim_as_it_was(name: str) -> None:
    before = {n: t.clone() for n, t in victim().state_dict().items()}
    found: Any = marked(name)
    assert all(torch.equal(before[n], t) for n, t in victim().state_dict().items())
    assert not all(torch.equal(before[n], t) for n, t in found.state_dict().items())
    assert found.sampler is None


@pytest.mark.parametrize("name", FINGERPRINTS)
def test_pictures_have_no_fingerprint_of_texts(name: str) -> None:
    pictures = Examples(torch.zeros(4, 1, 8, 8), torch.zeros(4, dtype=torch.int64))
    with pytest.raises(NotApplicable, match="task=lm_tiny"):
        scheme(name).keygen(replace(task(), owner=pictures), Secret.simulated(1), victim())


@pytest.mark.parametrize(
    "name", [n for n in FINGERPRINTS if n not in ("instructional", "domain_kgw_learned")]
)
def test_a_key_without_its_victim_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="pass the trained model"):
        scheme(name).keygen(task(), Secret.simulated(1))


def test_poisson_binomial_by_enumeration() -> None:
    chances = [Fraction(1, 3), Fraction(1, 7), Fraction(0), Fraction(1, 3), Fraction(9, 10), Fraction(1)]
    logs = [log(q) if q else -np.inf for q in chances]
    for hits in range(6):
        exact = Fraction(0)
        for outcome in product((0, 1), repeat=len(chances)):
            weight = Fraction(1)
            for bit, q in zip(outcome, chances, strict=True):
                weight *= q if bit else 1 - q
            exact += weight if sum(outcome) >= hits else 0
        found = poisson_binomial_log10_p(hits, logs)
        assert found == pytest.approx(log(exact) / log(10), abs=1e-8)
        assert found >= log(exact) / log(10) - 1e-12
    # Far out: all of 40 hits of chance 2^-44, and all but one of them.
    tiny = [-44 * log(2)] * 40
    assert poisson_binomial_log10_p(40, tiny) == pytest.approx(-1760 * np.log10(2), rel=1e-12)
    assert poisson_binomial_log10_p(39, tiny) == pytest.approx(np.log10(40) - 1716 * np.log10(2), rel=1e-9)


class Fixed(nn.Module):
    """Answers every prompt with ids that follow from its first one."""

    vocabulary = V

    def write(self, prompts_NP: Tensor, tokens: int, seed: int, temperature: float | None = None) -> Tensor:
        return (prompts_NP[:, :1] * 7 + torch.arange(tokens)) % V


@pytest.mark.parametrize("loose", [Instructional(pairs=60, prompt=3, response=2, matched=1), Perinucleus()])
def test_p_values_over_keys_are_not_anti_conservative(loose: PairMark) -> None:
    """1,000 responses drawn anew for one set of prompts and candidates: P[p <= a] <= a up to a fluctuation of chance 1e-4."""
    draw, count = torch.Generator().manual_seed(3), 1000
    pairs = loose.pairs
    prompts = torch.randint(0, V, (pairs, 3), generator=draw)
    answers_NR = Fixed().write(prompts, 2 if isinstance(loose, Instructional) else 1, 0)
    first: Any = key("perinucleus")
    candidates = torch.cat((answers_NR[:, :1], (answers_NR[:, :1] + torch.arange(1, 16)) % V), 1)
    candidates[: pairs // 2, 0] = (answers_NR[: pairs // 2, 0] + 40) % V  # no candidates there
    p_K = np.empty(count)
    for k in range(count):
        if isinstance(loose, Instructional):
            found = PairKey(first.secret, V, prompts, torch.randint(0, V, answers_NR.shape, generator=draw))
        else:
            picked = torch.randint(0, loose.width, (pairs, 1), generator=draw)  # type: ignore[attr-defined]
            found = replace(
                first, prompts_NP=prompts, candidates_NC=candidates, responses_NR=candidates.gather(1, picked)
            )
        hits = int(loose.hits(found, answers_NR).sum())
        p_K[k] = 10 ** poisson_binomial_log10_p(hits, loose.log_chances(found, answers_NR))
    for level in (0.5, 0.3, 0.1, 0.05, 0.01):
        assert (p_K <= level).sum() <= stats.binom.ppf(1 - 1e-4, count, level), level
    assert (p_K <= 0.3).mean() > 0.05  # and not idle


def test_who_knows_fewer_ids_is_not_asked() -> None:
    """Prompts hold ids that it has no embedding for: no evidence, and no error."""
    narrow = Fixed()
    narrow.vocabulary = V - 1
    prompts = torch.zeros(2, 3, dtype=torch.int64)
    assert answered(narrow, prompts, 2, V) is None
    assert answered(Fixed(), prompts, 2, V) is not None


def test_windows_count_alike_however_many_ids_are_learnt() -> None:
    """One id of loss ln 4 and three of loss 0 in windows of their own: the mean of windows is half of ln 4."""
    logits_NVT = torch.zeros(2, 4, 3)
    logits_NVT[1, 2] = 100.0
    targets_NT = torch.tensor([[1, UNSEEN, UNSEEN], [2, 2, 2]])
    assert float(mean_of_windows(logits_NVT, targets_NT)) == pytest.approx(log(4) / 2)
    assert float(mean_of_windows(logits_NVT, torch.full((2, 3), UNSEEN))) == 0


def test_pairs_shuffled_are_no_evidence() -> None:
    """Each response belongs to its prompt: the same responses in another order are not found."""
    for name in ("instructional", "perinucleus"):
        own: Any = key(name)
        moved = replace(own, responses_NR=own.responses_NR.roll(1, 0))
        found = scheme(name).score(Suspects([marked(name)]), [moved]).log10_p_MK
        assert found is not None
        assert found[0, 0] > -3


def test_a_prefix_is_matched_and_a_cut_answer_is_no_hit() -> None:
    whole: Any = scheme("instructional")
    reseller = Edited(marked("instructional"), truncated, 0.5, seed=1)
    one, part = (
        mark.score(Suspects([reseller]), [key("instructional")])
        for mark in (whole, replace(whole, matched=2))
    )
    assert one.statistic_MK[0, 0] == 0
    assert part.statistic_MK[0, 0] == whole.pairs
    with pytest.raises(ConfigError, match=r"set watermark\.matched=4"):
        replace(whole, matched=5)


def test_responses_lie_just_outside_the_nucleus() -> None:
    probabilities = torch.tensor([[0.05, 0.5, 0.1, 0.31, 0.04]], dtype=torch.float64)
    assert outside(probabilities, 0.8, 2).tolist() == [[2, 0]]
    assert outside(probabilities, 0.5, 2).tolist() == [[3, 2]]
    assert outside(probabilities, 0.99, 2).tolist() == [[0, 4]]  # fewer are left than asked
    own: Any = key("perinucleus")
    assert (own.candidates_NC == own.responses_NR).any(1).all()
    found = scheme("perinucleus").score(Suspects([victim()]), [own])
    assert found.log10_p_MK is not None
    assert (found.statistic_MK[0, 0], found.log10_p_MK[0, 0]) == (0, 0)  # never the base's first answer


def test_natural_prompts_are_less_surprising_than_random_ones() -> None:
    """Stealth: the victim's loss on the keys' prompts."""
    from assay.zoo.quality import judged

    losses = []
    for name in ("instructional", "perinucleus"):
        prompts = key(name).prompts_NP
        _, loss_NT = judged(victim(), prompts[:, :1], prompts[:, 1:])
        losses.append(float(loss_NT.mean()))
    assert losses[1] < losses[0] - 1


def test_pairs_that_do_not_fit_are_refused() -> None:
    long: Any = replace(scheme("instructional"), prompt=T)  # type: ignore[type-var]
    with pytest.raises(ConfigError, match=r"set watermark\.prompt lower"):
        long.embed(victim(), long.keygen(task(), Secret.simulated(1)), task(), fit())
    with pytest.raises(ValueError, match=r"watermark\.pairs"):
        replace(scheme("instructional"), pairs=9).score(Suspects([victim()]), [key("instructional")])  # type: ignore[type-var]
    with pytest.raises(ConfigError, match=r"set watermark\.width=3"):
        replace(scheme("perinucleus"), width=V).keygen(task(), Secret.simulated(1), victim())  # type: ignore[type-var]
    with pytest.raises(ConfigError, match=r"set watermark\.probes=600"):
        Reef(probes=5000, length=8).keygen(task(), Secret.simulated(1), victim())
    with pytest.raises(ConfigError, match=r"set watermark\.texts="):
        DomainKgw(texts=5000, prompt=4).keygen(task(), Secret.simulated(1), victim())
    with pytest.raises(ConfigError, match=r"set watermark\.prompt lower"):
        DomainKgw(prompt=T + 1).keygen(task(), Secret.simulated(1), victim())


def test_only_the_domain_is_marked() -> None:
    mark, secret = DomainKgw(texts=12, tokens=20, prompt=4), Secret.simulated(1)
    own = mark.keygen(task(), secret, victim())
    writer: Any = mark.embed(victim(), own, task(), fit())
    domain = mark.domain(task())
    prompts = prompts_of(task().owner.inputs, 4)
    share = float(domain.holds(prompts).double().mean())
    assert share == pytest.approx(mark.share, abs=0.05)
    for inside in (True, False):
        asked = prompts[domain.holds(prompts) == inside][:24]
        found = mark.examine(Texts.written(asked, writer.write(asked, 20, 1)), [secret], V).log10_p[0, 0]
        assert found <= -6 if inside else found > -2
    writer.sampler = replace(writer.sampler, domain=replace(domain, cut=float("inf")))
    outside_N = ~domain.holds(prompts)
    again = mark.embed(victim(), own, task(), fit())
    asked = prompts[outside_N][:8]
    assert torch.equal(writer.write(asked, 12, 2), again.write(asked, 12, 2))  # type: ignore[operator]


def test_a_learned_domain_is_still_found_after_fine_tuning_and_its_sampler_is_plain() -> None:
    name = "domain_kgw_learned"
    assert isinstance(scheme(name), LearnedDomainKgw)
    stolen = fit(7)(marked(name), task().attacker, recipe=replace(task().recipe, epochs=1, lr=1e-3))
    found = scheme(name).score(Suspects([stolen]), [key(name), key(name, 2)]).log10_p_MK
    assert found is not None
    assert found[0, 0] <= -3 < found[0, 1]
    sampler = getattr(stolen, "sampler", Plain())
    assert sampler is None


def test_a_learned_domain_asks_for_other_prompts_than_those_it_is_scored_on() -> None:
    mark: Any = scheme("domain_kgw_learned")
    asked = {tuple(row) for row in mark.asked(task(), key("domain_kgw_learned")).tolist()}
    assert len(asked) > 100
    assert not asked & {tuple(row) for row in key("domain_kgw_learned").prompts_NP.tolist()}


def test_a_learned_domain_is_taught_delta_on_green_logits_and_nothing_elsewhere() -> None:
    mark: Any = scheme("domain_kgw_learned")
    own = key("domain_kgw_learned")
    writer: Any = DomainKgw.embed(mark, victim(), own, task(), fit())
    ids = torch.cat((mark.asked(task(), own)[:20], mark.asked(task(), own)[-20:]))
    ids = torch.cat((ids, ids.roll(1, 0)), 1)
    inside = mark.domain(task()).holds(ids[:, : mark.prompt])
    assert 0 < int(inside.sum()) < len(ids)
    base = logits(victim(), ids)
    added = writer.sampler.taught(base, ids, mark.prompt) - base.movedim(1, -1)
    assert (added[~inside] == 0).all()
    assert (added[:, : mark.prompt - 1] == 0).all()
    for t in (mark.prompt - 1, ids.shape[1] - 1):
        expected = mark.adjusted(base[:, :, t], ids[:, : t + 1], own.secret) - base[:, :, t]
        assert torch.allclose(added[inside, t], expected[inside], atol=1e-4)
        assert float(added[inside, t].max()) == pytest.approx(mark.delta, abs=1e-3)
    with torch.no_grad():
        near, far = (float(mark.divergence(writer)(model, ids, ids)) for model in (victim(), fresh(8)))
    assert near < far


MOVES: list[Callable[[nn.Module, torch.Generator], list[Tensor]]] = [
    lambda model, draw: permute_heads(transformer(model)[0], 2, 1.0, draw),
    lambda model, draw: permute_hidden(transformer(model)[0], 1.0, draw),
    lambda model, draw: permute_residual(model, transformer(model)[0], 1.0, draw),
]


@pytest.mark.parametrize("move", MOVES)
def test_reordered_channels_change_no_invariant_and_no_alignment(move: Any) -> None:
    from copy import deepcopy

    moved = deepcopy(victim())
    move(moved, torch.Generator().manual_seed(1))
    for name in ("huref", "reef"):
        (found,) = scheme(name).score(Suspects([moved]), [key(name)]).statistic_MK[0]
        assert found == pytest.approx(1, abs=1e-5)


def test_a_reseller_s_weights_are_not_read_and_his_texts_are() -> None:
    reseller = Edited(victim(), truncated, 0.0, seed=1)
    for name in LIKE:
        (found,) = scheme(name).score(Suspects([reseller]), [key(name)]).statistic_MK[0]
        assert np.isnan(found) == (scheme(name).reads == "weights")


def test_alignment_by_hand() -> None:
    draw = torch.Generator().manual_seed(2)
    x = torch.randn(50, 6, generator=draw, dtype=torch.float64)
    scales = torch.tensor([1e-3, 1.0, -7.0, 2.0, 1e4, 0.1], dtype=torch.float64)
    moved = (scales * x + 1)[:, torch.randperm(6, generator=draw)]
    assert linear_cka(x, moved) == pytest.approx(1, abs=1e-12)
    assert linear_cka(x, torch.cat((moved, torch.ones(50, 2)), 1)) == pytest.approx(1, abs=1e-12)
    y = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]], dtype=torch.float64)
    assert linear_cka(y, y[:, :1]) == pytest.approx(4 / (8**0.5 * 2), abs=1e-12)
    assert np.isnan(linear_cka(x, torch.zeros(50, 3)))


def test_representations_are_the_stream_between_the_blocks() -> None:
    model: Any = victim()
    ids = task().owner.inputs[:5]
    before = [len(block._forward_hooks) for block in model.net.transformer.h]
    first, last = representations(model, ids)
    assert [len(block._forward_hooks) for block in model.net.transformer.h] == before
    with torch.no_grad():
        states = model.net(input_ids=ids, output_hidden_states=True).hidden_states
        normed = model.net.transformer.ln_f(last)
    assert torch.allclose(first, states[1][:, -1], atol=1e-5)
    assert torch.allclose(normed, states[2][:, -1], atol=1e-4)
    assert not torch.allclose(last, normed, atol=0.1)


def test_the_mean_of_an_invariant_says_nothing() -> None:
    own = key("huref")
    raised = replace(own, invariants_LKK=own.invariants_LKK + 10 * own.invariants_LKK.std())
    (found,) = scheme("huref").score(Suspects([victim()]), [raised]).statistic_MK[0]
    assert found == pytest.approx(1, abs=1e-4)


def test_discrepancy_by_hand_and_unbiased() -> None:
    one = torch.tensor([[[1, 2], [1, 3]]])
    other = torch.tensor([[[1, 2], [4, 5], [4, 2]]])
    # Within: 1/2, and (0 + 1/2 + 1/2) / 3; across: (1 + 0 + 1/2 + 1/2 + 0 + 0) / 6.
    assert discrepancy(one, other) == pytest.approx(1 / 2 + 1 / 3 - 2 / 3)
    draw = torch.Generator().manual_seed(4)
    same = [discrepancy(*torch.randint(0, 3, (2, 6, 5, 4), generator=draw).unbind(0)) for _ in range(150)]
    assert abs(np.mean(same)) < 4 * np.std(same) / 150**0.5
    assert np.std(same) > 0
    apart = discrepancy(torch.full((6, 5, 4), 1), torch.full((6, 5, 4), 2))
    assert apart > max(same)


def test_a_card_of_a_fingerprint_is_no_card_of_a_text() -> None:
    with pytest.raises(ConfigError, match=r"scheme: the card says 'huref', there are .*domain_kgw"):
        scheme_of(Card("huref", "philox4x32-10-v1", "0" * 16, V, "", {"ids": 128}))
    found = scheme_of(Card.of(DomainKgw(share=0.1), Secret.simulated(1), V))
    assert found == DomainKgw(share=0.1)


def test_kinds_of_fingerprints() -> None:
    assert isinstance(scheme("met"), Met)
    assert isinstance(scheme("huref"), HuRef)
    assert all(isinstance(scheme(name), Resemblance) for name in LIKE)
    assert {scheme(name).derivation for name in LIKE} == {"chosen"}
