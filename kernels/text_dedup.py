"""Which positions of a text count. A repeated window draws the same word again, so counting it twice is no new evidence:
a phrase repeated 25 times lifts a false-positive rate of 3e-5 to 21 % (z > 4).

Suffixes: B texts, T positions, S windows known before. Position t has the window ids[t - h .. t - 1], so the first h have none.
  all  every position (for comparison with published detectors, never for a p-value)
  v1   positions whose window is new in the text
  v2   positions whose window and id together are new; with h = 0, the text's distinct ids (Unigram)
"New" is new in the text, or in the whole corpus in the order of texts. The first `context` ids of a text are its prompt: they
are not scored, and what they hold is not new afterwards.

Windows are compared by splitmix64's hash of 64 bits (kernels/text_prf.py), sorted, first of each run. Two of n different
windows collide with chance n^2 / 2^65: 3e-8 at 10^6, 3 % at 10^9. Only h ids are read, never the key, so a collision drops one
position and biases nothing.

Cost: the kernel reads an id and writes its window's hash, 16 bytes a position, and computes h mixes, 30 integer operations each.
torch.sort of (hash, index) moves 16 bytes both ways in each of 8 passes, 256 bytes a position: an H200 (4.8 TB/s) does 17 G
positions/s at best, and the hashes are a twentieth of it. CPU: 40 ns a position (h = 4).
"""

from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from .lang import Build, ceil_div, jit, on_gpu, tl
from .philox import CHUNK
from .text_mark import check_counts, check_integers
from .text_prf import GOLDEN, hashes, hashes_reference, mix_reference, wrapped
from .text_words import mixed

Dedup = Literal["all", "v1", "v2"]
TILE = 1024
PACKED = 2**18  # positions of a text up to which places are packed into keys
POSITIONS = {"cpu": 2**14, "cuda": 2**22}  # sorted at a time, or one text; 40 bytes each
LAST = 2**63 - 1  # sorts after every hash: the key of positions that do not exist


def window_keys_reference(ids_BT: Tensor, width: int, dedup: Dedup = "v1") -> Tensor:
    """The definition of a window's key, (B, T) int64; v2 absorbs the position's own id too. 0 where there is no window."""
    texts, length = ids_BT.shape
    out_BT = torch.zeros(texts, length, dtype=torch.int64)
    if length > width:
        taken = ids_BT.to(torch.int64).unfold(1, width + 1, 1).reshape(-1, width + 1)
        key_N = hashes_reference(taken[:, :width])
        if dedup == "v2":
            key_N = mix_reference((key_N ^ taken[:, width]) + wrapped(GOLDEN))
        out_BT[:, width:] = key_N.reshape(texts, length - width)
    return out_BT


def scored_reference(
    ids_BT: Tensor,
    width: int,
    lengths_B: Tensor,
    dedup: Dedup = "v1",
    context_B: Tensor | None = None,
    corpus: bool = False,
) -> Tensor:
    """The definition, by sets of windows that nothing hashes to 64 bits: (B, T) bool."""
    out_BT = torch.zeros(ids_BT.shape, dtype=torch.bool)
    seen: set[tuple[int, ...]] = set()
    for b, ids_T in enumerate(ids_BT.tolist()):
        seen = seen if corpus else set()
        context = 0 if context_B is None else int(context_B[b])
        for t in range(width, int(lengths_B[b])):
            item = tuple(ids_T[t - width : t + (dedup == "v2")])
            out_BT[b, t] = t >= context and (dedup == "all" or item not in seen)
            seen.add(item)
    return out_BT


@jit
def _keys_kernel(ids, out, length, count, WIDTH: tl.constexpr, PAIR: tl.constexpr, TILE: tl.constexpr):
    place = tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, TILE)
    inside = place < count
    live = inside & (place % length >= WIDTH)
    key = (place * 0 + WIDTH).to(tl.uint64)
    for i in tl.static_range(WIDTH + PAIR):  # pyright: ignore
        absorbed = tl.load(ids + place - WIDTH + i, mask=live, other=0).to(tl.int64)
        key = mixed((key ^ absorbed.to(tl.uint64, bitcast=True)) + 0x9E3779B97F4A7C15)
    tl.store(out + place, tl.where(live, key.to(tl.int64, bitcast=True), 0), mask=inside)


def window_keys_triton(ids_BT: Tensor, width: int, dedup: Dedup = "v1") -> Tensor:
    ids_BT = ids_BT.contiguous()
    out_BT = torch.empty(ids_BT.shape, dtype=torch.int64, device=ids_BT.device)
    if count := ids_BT.numel():
        grid = (ceil_div(count, TILE),)
        _keys_kernel[grid](
            ids_BT, out_BT, ids_BT.shape[1], count, WIDTH=width, PAIR=int(dedup == "v2"), TILE=TILE
        )
    return out_BT


BUILDS = (
    Build(
        _keys_kernel,
        {"ids": "*i64", "out": "*i64", "length": "i64", "count": "i64"},
        {"WIDTH": 4, "PAIR": 1, "TILE": TILE},
        registers=96,
    ),
)


