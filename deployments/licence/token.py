"""Signed statements: JSON Web Tokens under Ed25519 alone (RFC 7519, RFC 8037), read more strictly than libraries read them.

Base64 decoders overlook stray bits and characters, so a token that differs from its own re-encoding is refused: of one statement
there is one text. The header is compared whole: no other algorithm, key or kind.
"""

import base64
import binascii
import json
from typing import Any, Literal, TypeVar

import jwt
from pydantic import TypeAdapter, ValidationError

from ..package.identity import Identity, Public, Rejected

Kind = Literal["wmpkg-licence+jwt", "wmpkg-revocations+jwt"]
LONGEST = 2**20  # characters
T = TypeVar("T")


def sign(claims: dict[str, Any], kind: Kind, issuer: Identity) -> str:
    """With the issuer's kid as `iss`."""
    claims = {**claims, "iss": issuer.public.kid}
    return jwt.encode(claims, issuer.signing, algorithm="EdDSA", headers=_head(kind, issuer.public))


def read_as(shape: TypeAdapter[T], token: str, kind: Kind, issuer: Public) -> T:
    """The claims as the frozen dataclass whose fields they are, `iss` among them; Rejected unless the issuer signed them."""
    claims = verified(token, kind, issuer)
    try:
        return shape.validate_json(json.dumps(claims))
    except ValidationError as error:
        problem = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(map(str, problem["loc"]))
        raise Rejected(f"the {_name(kind)} is damaged: {where}: {problem['msg']}") from None


def verified(token: str, kind: Kind, issuer: Public) -> dict[str, Any]:
    """The claims; Rejected. Times are the caller's to judge: he has the clock."""
    name = _name(kind)
    if len(token) > LONGEST or not _canonical(token):
        raise Rejected(f"the {name} is damaged: no token of three parts in canonical form")
    checks = dict.fromkeys(("verify_exp", "verify_nbf", "verify_iat", "verify_aud", "verify_iss"), False)
    try:
        found = jwt.decode_complete(token, issuer.signing, algorithms=["EdDSA"], options=checks)  # type: ignore[arg-type]
    except jwt.PyJWTError:
        raise Rejected(f"the {name} was not signed by {issuer.kid[:16]}, or changed since") from None
    if (
        found["header"] != {**_head(kind, issuer), "alg": "EdDSA"}
        or found["payload"].get("iss") != issuer.kid
    ):
        raise Rejected(f"the token is no {name} of {issuer.kid[:16]}")
    claims: dict[str, Any] = found["payload"]
    return claims


def _name(kind: Kind) -> str:
    return {"wmpkg-licence+jwt": "licence", "wmpkg-revocations+jwt": "revocation list"}[kind]


def _head(kind: Kind, issuer: Public) -> dict[str, str]:
    return {"typ": kind, "kid": issuer.kid}


def _canonical(token: str) -> bool:
    parts = token.split(".")
    try:
        raw = [base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)) for part in parts]
        json.loads(raw[0])
    except (ValueError, binascii.Error):
        return False
    again = [base64.urlsafe_b64encode(one).rstrip(b"=").decode("ascii") for one in raw]
    return len(parts) == 3 and again == parts
