"""Small whole numbers have exact sums in any order, so tokens and ranks are asked to be equal; real numbers to their rounding."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from assay.kernels import head_argmax as module
from assay.kernels.head_argmax import Readout, head_argmax, head_argmax_reference, head_argmax_triton

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
INF, NAN = math.inf, math.nan
repeatable = settings(deadline=None, derandomize=True, max_examples=8)
Way = Callable[..., Readout]


def kernel(hidden_ND: Tensor, head_VD: Tensor, target_N: Tensor, bias_V: Tensor | None = None) -> Readout:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    given = [x.to(device) if x is not None else None for x in (hidden_ND, head_VD, target_N, bias_V)]
    hidden_ND, head_VD, target_N, bias_V = given  # type: ignore[assignment]
    return Readout(*(part.cpu() for part in head_argmax_triton(hidden_ND, head_VD, target_N, bias_V)))


WAYS = pytest.mark.parametrize("way", [head_argmax, kernel], ids=["cpu", "kernel"])


def whole(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0, most: int = 3) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(-most, most + 1, shape, generator=draw).to(dtype)


def ids(N: int, V: int, seed: int = 0) -> Tensor:
    """Targets, one in eight of them none."""
    draw = torch.Generator().manual_seed(seed + 1)
    none_N = torch.rand(N, generator=draw) < 0.125
    return torch.randint(V, (N,), generator=draw).masked_fill(none_N, -1)


def same(found: Readout, expected: Readout) -> None:
    """Whole numbers and logits equal; logarithms to float32."""
    assert [part.dtype for part in found] == [torch.int64, *[torch.float32] * 3, torch.int64]
    assert torch.equal(found.token_N, expected.token_N)
    assert torch.equal(found.rank_N, expected.rank_N)
    torch.testing.assert_close(found.logit_N.double(), expected.logit_N, rtol=0, atol=0, equal_nan=True)
    for name in ("logsumexp_N", "log_prob_N"):
        a, b = getattr(found, name).double(), getattr(expected, name)
        torch.testing.assert_close(a, b, rtol=2e-6, atol=2e-6, equal_nan=True)


# --- the definition


def test_the_definition_on_a_line() -> None:
    """Logits 2, 5, 5, -1, 5: of the three best 1 is first; 4 has two before it, and nobody comes before himself."""
    head_V1 = torch.tensor([[2.0], [5], [5], [-1], [5]])
    target_N = torch.tensor([0, 1, 2, 3, 4, -1])
    found = head_argmax_reference(torch.ones(6, 1), head_V1, target_N)
    assert found.token_N.tolist() == [1] * 6
    assert found.rank_N.tolist() == [3, 0, 1, 4, 2, -1]
    total = math.log(math.exp(2) + 3 * math.exp(5) + math.exp(-1))
    assert found.logsumexp_N.tolist() == pytest.approx([total] * 6)
    assert found.log_prob_N[:5].tolist() == pytest.approx([x - total for x in (2, 5, 5, -1, 5)])
    assert found.log_prob_N[5].isnan()


@pytest.mark.parametrize("V", [1, 7, 31])
def test_the_definition_by_counting(V: int) -> None:
    hidden_ND, head_VD, bias_V, target_N = whole(12, 3), whole(V, 3, seed=1), whole(V, seed=2), ids(12, V)
    found = head_argmax_reference(hidden_ND, head_VD, target_N, bias_V)
    for n, (h, t) in enumerate(zip(hidden_ND.tolist(), target_N.tolist(), strict=True)):
        logits = [
            sum(a * b for a, b in zip(h, w, strict=True)) + bias
            for w, bias in zip(head_VD.tolist(), bias_V.tolist(), strict=True)
        ]
        order = sorted(range(V), key=lambda v: (-logits[v], v))
        assert found.token_N[n] == order[0]
        assert found.logit_N[n] == logits[order[0]]
        assert found.rank_N[n] == (order.index(t) if t >= 0 else -1)


# --- both ways against it


@WAYS
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("N", "V", "D"),
    [(1, 1, 1), (7, 31, 5), (31, 129, 64), (129, 1000, 64), (16, 128, 128), (17, 257, 32), (3, 7, 200)],
)
def test_whole_numbers_exactly(way: Way, N: int, V: int, D: int, dtype: torch.dtype) -> None:
    hidden_ND, head_VD = whole(N, D, dtype=dtype, seed=N), whole(V, D, dtype=dtype, seed=V)
    target_N, bias_V = ids(N, V), whole(V, dtype=dtype, seed=D)
    same(way(hidden_ND, head_VD, target_N), head_argmax_reference(hidden_ND, head_VD, target_N))
    same(
        way(hidden_ND, head_VD, target_N, bias_V),
        head_argmax_reference(hidden_ND, head_VD, target_N, bias_V),
    )


@WAYS
def test_a_vocabulary_of_128256(way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    """In tiles of 2,048 tokens, of which the interpreter needs 63; of 64 it would need half a minute."""
    if not torch.cuda.is_available():
        monkeypatch.setitem(module.FULL, "few", (16, 2048, 32, 4, 3, 80))
    hidden_ND, head_VD = whole(3, 32), whole(128_256, 32, seed=1)
    target_N = torch.tensor([128_255, 0, 77_777])
    same(way(hidden_ND, head_VD, target_N), head_argmax_reference(hidden_ND, head_VD, target_N))


@WAYS
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("D", [64, 100])
def test_real_numbers_to_their_rounding(way: Way, D: int, dtype: torch.dtype) -> None:
    """What differs is nearer than the rounding of its sum: the token's logit to the best, the tokens that changed sides to the
    target's."""
    N, V = 40, 700
    hidden_ND, head_VD = torch.randn(N, D).to(dtype), torch.randn(V, D).to(dtype)
    bias_V, target_N = torch.randn(V).to(dtype), ids(N, V)
    found, expected = (f(hidden_ND, head_VD, target_N, bias_V) for f in (way, head_argmax_reference))
    logits_NV = hidden_ND.double() @ head_VD.double().T + bias_V.double()
    error = D * 2**-24 * float(hidden_ND.double().norm(dim=1).max() * head_VD.double().norm(dim=1).max())
    assert (logits_NV.gather(1, found.token_N[:, None])[:, 0] >= expected.logit_N - 2 * error).all()
    own_N1 = logits_NV.gather(1, target_N.clamp(min=0)[:, None])
    near_N = ((logits_NV - own_N1).abs() <= 2 * error).sum(1) - 1
    assert ((found.rank_N - expected.rank_N).abs() <= near_N).all()
    assert torch.equal(found.rank_N == 0, found.token_N == target_N)
    for name in ("logit_N", "logsumexp_N", "log_prob_N"):
        a, b = getattr(found, name).double().nan_to_num(), getattr(expected, name).nan_to_num()
        assert (a - b).norm() <= 2e-6 * b.norm(), name