def window_keys(ids_BT: Tensor, width: int, dedup: Dedup = "v1") -> Tensor:
    """(B, T) int64: the keys by which windows are compared (v2: with the position's id), 0 where there is no window. What has
    been seen elsewhere, a training corpus say, is given to `scored_positions` by these."""
    check_integers("ids", ids_BT, 2)
    if dedup not in get_args(Dedup):
        raise ValueError(f"dedup: expected one of {get_args(Dedup)}, got {dedup!r}")
    if width < 0:
        raise ValueError(f"width: expected at least 0, got {width}")
    if on_gpu(ids_BT):
        return window_keys_triton(ids_BT, width, dedup)
    out_BT = torch.zeros(ids_BT.shape, dtype=torch.int64)
    texts, length = ids_BT.shape
    columns = width + (dedup == "v2")
    step = max(1, CHUNK // max(1, length))
    for start in range(0, texts, step):
        ids_RT = ids_BT[start : start + step].to(torch.int64).numpy().view(np.uint64)
        for first in range(width, length, CHUNK):
            last = min(first + CHUNK, length)
            absorbed = [ids_RT[:, first - width + i : last - width + i] for i in range(columns)]
            key_RC = hashes(absorbed, (len(ids_RT), last - first), width)
            out_BT.numpy()[start : start + step, first:last] = key_RC.view(np.int64)
    return out_BT


def first_of_runs(keys_RT: Tensor) -> Tensor:
    """(R, T) bool: positions whose key no earlier position of the row has."""
    rows, length = keys_RT.shape
    if on_gpu(keys_RT) or length > PACKED:
        return first_of_runs_sorted(keys_RT)
    # The place in the low bits of its key makes a sort of values alone name the first of each run: 12 ns a key, where the
    # indices of a stable sort cost 50. Keys that agree in all but those bits (chance 10^-9 for 1,000) are left to that sort.
    keys = np.ascontiguousarray(keys_RT.numpy()).view(np.uint64)
    low = np.uint64(2 ** max(0, length - 1).bit_length() - 1)
    packed = np.sort((keys & ~low) | np.arange(length, dtype=np.uint64), axis=1)
    place_N = ((packed & low).view(np.int64) + length * np.arange(rows)[:, None]).reshape(-1)
    new = np.ones(keys.shape, dtype=bool)
    np.greater(packed[:, 1:] ^ packed[:, :-1], low, out=new[:, 1:])
    repeat_N = np.flatnonzero(~new)
    keys_N = keys.reshape(-1)
    if (keys_N[place_N[repeat_N]] != keys_N[place_N[repeat_N - 1]]).any():
        return first_of_runs_sorted(keys_RT)
    out = np.empty(keys.shape, dtype=bool)
    out.reshape(-1)[place_N] = new.reshape(-1)
    return torch.from_numpy(out)


def first_of_runs_sorted(keys_RT: Tensor) -> Tensor:
    """By torch's stable sort."""
    ordered_RT, order_RT = keys_RT.sort(dim=1, stable=True)
    new_RT = torch.ones_like(ordered_RT, dtype=torch.bool)
    new_RT[:, 1:] = ordered_RT[:, 1:] != ordered_RT[:, :-1]
    return torch.empty_like(new_RT).scatter_(1, order_RT, new_RT)


def scored_positions(
    ids_BT: Tensor,
    width: int,
    lengths_B: Tensor | None = None,
    dedup: Dedup = "v1",
    context_B: Tensor | None = None,
    seen_S: Tensor | None = None,
    corpus: bool = False,
) -> Tensor:
    """(B, T) bool: the positions that count (module docstring). lengths: ids of each text, T by default; context: how many of
    them are the prompt; seen: `window_keys`, by the same dedup, that are dropped wherever they come. Memory beside the result:
    40 bytes for each of POSITIONS positions or of the longest text; with `corpus`, of all positions."""
    check_integers("ids", ids_BT, 2)
    texts, length = ids_BT.shape
    on_gpu(ids_BT, *(tensor for tensor in (lengths_B, context_B, seen_S) if tensor is not None))
    for name, count_B in {"lengths": lengths_B, "context": context_B}.items():
        if count_B is not None:
            check_counts(name, count_B, ids_BT)
    step = max(1, texts if corpus else POSITIONS[ids_BT.device.type] // max(1, length))
    out_BT = torch.zeros(ids_BT.shape, dtype=torch.bool, device=ids_BT.device)
    for start in range(0, texts, step):
        rows = slice(start, start + step)
        lengths_R = None if lengths_B is None else lengths_B[rows]
        context_R = None if context_B is None else context_B[rows]
        out_BT[rows, width:] = _scored(ids_BT[rows], width, lengths_R, context_R, dedup, seen_S, corpus)
    return out_BT


def _scored(
    ids_RT: Tensor,
    width: int,
    lengths_R: Tensor | None,
    context_R: Tensor | None,
    dedup: Dedup,
    seen_S: Tensor | None,
    corpus: bool,
) -> Tensor:
    """Of the positions from `width` on."""
    keys_RT = window_keys(ids_RT, width, dedup)[:, width:]
    position_T = torch.arange(width, width + keys_RT.shape[1], device=ids_RT.device)
    scored_RT = torch.ones_like(keys_RT, dtype=torch.bool)
    if seen_S is not None:
        scored_RT &= ~torch.isin(keys_RT, seen_S)
    if lengths_R is not None:
        exists_RT = position_T < lengths_R[:, None]
        keys_RT = torch.where(exists_RT, keys_RT.clamp(max=LAST - 1), LAST)
        scored_RT &= exists_RT
    if context_R is not None:
        scored_RT &= position_T >= context_R[:, None]
    if dedup != "all":
        runs_RT = keys_RT.reshape(1, keys_RT.numel()) if corpus else keys_RT
        scored_RT &= first_of_runs(runs_RT).reshape(keys_RT.shape)
    return scored_RT
