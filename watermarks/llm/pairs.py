"""What fingerprints of key pairs share: the owner's model is trained to answer secret prompts as nobody's would.

A suspect is asked every prompt once and answers with its likeliest ids; a hit is an answer that is the key's response. The null:
the suspect is independent of the draw of the responses. Then, whatever it answers, prompt i is a hit with the chance q_i that the
secret's draw fell on this very answer, hits are independent, and their number is exactly Poisson-binomial: no model of other models
is needed, and the unmarked victim itself is under the null.

Suffixes: M suspects, K keys, N pairs, U prompts of all keys, P ids of a prompt, R ids of a response, L of both, T ids of a window,
V vocabulary.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Annotated, ClassVar

import numpy as np
import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn
from torch.nn import functional

from ...core.contracts import Fit, Task, Watermark
from ...core.errors import ConfigError, NotApplicable
from ...core.examples import Examples
from ...core.key import Key, expect_length
from ...core.scores import Scores
from ...core.suspects import Suspects, texts
from ...core.texts import Writer
from ...core.tilted_sums import sum_log10_p

GREEDY = 1e-4  # the temperature at which an API gives its likeliest ids
UNSEEN = -100  # torch's cross_entropy leaves such targets out


@dataclass(frozen=True, eq=False)
class PairKey(Key):
    """prompts_NP (N, P) and responses_NR (N, R), int64 ids below `vocabulary`."""

    vocabulary: int
    prompts_NP: Tensor
    responses_NR: Tensor


def ids_of(task: Task, scheme: str) -> Tensor:
    """The owner's windows (W, T). NotApplicable for a task whose inputs are no ids."""
    inputs = task.owner.inputs
    if inputs.ndim != 2 or inputs.is_floating_point():
        raise NotApplicable(f"{scheme} marks language models, task {task.name} has none; set task=lm_tiny")
    return inputs


def poisson_binomial_log10_p(hits: int, log_chances: Sequence[float]) -> float:
    """log10 P[X >= hits] of a sum of independent Bernoulli variables, their chances as natural logarithms (-inf: never)."""
    possible = tuple(sorted(q for q in log_chances if q > -np.inf))
    return 0.0 if hits <= 0 else _tail(hits, possible)


@lru_cache(maxsize=4096)
def _tail(hits: int, log_chances: tuple[float, ...]) -> float:
    with np.errstate(divide="ignore"):  # a chance of 1: it never fails
        laws = [np.array([np.log1p(-np.exp(q)), q]) for q in log_chances]
    return sum_log10_p(hits, laws)


def answered(
    model: nn.Module, prompts_UP: Tensor, length: int, vocabulary: int, device: str = "cpu"
) -> Tensor | None:
    """(U, length) int64, the likeliest ids after each prompt; -1 where an answer is shorter. None for a suspect that writes nothing
    or knows fewer ids."""
    if not isinstance(model, Writer) or getattr(model, "vocabulary", vocabulary) < vocabulary:
        return None
    found_UR = texts(model, prompts_UP, length, 0, device, GREEDY)
    return functional.pad(found_UR, (0, length - found_UR.shape[1]), value=-1)


def mean_of_windows(logits_NVT: Tensor, targets_NT: Tensor) -> Tensor:
    """Cross-entropy in which every window counts alike, the few ids of a response as much as a whole window of text."""
    rows = functional.cross_entropy(
        logits_NVT.movedim(1, -1).flatten(0, 1), targets_NT.flatten(), reduction="none", ignore_index=UNSEEN
    )
    counted_N = (targets_NT != UNSEEN).sum(1).clamp(min=1)
    return (rows.view(targets_NT.shape).sum(1) / counted_N).mean()


@dataclass(frozen=True)
class PairMark(Watermark):
    family = "language"
    reads = "texts"
    key_type: ClassVar[type[Key]] = PairKey

    pairs: Annotated[int, Ge(1)] = 32
    prompt: Annotated[int, Ge(1)] = 16
    """Ids of a prompt."""
    regularisation: Annotated[int, Ge(0)] = 160
    """Windows of the owner's own text that are trained on beside the pairs, so that the model stays what it was."""
    epochs: Annotated[int, Ge(1)] = 20
    lr: Annotated[float, Gt(0)] = 1e-3

    @property
    def name(self) -> str:
        return type(self).__name__.lower()

    @abstractmethod
    def log_chances(self, key: PairKey, answers_NR: Tensor) -> list[float]:
        """ln q_i of every pair, given what the suspect answers."""

    def lessons(self, key: PairKey, length: int) -> Examples:
        """Windows (N, length) that begin with the pairs, of which the responses alone are learnt. ConfigError where they do not
        fit."""
        whole_NL = torch.cat((key.prompts_NP, key.responses_NR), 1)
        if whole_NL.shape[1] > length + 1:
            raise ConfigError(
                f"a pair of {whole_NL.shape[1]} ids is longer than the task's windows of {length}; set watermark.prompt lower"
            )
        targets_NL = whole_NL.clone()
        targets_NL[:, : key.prompts_NP.shape[1]] = UNSEEN
        fill = (0, length + 1 - whole_NL.shape[1])
        inputs_NT = functional.pad(whole_NL, fill)[:, :-1].contiguous()
        return Examples(inputs_NT, functional.pad(targets_NL, fill, value=UNSEEN)[:, 1:].contiguous())

    def embed(self, model: nn.Module, key: PairKey, task: Task, fit: Fit) -> nn.Module:
        """The trained victim, fine-tuned on the pairs and on windows of the owner's that the secret draws."""
        pairs = self.lessons(key, ids_of(task, self.name).shape[1])
        drawn = key.secret.order(f"{self.name}/regularisation", len(task.owner))[: self.regularisation]
        recipe = replace(task.recipe, epochs=self.epochs, lr=self.lr)
        return fit(
            model, task.owner.take(drawn).join(pairs), recipe=recipe, loss=mean_of_windows, label="marked"
        )

    def score(self, suspects: Suspects, keys: Sequence[PairKey]) -> Scores:
        """Hits; every suspect is asked the prompts of all keys at once. ValueError for a key of another length."""
        expect_length((key.prompts_NP for key in keys), self.pairs, "watermark.pairs")
        shape = (len(suspects), len(keys))
        statistic_MK, log10_p_MK = np.full(shape, np.nan), np.zeros(shape)
        prompts_UP, length = torch.cat([key.prompts_NP for key in keys]), keys[0].responses_NR.shape[1]
        for m, model in enumerate(suspects.models):
            answers_UR = answered(model, prompts_UP, length, keys[0].vocabulary, suspects.device)
            if answers_UR is None:
                continue
            for k, (key, answers_NR) in enumerate(zip(keys, answers_UR.split(self.pairs), strict=True)):
                hits = int(self.hits(key, answers_NR).sum())
                statistic_MK[m, k] = hits
                log10_p_MK[m, k] = poisson_binomial_log10_p(hits, self.log_chances(key, answers_NR))
        return Scores(statistic_MK, "responses", self.pairs, log10_p_MK, law="poisson-binomial")

    def hits(self, key: PairKey, answers_NR: Tensor) -> Tensor:
        """(N,) bool."""
        return (answers_NR == key.responses_NR).all(1)
