"""What `assay paper` prints and writes: the list of presets; a report as a table, as Markdown, and as one page without scripts."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape as html
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ...leaderboard.page import policy, source
from ..handbook import table
from ..show import plain_table
from .judge import JudgedClaim, JudgedNumber, Measured, Record, Records
from .preset import QUANTITIES, UNPUBLISHED, Preset, Scale, claims, measures, numbers

NUMBERS = (
    "trial",
    "number",
    "published",
    "stands in",
    "provenance",
    "measured, and 95 % for a new seed",
    "verdict",
)
CLAIMS = ("claim", "left", "right", "seeds", "verdict", "checked as", "stands in")
TOLD = 5  # columns of the claims: what a terminal has room for
CHECKS = {
    "full": "This checks published numbers against ours, with Student's 95 % prediction interval for a new seed, and the "
    "qualitative claims.",
    "laptop": "This checks the qualitative claims alone, on small data: inequalities between measured numbers, which hold when "
    "they hold in every seed. Published numbers are shown, and not compared: on other data they would be others.",
}
READ = {
    "verified": "read in the paper, its official code or its authors' slides",
    "secondary": "from others' notes, not checked against the paper",
    "unverified": "from memory, not checked",
}
Section = tuple[str, Sequence[str], list[list[str]]]
WIDTH, HEIGHT = 180, 20  # of a picture, in pixels


@dataclass(frozen=True)
class Report:
    name: str
    citation: str
    preset: Preset
    scale: Scale
    settings: list[str]
    numbers: list[JudgedNumber]
    claims: list[JudgedClaim]
    records: Records

    @property
    def seeds(self) -> list[int]:
        return sorted({seed for by_seed in self.records.values() for seed in by_seed})

    @property
    def trials(self) -> list[Record]:
        """The records there are, each once."""
        found = [r for by_seed in self.records.values() for r in by_seed.values() if not isinstance(r, str)]
        return list({record["id"]: record for record in found}.values())

    @property
    def command(self) -> str:
        seeds = [] if self.seeds == sorted(self.preset.seeds) else [f"seeds={','.join(map(str, self.seeds))}"]
        return " ".join(["assay paper", self.name, f"scale={self.scale}", *seeds, *self.settings])


def catalogue(presets: Mapping[str, tuple[str, Preset]], console: Console) -> None:
    """`assay paper` alone."""
    shown = plain_table("Papers: assay paper NAME, or on a laptop assay paper NAME scale=laptop")
    for column in ("name", "paper", "numbers", "full: data, trials", "laptop: data, trials", "claims"):
        shown.add_column(column, no_wrap=column == "name", overflow="fold")
    for name, (citation, preset) in presets.items():
        needs = [f"{_data(preset, scale)}, {_count(preset, scale)}" for scale in ("full", "laptop")]
        found = str(len(list(numbers(preset)))) if preset.numbers else "none"
        shown.add_row(name, escape(citation), found, *needs, str(len(claims(preset, "laptop"))))
    console.print(shown)


def _data(preset: Preset, scale: Scale) -> str:
    words = [w for m in measures(preset, scale) for w in _tasks(preset.settings(scale, m.row, m.theft))]
    return " and ".join(dict.fromkeys(words))


def _tasks(words: Sequence[str]) -> list[str]:
    return [word.removeprefix("task=") for word in words if word.startswith("task=")][-1:]


def _count(preset: Preset, scale: Scale) -> int:
    return len({(m.row, m.theft) for m in measures(preset, scale)}) * len(preset.seeds)


def number_row(one: JudgedNumber) -> list[str]:
    number = one.number
    trial = number.row if number.measure is None else f"{number.row}/{number.measure.theft}"
    published = f"{number.value:g} {number.table.unit}".strip()
    place = [number.column, published, number.table.where, number.table.provenance]
    return [trial, *place, "–" if one.found is None else spread(one.found), one.verdict]


def claim_row(one: JudgedClaim) -> list[str]:
    asked = one.inequality
    margin = f" {asked.margin:+g}" if asked.margin else ""
    other = f"{asked.margin:g}" if one.right is None else spread(one.right) + margin
    place = f"{one.claim.where}; {one.claim.provenance}"
    seeds = f"{one.held} of {one.seeds}"
    right = f"{asked.relation} {other}"
    return [one.claim.says, spread(one.left), right, seeds, one.verdict, one.claim.holds, place]


def spread(found: Measured) -> str:
    """The mean and the interval for a new seed, or why there is none."""
    if not found.values:
        return "–"
    if found.interval is None:
        why = "one seed: no interval" if len(found.values) == 1 else f"in all {len(found.values)} seeds"
        return f"{found.mean:.4g} ({why})"
    low, high = found.interval
    return f"{found.mean:.4g} ({low:.4g} to {high:.4g})"


def tell(report: Report, console: Console) -> None:
    console.print(f"[bold]{escape(report.citation)}[/]", soft_wrap=True, highlight=False)
    console.print(CHECKS[report.scale], highlight=False)
    (title, heads, rows), others = sections(report)
    if report.scale == "laptop":
        console.print(f"{title}: {len(rows)}, not compared at this scale." if rows else UNPUBLISHED)
    else:
        console.print(_rich_table(title, heads, rows) if rows else UNPUBLISHED)
    console.print(_rich_table(others[0], others[1][:TOLD], [row[:TOLD] for row in others[2]]))


def _rich_table(title: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    shown = plain_table(title)
    for head in heads:
        shown.add_column(head, overflow="fold")
    for row in rows:
        shown.add_row(*map(escape, row))
    return shown


def sections(report: Report) -> tuple[Section, Section]:
    """Numbers and claims."""
    return (
        ("Published numbers", NUMBERS, [number_row(one) for one in report.numbers]),
        ("Qualitative claims", CLAIMS, [claim_row(one) for one in report.claims]),
    )


def facts(report: Report) -> list[str]:
    """What was run, in sentences."""
    setting = report.preset.scales[report.scale]
    records = report.trials
    spent = sum(record.get("spent", {}).get("cpu_seconds", 0.0) for record in records)
    places = {r["environment"]["device"] for r in records if "environment" in r}
    commits = {r["environment"]["commit"] for r in records if "environment" in r}
    last = max((record["finished"] for record in records if "finished" in record), default="never")
    asked = [f"Settings beside the preset's: {' '.join(report.settings)}."] if report.settings else []
    return [
        CHECKS[report.scale],
        f"What differs from the paper: {setting.differs or 'nothing that we know of'}.",
        f"{len(records)} trials, seeds {', '.join(map(str, report.seeds))}; {spent:.0f} CPU seconds; {', '.join(sorted(places))}; "
        f"commit {', '.join(sorted(map(str, commits)))}; the last ended {last}.",
        *asked,
    ]


def legend(report: Report) -> list[str]:
    used = {one.number.table.provenance for one in report.numbers}
    used |= {one.claim.provenance for one in report.claims}
    words = [f"{name}: {text}." for name, text in READ.items() if name in used]
    read = {m.quantity for m in measures(report.preset, report.scale)}
    units = [f"{name} in {QUANTITIES[name]}" for name in sorted(read) if QUANTITIES[name]]
    return [*words, f"Measured quantities: {', '.join(units)}."] if units else words


def markdown(report: Report, runs: Path, folder: Path) -> str:
    """Links to the records are relative to `folder`."""
    parts = [f"# {report.name}, scale {report.scale}\n", f"{report.citation}\n", f"{report.preset.about}\n"]
    parts += [f"{sentence}\n" for sentence in facts(report)]
    parts.append(f"```\n{report.command}\n```\n")
    for title, heads, rows in sections(report):
        parts.append(f"## {title}\n")
        parts.append(table(list(heads), rows) if rows else f"{UNPUBLISHED}\n")
    parts += [f"{sentence}\n" for sentence in legend(report)]
    parts.append("## Trials\n")
    parts.append(table(["trial", "overrides", "records by seed"], list(_trials(report, runs, folder))))
    return "\n".join(parts)


def _trials(report: Report, runs: Path, folder: Path) -> Iterable[list[str]]:
    for (row, theft), by_seed in report.records.items():
        links = [
            f"{seed}: {record}"
            if isinstance(record, str)
            else f"[{seed}]({os.path.relpath(runs / 'records' / record['id'], folder)}.json)"
            for seed, record in by_seed.items()
        ]
        words = " ".join(report.preset.settings(report.scale, row, theft))
        yield [f"{row}/{theft}", f"`{words}`", ", ".join(links)]


def page(report: Report) -> str:
    """One file, no script, nothing loaded."""
    style = "\n".join(source(name) for name in ("board.css", "tables.css"))
    body = [f"<p>{html(sentence)}</p>" for sentence in (report.preset.about, *facts(report))]
    body.append(f'<pre class="command">{html(report.command)}</pre>')
    pictures = [[picture(n.found, n.number.value) for n in report.numbers]]
    pictures.append(
        [picture(c.left, None if c.right else c.inequality.margin, c.right) for c in report.claims]
    )
    for (title, heads, rows), drawn in zip(sections(report), pictures, strict=True):
        body.append(f"<h2>{title}</h2>")
        body.append(_html_table(heads, rows, drawn) if rows else f"<p>{UNPUBLISHED}</p>")
    body += [f'<p class="note">{html(sentence)}</p>' for sentence in legend(report)]
    title = html(f"{report.name}, scale {report.scale}")
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">{policy([])}'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>Assay: {title}</title><style>{style}</style></head>\n"
        f'<body><header><p class="kicker">Assay</p><h1>{title}</h1><p class="claim">{html(report.citation)}</p></header>\n'
        f"<main>{chr(10).join(body)}</main><footer><p>Dots: a seed each; bars: 95 % for a new "
        "seed; rings: the published number, or the right side of the inequality.</p></footer></body></html>\n"
    )


def _html_table(heads: Sequence[str], rows: Sequence[Sequence[str]], drawn: Sequence[str]) -> str:
    top = "".join(f'<th scope="col">{html(head)}</th>' for head in (*heads, ""))
    lines = [
        f'<tr><th scope="row">{html(row[0])}</th>{"".join(f"<td>{html(cell)}</td>" for cell in row[1:])}<td>{svg}</td></tr>'
        for row, svg in zip(rows, drawn, strict=True)
    ]
    return f'<div class="scroll"><table class="figures"><thead><tr>{top}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def picture(found: Measured | None, published: float | None, other: Measured | None = None) -> str:
    """Seeds, interval and the published number, or another reading, on one axis."""
    if found is None or not found.values:
        return ""
    rings = [published] if published is not None else list(other.values.values() if other else ())
    bars = [side.interval for side in (found, other) if side is not None and side.interval is not None]
    everything = [*found.values.values(), *rings, *(end for bar in bars for end in bar)]
    low, width = min(everything), max(everything) - min(everything) or 1.0

    def x(value: float) -> str:
        return f"{6 + (WIDTH - 12) * (value - low) / width:.1f}"

    middle = HEIGHT / 2
    marks = [
        f'<line x1="{x(a)}" x2="{x(b)}" y1="{middle}" y2="{middle}" stroke="var(--c{i})" stroke-width="6" stroke-opacity=".3"/>'
        for i, (a, b) in enumerate(bars)
    ]
    marks += [f'<circle cx="{x(v)}" cy="{middle}" r="2.5" fill="var(--c0)"/>' for v in found.values.values()]
    marks += [
        f'<circle cx="{x(v)}" cy="{middle}" r="4" fill="none" stroke="var(--c1)" stroke-width="1.5"/>'
        for v in rings
    ]
    return f'<svg width="{WIDTH}" height="{HEIGHT}" role="img" aria-label="measured on an axis">{"".join(marks)}</svg>'
