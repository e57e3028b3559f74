"""What `assay detect` is given: texts, a card, the scheme it names, keys, a tokenizer. Bad input is a ConfigError."""

import json
import reprlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...core.errors import ConfigError
from ...core.secret import Secret
from ...watermarks.llm.card import FUNCTIONS, OTHERS, PRIVATE, Card, key_id
from ...watermarks.llm.sampling import TextKey
from ...zoo.files import load_key
from ...zoo.tokens import Tokens, of_folder
from ..config import CONF, parsed

OTHER_KEYS = {
    "compat/transformers_kgw": ("hashing_key", 2**63),
    "compat/transformers_synthid": ("keys", 2**63),
    "compat/vllm_gumbel": ("key", 2**64),
}
"""As transformers and vLLM name them, and what they stay below."""


@dataclass(frozen=True)
class Line:
    """A text: its line in the file, its ids, how many of them are the prompt."""

    number: int
    ids: list[int]
    prompt: int
    tokens: Tokens | None

    def pieces(self) -> list[str]:
        """What each id reads."""
        return [
            self.tokens.decode([v]) if self.tokens is not None and v < self.tokens.size else f"{v} "
            for v in self.ids
        ]


def read_text(path: Path, what: str) -> str:
    if not path.is_file():
        raise ConfigError(f"expected {what}, found no file {path}")
    try:
        return path.read_bytes().decode()  # with its own ends of lines
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not in UTF-8 ({error}): expected {what}") from None


def read_card(path: Path) -> Card:
    return Card.read(read_text(path, "a card; set --card=CARD.json"), str(path))


def scheme_of(card: Card) -> Any:
    """The scheme with the card's settings. ConfigError naming a field that is unknown, missing, or of another version."""
    from ..trial import built

    folder = CONF / "watermark" / "llm"
    path = folder / f"{card.scheme}.yaml"
    options = {str(p.relative_to(folder).with_suffix("")): p.read_text() for p in folder.rglob("*.yaml")}
    # Fingerprints read models; what reads texts has a keyed function.
    known = sorted(n for n, text in options.items() if n in OTHERS or "prf" in parsed(text))
    if card.scheme not in known:
        raise ConfigError(f"scheme: the card says {card.scheme!r}, there are {', '.join(known)}")
    content = parsed(path.read_text(encoding="utf-8"))
    expected = {name for name in content if name not in (*PRIVATE, "_target_")}
    for field in sorted(expected ^ set(card.settings)):
        raise ConfigError(
            f"{field}: {'missing in the card' if field in expected else 'unknown'} for {card.scheme}"
        )
    versions = [OTHERS[card.scheme]] if card.scheme in OTHERS else list(FUNCTIONS.values())
    if card.prf not in versions:
        raise ConfigError(f"prf: the card says {card.prf!r}, this version knows {', '.join(versions)}")
    if "prf" in content:
        content["prf"] = next(name for name, version in FUNCTIONS.items() if version == card.prf)
    return built({**content, **card.settings}, "card")


def read_keys(paths: Sequence[str] | None, card: Card, card_path: Path) -> list[Any]:
    """The key that the card names is among them, or it is an error; several are allowed, and their number is corrected for."""
    beside = card_path.parent / "key.safetensors"
    if not paths and not beside.is_file():
        raise ConfigError(f"key_id: the card names key {card.key_id}, and none is given; set --key=FILE")
    keys = [read_key(Path(path), card) for path in paths or [str(beside)]]
    found = [key_id(key) for key in keys]
    if card.key_id not in found:
        raise ConfigError(
            f"key_id: the card says {card.key_id}, the key has {', '.join(found)}; set --key=FILE"
        )
    return keys


