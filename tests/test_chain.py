"""A book of rights on a chain: what its twin in SQLite says, it says too, to the wei; and nobody gets in while money leaves."""

import json
import re
import sqlite3
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from platform import machine
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from test_rights import SHARES, Market, terms

from assay.core.errors import ConfigError
from assay.evidence import evm
from assay.evidence.chain import Chain
from assay.evidence.rights import Rights, connected
from assay.evidence.rights_rules import LARGEST, Book, Refused, Terms
from assay.experiments.cli import main

pytestmark = [
    pytest.mark.xdist_group("chain"),  # one compilation
    pytest.mark.skipif(
        find_spec("pyrevm") is None and (sys.version_info >= (3, 13) or machine() == "aarch64"),
        reason="pyrevm has no wheel for this Python or processor",
    ),
]
MEMORY = (
    "/dev/shm" if Path("/dev/shm").is_dir() else None
)  # where an acknowledged change need not wait for a disk
PEOPLE = ["ann", "bob", "cem", "dot"]
PERSON = st.sampled_from(PEOPLE)
NUMBER = st.sampled_from([1, 1, 1, 2, 2, 3, 0])
OFF = st.sampled_from([0, 0, 0, 0, 1, -1])
AMOUNT = st.integers(0, 3000) | st.sampled_from([1, 9_999, 10_001, LARGEST - 1, LARGEST])
CUTS = st.lists(st.integers(1, 9_999), max_size=4, unique=True).map(sorted)
TIMED = {"buy", "ask", "take", "meter"}
REASONS = (
    r"no such offer|there is no offer \d+$",
    r"no such licence|there is no licence \d+$",
    r"not the seller|offer \d+ is not \w+'s$",
    r"not the holder|licence \d+ is not \w+'s$",
    r"offer closed|offer \d+ is closed$",
    r"wrong price|(offer|licence) \d+ costs \d+, got \d+$",
    r"licence exhausted|is exhausted",
    r"licence expired|is expired",
    r"licence revoked|is revoked",
    r"too few queries left|has \d+ queries left, got \d+$",
    r"not for sale to you|is not for sale to",
    r"nothing due|is due nothing$",
    r"request id in use|was another one before",
    r"^expected \w+ between",
)
"""Of refusals: as the contract puts them, and as the book in SQLite does."""


def outcome(work: Callable[..., int], given: Sequence[Any]) -> int | str:
    """The answer, or which of the reasons for a refusal."""
    try:
        return work(*given)
    except Refused as refusal:
        (found,) = [reason for reason in REASONS if re.search(reason, str(refusal))]
        return found


