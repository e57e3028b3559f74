"""A witness that answers one request from standard input: `python -m assay.evidence.answer FOLDER`. A process of its own: the log
holds neither its key nor its memory."""

import sys
from pathlib import Path

from .witness import LARGEST, Witness


def main(folder: str) -> None:
    status, body = Witness.load(Path(folder)).answer(sys.stdin.buffer.read(LARGEST + 1))
    sys.stdout.buffer.write(f"{status}\n".encode() + body)


if __name__ == "__main__":
    main(sys.argv[1])
