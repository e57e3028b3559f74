"""`assay evidence dispute`: open a case from bundles and openings, hear it, report it.

The case is a private folder, for openings hold keys. What goes out are result.json, report.html and report.pdf, which hold none.
"""

import argparse
import json
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from ... import __version__
from ...core.atomic import write_atomically
from ...core.errors import ConfigError, printable
from ...core.secret import Secret
from ...evidence import bundle as bundles
from ...evidence import notes, report
from ...evidence.commitment import Opening, read_opening
from ...evidence.deposit import derived_key, rate
from ...evidence.dispute import Party, Rules, hear
from ...evidence.verify import Result, digest_of_file, opened_by, shown
from ...evidence.verify import verify as verified
from ...zoo.files import load_model
from ..trial import Trial
from ..verbs import nothing_left
from .checks import NOT_VALID, content, told
from .checks import key as public
from .keys import made, trial_of

CLAIMANT, RIVAL = "claimant", "counter-claimant"


@dataclass(frozen=True)
class Shown:
    """What a party shows, read once: what is checked is what is kept."""

    bundle: bundles.Bundle
    opening: bytes = field(repr=False)
    model: bytes = field(repr=False)


def dispute(arguments: argparse.Namespace, rest: list[str], console: Console) -> int:
    case = Path(arguments.case)
    if arguments.action_ == "open":
        nothing_left(rest)
        return _open(arguments, case, console)
    if not (case / "case.json").is_file():
        raise ConfigError(f"expected a case in {case}, found none; `assay evidence dispute open` makes one")
    if arguments.action_ == "run":
        return _run(case, arguments.independent, arguments.alpha, rest, console)
    nothing_left(rest)
    return _report(case, console)


def _open(arguments: argparse.Namespace, case: Path, console: Console) -> int:
    """Everything is checked before a case is made; exit code 1 when a proof does not hold."""
    if case.exists():
        raise ConfigError(f"{case} exists; name a new folder for the case")
    if arguments.suspect is None:
        raise ConfigError("name the accused model with --suspect FILE")
    suspect = content(arguments.suspect)
    parties = {CLAIMANT: _files(arguments, "")}
    if arguments.their_bundle is not None:
        parties[RIVAL] = _files(arguments, "their_")
    checked = {name: _checked(files, arguments) for name, files in parties.items()}
    for name, result in checked.items():
        console.print(f"[bold]{name}[/]")
        told(result.checks, console)
    if not all(result.valid for result in checked.values()):
        console.print("[red]no case: a proof does not hold[/]")
        return NOT_VALID
    case.mkdir(parents=True, mode=0o700)
    for name, files in parties.items():
        bundles.save(files.bundle, case / f"{name}.bundle")
        write_atomically(case / f"{name}.opening", files.opening, private=True)
        write_atomically(case / f"{name}.model", files.model, private=True)
    write_atomically(case / "suspect.model", suspect, private=True)
    said = {
        "suspect": {
            "name": printable(Path(arguments.suspect).name),
            "digest": digest_of_file(suspect),
        },
        "parties": list(parties),
        "checks": [
            {**asdict(check), "name": f"{name}: {check.name}"}
            for name, r in checked.items()
            for check in r.checks
        ],
        "assumptions": list(dict.fromkeys(line for r in checked.values() for line in r.assumptions)),
    }
    _write(case / "case.json", said)
    console.print(f"case: {case}", soft_wrap=True)
    return 0


def _files(arguments: argparse.Namespace, prefix: str) -> Shown:
    found = {kind: getattr(arguments, f"{prefix}{kind}") for kind in ("bundle", "opening", "model")}
    missing = [f"--{prefix.replace('_', '-')}{kind}" for kind, path in found.items() if path is None]
    if missing:
        raise ConfigError(
            f"a party shows its bundle, an opening and its deposited model; missing: {', '.join(missing)}"
        )
    return Shown(bundles.load(Path(found["bundle"])), content(found["opening"]), content(found["model"]))


def _checked(files: Shown, arguments: argparse.Namespace) -> Result:
    keys = public(arguments.log_key), public(arguments.witness_key)
    return verified(files.bundle, *keys, read_opening(files.opening), [digest_of_file(files.model)])


