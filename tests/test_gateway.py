"""The gateway's book: budgets hold to the sample, nothing is answered after a revocation, no bit of the chain can change."""

import multiprocessing
import os
import signal
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from assay.core.errors import Denied
from assay.core.examples import Ledger
from assay.core.suspects import logits
from assay.deployments.book import Book, Broken, Entry, Head, Standing, tensor_digest, verified
from assay.deployments.defences import LabelOnly
from assay.deployments.gateway import ANYONE, Gateway, Refused
from assay.deployments.guard import Guard, OnAlarm
from assay.deployments.monitors import Watch
from assay.deployments.rate import Rate
from assay.deployments.thief import Thief

FEW = settings(max_examples=25, deadline=None, derandomize=True)
LAYER = nn.Linear(4, 3)
MODEL = nn.Sequential(nn.Flatten(), LAYER).eval()
with torch.no_grad():
    LAYER.bias.copy_(torch.tensor([0.01, 0.03, 0.02]))
    LAYER.weight.copy_(torch.linspace(-1, 1, 12).reshape(3, 4))


def inputs(count: int, start: int = 0) -> Tensor:
    """Different pictures, by their numbers."""
    return (torch.arange(start, start + count)[:, None] * torch.tensor([1, 7, 3, 5]) % 11 / 10).reshape(
        -1, 1, 2, 2
    )


def gateway(budget: int | None = None, book: Book | None = None, **more: Any) -> Gateway:
    return Gateway(MODEL, ("scores", "labels"), guard=Guard(budget, **more), book=book or Book())


def watched(after: int, on_alarm: OnAlarm, book: Book | None = None) -> Gateway:
    """The sample after so many raises the alarm."""
    degraded = ((True, LabelOnly()),) if on_alarm == "degrade" else ()
    watch = Watch(Rate(hours=1.0), None, float(after))
    return gateway(None, book, watch=watch, on_alarm=on_alarm, degraded=degraded)


@FEW
@given(
    budget=st.integers(0, 12),
    asked=st.lists(st.tuples(st.sampled_from(["ann", "bob"]), st.integers(0, 5), st.booleans()), max_size=12),
)
def test_a_budget_is_answered_to_the_last_sample(budget: int, asked: list[tuple[str, int, bool]]) -> None:
    api, left = gateway(budget), {"ann": budget, "bob": budget}
    for name, count, labels in asked:
        reply = api.query("labels" if labels else "scores", inputs(count), name)
        assert len(reply.values) == min(count, left[name])
        assert reply.refused == ("budget" if count > left[name] else None)
        left[name] -= len(reply.values)
    assert api.queries == 2 * budget - sum(left.values())
    api.book.verify()


def asks(path: Path, budget: int, sizes: list[int], queue: Any) -> None:
    api = gateway(budget, Book(path))
    queue.put(sum(len(api.query("labels", inputs(size), "ann").values) for size in sizes))


@settings(max_examples=4, deadline=None, derandomize=True)
@given(
    budget=st.integers(0, 40),
    sizes=st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=6), min_size=2, max_size=4),
)
def test_processes_share_a_budget_and_never_exceed_it(
    tmp_path_factory: pytest.TempPathFactory, budget: int, sizes: list[list[int]]
) -> None:
    path = tmp_path_factory.mktemp("book") / "book.sqlite"
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    children = [context.Process(target=asks, args=(path, budget, own, queue)) for own in sizes]
    for child in children:
        child.start()
    answered = sum(queue.get() for _ in children)
    for child in children:
        child.join()
    assert answered == min(budget, sum(map(sum, sizes)))
    book = Book(path)
    assert book.standing("ann").used == answered
    book.verify()


def test_threads_share_a_budget() -> None:
    api = gateway(100)
    with ThreadPoolExecutor(4) as pool:
        replies = list(pool.map(lambda i: api.query("labels", inputs(7, i), "ann"), range(20)))
    assert sum(len(reply.values) for reply in replies) == 100 == api.queries
    api.book.verify()


STEPS = st.lists(
    st.tuples(st.sampled_from(["ask", "revoke", "open"]), st.sampled_from(["ann", "bob"]), st.integers(0, 1)),
    max_size=20,
)


