"""The service is the gateway: the same answers, budgets, alarms and chain, in process and over HTTP; nothing after a revocation."""

import base64
import json
import logging
import socket
import stat
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import httpx
import pytest
import torch
import uvicorn
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from assay.core.errors import ConfigError, Denied
from assay.deployments.book import Asked, Book
from assay.deployments.defences import Noise, Rounded
from assay.deployments.gateway import Gateway, Refused, Reply
from assay.deployments.guard import Guard
from assay.deployments.home import Home
from assay.deployments.licence.licence import issue, read, terms
from assay.deployments.licence.revocation import Revocations
from assay.deployments.monitors import Monitor, Watch, Watcher
from assay.deployments.package.identity import Identity, Rejected
from assay.deployments.serve.app import app
from assay.deployments.serve.keyring import Keyring
from assay.deployments.serve.remote import Remote
from assay.deployments.serve.service import Licensed, Service
from assay.deployments.serve.wire import Limits, Problem, Want, inputs_of, packed

SHAPE = (1, 4, 4)
LIMITS = Limits(body=200_000, samples=64)


def model() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).eval()


def inputs(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(seed))


class Bright:
    """Counts pictures with a bright corner."""

    def __init__(self) -> None:
        self.found = 0

    def see(self, asked: Asked) -> Tensor:
        bright_N = (asked.inputs.flatten(1)[:, 0] > 0.8).double().cumsum(0) + self.found
        self.found = int(bright_N[-1]) if len(bright_N) else self.found
        return bright_N


@dataclass(frozen=True)
class Brightness(Monitor):
    paper: ClassVar[str] = "none"

    def watcher(self, known: Any) -> Watcher:
        return Bright()

    def learnt(self, reference: Tensor) -> Any:
        return None


HOME: Any = Home.__new__(Home)  # these filters ask it for nothing but a seed
object.__setattr__(HOME, "seed", 0)
WATCH = Watch(Brightness(), None, 3.5)
KINDS: dict[str, tuple[tuple[Any, ...], int | None, Guard]] = {
    "scores": (("scores", "labels"), None, Guard(12)),
    "rounded": (("scores", "labels"), 2, Guard(12)),
    "labels": (("labels",), None, Guard(12)),
    "filtered": (
        ("scores", "labels"),
        None,
        Guard(12, filters=((True, Rounded(1).ready(HOME)), (False, Noise(keep_label=False).ready(HOME)))),
    ),
    "watched": (("scores", "labels"), None, Guard(None, WATCH, "revoke")),
    "degraded": (
        ("scores", "labels"),
        None,
        Guard(40, WATCH, "degrade", degraded=((False, Noise(scale=1.0).ready(HOME)),)),
    ),
}


def gateway(kind: str = "scores", book: Book | None = None) -> Gateway:
    grants, decimals, guard = KINDS[kind]
    return Gateway(model(), grants, decimals=decimals, guard=guard, book=book or Book())


def keyring(folder: Path) -> tuple[Keyring, dict[str, str]]:
    ring = Keyring(folder / "keys.json")
    return ring, {name: ring.issue(name) for name in ("alice", "bob")}


class Both:
    """One gateway in process, an equal one behind HTTP."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.here, self.there = gateway(kind), gateway(kind)
        ring, self.keys = keyring(folder)
        self.client: Any = TestClient(app(Service(self.there, ring, SHAPE, LIMITS)))

    def remote(self, account: str) -> Remote:
        return Remote(self.client, self.keys[account])

    def asked(self, want: Want, account: str, sent: Tensor) -> tuple[Reply | str, Reply | str]:
        return told(lambda: self.here.query(want, sent, account, at=0.0)), told(
            lambda: self.remote(account).query(want, sent)
        )


def told(ask: Any) -> Reply | str:
    try:
        reply: Reply = ask()
    except Denied as error:
        return str(error)
    return reply


STEP = st.tuples(
    st.sampled_from(["scores", "labels", "revoke", "open"]),
    st.sampled_from(["alice", "bob"]),
    st.integers(1, 9),
)


@pytest.mark.parametrize("kind", KINDS)
@given(steps=st.lists(STEP, max_size=12))
@settings(max_examples=6, deadline=None)
def test_in_process_and_over_http_are_one_gateway(
    kind: str, steps: list[tuple[Any, str, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever is asked by whom in which order: equal replies to the bit, equal accounts, one chain of hashes."""
    both = Both(kind, tmp_path_factory.mktemp("both"))
    for number, (what, account, count) in enumerate(steps):
        if what in ("revoke", "open"):
            for one in (both.here, both.there):
                if what == "open" and not one.book.entries():
                    one.book.open(account, count)
                elif what == "revoke":
                    one.book.revoke(account)
            continue
        here, there = both.asked(what, account, inputs(count, number))
        if isinstance(here, str) or isinstance(there, str):
            assert here == there
            continue
        assert here.refused == there.refused
        assert here.values.dtype == there.values.dtype
        assert torch.equal(here.values, there.values)
    assert both.here.book.verify() == both.there.book.verify()
    assert both.here.queries == both.there.queries