class Twins(RuleBasedStateMachine):
    """Both books under the same requests. The one in SQLite is held against a plain model in test_rights.py."""

    @initialize()
    def begin(self) -> None:
        self.folder = tempfile.TemporaryDirectory(dir=MEMORY)
        place = Path(self.folder.name)
        self.book, self.chain = Rights(place / "book"), Chain(place / "chain")
        self.held = [connected(book.path) for book in (self.book, self.chain)]
        for file in self.held:  # else whoever closes last tidies the whole file up, every time
            file.execute("SELECT 1 FROM sqlite_master").fetchall()
        self.now = 0
        self.terms: list[Terms] = []
        self.asked: list[tuple[str, list[Any]]] = []
        self.spent: Counter[str] = Counter()
        self.offer("ann", 1001, 3, 500, 100, [3333, 6666], "ann")
        self.buy("dot", 1, 0)

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            for file in self.held:
                file.close()
            self.folder.cleanup()

    def both(self, verb: str, *given: Any) -> None:
        """A request under a fresh id."""
        self.asked.append((verb, [str(len(self.asked)), *given]))
        self.send(*self.asked[-1])

    def send(self, verb: str, given: list[Any]) -> None:
        given = [*given, self.now] if verb in TIMED else given
        before = len(self.book.events())
        answer = outcome(getattr(self.book, verb), given)
        assert outcome(getattr(self.chain, verb), given) == answer
        if len(self.book.events()) == before:
            return
        if verb in ("buy", "take"):
            self.spent[given[1]] += given[3]
        if verb == "withdraw":
            assert isinstance(answer, int)
            self.spent[given[1]] -= answer

    @rule(
        seller=PERSON,
        price=AMOUNT,
        quota=st.integers(1, 6),
        royalty=st.integers(0, 10_000),
        seconds=st.integers(1, 200),
        cuts=CUTS,
        first=PERSON,
    )
    def offer(
        self, seller: str, price: int, quota: int, royalty: int, seconds: int, cuts: list[int], first: str
    ) -> None:
        """Shares between the cuts, of accounts in turn: with more than four, one account has two shares."""
        start = PEOPLE.index(first)
        ends = zip([0, *cuts], [*cuts, 10_000], strict=True)
        shares = tuple((PEOPLE[(start + i) % 4], end - begin) for i, (begin, end) in enumerate(ends))
        self.terms.append(replace(terms(price, quota, royalty, seconds), shares=shares))
        self.both("offer", seller, self.terms[-1])

    @rule(buyer=PERSON, offer=NUMBER, off=OFF)
    def buy(self, buyer: str, offer: int, off: int) -> None:
        price = self.terms[offer - 1].price if 0 < offer <= len(self.terms) else 7
        self.both("buy", buyer, offer, price + off)

    @rule(holder=PERSON, licence=NUMBER, price=AMOUNT, buyer=PERSON)
    def ask(self, holder: str, licence: int, price: int, buyer: str) -> None:
        self.both("ask", holder, licence, price, buyer)

    @rule(licence=NUMBER, price=AMOUNT, buyer=PERSON, off=OFF)
    def resell(self, licence: int, price: int, buyer: str, off: int) -> None:
        """What chance alone would seldom bring about."""
        try:
            holder = self.book.licence(licence).holder
        except Refused:
            holder = "ann"
        self.both("ask", holder, licence, price, buyer)
        self.both("take", buyer, licence, price + off)

    @rule(buyer=PERSON, licence=NUMBER, payment=AMOUNT)
    def take(self, buyer: str, licence: int, payment: int) -> None:
        self.both("take", buyer, licence, payment)

    @rule(seller=PERSON, licence=NUMBER)
    def revoke(self, seller: str, licence: int) -> None:
        self.both("revoke", seller, licence)

    @rule(holder=PERSON, licence=NUMBER, queries=st.integers(0, 4))
    def meter(self, holder: str, licence: int, queries: int) -> None:
        self.both("meter", holder, licence, queries)

    @rule(seller=PERSON, offer=NUMBER)
    def close(self, seller: str, offer: int) -> None:
        self.both("close", seller, offer)

    @rule(account=PERSON)
    def withdraw(self, account: str) -> None:
        """And once more, which is refused."""
        self.both("withdraw", account)
        self.both("withdraw", account)

    @rule(seconds=st.integers(1, 60))
    def wait(self, seconds: int) -> None:
        self.now += seconds

    @rule(late=st.booleans())
    def end(self, late: bool) -> None:
        """The last second of licence 1, or the one after."""
        found = self.book.licence(1)
        self.now = max(self.now, found.expires + late)
        self.both("meter", found.holder, 1, 1)

    @rule()
    def expire(self) -> None:
        assert self.book.expire(self.now) == self.chain.expire(self.now)

    @rule(data=st.data())
    def again(self, data: st.DataObject) -> None:
        """Any request, now; what was refused before may be done."""
        self.send(*data.draw(st.sampled_from(self.asked)))

    @rule(data=st.data(), account=PERSON)
    def used(self, data: st.DataObject, account: str) -> None:
        """A request under an id that may be another's."""
        _, (request, *_) = data.draw(st.sampled_from(self.asked))
        self.send("withdraw", [request, account])

    @invariant()
    def the_same_book(self) -> None:
        assert self.chain.events() == self.book.events()
        assert (self.chain.till(), self.chain.due()) == (self.book.till(), self.book.due())
        bought = sum(asked[0] == "buy" for _, asked, _ in self.book.events())
        for number in range(1, bought + 1):
            assert self.chain.licence(number) == self.book.licence(number)
        for book in (self.book, self.chain):
            with pytest.raises(Refused, match="there is no licence"):
                book.licence(bought + 1)

    @invariant()
    def every_wei(self) -> None:
        contract, (paid, withdrawn) = self.chain.contract, self.book.till()
        for name in PEOPLE:
            assert contract.balance(name) == evm.FUNDS - self.spent[name]
        assert contract.balance() == paid - withdrawn == sum(self.book.due().values())