@WAYS
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_strides(way: Way, dtype: torch.dtype) -> None:
    """Transposed, with gaps, from an odd address, repeated rows; in whole tiles and not."""
    for D in (64, 33):
        hidden_ND, head_VD = whole(20, D, dtype=dtype), whole(150, D, dtype=dtype, seed=1)
        target_N = ids(20, 150)
        expected = head_argmax_reference(hidden_ND, head_VD, target_N)
        for lay in (
            lambda x: x.T.contiguous().T,
            lambda x: torch.cat((x, x), 1).contiguous()[:, : x.shape[1]],
            lambda x: torch.stack((x, x), 2).contiguous()[..., 0],
            lambda x: torch.cat((x.new_zeros(1), x.flatten()))[1:].view(x.shape),
        ):
            same(way(lay(hidden_ND), head_VD, target_N), expected)
            same(way(hidden_ND, lay(head_VD), target_N), expected)
        bias_V, doubled = whole(150, seed=2), torch.stack((target_N, target_N), 1)[:, 0]
        expected = head_argmax_reference(hidden_ND[:1].expand(20, D), head_VD, target_N, bias_V)
        gaps_V = torch.stack((bias_V, -bias_V), 1)[:, 0]
        same(way(hidden_ND[:1].expand(20, D), head_VD, doubled, gaps_V), expected)


@WAYS
def test_a_bias_of_another_dtype(way: Way) -> None:
    hidden_ND, head_VD, target_N = whole(5, 7), whole(9, 7, seed=1), ids(5, 9)
    bias_V = torch.linspace(-2, 2, 9)
    for dtype in DTYPES:
        found = way(hidden_ND, head_VD, target_N, bias_V.to(dtype))
        same(found, head_argmax_reference(hidden_ND, head_VD, target_N, bias_V.to(dtype)))