def test_a_model_that_says_nan_says_it_over_http(tmp_path: Path) -> None:
    """Of finite inputs so large that its sums are not: the service had failed, after the answer was counted."""
    both = Both("scores", tmp_path)
    sent = torch.full((1, *SHAPE), 3e38)
    sent[:, :, ::2] *= -1
    here, there = both.here.query("scores", sent, "alice"), both.remote("alice").query("scores", sent)
    assert here.values.isnan().all()
    assert torch.equal(here.values.nan_to_num(7), there.values.nan_to_num(7))
    assert there.values.dtype == torch.float32
    assert both.there.book.standing("alice").used == 1


def test_a_remote_model_is_an_access(tmp_path: Path) -> None:
    """Labels, scores and counts; what stops raises, with what was answered before; weights are denied."""
    both = Both("scores", tmp_path)
    remote, sent = both.remote("alice"), inputs(5)
    assert torch.equal(remote.scores(sent), both.here.scores(sent))
    assert torch.equal(remote.labels(sent), both.here.labels(sent))
    assert remote.queries == 10
    with pytest.raises(Refused, match="account alice is not answered: its budget is spent") as caught:
        remote.scores(sent)
    assert len(caught.value.answered) == 2
    for denied in (remote.weights, remote.author, lambda: remote.texts(sent, 1)):
        with pytest.raises(Denied):
            denied()
    account = remote.account()
    assert (account["used"], account["left"], account["shape"]) == (12, 0, [1, 4, 4])
    assert both.keys["alice"] not in repr(remote)


def test_a_proxys_page_is_no_answer() -> None:
    page = httpx.MockTransport(lambda _: httpx.Response(502, text="<html>bad gateway</html>"))
    with httpx.Client(transport=page, base_url="http://served") as client:
        remote = Remote(client, "alice.key")
        for ask in (lambda: remote.labels(inputs(1)), remote.account):
            with pytest.raises(ConfigError, match=r"refused the request \(502\)"):
                ask()


def request(body: Any, **headers: str) -> dict[str, Any]:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return {"content": content, "headers": {"Content-Type": "application/json", **headers}}