CHECKS = cast("list[HealthCheck]", list(HealthCheck))
Twins.TestCase.settings = settings(
    max_examples=9, stateful_step_count=20, deadline=None, suppress_health_check=CHECKS
)
TestTwins = Twins.TestCase


class OnChain(Market):
    make: Callable[[Path], Book] = Chain


OnChain.TestCase.settings = settings(
    max_examples=3, stateful_step_count=20, deadline=None, suppress_health_check=CHECKS
)
TestOnChain = OnChain.TestCase


@pytest.fixture
def chain(tmp_path: Path) -> Chain:
    return Chain(tmp_path / "chain")


@pytest.fixture
def sold(chain: Chain) -> Chain:
    """An offer at 1001, and licence 1 of it, dot's."""
    chain.offer("1", "ann", terms())
    chain.buy("2", "dot", 1, 1001, 0)
    return chain


def test_the_refused_payment_stays_and_the_repeated_one_returns(sold: Chain) -> None:
    balance = sold.contract.balance
    assert (balance("dot"), balance()) == (evm.FUNDS - 1001, 1001)
    with pytest.raises(Refused, match="wrong price"):
        sold.buy("3", "dot", 1, 1000, 0)
    assert sold.buy("2", "dot", 1, 1001, 60) == 1
    assert (balance("dot"), balance(), sold.till()) == (evm.FUNDS - 1001, 1001, (1001, 0))
    assert sold.withdraw("4", "cem") == sold.withdraw("4", "cem") == 335
    assert (balance("cem"), balance()) == (evm.FUNDS + 335, 666)


def test_a_licence_ends_with_its_last_second_and_its_last_query(sold: Chain) -> None:
    assert sold.meter("3", "dot", 1, 3, 100) == 2
    with pytest.raises(Refused, match="licence expired"):
        sold.meter("4", "dot", 1, 1, 101)
    sold.ask("5", "dot", 1, 100, "eve", 100)
    sold.take("6", "eve", 1, 100, 100)
    assert sold.due() == {"ann": 334, "bob": 334, "cem": 338, "dot": 95}
    with pytest.raises(Refused, match="not for sale to you"):
        sold.take("7", "eve", 1, 100, 100)
    assert sold.meter("8", "eve", 1, 2, 100) == 0
    with pytest.raises(Refused, match="licence exhausted"):
        sold.meter("9", "eve", 1, 1, 100)
    sold.revoke("10", "ann", 1)
    with pytest.raises(Refused, match="licence revoked"):
        sold.meter("11", "eve", 1, 1, 100)


def test_a_book_runs_again_when_opened_and_follows_other_writers(sold: Chain) -> None:
    other = Chain(sold.path)
    assert other.meter("3", "dot", 1, 2, 5) == 3
    assert sold.meter("4", "dot", 1, 3, 5) == 0
    assert other.licence(1) == sold.licence(1)
    assert other.licence(1).status == "exhausted"
    assert sold.buy("5", "bob", 1, 1001, 5) == 2
    assert other.expire(500) == 1
    assert Chain(sold.path).licence(2).status == "expired"
    assert [number for _, _, number in Chain(sold.path).events()] == [1, 1, 3, 0, 2]


@pytest.mark.parametrize(
    "change",
    [
        "SET answer = 2 WHERE number = 2",
        """SET asked = CAST('["buy","dot",1,1000,0]' AS BLOB) WHERE number = 2""",
        """SET asked = CAST('["bye","dot",1,1001,0]' AS BLOB) WHERE number = 2""",
        "SET asked = x'00' WHERE number = 1",
        "SET number = 9 WHERE number = 1",
    ],
)
def test_a_changed_file_is_refused(sold: Chain, change: str) -> None:
    with closing(sqlite3.connect(sold.path)) as file:
        file.execute(f"UPDATE transactions {change}")
        file.commit()
    with pytest.raises(ConfigError, match=r"transaction \d was answered by .* The file was changed"):
        Chain(sold.path).till()


