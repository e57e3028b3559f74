"""`assay board` over 10,000 generated records: CPU seconds, against reading them alone; peak memory; the size of the page.

python benchmarks/board.py [FOLDER]: with a folder, only write the records there (FOLDER/records), to look at such a page.
"""

import json
import math
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

from measure import interleaved, keep, ratio

from assay.leaderboard.page import write_board
from assay.leaderboard.store import SCHEMA, Store

CONF = Path(__file__).resolve().parent.parent / "conf"
RECORDS = 10_000
FPR, TEST, KEYS, MODELS = 0.01, 359, 200, 99
READS = {
    "parameter": "weights",
    "trigger": "labels",
    "api": "labels",
    "data": "scores",
    "fingerprint": "labels",
}
REMOVABLE = 0.35
"""The share of an attack's strength that a scheme withstands, on average."""

Record = dict[str, Any]


def names(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def records(count: int = RECORDS) -> Iterator[Record]:
    """Every scheme under every attack, seed after seed, until there are so many. Numbers are drawn, no model is trained."""
    schemes, attacks = names("watermark"), names("attack")
    seeds = math.ceil(count / (len(schemes) * len(attacks)))
    cells = ((seed, s, a) for seed in range(seeds) for s in range(len(schemes)) for a in range(len(attacks)))
    for (seed, s, a), _ in zip(cells, range(count), strict=False):
        yield one(schemes[s], attacks[a], seed)


def scheme_of(name: str) -> Record:
    rng = Random(name)
    family = rng.choice(list(READS))
    declared = {"family": family, "reads": READS[family], "derivation": rng.choice(["derived", "chosen"])}
    return {
        **declared,
        "nulls": ["random_keys", "independent_models"],
        "embeds": True,
        "paper": f"{name}, 2020",
    }


def attack_of(name: str) -> Record:
    rng = Random(name)
    goal = "claim" if name.startswith("f") and rng.random() < 0.3 else "remove"
    means = {"needs": rng.choice(["weights", "weights", "scores", "labels"]), "data": "unlabelled"}
    known = {"preserves": False, "scheme_known": False, "key_known": "none", "paper": f"{name}, 2021"}
    return {**means, "goal": goal, "axis": rng.choice(["epochs", "queries", "sparsity"]), **known}


def head_of(scheme: str, attack: str, seed: int, rng: Random) -> Record:
    """What every record begins with."""
    choices = {
        "task": "digits",
        "model": "cnn_small",
        "watermark": scheme,
        "deployment": "open",
        "attack": attack,
    }
    name = "-".join([*choices.values(), f"s{seed}", f"{rng.getrandbits(48):012x}"])
    choices |= {"adversary": "standard", "verification": "strict", "trainer": "cpu"}
    day, hour, minute = rng.randrange(20, 27), rng.randrange(24), rng.randrange(60)
    return {
        "schema": SCHEMA,
        "id": name,
        "choices": choices,
        "seed": seed,
        "overrides": [],
        "declared": {"watermark": scheme_of(scheme), "attack": attack_of(attack)},
        "config": config(scheme, attack, seed),
        "environment": {"commit": "0123456789ab", "cores": 2, "threads": 1},
        "finished": f"2026-11-{day}T{hour:02}:{minute:02}:00+00:00",
    }


def one(scheme: str, attack: str, seed: int) -> Record:
    rng, owner = Random(f"{scheme} {attack} {seed}"), Random(f"{scheme} {seed}")
    head = head_of(scheme, attack, seed, rng)
    if rng.random() < 0.1:
        return {**head, "status": "not_applicable", "reason": f"{scheme} has no place for {attack}"}
    trials = owner.choice([100, 128, 256])
    unmarked = (TEST - owner.randrange(3, 12)) / TEST
    marked = {"accuracy": unmarked - owner.randrange(4) / TEST, **evidence(trials, trials, owner)}
    nulls = {
        kind: [float(hits(trials, owner)) for _ in range(n)]
        for kind, n in (("independent_models", MODELS), ("random_keys", KEYS))
    }
    costs = {
        "victim_seconds": round(owner.uniform(3, 5), 3),
        "embedding_seconds": round(owner.uniform(4, 9), 3),
    }
    return {
        **head,
        "status": "ok",
        "owner": {"unmarked_accuracy": unmarked, **costs, "embeds": True},
        "marked": marked,
        "curve": list(curve(marked, trials, Random(f"{scheme} {attack}").random(), rng, Random(attack))),
        "controls": {
            n: evidence(hits(trials, owner), trials, owner)
            for n in ("unmarked", "marked_by_rival", "key_of_rival")
        },
        "nulls": nulls,
        "size": {"cells": KEYS * MODELS, "claims": owner.randrange(150, 250)},
        "spent": {"seconds": round(rng.uniform(0.2, 30), 3), "cpu_seconds": round(rng.uniform(0.2, 30), 3)},
    }


def config(scheme: str, attack: str, seed: int) -> Record:
    """As long as a real one."""
    groups = ("task", "model", "deployment", "adversary", "verification", "trainer")
    fixed = {group: {f"setting_{i}": i for i in range(8)} for group in groups}
    chosen = {
        "watermark": {"name": scheme, "bits": 256},
        "attack": {"name": attack, "shares": [0.1, 0.5, 0.9]},
    }
    return {"seed": seed, **fixed, **chosen}


def curve(marked: Record, trials: int, force: float, rng: Random, attack: Random) -> Iterator[Record]:
    count, queries = attack.randrange(1, 12), attack.choice([0, 100])
    seconds, lost = 0.0, 0.0
    for i in range(1, count + 1):
        seconds += rng.uniform(0.01, 2)
        lost = max(0.0, lost + rng.uniform(-0.005, 0.06) * force * i / count)
        kept = max(0.0, 1 - force * i / count / (2 * REMOVABLE))
        read = hits(trials, rng) + round(kept * (trials - trials // 2))
        cost = {"seconds": round(seconds, 3), "queries": queries * i, "examples": 288, "steps": 10 * i}
        yield {
            "strength": i / count,
            "accuracy": round((marked["accuracy"] - lost) * TEST) / TEST,
            "agreement": round((1 - lost) * TEST) / TEST,
            **evidence(min(read, trials), trials, rng),
            "cost": cost,
            "message": {
                "bits": trials,
                "accuracy": min(read, trials) / trials,
                "whole": False,
                "decoded": "",
            },
            "claimed": None,
            "overwriter": None,
            "tracing": None,
        }


def hits(trials: int, rng: Random) -> int:
    """Of a stranger: half, give or take."""
    return round(rng.gauss(trials / 2, math.sqrt(trials) / 2))


def evidence(statistic: int, trials: int, rng: Random) -> Record:
    """p by the normal tail, which is near enough to an exact one for its digits to compress alike."""
    z = (statistic - trials / 2) / (math.sqrt(trials) / 2)
    log10_p = math.log10(max(math.erfc(z / math.sqrt(2)) / 2, 1e-300))
    beyond = math.erfc(z / math.sqrt(2)) / 2
    found = {
        kind: {
            "count": n,
            "exceed": (e := round(beyond * n)),
            "log10_p": math.log10((1 + e) / (1 + n)),
            "highest": 22.0,
        }
        for kind, n in (("random_keys", KEYS), ("independent_models", MODELS))
    }
    decided = {"log10_p": log10_p, "fpr": FPR, "detected": log10_p <= math.log10(FPR)}
    return {
        "statistic": float(statistic),
        "unit": "matching bits",
        "trials": trials,
        "source": "binomial",
        **decided,
        **found,
    }


def written(folder: Path, count: int = RECORDS) -> Store:
    store = Store(folder / "records")
    store.folder.mkdir(parents=True, exist_ok=True)
    for record in records(count):
        store.path(record["id"]).write_text(json.dumps(record, indent=1))
    return store


def peak_mb(folder: Path) -> float:
    """Of a process that does nothing but write the page. Its rusage would hold the peak of the process that started it."""
    code = (
        "import sys, pathlib; from assay.leaderboard import page, store; folder = pathlib.Path(sys.argv[1])\n"
        "page.write_board(store.Store(folder / 'records'), folder / 'board.html')\n"
        "print(pathlib.Path('/proc/self/status').read_text())"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(folder)], check=True, capture_output=True, text=True
    )
    peak = next(line for line in run.stdout.splitlines() if line.startswith("VmHWM"))
    return int(peak.split()[1]) / 1000


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store, board = written(folder), folder / "board.html"
        peak = peak_mb(folder)
        ways = {"read": lambda: sum(1 for _ in store), "board": lambda: write_board(store, board)}
        seconds = interleaved(ways, rounds=3)
        keep(
            "board",
            records=RECORDS,
            seconds={way: statistics.median(found) for way, found in seconds.items()},
            ratio_to_reading=ratio(seconds, "board", "read"),
            peak_mb=round(peak),
            page_kb=round(board.stat().st_size / 1000),
            record_mb=round(sum(path.stat().st_size for path in store.folder.iterdir()) / 1e6),
            rounds=seconds,
        )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        written(Path(sys.argv[1]))
    else:
        main()
