"""Ways to reach a witness: over HTTP, or as a process of its own in another folder."""

import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from http.client import HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from ..core.errors import ConfigError
from .witness import BAD, LARGEST, OK, Ask, Witness

PATH = "/add-checkpoint"
PATIENCE = 30  # seconds


def over_http(address: str) -> Ask:
    """A witness at http(s)://HOST[:PORT]."""
    url = address.rstrip("/") + PATH
    if not url.startswith(("http://", "https://")):
        raise ConfigError(f"expected a witness's address as http://HOST:PORT, got {address}")

    def ask(content: bytes) -> tuple[int, bytes]:
        try:
            with urllib.request.urlopen(url, content, PATIENCE) as answer:
                return OK, answer.read(LARGEST)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read(LARGEST)
        except (OSError, ValueError, HTTPException) as error:  # ValueError: no address
            raise ConfigError(f"the witness at {address} cannot be reached: {error}") from None

    return ask


def as_process(command: Sequence[str]) -> Ask:
    """A command that reads one request and writes the status, a line, and the body."""

    def ask(content: bytes) -> tuple[int, bytes]:
        try:
            done = subprocess.run(
                list(command), input=content, capture_output=True, timeout=PATIENCE, check=False
            )
        except subprocess.TimeoutExpired:
            raise ConfigError(
                f"the witness {' '.join(command)} gave no answer within {PATIENCE} seconds"
            ) from None
        status, _, body = done.stdout.partition(b"\n")
        if done.returncode or not (status.isdigit() and len(status) == 3):
            complaint = done.stderr.decode(errors="replace")[-300:].strip()
            raise ConfigError(f"the witness {' '.join(command)} gave no answer: {complaint}")
        return int(status), body

    return ask


def reached(where: str) -> Ask:
    """An address, or the folder of a witness on this machine, which then answers from a process of its own."""
    if where.startswith(("http://", "https://")):
        return over_http(where)
    return as_process([sys.executable, "-m", "assay.evidence.answer", where])


def server(witness: Witness, host: str, port: int) -> ThreadingHTTPServer:
    """Answers POST /add-checkpoint until it is shut down."""

    class Handler(BaseHTTPRequestHandler):
        timeout = PATIENCE

        def do_POST(self) -> None:
            length = self.headers.get("Content-Length", "")
            fits = self.path == PATH and length.isdecimal() and int(length) <= LARGEST
            status, body = witness.answer(self.rfile.read(int(length))) if fits else (BAD, b"")
            self.send_response(status)
            self.send_header("Content-Type", "text/plain; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Silent."""

    return ThreadingHTTPServer((host, port), Handler)
