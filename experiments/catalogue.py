"""What there is: schemes, attacks, tasks, deployments, and what each declares, read without importing torch.

A declaration is a literal in the class body or a field in the yaml, so the syntax tree and the yaml hold it all.
"""

import ast
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from importlib.util import find_spec, resolve_name
from pathlib import Path
from typing import Any

from ..core.errors import ConfigError
from .config import CONF, content_of

GROUPS = {
    "watermark": ("family", "reads", "derivation", "nulls", "embeds", "paper"),
    "attack": ("needs", "goal", "data", "axis", "preserves", "scheme_known", "key_known", "paper"),
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


def catalogue(group: str, folders: Iterable[Path] = (), nested: bool = False) -> dict[str, dict[str, Any]]:
    """Option name -> declarations, and `about`, the first comment of its yaml. nested: those in folders of the group too, which are
    for models of another kind (llm/kgw)."""
    out = {}
    for place in (folder / group for folder in (CONF, *folders)):
        for path in sorted(place.rglob("*.yaml") if nested else place.glob("*.yaml")):
            text, content = path.read_text(encoding="utf-8"), content_of(path)
            if not isinstance(content, dict):
                raise ConfigError(f"{path}: expected settings by name, as in conf/{group}")
            content = with_defaults(path, content)
            found = _literals(str(content["_target_"])) if "_target_" in content else {}
            values = {name: content.get(name, found.get(name)) for name in GROUPS[group]}
            out[path.relative_to(place).with_suffix("").as_posix()] = {
                **values,
                "about": text.splitlines()[0].lstrip("# ") if text.startswith("#") else "",
            }
    return out


def with_defaults(path: Path, content: dict[str, Any]) -> dict[str, Any]:
    """An option that extends another of its group (extract_mlp extends extract) inherits its fields."""
    base: dict[str, Any] = {}
    for entry in content.get("defaults", []):
        if isinstance(entry, str) and entry != "_self_":
            base |= content_of(path.parent / f"{entry}.yaml")
    return {**base, **content}


def _literals(target: str) -> dict[str, Any]:
    """Literal assignments in the class's body and in its bases', without running any of it."""
    module, _, name = target.rpartition(".")
    body, tree = _class_body(module, name)
    if body is None or tree is None:
        raise ConfigError(f"_target_: {target} names no class that can be read")
    values: dict[str, Any] = {}
    for base in reversed(body.bases):
        origin = _origin(tree, module, base.id) if isinstance(base, ast.Name) else None
        if origin is not None:
            values |= _literals(origin)
    for statement in body.body:
        where = (
            statement.targets[0] if isinstance(statement, ast.Assign) else getattr(statement, "target", None)
        )
        value = getattr(statement, "value", None)
        if isinstance(where, ast.Name) and value is not None:
            with suppress(ValueError):
                values[where.id] = ast.literal_eval(value)
    return values


@cache
def _class_body(module: str, name: str) -> tuple[ast.ClassDef | None, ast.Module | None]:
    try:
        found = find_spec(module)
        if found is None or found.origin is None or not found.origin.endswith(".py"):
            return None, None
        tree = ast.parse(Path(found.origin).read_text(encoding="utf-8"))
    except (ImportError, ValueError, SyntaxError):
        return None, None
    return next((n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == name), None), tree


def _origin(tree: ast.Module, module: str, name: str) -> str | None:
    """The dotted name of a base class: of this module, or imported into it; None for those that declare nothing."""
    if any(isinstance(node, ast.ClassDef) and node.name == name for node in tree.body):
        return f"{module}.{name}"
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and any(alias.name == name for alias in node.names):
            source = resolve_name("." * node.level + (node.module or ""), module.rpartition(".")[0])
            return (
                f"{source}.{name}" if _class_body(source, name)[0] is not None and source != "abc" else None
            )
    return None
