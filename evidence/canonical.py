"""One form of every JSON value, so that digests and signatures speak of contents: what is signed are these bytes, and what is read
back must be these bytes again.

Keys sorted, no white space, ASCII. Floats have no one form across languages: fractions are written as decimal strings ("1e-6").
"""

import json
from typing import Any

from ..core.errors import ConfigError

DEPTH = 16
LARGEST = 2**53  # integers beyond lose digits in other languages' JSON


def canonical(value: Any) -> bytes:
    """ValueError for floats, integers beyond 2^53, keys that are no strings, and nesting deeper than 16."""
    _check(value, 0)
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def parsed(content: bytes, what: str) -> Any:
    """The value of canonical bytes; ConfigError for any other bytes, also for those that say the same in another form."""
    try:
        value = json.loads(content.decode("ascii"))
        same = canonical(value) == content
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{what} is not canonical JSON: {error}") from None
    if not same:
        raise ConfigError(f"{what} is JSON in another form than the canonical one: changed since it was made")
    return value


def fields(value: Any, names: set[str], what: str) -> dict[str, Any]:
    """An object with exactly these fields; ConfigError names those that lack or are too many."""
    found = set(value) if isinstance(value, dict) else None
    if found is None:
        raise ConfigError(f"{what}: expected an object with the fields {', '.join(sorted(names))}")
    if found != names:
        wrong = ", ".join(sorted(map(str, names ^ found)))
        raise ConfigError(
            f"{what}: expected the fields {', '.join(sorted(names))}; wrong or missing: {wrong}"
        )
    return dict(value)


def _check(value: Any, depth: int) -> None:
    if depth > DEPTH:
        raise ValueError(f"expected at most {DEPTH} levels of nesting")
    if value is None or isinstance(value, (str, bool)):
        return
    if isinstance(value, int):
        if abs(value) > LARGEST:
            raise ValueError(f"expected integers within 2^53, got {value}")
    elif isinstance(value, (list, tuple)):
        for item in value:
            _check(item, depth + 1)
    elif isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise ValueError(f"expected names of fields as strings, got {key!r}")
            _check(item, depth + 1)
    else:
        raise ValueError(
            f"expected text, integers, lists and objects, got {type(value).__name__}: {value!r}"[:200]
        )
