"""`assay evidence verify` and `audit`: what was checked, line by line, and what must be trusted."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from ...core.errors import ConfigError
from ...evidence import bundle as bundles
from ...evidence import notes
from ...evidence.audit import audit as audited
from ...evidence.audit import owners
from ...evidence.commitment import read_opening
from ...evidence.signers import Verifier, load_verifier
from ...evidence.verify import Check, digest_of_file
from ...evidence.verify import verify as verified
from ..verbs import nothing_left
from .logs import opened

NOT_VALID = 1


def verify(arguments: argparse.Namespace, rest: list[str], console: Console) -> int:
    nothing_left(rest)
    bundle = bundles.load(Path(arguments.bundle))
    opening = None if arguments.opening is None else read_opening(content(arguments.opening))
    digests = [digest_of_file(content(path)) for path in arguments.model]
    result = verified(bundle, key(arguments.log_key), key(arguments.witness_key), opening, digests)
    stamps, more = _stamps(bundle, arguments.tsa_root)
    checks, assumptions = [*result.checks, *stamps], [*result.assumptions, *more]
    valid = all(check.holds for check in checks)
    if arguments.json:
        said = {
            "valid": valid,
            "checks": [asdict(check) for check in checks],
            "assumptions": assumptions,
            "draws": result.draws,
        }
        print(json.dumps(said, indent=1))  # noqa: T201
        return 0 if valid else NOT_VALID
    told(checks, console)
    verdict = "[green]valid[/]" if valid else "[red]NOT valid[/]"
    console.print(f"{verdict}, given that:", highlight=False)
    for line in assumptions:
        console.print(f"  - {escape(line)}", soft_wrap=True, highlight=False)
    return 0 if valid else NOT_VALID


def audit(arguments: argparse.Namespace, rest: list[str], console: Console) -> int:
    nothing_left(rest)
    log = opened(arguments.log)
    checks = audited(log, [content(path) for path in arguments.seen])
    valid, draws = all(check.holds for check in checks), owners(log)
    if arguments.json:
        said = {"valid": valid, "checks": [asdict(check) for check in checks], "draws": draws}
        print(json.dumps(said, indent=1))  # noqa: T201
        return 0 if valid else NOT_VALID
    told(checks, console)
    for owner, count in sorted(draws.items()):
        console.print(f"  {owner}: {count} key(s) deposited", soft_wrap=True, highlight=False)
    return 0 if valid else NOT_VALID


def told(checks: Sequence[Check], console: Console) -> None:
    for check in checks:
        verdict = "[green]ok[/]  " if check.holds else "[red]NO[/]  "
        console.print(
            f"{verdict}{escape(check.name)}: {escape(check.found)}", soft_wrap=True, highlight=False
        )


def key(path: str | None) -> Verifier | None:
    return None if path is None else load_verifier(Path(path))


def content(path: str) -> bytes:
    if not Path(path).is_file():
        raise ConfigError(f"expected a file at {path}, found none")
    return Path(path).read_bytes()


def _stamps(bundle: bundles.Bundle, roots: str | None) -> tuple[list[Check], list[str]]:
    """Each token, and what it assumes."""
    if not bundle.stamps:
        return [], []
    if roots is None:
        return [], [f"{len(bundle.stamps)} timestamp(s) were not checked: pass --tsa-root FILE."]
    from ...evidence import timestamp

    size = notes.parse(bundle.head).size
    checks, assumptions = [], []
    for number, token in enumerate(bundle.stamps):
        try:
            found = timestamp.checked(token, bundle.head, Path(roots))
        except ConfigError as error:
            checks.append(Check(f"timestamp {number}", False, str(error)))
            continue
        checks.append(
            Check(
                f"timestamp {number}", True, f"{found.time}, {found.authority}, over the head of size {size}"
            )
        )
        word = (
            "a test authority: proves nothing to third parties"
            if found.test
            else "is independent, and its clock is right"
        )
        assumptions.append(f"The timestamp authority {found.authority}: {word}.")
    return checks, assumptions
