"""Commitments to keys before their use: SHA-256("assay-commit/v1" || canonical JSON || salt), and one root over several of them.

A key that is shown once is spent. So an owner commits to several subsets of triggers, each with a key of its own, and opens one
in a dispute: the Merkle root binds all, and the others stay hidden behind their salts.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

from ..core.errors import ConfigError
from ..core.secret import Secret
from . import merkle
from .canonical import canonical, fields, parsed

PREFIX = b"assay-commit/v1"
MOST = 1024  # subsets
NAMES = {"scheme", "parameters", "key", "salt", "subset", "subsets", "path"}


def commit(statement: dict[str, Any], salt: bytes) -> bytes:
    """32 bytes that bind the statement and hide it. The salt has 32 bytes, so nothing can be shifted from one part to the other."""
    if len(salt) != 32:
        raise ValueError(f"a salt is 32 bytes, got {len(salt)}")
    return hashlib.sha256(PREFIX + canonical(statement) + salt).digest()


@dataclass(frozen=True)
class Opening:
    """What the owner shows a judge, and nobody else, to open one subset. `repr` shows neither key nor salt."""

    scheme: str
    parameters: dict[str, Any]
    """The scheme's configuration and the task's shape and classes: all that keys are made from beside the secret."""
    key: Secret
    salt: Secret
    subset: int
    subsets: int
    path: tuple[bytes, ...]

    @property
    def commitment(self) -> bytes:
        return _committed(self.scheme, self.parameters, self.key, self.salt)

    def opens(self, root: str) -> bool:
        """Whether it is one of the subsets behind this root."""
        return merkle.included(
            self.commitment, self.subset, self.subsets, self.path, merkle.digest_of(root, "root")
        )

    @property
    def content(self) -> bytes:
        """Private: it holds the subset's key."""
        said = {
            "scheme": self.scheme,
            "parameters": self.parameters,
            "subset": self.subset,
            "subsets": self.subsets,
        }
        private = {"key": self.key.raw.hex(), "salt": self.salt.raw.hex()}
        return canonical({**said, **private, "path": merkle.hexes(self.path)})


def read_opening(content: bytes) -> Opening:
    """ConfigError for anything but an opening; no message shows its contents."""
    what = "the opening"
    values = fields(parsed(content, what), NAMES, what)
    place = (values["subset"], values["subsets"])
    if not all(type(number) is int for number in place) or not 0 <= place[0] < place[1] <= MOST:
        raise ConfigError(
            f"{what}: expected a subset below the number of subsets, got {place[0]!r} of {place[1]!r}"
        )
    if not isinstance(values["scheme"], str) or not isinstance(values["parameters"], dict):
        raise ConfigError(f"{what}: expected a scheme's name and its parameters")
    key, salt = (_secret(values[name], name) for name in ("key", "salt"))
    path = tuple(merkle.path_of(values["path"], f"{what}: path"))
    return Opening(values["scheme"], values["parameters"], key, salt, *place, path)


def openings(
    secret: Secret, label: str, scheme: str, parameters: dict[str, Any], subsets: int
) -> list[Opening]:
    """All subsets of one deposit. Keys and salts follow from the owner's secret and the deposit's label: no more need be kept."""
    if not 1 <= subsets <= MOST:
        raise ConfigError(f"expected 1 to {MOST} subsets, got {subsets}; set --subsets")
    drawn = [
        [Secret(secret.derive(f"evidence/{label}/{part}/{i}", 32)) for part in ("key", "salt")]
        for i in range(subsets)
    ]
    committed = [_committed(scheme, parameters, key, salt) for key, salt in drawn]
    node = merkle.in_memory([merkle.leaf_hash(one) for one in committed])
    return [
        Opening(scheme, parameters, key, salt, i, subsets, tuple(merkle.inclusion(node, i, subsets)))
        for i, (key, salt) in enumerate(drawn)
    ]


def root_of(found: list[Opening]) -> str:
    """The commitment that a deposit states, hex."""
    leaves = [merkle.leaf_hash(one.commitment) for one in found]
    return merkle.root(merkle.in_memory(leaves), len(leaves)).hex()


def _committed(scheme: str, parameters: dict[str, Any], key: Secret, salt: Secret) -> bytes:
    return commit({"scheme": scheme, "parameters": parameters, "key": key.raw.hex()}, salt.raw)


def _secret(text: object, name: str) -> Secret:
    if isinstance(text, str) and len(text) == 64 and set(text) <= set("0123456789abcdef"):
        return Secret(bytes.fromhex(text))
    raise ConfigError(f"the opening: expected {name} as 64 hexadecimal digits")
