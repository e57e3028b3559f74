"""What JPEG loses (ITU-T T.81): quantised cosine coefficients of 8x8 blocks, by the tables of annex K scaled as libjpeg does.

The entropy coder loses nothing and is left out. Three channels go through YCbCr at full resolution (4:4:4); any other number is
coded as that many grey pictures.
"""

import math
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
"""Table K.1."""
CHROMINANCE = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *((99,) * 8 for _ in range(4)),
)
"""Table K.2."""
YCBCR = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))
"""JFIF 1.02; Cb and Cr around zero here."""


@cache
def cosines() -> Tensor:
    """(8, 8) the orthonormal DCT-II, frequencies by places."""
    k, n = torch.arange(8.0)[:, None], torch.arange(8.0)
    rows = torch.cos(math.pi * (2 * n + 1) * k / 16) / 2
    rows[0] /= math.sqrt(2)
    return rows


def table(base: tuple[tuple[int, ...], ...], quality: int) -> Tensor:
    """libjpeg's scaling: 5000 / q percent below 50, 200 - 2 q from there; entries from 1 to 255."""
    percent = 5000 // quality if quality < 50 else 200 - 2 * quality
    return ((torch.tensor(base) * percent + 50) // 100).clamp(1, 255).float()


def _rounded(values: Tensor) -> Tensor:
    """Halves away from zero, as libjpeg does: even tables meet them often."""
    return values.sign() * (values.abs() + 0.5).floor()


def coded(planes: Tensor, steps: Tensor) -> Tensor:
    """(N, 1, H, W) planes around zero after coding and decoding with one table; the last rows and columns fill the last blocks."""
    height, width = planes.shape[-2:]
    padded = functional.pad(planes, (0, -width % 8, 0, -height % 8), mode="replicate")
    blocks = padded.unfold(2, 8, 8).unfold(3, 8, 8)
    dct, steps = cosines().to(planes), steps.to(planes)
    kept = _rounded((dct @ blocks @ dct.T) / steps) * steps
    back = dct.T @ kept @ dct
    return back.permute(0, 1, 2, 4, 3, 5).reshape(padded.shape)[..., :height, :width]


def jpeg(x: Tensor, quality: int) -> Tensor:
    """Pictures (N, C, H, W) in [0, 1] as a decoder returns them, in 256 levels."""
    levels = (x.clamp(0, 1) * 255).round().float()
    grey = table(LUMINANCE, quality)
    if x.shape[1] == 3:
        matrix = torch.tensor(YCBCR).to(levels)
        middle = torch.tensor([128.0, 0.0, 0.0]).to(levels).reshape(1, 3, 1, 1)
        planes = (torch.einsum("dc,nchw->ndhw", matrix, levels) - middle).round()
        tables = [grey, table(CHROMINANCE, quality), table(CHROMINANCE, quality)]
        parts = [coded(planes[:, i : i + 1], steps) for i, steps in enumerate(tables)]
        decoded = torch.einsum("cd,ndhw->nchw", torch.linalg.inv(matrix), torch.cat(parts, 1) + middle)
    else:
        planes = levels.reshape(-1, 1, *x.shape[2:]) - 128
        decoded = (coded(planes, grey) + 128).reshape(x.shape)
    return (decoded.round().clamp(0, 255) / 255).to(x.dtype)
