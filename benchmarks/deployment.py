"""What deploying costs: opening a package against a plain file, a query through the gateway against the bare model, and from how
many requests on the whole lies under 1 % or 5 %. A curve over model cost and requests, not a number.

python benchmarks/deployment.py [PAIRS of timings, 200; a fifth for the large model] [REQUESTS of each client of the load test, 50]

CPU seconds of one process and one thread (benchmarks/overhead.py); HTTP's server is a thread of it, so both ends count. The load
test alone is wall time, and the file says how busy the machine was.
"""

import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
import uvicorn
from measure import keep
from overhead import Timings, Ways, plot, ratio, summary, timed
from safetensors.torch import save_file
from torch import Tensor, nn

from assay.core.secret import Secret
from assay.core.suspects import logits
from assay.deployments.book import Book
from assay.deployments.gateway import Gateway
from assay.deployments.guard import Guard
from assay.deployments.licence.licence import Licence, issue, read, terms
from assay.deployments.package.identity import Identity
from assay.deployments.package.package import Proof, create, tensors
from assay.deployments.serve.app import app
from assay.deployments.serve.keyring import Keyring
from assay.deployments.serve.remote import Remote
from assay.deployments.serve.service import Licensed, Service
from assay.experiments.api import build
from assay.experiments.people import clean
from assay.zoo.files import load_tensors

CLIENTS = (1, 4, 16)
OWNER, ALICE = Identity.fresh(), Identity.fresh()
BATCH = 32


def large() -> nn.Module:
    """100.7 M parameters: six layers of 4096 x 4096."""
    return nn.Sequential(*(nn.Linear(4096, 4096, bias=False) for _ in range(6))).eval()