@WAYS
@pytest.mark.parametrize("D", [5, 64])
def test_offsets_beyond_32_bits(way: Way, D: int) -> None:
    """Rows 2^24 - 16 numbers apart pass 2^31 at row 129, which the tile for many positions holds, rows 2^31 apart at once; memory
    never touched is never used."""
    many_ND, head_VD, many_N = whole(17, D), whole(140, D, seed=1), torch.tensor([139, 130] + 15 * [7])
    expected = head_argmax_reference(many_ND, head_VD, many_N)
    same(way(many_ND.bfloat16(), far(head_VD, 2**24 - 16), many_N), expected)
    hidden_ND, target_N = many_ND[:2], many_N[:2]
    expected = head_argmax_reference(hidden_ND, head_VD, target_N)
    same(way(hidden_ND.bfloat16(), far(head_VD, 2**24 - 16), target_N), expected)
    same(way(far(hidden_ND, 2**31), head_VD.bfloat16(), target_N), expected)
    two_N = torch.tensor([1, 0])
    expected = head_argmax_reference(hidden_ND, head_VD[:2], two_N)
    same(way(hidden_ND.bfloat16(), far(head_VD[:2], 2**31), two_N), expected)


@WAYS
def test_a_transposed_head_beyond_32_bits(way: Way) -> None:
    hidden_ND, head_VD, target_N = whole(2, 193), whole(40, 193, seed=1), torch.tensor([39, 30])
    expected = head_argmax_reference(hidden_ND, head_VD, target_N)
    same(way(hidden_ND.bfloat16(), far(head_VD.T, 2**24 - 16).T, target_N), expected)


def far(x: Tensor, step: int) -> Tensor:
    """x in bfloat16, its rows `step` numbers apart."""
    wide = torch.empty((len(x) - 1) * step + x.shape[1], dtype=torch.bfloat16)
    return wide.as_strided(x.shape, (step, 1)).copy_(x)


def test_a_head_that_is_trained() -> None:
    """A model's own head and bias are parameters; nothing of the readout asks for their gradient."""
    hidden_ND, head_VD, target_N = whole(5, 7), nn.Parameter(whole(9, 7, seed=1)), ids(5, 9)
    bias_V = nn.Parameter(whole(9, seed=2))
    found = head_argmax(hidden_ND.requires_grad_(), head_VD, target_N, bias_V)
    assert not found.log_prob_N.requires_grad
    same(found, head_argmax_reference(hidden_ND.detach(), head_VD.detach(), target_N, bias_V.detach()))


# --- ties, infinities, nan, nothing


@WAYS
def test_all_logits_equal(way: Way) -> None:
    """The lowest id wins, and a target's rank is its id."""
    V = 300
    target_N = torch.arange(0, V, 7)
    found = way(torch.zeros(len(target_N), 64), torch.ones(V, 64), target_N)
    assert (found.token_N == 0).all()
    assert torch.equal(found.rank_N, target_N)
    assert found.log_prob_N.tolist() == pytest.approx([-math.log(V)] * len(target_N), rel=1e-6)


@WAYS
@pytest.mark.parametrize(
    ("bias", "token", "total"),
    [
        ({3: INF}, 3, INF),
        ({200: INF, 150: INF}, 150, INF),
        ({3: -INF}, 0, math.log(299)),
        (dict.fromkeys(range(300), -INF), 0, -INF),
        (dict.fromkeys(range(299), -INF), 299, 0.0),
        ({5: INF, 0: -INF, 299: -INF}, 5, INF),
    ],
)
def test_infinite_logits(way: Way, bias: dict[int, float], token: int, total: float) -> None:
    bias_V = torch.zeros(300)
    for v, value in bias.items():
        bias_V[v] = value
    target_N = torch.tensor([0, 3, 150, 200, 299, -1])
    hidden_ND, head_VD = torch.ones(6, 3), torch.zeros(300, 3)
    found = way(hidden_ND, head_VD, target_N, bias_V)
    assert found.token_N.tolist() == [token] * 6
    assert found.logsumexp_N.tolist() == pytest.approx([total] * 6, rel=1e-6)
    own_N = bias_V[target_N]
    undefined = (own_N.isinf() & (own_N == total)) | (target_N < 0)
    assert torch.equal(found.log_prob_N.isnan(), undefined)
    same(found, head_argmax_reference(hidden_ND, head_VD, target_N, bias_V))


