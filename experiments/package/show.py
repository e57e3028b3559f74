"""`assay package`: keys, sealed models, licences, revocation lists, and who leaked a copy."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

from ...core.errors import ConfigError
from ..actions import Action, acted

if TYPE_CHECKING:
    from ...deployments.licence.licence import Licence
    from ...deployments.package.header import Header

SHORT = 16  # digits of a kid that are shown


def package(arguments: argparse.Namespace, rest: Sequence[str], console: Console) -> int:
    """0 done, 1 refused: what was shown does not hold."""
    return acted(ACTIONS, ("create", "trace"), arguments, rest, console)


def keys(arguments: argparse.Namespace, rest: Sequence[str], console: Console) -> int:
    from ...deployments.package.identity import Identity, save

    made = Identity.fresh()
    private, public = save(made, Path(arguments.name))
    console.print(f"{made.public.kid}\nkeep: {private}\nhand out: {public}", soft_wrap=True, highlight=False)
    return 0


def create(arguments: argparse.Namespace, rest: Sequence[str], console: Console) -> int:
    from ...deployments.package import package as sealed
    from ...deployments.package.header import MIB
    from ...deployments.package.identity import load_identity, load_public

    source, target = Path(arguments.model), Path(arguments.package)
    if (arguments.buyer is None) != (arguments.mark is None):
        raise ConfigError(
            "expected --buyer N and --mark KEY together: the key's scheme marks the buyer's copy"
        )
    if rest and arguments.mark is None:
        raise ConfigError(f"unexpected argument {rest[0]!r}: overrides are for --mark")
    issuer = load_identity(Path(arguments.issuer))
    to = [load_public(Path(path)) for path in arguments.to]
    if arguments.mark is None:
        header = sealed.create(source, target, issuer, to, None, arguments.chunk * MIB)
    else:
        from .marks import create_marked, owner_of

        owner = owner_of(Path(arguments.mark), source, rest)
        header = create_marked(owner, source, target, issuer, to, arguments.buyer, arguments.chunk * MIB)
    tell(target, header, console)
    return 0


def licence(arguments: argparse.Namespace, rest: Sequence[str], console: Console) -> int:
    from ...core.atomic import write_atomically
    from ...deployments.licence.licence import issue, read, terms
    from ...deployments.package.identity import load_identity, load_public
    from ...deployments.package.package import inspect

    issuer, party = load_identity(Path(arguments.issuer)), load_public(Path(arguments.to))
    header = inspect(Path(arguments.package), issuer.public)
    since = moment(arguments.since) if arguments.since else int(datetime.now(UTC).timestamp())
    granted = terms(
        arguments.operations,
        since,
        moment(arguments.until),
        arguments.queries,
        arguments.output,
        arguments.decimals,
        not arguments.irrevocable,
    )
    token = issue(header.content.id, party, granted, issuer)
    write_atomically(Path(arguments.licence), token.encode())
    console.print(said(read(token, issuer.public)), soft_wrap=True, highlight=False)
    if header.recipient(party.kid) is None:
        console.print(
            f"{party.kid[:SHORT]} is no recipient yet: assay package rewrap {escape(arguments.package)} ... --to FILE",
            soft_wrap=True,
            highlight=False,
        )
    return 0


def rewrap(arguments: argparse.Namespace, rest: Sequence[str], console: Console) -> int:
    from ...deployments.licence.licence import read
    from ...deployments.package.identity import load_identity, load_public
    from ...deployments.package.package import Grantee
    from ...deployments.package.package import inspect as inspected
    from ...deployments.package.package import rewrap as rewrapped

    if arguments.licence and len(arguments.to) != 1:
        raise ConfigError(f"--licence pins the one recipient of --to, got {len(arguments.to)} of them")
    if not arguments.to and not arguments.drop:
        raise ConfigError("nothing to change: expected --to FILE or --drop FILE")
    source, target, issuer = (
        Path(arguments.package),
        Path(arguments.target),
        load_identity(Path(arguments.issuer)),
    )
    to = [load_public(Path(path)) for path in arguments.to]
    pinned = text_of(arguments.licence) if arguments.licence else None
    if pinned is not None:
        found = read(pinned, issuer.public)
        if (found.sub, found.package) != (to[0].kid, inspected(source).content.id):
            raise ConfigError(
                f"{arguments.licence} is for another party or package: pinned, it would open this one for nobody"
            )
    drop = [load_public(Path(path)).kid for path in arguments.drop]
    header = rewrapped(source, target, issuer, [Grantee(party, pinned) for party in to], drop)
    tell(target, header, console)
    return 0


def open_(arguments: argparse.Namespace, rest: Sequence[str], console: Console) -> int:
    from ...deployments.licence.revocation import newest
    from ...deployments.package.identity import load_identity, load_public
    from ...deployments.package.package import Proof, open_to

    key, issuer = load_identity(Path(arguments.key)), load_public(Path(arguments.issuer))
    state = Path(arguments.seen or f"{arguments.key}.seen")
    token = text_of(arguments.licence) if arguments.licence else None
    revoked = newest(text_of(arguments.revoked), issuer, state) if arguments.revoked else None
    found = open_to(Path(arguments.package), Path(arguments.model), Proof(key, token, revoked), issuer)
    console.print(f"opened: {escape(arguments.model)}", soft_wrap=True, highlight=False)
    if found is not None:
        console.print(said(found), soft_wrap=True, highlight=False)
    return 0


def revoke(arguments: argparse.Namespace, rest: Sequence[str], console: Console) -> int:
    from filelock import FileLock

    from ...core.atomic import write_atomically
    from ...deployments.licence import licence as licences
    from ...deployments.licence import revocation
    from ...deployments.package.identity import load_identity

    issuer, path = load_identity(Path(arguments.issuer)), Path(arguments.list)
    numbers = [licences.read(text_of(one), issuer.public).jti for one in arguments.licence]
    with FileLock(f"{path}.lock"):  # two lists of one number would contradict each other
        previous = revocation.read(text_of(path), issuer.public) if path.exists() else None
        token = revocation.published(issuer, moment(arguments.until), numbers, previous)
        write_atomically(path, token.encode())
    found = revocation.read(token, issuer.public)
    console.print(
        f"list {found.sequence}: {len(found.revoked)} revoked, current until {day(found.until)}",
        soft_wrap=True,
        highlight=False,
    )
    return 0


def inspect(arguments: argparse.Namespace, rest: Sequence[str], console: Console) -> int:
    from ...deployments.package.identity import load_public
    from ...deployments.package.package import inspect as inspected

    issuer = load_public(Path(arguments.issuer)) if arguments.issuer else None
    header = inspected(Path(arguments.package), issuer)
    if arguments.json:
        found = {**asdict(header), "id": header.content.id, "signature_checked": issuer is not None}
        print(json.dumps(found, indent=1))  # noqa: T201
        return 0
    tell(Path(arguments.package), header, console)
    if issuer is None:
        console.print(
            "the signature was not checked: name its issuer with --issuer OWNER.pub", soft_wrap=True
        )
    return 0


def trace(arguments: argparse.Namespace, rest: Sequence[str], console: Console) -> int:
    from ...deployments.package.identity import load_public
    from .marks import owner_of, traced

    suspect = Path(arguments.suspect)
    owner = owner_of(Path(arguments.mark), suspect, rest)
    packages = [Path(path) for path in arguments.packages]
    found = traced(owner, suspect, packages, load_public(Path(arguments.issuer)), arguments.fpr)
    if arguments.json:
        print(json.dumps(asdict(found), indent=1))  # noqa: T201
        return 0
    for number, kids in found.accused.items():
        console.print(
            f"buyer {number}, whose copy was sealed for {', '.join(kid[:SHORT] for kid in kids) or 'nobody'}: "
            f"consistent with his copy, at a rate of {found.fpr:g} for all {len(found.buyers)} buyers together",
            soft_wrap=True,
            highlight=False,
        )
    if not found.accused:
        console.print(f"not found: none of {len(found.buyers)} buyers is named, which clears nobody")
    return 0


def tell(path: Path, header: "Header", console: Console) -> None:
    content = header.content
    lines = [
        f"{escape(str(path))}: {content.size} bytes in {content.chunks} chunks, {content.cipher}",
        f"  package    {content.id}",
        f"  issuer     {content.issuer}",
        *(
            f"  recipient  {one.kid}{', one licence alone' if one.licence else ''}"
            for one in header.recipients
        ),
        *([] if content.buyer is None else [f"  marked for buyer {content.buyer}"]),
    ]
    console.print("\n".join(lines), soft_wrap=True, highlight=False)


def said(found: "Licence") -> str:
    terms = found.terms
    output = terms.output + (f" to {terms.decimals} decimals" if terms.decimals is not None else "")
    limit = "no limit" if terms.queries is None else f"{terms.queries} samples"
    return (
        f"licence {found.jti} for {found.sub[:SHORT]}: {' and '.join(terms.operations)}, {output}, {limit}, "
        f"{day(terms.not_before)} to {day(terms.not_after)}{'' if terms.revocable else ', irrevocable'}"
    )


def text_of(path: str | Path) -> str:
    """A token's file, with or without a line's end."""
    if not Path(path).is_file():
        raise ConfigError(f"expected a licence or a revocation list, found no file at {path}")
    try:
        return Path(path).read_bytes().decode("ascii").removesuffix("\n")
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is no token: expected ASCII") from None


def moment(text: str) -> int:
    """UTC seconds of a day or a time; without a zone it is UTC."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"expected a day such as 2030-01-31, or 2030-01-31T12:00, got {text!r}") from None
    seconds = int((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp())
    if not 0 <= seconds < 253402300800:  # which no calendar shows
        raise ConfigError(f"expected a day from 1970 on and before the year 10000, got {text!r}")
    return seconds


def day(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")


ACTIONS: dict[str, Action] = {
    "keys": keys,
    "create": create,
    "licence": licence,
    "rewrap": rewrap,
    "open": open_,
    "revoke": revoke,
    "inspect": inspect,
    "trace": trace,
}
