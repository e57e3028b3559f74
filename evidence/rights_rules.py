"""The rules of trading in licences that every book of rights keeps, whatever stores it (evidence/rights.py: SQLite; chain.py: a
contract, rights.vy, which says these rules once more).

Money is whole minor units. Shares are basis points that add up to 10,000; every part is rounded down and the remainder goes to the
last share, so that parts always add up to what was paid.
"""

import re
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

from ..core.errors import ConfigError

WHOLE = 10_000
LARGEST = 2**53  # canonical JSON's; bounds every amount, count and second
NAME = re.compile(r"[A-Za-z0-9._@:-]{1,128}")
DIGEST = re.compile(r"[0-9a-f]{64}")
Status = Literal["active", "exhausted", "expired", "revoked"]
"""Of a licence. Only an active one answers queries or changes hands, and none becomes active again."""


class Refused(ConfigError):
    """The rules forbid it; nothing has changed."""


@dataclass(frozen=True)
class Terms:
    """What an offer grants: `quota` queries within `seconds` of the purchase, for `price`. `certificate` and `conditions` are
    digests (64 hex digits): of the certificate of the model or work, and of the text both sides agree to. royalty: basis points
    of the price of a resale that go to the shares."""

    certificate: str
    conditions: str
    price: int
    quota: int
    seconds: int
    royalty: int
    shares: tuple[tuple[str, int], ...]

    def __post_init__(self) -> None:
        for field in ("certificate", "conditions"):
            if not DIGEST.fullmatch(getattr(self, field)):
                raise Refused(f"expected {field} as 64 hex digits, got {getattr(self, field)!r}"[:160])
        bounded(price=self.price)
        bounded(1, quota=self.quota, seconds=self.seconds)
        if not 0 <= self.royalty <= WHOLE:
            raise Refused(f"expected a royalty of 0 to {WHOLE} basis points, got {self.royalty}")
        for account, points in self.shares:
            named(account)
            bounded(1, points=points)
        if not 1 <= len(self.shares) <= 16 or sum(points for _, points in self.shares) != WHOLE:
            raise Refused(f"expected 1 to 16 shares that add up to {WHOLE} basis points, got {self.shares}")

    def plain(self) -> dict[str, Any]:
        return {**asdict(self), "shares": [list(share) for share in self.shares]}

    @staticmethod
    def of(plain: dict[str, Any]) -> "Terms":
        shares = tuple((str(account), int(points)) for account, points in plain["shares"])
        return Terms(**{**plain, "shares": shares})


@dataclass(frozen=True)
class Licence:
    """expires: the second after which no query is answered. asked, buyer: the price at which the holder lets a named buyer take
    it."""

    id: int
    offer: int
    holder: str
    quota: int
    used: int
    expires: int
    status: Status
    asked: int | None
    buyer: str | None


class Book(Protocol):
    """Every method but the readers returns a whole number: an id, an amount, or queries left. request: the caller's own id; asked
    again, whenever, it gives the first answer and changes nothing. now: seconds."""

    def offer(self, request: str, seller: str, terms: Terms) -> int: ...
    def close(self, request: str, seller: str, offer: int) -> int: ...
    def buy(self, request: str, buyer: str, offer: int, payment: int, now: int) -> int: ...
    def ask(self, request: str, holder: str, licence: int, price: int, buyer: str, now: int) -> int: ...
    def take(self, request: str, buyer: str, licence: int, payment: int, now: int) -> int: ...
    def revoke(self, request: str, seller: str, licence: int) -> int: ...
    def meter(self, request: str, holder: str, licence: int, queries: int, now: int) -> int: ...
    def expire(self, now: int) -> int: ...
    def withdraw(self, request: str, account: str) -> int: ...
    def licence(self, licence: int) -> Licence: ...
    def due(self) -> dict[str, int]: ...
    def till(self) -> tuple[int, int]: ...
    def events(self) -> list[tuple[str, list[Any], int]]: ...


def named(account: str) -> str:
    if not NAME.fullmatch(account):
        raise Refused(f"expected an account of 1 to 128 letters, digits or . _ @ : -, got {account[:140]!r}")
    return account


def bounded(least: int = 0, **values: int) -> None:
    for name, value in values.items():
        if isinstance(value, bool) or not least <= value <= LARGEST:
            raise Refused(f"expected {name} between {least} and 2^53, got {value}")


def parts(amount: int, shares: tuple[tuple[str, int], ...]) -> list[tuple[str, int]]:
    """What each share gets of an amount, adding up to it."""
    floors = [(account, amount * points // WHOLE) for account, points in shares]
    last, got = floors[-1]
    return [*floors[:-1], (last, got + amount - sum(part for _, part in floors))]


def resale(amount: int, terms: Terms, holder: str) -> list[tuple[str, int]]:
    """The royalty to the shares, the rest to the holder who sells."""
    royalty = amount * terms.royalty // WHOLE
    return [*parts(royalty, terms.shares), (holder, amount - royalty)]


def usable(licence: Licence, now: int) -> None:
    """Refused unless the licence is active and not past its time."""
    status = "expired" if licence.status == "active" and now > licence.expires else licence.status
    if status != "active":
        raise Refused(f"licence {licence.id} is {status}: expected an active one")
