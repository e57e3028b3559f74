"""Signed checkpoints of a log: text notes that anybody can read and keep (C2SP signed-note, tlog-checkpoint, tlog-cosignature).

example.org/log          the log's name
12                       how many entries
3wXu...=                 root, base64
                         (an empty line)
— example.org/log 8Rk... the log's signature, over the three lines
— witness Ab3...         a witness's: time and signature, over the time and the three lines
"""

import base64
from dataclasses import dataclass

from ..core.errors import ConfigError
from .signers import COSIGNATURE, NAME, NOTE, Signer, Verifier, decoded

LARGEST = 16384  # bytes of a note
DASH = "\u2014 "


@dataclass(frozen=True)
class Checkpoint:
    """What a log says of itself: its name (`origin`), its size, its root."""

    origin: str
    size: int
    root: bytes

    @property
    def body(self) -> bytes:
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n".encode()


def signature_line(signer: Verifier, payload: bytes) -> str:
    return f"{DASH}{signer.name} {base64.b64encode(signer.id + payload).decode()}\n"


def signed(checkpoint: Checkpoint, log: Signer) -> bytes:
    """The note with the log's signature."""
    line = signature_line(log.verifier, log.sign(checkpoint.body))
    return checkpoint.body + b"\n" + line.encode()


def cosignature(checkpoint: Checkpoint, witness: Signer, time: int) -> str:
    """A witness's line: it has seen this checkpoint, and no other history, at this time (seconds since 1970)."""
    signature = witness.sign(_timed(checkpoint, time))
    return signature_line(witness.verifier, time.to_bytes(8, "big") + signature)


def parse(note: bytes) -> Checkpoint:
    """What the note says, whoever signed it; ConfigError unless it has exactly this form."""
    return _parts(note)[0]


def opened(note: bytes, log: Verifier, witness: Verifier | None = None) -> tuple[Checkpoint, int | None]:
    """The checkpoint, once the log and the witness are found to have signed it, and the witness's time. ConfigError otherwise, also
    for a signature that fails or that nobody asked about: it may have been spoilt on its way."""
    admitted(log, witness)
    checkpoint, lines = _parts(note)
    wanted = [log] if witness is None else [log, witness]
    if checkpoint.origin != log.name:
        raise ConfigError(f"the checkpoint is of the log {checkpoint.origin}, expected {log.name}")
    payloads = {}
    for line in lines:
        name, payload, ident = _signature(line)
        signer = next((v for v in wanted if v.name == name and v.id == ident), None)
        if signer is None and witness is None and len(payload) == 72:
            continue  # a cosignature of a witness whom the reader does not know
        if signer is None or signer in payloads:
            raise ConfigError(f"the checkpoint has a signature of {name} that nobody asked for")
        payloads[signer] = payload
    for signer in wanted:
        if signer not in payloads:
            raise ConfigError(
                f"the checkpoint lacks the signature of {signer.name} with key {signer.id.hex()}"
            )
        if not _valid(signer, payloads[signer], checkpoint):
            raise ConfigError(f"the checkpoint's signature of {signer.name} is not valid")
    return checkpoint, None if witness is None else int.from_bytes(payloads[witness][:8], "big")


def admitted(log: Verifier, witness: Verifier | None) -> None:
    """ConfigError for keys of the other's kind: a log's signature says no time, and a key that is both is no witness."""
    if log.kind != NOTE or (witness is not None and witness.kind != COSIGNATURE):
        raise ConfigError(
            f"expected a log's key of kind {NOTE} and a witness's of kind {COSIGNATURE} (its witness.pub), got {log.kind} and "
            f"{witness.kind if witness is not None else 'none'}"
        )


def cosigned(note: bytes, witness: Verifier) -> bytes:
    """The witness's payload (time and signature, 72 bytes) as it stands in the note; ConfigError when it has none."""
    for line in _parts(note)[1]:
        name, payload, ident = _signature(line)
        if (name, ident) == (witness.name, witness.id):
            return payload
    raise ConfigError(f"the checkpoint lacks the signature of {witness.name}")


def _valid(signer: Verifier, payload: bytes, checkpoint: Checkpoint) -> bool:
    if signer.kind == COSIGNATURE:
        time = int.from_bytes(payload[:8], "big")
        return len(payload) == 72 and signer.accepts(payload[8:], _timed(checkpoint, time))
    return len(payload) == 64 and signer.accepts(payload, checkpoint.body)


def _timed(checkpoint: Checkpoint, time: int) -> bytes:
    return f"cosignature/v1\ntime {time}\n".encode() + checkpoint.body


def _parts(note: bytes) -> tuple[Checkpoint, list[str]]:
    if len(note) > LARGEST:
        raise ConfigError(f"expected a checkpoint of at most {LARGEST} bytes, got {len(note)}")
    try:
        body, _, rest = note.decode().partition("\n\n")
    except UnicodeDecodeError:
        raise ConfigError("expected a checkpoint in UTF-8") from None
    lines = body.split("\n")
    root = decoded(lines[2]) if len(lines) == 3 else b""
    if len(root) != 32 or not NAME.fullmatch(lines[0]) or not _whole(lines[1]):
        raise ConfigError(f"expected a checkpoint of three lines (name, size, root), got {body[:120]!r}")
    signatures = rest.split("\n")
    if len(signatures) < 2 or signatures[-1] or len(signatures) > 17:
        raise ConfigError("expected a checkpoint with 1 to 16 signatures below an empty line")
    return Checkpoint(lines[0], int(lines[1]), root), signatures[:-1]


def _whole(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 19 and str(int(text)) == text


def _signature(line: str) -> tuple[str, bytes, bytes]:
    """Name, payload, key id."""
    name, _, text = line.removeprefix(DASH).partition(" ")
    raw = decoded(text)
    if not line.startswith(DASH) or not NAME.fullmatch(name) or len(raw) not in (68, 76):
        raise ConfigError(f"expected a signature line, got {line[:120]!r}")
    return name, raw[4:], raw[:4]