@FEW
@given(steps=STEPS)
def test_nothing_is_answered_after_a_revocation(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, str, int]]
) -> None:
    """Two gateways of one book, in any order."""
    path = tmp_path_factory.mktemp("book") / "book.sqlite"
    gates, gone = [gateway(None, Book(path)) for _ in range(2)], set()
    for step, name, gate in steps:
        if step == "ask":
            reply = gates[gate].query("labels", inputs(2), name)
            assert (len(reply.values), reply.refused) == ((0, "revoked") if name in gone else (2, None))
        elif step == "revoke":
            gates[gate].book.revoke(name)
            gone.add(name)
        else:
            gates[gate].book.open(name, None)
    gates[0].book.verify()
    kinds = [(entry.account, entry.kind) for entry in gates[1].book.entries()]
    for name in gone:
        assert (name, "answer") not in kinds[kinds.index((name, "revoke")) :]


def test_no_query_that_begins_after_a_revocation_is_answered() -> None:
    api, returned = gateway(), threading.Event()

    def ask(_: int) -> tuple[bool, int]:
        late = returned.is_set()
        return late, len(api.query("labels", inputs(3), "ann").values)

    with ThreadPoolExecutor(4) as pool:
        found = pool.map(ask, range(200))
        api.book.revoke("ann")
        returned.set()
        assert not [count for late, count in found if late and count]
    api.book.verify()


def test_what_fails_in_a_turn_leaves_no_trace() -> None:
    def broken(*_: object) -> Tensor:
        raise RuntimeError("the mark broke")

    api = Gateway(MODEL, ("scores",), answer=broken)
    with pytest.raises(RuntimeError, match="the mark broke"):
        api.scores(inputs(2))
    assert api.book.entries() == []
    assert api.queries == 0


def serves(path: Path, pipe: Any) -> None:
    api = gateway(None, Book(path))
    for i in range(10_000):
        pipe.send(len(api.query("labels", inputs(1, i), "ann").values))


