"""Trading in licences: random sequences keep every invariant, requests count once, a killed process loses and doubles nothing."""

import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from assay.evidence.rights import FULL, Rights, connected
from assay.evidence.rights_rules import Book, Refused, Terms, parts, resale

CERTIFICATE, CONDITIONS = "a" * 64, "b" * 64
SHARES = (("ann", 3333), ("bob", 3333), ("cem", 3334))
PEOPLE = st.sampled_from(["ann", "bob", "cem", "dot"])
SMALL = st.integers(0, 4)


def terms(price: int = 1001, quota: int = 5, royalty: int = 500, seconds: int = 100) -> Terms:
    return Terms(CERTIFICATE, CONDITIONS, price, quota, seconds, royalty, SHARES)


@pytest.fixture
def rights(tmp_path: Path) -> Rights:
    return Rights(tmp_path / "rights.sqlite")


def test_the_remainder_goes_to_the_last_share(rights: Rights) -> None:
    assert parts(1001, SHARES) == [("ann", 333), ("bob", 333), ("cem", 335)]
    assert parts(0, SHARES) == [("ann", 0), ("bob", 0), ("cem", 0)]
    assert parts(1, (("ann", 9999), ("bob", 1))) == [("ann", 0), ("bob", 1)]
    assert sum(part for _, part in resale(777, terms(), "dot")) == 777
    offer = rights.offer("1", "ann", terms())
    rights.buy("2", "dot", offer, 1001, 0)
    assert rights.due() == {"ann": 333, "bob": 333, "cem": 335}
    assert rights.withdraw("3", "cem") == 335
    with pytest.raises(Refused, match="due nothing"):
        rights.withdraw("4", "cem")
    assert rights.withdraw("3", "cem") == 335  # the same request: the same answer, paid out once
    assert rights.till() == (1001, 335)


def test_a_licence_lives_and_ends(rights: Rights) -> None:
    offer = rights.offer("1", "ann", terms())
    licence = rights.buy("2", "dot", offer, 1001, 0)
    assert rights.meter("3", "dot", licence, 3, 100) == 2
    with pytest.raises(Refused, match="expired"):
        rights.meter("4", "dot", licence, 1, 101)
    with pytest.raises(Refused, match="2 queries left, got 3"):
        rights.meter("5", "dot", licence, 3, 50)
    with pytest.raises(Refused, match="not eve's"):
        rights.meter("6", "eve", licence, 1, 50)
    rights.ask("7", "dot", licence, 100, "eve", 50)
    with pytest.raises(Refused, match="not for sale to fay"):
        rights.take("8", "fay", licence, 100, 50)
    rights.take("9", "eve", licence, 100, 50)
    assert rights.due() == {"ann": 334, "bob": 334, "cem": 338, "dot": 95}  # 5 go to the shares: 1, 1, 3
    assert rights.meter("10", "eve", licence, 2, 50) == 0
    assert rights.licence(licence).status == "exhausted"
    other = rights.buy("11", "dot", offer, 1001, 0)
    rights.revoke("12", "ann", other)
    with pytest.raises(Refused, match="revoked"):
        rights.meter("13", "dot", other, 1, 0)
    late = rights.buy("14", "dot", offer, 1001, 0)
    assert rights.expire(101) == 1
    assert rights.licence(late).status == "expired"
    rights.close("15", "ann", offer)
    with pytest.raises(Refused, match="closed"):
        rights.buy("16", "dot", offer, 1001, 0)
    assert len(rights.events()) == 10


@pytest.mark.parametrize(
    "change",
    [
        {"shares": (("ann", 9999),)},
        {"shares": ()},
        {"shares": (("ann", 5000), ("b b", 5000))},
        {"shares": (("ann", 10001), ("bob", -1))},
        {"certificate": "A" * 64},
        {"price": -1},
        {"price": 2**53 + 1},
        {"quota": 0},
        {"royalty": 10_001},
    ],
)
def test_bad_terms_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(Refused, match="expected"):
        replace(terms(), **change)


