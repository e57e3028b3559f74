"""Merkle trees over an append-only list: roots, inclusion and consistency proofs, and their verifiers (RFC 9162, section 2.1).

A tree is a function `node(level, index)` that gives the hash over the 2^level leaves from index * 2^level on; only whole subtrees
are ever asked. So the same code reads a list in memory and a table on disk, in O(log^2 n) hashes a proof.
"""

import hashlib
import hmac
from collections.abc import Callable, Sequence

from ..core.errors import ConfigError

Node = Callable[[int, int], bytes]
EMPTY = hashlib.sha256(b"").digest()
LONGEST = 63  # hashes in a path: trees of up to 2^63 leaves


def leaf_hash(entry: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


def in_memory(hashes: Sequence[bytes]) -> Node:
    """The nodes over these leaf hashes."""
    levels = [list(hashes)]
    while len(levels[-1]) > 1:
        below = levels[-1]
        levels.append([node_hash(below[i], below[i + 1]) for i in range(0, len(below) - 1, 2)])

    def node(level: int, index: int) -> bytes:
        return levels[level][index]

    return node


def root(node: Node, size: int) -> bytes:
    """Of the first `size` leaves."""
    return _hash(node, 0, size)


def inclusion(node: Node, index: int, size: int) -> list[bytes]:
    """The path from leaf `index` to the root of the first `size` leaves (2.1.3.1)."""
    if not 0 <= index < size:
        raise ValueError(f"expected an entry below {size}, got {index}")
    path, start, end = [], 0, size
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            path.append(_hash(node, middle, end))
            end = middle
        else:
            path.append(_hash(node, start, middle))
            start = middle
    return path[::-1]


def consistency(node: Node, old: int, new: int) -> list[bytes]:
    """The hashes that show the first `old` leaves to be a prefix of the first `new` (2.1.4.1)."""
    if not 0 <= old <= new:
        raise ValueError(f"expected an old size between 0 and {new}, got {old}")
    if old in (0, new):
        return []
    path, start, end, whole = [], 0, new, True
    while end != old:  # `whole`: the subtree from `start` is the old tree itself
        middle = start + _split(end - start)
        if old <= middle:
            path.append(_hash(node, middle, end))
            end = middle
        else:
            path.append(_hash(node, start, middle))
            start, whole = middle, False
    return ([] if whole else [_hash(node, start, end)]) + path[::-1]


def included(entry: bytes, index: int, size: int, path: Sequence[bytes], expected: bytes) -> bool:
    """Whether the entry is leaf `index` of the tree of this size and root (2.1.3.2)."""
    if not 0 <= index < size or len(path) > LONGEST:
        return False
    number, last, found = index, size - 1, leaf_hash(entry)
    for step in path:
        if last == 0:
            return False
        if number & 1 or number == last:
            found = node_hash(step, found)
            while not number & 1 and number:
                number, last = number >> 1, last >> 1
        else:
            found = node_hash(found, step)
        number, last = number >> 1, last >> 1
    return last == 0 and hmac.compare_digest(found, expected)


def consistent(old: int, old_root: bytes, new: int, new_root: bytes, path: Sequence[bytes]) -> bool:
    """Whether the tree of size `old` is a prefix of that of size `new` (2.1.4.2). An empty tree is a prefix of every tree."""
    if not 0 <= old <= new or len(path) > LONGEST + 1:
        return False
    if old == 0:
        return not path and old_root == EMPTY and (new > 0 or new_root == EMPTY)
    if old == new:
        return not path and hmac.compare_digest(old_root, new_root)
    return bool(path) and _joined(old, old_root, new, new_root, path)


def _joined(old: int, old_root: bytes, new: int, new_root: bytes, path: Sequence[bytes]) -> bool:
    """Both roots from one path of at least one hash, 0 < old < new."""
    steps = [old_root, *path] if old & (old - 1) == 0 else list(path)
    number, last = old - 1, new - 1
    while number & 1:
        number, last = number >> 1, last >> 1
    before = after = steps[0]
    for step in steps[1:]:
        if last == 0:
            return False
        if number & 1 or number == last:
            before, after = node_hash(step, before), node_hash(step, after)
            while not number & 1 and number:
                number, last = number >> 1, last >> 1
        else:
            after = node_hash(after, step)
        number, last = number >> 1, last >> 1
    return last == 0 and hmac.compare_digest(before, old_root) and hmac.compare_digest(after, new_root)


def hexes(path: Sequence[bytes]) -> list[str]:
    return [step.hex() for step in path]


def path_of(values: object, what: str) -> list[bytes]:
    """A path from its JSON form, a list of hexadecimal hashes; ConfigError for anything else."""
    if not isinstance(values, list) or len(values) > LONGEST + 1:
        raise ConfigError(f"{what}: expected at most {LONGEST + 1} hashes")
    return [digest_of(value, what) for value in values]


def digest_of(value: object, what: str) -> bytes:
    """32 bytes from 64 lower-case hexadecimal digits; ConfigError for anything else."""
    if isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef"):
        return bytes.fromhex(value)
    raise ConfigError(f"{what}: expected 64 hexadecimal digits in lower case, got {str(value)[:80]!r}")


def _split(size: int) -> int:
    """The largest power of two below `size`."""
    return int(1 << ((size - 1).bit_length() - 1))


def _hash(node: Node, start: int, end: int) -> bytes:
    """Over leaves start..end-1; `start` is a multiple of the largest power of two in the range, as RFC 9162 splits."""
    size = end - start
    if size == 0:
        return EMPTY
    if size & (size - 1) == 0:
        level = size.bit_length() - 1
        return node(level, start >> level)
    middle = start + _split(size)
    return node_hash(_hash(node, start, middle), _hash(node, middle, end))
