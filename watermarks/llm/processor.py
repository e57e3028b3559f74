"""A sampling mark as a LogitsProcessor, for transformers' generate():

    model.generate(..., do_sample=True, temperature=0.8, logits_processor=[MarkProcessor(scheme, secret, temperature=0.8)])

generate() divides by the temperature after it has called the processors it is given, and marks count logits after that division,
so the temperature is told to both. Top-k and top-p come after, too.
"""

import torch
from transformers import LogitsProcessor

from ...core.errors import ConfigError
from ...core.secret import Secret
from .sampling import SamplingMark


class MarkProcessor(LogitsProcessor):  # type: ignore[misc]
    def __init__(self, scheme: SamplingMark, secret: Secret, temperature: float = 1.0) -> None:
        if not 0 < temperature < float("inf"):
            raise ConfigError(f"temperature: expected a positive number, got {temperature}")
        self.scheme, self.secret, self.temperature = scheme, secret, temperature

    def __call__(self, input_ids: torch.LongTensor, scores: torch.Tensor) -> torch.Tensor:
        heated = scores.float() / self.temperature
        marked = self.scheme.adjusted(heated, input_ids, self.secret) * self.temperature
        return marked.to(scores.dtype)
