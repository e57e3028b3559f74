"""`assay list --markdown`: docs/catalogue.md, made from the yamls, what schemes and attacks declare, and measured records."""

import ast
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..leaderboard.ranking import CONTROL, Record, outcome
from .catalogue import catalogue, with_defaults
from .config import CONF, content_of

FAMILIES = {
    "parameter": "Marks in the weights",
    "trigger": "Trigger sets",
    "output": "Marks in what an API answers",
    "data": "Marks in the data",
    "fingerprint": "Fingerprints: nothing is embedded",
    "language": "Language models",
    "control": "The control",
}
NEEDS = {
    "weights": "What a thief does who has the weights",
    "scores": "Through an API that answers scores",
    "labels": "Through an API that answers labels",
    "texts": "With the texts that a language model's API writes",
}
NULLS = {"random_keys": "random keys", "independent_models": "independent models"}
COLUMNS = {
    "survives": ("survives",),
    "removed by": ("removed",),
    "forged by": ("forged",),
    "too costly for the thief": ("too_costly",),
    "undecided": ("undecided",),
    "no number": ("blocked", "not_applicable", "failed"),
}
LINKED = ("removed", "forged")
INTRO = """# Catalogue

Made by `assay list --markdown > docs/catalogue.md`; a test holds it to the yamls. Nulls and exact tails: docs/statistics.md.
"""
SURVIVAL = """## What survives what

`assay suite matrix` on digits, one seed, 1 % false-positive rate, 99 null models. Survives: evidence in every stolen model within
2 pp of the marked model's accuracy (against an accuser: his key finds nothing). Removed: some such model carries none. Forged: an
accuser's key finds the marked model. Too costly: no stolen model stays within 2 pp. Undecided: the null is too small. No number:
scheme and attack do not fit, or the deployment denies what the attack needs. Links lead to the records; `assay board --runs
results/digits` shows every cell.
"""

ELSEWHERE = """## Do the defaults hold elsewhere?

`assay suite defaults`: the marked model itself, without an attack, on other architectures and on another task; one seed, 8 null
models, 200 random keys; resnet18 in 8 epochs of the task's 15, Fashion-MNIST with a fifth of its pictures. A cell is the statistic,
the exact log10 p in brackets, and what the mark costs in accuracy. Where only independent models are a null, 8 of them cannot say
less than 1/9 (log10 p −1.0): there the statistic tells. Units and nulls as above; digits with cnn_small are below.
"""


def handbook(records: Iterable[Record], link: str, elsewhere: Iterable[Record] = ()) -> str:
    """The page; `link` is the folder of the records, relative to it. elsewhere: those of `assay suite defaults`."""
    schemes, attacks = (_ordered(catalogue(group, nested=True)) for group in ("watermark", "attack"))
    parts = [INTRO, "## Schemes\n"]
    for family, title in FAMILIES.items():
        parts += _section(title, "watermark", {n: v for n, v in schemes.items() if v["family"] == family})
    parts.append("## Attacks\n")
    for need, title in NEEDS.items():
        parts += _section(title, "attack", {n: v for n, v in attacks.items() if v["needs"] == need})
    if held := list(elsewhere):
        parts += [ELSEWHERE, _elsewhere(held)]
    cells = {
        (r["choices"]["watermark"], r["choices"]["attack"]): r for r in records if not r.get("overrides")
    }
    if cells:
        count = len(catalogue("watermark")) * len(catalogue("attack"))
        measured = f"{len(cells)} of {count} cells are measured.\n"
        parts += [SURVIVAL, measured, _survival(cells, link)]
    return "\n".join(parts)


