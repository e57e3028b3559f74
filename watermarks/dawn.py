"""A keyed share of an API's answers is wrong on purpose, and a thief's model repeats it (DAWN: Szyller et al., MM 2021,
arXiv:1906.00830). Nothing is trained.

HMAC over the binarised input decides whether an answer is shuffled and to which class, so that equal and almost equal inputs get
equal answers. The owner goes to court with the ledger's shuffled queries.

The null is exact. Let f be a suspect that does not depend on the key, y the model's own label of a query and y + s mod C the
shuffled one. Whatever f and y are, s is uniform over 1..C-1 and independent between inputs of different digests; so of the m
selected queries where f differs from y, the number of replays is exactly Bin(m, 1 / (C - 1)). It holds for the owner's key and for
strangers' alike, each with its own m, and needs that the owner did not choose the queries.

Suffixes: M suspects, K keys, N queries, T selected queries, C classes.
"""

import hmac
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
import torch
from annotated_types import Gt, Le
from torch import Tensor, nn

from ..core.contracts import Fit, Task, Watermark
from ..core.errors import NotApplicable
from ..core.examples import Ledger
from ..core.key import Key
from ..core.scores import Scores
from ..core.secret import Secret
from ..core.statistics import binomial_log10_p
from ..core.suspects import Suspects
from ..kernels.row_labels import row_labels
from .trigger import to_grey_levels


@dataclass(frozen=True, eq=False)
class DawnKey(Key):
    """median (C, H, W) uint8, above which a pixel's bit is 1; from the ledger: images_T (T, C, H, W) uint8, own_T (T,) the model's
    labels, and labels_T (T,) as answered. No queries before `settle`."""

    classes: int
    median: Tensor
    images_T: Tensor
    own_T: Tensor
    labels_T: Tensor


def keyed(secret: Secret, binary_ND: Tensor) -> list[bytes]:
    """HMAC-SHA256 of each row of bits (N, D) bool."""
    key = secret.derive("dawn/hmac", 32)
    packed = np.packbits(binary_ND.numpy(), axis=1)
    return [hmac.digest(key, row.tobytes(), "sha256") for row in packed]


def choice(digest: bytes, rate: float, classes: int) -> int:
    """0: the answer stays. Else the shift s of the label, uniform over 1..C-1 (to 2^-124): the digest's first half decides whether,
    the second half which."""
    if int.from_bytes(digest[:16], "big") >= rate * 2.0**128:
        return 0
    return 1 + int.from_bytes(digest[16:], "big") % (classes - 1)


def shuffled(scores_NC: Tensor, shift_N: Tensor) -> Tensor:
    """Rows whose shift is not 0 trade the best class's score with that of the class so many further."""
    best_N = row_labels(scores_NC)
    rows = torch.nonzero((shift_N > 0) & (best_N >= 0))[:, 0]
    best, other = best_N[rows], (best_N[rows] + shift_N[rows]) % scores_NC.shape[1]
    out_NC = scores_NC.clone()
    out_NC[rows, best], out_NC[rows, other] = scores_NC[rows, other], scores_NC[rows, best]
    return out_NC


@dataclass(frozen=True)
class Dawn(Watermark):
    family = "output"
    reads = "labels"
    derivation = "derived"
    nulls = ("random_keys", "independent_models")
    paper = "Szyller et al., ACM Multimedia 2021, arXiv:1906.00830"
    key_type = DawnKey
    embeds = False
    answers = True

    rate: Annotated[float, Gt(0), Le(1)] = 0.02
    """Share of answers shuffled. Below 0.005 in the paper, whose thieves ask 50,000 times; those of digits ask 300 times."""

    def keygen(
        self, task: Task, secret: Secret, model: nn.Module | None = None, fit: Fit | None = None
    ) -> DawnKey:
        """The medians are those of the owner's data, pixel by pixel, where the paper binarises a hidden layer: the answer must not
        depend on the model's weights, which the gateway may keep elsewhere."""
        if task.classes < 3:
            raise NotApplicable(f"{task.classes} classes leave a shuffled label no choice; dawn needs 3")
        median = to_grey_levels(task.owner.inputs.median(0).values)
        none = torch.empty(0, dtype=torch.int64)
        return DawnKey(
            secret, task.classes, median, torch.empty(0, *task.shape, dtype=torch.uint8), none, none
        )

    def embed(self, model: nn.Module, key: DawnKey, task: Task, fit: Fit) -> nn.Module:
        return fit(task.fresh(None), task.owner, label="victim")

    def answer(self, key: DawnKey, inputs: Tensor, scores: Tensor, ledger: Ledger) -> Tensor:
        ledger.own.append(scores.clone())
        shifts = [choice(d, self.rate, key.classes) for d in self.digests(key, inputs)]
        return shuffled(scores, torch.tensor(shifts, dtype=torch.int64))

    def digests(self, key: DawnKey, inputs: Tensor) -> list[bytes]:
        return keyed(key.secret, (to_grey_levels(inputs) > key.median).flatten(1))

    def settle(self, key: DawnKey, ledger: Ledger) -> DawnKey:
        """The queries this key's HMAC selects, each digest once, labelled as it would have answered. Any key reads any ledger:
        the model's own answers stand in it. ValueError for a ledger without them."""
        if not ledger.inputs:
            return key
        asked = ledger.examples()
        if len(asked) != sum(map(len, ledger.own)):
            raise ValueError(
                f"the ledger has {len(asked)} answers and {sum(map(len, ledger.own))} of the model's own; "
                "dawn settles only the ledger of an API that it answered"
            )
        own_N = row_labels(torch.cat(ledger.own))
        first: dict[bytes, int] = {}
        for n, digest in enumerate(self.digests(key, asked.inputs)):
            first.setdefault(digest, n)
        shift = {n: choice(digest, self.rate, key.classes) for digest, n in first.items() if own_N[n] >= 0}
        chosen = torch.tensor([n for n, s in shift.items() if s], dtype=torch.int64)
        shift_T = torch.tensor([s for s in shift.values() if s], dtype=torch.int64)
        return replace(
            key,
            images_T=to_grey_levels(asked.inputs[chosen]),
            own_T=own_N[chosen],
            labels_T=(own_N[chosen] + shift_T) % key.classes,
        )

    def score(self, suspects: Suspects, keys: Sequence[DawnKey]) -> Scores:
        """Replayed labels; nan for a key without queries. The trials differ by cell, so `trials` is None."""
        labels_MU = suspects.labels(torch.cat([key.images_T for key in keys]).float() / 255)
        shape = (len(suspects), len(keys))
        statistic_MK, log10_p_MK = np.full(shape, np.nan), np.zeros(shape)
        columns = labels_MU.split([len(key.images_T) for key in keys], 1)
        for k, (key, labels_MT) in enumerate(zip(keys, columns, strict=True)):
            if not len(key.images_T):
                continue
            replays_M = (labels_MT == key.labels_T).sum(1).tolist()
            differing_M = (labels_MT != key.own_T).sum(1).tolist()
            statistic_MK[:, k] = replays_M
            cells = zip(replays_M, differing_M, strict=True)
            log10_p_MK[:, k] = [float(binomial_log10_p(h, m, 1 / (key.classes - 1))) for h, m in cells]
        return Scores(statistic_MK, "replayed labels", None, log10_p_MK)