def test_a_request_id_has_one_meaning(rights: Rights) -> None:
    rights.offer("1", "ann", terms())
    assert rights.offer("1", "ann", terms()) == 1
    with pytest.raises(Refused, match="another one before"):
        rights.offer("1", "ann", terms(price=5))
    assert rights.buy("2", "dot", 1, 1001, 0) == rights.buy(
        "2", "dot", 1, 1001, 60
    )  # time passes, and is no content
    with pytest.raises(Refused, match="another one before"):
        rights.buy("2", "eve", 1, 1001, 60)
    assert len(rights.events()) == 2


def test_numbers_beyond_the_book_are_refused(rights: Rights) -> None:
    rights.offer("1", "ann", terms(price=2**53))
    with closing(connected(rights.path)) as book:
        book.execute("UPDATE till SET paid = ?, withdrawn = ?", (FULL - 2**54, FULL - 2**54))
    rights.buy("fits", "dot", 1, 2**53, 0)
    with pytest.raises(Refused, match="the book is full"):
        rights.buy("one-more", "dot", 1, 2**53, 0)
    for work in (lambda: rights.close("2", "ann", 2**70), lambda: rights.revoke("2", "ann", 2**70)):
        with pytest.raises(Refused, match=r"expected (offer|licence) between"):
            work()
    with pytest.raises(Refused, match="expected licence between"):
        rights.licence(2**70)
    with pytest.raises(Refused, match="expected licence between"):
        rights.meter("2", "dot", 2**70, 1, 0)


class Market(RuleBasedStateMachine):
    """A book against a plain model of it. `make` opens the book; the twin on a chain opens another."""

    make: Callable[[Path], Book] = Rights

    @initialize(price=st.integers(0, 1000), quota=st.integers(1, 6), royalty=st.integers(0, 10_000))
    def begin(self, price: int, quota: int, royalty: int) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.rights = type(self).make(Path(self.folder.name) / "rights.sqlite")
        self.terms = terms(price, quota, royalty)
        self.number = self.now = self.paid = self.withdrawn = 0
        self.due: dict[str, int] = {}
        self.licences: dict[int, dict[str, Any]] = {}
        self.last: tuple[Callable[[], int], int] | None = None
        self.done(lambda request: self.rights.offer(request, "ann", self.terms))
        self.open = True

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            self.folder.cleanup()

    def done(self, work: Callable[[str], int], allowed: bool = True) -> int | None:
        """Exactly what the model allows is done; the rest is refused and changes nothing."""
        self.number += 1
        request = str(self.number)
        if not allowed:
            with pytest.raises(Refused):
                work(request)
            return None
        answer = work(request)
        self.last = (lambda: work(request), answer)
        return answer

    def pay(self, payment: int, to: list[tuple[str, int]]) -> None:
        self.paid += payment
        for account, amount in to:
            self.due[account] = self.due.get(account, 0) + amount

    def usable(self, number: int) -> bool:
        found = self.licences.get(number)
        return found is not None and found["status"] == "active" and self.now <= found["expires"]

    @rule(buyer=PEOPLE, wrong=st.booleans())
    def buy(self, buyer: str, wrong: bool) -> None:
        now, payment = self.now, self.terms.price + wrong
        licence = self.done(
            lambda r: self.rights.buy(r, buyer, 1, payment, now), allowed=self.open and not wrong
        )
        if licence is not None:
            assert licence not in self.licences
            self.pay(payment, parts(payment, SHARES))
            start = {"holder": buyer, "used": 0, "expires": now + 100, "status": "active", "asked": None}
            self.licences[licence] = start

    @rule(holder=PEOPLE, licence=SMALL, queries=st.integers(1, 4))
    def meter(self, holder: str, licence: int, queries: int) -> None:
        found, now = self.licences.get(licence, {}), self.now
        fits = self.usable(licence) and found["used"] + queries <= self.terms.quota
        allowed = fits and found["holder"] == holder
        left = self.done(lambda r: self.rights.meter(r, holder, licence, queries, now), allowed)
        if left is not None:
            found["used"] += queries
            assert left == self.terms.quota - found["used"]
            found["status"] = "active" if left else "exhausted"

    @rule(holder=PEOPLE, licence=SMALL, price=st.integers(0, 500), buyer=PEOPLE)
    def ask(self, holder: str, licence: int, price: int, buyer: str) -> None:
        now = self.now
        allowed = self.usable(licence) and self.licences[licence]["holder"] == holder
        if self.done(lambda r: self.rights.ask(r, holder, licence, price, buyer, now), allowed) is not None:
            self.licences[licence]["asked"] = (price, buyer)

    @rule(buyer=PEOPLE, licence=SMALL, wrong=st.booleans())
    def take(self, buyer: str, licence: int, wrong: bool) -> None:
        found, now = self.licences.get(licence, {}), self.now
        price, to = found.get("asked") or (0, None)
        payment = price + wrong
        allowed = self.usable(licence) and to == buyer and not wrong
        if self.done(lambda r: self.rights.take(r, buyer, licence, payment, now), allowed) is not None:
            self.pay(payment, resale(payment, self.terms, found["holder"]))
            found |= {"holder": buyer, "asked": None}

    @rule(seller=PEOPLE, licence=SMALL)
    def revoke(self, seller: str, licence: int) -> None:
        allowed = licence in self.licences and seller == "ann"
        if self.done(lambda r: self.rights.revoke(r, seller, licence), allowed) is not None:
            self.licences[licence]["status"] = "revoked"

    @rule(account=PEOPLE)
    def withdraw(self, account: str) -> None:
        amount = self.done(lambda r: self.rights.withdraw(r, account), allowed=bool(self.due.get(account)))
        if amount is not None:
            assert amount == self.due.pop(account)
            self.withdrawn += amount

    @rule(seller=PEOPLE)
    def close(self, seller: str) -> None:
        if self.done(lambda r: self.rights.close(r, seller, 1), allowed=seller == "ann") is not None:
            self.open = False

    @rule(seconds=st.integers(1, 60))
    def wait(self, seconds: int) -> None:
        self.now += seconds

    @rule()
    def again(self) -> None:
        """The last request, asked once more."""
        if self.last is not None:
            work, answer = self.last
            assert work() == answer

    @invariant()
    def money_is_conserved(self) -> None:
        assert self.rights.till() == (self.paid, self.withdrawn)
        assert self.rights.due() == {name: amount for name, amount in sorted(self.due.items()) if amount}
        assert self.paid - self.withdrawn == sum(self.rights.due().values())

    @invariant()
    def licences_are_as_counted(self) -> None:
        for number, found in self.licences.items():
            licence = self.rights.licence(number)
            assert (licence.holder, licence.used, licence.status) == (
                found["holder"],
                found["used"],
                found["status"],
            )


