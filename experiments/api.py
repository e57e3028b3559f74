"""For notebooks: `trial = build("task=digits", "watermark=uchida", "attack=prune")`, then `trial.run()`."""

from .config import composer
from .trial import Trial, prepare


def build(*overrides: str, config_dir: str | None = None) -> Trial:
    """A validated trial with `.task`, `.watermark`, `.attack` and `.run()`; nothing is trained yet.

    `run()` returns the record and stores nothing. ConfigError (a ValueError) explains bad input."""
    with composer(config_dir) as compose:
        return prepare(compose(list(overrides)), keyed=True)
