"""Philox streams against torch's own generator (another stream: there is nothing to agree with) and against the definition."""

from collections.abc import Mapping
from functools import partial

import torch

from assay.kernels import philox
from kernels import Case, Way

KEY = (0x243F6A88, 0x85A308D3)


def ways(count: int, device: str) -> Mapping[str, Way]:
    part = min(count, 2**20)
    assert torch.equal(philox.words(KEY, part, device=device).cpu(), philox.words_reference(KEY, part))
    out = {"ours": Way(lambda: philox.block_words(KEY, 0, count // 4))}
    if device != "cpu":
        out["ours"] = Way(lambda: philox.words_triton(KEY, count, 0, torch.device(device)))
    out["eager"] = Way(lambda: torch.randint(-(2**31), 2**31, (count,), dtype=torch.int32, device=device))
    out["definition"] = Way(lambda: philox.words_reference(KEY, part), share=part / count)
    return out


CASES = [
    Case("philox words", f"{count:,} words", partial(ways, count), moved=4 * count)
    for count in ((2**20, 2**24, 2**28) if torch.cuda.is_available() else (2**14, 2**20, 2**24))
]
