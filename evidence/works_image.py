"""Pictures by PDQ (Davis & Rosen, Facebook 2019): 256 bits of a small cosine transform, compared by Hamming distance under the
eight symmetries of the square; video as a row of such frames, both ways.

What it does not see: crops, rotations by other angles than quarter turns, letters over most of the picture.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.errors import ConfigError

BITS = 256
Picture = NDArray[np.uint8]
"""(H, W, 3) or (H, W) grey levels."""


def _pdqhash() -> Any:
    try:
        import pdqhash
    except ImportError:
        raise ConfigError(
            "pictures need the extra `dna` (pip install 'assay[dna]'; pdqhash is built from source and needs g++)"
        ) from None
    return pdqhash


def _coloured(picture: Picture) -> Picture:
    """(H, W, 3); ConfigError for anything that is no picture of at least 8 x 8."""
    shape = picture.shape
    if picture.dtype != np.uint8 or len(shape) not in (2, 3) or min(shape[:2]) < 8:
        raise ConfigError(
            f"expected a picture (H, W[, 3]) of uint8, 8 x 8 or larger, got {picture.dtype} {shape}"
        )
    if len(shape) == 3 and shape[2] != 3:
        raise ConfigError(f"expected 3 colours, got {shape[2]}: convert the picture to RGB")
    grey = picture if len(shape) == 3 else np.repeat(picture[:, :, None], 3, 2)
    return np.ascontiguousarray(grey)


def fingerprint(picture: Picture) -> bytes:
    """8 times 32 bytes: of the picture turned and mirrored in the eight ways, itself first."""
    found, _ = _pdqhash().compute_dihedral(_coloured(picture))
    return b"".join(np.packbits(np.asarray(bits, dtype=np.uint8)).tobytes() for bits in found)


def video_fingerprint(pictures: Iterable[Picture], every: int = 1) -> bytes:
    """32 bytes of each `every`-th frame. ConfigError for a video without frames."""
    parts = []
    for i, picture in enumerate(pictures):
        if i % every == 0:
            bits, _ = _pdqhash().compute(_coloured(picture))
            parts.append(np.packbits(np.asarray(bits, dtype=np.uint8)).tobytes())
    if not parts:
        raise ConfigError("expected a video of at least one frame, got none")
    return b"".join(parts)


def _words(fingerprint: bytes) -> NDArray[np.uint64]:
    """(hashes, 4)."""
    return np.frombuffer(fingerprint, dtype="<u8").reshape(-1, BITS // 64)


def _apart(left_AW: NDArray[np.uint64], right_BW: NDArray[np.uint64]) -> NDArray[np.float64]:
    """(A, B) shares of bits that differ."""
    differing_AB: NDArray[np.int64] = np.bitwise_count(left_AW[:, None] ^ right_BW).sum(-1, dtype=np.int64)
    return differing_AB / BITS


def distances(queries: Sequence[bytes], works: Sequence[bytes]) -> NDArray[np.float64]:
    """(queries, works) shares of bits that differ between a work and the best of a query's symmetries."""
    left_AW, right_BW = _words(b"".join(queries)), _words(b"".join(works))
    first_BW = right_BW.reshape(len(works), -1, right_BW.shape[1])[:, 0]
    nearest: NDArray[np.float64] = _apart(left_AW, first_BW).reshape(len(queries), -1, len(works)).min(1)
    return nearest


def distance(query: bytes, work: bytes) -> float:
    return float(distances([query], [work])[0, 0])


def video_distance(query: bytes, work: bytes) -> float:
    """Median over one's frames of the distance to the other's nearest frame, the smaller of both ways: so a part of the work is
    found, and a video that has the work in it. No frame of its own is matched or not: there is no threshold for frames."""
    apart = _apart(_words(query), _words(work))
    return float(min(np.median(apart.min(1)), np.median(apart.min(0))))
