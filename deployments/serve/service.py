"""What is served: a gateway, its customers' keys, and, where the model came in a package, the licence under which it is served.

A licence's limit counts samples over all accounts in a book of its own. A query is one turn of that book around one of the
gateway's, so what is answered is counted first, and a process that dies in between has answered nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ...core.errors import Denied
from ..book import Book
from ..gateway import Gateway, Reply
from ..licence.licence import Licence, current
from ..licence.revocation import Revocations
from .keyring import Keyring
from .wire import Limits, Want


@dataclass(frozen=True)
class Licensed:
    """revoked: the issuer's list as it is now, read again for every query; None: none was given. book: of samples answered."""

    licence: Licence
    book: Book
    revoked: Callable[[], Revocations | None] = lambda: None

    def query(self, gateway: Gateway, want: Want, inputs: Tensor, account: str) -> Reply:
        """Rejected once the licence holds no longer; the limit cuts a reply like a budget."""
        terms, name = self.licence.terms, self.licence.jti
        if "query" not in terms.operations or (want == "scores" and terms.output == "labels"):
            raise Denied(
                f"the licence answers {terms.output} to {' and '.join(terms.operations)}, not {want}"
            )
        with self.book.turn() as turn:
            current(self.licence, self.revoked())  # not before: who waited for the turn may have outlived it
            standing = turn.standing(name) or turn.open(name, terms.queries)
            count = len(inputs) if standing.left is None else min(len(inputs), standing.left)
            reply = gateway.query(want, inputs[:count], account)
            answered = len(reply.values)
            turn.answered(name, "answer", inputs[:answered], reply.values)
        short = count < len(inputs) and reply.refused is None
        return Reply(reply.values, "budget" if short else reply.refused)


@dataclass(frozen=True)
class Service:
    """shape: of one sample."""

    gateway: Gateway
    keyring: Keyring
    shape: tuple[int, ...]
    limits: Limits = field(default_factory=Limits)
    licensed: Licensed | None = None

    def query(self, want: Want, inputs: Tensor, account: str) -> Reply:
        if self.licensed is None:
            return self.gateway.query(want, inputs, account)
        return self.licensed.query(self.gateway, want, inputs, account)

    def about(self, account: str) -> dict[str, Any]:
        """What an account may know: itself, what is granted, what is expected."""
        with self.gateway.book.turn() as turn:
            standing = turn.standing(account) or turn.open(account, self.gateway.guard.budget)
        return {
            "account": account,
            "used": standing.used,
            "left": standing.left,
            "revoked": standing.revoked,
            "shape": list(self.shape),
            "grants": [want for want in self.gateway.grants if want in ("scores", "labels")],
        }
