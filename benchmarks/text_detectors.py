"""Detection with exact p-values against transformers' detectors, on the same texts and one core, and tokens per second of a batch.

Texts are drawn by Zipf's law, so that windows repeat as in language. transformers' `WatermarkDetector` permutes the vocabulary for
every new bigram, and its p-value is normal; its SynthID score is a mean without any.
"""

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from measure import interleaved, keep, ratio
from torch import Tensor
from transformers import SynthIDTextWatermarkLogitsProcessor, WatermarkDetector

from assay.core.text_tails import counts_log10_p, gamma_log10_p
from assay.kernels.text_mark import Prf, Statistic, TextMark
from assay.kernels.text_scores import text_scores

SAME, BATCH = (40, 256), (1000, 1000)  # texts and tokens
VOCABULARIES = (50_257, 128_256)
DEPTH, ROUNDS = 30, 3
MARKS: tuple[tuple[Statistic, Prf], ...] = (
    ("green", "splitmix64"),
    ("gumbel", "splitmix64"),
    ("layers", "splitmix64"),
    ("green", "philox"),
    ("gumbel", "philox"),
    ("layers", "philox"),
)


def zipf_texts(vocabulary: int, texts: int, tokens: int) -> Tensor:
    chance_V = 1 / (np.arange(vocabulary) + 2.7)
    ranks_BT = np.random.default_rng(0).choice(vocabulary, (texts, tokens), p=chance_V / chance_V.sum())
    return torch.from_numpy(ranks_BT)


def log10_p(ids_BT: Tensor, mark: TextMark) -> Any:
    """From ids to exact p-values."""
    statistic_BK, scored_B = text_scores(ids_BT, torch.tensor([0x1234_5678_9ABC_DEF]), mark)
    if mark.statistic == "gumbel":
        return gamma_log10_p(statistic_BK[:, 0].numpy(), scored_B.numpy())
    if mark.statistic == "layers":
        return counts_log10_p(statistic_BK[:, 0].sum(-1).numpy(), mark.depth * scored_B.numpy(), 0.5)
    return counts_log10_p(statistic_BK[:, 0].numpy(), scored_B.numpy(), mark.gamma)


def transformers_green(ids_BT: Any, vocabulary: int, scheme: str) -> Any:
    model: Any = SimpleNamespace(vocab_size=vocabulary, bos_token_id=-1, is_encoder_decoder=False)
    options = {"greenlist_ratio": 0.25, "bias": 2.0, "hashing_key": 15_485_863, "seeding_scheme": scheme}
    width = 1 if scheme == "lefthash" else 4
    detector = WatermarkDetector(
        model, "cpu", {**options, "context_width": width}, ignore_repeated_ngrams=True
    )
    return detector(ids_BT, return_dict=True)


def transformers_synthid(ids_BT: Any) -> Tensor:
    device, keys = torch.device("cpu"), list(range(DEPTH))
    processor = SynthIDTextWatermarkLogitsProcessor(5, keys, 2**16, 0, 1024, device)
    g_BTL = processor.compute_g_values(ids_BT)
    mask_BT1 = processor.compute_context_repetition_mask(ids_BT)[..., None]
    mean_B: Tensor = (g_BTL * mask_BT1).sum((1, 2)) / (DEPTH * mask_BT1.sum((1, 2)))
    return mean_B


def main() -> None:
    torch.set_num_threads(1)
    same: dict[str, Any] = {}
    speed: dict[str, Any] = {}
    for vocabulary in VOCABULARIES:
        ids_BT = zipf_texts(vocabulary, *SAME)
        mark = partial(TextMark, vocabulary, depth=DEPTH)
        ways: dict[str, Callable[[], object]] = {
            "green": partial(log10_p, ids_BT, mark(prf="splitmix64")),
            "layers": partial(log10_p, ids_BT, mark(prf="splitmix64", statistic="layers")),
            "transformers lefthash": partial(transformers_green, ids_BT, vocabulary, "lefthash"),
            "transformers selfhash": partial(transformers_green, ids_BT, vocabulary, "selfhash"),
            "transformers SynthID mean": partial(transformers_synthid, ids_BT),
        }
        seconds = interleaved(ways, ROUNDS)
        same[str(vocabulary)] = {
            "times_fewer_cpu_seconds": {
                name: ratio(seconds, name, "layers" if "SynthID" in name else "green")
                for name in list(ways)[2:]
            },
            "seconds": seconds,
        }
        large_BT = zipf_texts(vocabulary, *BATCH)
        batches = {
            f"{statistic} {prf}": partial(log10_p, large_BT, mark(prf=prf, statistic=statistic))
            for statistic, prf in MARKS
        }
        rates = interleaved(batches, ROUNDS)
        speed[str(vocabulary)] = {
            name: round(large_BT.numel() / float(np.median(taken)) / 1e6, 2) for name, taken in rates.items()
        }
    keep(
        "text_detectors",
        lefthash_ratio=same[str(VOCABULARIES[0])]["times_fewer_cpu_seconds"]["transformers lefthash"],
        same_texts=same,
        million_tokens_per_cpu_second=speed,
        what=f"{SAME[0]} texts of {SAME[1]} tokens against transformers; {BATCH[0]} of {BATCH[1]} for speed; h = 4",
    )
    print("M tokens/s:", speed)
    print("times fewer CPU seconds:", {v: found["times_fewer_cpu_seconds"] for v, found in same.items()})


if __name__ == "__main__":
    main()