def _run(case: Path, independent: int, alpha: str, rest: list[str], console: Console) -> int:
    said = _kept(case / "case.json", "parties")
    shown_by = {name: _shown(case, name) for name in said["parties"]}
    mine = shown_by[CLAIMANT]
    trial = trial_of(mine[1].parameters["settings"], [*rest, f"verification.null_models={independent}"])
    described, parties = [], []
    for name, (bundle, opening) in shown_by.items():
        own = _alike(name, opening, trial_of(opening.parameters["settings"], rest), trial)
        party, facts = _party(case, name, bundle, opening, own)
        parties.append(party)
        described.append(facts)
    from ..population import population

    suspect = load_model(case / "suspect.model", lambda: trial.task.fresh(None))
    draws, drawn = _draws([bundle for bundle, _ in shown_by.values()])
    rules = Rules(rate(alpha), draws, Secret.fresh())
    hearing = hear(
        suspect, parties[0], parties[1] if len(parties) > 1 else None, population(trial), trial.task, rules
    )
    result = {
        **said,
        "parties": described,
        "hearing": hearing.plain(),
        "drawn": drawn,
        "made": shown(int(datetime.now(UTC).timestamp())),
        "version": __version__,
        "log": mine[0].log.text,
    }
    _write(case / "result.json", result)
    console.print(f"{escape(hearing.outcome)}: {escape(hearing.why)}", soft_wrap=True, highlight=False)
    return 0


def _alike(name: str, opening: Opening, own: Trial, judged: Trial) -> Trial:
    """A party's trial, once it is of the scheme that its deposit names and of the task that is heard."""
    scheme, task, other = own.spec.choices["watermark"], own.task, judged.task
    if opening.scheme != scheme:
        raise ConfigError(f"the {name}'s deposit names {opening.scheme}, and its settings are of {scheme}")
    if (task.shape, task.classes) != (other.shape, other.classes):
        raise ConfigError(
            f"the {name}'s deposit is for inputs of {task.shape} and {task.classes} classes, the claimant's for {other.shape} and "
            f"{other.classes}: open a case without it"
        )
    return own


def _shown(case: Path, name: str) -> tuple[bundles.Bundle, Opening]:
    opening = read_opening(content(str(case / f"{name}.opening")))
    if not isinstance(opening.parameters.get("settings"), str):
        raise ConfigError(
            f"the {name}'s opening does not say what its keys are made from: expected settings as text"
        )
    return bundles.load(case / f"{name}.bundle"), opening


def _party(
    case: Path, name: str, bundle: bundles.Bundle, opening: Opening, trial: Trial
) -> tuple[Party, dict[str, Any]]:
    """The party with its key made again, and what the report says of it."""
    index, said = opened_by(bundle, opening)
    beacon = bundle.beacon_of(index)
    if beacon is None:
        raise ConfigError(f"the {name}'s bundle lacks the checkpoint that ends with entry {index}")
    secret = derived_key(opening, beacon.note, index, bundle.log, bundle.witness)
    path = case / f"{name}.model"
    digest = digest_of_file(content(str(path)))
    entry, model = next((i, one) for i, one in bundle.of_kind("model") if digest in one.subjects)
    deposited = load_model(path, lambda: trial.task.fresh(None))
    _, time = notes.opened(beacon.note, bundle.log, bundle.witness)
    facts = {
        "name": name,
        "scheme": opening.scheme,
        "issuer": said.issuer,
        "key_entry": index,
        "key_time": "no witness" if time is None else f"witnessed {shown(time)}",
        "model_entry": entry,
        "claim": printable(str(model.facts["claim"])),
        "digest": digest,
    }
    key, declared = made(trial, secret), rate(said.facts["alpha"])
    return Party(name, trial.watermark, key, bundle.log.text, index, deposited, entry, declared), facts


def _draws(found: list[bundles.Bundle]) -> tuple[int, str]:
    """The most draws that any of the parties' logs holds, and what the report says they are."""
    results = [verified(bundle) for bundle in found]
    worst = max(range(len(found)), key=lambda i: results[i].draws)
    counted = found[worst].everything is not None
    drawn = (
        "anybody deposited in the log, counted"
        if counted
        else "the log can hold at most; the bundle does not carry it"
    )
    return max(1, results[worst].draws), drawn


def _report(case: Path, console: Console) -> int:
    if not (case / "result.json").is_file():
        raise ConfigError(f"{case} is not heard yet: assay evidence dispute run {case}")
    html = report.page(_kept(case / "result.json", "hearing"))
    write_atomically(case / "report.html", html.encode())
    console.print(f"report: {case / 'report.html'}", soft_wrap=True)
    if report.pdf(html, case / "report.pdf"):
        console.print(f"        {case / 'report.pdf'}", soft_wrap=True)
    else:
        console.print("no PDF: no Chromium is installed; any browser prints the page", soft_wrap=True)
    return 0


def _kept(path: Path, name: str) -> dict[str, Any]:
    try:
        found = json.loads(content(str(path)))
    except ValueError:
        found = None
    if not isinstance(found, dict) or name not in found:
        raise ConfigError(f"{path} is damaged: open the case again in a new folder")
    return found


def _write(path: Path, said: dict[str, Any]) -> None:
    write_atomically(path, (json.dumps(said, indent=1) + "\n").encode())
