"""What fixed thresholds would decide on a store's null models, all innocent, as a Markdown table of the schemes that count hits.

python benchmarks/thresholds.py STORE. The rules: more than none (`wm_acc > 0`); more than half; a normal cut at 5 %, through the
mean and standard deviation of the first eight null models; and the exact tail at 1 %, where the scheme has one.
"""

import sys
from pathlib import Path

import numpy as np

from assay.core.statistics import binomial_log10_p
from assay.leaderboard.ranking import Record
from assay.leaderboard.store import Store

FIRST, NORMAL = 8, 1.645
CHANCE = {"matching bits": 0.5, "matching signs": 0.5, "trigger hits": 0.1, "query hits": 0.1}
"""On ten classes."""
HEAD = ("scheme", "marked model", "null models", "> 0", "> half", "normal cut, 5 %", "exact tail, 1 %")


def row(record: Record) -> list[str]:
    marked, null_M = record["marked"], np.array(record["nulls"]["independent_models"])
    trials, first, rest = marked["trials"], null_M[:FIRST], null_M[FIRST:]
    exact = "no exact tail"
    if marked["source"] == "binomial":
        two_sided = CHANCE[marked["unit"]] == 0.5
        log10_p_M = binomial_log10_p(null_M, trials, CHANCE[marked["unit"]], two_sided)
        exact = share(log10_p_M <= -2)
    cut = first.mean() + NORMAL * first.std(ddof=1)
    return [
        record["choices"]["watermark"],
        f"{marked['statistic']:g} of {trials}",
        f"{null_M.min():g} to {null_M.max():g}",
        *map(share, (null_M > 0, null_M > trials / 2, rest > cut)),
        exact,
    ]


def share(accused_M: np.ndarray) -> str:
    return f"{int(accused_M.sum())} of {len(accused_M)}"


def hits(record: Record) -> bool:
    """Whether it is of a marked model whose scheme counts hits and whose null models could be read."""
    if record["status"] != "ok" or record["choices"]["attack"] != "none" or record["seed"] != 0:
        return False
    marked, null = record["marked"], record["nulls"]["independent_models"]
    whole = marked["statistic"] is not None and float(marked["statistic"]).is_integer()
    return bool(marked["trials"] and whole and null and None not in null and min(null) >= 0)


def main(store: str) -> None:
    records = [record for record in Store(Path(store) / "records") if hits(record)]
    rows = [HEAD, ["---"] * len(HEAD), *map(row, sorted(records, key=lambda r: r["choices"]["watermark"]))]
    print("\n".join(f"| {' | '.join(cells)} |" for cells in rows))


if __name__ == "__main__":
    main(*sys.argv[1:])
