"""A user's own attack, in a folder for --config-dir: one yaml and one module."""

from pathlib import Path

TEXT = """
import os, pathlib, signal, time
from dataclasses import dataclass
from assay.core.theft import Attack

@dataclass(frozen=True)
class Own(Attack):
    needs = "weights"
    data = "none"
    axis = "none"
    paper = "none"

    def __call__(self, access, adversary):
        {body}
        yield
"""


def own_attack(folder: Path, name: str, body: str) -> Path:
    """The module's path, for attack=name: it does what `body` says, and yields nothing."""
    (folder / "attack").mkdir(exist_ok=True)
    (folder / "attack" / f"{name}.yaml").write_text(f"_target_: {name}_user_module.Own\n")
    path = folder / f"{name}_user_module.py"
    path.write_text(TEXT.format(body=body))
    return path