def read_key(path: Path, card: Card) -> Any:
    """A Secret, or another library's key."""
    if path.suffix == ".safetensors":
        return load_key(path, TextKey).secret
    text = read_text(path, "a key; set --key=FILE").strip()
    if card.scheme in OTHERS:
        return _others_key(path, text, card.scheme)
    try:
        return Secret(bytes.fromhex(text))
    except ValueError:
        raise ConfigError(
            f"{path} is no key of {card.scheme}: expected 64 hex digits, or a key file of `assay run save=`; set --key=FILE"
        ) from None


def _others_key(path: Path, text: str, scheme: str) -> Any:
    """A whole number, of SynthID a list of them."""
    name, most = OTHER_KEYS[scheme]
    try:
        found = json.loads(text)[name]
    except (ValueError, TypeError, KeyError, RecursionError):
        found = None
    keys = found if name == "keys" else [found]
    if not isinstance(keys, list) or not keys or not all(type(k) is int and 0 <= k < most for k in keys):
        raise ConfigError(
            f"{path} is no key of {scheme}: expected JSON with {name!r}, whole numbers from 0 to {most - 1}; set --key=FILE"
        )
    return found


def read_tokenizer(given: str | None, card: Card, card_path: Path) -> Tokens | None:
    """The given one, or tokenizer.json beside the card; None where there is none. ConfigError for another than the card's."""
    folder = Path(given) if given else card_path.parent
    folder = folder.parent if folder.name == "tokenizer.json" else folder
    if not given and not (folder / "tokenizer.json").is_file():
        return None
    tokens = of_folder(folder)
    if card.tokenizer:
        card.agree(
            "tokenizer", tokens.hash, "set --tokenizer=FOLDER to the one that the texts were written with"
        )
    return tokens


def read_lines(path: Path, card: Card, tokens: Tokens | None, prompt: int) -> list[Line]:
    """Of a .jsonl file every line; of any other the whole as one text."""
    text = read_text(path, "texts")
    rows = [(1, {"text": text})] if path.suffix != ".jsonl" else list(_objects(path, text))
    if not rows or not text.strip():
        raise ConfigError(f'{path} is empty: expected a text, or JSONL with "text" or "ids" on every line')
    return [_line(path, number, row, card, tokens, prompt) for number, row in rows]


def _objects(path: Path, text: str) -> Any:
    for number, line in enumerate(text.split("\n"), 1):  # JSON may hold other ends of lines, U+2028 say
        if line.strip():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ConfigError(f"{path}, line {number}: no JSON ({error})") from None
            if not isinstance(row, dict) or not ("text" in row or "ids" in row):
                raise ConfigError(f'{path}, line {number}: expected an object with "text" or "ids"')
            yield number, row


def _text(found: Any, where: str) -> str:
    if not isinstance(found, str):
        raise ConfigError(f'{where}: expected "text" as a string, got {reprlib.repr(found)}')
    try:
        found.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(f"{where}: the text holds half a character ({error})") from None
    return found


def _line(
    path: Path, number: int, row: dict[str, Any], card: Card, tokens: Tokens | None, prompt: int
) -> Line:
    where = f"{path}, line {number}"
    if "ids" in row:
        ids = row["ids"]
    elif tokens is None:
        raise ConfigError(
            f"{where}: a text needs the tokenizer {card.tokenizer or 'it was written with'}, which is unknown; "
            'set --tokenizer=FOLDER, or give "ids"'
        )
    else:
        ids = tokens.encode([_text(row["text"], where)])[0]
    if not isinstance(ids, list) or not all(type(v) is int for v in ids):
        raise ConfigError(f"{where}: expected ids as a list of whole numbers")
    if bad := [v for v in ids if not 0 <= v < card.vocabulary]:
        raise ConfigError(
            f"{where}: vocabulary: the card says {card.vocabulary} ids, got id {bad[0]}: the text is of another "
            "tokenizer; set --card or --tokenizer to its own"
        )
    first = row.get("prompt", prompt)
    if type(first) is not int or not 0 <= first <= len(ids):
        raise ConfigError(f"{where}: expected a prompt of 0 to {len(ids)} ids, got {first!r}; set --prompt")
    return Line(number, ids, first, tokens)
