"""The gateway: every query of every attack goes through it, in process or over HTTP.

It asks the book (book.py) whether an account may ask, the monitor (monitors.py) whether it is suspicious, and changes answers by
the owner's filters (defences.py). Where the owner's scheme answers (API marks), it is asked for every answer, and enters it in the
ledger.
"""

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from ..core.contracts import Grant
from ..core.errors import Denied
from ..core.examples import Ledger
from ..core.suspects import Suspects, logits, texts
from ..kernels.row_labels import row_labels
from .book import Asked, Book, Turn
from .guard import Guard
from .monitors import Watcher

Answer = Callable[[Tensor, Tensor, Ledger], Tensor]
"""(inputs, the model's probabilities, the ledger so far) -> the probabilities the API answers."""
Say = Callable[[slice, bool], Tensor]
"""(which of the inputs, whether the account's answers are degraded) -> what they are answered."""
Stop = Literal["budget", "revoked"]
ANYONE = "anyone"
"""The account of who names none."""


@dataclass(frozen=True)
class Reply:
    """values: of the first n inputs, scores (n, C) or labels (n,). refused: why the others were not answered; None: all were."""

    values: Tensor
    refused: Stop | None = None


class Refused(Denied):
    """The deployment stopped answering. answered: the reply to the first of the inputs, which the thief has."""

    def __init__(self, account: str, reply: Reply) -> None:
        why = {"budget": "its budget is spent", "revoked": "it was revoked"}[reply.refused or "revoked"]
        super().__init__(f"the account {account} is not answered: {why}")
        self.answered = reply.values


