"""The board as one file that needs no network: template, style, scripts and records, joined under a strict policy.

Libraries and records are sent as gzip in base64 and unpacked by the browser's own DecompressionStream. A script runs only if
the hash of its text is in the policy, an unpacked one too, so none needs eval; records are data, never markup. Styles may be
inline, because Plot sets them.
"""

import gc
import gzip
import hashlib
import json
import re
from base64 import b64encode
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..core.atomic import write_atomically
from .ranking import Record
from .screen import sentences
from .store import Excluded
from .view import view

HERE = Path(__file__).resolve().parent
INCLUDE = re.compile(r"<!-- (policy|style|script|library|records)(?: (\S+))? -->")


@contextmanager
def uncollected() -> Iterator[None]:
    """Without the cyclic collector, which would walk ten thousand records again and again: they hold no cycles."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


@uncollected()
def write_board(
    found: Iterable[Record | Excluded], path: Path, claims: Sequence[Record] = ()
) -> tuple[int, list[str]]:
    """Write the page at `path`, whole or not at all; how many trials it holds, and sentences about what does not count. Records
    are read one by one: pass Store.screened(), not a list, where there are thousands."""
    data = view(found, claims)
    write_atomically(path, page(data).encode())
    excluded = [Excluded(file, kind, because) for kind, file, because in data["excluded"]]
    return len(data["trials"].get("id", ())), sentences(excluded, data["unsigned"])


def page(data: Any) -> str:
    """The template, board.html, with every include replaced in one pass: what is put in is never read for includes."""
    template = (HERE / "board.html").read_text(encoding="utf-8")
    scripts = {
        name: source(name) for kind, name in INCLUDE.findall(template) if kind in ("script", "library")
    }

    def included(match: re.Match[str]) -> str:
        kind, name = match.groups()
        if kind == "policy":
            return policy(scripts.values())
        if kind == "style":
            return f"<style>{source(name)}</style>"
        if kind == "script":
            return f"<script>{scripts[name]}</script>"
        if kind == "library":
            return f'<script type="text/plain" class="library">{packed(scripts[name])}</script>'
        return f'<script type="text/plain" id="records">{packed(json_text(data))}</script>'

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


def packed(text: str) -> str:
    """gzip in base64, the same bytes for the same text; holds no character that could end a script."""
    return b64encode(gzip.compress(text.encode(), compresslevel=6, mtime=0)).decode()


def json_text(data: Any) -> str:
    return json.dumps(data, separators=(",", ":"), allow_nan=False)
