"""The board as one file that needs no network: template, style, scripts and records, joined under a strict policy.

Scripts run only if their hash is in the policy; records are data, never markup. Styles may be inline, because Plot and
Tabulator set them.
"""

import hashlib
import json
import re
from base64 import b64encode
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..core.atomic import write_atomically
from .ranking import Record
from .view import view

HERE = Path(__file__).resolve().parent
INCLUDE = re.compile(r"<!-- (policy|style|script|records)(?: (\S+))? -->")


def write_board(records: Iterable[Record], path: Path) -> None:
    """Write the page at `path`, whole or not at all."""
    write_atomically(path, page(view(records)).encode())


def page(data: Any) -> str:
    """The template, board.html, with every include replaced in one pass: what is put in is never read for includes."""
    template = (HERE / "board.html").read_text(encoding="utf-8")
    scripts = {name: source(name) for kind, name in INCLUDE.findall(template) if kind == "script"}

    def included(match: re.Match[str]) -> str:
        kind, name = match.groups()
        if kind == "policy":
            return policy(scripts.values())
        if kind == "style":
            return f"<style>{source(name)}</style>"
        if kind == "script":
            return f"<script>{scripts[name]}</script>"
        return f'<script type="application/json" id="records">{embedded(data)}</script>'

    return INCLUDE.sub(included, template)


def source(name: str) -> str:
    """A file of this folder, without the pointer to a source map that is not shipped."""
    text = (HERE / name).read_text(encoding="utf-8")
    return re.sub(r"\n?(//|/\*)# sourceMappingURL=\S+( ?\*/)?", "", text).strip()


def policy(scripts: Iterable[str]) -> str:
    """The content security policy as a meta tag: these scripts, inline styles, and nothing from anywhere."""
    hashes = " ".join(
        f"'sha256-{b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in scripts
    )
    rules = f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    return f'<meta http-equiv="Content-Security-Policy" content="{rules}">'


def embedded(data: Any) -> str:
    """JSON that no markup can end: every < is escaped."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c")
