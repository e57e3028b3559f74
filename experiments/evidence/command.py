"""`assay evidence`: its words and options. What they do is in the files beside this one, imported when needed."""

import argparse
from collections.abc import Callable
from importlib import import_module

from rich.console import Console

Options = Callable[[argparse.ArgumentParser], None]


def evidence(arguments: argparse.Namespace, rest: list[str], console: Console) -> int:
    """Exit codes: 0 valid or done, 1 not valid, 2 bad input."""
    module, _, name = arguments.does.partition(":")
    code: int = getattr(import_module(f".{module}", __package__), name)(arguments, rest, console)
    return code


def evidence_options(sub: argparse.ArgumentParser) -> None:
    words = sub.add_subparsers(dest="word", required=True, metavar="WORD")
    for name, does, options, text in WORDS:
        one = words.add_parser(name, help=text, description=text, allow_abbrev=False)
        one.set_defaults(does=does)
        if options is not None:
            options(one)


def _init(one: argparse.ArgumentParser) -> None:
    one.add_argument("log", help="a new folder for the log and its key")
    one.add_argument("--origin", default="assay.local/log", help="the log's name (default: %(default)s)")
    which = one.add_mutually_exclusive_group(required=True)
    which.add_argument("--witness", help="http(s)://HOST:PORT, or the folder of a witness on this machine")
    which.add_argument("--no-witness", action="store_true", help="then whoever holds the log can rewrite it")
    one.add_argument("--witness-key", help="its .pub file, where it is reached over a network")


def _witness(one: argparse.ArgumentParser) -> None:
    text = "init: a new witness; watch: cosign this log from now on; serve: answer over HTTP"
    one.add_argument("action_", metavar="ACTION", choices=["init", "watch", "serve"], help=text)
    one.add_argument("folder")
    one.add_argument("log_key", nargs="?", help="of watch: the log's log.pub")
    one.add_argument("--name", default="assay.local/witness", help="of init (default: %(default)s)")
    one.add_argument("--host", default="127.0.0.1")
    one.add_argument("--port", type=int, default=8731)


def _owner(one: argparse.ArgumentParser) -> None:
    one.add_argument("file", help="a new file for 32 secret bytes: all that an owner keeps")


def _deposit(one: argparse.ArgumentParser) -> None:
    text = "key: commit, and get the derived key; model: state the digest of what was trained with it"
    one.add_argument("action_", metavar="STEP", choices=["key", "model"], help=text)
    one.add_argument("log")
    one.add_argument("folder", help="of this deposit: its state and key files")
    one.add_argument("model", nargs="?", help="of step model: the weights, safetensors")
    one.add_argument("--owner", required=True, help="the owner's secret file")
    one.add_argument("--alpha", default="1e-6", help="of step key: the declared rate (default: %(default)s)")
    text = "of step key: trigger sets to open one at a time (default: 1)"
    one.add_argument("--subsets", type=int, default=1, help=text)
    one.add_argument("--claim", default="trained with the deposited key", help="of step model: a sentence")
    one.add_argument("--dna", help="of step model: JSON by which copies are found")


def _embed(one: argparse.ArgumentParser) -> None:
    one.add_argument("folder", help="of the deposit")
    one.add_argument("output", help="where the marked model goes, safetensors")


def _prove(one: argparse.ArgumentParser) -> None:
    one.add_argument("log")
    one.add_argument("folder", help="of the deposit")
    one.add_argument("output", help="the bundle, a zip")
    one.add_argument("--stamp", help="a timestamp authority's http(s)://..., or the folder of a test one")
    text = "write the private opening of this subset too, for a judge: OUTPUT.opening.json"
    one.add_argument("--open", type=int, metavar="SUBSET", help=text)
    one.add_argument("--owner", help="of --open: the owner's secret file")


def _verify(one: argparse.ArgumentParser) -> None:
    one.add_argument("bundle", help="a zip or a folder")
    one.add_argument("--log-key", help="the log's .pub, got elsewhere")
    one.add_argument("--witness-key", help="the witness's .pub, got elsewhere")
    one.add_argument("--opening", help="the private opening of a subset")
    one.add_argument("--model", action="append", default=[], help="a model file that must be deposited")
    one.add_argument("--tsa-root", help="roots (PEM) of the authorities whose tokens the bundle carries")
    one.add_argument("--json", action="store_true")


def _audit(one: argparse.ArgumentParser) -> None:
    one.add_argument("log")
    one.add_argument("--seen", action="append", default=[], help="a checkpoint that somebody else was given")
    one.add_argument("--json", action="store_true")


def _dispute(one: argparse.ArgumentParser) -> None:
    text = "open: check the proofs and make a case; run: hear it; report: the page and its PDF"
    one.add_argument("action_", metavar="ACTION", choices=["open", "run", "report"], help=text)
    one.add_argument("case", help="a folder; private, for it holds openings")
    one.add_argument("--suspect", help="of open: the accused model, safetensors")
    for who, whose in (("", "the claimant's"), ("their-", "the counter-claimant's")):
        one.add_argument(f"--{who}bundle", help=f"of open: {whose} bundle")
        one.add_argument(f"--{who}opening", help=f"of open: {whose} opening")
        one.add_argument(f"--{who}model", help=f"of open: {whose} deposited model")
    one.add_argument("--log-key", help="of open: the log's .pub, got elsewhere")
    one.add_argument("--witness-key", help="of open: the witness's .pub, got elsewhere")
    text = "of run: models trained without either mark (default: %(default)s)"
    one.add_argument("--independent", type=int, default=5, help=text)
    text = "of run: the highest rate that the judge accepts; a deposit that declares a lower one is tested at that"
    one.add_argument("--alpha", default="1e-6", help=f"{text} (default: %(default)s)")


def _attacks(one: argparse.ArgumentParser) -> None:
    one.add_argument("--seed", type=int, default=0)
    one.add_argument("--only", action="append", default=[], help="the name of an attack; several times")
    one.add_argument("--output", help="a JSON file for the rows")
    one.add_argument("--json", action="store_true")


WORDS: tuple[tuple[str, str, Options | None, str], ...] = (
    ("init", "logs:init", _init, "a new log"),
    ("witness", "logs:witness", _witness, "the independent process that cosigns a log's checkpoints"),
    ("owner", "deposits:owner", _owner, "a new owner's secret"),
    ("deposit", "deposits:deposit", _deposit, "two steps: assay evidence deposit key LOG NEW --owner FILE watermark=adi_derived"),
    ("embed", "deposits:embed", _embed, "train the model with the deposited key"),
    ("prove", "deposits:prove", _prove, "a bundle for others to verify offline"),
    ("verify", "checks:verify", _verify, "check a bundle offline: exit code 0 valid, 1 not valid, 2 bad input"),
    ("audit", "checks:audit", _audit, "check a whole log, and what others saw of it"),
    ("dispute", "case:dispute", _dispute, "a hearing: open, run, report"),
    ("attacks", "table:attacks", _attacks, "attacks on evidence itself, and what it costs to succeed"),
)  # fmt: skip
"""Word, module and function, its options, a line of help."""
