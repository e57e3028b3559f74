"""What there is: schemes, attacks, tasks, deployments, and what each declares, read without importing torch.

A declaration is a literal in the class body or a field in the yaml, so the syntax tree and the yaml hold it all.
"""

import ast
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from ..core.errors import ConfigError

CONF = Path(__file__).resolve().parent.parent / "conf"
GROUPS = {
    "watermark": ("family", "reads", "derivation", "nulls", "embeds", "paper"),
    "attack": ("needs", "uses_data", "axis", "scheme_known", "key_known", "paper"),
    "task": ("name", "classes"),
    "model": (),
    "deployment": ("grants", "decimals"),
    "suite": (),
}


def declared(thing: Any) -> dict[str, Any]:
    """The declarations of a built scheme or attack."""
    names = GROUPS["attack"] if hasattr(thing, "needs") else GROUPS["watermark"]
    values = {name: getattr(thing, name) for name in names}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def catalogue(group: str, folders: Iterable[Path] = ()) -> dict[str, dict[str, Any]]:
    """Option name -> declarations, and `about`, the first comment of its yaml."""
    out = {}
    for folder in (CONF, *folders):
        for path in sorted((folder / group).glob("*.yaml")):
            text = path.read_text()
            content = _with_defaults(path, yaml.safe_load(text) or {})
            found = _literals(content["_target_"]) if "_target_" in content else {}
            values = {name: content.get(name, found.get(name)) for name in GROUPS[group]}
            out[path.stem] = {
                **values,
                "about": text.splitlines()[0].lstrip("# ") if text.startswith("#") else "",
            }
    return out


def _with_defaults(path: Path, content: dict[str, Any]) -> dict[str, Any]:
    """An option that extends another of its group (extract_mlp extends extract) inherits its fields."""
    base: dict[str, Any] = {}
    for entry in content.get("defaults", []):
        if isinstance(entry, str) and entry != "_self_":
            base |= yaml.safe_load((path.parent / f"{entry}.yaml").read_text())
    return {**base, **content}


def _literals(target: str) -> dict[str, Any]:
    """Literal assignments in the class's body and in its bases', without running any of it."""
    module, _, name = target.rpartition(".")
    found = find_spec(module)
    if found is None or found.origin is None:
        raise ConfigError(f"_target_: {target} names no module that can be found")
    tree = ast.parse(Path(found.origin).read_text())
    bodies = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    values: dict[str, Any] = {
        "embeds": True,
        "scheme_known": False,
        "key_known": "none",
    }  # defaults of the contracts
    for statement in bodies[name].body:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            try:
                values[statement.targets[0].id] = ast.literal_eval(statement.value)
            except ValueError:
                continue
    return values
