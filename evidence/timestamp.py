"""RFC 3161 tokens over a checkpoint: a time from an authority that neither log nor owner controls. Needs the extra `timestamp`.

A token is as good as its authority. The one of `local_tsa.py` is for tests: its key lies beside the log, so it proves nothing to
third parties, and every result says so.
"""

import urllib.request
from dataclasses import dataclass
from pathlib import Path

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
    from rfc3161_client import HashAlgorithm, TimestampRequestBuilder

    builder = TimestampRequestBuilder().data(message).hash_algorithm(HashAlgorithm.SHA256)
    return bytes(builder.build().as_bytes())


def from_authority(url: str, message: bytes) -> bytes:
    """The token that an authority on the network gives; ConfigError when it cannot be reached."""
    if not url.startswith(("http://", "https://")):
        raise ConfigError(f"expected an authority's address as http(s)://..., got {url}")
    headers = {"Content-Type": "application/timestamp-query"}
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url, query(message), headers), timeout=PATIENCE
        ) as answer:
            return bytes(answer.read(LARGEST))
    except OSError as error:
        raise ConfigError(f"the timestamp authority {url} cannot be reached: {error}") from None


def checked(token: bytes, message: bytes, roots: Path) -> Stamp:
    """ConfigError unless the token is over this message and its chain ends in one of these roots (PEM)."""
    from rfc3161_client import VerificationError, VerifierBuilder, decode_timestamp_response

    if len(token) > LARGEST:
        raise ConfigError(f"expected a token of at most {LARGEST} bytes, got {len(token)}")
    builder = VerifierBuilder()
    for root in certificates(roots):
        builder = builder.add_root_certificate(root)
    try:
        found = decode_timestamp_response(token)
        builder.build().verify_message(found, message)
    except (ValueError, VerificationError) as error:
        raise ConfigError(f"the timestamp is not valid: {error}") from None
    names = [x509.load_der_x509_certificate(raw) for raw in found.signed_data.certificates]
    name = names[0].subject.rfc4514_string() if names else "unnamed"
    return Stamp(name, found.tst_info.gen_time.isoformat(timespec="seconds"), TEST in name)


def certificates(path: Path) -> list[x509.Certificate]:
    if not path.is_file():
        raise ConfigError(f"expected certificates in PEM at {path}, found none; pass --tsa-root FILE")
    try:
        return x509.load_pem_x509_certificates(path.read_bytes())
    except ValueError as error:
        raise ConfigError(f"{path} holds no certificates in PEM: {error}") from None
