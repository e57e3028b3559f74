"""A cooler API: who may set the temperature asks for texts of less entropy, in which a mark has less room.

A green list moves only what is undecided (Kirchenbauer et al., ICML 2023, arXiv:2301.10226, section 4: spike entropy), and a
Gumbel draw at temperature 0 is the most likely id whatever the key says.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Gt
from torch import Tensor, nn

from ...core.theft import Access, Adversary, Attack, Surrogate


class Cooled(nn.Module):
    """Writes what `source` writes at another temperature; `forward` is the source's."""

    def __init__(self, source: nn.Module, temperature: float) -> None:
        super().__init__()
        self.source, self.temperature = source, temperature

    def forward(self, ids_NT: Tensor) -> Tensor:
        logits_NVT: Tensor = self.source(ids_NT)
        return logits_NVT

    def write(self, prompts_NP: Tensor, tokens: int, seed: int, temperature: float | None = None) -> Tensor:
        """(N, tokens) int64. Who asks for a temperature gets it."""
        heat = self.temperature if temperature is None else temperature
        ids_NT: Tensor = self.source.write(prompts_NP, tokens, seed, heat)  # type: ignore[operator]
        return ids_NT


@dataclass(frozen=True)
class Temperature(Attack):
    needs = "texts"
    data = "none"
    axis = "1 / temperature"
    paper = "Kirchenbauer et al., ICML 2023, arXiv:2301.10226"

    temperatures: tuple[Annotated[float, Gt(0)], ...] = (0.8, 0.5, 0.3)

    def __call__(self, access: Access, adversary: Adversary) -> Iterator[Surrogate]:
        for heat in sorted(self.temperatures, reverse=True):
            yield Surrogate(1 / heat, Cooled(access.author(), heat).eval())
