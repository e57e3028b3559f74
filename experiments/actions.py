"""Commands of several actions in which what is shown may not hold: `assay package`, `assay serve`."""

import argparse
from collections.abc import Callable, Collection, Mapping, Sequence

from rich.console import Console
from rich.markup import escape

from ..core.errors import ConfigError, printable
from .show import terminal

REFUSED = 1
Action = Callable[[argparse.Namespace, Sequence[str], Console], int]


def acted(
    actions: Mapping[str, Action],
    overridden: Collection[str],
    arguments: argparse.Namespace,
    rest: Sequence[str],
    console: Console,
) -> int:
    """The action's exit code; REFUSED where what was shown does not hold. overridden: the actions that take overrides."""
    from ..deployments.package.identity import Rejected

    name = arguments.action_
    if rest and name not in overridden:
        raise ConfigError(f"unexpected argument {rest[0]!r}; see `assay {arguments.command} {name} --help`")
    for word in rest:
        if "=" not in word or word.startswith("-"):
            raise ConfigError(f"expected overrides such as task=digits, got {word!r}")
    try:
        return actions[name](arguments, rest, console)
    except Rejected as error:
        complain = terminal(stderr=True)
        complain.print(f"[red]refused:[/] {escape(printable(str(error)))}", soft_wrap=True, highlight=False)
        return REFUSED
