"""Tasks of text: the next ids of a public corpus, and the genre of a passage. Documents go whole to the owner, the attacker or the
test, by seed; a part of a language task that no seed gives away trains the tokenizer and the judge."""

from abc import abstractmethod
from dataclasses import dataclass
from functools import cache
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor, nn

from ..core.contracts import Task
from ..core.errors import ConfigError, NotApplicable
from ..core.examples import Examples
from .corpora import GENRES, Corpus, documents
from .language_models import Causal
from .models import Architecture, Shape
from .tasks import Classified, Source, expect_all, generator
from .tokens import BYTES, Tokens, learned

JUDGES = 0.25
"""The share of the documents that nobody but the judge and the tokenizer reads, the same for every seed."""


@dataclass(frozen=True)
class NextIds(Source):
    """Examples are windows of `window` ids, targets the ids that follow each: (N, T) int64 both."""

    corpus: Corpus = "kjv"
    window: Annotated[int, Ge(2)] = 128
    test_share: Annotated[float, Gt(0), Lt(1)] = 0.1
    """Of the documents that are not the judge's."""
    test_windows: Annotated[int, Ge(1)] = 128
    """At most so many, the first of the split: every point of a curve is measured on them."""

    @abstractmethod
    def tokens(self) -> Tokens:
        """Of ids and text; V, the width of the models' heads, may exceed their number. ConfigError where it is unknown, or has more
        tokens than the model."""

    def load(self, architecture: Architecture, seed: int) -> Task:
        """ConfigError for a model that reads no ids, or fewer than a window of them."""
        self.check(architecture)
        return super().load(architecture, seed)

    def splits(self, seed: int) -> tuple[Examples, Examples, Examples]:
        _, held = _judged(len(documents(self.corpus)))
        owner, attacker, test = split(self, held, self.test_share, seed)
        most, attackers = limits(self)
        return (
            self._windows(owner, most),
            self._windows(attacker, attackers),
            self._windows(test, self.test_windows),
        )

    def check(self, architecture: Architecture) -> None:
        if not isinstance(architecture, Causal):
            kind = type(architecture).__name__
            raise ConfigError(f"task {self.name} needs a language model, {kind} is none; set model=gpt2_tiny")
        if self.window > architecture.context:
            raise ConfigError(
                f"windows of {self.window} ids are longer than the model's context of {architecture.context}; "
                "set task.window or model.context"
            )

    def _windows(self, which: Tensor, limit: int | None) -> Examples:
        """Of these documents, one after the other; no more of them are read than the limit needs."""
        tokens, found, count = self.tokens(), [], 0
        for i in which.tolist():
            found.append(_ids(self.corpus, tokens, i))
            count += len(found[-1])
            if limit is not None and count > limit * self.window:
                break
        return windows(torch.cat(found), self.window, limit)


@dataclass(frozen=True)
class Language(NextIds):
    """With a byte-level BPE of its own, for models from scratch."""

    vocabulary: Annotated[int, Gt(BYTES)] = 2048

    name = "language"

    def tokens(self) -> Tokens:
        return _tokens(self.corpus, self.vocabulary)

    @property
    def width(self) -> int:
        return self.vocabulary

    def judge(self, architecture: Architecture) -> Task:
        public, held = _judged(len(documents(self.corpus)))
        test = self._windows(held, self.test_windows)
        return self.task(architecture, 0, self._windows(public, self.limit or None), test, test)

    def network(self, architecture: Architecture, shape: Shape, classes: int, seed: int) -> nn.Module:
        """NotApplicable for an architecture that reads no ids."""
        if not isinstance(architecture, Causal):
            raise NotApplicable(
                f"models of {self.name} read ids, and {type(architecture).__name__} reads none"
            )
        model = architecture.build(shape, classes, seed)
        model.tokenizer = self.tokens().hash
        return model


def split(source: Source, documents_D: Tensor, test_share: float, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Those of the owner, the attacker and the test."""
    order = documents_D[torch.randperm(len(documents_D), generator=generator(seed, source.name, "split"))]
    test = round(len(order) * test_share)
    attacker = test + round((len(order) - test) * source.attacker_share)
    parts = order[attacker:], order[test:attacker], order[:test]
    expect_all(*parts)
    return parts


def limits(source: Source) -> tuple[int | None, int | None]:
    """How many examples the owner and the attacker keep; None: all."""
    if not source.limit:
        return None, None
    attacker = round(source.limit * source.attacker_share)
    return source.limit - attacker, attacker


def windows(ids_L: Tensor, window: int, limit: int | None = None) -> Examples:
    """Side by side, of a running text. ConfigError for one shorter than a window and the id that follows."""
    count = (len(ids_L) - 1) // window
    if count < 1:
        raise ConfigError(
            f"expected a text of more than {window} ids, got {len(ids_L)}; set task.window lower"
        )
    count = count if limit is None else min(count, limit)
    inputs, targets = (ids_L[i : i + count * window].view(count, window) for i in (0, 1))
    return Examples(inputs, targets)


def _judged(count: int) -> tuple[Tensor, Tensor]:
    """Which documents the judge reads, and the others."""
    order = torch.randperm(count, generator=generator(0, "corpus", "judge"))
    public = round(JUDGES * count)
    return order[:public], order[public:]


@cache
def _tokens(corpus: Corpus, vocabulary: int) -> Tokens:
    found = documents(corpus)
    return learned([found[i].text for i in _judged(len(found))[0].tolist()], vocabulary)


@cache
def _ids(corpus: Corpus, tokens: Tokens, document: int) -> Tensor:
    """Of one document, ended where the tokenizer has an end."""
    (ids,) = tokens.encode([documents(corpus)[document].text])
    return torch.tensor(ids if tokens.end is None else [*ids, tokens.end])


@dataclass(frozen=True)
class Genre(Classified):
    """Which of six genres of the King James Version a passage of `window` bytes comes from. Inputs (N, 1, 1, T): a byte over 255
    each, the form of a picture one pixel high."""

    window: Annotated[int, Ge(8)] = 128
    test_share: Annotated[float, Gt(0), Lt(1)] = 0.2

    name = "text_classification"
    classes = 6
    mean, std = 0.0, 1 / 255

    def splits(self, seed: int) -> tuple[Examples, Examples, Examples]:
        owner, attacker, test = split(self, torch.arange(len(documents("kjv"))), self.test_share, seed)
        most, attackers = limits(self)
        return (
            self._passages(owner, most, seed),
            self._passages(attacker, attackers, seed),
            self._passages(test, None, seed),
        )

    def _passages(self, which: Tensor, limit: int | None, seed: int) -> Examples:
        """Of these chapters, side by side; of many as many as the limit, drawn by seed."""
        every = passages(self.window)
        found = [every[i] for i in which.tolist()]
        inputs = torch.cat([examples.inputs for examples in found])
        targets = torch.cat([examples.targets for examples in found])
        order = torch.randperm(len(inputs), generator=generator(seed, self.name, "order"))[:limit]
        return Examples(inputs[order], targets[order])


@cache
def passages(window: int) -> list[Examples]:
    """Of every chapter: whole windows of its UTF-8."""
    genres = list(GENRES)
    found = []
    for document in documents("kjv"):
        raw = torch.frombuffer(bytearray(document.text.encode()), dtype=torch.uint8)
        bytes_NT = raw[: len(raw) // window * window].view(-1, window)
        targets_N = torch.full((len(bytes_NT),), genres.index(document.genre))
        found.append(Examples(bytes_NT[:, None, None].float() / 255, targets_N))
    return found
