"""The command line: which commands there are. What they do is in verbs.py and in the folders of the larger ones."""

import argparse
import sys
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.markup import escape

from .. import __version__
from ..core.errors import ConfigError, printable
from . import options, verbs
from .calibrate.show import calibrate
from .detectability.show import detectability
from .evidence.command import evidence, evidence_options
from .package.options import package_options
from .package.show import package
from .radioactivity.options import radioactivity_options
from .radioactivity.show import radioactivity
from .rights.options import rights_options
from .rights.show import rights
from .serve.options import serve_options
from .serve.show import serve
from .show import terminal
from .texts.show import detect, detect_options
from .trace.options import trace_options
from .trace.show import trace
from .works.options import works_options
from .works.show import works

BAD_INPUT, INTERRUPTED = 2, 130
EPILOG = "Settings are Hydra overrides: task=digits watermark=uchida attack=prune seed=0. `assay list` shows the options."

Verb = Callable[[argparse.Namespace, list[str], Console], int]
# fmt: off
COMMANDS: tuple[tuple[str, Verb, Callable[[argparse.ArgumentParser], None] | None, str], ...] = (
    ("run", verbs.run, None, "one trial: assay run watermark=uchida attack=prune; a sweep with -m seed=0,1,2"),
    ("suite", verbs.suite, options.suite_options, "a named grid of trials, the ranked table and the page"),
    ("status", verbs.status, options.status_options, "what is done, blocked and failed in the store"),
    ("list", verbs.list_, options.list_options, "schemes, attacks, tasks, models, deployments, with what they declare"),
    ("board", verbs.board, options.board_options, "the leaderboard page, one file; or the ranking for papers"),
    ("verify", verbs.verify, options.verify_options, "evidence of a key in a model: assay verify MODEL.safetensors KEY"),
    ("weightstats", verbs.weightstats, options.weightstats_options,
     "a first look at a suspect's weights, alone or beside references: assay weightstats MODEL [REFERENCE ...]"),
    ("detect", detect, detect_options,
     "is a text marked? log10 p per text, token by token: assay detect TEXTS.jsonl --card CARD.json"),
    ("detectability", detectability, options.detectability_options,
     "can a thief tell that a model is marked? assay detectability watermark=uchida"),
    ("calibrate", calibrate, options.calibrate_options,
     "is a scheme's p-value what it says? both nulls, observed rates, a picture: assay calibrate watermark=uchida"),
    ("radioactivity", radioactivity, radioactivity_options,
     "does a model trained on marked text show it? a student per share of marked text: assay radioactivity"),
    ("paper", verbs.paper, options.paper_options,
     "a paper's numbers against ours: assay paper uchida17 scale=laptop; alone, the list of papers"),
    ("claim", verbs.claim, options.claim_options,
     "a submission's numbers against ours: assay claim verify claims/uchida-2017.json"),
    ("package", package, package_options,
     "sealed models, licences, and whose copy leaked: assay package create MODEL NEW.wmpkg --issuer OWNER.key"),
    ("evidence", evidence, evidence_options,
     "deposits, proofs and disputes: assay evidence init | deposit | prove | verify | audit | witness | dispute | attacks"),
    ("serve", serve, serve_options, "a model over HTTP, with keys, budgets and revocation: assay serve start MODEL"),
    ("trace", trace, trace_options,
     "where does a model come from? assay trace SUSPECT --registry DIR; assay trace add MODEL --registry DIR"),
    ("works", works, works_options,
     "find copies of texts, pictures, videos, sounds and label tables: assay works find FILE --registry DIR"),
    ("rights", rights, rights_options,
     "licences of models and works: offers, purchases, resales, metered queries, shares of the revenue"),
    ("wandb", verbs.wandb, options.wandb_options, "the store as a W&B group: a run per trial, and their board"),
)
# fmt: on
"""Name, what it does, its options, a line of help."""


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="assay", description="What is a model watermark worth?", epilog=EPILOG)
    top.add_argument("--version", action="version", version=f"assay {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, action, options_of, text in COMMANDS:
        # `assay run --help` is answered by sweep.py, which knows Hydra's words.
        sub = commands.add_parser(
            name, help=text, description=text, epilog=EPILOG, add_help=name != "run", allow_abbrev=False
        )
        sub.set_defaults(action=action)
        if options_of is not None:
            options_of(sub)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 done, 1 some trial failed, 2 bad input, 130 interrupted."""
    console, complain = terminal(), terminal(stderr=True)
    arguments, rest = parser().parse_known_args(argv)
    try:
        code: int = arguments.action(arguments, rest, console)
    except (ConfigError, OSError) as error:
        said = "\n".join(map(printable, str(error).split("\n")))
        complain.print(f"[red]assay:[/] {escape(said)}", soft_wrap=True, highlight=False)
        return BAD_INPUT
    except KeyboardInterrupt:
        complain.print("interrupted: finished trials are kept, the same command resumes")
        return INTERRUPTED
    return code


if __name__ == "__main__":
    sys.exit(main())
