"""Architectures of language models (conf/model/gpt2_*.yaml): a fresh `LanguageModel` for a task of ids, by seed."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Lt
from torch import nn

from ..core.errors import ConfigError
from .language import LanguageModel
from .models import Architecture, Shape


@dataclass(frozen=True)
class Causal(Architecture):
    """`layer` is a linear layer within `net` (zoo/language.py); its weight has its outputs on axis 0."""

    takes = "ids"

    context: Annotated[int, Ge(2)] = 128
    temperature: Annotated[float, Gt(0)] = 1.0
    """Of the owner's service: what logits are divided by before an id is drawn."""

    @abstractmethod
    def network(self, shape: Shape, classes: int) -> nn.Module:
        """A transformers model with a head of `classes` tokens."""

    def build(
        self, shape: Shape, classes: int, seed: int, mean: float = 0.0, std: float = 1.0
    ) -> LanguageModel:
        """The same for the same seed; the global random state is left as it was. Ids have no mean."""
        if len(shape) != 1:
            raise ConfigError(
                f"a language model reads windows of ids, the task has inputs of shape {shape}; "
                "set task=lm_tiny, or another model"
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = self.network(shape, classes)
        return LanguageModel(network, self.context, temperature=self.temperature)


@dataclass(frozen=True)
class Gpt2(Causal):
    """GPT2LMHeadModel from a configuration, no download (Radford et al. 2019)."""

    layer: str = "net.transformer.h.1.mlp.c_proj"
    width: Annotated[int, Ge(8)] = 128
    depth: Annotated[int, Ge(1)] = 2
    heads: Annotated[int, Ge(1)] = 4
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.0

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"expected a width that the {self.heads} heads divide, got {self.width}")

    def network(self, shape: Shape, classes: int) -> nn.Module:
        from transformers import GPT2Config, GPT2LMHeadModel

        config = GPT2Config(
            vocab_size=classes,
            n_positions=self.context,
            n_embd=self.width,
            n_layer=self.depth,
            n_head=self.heads,
            resid_pdrop=self.dropout,
            embd_pdrop=self.dropout,
            attn_pdrop=self.dropout,
            bos_token_id=0,
            eos_token_id=0,
        )
        network: nn.Module = GPT2LMHeadModel(config)
        return network
