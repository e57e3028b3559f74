"""Sealing and opening: AES-256-GCM in chunks (1 to 16 MiB), the data key wrapped for each recipient by X25519 and HKDF.

Chunk i: nonce = prefix || i; AAD = package id || i || final flag, so that no chunk can be moved, dropped, or taken from another
package. A data key is drawn per package and used for nothing else. No more than two chunks are in memory.
"""

import hashlib
import secrets
from collections.abc import Callable, Iterator
from typing import BinaryIO

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from ...core.secret import Secret
from .header import TAG, Content, Recipient
from .identity import Identity, Public, Rejected, same

WRAP = b"assay/wmpkg/1/wrap\0"
Write = Callable[[memoryview], object]


def wrapped(key: Secret, content: Content, to: Public, licence: str | None) -> Recipient:
    """The data key for one party: an ephemeral X25519 key agrees with his, HKDF makes a key that is used once."""
    ephemeral = X25519PrivateKey.generate()
    shown = ephemeral.public_key().public_bytes_raw()
    own = to.receiving.public_bytes_raw()
    wrapping = _wrapping(ephemeral.exchange(to.receiving), shown, own)
    sealed = wrapping.encrypt(bytes(12), key.raw, _bound(content, to.kid, licence))
    return Recipient(to.kid, shown.hex(), sealed.hex(), licence)


def unwrapped(entry: Recipient, content: Content, mine: Identity) -> Secret:
    """The data key; Rejected for another's entry, and for one that was put together from others."""
    shown, own = bytes.fromhex(entry.ephemeral), mine.public
    try:
        shared = mine.receiving.exchange(X25519PublicKey.from_public_bytes(shown))
        wrapping = _wrapping(shared, shown, own.receiving.public_bytes_raw())
        raw = wrapping.decrypt(
            bytes(12), bytes.fromhex(entry.wrapped), _bound(content, own.kid, entry.licence)
        )
    except (ValueError, InvalidTag):  # ValueError: a point of low order
        raise Rejected("the data key is not wrapped for this key") from None
    return Secret(raw)


def _wrapping(shared: bytes, ephemeral: bytes, own: bytes) -> AESGCM:
    return AESGCM(HKDF(SHA256(), 32, salt=ephemeral + own, info=WRAP).derive(shared))


def _bound(content: Content, kid: str, licence: str | None) -> bytes:
    return WRAP + bytes.fromhex(content.id + kid + (licence or ""))


def _chunk(content: Content, i: int) -> tuple[bytes, bytes]:
    """Nonce and AAD."""
    number = i.to_bytes(4, "big")
    final = bytes([i == content.chunks - 1])
    return bytes.fromhex(content.nonce) + number, bytes.fromhex(content.id) + number + final


def fresh_key() -> Secret:
    return Secret(secrets.token_bytes(32))


def digest(source: BinaryIO, chunk: int) -> tuple[str, int]:
    """SHA-256 and length of what is left of a file."""
    found, size, buffer = hashlib.sha256(), 0, memoryview(bytearray(chunk))
    while count := source.readinto(buffer):  # type: ignore[attr-defined]
        found.update(buffer[:count])
        size += count
    return found.hexdigest(), size


def encrypt(source: BinaryIO, content: Content, key: Secret, write: Write) -> None:
    """ValueError when the source is not what the content part says it is."""
    aead, found = AESGCM(key.raw), hashlib.sha256()
    plain, sealed = _buffers(content)
    for i, length in enumerate(_lengths(content)):
        part = plain[:length]
        if _filled(source, part) < length:
            raise ValueError("the file became shorter while it was sealed")
        found.update(part)
        nonce, bound = _chunk(content, i)
        aead.encrypt_into(nonce, part, bound, sealed[: length + TAG])
        write(sealed[: length + TAG])
    if source.read(1) or found.hexdigest() != content.digest:
        raise ValueError("the file changed while it was sealed")


def decrypt(source: BinaryIO, content: Content, key: Secret, write: Write) -> None:
    """Every chunk is checked before it is written. Rejected, at the latest by the digest of the whole: what was written before
    must then be thrown away."""
    aead, found = AESGCM(key.raw), hashlib.sha256()
    plain, sealed = _buffers(content)
    for i, length in enumerate(_lengths(content)):
        if _filled(source, sealed[: length + TAG]) < length + TAG:
            raise Rejected(f"the package is cut off in chunk {i} of {content.chunks}")
        nonce, bound = _chunk(content, i)
        try:
            aead.decrypt_into(nonce, sealed[: length + TAG], bound, plain[:length])
        except InvalidTag:
            raise Rejected(f"chunk {i} of {content.chunks} was changed, moved or belongs elsewhere") from None
        found.update(plain[:length])
        write(plain[:length])
    if source.read(1):
        raise Rejected("something follows the last chunk")
    if not same(found.hexdigest(), content.digest):
        raise Rejected("the content is not the one that was signed")


def _lengths(content: Content) -> Iterator[int]:
    """Of the chunks' plaintexts."""
    for start in range(0, content.size, content.chunk):
        yield min(content.chunk, content.size - start)


def _buffers(content: Content) -> tuple[memoryview, memoryview]:
    longest = min(content.chunk, content.size)
    return memoryview(bytearray(longest)), memoryview(bytearray(longest + TAG))


def _filled(source: BinaryIO, buffer: memoryview) -> int:
    """Bytes read: a short read is no end."""
    done = 0
    while done < len(buffer) and (count := source.readinto(buffer[done:])):  # type: ignore[attr-defined]
        done += count
    return done
