"""The report of a hearing: one page that needs nothing else, runs no script, loads nothing, and prints; and that page as PDF."""

import base64
import hashlib
import math
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from ..core.errors import ConfigError

HERE = Path(__file__).resolve().parent
WIDTH = 176  # of a bar's picture, units of its view box
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


def page(case: Mapping[str, Any]) -> str:
    """case: what `assay evidence dispute run` writes (docs/evidence.md). Everything in it is escaped: names are a stranger's."""
    hearing = case["hearing"]
    style = (HERE / "report.css").read_text(encoding="utf-8")
    words = {
        "policy": policy(style),
        "style": style,
        "title": escape(f"{case['suspect']['name']}"),
        "digest": escape(case["suspect"]["digest"]),
        "outcome": escape(hearing["outcome"][:1].upper() + hearing["outcome"][1:]),
        "why": escape(hearing["why"]),
        "parties": "\n".join(map(_party, case["parties"])),
        "cuts": escape(_cuts(hearing)),
        "alpha": f"{hearing['alpha']:g}",
        "draws": str(hearing["draws"]),
        "drawn": escape(case["drawn"]),
        "tests": "\n".join(_tests(hearing)),
        "independents": str(hearing["independents"]),
        "decoys": str(hearing["decoys"]),
        "refused": escape(_refused(hearing["refused"])),
        "checks": "\n".join(map(_check, case["checks"])),
        "assumptions": "\n".join(f"<li>{escape(line)}</li>" for line in case["assumptions"]),
        "made": escape(case["made"]),
        "version": escape(case["version"]),
        "log": escape(case["log"]),
    }
    return Template((HERE / "report.html").read_text(encoding="utf-8")).substitute(words)


def policy(style: str) -> str:
    """Nothing is loaded and nothing runs; the one style sheet is known by its hash."""
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"


def pdf(html: str, path: Path) -> bool:
    """The printed page, by a Chromium that is installed; False where there is none. ConfigError when it prints nothing."""
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        return False
    with tempfile.TemporaryDirectory() as place:
        source = Path(place) / "report.html"
        source.write_text(html, encoding="utf-8")
        words = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--no-pdf-header-footer",
            f"--user-data-dir={place}/profile",
        ]
        done = subprocess.run(
            [program, *words, f"--print-to-pdf={path.resolve()}", source.as_uri()],
            capture_output=True,
            timeout=120,
            check=False,
        )
    if done.returncode or not path.is_file():
        raise ConfigError(f"{program} printed no PDF: {done.stderr.decode(errors='replace')[-200:].strip()}")
    return True


def p_text(log10_p: float) -> str:
    """4.4e-75 for -74.35; plain above 1/1000."""
    if log10_p > -3:
        return f"{10**log10_p:.3g}"
    exponent = math.floor(log10_p)
    mantissa = f"{10 ** (log10_p - exponent):.1f}"
    return f"1.0e{exponent + 1}" if mantissa == "10.0" else f"{mantissa}e{exponent}"


def _cuts(hearing: Mapping[str, Any]) -> str:
    """Of each party's mark."""
    cuts = {test["mark"]: test["cut"] for test in hearing["tests"] if test["mark"].endswith("'s mark")}
    return ", ".join(f"{p_text(cut)} for the {mark}" for mark, cut in cuts.items())


def _party(party: Mapping[str, Any]) -> str:
    model = (
        "not shown" if party["model_entry"] is None else f"entry {party['model_entry']}, “{party['claim']}”"
    )
    digest = party["digest"] or "none"
    cells = [party["name"], party["scheme"], f"entry {party['key_entry']}, {party['key_time']}", model]
    ends = f"<code>{escape(party['issuer'])}</code><br><code>{escape(digest)}</code>"
    return "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + f"<td>{ends}</td></tr>"


def _tests(hearing: Mapping[str, Any]) -> Sequence[str]:
    longest = max(-test[value] for test in hearing["tests"] for value in ("cut", "log10_p"))
    return [_test(test, longest) for test in hearing["tests"]]


def _test(test: Mapping[str, Any], longest: float) -> str:
    found = "cannot be read" if test["statistic"] is None else f"{test['statistic']:g}"
    shown = found + (f" of {test['trials']}" if test["trials"] and test["statistic"] is not None else "")
    question = ' class="question"' if test["model"] == "suspect" and "decoys" not in test["mark"] else ""
    return (
        f"<tr{question}><td>{escape(test['mark'])}</td><td>{escape(test['model'])}</td>"
        f'<td class="number">{escape(shown)} {escape(test["unit"])}</td><td class="number">{p_text(test["log10_p"])}</td>'
        f"<td>{_bar(test, longest)}</td><td>{'yes' if test['passes'] else 'no'}</td></tr>"
    )


def _bar(test: Mapping[str, Any], longest: float) -> str:
    length, line = (WIDTH * max(0.0, -value) / longest for value in (test["log10_p"], test["cut"]))
    kind = "bar" if test["passes"] else "rest"
    label = f"minus log10 p {-test['log10_p']:.1f}, cut {-test['cut']:.1f}"
    return (
        f'<svg viewBox="0 0 {WIDTH} 18" preserveAspectRatio="none" role="img" aria-label="{label}">'
        f'<rect class="{kind}" x="0" y="4" width="{length:.1f}" height="10"></rect>'
        f'<line class="cut" x1="{line:.1f}" y1="0" x2="{line:.1f}" y2="18"></line></svg>'
    )


def _refused(refused: Mapping[str, Sequence[int]]) -> str:
    told = [f"{count} of {asked} {name}" for name, (count, asked) in refused.items() if asked]
    return f"Refused: {', '.join(told)}." if told else "The models were read whole: nothing could be refused."


def _check(check: Mapping[str, Any]) -> str:
    holds = "yes" if check["holds"] else '<span class="fails">no</span>'
    return f"<tr><td>{escape(check['name'])}</td><td>{holds}</td><td>{escape(check['found'])}</td></tr>"
