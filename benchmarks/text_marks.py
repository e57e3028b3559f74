"""Sampling marks: detection beside transformers' on the same texts, a scan of 2^16 messages, 10^4 texts under 64 keys in one call,
and what a marked step of generation costs beside plain sampling (softmax and torch.multinomial) at V = 50,257, B = 8.

    python benchmarks/text_marks.py [--small] [--rounds N]

CPU seconds of one thread, ways interleaved, medians of ratios within a round. Detection goes from ids to exact p-values;
transformers' detector ends with a normal one. The lefthash detector is measured with empty caches, and on texts that are new to it
when it has kept the lists of the whole vocabulary. Ours by both keyed functions, philox the default.
"""

import argparse
import resource
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from measure import interleaved, keep, ratio
from text_detectors import transformers_green, transformers_synthid, zipf_texts
from torch import Tensor

from assay.core.secret import Secret
from assay.kernels.text_mark import Prf
from assay.watermarks.llm import permutation
from assay.watermarks.llm.compat_kgw import TransformersKgw
from assay.watermarks.llm.compat_synthid import TransformersSynthId
from assay.watermarks.llm.corpus import Texts
from assay.watermarks.llm.cyclic import Cyclic
from assay.watermarks.llm.gumbel import Gumbel
from assay.watermarks.llm.kgw import Kgw
from assay.watermarks.llm.synthid import SynthId

V, WIDE, ROWS, KEY = 50_257, 128_256, 8, 15_485_863
ME = Secret.simulated(1)
SPREAD = {"flat": 3.0, "sharp": 8.0}
"""Standard deviation of normal logits: 9 bits of entropy, and 2."""
PRFS: tuple[Prf, ...] = ("philox", "splitmix64")
EVERY_1V = torch.arange(V)[None]


def texts_of(ids_BT: Tensor) -> Texts:
    full_B = torch.full((len(ids_BT),), ids_BT.shape[1])
    return Texts(ids_BT, full_B, torch.zeros_like(full_B))


def detection(count: int, rounds: int) -> dict[str, Any]:
    texts = texts_of(zipf_texts(V, count, 256))
    layers = list(range(30))

    def cold() -> object:
        permutation.lists.cache_clear()
        return TransformersKgw().examine(texts, [KEY], V)

    ways: dict[str, Callable[[], object]] = {
        "lefthash, empty caches": cold,
        "transformers lefthash": partial(transformers_green, texts.ids_BT, V, "lefthash"),
        "transformers' synthid": lambda: TransformersSynthId().mean(texts.ids_BT, layers),
        "transformers SynthID mean": partial(transformers_synthid, texts.ids_BT),
    }
    for prf in PRFS:
        ways[f"kgw, {prf}"] = partial(Kgw(prf=prf).examine, texts, [ME], V)
        ways[f"synthid, {prf}"] = partial(SynthId(prf=prf).examine, texts, [ME], V)
    seconds = interleaved(ways, rounds)
    synthid = "transformers SynthID mean"
    against = {name: synthid if "synthid" in name else "transformers lefthash" for name in ways}
    return {
        "texts": count,
        "times_fewer_cpu_seconds": {
            name: ratio(seconds, other, name)
            for name, other in against.items()
            if name not in against.values()
        },
        "seconds": seconds,
    }


def with_lists(count: int, rounds: int) -> dict[str, Any]:
    """Texts that neither has read, a new part each time."""
    parts = iter(zipf_texts(V, count * 2 * rounds, 256).split(count))
    mark = TransformersKgw()

    def every() -> None:
        for _ in range(2):  # a list that is asked about again is kept
            mark.green(EVERY_1V, EVERY_1V, KEY, V)

    (seconds,) = interleaved({"all": every}, 1)["all"]
    ways: dict[str, Callable[[], object]] = {
        "ours": lambda: mark.examine(texts_of(next(parts)), [KEY], V),
        "transformers": lambda: transformers_green(next(parts), V, "lefthash"),
    }
    found = interleaved(ways, rounds)
    times = ratio(found, "transformers", "ours")
    return {"texts": count, "lists_seconds": seconds, "times_fewer_cpu_seconds": times, "seconds": found}


def scan(rounds: int) -> dict[str, list[float]]:
    texts = texts_of(zipf_texts(WIDE, 1, 200))
    ways: dict[str, Callable[[], object]] = {
        f"2^16 messages, {prf}": partial(Cyclic(prf=prf, bits=16).examine, texts, [ME], WIDE) for prf in PRFS
    }
    return interleaved(ways, rounds)


def many(texts: int, keys: int) -> dict[str, Any]:
    """Peak memory of the process before and after, MB."""
    ids_BT = zipf_texts(V, texts, 200)
    secrets = [Secret.simulated(k) for k in range(keys)]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ways: dict[str, Callable[[], object]] = {
        prf: partial(Kgw(prf=prf).examine, texts_of(ids_BT), secrets, V) for prf in PRFS
    }
    seconds = interleaved(ways, 1)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"texts": texts, "keys": keys, "seconds": seconds, "more_megabytes": (after - before) // 1024}


def generation(rounds: int, spread: float) -> dict[str, Any]:
    draw = torch.Generator().manual_seed(0)
    logits_BV = spread * torch.randn(ROWS, V, generator=draw)
    context_BL = torch.randint(V, (ROWS, 200), generator=draw)
    schemes = {"kgw": Kgw(), "gumbel": Gumbel(), "synthid": SynthId()}
    ways: dict[str, Callable[[], object]] = {
        "plain": lambda: torch.multinomial(torch.softmax(logits_BV, -1), 1, generator=draw)
    }
    ways |= {name: partial(s.next_ids, logits_BV, context_BL, ME, draw) for name, s in schemes.items()}
    interleaved(ways, 1)
    seconds = interleaved(ways, 3 * rounds)
    return {"times_plain": {name: ratio(seconds, name, "plain") for name in schemes}, "seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--small", action="store_true", help="an eighth of the texts")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    part = 8 if arguments.small else 1
    one_call = many(10_000 // part, 64)  # first: a peak that came before would hide its own
    steps = {name: generation(arguments.rounds, spread) for name, spread in SPREAD.items()}
    found = detection(80 // part, arguments.rounds)
    keep(
        "text_marks" + ("_small" if arguments.small else ""),
        generation=steps,
        detection=found,
        detection_with_lists=with_lists(80 // part, arguments.rounds),
        scan_seconds=scan(arguments.rounds),
        one_call=one_call,
    )
    print("times plain sampling:", {name: step["times_plain"] for name, step in steps.items()})
    print("times fewer CPU seconds than transformers:", found["times_fewer_cpu_seconds"])


if __name__ == "__main__":
    main()