@WAYS
@pytest.mark.filterwarnings(
    "ignore:.*encountered in (matmul|subtract|multiply|add):RuntimeWarning"
)  # interpreter
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_infinite_weights(way: Way, dtype: torch.dtype) -> None:
    """An infinite number in a hidden state or a head's row is inf, -inf or, with zeros and opposites, nan; others go on as ever."""
    hidden_ND, head_VD = torch.ones(4, 5, dtype=dtype), whole(40, 5, dtype=dtype, most=1)
    hidden_ND[1, 2], head_VD[30, 0] = INF, -INF
    hidden_ND[2] = torch.tensor([-1, 0, 0, 0, 0])
    target_N = torch.tensor([30, 3, 30, 2])
    expected = head_argmax_reference(hidden_ND, head_VD, target_N)
    assert expected.token_N[0] >= 0
    assert expected.token_N[1] == -1  # inf x 0
    assert [int(expected.token_N[2]), int(expected.rank_N[2])] == [30, 0]
    same(way(hidden_ND, head_VD, target_N), expected)
    positive_VD = head_VD[:30].abs() + 1
    same(
        way(hidden_ND, positive_VD, target_N % 30),
        head_argmax_reference(hidden_ND, positive_VD, target_N % 30),
    )


@WAYS
@pytest.mark.filterwarnings(
    "ignore:All-NaN (slice|axis):RuntimeWarning"
)  # numpy's maximum, in the interpreter
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("place", [0, 150, 299])
def test_nan(way: Way, dtype: torch.dtype, place: int) -> None:
    """One nan in a row's hidden state, or one nan logit among many, says nothing of that row; with a target it is ranked last."""
    hidden_ND, head_VD = whole(20, 64, dtype=dtype), whole(300, 64, dtype=dtype, seed=1)
    hidden_ND[::3, 5] = NAN
    target_N = ids(20, 300)
    target_N[0], target_N[1] = place, place
    found = way(hidden_ND, head_VD, target_N)
    same(found, head_argmax_reference(hidden_ND, head_VD, target_N))
    assert (found.token_N[::3] == -1).all()
    assert (found.token_N[1::3] >= 0).all()
    assert found.rank_N[0] == 300
    assert found.logsumexp_N[0].isnan()
    assert found.log_prob_N[0].isnan()
    bias_V = torch.zeros(300)
    bias_V[place] = NAN
    found = way(hidden_ND, head_VD, target_N, bias_V)
    same(found, head_argmax_reference(hidden_ND, head_VD, target_N, bias_V))
    assert (found.token_N == -1).all()
    assert found.logit_N.isnan().all()


@WAYS
def test_nan_beside_infinity(way: Way) -> None:
    bias_V = torch.tensor([INF, 0, NAN, -INF] * 50)
    target_N = torch.tensor([0, 1, 2, 3, -1])
    found = way(torch.ones(5, 2), torch.ones(200, 2), target_N, bias_V)
    same(found, head_argmax_reference(torch.ones(5, 2), torch.ones(200, 2), target_N, bias_V))
    assert found.rank_N.tolist() == [200] * 4 + [-1]


@WAYS
def test_large_logits_do_not_overflow(way: Way) -> None:
    head_VD = torch.tensor([[1e38], [-1e38], [1e38], [5.0]])
    target_N = torch.tensor([0, 1, 2, 3])
    found = way(torch.ones(4, 1), head_VD, target_N)
    assert found.logsumexp_N.tolist() == pytest.approx([1e38] * 4)
    assert found.rank_N.tolist() == [0, 3, 1, 2]


