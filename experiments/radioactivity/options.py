"""The options of `assay radioactivity`."""

import argparse

from ..options import own_options


def radioactivity_options(sub: argparse.ArgumentParser) -> None:
    grid = {"shares": "0.01,0.05,0.1,1", "widths": "1,4", "deltas": "2,4"}
    about = {
        "shares": "of the training texts that are marked",
        "widths": "of windows, h",
        "deltas": "of KGW's bias",
    }
    for name, values in grid.items():
        sub.add_argument(f"--{name}", default=values, help=f"{about[name]} (default: %(default)s)")
    counts = {"texts": 1024, "tokens": 112, "prompt": 16, "epochs": 2, "probes": 256, "strangers": 200}
    text = {
        "texts": "of training, marked or not",
        "tokens": "ids of each text",
        "prompt": "ids of each prompt",
        "epochs": "of training",
        "probes": "texts that the student writes, and reads",
        "strangers": "keys of strangers that are scored beside the owner's",
    }
    for name, value in counts.items():
        sub.add_argument(f"--{name}", type=int, default=value, help=f"{text[name]} (default: %(default)s)")
    sub.add_argument("--lr", type=float, default=1e-3, help="of training (default: %(default)s)")
    sub.add_argument("--plot", metavar="FILE", help="png, svg or pdf (default: beside the record)")
    sub.add_argument("--json", action="store_true")
    own_options(sub)