@dataclass
class Gateway:
    """An `Access` (core/contracts.py) to one model: grants what the deployment grants, counts examples. By itself it is the access
    of an account without a name; `by` is that of one with."""

    model: nn.Module
    grants: tuple[Grant, ...]
    device: str = "cpu"
    decimals: int | None = None
    answer: Answer | None = None
    guard: Guard = field(default_factory=Guard)
    book: Book = field(default_factory=Book)
    writer: nn.Module | None = None
    """Who writes what surrogates pass on; None: a copy of the model."""
    queries: int = field(default=0, init=False)
    ledger: Ledger = field(default_factory=Ledger, init=False)
    _watchers: dict[str, tuple[int, Watcher]] = field(default_factory=dict, init=False, repr=False)
    """Of accounts: the last of their requests that was looked at, and who looked."""

    def require(self, need: Grant) -> None:
        if need not in self.grants:
            raise Denied(f"the deployment grants {' and '.join(self.grants) or 'nothing'}, not {need}")

    def by(self, account: str) -> "Account":
        return Account(self, account)

    def weights(self) -> nn.Module:
        self.require("weights")
        return copy.deepcopy(self.model).eval()

    def scores(self, inputs: Tensor) -> Tensor:
        return self.by(ANYONE).scores(inputs)

    def labels(self, inputs: Tensor) -> Tensor:
        return self.by(ANYONE).labels(inputs)

    def texts(self, prompts_NP: Tensor, tokens: int, temperature: float | None = None) -> Tensor:
        return self.by(ANYONE).texts(prompts_NP, tokens, temperature)

    def author(self) -> nn.Module:
        """Who writes as the API does, for the trial alone: the thief's surrogates pass his texts on."""
        self.require("texts")
        return copy.deepcopy(self.model).eval() if self.writer is None else self.writer

    def query(
        self,
        want: Literal["scores", "labels"],
        inputs: Tensor,
        account: str = ANYONE,
        at: float | Tensor | None = None,
    ) -> Reply:
        """at: hours since whatever, of all inputs or of each (N,), for monitors of rates; the clock's when None. Denied when `want`
        is not granted."""
        self.require(want)
        if want == "labels" and self._plain:
            own_N = Suspects([self.model], self.device).labels(inputs)[0]
            return self._served(account, inputs, own_N, at, lambda part, _: own_N[part])
        found = logits(self.model, inputs, self.device)
        raw_NC = torch.softmax(found, min(1, found.ndim - 1))

        def say(part: slice, degraded: bool) -> Tensor:
            scores_NC = self._marked(inputs[part], raw_NC[part], degraded)
            return classes(scores_NC) if want == "labels" else self._coarse(inputs[part], scores_NC, degraded)

        return self._served(account, inputs, classes(raw_NC), at, say)

    def write(
        self,
        prompts_NP: Tensor,
        tokens: int,
        temperature: float | None = None,
        account: str = ANYONE,
        at: float | Tensor | None = None,
    ) -> Reply:
        """Texts (n, tokens); asked again, a prompt gets another text. Filters of scores do not see them."""
        self.require("texts")

        def say(part: slice, _: bool) -> Tensor:
            seed = self.queries + part.start
            return texts(self.model, prompts_NP[part], tokens, seed, self.device, temperature)

        return self._served(account, prompts_NP, torch.zeros(len(prompts_NP), dtype=torch.int64), at, say)

    @property
    def _plain(self) -> bool:
        return self.answer is None and not self.guard.changes

    def _marked(self, inputs: Tensor, scores_NC: Tensor, degraded: bool) -> Tensor:
        """After the filters that answer wrongly on purpose; the mark has the last word."""
        scores_NC = self.guard.altered(inputs, scores_NC, degraded)
        if self.answer is not None and len(inputs):
            scores_NC = self.answer(inputs, scores_NC, self.ledger)
            self.ledger.note(inputs, scores_NC)
        return scores_NC

    def _coarse(self, inputs: Tensor, scores_NC: Tensor, degraded: bool) -> Tensor:
        """After the filters that tell less."""
        return self.rounded(self.guard.coarsened(inputs, scores_NC, degraded))

    def rounded(self, scores_NC: Tensor) -> Tensor:
        return scores_NC if self.decimals is None else scores_NC.round(decimals=self.decimals)

    def _served(
        self, account: str, inputs: Tensor, own_N: Tensor, at: float | Tensor | None, say: Say
    ) -> Reply:
        """One turn of the book: what is answered is written before it is said, and nothing is said that is not written."""
        hours = torch.as_tensor(time.time() / 3600 if at is None else at, dtype=torch.float64)
        asked = Asked(inputs, own_N, hours.expand(len(inputs)))
        with self.book.turn() as turn:
            standing = turn.standing(account) or turn.open(account, self.guard.budget)
            if standing.revoked:
                return Reply(say(slice(0, 0), False), "revoked")
            count = len(inputs) if standing.left is None else min(len(inputs), standing.left)
            watched = None if standing.alarmed else self._watched(turn, account, asked.first(count))
            quiet = count if watched is None or watched[0] is None else watched[0]
            late = self.guard.on_alarm == "degrade" and standing.alarmed
            parts = [self._written(turn, account, inputs, slice(0, quiet), late, say)]
            stopped = quiet < count and self._alarmed(turn, account)
            if quiet < count and not stopped:
                late = self.guard.on_alarm == "degrade"
                parts.append(self._written(turn, account, inputs, slice(quiet, count), late, say))
        if watched is not None:
            self._watchers[account] = watched[1:]
        values = torch.cat(parts) if len(parts) > 1 else parts[0]
        self.queries += len(values)
        return Reply(values, "revoked" if stopped else "budget" if count < len(inputs) else None)

    def _written(
        self, turn: Turn, account: str, inputs: Tensor, part: slice, degraded: bool, say: Say
    ) -> Tensor:
        values = say(part, degraded)
        turn.answered(account, "degraded" if degraded else "answer", inputs[part], values)
        return values

    def _alarmed(self, turn: Turn, account: str) -> bool:
        """Whether the account is answered no longer."""
        turn.alarm(account)
        if self.guard.on_alarm == "revoke":
            turn.revoke(account)
        return self.guard.on_alarm == "revoke"

    def _watched(self, turn: Turn, account: str, asked: Asked) -> tuple[int | None, int, Watcher] | None:
        """The first sample that raises the alarm, or None; and who looks at the account's next request. None without a monitor."""
        if self.guard.watch is None:
            return None
        known = self._watchers.pop(account) if account in self._watchers else None
        last, watcher = known or (0, self.guard.watch.watcher())
        for number, earlier in turn.seen(account, last):  # that other processes answered
            watcher.see(earlier)
            last = number
        suspicious_N = watcher.see(asked) > self.guard.watch.threshold
        last = turn.see(account, asked)
        first = int(suspicious_N.int().argmax()) if suspicious_N.any() else None
        return first, last, watcher


def classes(scores: Tensor) -> Tensor:
    """(N,) of scores (N, C), (N, T) of those of windows (N, V, T)."""
    return row_labels(scores.movedim(1, -1)) if len(scores) else torch.empty(0, dtype=torch.int64)


@dataclass(frozen=True)
class Account:
    """An `Access` of one account: what is refused raises Refused."""

    gateway: Gateway
    name: str

    @property
    def queries(self) -> int:
        """Examples answered to this account, by any process."""
        with self.gateway.book.turn() as turn:
            standing = turn.standing(self.name)
        return 0 if standing is None else standing.used

    def weights(self) -> nn.Module:
        return self.gateway.weights()

    def scores(self, inputs: Tensor) -> Tensor:
        return self._all(self.gateway.query("scores", inputs, self.name))

    def labels(self, inputs: Tensor) -> Tensor:
        return self._all(self.gateway.query("labels", inputs, self.name))

    def texts(self, prompts_NP: Tensor, tokens: int, temperature: float | None = None) -> Tensor:
        return self._all(self.gateway.write(prompts_NP, tokens, temperature, self.name))

    def author(self) -> nn.Module:
        return self.gateway.author()

    def _all(self, reply: Reply) -> Tensor:
        if reply.refused is not None:
            raise Refused(self.name, reply)
        return reply.values
