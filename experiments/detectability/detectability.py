"""`assay detectability`: can a thief tell that a model is marked, and which queries verify it?

Weights: a property-inference classifier (after Wang and Kerschbaum, ICASSP 2019) learns moments of the layers of
models marked by this scheme, each beside its unmarked twin of the same seed. It is tested on pairs it has not seen; p is exact,
by swapping the twins. Queries: every detector of conf/detector ranks the owner's queries among as many test inputs.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...core.errors import ConfigError
from ...core.secret import seed_for
from ...core.statistics import Floats, auroc, auroc_interval
from ...core.theft import Detector
from ...kernels.weight_moments import weight_moments
from ..config import CONF, content_of
from ..people import NOBODY, clean, marked_by, owner
from ..trial import Trial, built

PERMUTATIONS = 199  # p >= 1/200


@dataclass(frozen=True)
class Found:
    """auc: 0.5 is undetectable. low, high: 95 % (DeLong) for queries. p: exact, by swapping twins, for weights."""

    detector: str
    sees: str
    count: int
    auc: float
    low: float | None = None
    high: float | None = None
    p: float | None = None


def detectable(trial: Trial, pairs: int) -> Iterator[Found]:
    """What each detector finds. Two models are trained per pair, unless the cache has them."""
    if pairs < 4:
        raise ConfigError(f"expected at least 4 pairs of models, got {pairs}; set --models")
    if trial.watermark.embeds:
        yield of_weights(trial, pairs)
    yield from of_queries(trial)


def of_weights(trial: Trial, pairs: int) -> Found:
    """Leave one pair out: a logistic regression on all other pairs scores both twins."""
    features_P2F = np.stack([np.stack([features(m) for m in twins(trial, i)]) for i in range(pairs)])
    concordance, scores_P2 = left_out(features_P2F)
    rng = np.random.default_rng(seed_for(trial.seed, "swaps") % 2**32)
    exceed = 0
    for _ in range(PERMUTATIONS):
        swap_P = rng.integers(2, size=pairs).astype(bool)
        swapped = np.where(swap_P[:, None, None], features_P2F[:, ::-1], features_P2F)
        exceed += left_out(swapped)[0] >= concordance
    p = (1 + exceed) / (1 + PERMUTATIONS)
    return Found("property inference", "weights", pairs, auroc(scores_P2[:, 1], scores_P2[:, 0]), p=p)


def twins(trial: Trial, number: int) -> tuple[nn.Module, nn.Module]:
    """An unmarked model and its marked twin of one seed: the same data, initialisation and order."""
    seed = NOBODY + number
    task = trial.settings.task.load(trial.settings.model, seed)
    return clean(trial, seed, task)[0], marked_by(trial, task, seed, 0).marked


def features(model: nn.Module) -> Floats:
    """(F,) log standard deviation, skewness, log kurtosis of every layer's weights, and of their mean over outputs."""
    weights = [p.detach() for p in model.parameters() if p.ndim > 1]
    means = [w.flatten(1).mean(0) for w in weights]
    rows = weight_moments([t.float() for t in (*weights, *means) if t.numel() > 1])
    variance, m3, m4 = (m / rows.count_N for m in (rows.m2_N, rows.m3_N, rows.m4_N))
    variance = variance.clamp_min(1e-30)
    table = torch.stack((variance.log() / 2, m3 / variance**1.5, (m4 / variance**2).clamp_min(1e-30).log()))
    return table.nan_to_num().double().numpy().reshape(-1)


def left_out(features_P2F: Floats) -> tuple[float, Floats]:
    """The share of pairs whose marked twin, index 1, scores higher when the classifier has not seen the pair (ties half), and all
    scores (P, 2)."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    pairs = len(features_P2F)
    scores_P2 = np.empty((pairs, 2))
    for i in range(pairs):
        others = np.delete(features_P2F, i, 0)
        classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.1))
        classifier.fit(others.reshape(-1, others.shape[-1]), np.tile([0, 1], pairs - 1))
        scores_P2[i] = classifier.decision_function(features_P2F[i])
    difference = scores_P2[:, 1] - scores_P2[:, 0]
    return float((difference > 0).mean() + (difference == 0).mean() / 2), scores_P2


def of_queries(trial: Trial) -> Iterator[Found]:
    """A stream of the owner's queries and as many test inputs, as the marked model's thief would see it. ConfigError for a thief
    without data."""
    mine, his = owner(trial, "owner"), trial.thiefs_data()
    queries = trial.watermark.verification_inputs(mine.key)
    if queries is None:
        return
    if not len(his):
        raise ConfigError(
            "detectors compare queries with the thief's data, and he has none; set adversary.data=1.0"
        )
    generator = torch.Generator().manual_seed(seed_for(trial.seed, "stream"))
    picks = torch.randperm(len(trial.task.test), generator=generator)[: len(queries)]
    stream = torch.cat((queries, trial.task.test.inputs[picks]))
    for name, detector in detectors().items():
        found = detector.suspicion(mine.marked, stream, his, seed_for(trial.seed, name))
        yield _found(name, found, len(queries))


def _found(name: str, suspicion_N: Tensor, count: int) -> Found:
    owners, customers = suspicion_N[:count].numpy(), suspicion_N[count:].numpy()
    low, high = auroc_interval(owners, customers)
    return Found(name, "queries", count, auroc(owners, customers), low, high)


def detectors() -> dict[str, Detector]:
    """All of conf/detector, with their defaults."""

    paths = sorted((CONF / "detector").glob("*.yaml"))
    return {path.stem: built(content_of(path), f"detector.{path.stem}") for path in paths}


def summary(trial: Trial, found: Sequence[Found]) -> dict[str, Any]:
    """What is stored: choices, settings and results."""
    if not found:
        name = trial.spec.choices["watermark"]
        raise ConfigError(f"{name} changes no weights and sends no queries of its own: nothing to detect")
    return {
        "choices": trial.spec.choices,
        "seed": trial.seed,
        "config": trial.spec.identity()["config"],
        "found": [asdict(one) for one in found],
    }
