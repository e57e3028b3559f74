"""Licences: what one party may do with one package, until when, signed by its issuer as an EdDSA JWT.

A licence binds programs that ask it: this one, and the owner's own servers, where it is enforced (deployments/serve). A licensee
who writes his own program is bound by the cipher alone, which gave him the model.
"""

import hashlib
import json
import secrets
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Literal

from pydantic import Field as Limited
from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from ...core.errors import ConfigError
from ..package.header import CLOSED, Digest, hexadecimal
from ..package.identity import Identity, Public, Rejected, same
from .revocation import Revocations
from .token import read_as, sign

Operation = Literal["query", "weights"]
Output = Literal["labels", "scores"]
KIND: Literal["wmpkg-licence+jwt"] = "wmpkg-licence+jwt"
Second = Annotated[int, Limited(ge=0, le=2**40)]


@dataclass(frozen=True, config=CLOSED)
class Terms:
    """operations: query, answered from memory; weights, the model as a file. not_before, not_after: UTC seconds, the second
    excluded. queries: samples in all, null for no limit. output: what queries answer, scores rounded to `decimals`. revocable:
    opening needs the issuer's current list."""

    operations: Annotated[tuple[Operation, ...], Limited(min_length=1)]
    not_before: Second
    not_after: Second
    queries: Annotated[int, Limited(ge=0, le=2**53)] | None
    output: Output
    decimals: Annotated[int, Limited(ge=0, le=16)] | None
    revocable: bool

    def __post_init__(self) -> None:
        if tuple(sorted(set(self.operations))) != self.operations:
            raise ValueError("expected each operation once, in alphabetical order")
        if self.not_after <= self.not_before:
            raise ValueError("expected not_after later than not_before")
        if self.output == "labels" and self.decimals is not None:
            raise ValueError("decimals round scores, labels have none")


@dataclass(frozen=True, config=CLOSED)
class Licence:
    """jti: its own number; iss, sub: kids of issuer and licensee; package: the id of its content."""

    jti: Annotated[str, hexadecimal(16)]
    iss: Digest
    sub: Digest
    package: Digest
    terms: Terms


LICENCE = TypeAdapter(Licence)


def terms(
    operations: Sequence[str],
    not_before: int,
    not_after: int,
    queries: int | None = None,
    output: str = "labels",
    decimals: int | None = None,
    revocable: bool = True,
) -> Terms:
    """ConfigError for what no licence may say."""
    values = {"operations": sorted(set(operations)), "not_before": not_before, "not_after": not_after}
    values |= {"queries": queries, "output": output, "decimals": decimals, "revocable": revocable}
    try:
        return TypeAdapter(Terms).validate_json(json.dumps(values))
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = ".".join(map(str, problem["loc"])) or "terms"
        raise ConfigError(f"a licence's {where}: {problem['msg'].removeprefix('Value error, ')}") from None


def issue(package: str, licensee: Public, granted: Terms, issuer: Identity) -> str:
    """The token. `package` is the id of a package's content."""
    claims = {"jti": secrets.token_hex(16), "sub": licensee.kid, "package": package, "terms": asdict(granted)}
    return sign(claims, KIND, issuer)


def read(token: str, issuer: Public) -> Licence:
    """Rejected unless the issuer signed it; whether it holds now is for `permit`."""
    return read_as(LICENCE, token, KIND, issuer)


def permit(
    token: str,
    issuer: Public,
    *,
    package: str,
    licensee: str,
    operation: Operation,
    pinned: str | None = None,
    revoked: Revocations | None = None,
    now: int | None = None,
) -> Licence:
    """The licence, if it allows this operation on this package to this party now; Rejected says what is wrong with it. pinned: the
    digest of the only token that will do."""
    found = read(token, issuer)
    if pinned is not None and not same(hashlib.sha256(token.encode()).hexdigest(), pinned):
        raise Rejected("another licence is pinned in the package for this party")
    if not same(found.package, package) or not same(found.sub, licensee):
        raise Rejected("the licence is for another package or another party")
    if operation not in found.terms.operations:
        raise Rejected(f"the licence allows {' and '.join(found.terms.operations)}, not {operation}")
    current(found, revoked, now)
    return found


def current(licence: Licence, revoked: Revocations | None, now: int | None = None) -> None:
    """Rejected before, after, without the list a revocable licence needs, under a list past its date, and once revoked."""
    moment = int(time.time()) if now is None else now
    if moment < licence.terms.not_before:
        raise Rejected("the licence does not hold yet")
    if moment >= licence.terms.not_after:
        raise Rejected("the licence has expired")
    if not licence.terms.revocable:
        return
    if revoked is None:
        raise Rejected("the licence can be revoked: expected the issuer's revocation list beside it")
    if not same(revoked.iss, licence.iss):
        raise Rejected("the revocation list is another issuer's")
    if moment >= revoked.until:
        raise Rejected("the revocation list is past its date: ask its issuer for the next")
    if licence.jti in revoked.revoked:
        raise Rejected("the licence was revoked")
