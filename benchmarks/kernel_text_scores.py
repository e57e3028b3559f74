"""Scoring padded texts for many keys, dedup included, against the same in torch: eager, compiled, and a text and key at a time."""

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from assay.kernels.philox import MASK, blocks
from assay.kernels.text_dedup import scored_positions
from assay.kernels.text_mark import Prf, Statistic, TextMark
from assay.kernels.text_prf import CONTEXT, GOLDEN, TOKEN, hashes_reference, mix_reference, uniforms, wrapped
from assay.kernels.text_scores import text_scores, text_scores_reference
from kernels import Case, Way

GPU = torch.cuda.is_available()
V = 50_257


def eager_words(windows_NH: Tensor, id_N: Tensor, key: Tensor, mark: TextMark) -> Tensor:
    """The words under a key in a tensor, so that another key compiles nothing; Philox for h <= 4."""
    if mark.prf == "splitmix64":
        state_N = mix_reference((hashes_reference(windows_NH) ^ key) + wrapped(GOLDEN))
        return (mix_reference(state_N + (id_N + 1) * wrapped(GOLDEN)) >> 32) & MASK
    k0, k1 = key & MASK, (key >> 32) & MASK
    start_4 = torch.tensor([CONTEXT, mark.width, 0, 0], device=id_N.device)
    state_N4 = blocks(start_4 ^ windows_NH, (k0, k1))  # type: ignore[arg-type]
    counter_N4 = torch.cat((id_N[:, None] >> 2, state_N4[:, :3]), -1)
    output_key = (state_N4[:, 3] ^ k0, k1 ^ TOKEN)
    return blocks(counter_N4, output_key).gather(1, id_N[:, None] & 3)[:, 0]  # type: ignore[arg-type]


def eager(ids_BT: Tensor, keys_K: Tensor, mark: TextMark) -> Tensor:
    """The best formulation in torch: one sort for the firsts, whole batches of words, a key at a time to bound the memory."""
    texts, h = len(ids_BT), mark.width
    windows_NH = ids_BT.unfold(1, h + 1, 1).reshape(-1, h + 1)
    hash_BT = hashes_reference(windows_NH[:, :h]).reshape(texts, -1)
    ordered_BT, order_BT = hash_BT.sort(dim=1, stable=True)
    new_BT = torch.ones_like(ordered_BT, dtype=torch.bool)
    new_BT[:, 1:] = ordered_BT[:, 1:] != ordered_BT[:, :-1]
    first_BT = torch.zeros_like(new_BT).scatter(1, order_BT, new_BT)
    sums = []
    for k in range(len(keys_K)):
        word_BT = eager_words(windows_NH[:, :h], windows_NH[:, h], keys_K[k], mark).reshape(texts, -1)
        if mark.statistic == "green":
            sums.append(((word_BT < mark.threshold) & first_BT).sum(1))
        elif mark.statistic == "gumbel":
            sums.append((-torch.log1p(-uniforms(word_BT)) * first_BT).sum(1))
        else:
            bits = [((word_BT >> layer & 1) * first_BT).sum(1) for layer in range(mark.depth)]
            sums.append(torch.stack(bits, 1))
    return torch.stack(sums, 1)


def one_by_one(ids_BT: Tensor, keys_K: Tensor, mark: TextMark) -> Tensor:
    """A text and key at a time, as every toolkit detects; with batches of words even so."""
    rows = [
        text_scores_reference(ids_1T, scored_positions(ids_1T, mark.width), key_1, mark)[0, 0]
        for ids_1T in ids_BT.cpu().split(1)
        for key_1 in keys_K.cpu().split(1)
    ]
    return torch.stack(rows)


def ways(texts: int, length: int, keys: int, mark: TextMark, device: str) -> Mapping[str, Way]:
    ids_BT = torch.randint(V, (texts, length), device=device)
    ids_BT[:, length // 2 : length // 2 + length // 8] = ids_BT[
        :, : length // 8
    ].clone()  # some windows repeat
    keys_K = torch.randint(2**62, (keys,), device=device)
    ours = text_scores(ids_BT, keys_K, mark).statistic
    some = max(1, min(texts, 2**16 // (length * keys)))
    looped = one_by_one(ids_BT[:some], keys_K, mark).to(device).reshape(ours[:some].shape)
    found = {
        "ours": Way(lambda: text_scores(ids_BT, keys_K, mark)),
        "loop": Way(lambda: one_by_one(ids_BT[:some], keys_K, mark), share=some / texts),
    }
    torch.testing.assert_close(ours[:some], looped, rtol=1e-6, atol=0)
    if mark.payloads is None:
        compiled = torch.compile(eager)
        for way in (eager, compiled):
            torch.testing.assert_close(ours, way(ids_BT, keys_K, mark), rtol=1e-6, atol=0)
        found["eager"] = Way(lambda: eager(ids_BT, keys_K, mark))
        found["compiled"] = Way(lambda: compiled(ids_BT, keys_K, mark))
    return found


def case(
    texts: int,
    length: int,
    keys: int,
    statistic: Statistic = "green",
    prf: Prf = "splitmix64",
    payloads: int | None = None,
) -> Case:
    mark = TextMark(V, 4, prf, statistic, payloads=payloads)
    results = texts * keys * (payloads or (32 if statistic == "layers" else 1))
    message = "" if payloads is None else f" P={payloads}"
    return Case(
        f"{statistic} {prf}",
        f"B={texts:,} T={length:,} K={keys:,}{message}",
        partial(ways, texts, length, keys, mark),
        moved=9 * texts * length + 8 * results,
    )


MANY = 100 if GPU else 1
CASES = [
    case(16, 256, 1),
    case(256 * MANY, 512, 1),
    case(1000 * MANY, 1000, 8 if GPU else 4),
    case(256 * MANY, 512, 1, "gumbel"),
    case(256 * MANY, 512, 1, "layers"),
    case(256 * MANY, 512, 1, "green", "philox"),
    case(16 * MANY, 512, 1, "green", "philox", payloads=256),
]