def _ordered(options: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Those in folders after the others, which they are compared with."""
    return dict(sorted(options.items(), key=lambda item: ("/" in item[0], item[0])))


def _section(title: str, group: str, options: dict[str, dict[str, Any]]) -> list[str]:
    if not options:
        return []
    heads = ["option", "mechanism", "reads", "null", "keys", "defaults"]
    if group == "attack":
        heads = ["option", "mechanism", "data", "strength", "defaults"]
    first: dict[str, str] = {}
    rows = []
    for name, values in options.items():
        mechanism = _mechanism(group, name)
        told = first.setdefault(mechanism, name)
        rows.append(
            [
                f"`{name}`",
                mechanism if told == name else f"as `{told}`",
                *_declared(group, values),
                _defaults(group, name),
            ]
        )
    return [f"### {title}\n", table(heads, rows)]


def _declared(group: str, values: dict[str, Any]) -> list[str]:
    if group == "attack":
        return [values["data"], values["axis"] + (", claims" if values["goal"] == "claim" else "")]
    return [values["reads"], ", ".join(NULLS[n] for n in values["nulls"]) or "none", values["derivation"]]


def table(heads: list[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines) + "\n"


def _mechanism(group: str, name: str) -> str:
    """The first sentence of the module's docstring, paper included."""
    content = _content(group, name)
    origin = getattr(find_spec(content["_target_"].rpartition(".")[0]), "origin", None)
    text = ast.get_docstring(ast.parse(Path(str(origin)).read_text())) or ""
    return " ".join(text.split("\n\n")[0].split())


def _content(group: str, name: str) -> dict[str, Any]:
    path = CONF / group / f"{name}.yaml"
    return with_defaults(path, content_of(path))


def _defaults(group: str, name: str) -> str:
    """The fields of the yaml; a recipe in words."""
    shown = []
    for field, value in _content(group, name).items():
        if field == "recipe" and isinstance(value, dict):
            shown.append(f"{value['epochs']} epochs, {value['optimizer']}, rate {value['lr']}")
        elif field not in ("_target_", "defaults", "derivation"):
            shown.append(f"{field} {_plain(value)}")
    return ", ".join(shown)


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(_plain(item) for item in value)
    if isinstance(value, dict):
        target = str(value.get("_target_", ""))
        return target.rpartition(".")[2] or " ".join(f"{k}={_plain(v)}" for k, v in value.items())
    return "none" if value is None else str(value)


def _elsewhere(records: list[Record]) -> str:
    """A row per scheme, a column per task and model."""
    records = [record for record in records if record["choices"]["watermark"] != CONTROL]
    places = sorted({_place(record) for record in records})
    found = {(record["choices"]["watermark"], _place(record)): _held(record) for record in records}
    schemes = sorted({scheme for scheme, _ in found})
    rows = ([f"`{s}`", *(found.get((s, place), "not measured") for place in places)] for s in schemes)
    return table(["scheme", *places], rows)


def _place(record: Record) -> str:
    return f"{record['choices']['task']}, {record['choices']['model']}"


def _held(record: Record) -> str:
    if record["status"] != "ok":
        return str(record["status"]).replace("_", " ")
    marked = record["marked"]
    told = f"{round(marked['statistic'], 3) + 0.0:g}" + (f"/{marked['trials']}" if marked["trials"] else "")
    cost = 100 * (record["owner"]["unmarked_accuracy"] - marked["accuracy"])
    return f"{told} ({marked['log10_p']:.1f}), {cost:+.1f} pp".replace("-", "−")


def _survival(cells: dict[tuple[str, str], Record], link: str) -> str:
    """A row per scheme: under which attacks it ended how."""
    rows = []
    for scheme in sorted({scheme for scheme, _ in cells} - {CONTROL}):
        own = {attack: record for (name, attack), record in sorted(cells.items()) if name == scheme}
        ended = {attack: outcome(record)[0] for attack, record in own.items()}
        told = [[_named(a, own[a], link) for a in own if ended[a] in kinds] for kinds in COLUMNS.values()]
        rows.append(
            [f"`{scheme}`", *(f"{len(names)}: {', '.join(names)}" if names else "0" for names in told)]
        )
    return table(["scheme", *COLUMNS], rows)


def _named(attack: str, record: Record, link: str) -> str:
    return f"[{attack}]({link}/{record['id']}.json)" if outcome(record)[0] in LINKED else attack