def test_a_book_keeps_its_ledger(tmp_path: Path) -> None:
    Rights(tmp_path / "book")
    Chain(tmp_path / "chain")
    (tmp_path / "text").write_text("no book at all, " * 99)
    for wrong in (lambda: Chain(tmp_path / "book"), lambda: Rights(tmp_path / "chain")):
        with pytest.raises(ConfigError, match="begun with another --ledger"):
            wrong()
    with pytest.raises(ConfigError, match="expected a book of rights"):
        Chain(tmp_path / "text")


def offered(shares: Sequence[tuple[int, int]] = ((1, 10_000),), **change: int) -> list[int]:
    """The words of an offer past the checks of Terms."""
    fields = {"certificate": 1, "conditions": 2, "price": 3, "quota": 4, "seconds": 5, "royalty": 6} | change
    flat = [word for share in shares for word in share]
    return [99, *fields.values(), 256, len(shares), *flat]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (offered(price=LARGEST + 1), "out of bounds"),
        (offered(quota=0), "out of bounds"),
        (offered(quota=LARGEST + 1), "out of bounds"),
        (offered(seconds=0), "out of bounds"),
        (offered(seconds=2**256 - 1), "out of bounds"),
        (offered(royalty=10_001), "bad royalty"),
        (offered([]), "bad shares"),
        (offered([(1, 9_999)]), "bad shares"),
        (offered([(1, 10_000), (2, 0)]), "bad shares"),
        (offered([(0, 10_000)]), "bad shares"),
        (offered([(1, 2**256 - 1), (2, 10_001)]), "bad shares"),
        (offered([(1, 625)] * 16 + [(1, 0)]), "no reason given"),
    ],
)
def test_the_contract_checks_terms_itself(chain: Chain, words: list[int], reason: str) -> None:
    assert chain.contract.call("ann", "offer", offered([(1, 625)] * 16)) == [1]
    with pytest.raises(evm.Reverted, match=reason):
        chain.contract.call("ann", "offer", [98, *words[1:]])
    assert chain.contract.call("ann", "offers", []) == [1]


def test_the_contract_checks_requests_itself(sold: Chain) -> None:
    call, ann = sold.contract.call, sold.contract.account("ann")
    for name, words in (
        ("meter", [9, 1, 0]),
        ("meter", [9, 1, LARGEST + 1]),
        ("ask", [9, 1, LARGEST + 1, ann]),
        ("ask", [9, 1, 5, 0]),
    ):
        with pytest.raises(evm.Reverted, match=r"out of bounds|no buyer"):
            call("dot", name, words)
    with pytest.raises(evm.Reverted, match="no reason given"):
        call("dot", "meter", [9, 1, 1], value=1)  # takes no money
    assert call("eve", "expire", [1]) == call("eve", "expire", [7]) == [0]


THIEF = """
# pragma version 0.4.3
# pragma evm-version cancun
book: address
next: Bytes[512]
refuses: bool
entered: public(uint256)
inside: public(uint256)

@deploy
def __init__(book: address):
    self.book = book

@external
def aim(refuses: bool, data: Bytes[512]):
    self.refuses = refuses
    self.next = data

@external
@payable
def act(data: Bytes[512]):
    raw_call(self.book, data, value=msg.value)

@external
@payable
def __default__():
    assert not self.refuses
    self.entered += 1
    if len(self.next) > 0 and raw_call(self.book, self.next, revert_on_failure=False):
        self.inside += 1
"""


class Thief:
    """A contract that is paid, and then calls the book once more before it lets go."""

    def __init__(self, chain: Chain, source: Path) -> None:
        source.write_text(THIEF)
        self.compiled, self.contract = evm.compile_file(source), chain.contract
        code = self.compiled.code + int(chain.contract.address, 16).to_bytes(32, "big")
        self.address = chain.contract.evm.deploy(evm.hexed(chain.contract.account("eve")), code)
        chain.contract.accounts["thief"] = int(self.address, 16)

    def call(self, name: str, *words: int, value: int = 0) -> list[int]:
        data = self.compiled.functions[name] + b"".join(word.to_bytes(32, "big") for word in words)
        return self.contract.send(evm.hexed(self.contract.account("eve")), self.address, data, value)

    def aim(self, data: bytes, refuses: bool = False) -> None:
        self.call("aim", refuses, 64, *blob(data))

    def act(self, data: bytes, value: int = 0) -> None:
        self.call("act", 32, *blob(data), value=value)


