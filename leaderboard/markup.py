"""Any text as text of a table: nothing in it is a command."""

import re

LATEX = {
    "\\": "\\textbackslash{}",
    "~": "\\textasciitilde{}",
    "^": "\\textasciicircum{}",
    "<": "\\textless{}",
    ">": "\\textgreater{}",
    "|": "\\textbar{}",
    '"': "\\char34{}",
    "–": "--",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}


def latex(text: str) -> str:
    """Any text as text: no character of it is a command. A space before % does not break, minus signs are minus signs."""
    plain = re.sub(r"\s+", " ", text)
    escaped = "".join(LATEX.get(sign, sign) for sign in plain)
    return re.sub(r"(?<![\w.)\]-])-(?=\d)", "$-$", escaped.replace(" \\%", "~\\%"))


def markdown(text: str) -> str:
    """Any text as text, in one cell."""
    return re.sub(r"([\\`*_{}\[\]<>|#~])", r"\\\1", re.sub(r"\s+", " ", text))