GOOD = inputs(1).tolist()
DATA = base64.b64encode(bytes(64)).decode()
BAD: dict[str, tuple[dict[str, Any], int, str]] = {
    "no json": (request(b"{"), 400, "json"),
    "bytes": (request(b"\xff\xfe"), 400, "json"),
    "a pickle": (request(b"\x80\x04\x95\x01"), 400, "json"),
    "deep": (request(b"[" * 100_000), 400, "json"),
    "a long number": (request(b'{"inputs": ' + b"9" * 10_000 + b"}"), 400, "json"),
    "a list": (request(GOOD), 422, "fields"),
    "nothing": (request({}), 422, "fields"),
    "both forms": (request({"inputs": GOOD, "data": DATA, "shape": [1, *SHAPE]}), 422, "fields"),
    "an unknown field": (request({"inputs": GOOD, "x": 1}), 422, "fields"),
    "text": (request({"inputs": "zeros"}), 422, "dtype"),
    "text in lists": (request({"inputs": [[["1"]]]}), 422, "dtype"),
    "truth in lists": (request({"inputs": [[[True]]]}), 422, "dtype"),
    "null": (request({"inputs": None}), 422, "dtype"),
    "ragged": (request({"inputs": [[[1, 2], [3]]]}), 422, "shape"),
    "deep lists": (request(b'{"inputs": ' + b"[" * 500 + b"]" * 500 + b"}"), 422, "dtype"),
    "one sample alone": (request({"inputs": GOOD[0]}), 422, "shape"),
    "another shape": (request({"inputs": [[[[0.0] * 5] * 4]]}), 422, "shape"),
    "no samples": (request({"data": "", "shape": [0, *SHAPE]}), 422, "samples"),
    "too many": (request(packed(inputs(65))), 422, "samples"),
    "not a number": (request(b'{"inputs": [[[[NaN]]]]}'), 422, "values"),
    "infinite": (request({"inputs": [[[[1e39] * 4] * 4]]}), 422, "values"),
    "infinite bytes": (
        request({"data": base64.b64encode(b"\x00\x00\x80\x7f" * 16).decode(), "shape": [1, *SHAPE]}),
        422,
        "values",
    ),
    "base64 with holes": (request({"data": "AA AA", "shape": [1, *SHAPE]}), 422, "dtype"),
    "too few bytes": (request({"data": "AAAA", "shape": [1, *SHAPE]}), 422, "shape"),
    "a huge shape": (request({"data": DATA, "shape": [2**62, 2**62, 1, 4]}), 422, "shape"),
    "nothing of a huge shape": (request({"data": "", "shape": [0, 2**62, 2**62, 4]}), 422, "shape"),
    "a longer number than text has": (
        request(b'{"data": "", "shape": [' + b"9" * 4299 + b", 1, 4, 4]}"),
        422,
        "shape",
    ),
    "more sides than arrays have": (request({"data": "AAAAAA==", "shape": [1] * 65}), 422, "shape"),
    "a negative shape": (request({"data": DATA, "shape": [-1, *SHAPE]}), 422, "dtype"),
    "a shape of truth": (request({"data": DATA, "shape": [True, *SHAPE]}), 422, "dtype"),
    "another type": (request({"inputs": GOOD}, **{"Content-Type": "text/plain"}), 415, "type"),
    "a large body": (request(b" " * 200_001), 413, "size"),
}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> tuple[TestClient, dict[str, str], Gateway]:
    ring, keys = keyring(tmp_path_factory.mktemp("served"))
    one = gateway("labels")
    return TestClient(app(Service(one, ring, SHAPE, LIMITS))), keys, one


@pytest.mark.parametrize("case", BAD)
def test_bad_requests_are_explained_and_counted_nowhere(
    case: str, served: tuple[TestClient, dict[str, str], Gateway]
) -> None:
    client, keys, one = served
    sent, status, code = BAD[case]
    sent["headers"]["Authorization"] = f"Bearer {keys['bob']}"
    response = client.post("/v1/labels", **sent)
    assert (response.status_code, response.json()["error"]["code"]) == (status, code), response.text
    assert one.queries == 0


def test_a_shape_of_many_sides_takes_no_time() -> None:
    """Multiplied out, so many sides would take minutes."""
    body = json.dumps({"data": "", "shape": [9] * 2_000_000}).encode()
    start = time.process_time()
    with pytest.raises(Problem, match="expected samples of"):
        inputs_of(body, SHAPE, Limits())
    assert time.process_time() - start < 10


@given(
    st.binary(max_size=200)
    | st.recursive(st.none() | st.floats() | st.text(), st.lists).map(repr).map(str.encode)
)
@settings(max_examples=25, deadline=None)
def test_no_body_breaks_the_service(
    served: tuple[TestClient, dict[str, str], Gateway], content: bytes
) -> None:
    client, keys, _ = served
    response = client.post("/v1/labels", **request(content, Authorization=f"Bearer {keys['bob']}"))
    assert 400 <= response.status_code < 500
    assert set(response.json()["error"]) == {"code", "message"}


