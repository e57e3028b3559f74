"""Transforms of queries (N, C, H, W) in [0, 1] and of answers (N, C logits): what a thief can put before and behind a stolen model.

Strengths rise with what is lost; 0 would be the identity. Defaults are the S&P 2022 study's (Lukas et al.), where it has them.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

from .jpeg import jpeg as jpeg_at


def jpeg(x: Tensor, strength: float) -> Tensor:
    """At quality 100 - strength."""
    return jpeg_at(x, round(100 - strength))


def blur(x: Tensor, strength: float) -> Tensor:
    """Gaussian of sigma `strength` pixels, cut at 3 sigma; the border repeats."""
    radius = math.ceil(3 * strength)
    place = torch.arange(-radius, radius + 1, dtype=x.dtype, device=x.device)
    line = torch.exp(-place.square() / (2 * strength**2))
    line = line / line.sum()
    channels = x.shape[1]
    for shape, pad in (((1, 1, -1, 1), (0, 0, radius, radius)), ((1, 1, 1, -1), (radius, radius, 0, 0))):
        kernel = line.reshape(shape).repeat(channels, 1, 1, 1)
        x = functional.conv2d(functional.pad(x, pad, mode="replicate"), kernel, groups=channels)
    return x


def median(x: Tensor, strength: float) -> Tensor:
    """Over windows of `strength` x `strength` pixels (the lower one of an even count); the border repeats. A window of even
    side lies half a pixel to the right and below its pixel (SciPy's to the left and above): on 8x8 digits 2x2 costs more accuracy
    than 3x3."""
    size = round(strength)
    before, after = (size - 1) // 2, size // 2
    padded = functional.pad(x, (before, after, before, after), mode="replicate")
    return padded.unfold(2, size, 1).unfold(3, size, 1).flatten(-2).median(-1).values


def quantise(x: Tensor, strength: float) -> Tensor:
    """To 8 - strength bits."""
    top = float(2 ** (8 - strength)) - 1
    return (x * top).round() / top


def noise(x: Tensor, strength: float, seed: int = 0) -> Tensor:
    """Gaussian of deviation `strength`, the same for the same place in a batch, so that answers can be repeated."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(x.shape, generator=generator).to(x)
    return (x + strength * drawn).clamp(0, 1)


def flip(x: Tensor, strength: float) -> Tensor:
    """Left and right exchanged, mixed with the original: at 1 the mirror image."""
    return (1 - strength) * x + strength * x.flip(-1)


def squeeze(x: Tensor, strength: float) -> Tensor:
    """Feature squeezing (Xu et al., NDSS 2018, arXiv:1704.01155): to 8 - strength bits, then a 2x2 median."""
    return median(quantise(x, strength), 2)


def coarse(logits: Tensor, strength: float) -> Tensor:
    """Probabilities to 3 - strength decimals, as logits; at 3 the label alone. The label stays what it was."""
    scores = torch.softmax(logits.float(), -1)
    label = functional.one_hot(logits.argmax(-1), logits.shape[-1])
    decimals = round(3 - strength)
    rounded = scores.round(decimals=decimals) if decimals > 0 else label.float()
    return ((rounded + 1e-3 * label).clamp_min(1e-6)).log().to(logits.dtype)
