"""Edits of characters that a reader does not see and a tokenizer does: letters that look alike, spaces of no width, other spaces.

Studied on classifiers by Boucher et al., "Bad Characters", IEEE S&P 2022, arXiv:2106.09898; on text marks by Kirchenbauer et
al., ICML 2023, arXiv:2301.10226, section 7. Whoever maps text to its skeleton (Unicode TS 39) before detection undoes them.
"""

import torch

from .edits import sample

LIKE = dict(
    zip(
        "acehijopsxyABCEHIJKMOPSTXYZ",
        "\u0430\u0441\u0435\u04bb\u0456\u0458\u043e\u0440\u0455\u0445\u0443"
        "\u0410\u0412\u0421\u0415\u041d\u0406\u0408\u041a\u041c\u041e\u0420\u0405\u0422\u0425\u04ae\u0396",
        strict=True,
    )
)
"""Latin letters, and the Cyrillic or Greek ones that most typefaces draw the same way."""
NO_WIDTH = "\u200b"
NO_BREAK = "\u00a0"


def homoglyphs(text: str, share: float, generator: torch.Generator) -> str:
    """The share of letters that have a double is replaced by it."""
    return _replaced(text, LIKE, share, generator)


def spaces(text: str, share: float, generator: torch.Generator) -> str:
    """The share of spaces becomes no-break spaces."""
    return _replaced(text, {" ": NO_BREAK}, share, generator)


def zero_width(text: str, share: float, generator: torch.Generator) -> str:
    """After the share of characters stands a space of no width."""
    chosen = set(sample(len(text), share, generator).tolist())
    return "".join(c + NO_WIDTH if i in chosen else c for i, c in enumerate(text))


def _replaced(text: str, choices: dict[str, str], share: float, generator: torch.Generator) -> str:
    places = torch.tensor([i for i, c in enumerate(text) if c in choices], dtype=torch.int64)
    chosen = set(places[sample(len(places), share, generator)].tolist())
    return "".join(choices[c] if i in chosen else c for i, c in enumerate(text))
