"""Every command that the pages for people show in a block is one that Assay understands; what it does is tested elsewhere."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from assay.experiments.cli import parser
from assay.experiments.config import composer
from assay.experiments.suite import grid, narrowed

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "results/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
BLOCK = re.compile(r"^```\w*\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:)([^)#\s]+)\)")
START = re.compile(r"^(?:[A-Z_]+=\S+ )*(?:\.venv/bin/)?assay (?=[a-z])")
ELSEWHERE = re.compile(r"key=|launcher\.|launcher=|hydra|scale=|seeds=|.*glob\(|.*=[A-Z]+$")
"""Words that are no settings of a trial or name a file, sweeps over everything, and names that stand for others."""


def commands(page: Path) -> Iterator[str]:
    for block in BLOCK.findall(page.read_text(encoding="utf-8")):
        for line in block.replace("\\\n", " ").splitlines():
            if START.match(line):
                yield START.sub("", line)


FOUND = [(page.name, command) for page in PAGES for command in dict.fromkeys(commands(page))]


def test_there_are_many() -> None:
    assert len(FOUND) > 80


@pytest.mark.parametrize(("page", "command"), FOUND)
def test_it_is_understood(page: str, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = shlex.split(re.sub(" > .*", "", command), comments=True)
    if "--help" in words:
        with pytest.raises(SystemExit, match=r"^0$"):
            parser().parse_args(words)
        assert capsys.readouterr().out.startswith(f"usage: assay {words[0]}")
        return
    arguments, rest = parser().parse_known_args(words)
    if "--config-dir" in rest:
        return  # the reader's own options
    settings = [word for word in rest if word != "-m" and not ELSEWHERE.match(word)]
    assert all("=" in word for word in settings)
    if arguments.command == "suite":
        _, settings = narrowed(grid(arguments.name, [ROOT / "conf"]), settings)
    if not settings:
        return
    with composer() as compose:
        compose([re.sub(r",.*", "", word) for word in settings])


def test_every_link_leads_to_a_file() -> None:
    """Of the pages and of the reports on papers, whose records are replaced when they are measured again."""
    pages = [*PAGES, *(ROOT / "results").rglob("*.md")]
    links = [(page, link) for page in pages for link in LINK.findall(page.read_text(encoding="utf-8"))]
    missing = [
        f"{page.relative_to(ROOT)}: {link}" for page, link in links if not (page.parent / link).exists()
    ]
    assert not missing, missing
    assert len(links) > 200