def blob(data: bytes) -> list[int]:
    padded = data.ljust(-(-len(data) // 32) * 32, b"\0")
    return [len(data), *(int.from_bytes(padded[i : i + 32], "big") for i in range(0, len(padded), 32))]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("thief") / "thief.vy"


@pytest.fixture
def thief(chain: Chain, source: Path) -> Thief:
    """Holds licence 1, of an offer whose shares are its own and bob's in equal parts."""
    found = Thief(chain, source)
    chain.offer("1", "ann", replace(terms(1000), shares=(("thief", 5000), ("bob", 5000))))
    chain.buy("2", "dot", 1, 1000, 0)
    found.act(chain.contract.data("buy", [3, 1]), value=1000)
    return found


INNER = {
    "withdraw": [51],
    "offer": offered(),
    "meter": [52, 2, 1],
    "ask": [53, 2, 5, 77],
    "expire": [2],
    "paid": [],
}


@pytest.mark.parametrize("inner", INNER)
@pytest.mark.parametrize("outer", ["withdraw", "buy"])
def test_nobody_enters_while_money_leaves(chain: Chain, thief: Thief, outer: str, inner: str) -> None:
    """What leaves: what the thief is due; or the payment that came with a request asked again."""
    data, balance = chain.contract.data, chain.contract.balance
    thief.aim(data(inner, INNER[inner]))
    before, state = balance("thief"), (chain.licence(1), chain.contract.call("eve", "offers", []))
    if outer == "withdraw":
        thief.act(data("withdraw", [4]))
        assert (balance("thief") - before, chain.due()) == (1000, {"bob": 1000})
    else:
        thief.act(data("buy", [3, 1]), value=1000)
        assert (balance("thief") - before, balance()) == (1000, 2000)
    assert (thief.call("entered"), thief.call("inside")) == ([1], [0])
    assert state == (chain.licence(1), chain.contract.call("eve", "offers", []))
    assert balance() == chain.till()[0] - chain.till()[1] == sum(chain.due().values())
    if inner != "withdraw" or outer != "withdraw":  # alone, the same call is no crime
        thief.act(data(inner, INNER[inner]))


def test_who_refuses_its_money_holds_up_nobody(chain: Chain, thief: Thief) -> None:
    data = chain.contract.data
    thief.aim(b"", refuses=True)
    with pytest.raises(evm.Reverted):
        thief.act(data("withdraw", [4]))
    assert chain.due() == {"bob": 1000, "thief": 1000}
    assert chain.withdraw("5", "bob") == 1000
    assert chain.buy("6", "dot", 1, 1000, 0) == 3
    thief.aim(b"")
    thief.act(data("withdraw", [4]))
    assert chain.due() == {"bob": 500}


def test_without_the_extra_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyrevm", None)
    monkeypatch.setattr(evm, "compile_file", evm.compile_file.__wrapped__)  # forgets what was compiled
    with pytest.raises(ConfigError, match=r"needs pyrevm: pip install 'assay\[chain\]'"):
        Chain(tmp_path / "chain")
    assert not list(tmp_path.iterdir())


def test_the_command_line_keeps_a_book_on_a_chain(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    book = ["--book", str(tmp_path / "book"), "--json", "--ledger", "chain"]
    digests = ["--certificate", "a" * 64, "--conditions", "b" * 64, "--quota", "5", "--days", "2"]
    shares = [word for account, points in SHARES for word in ("--share", f"{account}:{points}")]
    given = (
        ["offer", "--account", "ann", "--price", "1001", *digests, *shares],
        ["buy", "--account", "dot", "--offer", "1", "--price", "1001"],
        ["meter", "--account", "dot", "--licence", "1", "--queries", "2"],
        ["withdraw", "--account", "cem"],
    )
    answers = []
    for words in given:
        assert main(["rights", *words, *book]) == 0
        answers.append(json.loads(capsys.readouterr().out)["answer"])
    assert answers == [1, 1, 3, 335]
    assert main(["rights", "show", *book]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown == {"paid": 1001, "withdrawn": 335, "due": {"ann": 333, "bob": 333}, "events": 4}
    assert main(["rights", "show", *book[:3]]) == 2