@WAYS
def test_nothing(way: Way) -> None:
    none = torch.empty(0, dtype=torch.int64)
    for found in (way(torch.empty(0, 5), whole(9, 5), none), way(torch.empty(0, 0), torch.empty(3, 0), none)):
        assert [part.shape for part in found] == [(0,)] * 5
    found = way(torch.empty(4, 0), torch.empty(9, 0), torch.arange(4))
    same(found, head_argmax_reference(torch.empty(4, 0), torch.empty(9, 0), torch.arange(4)))
    same(
        way(whole(4, 3), whole(1, 3), torch.zeros(4, dtype=torch.int64)),
        head_argmax_reference(whole(4, 3), whole(1, 3), torch.zeros(4, dtype=torch.int64)),
    )


def test_no_target_is_minus_one() -> None:
    hidden_ND, head_VD = whole(9, 5), whole(50, 5, seed=1)
    same(head_argmax(hidden_ND, head_VD), head_argmax_reference(hidden_ND, head_VD))
    none_N = torch.full((9,), -1)
    for a, b in zip(head_argmax(hidden_ND, head_VD), head_argmax(hidden_ND, head_VD, none_N), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
    assert head_argmax(hidden_ND, head_VD).rank_N.tolist() == [-1] * 9


# --- properties


@repeatable
@given(N=st.integers(1, 40), V=st.integers(1, 300), D=st.integers(1, 20), seed=st.integers(0, 2**31))
def test_permuted_positions_permute_the_result(N: int, V: int, D: int, seed: int) -> None:
    hidden_ND, head_VD, target_N = whole(N, D, seed=seed), whole(V, D, seed=seed + 1), ids(N, V, seed)
    order_N = torch.randperm(N, generator=torch.Generator().manual_seed(seed))
    for way in (head_argmax, kernel):
        found = way(hidden_ND, head_VD, target_N)
        moved = way(hidden_ND[order_N], head_VD, target_N[order_N])
        for a, b in zip(found, moved, strict=True):
            torch.testing.assert_close(a[order_N], b, rtol=1e-6, atol=1e-6, equal_nan=True)


@repeatable
@given(V=st.integers(2, 200), seed=st.integers(0, 2**31))
def test_permuted_tokens_keep_logit_probability_and_rank_without_ties(V: int, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    head_V1 = torch.randperm(V, generator=draw)[:, None].float()
    order_V, target_N = torch.randperm(V, generator=draw), ids(6, V, seed)
    placed_V = torch.empty_like(order_V)
    placed_V[order_V] = torch.arange(V)
    moved_N = torch.where(target_N < 0, -1, placed_V[target_N])
    for way in (head_argmax, kernel):
        found, moved = (way(torch.ones(6, 1), *x) for x in ((head_V1, target_N), (head_V1[order_V], moved_N)))
        assert torch.equal(placed_V[found.token_N], moved.token_N)
        assert torch.equal(found.rank_N, moved.rank_N)
        torch.testing.assert_close(found.log_prob_N, moved.log_prob_N, rtol=1e-6, atol=1e-6, equal_nan=True)


@repeatable
@given(seed=st.integers(0, 2**31), positions=st.integers(1, 50), tokens=st.integers(1, 700))
def test_chunks_never_change_the_result(seed: int, positions: int, tokens: int) -> None:
    hidden_ND, head_VD, target_N = whole(33, 6, seed=seed), whole(500, 6, seed=seed + 1), ids(33, 500, seed)
    expected = head_argmax_reference(hidden_ND, head_VD, target_N)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK_POSITIONS", positions)
        patch.setattr(module, "CHUNK_TOKENS", tokens)
        patch.setattr(module, "CHUNK_NUMBERS", 6 * tokens)
        patch.setattr(module, "PROGRAMS", 1 + tokens % 9)
        same(head_argmax(hidden_ND, head_VD, target_N), expected)
        same(kernel(hidden_ND, head_VD, target_N), expected)


@WAYS
def test_two_runs_are_equal_bit_by_bit(way: Way) -> None:
    hidden_ND, head_VD, target_N = torch.randn(40, 64), torch.randn(900, 64), ids(40, 900)
    first, second = (way(hidden_ND, head_VD, target_N) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert a.numpy().tobytes() == b.numpy().tobytes()


@WAYS
@pytest.mark.parametrize("N", [5, 40])
def test_every_output_is_written(way: Way, N: int, monkeypatch: pytest.MonkeyPatch) -> None:
    hidden_ND, head_VD, target_N = whole(N, 64), whole(300, 64, seed=1), ids(N, 300)
    expected, empty = head_argmax_reference(hidden_ND, head_VD, target_N), torch.empty

    def poisoned(*shape: int, **options: torch.dtype) -> Tensor:
        x: Tensor = empty(*shape, **options)  # type: ignore[call-overload]
        return x.fill_(NAN if x.is_floating_point() else 10**9)

    monkeypatch.setattr(torch, "empty", poisoned)
    same(way(hidden_ND, head_VD, target_N), expected)


def test_inputs_are_not_changed() -> None:
    given = whole(9, 5), whole(50, 5, seed=1), ids(9, 50), whole(50, seed=3)
    copies = [x.clone() for x in given]
    head_argmax(*given)
    kernel(*given)
    assert all(torch.equal(a, b) for a, b in zip(given, copies, strict=True))


# --- which tile, how much memory, what is refused


@pytest.mark.parametrize(
    ("N", "D", "dtype", "tile"),
    [
        (16, 64, torch.bfloat16, "few"),
        (17, 64, torch.bfloat16, "many"),
        (17, 96, torch.bfloat16, "ragged"),
        (17, 96, torch.float32, "many"),
        (1, 80, torch.float32, "ragged"),
    ],
)
def test_the_tile_follows_shape_and_address(N: int, D: int, dtype: torch.dtype, tile: str) -> None:
    hidden_ND, head_VD = torch.zeros(N, D, dtype=dtype), torch.zeros(9, D, dtype=dtype)
    assert module._tile(hidden_ND, head_VD) == tile
    assert module._tile(torch.zeros(N, D + 8, dtype=dtype)[:, :D], head_VD) == "ragged"
    assert module._tile(torch.zeros(N * D + 1, dtype=dtype)[1:].view(N, D), head_VD) == "ragged"
    assert module._tile(hidden_ND, torch.zeros(D, 9, dtype=dtype).T) == "ragged"


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_memory_stays_below_64_mb(dtype: torch.dtype) -> None:
    """The peak of this process, at V = 128,256: all logits of 600 positions would be 308 MB."""
    status = Path("/proc/self/status")
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    except OSError:
        pytest.skip("the system does not reset the peak of a process")

    def read(name: str) -> int:
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith(name))

    hidden_ND, head_VD = torch.randn(600, 64).to(dtype), torch.randn(128_256, 64).to(dtype)
    target_N = ids(600, 128_256)
    head_argmax(hidden_ND[:4], head_VD[:5000], target_N[:4] % 5000)
    Path("/proc/self/clear_refs").write_text("5")
    before = read("VmRSS")
    head_argmax(hidden_ND, head_VD, target_N)
    assert (read("VmHWM") - before) / 1024 < 64


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_ND": torch.zeros(4)}, r"hidden: expected \(N, D\)"),
        ({"hidden_ND": torch.zeros(4, 3, dtype=torch.float64)}, "hidden: expected"),
        ({"head_VD": torch.zeros(9, 4)}, r"head: expected \(V, 3\)"),
        ({"head_VD": torch.zeros(9, 3, dtype=torch.float16)}, "head: expected .*float32 as in hidden"),
        ({"head_VD": torch.zeros(0, 3)}, "head: expected 1 to"),
        ({"head_VD": torch.tensor(1.0)}, "head: expected"),
        ({"bias_V": torch.zeros(8)}, r"bias: expected \(9,\)"),
        ({"bias_V": torch.zeros(9, dtype=torch.int64)}, "bias: expected"),
        ({"target_N": torch.zeros(5, dtype=torch.int64)}, r"target: expected \(4,\) int64"),
        ({"target_N": torch.zeros(4)}, "target: expected .* got .* torch.float32"),
        (
            {"target_N": torch.tensor([0, 1, 9, 0])},
            r"target: expected ids in \[0, 9\), or -1 for none, got 0 to 9",
        ),
        ({"target_N": torch.tensor([0, 1, -2, 0])}, "got -2 to 1"),
        ({"head_VD": torch.zeros(9, 3, device="meta")}, "one device"),
    ],
)
def test_bad_input_is_named(change: dict[str, Tensor], message: str) -> None:
    given = {"hidden_ND": torch.zeros(4, 3), "head_VD": torch.zeros(9, 3)} | change
    with pytest.raises(ValueError, match=message):
        head_argmax(**given)