def sizes() -> dict[str, tuple[nn.Module, Tensor]]:
    """A model and a batch for it. What the weights are changes no time."""
    digits, residual = build("task=digits"), build("task=digits", "model=resnet18")
    pictures = digits.task.test.inputs[:BATCH]
    return {
        "small": (digits.task.fresh(0).eval(), pictures),
        "medium": (residual.task.fresh(0).eval(), pictures),
        "large": (large(), torch.rand(BATCH // 4, 4096, generator=torch.Generator().manual_seed(0))),
    }


def licence_for(package: str) -> tuple[str, Licence]:
    now = int(time.time())
    token = issue(
        package,
        ALICE.public,
        terms(["query"], now - 9, now + 10**6, 10**12, "scores", revocable=False),
        OWNER,
    )
    return token, read(token, OWNER.public)


def loading(model: nn.Module, folder: Path, pairs: int) -> Timings:
    """From the file to tensors: as it is, and as a licensee opens its package."""
    plain, package = folder / "model.safetensors", folder / "model.wmpkg"
    save_file(model.state_dict(), plain)
    token, _ = licence_for(create(plain, package, OWNER, [ALICE.public]).content.id)
    proof = Proof(ALICE, token)
    ways = {
        "plain": lambda: load_tensors(plain, "model"),
        "package": lambda: tensors(package, proof, OWNER.public),
    }
    return timed(ways, pairs)


def gateway(model: nn.Module, book: Book) -> Gateway:
    return Gateway(model, ("scores", "labels"), decimals=3, guard=Guard(10**12), book=book)


@contextmanager
def listening(service: Service) -> Iterator[str]:
    server = uvicorn.Server(uvicorn.Config(app(service), port=0, log_level="error", ws="none"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()


def querying(model: nn.Module, inputs: Tensor, folder: Path, pairs: int) -> Timings:
    """bare: the model and a softmax. guarded: budget, rounding, and a book in memory. logged: the book is a file, written through
    to the disk for every answer. licensed: and the licence's own. http: the logged one over loopback."""
    _, licence = licence_for("0" * 64)
    one, two, three = (Book(folder / f"{name}.sqlite") for name in ("logged", "licensed", "licence"))
    ring = Keyring(folder / "keys.json")
    shape = tuple(inputs.shape[1:])
    guarded, logged = gateway(model, Book()), gateway(model, one)
    under = Service(gateway(model, two), ring, shape, licensed=Licensed(licence, three))
    with (
        listening(Service(logged, ring, shape)) as base,
        httpx.Client(base_url=base, timeout=600) as client,
    ):
        remote = Remote(client, ring.issue("http"))
        ways: Ways = {
            "bare": lambda: torch.softmax(logits(model, inputs), -1),
            "guarded": lambda: guarded.query("scores", inputs, "a"),
            "logged": lambda: logged.query("scores", inputs, "a"),
            "licensed": lambda: under.query("scores", inputs, "a"),
            "http": lambda: remote.query("scores", inputs),
        }
        found = timed(ways, pairs)
    two.close()
    three.close()
    return found


def marks(pairs: int, folder: Path) -> dict[str, Any]:
    """A mark in the weights costs its owner a training and a query nothing; one in the answers the other way round. The owner's CPU
    seconds to embed, and a labels query through the gateway, marked against unmarked."""
    found: dict[str, Any] = {}
    for name in ("uchida", "deepmarks", "dawn"):
        trial = build(f"watermark={name}", "trainer.progress=false", f"paths.cache={folder / 'cache'}")
        scheme, task = trial.watermark, trial.task
        victim, _ = clean(trial, 0)
        key = scheme.keygen(task, Secret.simulated(0), victim)
        start = time.process_time()
        marked = scheme.embed(victim, key, task, trial.trainer("marked")) if scheme.embeds else victim
        spent = time.process_time() - start
        answer = (lambda x, s, seen: scheme.answer(key, x, s, seen)) if scheme.answers else None  # noqa: B023
        own, other = Gateway(victim, ("labels",)), Gateway(marked, ("labels",), answer=answer)
        inputs = task.test.inputs[:BATCH]
        ways: Ways = {
            "unmarked": lambda: own.query("labels", inputs, "a"),  # noqa: B023
            "marked": lambda: other.query("labels", inputs, "a"),  # noqa: B023
        }
        per_query = ratio(timed(ways, pairs), "marked", "unmarked").said
        kind = "output" if scheme.answers else "embedding"
        found[name] = {"mark": kind, "embedding_cpu_seconds": round(spent, 2), "query": per_query}
    return found


def load_test(model: nn.Module, inputs: Tensor, folder: Path, requests: int) -> list[dict[str, Any]]:
    """Clients at once, each with a connection of its own, as fast as they are answered; wall time."""
    ring = Keyring(folder / "load.json")
    service = Service(gateway(model, Book(folder / "load.sqlite")), ring, tuple(inputs.shape[1:]))
    keys = [ring.issue(f"client-{i}") for i in range(max(CLIENTS))]
    found = []
    with listening(service) as base:
        for count in CLIENTS:
            took: list[float] = []
            threads = [
                threading.Thread(target=_client, args=(base, key, inputs, requests, took))
                for key in keys[:count]
            ]
            start = time.perf_counter()
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            wall = time.perf_counter() - start
            middle, late = np.quantile(took, (0.5, 0.95))
            rate = {
                "requests_per_second": round(len(took) / wall, 1),
                "samples_per_second": round(len(took) * BATCH / wall),
            }
            found.append(
                {"clients": count, **rate, "p50_ms": round(1e3 * middle, 1), "p95_ms": round(1e3 * late, 1)}
            )
    return found


def _client(base: str, key: str, inputs: Tensor, requests: int, took: list[float]) -> None:
    with httpx.Client(base_url=base, timeout=600) as client:
        remote = Remote(client, key)
        for _ in range(requests):
            start = time.perf_counter()
            remote.labels(inputs)
            took.append(time.perf_counter() - start)


def main(pairs: int, requests: int) -> None:
    torch.set_num_threads(1)
    loads, queries = {}, {}
    shown: dict[str, Any] = {}
    busy = [round(one, 1) for one in os.getloadavg()]
    with tempfile.TemporaryDirectory() as folder:
        models = sizes()
        for name, (model, inputs) in models.items():
            place = Path(folder) / name
            place.mkdir()
            count = pairs if name != "large" else max(5, pairs // 5)
            loads[name] = loading(model, place, count)
            queries[name] = querying(model, inputs, place, count)
            weights = sum(one.numel() for one in model.parameters())
            shown[name] = {"parameters": weights, "pairs": count, **summary(loads[name], queries[name])}
            print(name, json.dumps(shown[name]), flush=True)
        answered = load_test(*models["small"], Path(folder), requests)
        marked = marks(pairs, Path(folder))
    plot(loads, queries)
    keep(
        "deployment",
        pairs=pairs,
        sizes=shown,
        marks=marked,
        loopback=answered,
        load_average={"before": busy, "after": [round(one, 1) for one in os.getloadavg()]},
        what=f"batches of {BATCH}, of the large model {BATCH // 4}; CPU seconds but for loopback, {requests} requests a client",
    )


if __name__ == "__main__":
    main(*(int(word) for word in (sys.argv[1:] + ["200", "50"][len(sys.argv) - 1 :])))
