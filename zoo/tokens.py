"""Between text and ids: a byte-level BPE of the task's own, or the tokenizer of a model's folder."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from ..core.errors import ConfigError

END = "<|endoftext|>"
ENDS = (END, "<|im_end|>", "</s>", "<eos>")  # of known families
BYTES = 256


@dataclass(frozen=True, eq=False)
class Tokens:
    tokenizer: Tokenizer
    end: int | None
    """The id that ends a document, where there is one."""

    @property
    def size(self) -> int:
        """The number of tokens, at most the width of a model's head."""
        return int(self.tokenizer.get_vocab_size())

    @property
    def ending(self) -> str | None:
        """That id as text."""
        return None if self.end is None else str(self.tokenizer.id_to_token(self.end))

    @cached_property
    def hash(self) -> str:
        """16 hex digits that name the tokenizer: of its whole definition."""
        return hashlib.sha256(self.tokenizer.to_str().encode()).hexdigest()[:16]

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        return [found.ids for found in self.tokenizer.encode_batch(list(texts), add_special_tokens=False)]

    def decode(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=False))


def learned(texts: Sequence[str], vocabulary: int) -> Tokens:
    """Byte-level BPE (Sennrich et al. 2016; Radford et al. 2019) of that many tokens, the same for the same texts. ConfigError for
    texts that have too few different words for it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() != vocabulary:
        raise ConfigError(
            f"the corpus gives {tokenizer.get_vocab_size()} tokens, expected {vocabulary}; set task.vocabulary lower"
        )
    return Tokens(tokenizer, tokenizer.token_to_id(END))


@cache
def of_folder(folder: Path) -> Tokens:
    """Of a transformers folder, without the truncation and padding of its last use, which are saved with it: texts are neither cut
    nor filled, and the hash is that of a file without. ConfigError for a folder without tokenizer.json, the only format that needs
    no code of the model's."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise ConfigError(
            f"{folder} has no tokenizer.json, so its tokenizer is unknown; save it with transformers' save_pretrained"
        )
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # noqa: BLE001 - the library raises Exception itself
        raise ConfigError(f"{path} is no tokenizer: {error}") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return Tokens(
        tokenizer, next((i for name in ENDS if (i := tokenizer.token_to_id(name)) is not None), None)
    )
