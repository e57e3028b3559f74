"""The texts as one page that needs nothing else: no script, one style, named by its hash in the page's own policy."""

import base64
import hashlib
import math
from collections.abc import Sequence
from html import escape

from ...watermarks.llm.card import Card
from .. import show
from .detection import Found

LEVELS = 5
STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #fff; --faint: #6a737d; --line: #d8dee4;
  --t0: #ffd8c9; --t1: #fdeee6; --t2: #f3f4f6; --t3: #dcf1de; --t4: #a6e0ae; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8eb; --paper: #14171a; --faint: #9aa2ab; --line: #343a41;
  --t0: #6b2f1c; --t1: #47291f; --t2: #2a2f35; --t3: #214530; --t4: #1c6b37; } }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 60rem; font: 16px/1.6 system-ui, sans-serif;
  color: var(--ink); background: var(--paper); }
h1 { font-size: 1.3rem; } h2 { font-size: 1rem; margin: 2rem 0 .4rem; }
.faint { color: var(--faint); } .wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .2rem .8rem .2rem 0; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child, td.name { text-align: left; }
.text { white-space: pre-wrap; overflow-wrap: anywhere; line-height: 1.9; }
.text span { border-radius: 3px; padding: 1px 0; }
.u { color: var(--faint); } .t0 { background: var(--t0); } .t1 { background: var(--t1); }
.t2 { background: var(--t2); } .t3 { background: var(--t3); } .t4 { background: var(--t4); text-decoration: underline; }
"""


def level(term: float | None) -> str:
    """The class of an id: t0 speaks against the key, t4 for it, u does not count."""
    return "u" if term is None else f"t{min(LEVELS - 1, int(LEVELS * term))}"


def page(card: Card, found: Sequence[Found], fpr: float, keys: int) -> str:
    """keys: how many were tried."""
    digest = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    settings = ", ".join(f"{name} {value}" for name, value in card.settings.items())
    about = f"{card.scheme} ({settings}; {card.prf}), key {card.key_id}, vocabulary {card.vocabulary:,}"
    legend = "".join(f'<span class="{name}"> {text} </span> ' for name, text in LEGEND)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(card.scheme)}: is the text marked?</title><style>{STYLE}</style></head>\n"
        f'<body><h1>Is the text marked?</h1><p class="faint">{escape(about)}</p>\n{_table(found, fpr, keys)}\n'
        f'<p class="text">{legend}</p>\n{"".join(_text(one) for one in found if one.terms)}</body></html>\n'
    )


LEGEND = (("t4", "speaks for the key"), ("t2", "neither"), ("t0", "speaks against it"), ("u", "not counted"))


def _table(found: Sequence[Found], fpr: float, keys: int) -> str:
    said = rows(found, fpr, keys)
    heads = "".join(f"<th>{head}</th>" for head in said[0])
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(value)}</td>" for value in row.values()) + "</tr>\n" for row in said
    )
    return f'<div class="wide"><table><tr>{heads}</tr>\n{body}</table></div>'


def rows(found: Sequence[Found], fpr: float, keys: int) -> list[dict[str, str]]:
    """What is said of every text, by column, here and in the terminal: of several keys the best; messages where one was found,
    since what stands in a text that is not marked is chance."""
    said = [_cells(one, fpr) for one in found]
    needed = {"best key": keys > 1, "message": any(row["message"] for row in said)}
    return [{name: value for name, value in row.items() if needed.get(name, True)} for row in said]


def _name(one: Found) -> str:
    if one.line is None:
        return "all together"
    return str(one.line) if one.span is None else f"{one.line}, ids {one.span[0]} to {one.span[1]}"


def _cells(one: Found, fpr: float) -> dict[str, str]:
    marked = one.log10_p <= math.log10(fpr)
    return {
        "line": _name(one),
        "ids": f"{one.tokens:,}",
        "counted": f"{one.scored:,}",
        "statistic": "-" if one.statistic is None else f"{one.statistic:.2f}",
        "p": show.p_value(one.log10_p),
        f"marked at {fpr:g}": "yes" if marked else "no",
        "best key": one.key,
        "message": (one.message or "") if marked else "",
    }


def _text(one: Found) -> str:
    spans = "".join(
        f'<span class="{level(term)}"{_hint(term)}>{escape(piece)}</span>'
        for piece, term in zip(one.pieces, one.terms, strict=True)
    )
    return f'<h2>Line {one.line}: p = {show.p_value(one.log10_p)}</h2>\n<p class="text">{spans}</p>\n'


def _hint(term: float | None) -> str:
    return "" if term is None else f' title="{term:.2f}"'
