"""RFC 3161 tokens over a checkpoint: a time from an authority that neither log nor owner controls. Needs the extra `timestamp`.

A token is as good as its authority. The one of `local_tsa.py` is for tests: its key lies beside the log, so it proves nothing to
third parties, and every result says so.
"""

import urllib.request
from dataclasses import dataclass
from http.client import HTTPException
from importlib import import_module
from pathlib import Path
from typing import Any

from cryptography import x509

from ..core.errors import ConfigError

LARGEST = 65536
PATIENCE = 30  # seconds
TEST = "Assay test TSA (proves nothing to third parties)"
"""The common name of the local authority, by which it is recognised."""


@dataclass(frozen=True)
class Stamp:
    """The authority's name, the time in UTC, and whether it is the local one for tests."""

    authority: str
    time: str
    test: bool


def query(message: bytes) -> bytes:
    """A request for a token over the SHA-256 of this message, in DER."""
    client = _client()
    builder = client.TimestampRequestBuilder().data(message).hash_algorithm(client.HashAlgorithm.SHA256)
    return bytes(builder.build().as_bytes())


def from_authority(url: str, message: bytes) -> bytes:
    """The token that an authority on the network gives; ConfigError when it cannot be reached."""
    if not url.startswith(("http://", "https://")):
        raise ConfigError(f"expected an authority's address as http(s)://..., got {url}")
    content, headers = query(message), {"Content-Type": "application/timestamp-query"}
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url, content, headers), timeout=PATIENCE
        ) as answer:
            return bytes(answer.read(LARGEST))
    except (OSError, ValueError, HTTPException) as error:  # ValueError: no address
        raise ConfigError(f"the timestamp authority {url} cannot be reached: {error}") from None


def checked(token: bytes, message: bytes, roots: Path) -> Stamp:
    """ConfigError unless the token is over this message and its chain ends in one of these roots (PEM)."""
    client = _client()
    if len(token) > LARGEST:
        raise ConfigError(f"expected a token of at most {LARGEST} bytes, got {len(token)}")
    builder = client.VerifierBuilder()
    for root in certificates(roots):
        builder = builder.add_root_certificate(root)
    try:
        found = client.decode_timestamp_response(token)
        builder.build().verify_message(found, message)
    except (ValueError, client.VerificationError) as error:
        raise ConfigError(f"the timestamp is not valid: {error}") from None
    name = _signer(found.signed_data)
    return Stamp(name, found.tst_info.gen_time.isoformat(timespec="seconds"), TEST in name)


def _signer(signed: Any) -> str:
    """Whose signature it is, of the chain that a token carries in any order."""
    named = {(one.issuer, one.serial_number) for one in signed.signer_infos}
    found = [x509.load_der_x509_certificate(raw) for raw in signed.certificates]
    names = [one.subject.rfc4514_string() for one in found if (one.issuer, one.serial_number) in named]
    return ", ".join(sorted(names)) or "unnamed"


def _client() -> Any:
    try:
        return import_module("rfc3161_client")
    except ModuleNotFoundError as error:
        raise ConfigError(f"timestamps need {error.name}: pip install 'assay[timestamp]'") from None


def certificates(path: Path) -> list[x509.Certificate]:
    if not path.is_file():
        raise ConfigError(f"expected certificates in PEM at {path}, found none; pass --tsa-root FILE")
    try:
        return x509.load_pem_x509_certificates(path.read_bytes())
    except ValueError as error:
        raise ConfigError(f"{path} holds no certificates in PEM: {error}") from None
