"""`assay detect`, the command: log10 p of every text, and the texts coloured by what speaks for the key."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from ...core.errors import ConfigError, printable
from .. import show

if TYPE_CHECKING:
    from .detection import Found

STYLES = {"t0": "red", "t1": "dark_orange3", "t2": "", "t3": "green", "t4": "bold green", "u": "dim"}


def detect_options(sub: argparse.ArgumentParser) -> None:
    text = "a text, or a .jsonl file with `text` or `ids` on every line, and `prompt`, the number of ids not to score"
    sub.add_argument("file", metavar="TEXT_OR_JSONL", help=text)
    sub.add_argument(
        "--card", required=True, help="the mark's card: scheme, settings, key id, tokenizer (docs/texts.md)"
    )
    text = "a key file of `assay run save=`, 64 hex digits, or JSON of another library's key; may come again: the best of several"
    sub.add_argument(
        "--key", action="append", metavar="FILE", help=f"{text} (default: key.safetensors beside the card)"
    )
    sub.add_argument("--tokenizer", help="a folder with tokenizer.json (default: the card's own)")
    text = "ids at the beginning of every text that are the prompt, where its line does not say (default: 0)"
    sub.add_argument("--prompt", type=int, default=0, help=text)
    text = "look for a marked stretch of so many ids in each text; p is corrected for how many stretches there are"
    sub.add_argument("--span", type=int, metavar="IDS", help=text)
    sub.add_argument(
        "--fpr", type=float, default=0.01, help="the declared false-positive rate (default: %(default)s)"
    )
    sub.add_argument(
        "--short", action="store_true", help="p = 1 for texts too short to score, instead of an error"
    )
    sub.add_argument(
        "--tokens", action="store_true", help="show every text, coloured; the default for up to 3"
    )
    sub.add_argument("--html", metavar="FILE", help="write a page with the coloured texts")
    sub.add_argument("--json", action="store_true")


def detect(arguments: argparse.Namespace, rest: list[str], console: Console) -> int:
    if rest:
        raise ConfigError(
            f"expected no other words, got {' '.join(rest)}; `assay detect --help` lists the options"
        )
    if not 0 < arguments.fpr < 1:
        raise ConfigError(f"expected a rate between 0 and 1, got {arguments.fpr}; set --fpr=0.01")
    if arguments.span is not None and arguments.span < 2:
        raise ConfigError(f"expected stretches of at least 2 ids, got {arguments.span}; set --span=50")
    from . import inputs
    from .detection import check_scored, found_in, spans_of
    from .page import page

    path = Path(arguments.card)
    card = inputs.read_card(path)
    scheme = inputs.scheme_of(card)
    keys = inputs.read_keys(arguments.key, card, path)
    tokens = inputs.read_tokenizer(arguments.tokenizer, card, path)
    lines = inputs.read_lines(Path(arguments.file), card, tokens, arguments.prompt)
    shown = arguments.tokens or len(lines) <= 3
    found = found_in(lines, scheme, keys, card, pictured=bool(shown or arguments.html))
    if not arguments.short:
        check_scored(found)
    if arguments.span is not None:
        found = [*found, *spans_of(lines, scheme, keys, card, arguments.span)]
    if arguments.html:
        Path(arguments.html).write_text(page(card, found, arguments.fpr, len(keys)), encoding="utf-8")
    if arguments.json:
        hidden = () if arguments.tokens else ("terms", "pieces")
        content = [{n: v for n, v in asdict(one).items() if n not in hidden} for one in found]
        print(json.dumps({"card": json.loads(card.text()), "found": content}, indent=1))  # noqa: T201
        return 0
    _print(console, found, scheme.unit, arguments.fpr, len(keys))
    if shown:
        _coloured(console, found)
    if arguments.html:
        console.print(f"page: {arguments.html}", soft_wrap=True)
    return 0


def _print(console: Console, found: "list[Found]", unit: str, fpr: float, keys: int) -> None:
    from .page import rows

    table = show.plain_table(f"Is it marked? p of each text, exact; {unit}")
    said = rows(found, fpr, keys)
    for name in said[0]:
        table.add_column(
            name,
            justify="left" if name == "line" else "right",
            no_wrap=name != "message",
            overflow="fold",
        )
    for row in said:
        table.add_row(*row.values())
    console.print(table)
    texts = [one for one in found if one.holm is not None]
    if len(texts) > 1:
        alone = sum(10**one.log10_p <= fpr for one in texts)
        held = sum(10 ** (one.holm or 0.0) <= fpr for one in texts)
        console.print(
            f"{alone} of {len(texts)} texts alone; {held} with Holm's correction for {len(texts)} texts. Of unmarked texts "
            f"at most a share of {fpr:g} is claimed alone.",
            soft_wrap=True,
            highlight=False,
        )


def _coloured(console: Console, found: "list[Found]") -> None:
    from .page import level

    for one in found:
        if not one.terms:
            continue
        text = Text(f"line {one.line}: ", style="bold")
        for piece, term in zip(one.pieces, one.terms, strict=True):
            text.append("\n".join(map(printable, piece.split("\n"))), STYLES[level(term)])
        console.print(text, soft_wrap=False)
