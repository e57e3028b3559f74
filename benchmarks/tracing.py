"""Tracing: how often a registry of digits models names the owner of a stolen copy, and how often an owner of none.

python benchmarks/tracing_models.py MODELS     # makes the models, once
python benchmarks/tracing.py table MODELS OUT  # results/tracing: a row for each suspect, a table, a picture
python benchmarks/tracing.py speed             # a registry of 100,000 models
"""

import csv
import json
import math
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from assay.core.atomic import write_atomically
from assay.core.secret import Secret
from assay.core.statistics import best_of_log10_p, clopper_pearson
from assay.core.suspects import Suspects
from assay.evidence.dna import METRICS, PROBES, label_distances, label_print
from assay.evidence.registry import Found, Registry
from assay.experiments.api import build
from assay.experiments.trace.suspect import Suspect, fitted, prints
from assay.experiments.trace.trace import ranked, within
from assay.experiments.trial import Trial
from assay.zoo.files import load_key, load_tensors

DNA_FPR, MARK_FPR, TOP = 0.1, 0.01, 5
"""What 27 strangers of one architecture support over two views; the exact tails of marks support any rate."""
REGISTERED = ("owner", "mate")


@dataclass(frozen=True)
class Row:
    """Ranks from 1 of the true owner, 0 where there is none or it is not among the first TOP; log10 p of the nearest entry by view,
    nan where nothing can be compared; dna, mark: what is claimed, and whether of the true owner."""

    suspect: str
    role: str
    attack: str
    registered: bool
    by_labels: int
    by_weights: int
    by_both: int
    labels_log10_p: float
    weights_log10_p: float
    dna: bool
    dna_right: bool
    mark: bool
    mark_right: bool


class Study:
    """A folder of models by benchmarks/tracing_models.py, and the registry of those that are registered."""

    def __init__(self, models: Path, folder: Path) -> None:
        self.models, self.folder = models, folder
        self.registry = Registry(folder, METRICS, create=True)
        # The same probes for whoever repeats this.
        write_atomically(folder / "secret", Secret.simulated(0, "registry").raw, private=True)
        self.trials: dict[str, Trial] = {}
        self.keys = dict(self._keys())

    def _keys(self) -> Iterator[tuple[str, tuple[Trial, Any]]]:
        for path in sorted((self.models / "keys").glob("owner-*.safetensors")):
            header = load_tensors(path, "key")[1]
            trial = self.trial(header, header["watermark"])
            yield path.stem, (trial, load_key(path, trial.watermark.key_type))

    def trial(self, header: dict[str, Any], scheme: dict[str, Any] | None = None) -> Trial:
        """One for each network and scheme: the split of a suspect's seed is not asked for."""
        model, scheme = header["model"], scheme or {"name": "none", "config": {}}
        name = f"{model['name']} {scheme['name']}"
        if name not in self.trials:
            width = f"model.width={model['config']['width']}"
            bits = [f"watermark.bits={scheme['config']['bits']}"] if "bits" in scheme["config"] else []
            words = f"model={model['name']}", width, f"watermark={scheme['name']}", *bits
            self.trials[name] = build("task=digits", *words)
        return self.trials[name]

    def suspect(self, path: Path) -> Suspect:
        tensors, header = load_tensors(path, "model")
        trial = self.trial(header)
        return Suspect(path.stem, path, trial, fitted(trial.task.fresh(None), tensors, path, trial))

    def files(self, *roles: str) -> list[Path]:
        return [p for p in sorted(self.models.glob("*.safetensors")) if p.stem.split("-")[0] in roles]

    def fill(self) -> None:
        """Owners' own models and their mates are entries, strangers strangers."""
        for path in self.files(*REGISTERED, "stranger"):
            role, *rest = path.stem.split("-")
            if role != "owner" or len(rest) == 1:
                one = self.suspect(path)
                stranger = role == "stranger"
                self.registry.add(path.stem, path.stem, prints(one, self.folder, True), {}, stranger)

    def rows(self) -> Iterator[Row]:
        """Every copy, every unregistered owner's model and every fresh one."""
        for path in self.files("owner", "other", "fresh"):
            role, number, *attack = path.stem.split("-")
            if role != "owner" or attack:
                named = "-".join(attack) if role != "fresh" else f"none ({number})"
                yield self.row(
                    self.suspect(path), role, f"owner-{number}" * (role == "owner"), named or "none"
                )

    def row(self, one: Suspect, role: str, truth: str, attack: str) -> Row:
        found = {p.view: self.registry.find(p, TOP) for p in prints(one, self.folder, False)}
        hits = [hit.entry.title for hit in ranked(self.registry, found, TOP)]
        by = {view: [self.registry.entry(m.number).title for m in f.matches] for view, f in found.items()}
        p = {
            view: nearest.matches[0].log10_p if nearest.matches else math.nan
            for view, nearest in found.items()
        }
        claim = self.claimed(found)
        mark = self.marked(one, hits)
        return Row(
            one.path.stem, role, attack, bool(truth),
            rank(by["labels"], truth), rank(by["weights"], truth), rank(hits, truth),
            p["labels"], p["weights"],
            claim is not None, claim == truth, mark is not None, mark == truth,
        )  # fmt: skip

    def claimed(self, found: dict[str, Found]) -> str | None:
        """The entry that DNA names at DNA_FPR, Bonferroni over the views."""
        compared = [nearest for nearest in found.values() if nearest.matches]
        best = min(compared, key=lambda nearest: nearest.matches[0].log10_p)
        if not within(best.matches[0].log10_p, len(compared), DNA_FPR):
            return None
        return self.registry.entry(best.matches[0].number).title

    def marked(self, one: Suspect, hits: list[str]) -> str | None:
        """The hit whose mark is in the suspect at MARK_FPR, corrected for all marks that are registered."""
        best, name = 0.0, None
        for title in (title for title in hits if title in self.keys):
            trial, key = self.keys[title]
            log10_p_MK = trial.watermark.score(Suspects([one.model]), [key]).log10_p_MK
            assert log10_p_MK is not None
            corrected = float(best_of_log10_p(log10_p_MK[0, 0], len(self.keys)))
            if corrected < best:
                best, name = corrected, title
        return name if best <= math.log10(MARK_FPR) else None


