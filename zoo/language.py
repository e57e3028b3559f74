"""A causal language model of transformers under the contract of every model here: ids in, logits with the classes on axis 1 out, so
that training, labels and the attacks on weights take it as it is; and a writer.

Suffixes: N texts, P ids of a prompt, T ids of a window, B rows of a batch, L ids so far, V vocabulary.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.pytorch_utils import Conv1D

from ..core.errors import ConfigError
from ..core.secret import seed_for
from ..core.texts import ROWS, Plain, Sampler


class LanguageModel(nn.Module):
    """`net` is the transformers model, in place made `plain`: what reads, prunes, quantises or replaces linear layers meets them
    all."""

    def __init__(self, net: nn.Module, context: int, tokenizer: str = "", temperature: float = 1.0) -> None:
        """context: the longest input in ids. tokenizer: the hash of its files. temperature: of the owner's service."""
        super().__init__()
        self.net = plain(net)
        self.context, self.tokenizer, self.temperature = context, tokenizer, temperature
        self.sampler: Sampler | None = None

    @property
    def vocabulary(self) -> int:
        """V, the width of the head, which may exceed the number of tokens."""
        return int(self.net.config.vocab_size)  # type: ignore[union-attr,arg-type]

    def forward(self, ids_NT: Tensor) -> Tensor:
        """Logits (N, V, T) of the id that follows each. ValueError for windows longer than the context."""
        if ids_NT.shape[1] > self.context:
            raise ValueError(f"expected windows of at most {self.context} ids, got {ids_NT.shape[1]}")
        logits_NTV: Tensor = self.net(input_ids=ids_NT, use_cache=False).logits
        return logits_NTV.transpose(1, 2)

    @torch.no_grad()
    def write(self, prompts_NP: Tensor, tokens: int, seed: int, temperature: float | None = None) -> Tensor:
        """(N, tokens) int64, the prompts left out; an end of text is an id like any other. Text n depends on the seed, n, its
        prompt and the model, not on how many are written, up to the rounding of a batched product. Where a text outgrows the
        context the model goes on from its later half. ConfigError for prompts that are empty, too long or of another vocabulary."""
        self._check(prompts_NP, tokens)
        heat = self.temperature if temperature is None else temperature
        if not 0 < heat < float("inf"):
            raise ConfigError(f"expected a temperature above 0, got {heat}; set model.temperature=1.0")
        mode = self.training
        self.eval()
        try:
            parts = prompts_NP.split(ROWS) if len(prompts_NP) else ()
            texts = [
                self._write(part, tokens, seed_for(seed, "texts", i), heat) for i, part in enumerate(parts)
            ]
        finally:
            self.train(mode)
        return torch.cat(texts) if texts else prompts_NP.new_empty(0, tokens)

    def _check(self, prompts_NP: Tensor, tokens: int) -> None:
        if prompts_NP.ndim != 2 or not 1 <= prompts_NP.shape[1] < self.context or tokens < 1:
            raise ConfigError(
                f"expected prompts (N, P) of 1 to {self.context - 1} ids, fewer than the context, and at least 1 token to write; "
                f"got {tuple(prompts_NP.shape)} and {tokens}"
            )
        if prompts_NP.numel() and not 0 <= int(prompts_NP.min()) <= int(prompts_NP.max()) < self.vocabulary:
            raise ConfigError(
                f"expected ids below the vocabulary of {self.vocabulary}, got {int(prompts_NP.min())} to "
                f"{int(prompts_NP.max())}: the prompts are of another tokenizer"
            )

    def _write(self, prompts_BP: Tensor, tokens: int, seed: int, temperature: float) -> Tensor:
        sampler, generator = self.sampler or Plain(), torch.Generator().manual_seed(seed)
        prompt = prompts_BP.shape[1]
        text_BL = torch.cat([prompts_BP, prompts_BP.new_zeros(len(prompts_BP), tokens)], 1)
        config: Any = self.net.config
        cache, start, done = DynamicCache(config=config), 0, 0  # of text[start:done]
        for length in range(prompt, prompt + tokens):
            if length - start > self.context:
                cache, start = DynamicCache(config=config), length - self.context // 2
                done = start
            logits_BV = self._next(text_BL[:, done:length], cache)
            done = length
            text_BL[:, length] = sampler(logits_BV / temperature, text_BL[:, :length], prompt, generator)
        return text_BL[:, prompt:]

    def _next(self, ids_BL: Tensor, cache: Any) -> Tensor:
        """Logits (B, V) in float32 of the id after these, which follow those in the cache."""
        found = self.net(input_ids=ids_BL, past_key_values=cache, use_cache=True, logits_to_keep=1)
        logits_BV: Tensor = found.logits[:, -1].float()
        return logits_BV


def plain(net: nn.Module) -> nn.Module:
    """The network, in place, with the same function: linear layers for GPT-2's Conv1D, whose weights have their outputs on axis 1,
    and a head of its own where the embedding serves as one."""
    for name, layer in list(net.named_modules()):
        if isinstance(layer, Conv1D):
            inputs, outputs = layer.weight.shape
            made = nn.Linear(inputs, outputs, device="meta")
            made.weight, made.bias = nn.Parameter(layer.weight.detach().t().contiguous()), layer.bias
            parent, _, last = name.rpartition(".")
            setattr(net.get_submodule(parent), last, made)
    head, words = net.get_output_embeddings(), net.get_input_embeddings()  # type: ignore[operator]
    if head.weight is words.weight:
        head.weight = nn.Parameter(words.weight.detach().clone())
        net.config.tie_word_embeddings = False  # type: ignore[union-attr]
    return net
