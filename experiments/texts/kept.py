"""What `assay run save=FOLDER` keeps of a mark of texts beside the key: what `assay detect` reads."""

import json
from collections.abc import Mapping
from pathlib import Path

from torch import nn

from ...core.atomic import write_atomically
from ...core.key import Key
from ...watermarks.llm.sampling import SamplingMark, TextKey
from ...zoo.text_tasks import NextIds
from ..trial import Trial


def keep(folder: Path, trial: Trial, key: Key, writers: Mapping[str, nn.Module]) -> None:
    """The card, the tokenizer, and of every writer NAME.jsonl: the texts that the trial judged it by, each after its prompt."""
    scheme, source = trial.watermark, trial.settings.task
    assert isinstance(scheme, SamplingMark)
    assert isinstance(source, NextIds)
    assert isinstance(key, TextKey)
    write_atomically(folder / "card.json", scheme.card(key).text().encode())
    write_atomically(folder / "tokenizer.json", source.tokens().tokenizer.to_str().encode())
    for name, model in writers.items():
        corpus = scheme.corpus_of(model, key.prompts_NP, key.vocabulary, trial.hardware.device)
        if corpus is not None:
            rows = zip(corpus.ids_BT.tolist(), corpus.prompt_B.tolist(), strict=True)
            lines = [json.dumps({"ids": ids, "prompt": prompt}) + "\n" for ids, prompt in rows]
            write_atomically(folder / f"{name}.jsonl", "".join(lines).encode())
