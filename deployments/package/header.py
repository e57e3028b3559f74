"""The head of a .wmpkg file: magic, a length (u32, little-endian), canonical JSON.

The content part says what is sealed and never changes: its digest, the package's id, is in the AAD of every chunk and in every
wrapped key, so no chunk and no key fits another package. Recipients are signed with it but not in the AAD: rewrapping touches no
data. Only the canonical form is read, so no bit can change unseen, not even one that leaves the JSON's meaning.
"""

import hashlib
import json
import struct
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cached_property
from typing import Annotated, Any, BinaryIO, Literal

from cryptography.exceptions import InvalidSignature
from pydantic import ConfigDict, StringConstraints, TypeAdapter, ValidationError
from pydantic import Field as Limited
from pydantic.dataclasses import dataclass

from ...core.errors import ConfigError
from .identity import Identity, Public, Rejected, same

MAGIC = b"\x89WMPKG\r\n"  # not text, and broken by whatever converts line ends
LENGTH = struct.Struct("<I")
MOST_HEADER = 2**20
MIB = 2**20
TAG = 16  # bytes that AES-GCM adds to a chunk
MOST_CHUNKS = 2**32  # numbered by 32 bits in the nonce
MOST_BUYERS = 2**31
CLOSED = ConfigDict(extra="forbid", strict=True)

Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}\z")]


def hexadecimal(count: int) -> Any:
    return StringConstraints(pattern=rf"^[0-9a-f]{{{2 * count}}}\z")


@dataclass(frozen=True, config=CLOSED)
class Content:
    """What is sealed. digest: SHA-256 of the safetensors file of `size` bytes; chunk: bytes of plaintext per chunk; nonce: the
    first 8 bytes of every nonce; issuer: a kid; buyer: the number whose bits mark this copy, null for an unmarked one."""

    format: Literal["wmpkg/1"]
    cipher: Literal["AES-256-GCM"]
    digest: Digest
    size: Annotated[int, Limited(ge=10, le=2**48)]
    chunk: Annotated[int, Limited(ge=MIB, le=16 * MIB)]
    nonce: Annotated[str, hexadecimal(8)]
    issuer: Digest
    buyer: Annotated[int, Limited(ge=0, le=MOST_BUYERS)] | None

    @cached_property
    def id(self) -> str:
        """Names the package, whoever its recipients are."""
        return hashlib.sha256(b"assay/wmpkg/1/content\0" + canonical(asdict(self))).hexdigest()

    @property
    def chunks(self) -> int:
        return -(-self.size // self.chunk)


@dataclass(frozen=True, config=CLOSED)
class Recipient:
    """kid: whom the data key is wrapped for; ephemeral: an X25519 public key; wrapped: the data key, AES-256-GCM; licence: SHA-256
    of the only licence that opens this entry, null where any of the issuer's for this package and party does."""

    kid: Digest
    ephemeral: Annotated[str, hexadecimal(32)]
    wrapped: Annotated[str, hexadecimal(48)]
    licence: Digest | None


@dataclass(frozen=True, config=CLOSED)
class Header:
    """signature: Ed25519 of the issuer over the other two."""

    content: Content
    recipients: tuple[Recipient, ...]
    signature: Annotated[str, hexadecimal(64)]

    def recipient(self, kid: str) -> Recipient | None:
        return next((one for one in self.recipients if same(one.kid, kid)), None)

    def encoded(self) -> bytes:
        body = canonical(asdict(self))
        if len(body) > MOST_HEADER:
            raise ConfigError(
                f"expected a header of at most {MOST_HEADER} bytes, got {len(body)}: too many recipients ({len(self.recipients)})"
            )
        return MAGIC + LENGTH.pack(len(body)) + body


HEADER = TypeAdapter(Header)


def canonical(value: Any) -> bytes:
    """JSON with sorted keys, no white space, ASCII. Here are no floats."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def signed(content: Content, recipients: Sequence[Recipient], issuer: Identity) -> Header:
    blank = Header(content, tuple(recipients), "0" * 128)
    return replace(blank, signature=issuer.signing.sign(_said(blank)).hex())


def _said(header: Header) -> bytes:
    """What is signed. The text before it keeps a signature from serving elsewhere."""
    values = asdict(header)
    del values["signature"]
    return b"assay/wmpkg/1/header\0" + canonical(values)


def read(file: BinaryIO) -> Header:
    """The header of a package, its signature not yet checked; the file stands at the first chunk. Rejected."""
    start = file.read(len(MAGIC) + LENGTH.size)
    if start[: len(MAGIC)] != MAGIC or len(start) < len(MAGIC) + LENGTH.size:
        raise Rejected("this is no .wmpkg file: it does not begin as one")
    (length,) = LENGTH.unpack(start[len(MAGIC) :])
    if length > MOST_HEADER:
        raise Rejected(f"the header says it has {length} bytes, more than {MOST_HEADER}")
    body = file.read(length)
    try:
        header = HEADER.validate_json(body)
    except ValidationError as error:
        problem = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(map(str, problem["loc"])) or "JSON"
        raise Rejected(f"the header is damaged: {where}: {problem['msg']}") from None
    if canonical(asdict(header)) != body:
        raise Rejected("the header is not in canonical form: it was changed")
    return header


def check(header: Header, issuer: Public) -> None:
    """Rejected unless this issuer signed it, and for recipients who are named twice."""
    if not same(header.content.issuer, issuer.kid):
        raise Rejected(f"unknown issuer {header.content.issuer[:16]}: expected {issuer.kid[:16]}")
    try:
        issuer.signing.verify(bytes.fromhex(header.signature), _said(header))
    except InvalidSignature:
        raise Rejected("the header was changed since its issuer signed it") from None
    kids = [one.kid for one in header.recipients]
    if len(set(kids)) < len(kids):
        raise Rejected("the header names a recipient twice")
