"""Monitors: their size on honest customers, what each computes, and that no split of a stream into requests changes it."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, shapiro
from torch import Tensor, nn

from assay.core.contracts import Task
from assay.core.errors import ConfigError
from assay.core.examples import Examples
from assay.core.secret import seed_for
from assay.deployments.book import Asked
from assay.deployments.customers import KINDS, MOST, Customer, by_kind, customers, drawn, pools
from assay.deployments.home import Home
from assay.deployments.mmd import Mmd, Ordinary, discrepancy
from assay.deployments.monitors import Monitor, exact_quantile
from assay.deployments.nearest import Nearest
from assay.deployments.prada import Growing, Prada, inside, normality, of_common_classes
from assay.deployments.rate import Rate
from assay.zoo.data import digits
from assay.zoo.models import CnnSmall
from assay.zoo.tasks import Digits

MONITORS = (Rate(), Prada(every=50), Mmd(every=25), Nearest())
NAMES = [type(monitor).__name__ for monitor in MONITORS]
LAYER = nn.Linear(64, 10)
TEMPLATES = nn.Sequential(nn.Flatten(), LAYER).eval()
"""The nearest mean of a class: a model that needs no training."""
with torch.no_grad():
    _means = torch.stack([digits().inputs[digits().targets == c].mean(0).flatten() for c in range(10)])
    LAYER.weight.copy_(_means)
    LAYER.bias.copy_(-_means.square().sum(1) / 2)
POOL = digits().take(slice(600, None))
REFERENCE = digits().inputs[:600]


def asked(rows: Tensor, at: float = 0.0, labels: Tensor | None = None) -> Asked:
    own = torch.zeros(len(rows), dtype=torch.int64) if labels is None else labels
    return Asked(rows, own, torch.full((len(rows),), at, dtype=torch.float64))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    values=st.lists(st.floats(-5, 5), min_size=20, max_size=40), rate=st.sampled_from([0.05, 0.1, 0.25, 0.5])
)
def test_of_exchangeable_values_at_most_the_rate_lies_above_the_others_threshold(
    values: list[float], rate: float
) -> None:
    """Each in turn is the further one: an exact statement, whatever the values."""
    above = 0
    for i, value in enumerate(values):
        others = torch.tensor(values[:i] + values[i + 1 :], dtype=torch.float64)
        above += value > exact_quantile(others, rate)
    assert above <= rate * len(values) + 1e-9


def test_the_quantile_is_the_rank_that_it_says() -> None:
    values = torch.arange(1, 100, dtype=torch.float64)[
        torch.randperm(99, generator=torch.Generator().manual_seed(0))
    ]
    assert exact_quantile(values, 0.05) == 95
    assert exact_quantile(values, 0.01) == 99
    assert exact_quantile(torch.arange(1.0, 20.0), 0.05) == 19


@pytest.mark.parametrize("monitor", MONITORS, ids=NAMES)
def test_honest_customers_are_accused_at_the_declared_rate(monitor: Monitor) -> None:
    """12 of each kind set the threshold, 12 others judge it, twice: given the threshold, each of 72 is accused with the probability
    that lies above the 70th of 72 uniform order statistics, a beta law."""
    known = monitor.learnt(REFERENCE)
    accused = 0
    for seed in range(2):
        found = customers(POOL, TEMPLATES, 24, seed)
        largest_U = monitor.largest(known, found)
        half = len(found) // 2
        threshold = monitor.threshold(found[:half], largest_U[:half])
        accused += int((largest_U[half:] > threshold).sum())
    assert accused <= most_accused(2)


def most_accused(rounds: int) -> float:
    rng = np.random.default_rng(0)
    rates = rng.beta(72 + 1 - 70, 70, size=(20_000, rounds))
    return float(np.quantile(rng.binomial(72, rates).sum(1), 0.9999))


def scarce(seed: int) -> Task:
    """Digits with 60 pictures in the test split, a tenth of the second half of the owner's."""
    task = Digits().load(CnnSmall(width=4), seed)
    return replace(task, test=task.test.take(slice(60)))