def rank(titles: list[str], truth: str) -> int:
    return titles.index(truth) + 1 if truth in titles else 0


def table(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """A line per attack and strength: of registered owners' copies how many are found, of others' how many are claimed."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.attack, []).append(row)
    return [{"attack": attack, **line(group)} for attack, group in groups.items()]


def line(group: list[Row]) -> dict[str, Any]:
    known, unknown = [r for r in group if r.registered], [r for r in group if not r.registered]
    out: dict[str, Any] = {"registered": len(known), "unregistered": len(unknown)}
    for view in ("labels", "weights", "both"):
        ranks = [getattr(r, f"by_{view}") for r in known]
        out |= {f"top1_{view}": sum(n == 1 for n in ranks), f"top5_{view}": sum(n > 0 for n in ranks)}
    out |= {"dna_right": sum(r.dna_right for r in known), "mark_right": sum(r.mark_right for r in known)}
    out["wrong"] = sum((r.dna and not r.dna_right) or (r.mark and not r.mark_right) for r in known)
    return out | {"false_dna": sum(r.dna for r in unknown), "false_mark": sum(r.mark for r in unknown)}


def measure(models: Path, out: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        study = Study(models, Path(folder))
        study.fill()
        rows = list(study.rows())
        entries, strangers = study.registry.counts()
    lines = table(rows)
    unknown = [row for row in rows if not row.registered]
    false = {name: sum(getattr(row, name) for row in unknown) for name in ("dna", "mark")}
    bounds = {name: clopper_pearson(count, len(unknown)) for name, count in false.items()}
    about: dict[str, Any] = {
        "entries": entries,
        "strangers": strangers,
        "dna_fpr": DNA_FPR,
        "mark_fpr": MARK_FPR,
        "suspects": len(rows),
    }
    about |= {"unregistered": len(unknown), "false": false, "interval_95": bounds}
    out.mkdir(parents=True, exist_ok=True)
    (out / "table.json").write_text(json.dumps({**about, "attacks": lines}, indent=1) + "\n")
    with (out / "suspects.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([field.name for field in fields(Row)])
        writer.writerows([[shown(getattr(row, f.name)) for f in fields(Row)] for row in rows])
    for found in lines:
        print(found)
    print(about)


def shown(value: Any) -> Any:
    if isinstance(value, bool):
        return int(value)
    return f"{value:.4f}" if isinstance(value, float) else value


def speed(count: int = 100_000, strangers: int = 20) -> None:
    """Labels of `count` models, ten classes: one suspect against all."""
    from measure import keep

    generator = torch.Generator().manual_seed(0)
    labels_XN = torch.randint(10, (count + strangers + 1, PROBES), generator=generator)
    made = [label_print(labels_N, 10, "digits") for labels_N in labels_XN]
    with tempfile.TemporaryDirectory() as folder:
        registry = Registry(Path(folder), METRICS, create=True)
        start = time.perf_counter()
        registry.extend((str(i), str(i), [made[i]], {}, False) for i in range(count))
        registry.extend((str(i), str(i), [made[i]], {}, True) for i in range(count, count + strangers))
        filled = time.perf_counter() - start
        seconds = [timed(lambda: registry.find(made[-1], TOP)) for _ in range(5)]
        contents = [one.content for one in made[:count]]
        alone = [timed(lambda: label_distances([made[-1].content], contents)) for _ in range(5)]
        size = registry.path.stat().st_size / 1e6
    keep(
        "tracing", models=count, strangers=strangers, probes=PROBES, registry_mb=round(size, 1),
        fill_seconds=round(filled, 1), find_cpu_seconds=float(np.median([c for c, _ in seconds])),
        find_seconds=float(np.median([w for _, w in seconds])),
        compare_cpu_seconds=float(np.median([c for c, _ in alone])),
    )  # fmt: skip


def timed(work: Any) -> tuple[float, float]:
    """CPU and wall seconds."""
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    return round(time.process_time() - cpu, 4), round(time.perf_counter() - wall, 4)


if __name__ == "__main__":
    if sys.argv[1] == "speed":
        speed()
    else:
        measure(Path(sys.argv[2]), Path(sys.argv[3]))
