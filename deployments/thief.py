"""A thief's way into an API that may stop answering: several accounts, and a copy of what he was told.

His queries are dealt to his accounts in turn, so each sees one of k; what an account is refused is asked by those that are left.
With none left, Refused is raised and the answers so far are in `told`. Opening an account costs him nothing here.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from ..core.examples import Examples, Ledger
from .gateway import Gateway, Refused, Reply, Stop

Ask = Callable[[Tensor, str, Tensor], Reply]
"""(inputs (N, ...), account, hours (N,)) -> what it is answered."""


@dataclass
class Thief:
    """An `Access`. pace: samples an hour over all accounts, at which the monitors see him ask."""

    gateway: Gateway
    accounts: int = 1
    pace: float = 100.0
    told: dict[str, list[Examples]] = field(default_factory=dict, init=False)
    """By what he asked for (scores, labels, texts): inputs and answers."""
    refused: set[str] = field(default_factory=set, init=False)
    reason: Stop = field(default="revoked", init=False)
    """Why the last account was refused."""
    turn: int = field(default=0, init=False)
    sent: int = field(default=0, init=False)
    """Samples that he asked, also those that were refused."""

    @property
    def queries(self) -> int:
        return self.gateway.queries

    @property
    def ledger(self) -> Ledger:
        return self.gateway.ledger

    @property
    def names(self) -> list[str]:
        return [f"thief-{i}" for i in range(self.accounts)]

    @property
    def alive(self) -> list[str]:
        return [name for name in self.names if name not in self.refused]

    def weights(self) -> nn.Module:
        return self.gateway.weights()

    def author(self) -> nn.Module:
        return self.gateway.author()

    def scores(self, inputs: Tensor) -> Tensor:
        return self._asked("scores", inputs, partial(self.gateway.query, "scores"))

    def labels(self, inputs: Tensor) -> Tensor:
        return self._asked("labels", inputs, partial(self.gateway.query, "labels"))

    def texts(self, prompts_NP: Tensor, tokens: int, temperature: float | None = None) -> Tensor:
        def ask(part: Tensor, name: str, hours: Tensor) -> Reply:
            return self.gateway.write(part, tokens, temperature, name, hours)

        return self._asked("texts", prompts_NP, ask)

    def _asked(self, want: str, inputs: Tensor, ask: Ask) -> Tensor:
        """Answers in the order of the inputs. Refused when the last account is."""
        if not len(inputs):
            return ask(inputs, self.names[0], torch.empty(0)).values
        found: dict[int, Tensor] = {}
        left, answers = torch.arange(len(inputs)), inputs[:0]
        while len(left) and self.alive:
            left = self._dealt(inputs, left, ask, found)
        if found:
            order = sorted(found)
            answers = torch.stack([found[i] for i in order])
            self.told.setdefault(want, []).append(Examples(inputs[order], answers))
        if len(left):
            raise Refused(f"of the thief ({self.accounts} in all)", Reply(inputs[:0], self.reason))
        return answers

    def _dealt(self, inputs: Tensor, left: Tensor, ask: Ask, found: dict[int, Tensor]) -> Tensor:
        """Adds what the accounts are answered to `found`; the places that none was answered about."""
        alive, still = self.alive, []
        hours = torch.arange(self.sent, self.sent + len(left), dtype=torch.float64) / self.pace
        self.sent += len(left)
        for i, name in enumerate(alive):
            share = slice((i - self.turn) % len(alive), None, len(alive))
            mine = left[share]
            reply = ask(inputs[mine], name, hours[share])
            found.update(zip(mine.tolist(), reply.values, strict=False))
            still.append(mine[len(reply.values) :])
            if reply.refused is not None:
                self.refused.add(name)
                self.reason = reply.refused
        self.turn = (self.turn + len(left)) % len(alive)
        return torch.cat(still).sort().values
