"""The page is one file that needs no network and hides no record. What a reader does with it: test_browser.py."""

import base64
import gzip
import hashlib
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from pages import EVIL, quick, several, unfinished, written


class Page(HTMLParser):
    """The scripts of a page, its policy, and whatever its markup would load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.policy = ""
        self.loads: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        self.loads += [name for name in ("src", "href", "srcset", "data", "action") if name in named]
        if tag == "script":
            self.scripts.append((named, ""))
        if named.get("http-equiv") == "Content-Security-Policy":
            self.policy = named["content"] or ""

    def handle_data(self, data: str) -> None:
        if self.lasttag == "script" and data.strip():
            self.scripts[-1] = (self.scripts[-1][0], self.scripts[-1][1] + data)


def unpacked(text: str) -> str:
    return gzip.decompress(base64.b64decode(text)).decode()


def records_in(text: str) -> dict[str, Any]:
    (body,) = [body for attributes, body in Page(text).scripts if attributes.get("id") == "records"]
    data: dict[str, Any] = json.loads(unpacked(body))
    return data


def test_page_is_one_small_file_that_loads_nothing(tmp_path: Path) -> None:
    text = written(several(), tmp_path)
    styles = "".join(re.findall(r"<style>(.*?)</style>", text, re.DOTALL))
    scripts = "".join(body for attributes, body in Page(text).scripts if "type" not in attributes)
    assert len(text.encode()) < 400_000
    assert Page(text).loads == []
    assert not re.search(r"url\(|@import|https?://", styles)
    assert not re.search(r"\bimport\s*\(|sourceMappingURL|\beval\(|XMLHttpRequest|fetch\(|innerHTML", scripts)


def test_policy_admits_exactly_the_scripts_of_the_page(tmp_path: Path) -> None:
    page = Page(written(several(), tmp_path))
    rules = dict(rule.strip().split(" ", 1) for rule in page.policy.split(";"))
    code = [unpacked(text) for attributes, text in page.scripts if attributes.get("class") == "library"]
    code += [text for attributes, text in page.scripts if "type" not in attributes]
    assert len(code) == len(page.scripts) - 1
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in code]
    assert rules.pop("script-src") == " ".join(f"'sha256-{digest}'" for digest in hashes)
    assert rules.pop("style-src") == "'unsafe-inline'"
    assert rules == dict.fromkeys(("default-src", "base-uri", "form-action"), "'none'")


def test_every_record_is_on_the_page_whatever_its_reason_says(tmp_path: Path) -> None:
    text = written(several(), tmp_path)
    data = records_in(text)
    assert len(data["trials"]["id"]) == len(several())
    assert EVIL in [data["pool"][i] for i in data["trials"]["reason"]]
    assert "document.title='owned'" not in text


@pytest.mark.parametrize("count", [0, 1])
def test_few_records_make_a_page(count: int, tmp_path: Path) -> None:
    records = [unfinished(quick()[0], "failed", "\ud800")][:count]
    assert len(records_in(written(records, tmp_path))["trials"].get("id", ())) == count


def test_the_leaderboard_needs_no_torch() -> None:
    code = "import sys, assay.leaderboard.page, assay.leaderboard.store; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
