"""The options of every command but `run`, whose words are Hydra's."""

import argparse
import os


def runs_folder() -> str:
    return os.environ.get("ASSAY_RUNS", "runs")


def suite_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("name", help="quick, or another of conf/suite")
    text = "trials at a time (default: the cores); the same as launcher.workers=, of launcher=local | joblib | slurm | ray"
    sub.add_argument("--jobs", type=int, help=text)
    own_options(sub)


def verify_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("model", help="the suspect's weights, safetensors")
    sub.add_argument("key", help="the owner's key, as `assay run save=FOLDER` writes it")
    own_options(sub)
    sub.add_argument("--json", action="store_true")


def weightstats_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("model", help="the suspect's weights, safetensors")
    sub.add_argument(
        "references", nargs="*", metavar="REFERENCE", help="models to compare it with, trained alike"
    )
    sub.add_argument(
        "--json", action="store_true", help="all numbers, histograms too; a picture only with --plot"
    )
    sub.add_argument(
        "--plot", metavar="FILE", help="png, svg or pdf (default: MODEL.weights.png in this folder)"
    )
    sub.add_argument("--bins", type=int, default=64, help="bins of the histograms (default: %(default)s)")
    sub.add_argument("--channels", action="store_true", help="statistics of every output channel too")


def wandb_options(sub: argparse.ArgumentParser) -> None:
    store_options(sub)
    mode = os.environ.get("WANDB_MODE", "offline")
    sub.add_argument("--project", default="assay")
    sub.add_argument("--group", help="of all its runs (default: the name of the results folder)")
    sub.add_argument("--mode", default=mode, choices=["offline", "online", "disabled"])


def own_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--config-dir", help="a folder with your own options (watermark/mine.yaml, suite/mine.yaml)"
    )


def store_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--runs", default=runs_folder(), help="the results folder (default: %(default)s)")


def status_options(sub: argparse.ArgumentParser) -> None:
    store_options(sub)
    sub.add_argument("--json", action="store_true")


def list_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--json", action="store_true")
    text = "docs/catalogue.md, with the records of results/digits and results/defaults"
    sub.add_argument("--markdown", action="store_true", help=text)
    own_options(sub)


SUFFIXES = {"latex": "tex", "markdown": "md", "pairs": "pairs.csv", "interactions": "interactions.csv"}
"""Of files, where a form's name is none."""


def board_options(sub: argparse.ArgumentParser) -> None:
    store_options(sub)
    text = "another results folder whose records stand on the same board; may be given several times"
    sub.add_argument("--also", action="append", default=[], metavar="RUNS", help=text)
    forms = ["html", "csv", "parquet", "pairs", "interactions", "latex", "markdown", "pdf", "svg"]
    text = (
        "html: the page; pdf, svg: the frontiers; pairs: schemes against each other; interactions: do layers "
        "protect together; the others: the ranking (default: html)"
    )
    sub.add_argument("--export", default="html", choices=forms, help=text)
    sub.add_argument("--output", help="where to write it (default: RUNS/board.html, or another ending)")
    text = "a folder of claims to show beside their schemes (default: %(default)s, where there is one)"
    sub.add_argument("--claims", default="claims", help=text)


def paper_options(sub: argparse.ArgumentParser) -> None:
    text = "a preset of conf/paper; without it, all presets and what each needs"
    sub.add_argument("name", nargs="?", help=text)
    text = "trials at a time (default: the cores); the same as launcher.workers="
    sub.add_argument("--jobs", type=int, help=text)
    sub.add_argument("--output", help="the folder of the report (default: papers under the results folder)")
    own_options(sub)


def claim_options(sub: argparse.ArgumentParser) -> None:
    text = "verify: run its trials and compare; check: only read the file; schema: what such a file holds"
    sub.add_argument("action_", metavar="ACTION", choices=["verify", "check", "schema"], help=text)
    sub.add_argument("file", nargs="?", help="claims/<scheme>-<year>.json")
    sub.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, help="trials at a time (default: the cores)"
    )
    sub.add_argument(
        "--write", action="store_true", help="put what was measured into the file, as `remeasured`"
    )
    store_options(sub)


def calibrate_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--json", action="store_true")
    own_options(sub)


def detectability_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--models",
        type=int,
        default=20,
        help="pairs of a marked and an unmarked model (default: %(default)s)",
    )
    sub.add_argument("--json", action="store_true")
    own_options(sub)
