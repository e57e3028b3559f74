"""The null loop: M models x K trigger keys x 10 prefix lengths, one forward per model over the union of triggers, against one
`score` call per cell. Chosen keys share their pictures (the labels differ); derived keys share nothing."""

from functools import partial
from typing import Literal

import torch
from measure import interleaved, keep, ratio
from torch import Tensor

from assay.core.secret import Secret
from assay.core.suspects import Suspects
from assay.experiments.api import build
from assay.watermarks.adi import Adi
from assay.watermarks.trigger import TriggerKey, hits_at_lengths

MODELS, KEYS, ROUNDS = 4, 25, 3
LENGTHS = tuple(range(10, 101, 10))


def cell_by_cell(suspects: Suspects, keys: list[TriggerKey], classes: int) -> Tensor:
    out = torch.empty(len(suspects), len(keys), len(LENGTHS), dtype=torch.int64)
    for p, length in enumerate(LENGTHS):
        scheme = Adi(derivation="derived", triggers=length)
        for k, key in enumerate(keys):
            short = TriggerKey(key.secret, classes, key.images_T[:length], key.labels_T[:length])
            for m, model in enumerate(suspects.models):
                out[m, k, p] = int(scheme.score(Suspects([model]), [short]).statistic_MK[0, 0])
    return out


def main() -> None:
    trial = build("watermark=adi", "trainer.progress=false")
    task = trial.task
    suspects = Suspects([task.fresh(seed).eval() for seed in range(MODELS)])
    found = {}
    derivations: tuple[Literal["chosen", "derived"], ...] = ("chosen", "derived")
    for derivation in derivations:
        scheme = Adi(derivation=derivation)
        keys = [scheme.keygen(task, Secret.simulated(0, k)) for k in range(KEYS)]
        assert torch.equal(
            hits_at_lengths(suspects, keys, LENGTHS), cell_by_cell(suspects, keys, task.classes)
        )
        ways = {
            "cells": partial(cell_by_cell, suspects, keys, task.classes),
            "union": partial(hits_at_lengths, suspects, keys, LENGTHS),
        }
        seconds = interleaved(ways, ROUNDS)
        found[derivation] = {"times_fewer_cpu_seconds": ratio(seconds, "cells", "union"), "seconds": seconds}
    shown = {f"{name}_ratio": value["times_fewer_cpu_seconds"] for name, value in found.items()}
    keep("null_loop", **shown, **found, what=f"{MODELS} models, {KEYS} keys, lengths {LENGTHS}")


if __name__ == "__main__":
    main()