def test_only_keys_that_were_issued_open(served: tuple[TestClient, dict[str, str], Gateway]) -> None:
    """Before anything else is looked at; the key is not repeated in the answer."""
    client, keys, _ = served
    name, _, secret = keys["alice"].partition(".")
    for shown in (
        "",
        "Bearer",
        "Bearer x",
        f"Basic {keys['alice']}",
        f"Bearer alice.{secret[:-1]}",
        f"Bearer bob.{secret}",
        f"Bearer nobody.{secret}",
        f"Bearer {secret}",
        f"Bearer {keys['alice']}x",
    ):
        response = client.post("/v1/labels", **request(b"{", Authorization=shown))
        assert (response.status_code, response.json()["error"]["code"]) == (401, "key"), shown
        assert response.headers["WWW-Authenticate"] == "Bearer"
        assert secret not in response.text
        assert client.get("/v1/account", headers={"Authorization": shown}).status_code == 401
    assert name == "alice"
    good = {"Authorization": f"Bearer {keys['alice']}"}
    assert client.post("/v1/scores", **request({"inputs": GOOD}, **good)).json()["error"]["code"] == "denied"
    for path in ("/v1/weights", "/v1", "/", "/docs", "/openapi.json", "/v1/../v1/weights"):
        for response in (client.get(path), client.post(path, **request({}, **good))):
            assert response.status_code in (404, 405)
            assert "error" in response.json()


def test_our_own_faults_say_nothing(tmp_path: Path) -> None:
    ring, keys = keyring(tmp_path)
    broken = Gateway(nn.Linear(1, 1), ("labels",))
    client = TestClient(app(Service(broken, ring, SHAPE)), raise_server_exceptions=False)
    sent = request({"inputs": GOOD}, Authorization=f"Bearer {keys['bob']}")
    response = client.post("/v1/labels", **sent)
    assert (response.status_code, response.json()) == (
        500,
        {"error": {"code": "internal", "message": "the service failed"}},
    )


def test_keys_are_kept_as_hashes_and_can_be_replaced(tmp_path: Path) -> None:
    ring, keys = keyring(tmp_path)
    other = Keyring(ring.path)  # another process
    secret = keys["alice"].partition(".")[2]
    assert secret not in ring.path.read_text() + repr(ring) + repr(vars(ring))
    assert stat.S_IMODE(ring.path.stat().st_mode) == 0o600
    assert other.account(keys["alice"]) == "alice"
    new = ring.issue("alice")
    assert (other.account(keys["alice"]), other.account(new), other.account(keys["bob"])) == (
        None,
        "alice",
        "bob",
    )
    for name in ("", "a.b", "../x", "a" * 65, "a b"):
        with pytest.raises(ConfigError, match="expected an account"):
            ring.issue(name)
    ring.path.write_text("[]")
    with pytest.raises(ConfigError, match="damaged"):
        other.account(new)


OWNER, ALICE = Identity.fresh(), Identity.fresh()


def licensed(
    folder: Path, now: int, **granted: Any
) -> tuple[Service, dict[str, str], list[Revocations | None]]:
    """A service under a licence, and the revocation list it reads."""
    token = issue("0" * 64, ALICE.public, terms(["query"], now - 10, now + 1000, **granted), OWNER)
    found = read(token, OWNER.public)
    lists: list[Revocations | None] = [Revocations(OWNER.public.kid, 1, now + 500, ())]
    ring, keys = keyring(folder)
    under = Licensed(found, Book(folder / "licence.sqlite"), lambda: lists[-1])
    return Service(gateway("watched"), ring, SHAPE, LIMITS, under), keys, lists


def test_a_licence_limits_all_accounts_together_and_ends_at_once(tmp_path: Path) -> None:
    service, keys, lists = licensed(tmp_path, int(time.time()), queries=10, output="labels")
    client: Any = TestClient(app(service))
    alice, bob = Remote(client, keys["alice"]), Remote(client, keys["bob"])
    dark = inputs(8) * 0.5
    assert len(alice.labels(dark)) == 8
    with pytest.raises(Denied, match="the licence answers labels"):
        bob.scores(dark)
    reply = bob.query("labels", dark)
    assert (len(reply.values), reply.refused) == (2, "budget")
    assert service.gateway.queries == 10
    assert service.licensed is not None
    licence = service.licensed.licence
    lists.append(Revocations(OWNER.public.kid, 2, int(time.time()) + 500, (licence.jti,)))
    with pytest.raises(Denied, match="was revoked"):
        alice.labels(dark)
    lists.append(None)
    with pytest.raises(Denied, match="revocation list"):
        alice.labels(dark)