CHECKS = cast("list[HealthCheck]", list(HealthCheck))  # its metaclass is iterable, which types do not tell
Market.TestCase.settings = settings(
    max_examples=12, stateful_step_count=20, deadline=None, suppress_health_check=CHECKS
)
TestSqlite = Market.TestCase


def test_concurrent_meters_never_exceed_the_quota(rights: Rights) -> None:
    offer = rights.offer("1", "ann", terms(quota=50))
    licence = rights.buy("2", "dot", offer, 1001, 0)

    def ask(number: int) -> bool:
        try:
            rights.meter(f"q{number}", "dot", licence, 3, 0)
        except Refused:
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        answered = sum(pool.map(ask, range(24)))
    assert answered == 16
    assert rights.licence(licence).used == 48


METERING = """
import sys
from pathlib import Path
from assay.evidence.rights import FULL, Rights, connected
rights = Rights(Path(sys.argv[1]))
for number in range(int(sys.argv[2]), 10**6):
    rights.meter(f"q{number}", "dot", 1, 2, 0)
    print(number, flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no kill -9")
def test_a_killed_meter_loses_and_doubles_nothing(rights: Rights) -> None:
    rights.offer("1", "ann", terms(quota=10**6))
    rights.buy("2", "dot", 1, 1001, 0)
    heard = 0
    for _ in range(2):
        command = [sys.executable, "-c", METERING, str(rights.path), str(heard)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                heard = int(line) + 1
                if heard % 20 == 0:
                    process.send_signal(signal.SIGKILL)
                    break
            heard = max([heard, *(int(line) + 1 for line in process.stdout)])
    counted = sum(asked[0] == "meter" for _, asked, _ in rights.events())
    assert heard >= 40
    assert heard <= counted <= heard + 1  # the last may have been counted, and not been heard of
    assert rights.licence(1).used == 2 * counted
    rights.meter(f"q{heard}", "dot", 1, 2, 0)  # asked again, it counts once
    assert rights.licence(1).used == 2 * (heard + 1)