def test_both_pools_hold_as_many_pictures_of_every_class() -> None:
    task = scarce(0)
    own, other = pools(task)
    assert own.targets.bincount(minlength=10).tolist() == other.targets.bincount(minlength=10).tolist()
    half = task.owner.take(slice(len(task.owner) // 2, None))
    for pool, whole in ((own, half), (other, task.test)):
        names = [row.numpy().tobytes() for row in whole.inputs]
        places = [names.index(row.numpy().tobytes()) for row in pool.inputs]
        assert places == sorted({*places}), "each once, in order"
        assert torch.equal(pool.targets, whole.targets[places])
    assert len(other) == 60, "the half has more of every class"


def test_customers_with_fewer_pictures_are_accused_at_the_declared_rate() -> None:
    """The smaller pool's come again and again, as near duplicates; PRADA sees that. Uncut, 50 of 288 were accused; cut, 6."""
    monitor, accused = Prada(every=50), {"cut": 0, "uncut": 0}
    for seed in range(4):
        task = scarce(seed)
        uncut = task.owner.take(slice(len(task.owner) // 2, None)), task.test
        for name, (own, other) in {"cut": pools(task), "uncut": uncut}.items():
            found, further = (
                customers(pool, TEMPLATES, 12, 2 * seed + i) for i, pool in enumerate((own, other))
            )
            threshold = monitor.threshold(found, monitor.largest(None, found))
            accused[name] += int((monitor.largest(None, further) > threshold).sum())
    assert accused["cut"] <= most_accused(4) < accused["uncut"]


def test_narrow_customers_are_protected_when_every_kind_is() -> None:
    """The mixture's threshold accuses few customers in all, and those are of a narrow kind."""
    found, monitor = customers(POOL, TEMPLATES, 40, 7), Mmd(every=25)
    largest_U = monitor.largest(monitor.learnt(REFERENCE), found)
    half = len(found) // 2
    own, own_U, other_U = found[:half], largest_U[:half], largest_U[half:]
    mixed = monitor.threshold(own, own_U)
    every = Mmd(every=25, protects="every_kind").threshold(own, own_U)
    accused = {kind: int((own_U[places] > mixed).sum()) for kind, places in by_kind(own).items()}
    assert sum(accused.values()) <= 6
    assert max(accused.values()) >= 2 * 0.05 * 20 > 20 * 0.05 > accused["everyday"]
    assert every == max(exact_quantile(own_U[places], 0.05) for places in by_kind(own).values()) > mixed
    for kind, places in by_kind(found[half:]).items():
        count = int((other_U[places] > every).sum())
        assert binom.sf(count - 1, 20, 0.05) > 1e-4, kind


def test_too_few_customers_support_no_rate() -> None:
    found = customers(POOL, TEMPLATES, 2, 0)
    largest_U = torch.zeros(len(found), dtype=torch.float64)
    with pytest.raises(
        ConfigError, match=r"takes 19 customers in all, got 12; set deployment\.monitor\.per_kind=4"
    ):
        Rate().threshold(found, largest_U)
    with pytest.raises(ConfigError, match=r"takes 3 customers of every kind, got 2; set .*per_kind=3"):
        Rate(fpr=0.25, protects="every_kind").threshold(found, largest_U)
    assert Rate(fpr=0.1).threshold(found, largest_U) == 0


def test_a_watch_is_calibrated_on_the_owners_data_alone() -> None:
    """The first half of it says what is ordinary, customers ask about the second, and the further ones, who are judged, about the
    test split; their draw follows the seed of the deployment."""
    task, monitor = scarce(0), Rate(fpr=0.25, per_kind=1)
    heard: list[list[Customer]] = []

    class Listening(Rate):
        def largest(self, known: Any, found: Sequence[Customer]) -> Tensor:
            heard.append(list(found))
            return torch.zeros(len(found), dtype=torch.float64)

    for seed in (0, 1):
        Listening(fpr=0.25, per_kind=1).calibrated(Home(task, TEMPLATES, cast(Any, None), seed))
    expected = customers(pools(task)[0], TEMPLATES, 1, seed_for(0, "customers"))
    streams = [[one.inputs for who in found for one in who.requests] for found in (*heard, expected)]
    assert all(map(torch.equal, streams[0], streams[2]))
    assert not all(map(torch.equal, streams[0], streams[1]))
    half = task.owner.inputs[: len(task.owner) // 2]
    assert torch.equal(monitor.reference_of(Home(task, TEMPLATES, cast(Any, None), 0)), half)


def cut(whole: Asked, sizes: list[int]) -> Iterator[Asked]:
    start = 0
    for size in [*sizes, len(whole.inputs)]:
        stop = start + size
        yield Asked(whole.inputs[start:stop], whole.labels[start:stop], whole.hours[start:stop])
        start = stop


@pytest.mark.parametrize("monitor", MONITORS, ids=NAMES)
@settings(max_examples=4, deadline=None, derandomize=True)
@given(sizes=st.lists(st.integers(0, 60), max_size=6))
def test_requests_may_be_cut_anywhere(monitor: Monitor, sizes: list[int]) -> None:
    rows = drawn(POOL.inputs, 180, torch.Generator().manual_seed(3))
    whole = Asked(rows, torch.arange(180) % 10, torch.arange(180).double() / 4)
    known = monitor.learnt(REFERENCE)
    one = monitor.suspicion(known, [whole])
    assert one.dtype == torch.float64
    assert one.shape == (180,)
    watcher = monitor.watcher(known)
    assert torch.allclose(one, torch.cat([watcher.see(part) for part in cut(whole, sizes)]), atol=1e-12)


def test_rate_counts_the_samples_of_its_hours() -> None:
    watcher = Rate(hours=10.0).watcher(None)
    rows = torch.zeros(3, 1)
    assert watcher.see(asked(rows, 0.0)).tolist() == [1, 2, 3]
    assert watcher.see(asked(rows[:2], 9.0)).tolist() == [4, 5]
    assert watcher.see(asked(rows[:1], 10.0)).tolist() == [3], "10 hours ago is past"
    assert watcher.see(asked(rows[:0], 11.0)).tolist() == []
    assert watcher.see(asked(rows[:1], 99.0)).tolist() == [1]
    assert watcher.see(asked(rows[:1], 50.0)).tolist() == [2], "a clock that is set back stands still"


def test_prada_s_set_grows_by_what_is_far() -> None:
    """By hand: distances joined 0, 1, 2 have mean 1 and standard deviation 0.816."""
    growing = Growing(np.array([[0.0]]))
    assert growing.distance(np.array([1.0])) == 1
    assert growing.bar == 0
    assert growing.distance(np.array([3.0])) == 2
    assert growing.bar == pytest.approx(1 - math.sqrt(2 / 3))
    assert growing.distance(np.array([3.1])) == pytest.approx(0.1)
    assert len(growing.rows) == 3, "too near to join"
    assert growing.distance(np.array([3.1])) == pytest.approx(0.1)


def test_prada_tells_drawn_distances_from_made_ones() -> None:
    rng = np.random.default_rng(1)
    normal = rng.normal(3, 0.5, 150)
    assert normality(normal) == shapiro(normal).statistic
    assert inside(np.append(normal, 1e6)).tolist() == normal.tolist(), "beyond three deviations"
    assert normality(np.full(120, 2.0)) == 1
    made = np.concatenate((normal[:75], np.full(75, 0.8) + rng.normal(0, 0.001, 75)))
    assert normality(made) < 0.9 < normality(normal)


def test_prada_is_silent_before_it_has_distances_enough() -> None:
    rows = drawn(POOL.inputs, 130, torch.Generator().manual_seed(0))
    found = Prada(least=100, every=1).suspicion(None, [asked(rows)])
    assert found[:101].tolist() == [0.0] * 101
    assert (found[104:] > 0).any()


def test_prada_leaves_classes_out_that_have_few_distances() -> None:
    """The official code's: of 21 classes with 9 distances each there are more than 100, and no verdict; one more of each, and there
    is one."""
    found = [(1, 0.5)] * 9 + [(2, float(d)) for d in range(10)]
    assert of_common_classes(found).tolist() == [float(d) for d in range(10)]
    rows = drawn(POOL.inputs, 231, torch.Generator().manual_seed(0))
    suspicion = Prada(every=1).suspicion(None, [asked(rows, labels=torch.arange(231) % 21)])
    assert (suspicion[:210] == 0).all()
    assert suspicion[-1] > 0


def test_prada_counts_its_distances_when_outliers_are_gone() -> None:
    """102 queries of a class have 101 distances; one lies far off, and the hundred others are too few."""
    rows = drawn(POOL.inputs, 110, torch.Generator().manual_seed(0))
    rows[50] = 100.0
    found = Prada(every=1).suspicion(None, [asked(rows)])
    assert (found[:102] == 0).all()
    assert found[-1] > 0


def test_steps_from_seeds_raise_prada_s_alarm_and_ordinary_queries_do_not() -> None:
    """Half of the queries are steps of one length from the other half, as Jacobian augmentation makes them."""
    generator = torch.Generator().manual_seed(5)
    seeds = drawn(POOL.inputs, 150, generator)
    steps = (seeds + 0.1 * torch.randn(seeds.shape, generator=generator).sign()).clamp(0, 1)
    monitor = Prada(every=25)
    own = TEMPLATES(seeds).argmax(1)
    found = customers(POOL, TEMPLATES, 10, 11)
    threshold = monitor.threshold(found, monitor.largest(None, found))
    honest, stolen = asked(seeds, labels=own), asked(steps, labels=own)
    assert not (monitor.suspicion(None, [honest]) > threshold).any()
    above = monitor.suspicion(None, [honest, stolen]) > threshold
    assert above.any()
    assert not above[:150].any()


def test_mmd_is_what_gretton_defines() -> None:
    rows = torch.tensor([[0.0], [1.0], [3.0]], dtype=torch.float64)
    ordinary = Mmd(size=2).learnt(rows)
    assert ordinary.width == 2, "of the distances 1, 2, 3"
    window = torch.tensor([[0.0], [2.0]], dtype=torch.float64)

    def k(x: float, y: float) -> float:
        return math.exp(-((x - y) ** 2) / 8)

    pairs = [
        [k(x, y) for y in b]
        for a, b in (((0, 2), (0, 2)), ((0, 1, 3), (0, 1, 3)), ((0, 2), (0, 1, 3)))
        for x in a
    ]
    own, within, across = np.mean(pairs[:2]), np.mean(pairs[2:5]), np.mean(pairs[5:])
    assert discrepancy(window, ordinary) == pytest.approx(own + within - 2 * across)
    assert discrepancy(rows, ordinary) == pytest.approx(0, abs=1e-12)
    assert isinstance(ordinary, Ordinary)


def test_nearest_counts_queries_near_an_earlier_one() -> None:
    watcher = Nearest().watcher(0.5)
    assert watcher.see(asked(torch.tensor([[0.0], [2.0], [2.4], [4.0]]))).tolist() == [0, 0, 1, 1]
    assert watcher.see(asked(torch.tensor([[4.5], [4.49], [9.0]]))).tolist() == [1, 2, 2], (
        "0.5 is not within 0.5"
    )
    reference = torch.arange(101.0)[:, None] ** 2
    assert Nearest(share=0.5).learnt(reference) == pytest.approx(99.0)


def test_customers_are_what_their_kind_says() -> None:
    found = customers(POOL, TEMPLATES, 3, 5)
    assert [one.kind for one in found] == [*KINDS] * 3
    again = customers(POOL, TEMPLATES, 4, 5)[: len(found)]
    assert all(same(one, other) for one, other in zip(found, again[:1], strict=False))
    labels = {pixels.numpy().tobytes(): int(c) for pixels, c in zip(POOL.inputs, POOL.targets, strict=True)}
    for one in found:
        rows = torch.cat([request.inputs for request in one.requests])
        times = torch.cat([request.hours for request in one.requests]).tolist()
        assert times == sorted(times)
        assert 30 <= len(rows) <= MOST
        assert 0 <= rows.min() <= rows.max() <= 1
        assert len(one.requests) == (3 if one.kind == "bursty" else len(rows))
        known = [labels.get(row.numpy().tobytes()) for row in rows]
        if one.kind in ("everyday", "bursty"):
            assert len({row.numpy().tobytes() for row in rows}) == len(rows)
            assert len({*known} - {None}) > 5
        if one.kind == "two_classes":
            assert len({*known} - {None}) <= 2
        nearest = torch.cdist(rows.flatten(1), rows.flatten(1)).fill_diagonal_(torch.inf).amin(1)
        assert (one.kind == "frames") == bool(nearest.median() < 0.6), one.kind


def same(one: Customer, other: Customer) -> bool:
    return one.kind == other.kind and len(one.requests) == len(other.requests)


def test_pictures_come_again_only_when_all_were_asked() -> None:
    generator = torch.Generator().manual_seed(0)
    few = Examples(POOL.inputs[:5], POOL.targets[:5])
    found = drawn(few.inputs, 12, generator)
    assert {row.numpy().tobytes() for row in found[:5]} == {row.numpy().tobytes() for row in few.inputs}
    again = torch.cdist(found[5:].flatten(1), few.inputs.flatten(1)).amin(1)
    assert (again > 0).all()
    assert (again < 0.5).all()
    assert len(drawn(few.inputs, 0, generator)) == 0
