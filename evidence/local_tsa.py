"""A timestamp authority of one's own, for tests and rehearsals: it proves nothing to third parties, and its name says so.

Answers through `openssl ts`, since no library here writes tokens.
"""

import shutil
import subprocess
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ..core.atomic import write_atomically
from ..core.errors import ConfigError
from .timestamp import TEST

CONFIG = """[tsa]
serial = {folder}/serial
default_policy = 1.2.3.4.1
digests = sha256
signer_digest = sha256
accuracy = secs:1
ess_cert_id_alg = sha256
"""


def create(folder: Path) -> Path:
    """Its key and certificates; the path of the root, which a verifier must be given."""
    if (folder / "tsa.key").exists():
        raise ConfigError(f"{folder} holds a test authority already; name another folder")
    root_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    root = _certificate(f"{TEST} root", root_key, None, root_key)
    leaf = _certificate(TEST, key, root, root_key)
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    write_atomically(folder / "tsa.key", key.private_bytes(*form), private=True)
    for name, found in (("tsa.pem", leaf), ("root.pem", root)):
        write_atomically(folder / name, found.public_bytes(serialization.Encoding.PEM))
    return folder / "root.pem"


def token(folder: Path, query: bytes) -> bytes:
    """Its answer to an RFC 3161 request; ConfigError without the program `openssl`."""
    program = shutil.which("openssl")
    if program is None:
        raise ConfigError("the test authority answers through the program `openssl`, which is not installed")
    with tempfile.TemporaryDirectory() as place:
        asked, config, reply = (Path(place) / name for name in ("query", "config", "reply"))
        asked.write_bytes(query)
        config.write_text(CONFIG.format(folder=place))
        (Path(place) / "serial").write_text("01\n")
        words = ["ts", "-reply", "-config", config, "-section", "tsa", "-queryfile", asked, "-out", reply]
        words += ["-signer", folder / "tsa.pem", "-inkey", folder / "tsa.key"]
        done = subprocess.run([program, *map(str, words)], capture_output=True, text=True, check=False)
        if done.returncode:
            raise ConfigError(f"the test authority gave no token: {done.stderr[-300:].strip()}")
        return reply.read_bytes()


def _certificate(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: x509.Certificate | None,
    signer: ec.EllipticCurvePrivateKey,
) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issuer is None else issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=3650))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    if issuer is not None:
        usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.TIME_STAMPING])
        builder = builder.add_extension(usage, critical=True)
    return builder.sign(signer, hashes.SHA256())