def test_who_waits_for_a_turn_while_the_licence_is_revoked_is_refused(tmp_path: Path) -> None:
    service, _, lists = licensed(tmp_path, int(time.time()))
    assert service.licensed is not None
    revoked = (service.licensed.licence.jti,)
    with ThreadPoolExecutor(1) as pool:
        with service.licensed.book.turn():
            waiting = pool.submit(service.query, "labels", inputs(1), "alice")
            time.sleep(0.2)
            lists.append(Revocations(OWNER.public.kid, 2, int(time.time()) + 500, revoked))
        with pytest.raises(Rejected, match="was revoked"):
            waiting.result()
    assert service.gateway.queries == 0


def test_an_expired_licence_answers_nothing(tmp_path: Path) -> None:
    service, keys, _ = licensed(tmp_path, int(time.time()) - 2000, revocable=False)
    response = TestClient(app(service)).post(
        "/v1/labels", **request({"inputs": GOOD}, Authorization=f"Bearer {keys['alice']}")
    )
    assert (response.status_code, response.json()["error"]["code"]) == (402, "licence")
    assert service.gateway.queries == 0


@contextmanager
def listening(service: Service) -> Iterator[str]:
    """On a loopback port, by uvicorn."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app(service), log_level="info", ws="none"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [free]})
        thread.start()
        try:
            while not server.started:
                time.sleep(0.01)
            yield f"http://127.0.0.1:{free.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


@dataclass
class Client:
    """One of several at once: what it got, and when it asked for it."""

    base: str
    key: str
    done: threading.Event
    answers: list[tuple[float, int, int]]
    """Seconds at which a request began, its status, samples answered."""

    def run(self) -> None:
        with httpx.Client(base_url=self.base, timeout=60) as client:
            while not self.done.is_set():
                began = time.monotonic()
                sent = request(packed(inputs(3)), Authorization=f"Bearer {self.key}")
                response = client.post("/v1/labels", **sent)
                self.answers.append((began, response.status_code, len(response.json()["values"])))


def test_no_answer_after_revocation_and_no_sample_beyond_a_budget(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Six clients of alice ask until she is revoked, by another handle of the book as `assay serve revoke` has it; four of bob
    share a budget of 100. Whatever began after the revocation returned is refused, also after a restart; and what clients got
    is what the book says."""
    caplog.set_level(logging.DEBUG)
    path = tmp_path / "book.sqlite"
    book = Book(path)
    book.open("alice", None)
    book.open("bob", 100)
    ring, keys = keyring(tmp_path)
    service = Service(gateway("labels", book), ring, SHAPE, LIMITS)
    done = threading.Event()
    with listening(service) as base:
        clients = [Client(base, keys[name], done, []) for name in ["alice"] * 6 + ["bob"] * 4]
        threads = [threading.Thread(target=client.run) for client in clients]
        for thread in threads:
            thread.start()
        while sum(len(client.answers) for client in clients[:6]) < 12:
            time.sleep(0.01)
        elsewhere = Book(path)
        elsewhere.revoke("alice")
        revoked = time.monotonic()
        elsewhere.close()
        while min(sum(began > revoked for began, _, _ in client.answers) for client in clients[:6]) < 2:
            time.sleep(0.01)
        while not any(status == 429 for client in clients[6:] for _, status, _ in client.answers):
            time.sleep(0.01)
        done.set()
        for thread in threads:
            thread.join()
    for client in clients[:6]:
        later = [answer for answer in client.answers if answer[0] > revoked]
        assert {(status, count) for _, status, count in later} == {(403, 0)}
    again = Book(path)
    entries = again.entries()
    again.verify()
    last = next(e.number for e in entries if e.kind == "revoke")
    assert not [e for e in entries if e.account == "alice" and e.number > last]
    for account, group in (("alice", clients[:6]), ("bob", clients[6:])):
        assert again.standing(account).used == sum(count for c in group for _, _, count in c.answers)
    assert again.standing("bob").used == 100
    restarted = TestClient(app(Service(gateway("labels", again), ring, SHAPE, LIMITS)))
    response = restarted.post(
        "/v1/labels", **request(packed(inputs(3)), Authorization=f"Bearer {keys['alice']}")
    )
    assert (response.status_code, response.json()["values"]) == (403, [])
    again.close()
    for key in keys.values():
        assert key.partition(".")[2] not in caplog.text
        assert key.partition(".")[2].encode() not in path.read_bytes()