def test_a_killed_process_loses_nothing_that_was_answered(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    mine, other = context.Pipe(duplex=False)
    child = context.Process(target=serves, args=(tmp_path / "book.sqlite", other))
    child.start()
    other.close()
    answered = sum(mine.recv() for _ in range(20))
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    while mine.poll():
        try:
            answered += mine.recv()
        except EOFError:
            break
    book = Book(tmp_path / "book.sqlite")
    book.verify()
    assert answered <= book.standing("ann").used <= answered + 1, "one may be written and not yet said"


def small() -> Book:
    """Every kind of entry."""
    api = watched(3, "revoke")
    api.book.open("bob", 5)
    api.query("scores", inputs(2), "ann")
    api.query("labels", inputs(4), "bob")
    api.query("labels", inputs(3), "ann")
    return api.book


def test_entries_say_what_was_asked_and_answered() -> None:
    book = small()
    found = [(e.account, e.kind, e.samples) for e in book.entries()]
    expected = [("bob", "open", 5), ("ann", "open", -1), ("ann", "answer", 2), ("bob", "answer", 3)]
    expected += [("bob", "alarm", 3), ("bob", "revoke", 3), ("ann", "answer", 1), ("ann", "alarm", 3)]
    assert found == [*expected, ("ann", "revoke", 3)]
    second = book.entries()[2]
    scores = torch.softmax(logits(MODEL, inputs(2)), -1)
    assert (second.inputs, second.answers) == (tensor_digest(inputs(2)), tensor_digest(scores))
    assert book.standing("ann") == Standing("ann", None, 3, True, True)
    assert "at" not in Entry.__dataclass_fields__, "no time"


def flipped(value: Any, bit: int) -> Any:
    if isinstance(value, bytes):
        raw = bytearray(value)
        raw[bit // 8] ^= 1 << bit % 8
        return bytes(raw)
    if isinstance(value, str):
        return flipped(value.encode(), bit).decode("latin-1")
    return value ^ (1 << bit)


def bits(value: Any) -> int:
    return 8 * len(value) if isinstance(value, (bytes, str)) else 1 if isinstance(value, bool) else 16


def test_every_single_bit_is_held() -> None:
    api = watched(1, "degrade")
    api.query("labels", inputs(2), "ann", 0.0)
    api.book.revoke("ann")
    book = api.book
    entries, head = book.entries(), book.head()
    assert [entry.kind for entry in entries] == ["open", "answer", "alarm", "degraded", "revoke"]
    with book.turn() as turn:
        accounts = turn.accounts()
    assert verified(entries, accounts, head) == head
    changes = 0
    for i, entry in enumerate(entries):
        for name, value in vars(entry).items():
            for bit in range(bits(value)):
                changed = replace(entry, **{name: flipped(value, bit)})
                with pytest.raises(Broken):
                    verified([*entries[:i], changed, *entries[i + 1 :]], accounts, head)
                changes += 1
    assert changes > 5 * 4 * 256
    for account, standing in accounts.items():
        for name in ("used", "alarmed", "revoked"):
            changed_one = replace(standing, **{name: flipped(getattr(standing, name), 0)})
            with pytest.raises(Broken):
                verified(entries, {**accounts, account: changed_one}, head)


@pytest.mark.parametrize(
    "words",
    [
        "UPDATE chain SET samples = samples + 1 WHERE number = 3",
        "UPDATE chain SET account = 'eve' WHERE number = 4",
        "DELETE FROM chain WHERE number = 4",
        "DELETE FROM chain WHERE number = 9",
        "UPDATE accounts SET revoked = 0 WHERE name = 'ann'",
        "UPDATE accounts SET used = used - 1 WHERE name = 'bob'",
        "UPDATE accounts SET budget = 9 WHERE name = 'bob'",
        "DELETE FROM accounts WHERE name = 'bob'",
        "INSERT INTO accounts VALUES ('eve', -1, 0, 0, 0)",
    ],
)
def test_a_changed_file_is_refused(words: str) -> None:
    book = small()
    head = book.verify()
    with book.turn() as turn:
        turn.database.execute(words)
    with pytest.raises(Broken):
        book.verify(head)


def test_a_shorter_chain_shows_only_beside_a_head_that_was_kept() -> None:
    api = gateway()
    api.labels(inputs(1))
    early = api.book.head()
    api.labels(inputs(1))
    late = api.book.verify(early)
    with api.book.turn() as turn:
        turn.database.execute("DELETE FROM chain WHERE number = 3")
        turn.database.execute("UPDATE accounts SET used = 1")
    assert api.book.verify() == early
    with pytest.raises(Broken, match="entry 3, is not on this chain"):
        api.book.verify(late)


def test_a_chain_that_no_gateway_writes_is_refused() -> None:
    opened = Entry(1, "ann", "open", 2, bytes(32), bytes(32), bytes(32))
    opened = replace(opened, hash=opened.digest())
    for kind, samples, why in (("answer", 3, "more was answered"), ("revoke", 0, "")):
        second = Entry(2, "ann", kind, samples, bytes(32), bytes(32), opened.hash)  # type: ignore[arg-type]
        second = replace(second, hash=second.digest())
        third = Entry(3, "ann", "answer", 1, bytes(32), bytes(32), second.hash)
        third = replace(third, hash=third.digest())
        with pytest.raises(Broken, match=why or "not open"):
            verified([opened, second, third], {}, None)
    assert verified([], {}, None) == Head()


def test_two_processes_cannot_write_at_once(tmp_path: Path) -> None:
    book = Book(tmp_path / "book.sqlite")
    book.open("ann", 1)
    other = sqlite3.connect(tmp_path / "book.sqlite", 0.05, isolation_level=None)
    with book.turn(), pytest.raises(sqlite3.OperationalError, match="locked"):
        other.execute("BEGIN IMMEDIATE")
    other.close()
    book.close()


@pytest.mark.parametrize(
    ("on_alarm", "answered", "kinds"),
    [
        ("log", (3, 4), ["answer", "answer", "alarm", "answer"]),
        ("revoke", (3, 2), ["answer", "answer", "alarm", "revoke"]),
        ("degrade", (3, 4), ["answer", "answer", "alarm", "degraded"]),
    ],
)
def test_an_alarm_does_what_was_declared(
    on_alarm: OnAlarm, answered: tuple[int, int], kinds: list[str]
) -> None:
    api = watched(5, on_alarm)
    first, second = (api.query("scores", inputs(n), "ann", 0.0) for n in (3, 4))
    assert (len(first.values), len(second.values)) == answered
    assert [entry.kind for entry in api.book.entries()] == ["open", *kinds]
    plain = torch.softmax(logits(MODEL, inputs(4)), -1)
    assert torch.equal(second.values[:2], plain[:2]), "what came before the alarm is answered in full"
    late = api.query("scores", inputs(1), "ann", 0.0)
    assert (len(late.values), late.refused) == ((0, "revoked") if on_alarm == "revoke" else (1, None))
    if on_alarm == "degrade":
        assert second.values[2:].unique().tolist() == late.values.unique().tolist() == [0, 1]
        assert torch.equal(second.values[2:].argmax(1), plain[2:].argmax(1))
    assert len(api.query("scores", inputs(5), "bob", 0.0).values) == 5, "others are answered"
    api.book.verify()


def test_a_monitor_sees_what_other_processes_answered(tmp_path: Path) -> None:
    one, other = (watched(5, "revoke", Book(tmp_path / "book.sqlite")) for _ in range(2))
    assert len(one.query("labels", inputs(3), "ann", 0.0).values) == 3
    assert len(other.query("labels", inputs(1), "ann", 0.1).values) == 1
    assert len(one.query("labels", inputs(9), "ann", 0.2).values) == 1
    assert other.query("labels", inputs(1), "ann", 0.3).refused == "revoked"


def test_a_mark_enters_what_was_answered_and_nothing_else() -> None:
    def answer(asked: Tensor, scores: Tensor, ledger: Ledger) -> Tensor:
        ledger.own.append(scores.clone())
        return scores.flip(1)

    api = Gateway(MODEL, ("scores",), answer=answer, guard=Guard(budget=3))
    api.scores(inputs(2))
    with pytest.raises(Refused, match="its budget is spent") as stopped:
        api.scores(inputs(2, 2))
    assert len(stopped.value.answered) == 1
    noted = api.ledger.examples()
    assert torch.equal(noted.inputs, inputs(3))
    assert torch.equal(noted.targets, torch.softmax(logits(MODEL, inputs(3)), -1).flip(1))
    assert sum(map(len, api.ledger.own)) == 3


def test_an_account_s_access_is_its_own() -> None:
    api = gateway(3)
    ann = api.by("ann")
    assert (ann.queries, len(ann.labels(inputs(2))), ann.queries) == (0, 2, 2)
    with pytest.raises(Refused, match="ann"):
        ann.scores(inputs(2))
    assert ann.queries == 3
    assert len(api.labels(inputs(3))) == 3
    assert api.book.standing(ANYONE).used == 3
    with pytest.raises(Denied, match="not weights"):
        ann.weights()
    with pytest.raises(KeyError, match="no account 'eve'"):
        api.book.standing("eve")
    api.book.open("ann", 10)
    assert len(ann.labels(inputs(7))) == 7


@FEW
@given(accounts=st.integers(1, 5), budget=st.integers(0, 6), sizes=st.lists(st.integers(0, 9), max_size=5))
def test_a_thief_s_accounts_share_his_queries(accounts: int, budget: int, sizes: list[int]) -> None:
    api = gateway(budget)
    thief, start = Thief(api, accounts), 0
    for size in sizes:
        mine = inputs(size, start)
        if not size:
            assert len(thief.labels(mine)) == 0
            continue
        if start + size <= accounts * budget:
            assert torch.equal(thief.labels(mine), logits(MODEL, mine).argmax(1))
            start += size
            continue
        with pytest.raises(Refused, match="budget"):
            thief.labels(mine)
        start = accounts * budget
        break
    assert thief.queries == start
    told = thief.told.get("labels", [])
    assert sum(map(len, told)) == start, "he keeps what he was told"
    for part in told:
        assert torch.equal(part.targets, logits(MODEL, part.inputs).argmax(1))
    used = [api.book.standing(n).used for n in thief.names if n in {e.account for e in api.book.entries()}]
    if used and len(used) == accounts:
        assert max(used) - min(used) <= 1, "each sees one of k"
    api.book.verify()


@pytest.mark.parametrize(("accounts", "pace"), [(1, 10.0), (2, 20.0)])
def test_a_thief_keeps_to_his_pace_within_a_request(accounts: int, pace: float) -> None:
    """10 samples an hour of every account, 25 within 2.45 hours and no more allowed: in one request as in many."""
    guard = Guard(None, Watch(Rate(hours=2.45), None, 25.0), "revoke")

    def ask(sizes: list[int], pace: float) -> Thief:
        thief = Thief(Gateway(MODEL, ("labels",), guard=guard), accounts, pace)
        with suppress(Refused):
            for part in inputs(200).split(sizes):
                thief.labels(part)
        return thief

    for sizes in ([200], [7] * 20 + [60], [1] * 200):
        assert ask(sizes, pace).queries == 200
        hasty = ask(sizes, 1.1 * pace)
        assert (hasty.queries, hasty.alive) == (25 * accounts, [])


def test_alarmed_accounts_leave_their_share_to_the_others() -> None:
    thief = Thief(watched(4, "revoke"), 3)
    found = thief.labels(inputs(12))
    assert torch.equal(found, logits(MODEL, inputs(12)).argmax(1))
    with pytest.raises(Refused, match="of the thief \\(3 in all\\) is not answered: it was revoked"):
        thief.labels(inputs(1))
    assert thief.queries == 12
    ask = partial(thief.gateway.query, "labels", inputs(1), at=0.0)
    assert {ask(account=name).refused for name in thief.names} == {"revoked"}
