"""A classifier of byte strings: inputs in [0, 1], a byte over 255 each, as pictures are, so that triggers, queries and keys are
what they are for pictures."""

from dataclasses import dataclass
from typing import Annotated, Any

import torch
from annotated_types import Ge
from torch import Tensor, nn

from .models import Architecture, Normalise, Shape


class Bytes(nn.Module):
    """Embeddings of bytes, (N, ..., T) in [0, 255] -> (N, T, D), linear in between: what an API is sent are whole bytes, and a
    scheme that follows gradients has some. Embeddings have the format of their weight."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(256, width))

    def forward(self, x: Tensor) -> Tensor:
        value_NT = x.flatten(1)
        whole_NT = value_NT.detach().floor().clamp(0, 254)
        part_NT1 = (value_NT - whole_NT)[..., None]
        low_NT = whole_NT.long()
        embedded_NTD = self.weight[low_NT] * (1 - part_NT1) + self.weight[low_NT + 1] * part_NT1
        return embedded_NTD.to(self.weight.dtype)


class ByteNetwork(nn.Module):
    def __init__(self, encoder: nn.Module, byte: int, width: int, stride: int, classes: int) -> None:
        super().__init__()
        self.bytes, self.bert = Bytes(byte), encoder
        self.words = nn.Conv1d(byte, width, 2 * stride, stride, padding=stride // 2)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        words_NDT = torch.relu(self.words(self.bytes(x).transpose(1, 2)))
        found_NTD = self.bert(inputs_embeds=words_NDT.transpose(1, 2)).last_hidden_state
        logits: Tensor = self.head(found_NTD.mean(1))
        return logits


@dataclass(frozen=True)
class BertBytes(Architecture):
    """transformers' BERT encoder from a configuration, no download, over bytes that a strided convolution gathers into a shorter
    sequence, as CANINE does (Clark et al., TACL 2022, arXiv:2103.06874)."""

    takes = "bytes"

    layer: str = "net.bert.encoder.layer.1.output.dense"
    width: Annotated[int, Ge(8)] = 64
    depth: Annotated[int, Ge(1)] = 2
    heads: Annotated[int, Ge(1)] = 4
    byte: Annotated[int, Ge(1)] = 32
    """The width of a byte's embedding."""
    stride: Annotated[int, Ge(1)] = 4

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"expected a width that the {self.heads} heads divide, got {self.width}")

    def build(
        self, shape: Shape, classes: int, seed: int, mean: float = 0.0, std: float = 1 / 255
    ) -> nn.Module:
        """Decodes the bytes itself: mean and std of the data are not used."""
        network = super().build(shape, classes, seed)
        network.normalise = Normalise(0.0, 1 / 255)
        return network

    def network(self, shape: Shape, classes: int) -> nn.Module:
        from transformers import BertConfig, BertModel

        config = BertConfig(
            vocab_size=1,
            hidden_size=self.width,
            num_hidden_layers=self.depth,
            num_attention_heads=self.heads,
            intermediate_size=4 * self.width,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            max_position_embeddings=-(-torch.Size(shape).numel() // self.stride) + 1,
            type_vocab_size=1,
        )
        encoder = BertModel(config, add_pooling_layer=False)
        embeddings: Any = encoder.embeddings
        embeddings.word_embeddings = None  # bytes have their own
        return ByteNetwork(encoder, self.byte, self.width, self.stride, classes)
