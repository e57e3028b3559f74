"""How many ids a mark needs, by the entropy of what is written: docs/texts_power.svg, and the numbers behind it.

    python benchmarks/text_power.py [--rows N]

A chain over 512 ids stands for the model: after every id the next has a fixed law of the same entropy, so that entropy is all that
differs. Power is the share of texts with p <= 1e-3; unmarked ones have it once in a thousand.
"""

import argparse
import math
from pathlib import Path
from typing import Any

import torch
from measure import keep
from torch import Tensor

from assay.core.secret import Secret
from assay.watermarks.llm.corpus import Texts
from assay.watermarks.llm.gumbel import Gumbel
from assay.watermarks.llm.kgw import Kgw
from assay.watermarks.llm.mpac import Mpac
from assay.watermarks.llm.sampling import SamplingMark
from assay.watermarks.llm.synthid import SynthId

V, LENGTHS, ENTROPIES, RATE = 512, (10, 20, 40, 80, 160, 320), (0.5, 1.0, 2.0, 4.0), 1e-3
SCHEMES: dict[str, SamplingMark] = {
    "kgw, h=2": Kgw(width=2, delta=2.0),
    "gumbel, h=4": Gumbel(),
    "synthid, h=4": SynthId(),
    "mpac, 16 bits": Mpac(width=2),
}
ME = Secret.simulated(1)


def chain(bits: float) -> Tensor:
    """(V, V) logits of the next id after each, every row of this entropy: normal ones times what bisection finds for the row. Of
    one scale for all, a text would run into the rows of least entropy and stay there."""
    noise_VV = torch.randn(V, V, generator=torch.Generator().manual_seed(2))
    low_V, high_V = torch.zeros(V), torch.full((V,), 1e5)
    for _ in range(40):
        middle_V = (low_V + high_V) / 2
        log_p_VV = torch.log_softmax(middle_V[:, None] * noise_VV, -1)
        above_V = -(log_p_VV.exp() * log_p_VV).sum(-1) > bits * math.log(2)
        low_V, high_V = middle_V.where(above_V, low_V), high_V.where(above_V, middle_V)
    return high_V[:, None] * noise_VV


def written(scheme: SamplingMark, logits_VV: Tensor, rows: int, tokens: int) -> Tensor:
    draw = torch.Generator().manual_seed(3)
    ids_BL = torch.randint(V, (rows, 4), generator=draw)
    for _ in range(tokens):
        next_B = scheme.next_ids(logits_VV[ids_BL[:, -1]], ids_BL, ME, draw)
        ids_BL = torch.cat((ids_BL, next_B[:, None]), 1)
    return ids_BL


def power(scheme: SamplingMark, bits: float, rows: int) -> list[float]:
    """At every length: the share of texts found."""
    ids_BL = written(scheme, chain(bits), rows, max(LENGTHS))
    out = []
    for length in LENGTHS:
        part_BL = ids_BL[:, : 4 + length]
        full_B = torch.full((rows,), part_BL.shape[1])
        found = scheme.examine(Texts(part_BL, full_B, torch.full_like(full_B, 4)), [ME], V)
        out.append(float((found.log10_p[:, 0] <= math.log10(RATE)).mean()))
    return out


def needed(shares: list[float]) -> int | None:
    """The first length at which nine of ten texts are found."""
    return next((length for length, share in zip(LENGTHS, shares, strict=True) if share >= 0.9), None)


def drawn(found: dict[str, dict[str, list[float]]], path: Path) -> None:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(ENTROPIES), figsize=(11, 3), sharey=True, layout="constrained")
    for axis, bits in zip(axes, ENTROPIES, strict=True):
        for name, curves in found.items():
            axis.plot(LENGTHS, curves[f"{bits:g}"], marker="o", markersize=3, label=name)
        axis.set(xscale="log", title=f"{bits:g} bits an id", xlabel="ids", ylim=(-0.02, 1.02))
        axis.set_xticks(LENGTHS, [str(length) for length in LENGTHS])
        axis.minorticks_off()
    axes[0].set_ylabel(f"share found at {RATE:g}")
    axes[-1].legend(fontsize=8)
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=64, help="texts (default: %(default)s)")
    rows = parser.parse_args().rows
    torch.set_num_threads(1)
    found = {name: {f"{b:g}": power(s, b, rows) for b in ENTROPIES} for name, s in SCHEMES.items()}
    table: dict[str, Any] = {
        name: {bits: needed(shares) for bits, shares in curves.items()} for name, curves in found.items()
    }
    keep("text_power", texts=rows, lengths=LENGTHS, share_found=found, ids_for_nine_of_ten=table)
    drawn(found, Path(__file__).resolve().parent.parent / "docs" / "texts_power.svg")
    print(table)


if __name__ == "__main__":
    main()
