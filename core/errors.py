"""What can go wrong, by what it means for a trial; and how it is shown."""


class ConfigError(ValueError):
    """Bad input: says what was expected, what came, and the override that mends it. Exit code 2, no traceback."""


class NotApplicable(Exception):
    """Scheme, attack and model do not fit together (no such layer, say): recorded as `not_applicable`."""


class Denied(Exception):
    """The deployment does not grant what the attack needs: recorded as `blocked`."""


def printable(text: str) -> str:
    """A stranger's words on one line, as they are: a terminal that obeyed them could be made to show another verdict."""
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)
