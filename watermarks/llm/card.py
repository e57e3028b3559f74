"""The card of a text mark: everything that server and detector must agree on but the secret. It travels with texts and runs.

A detector with another window, share or tokenizer than the server's finds nothing and says so with a fair p-value; so whatever
differs is an error that names the field.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from ...core.errors import ConfigError
from ...core.secret import Secret

FORMAT = "assay/text-card/1"
FUNCTIONS = {"philox": "philox4x32-10-v1", "splitmix64": "splitmix64-v1"}
"""Of kernels/text_prf.py, with the version of their layout."""
OTHERS = {
    "compat/transformers_kgw": "torch-mt19937-randperm",
    "compat/transformers_synthid": "lcg64-table",
    "compat/vllm_gumbel": FUNCTIONS["philox"],
}
PRIVATE = ("texts", "tokens", "prompt", "payload", "prf")
"""Settings that detection does not need, and the function, which the card names with its version."""
NAMES = ("scheme", "prf", "key_id", "vocabulary", "tokenizer")
MOST_IDS = 2**22
"""Of a vocabulary that a card may name: 16 times the largest in use, and a list of them all takes 32 MB."""


def key_id(key: Any) -> str:
    """16 hex digits that name a secret and do not show it. They name another library's key too, but a small one is found by
    trying: some 100,000 a second on one core, which reach 15485863 in three minutes. A key for a public card is drawn at random
    from all that the library takes."""
    if isinstance(key, Secret):
        return key.fingerprint
    return Secret(hashlib.sha256(json.dumps(key).encode()).digest()).fingerprint


@dataclass(frozen=True)
class Card:
    """scheme: its name in conf/watermark/llm; prf: the keyed function and its version; tokenizer: the hash of its definition, ""
    where nothing is known; settings: gamma, delta, width, ..."""

    scheme: str
    prf: str
    key_id: str
    vocabulary: int
    tokenizer: str
    settings: Mapping[str, Any]

    @staticmethod
    def of(scheme: Any, key: Any, vocabulary: int, tokenizer: str = "") -> "Card":
        """scheme: a sampling mark, or a detector of another library's; key: its Secret, or that library's key."""
        settings = {f.name: getattr(scheme, f.name) for f in fields(scheme) if f.name not in PRIVATE}
        prf = OTHERS.get(scheme.scheme) or FUNCTIONS[scheme.prf]
        return Card(scheme.scheme, prf, key_id(key), vocabulary, tokenizer, settings)

    def text(self) -> str:
        """JSON, the settings beside the other fields."""
        content = {"card": FORMAT, **{name: value for name, value in asdict(self).items() if name in NAMES}}
        return json.dumps({**content, **self.settings}, indent=1) + "\n"

    @staticmethod
    def read(text: str, name: str = "the card") -> "Card":
        """ConfigError for what is no card, naming the field that is missing or of another type."""
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{name} is no JSON: {error}; expected a card of Assay") from None
        if not isinstance(content, dict) or content.pop("card", None) != FORMAT:
            raise ConfigError(f'{name} is no card: expected a JSON object with "card": "{FORMAT}"')
        for field, kind in zip(NAMES, (str, str, str, int, str), strict=True):
            if not isinstance(content.get(field), kind):
                raise ConfigError(
                    f"{field}: expected a {kind.__name__} in {name}, got {content.get(field)!r}"
                )
        known = {field: content.pop(field) for field in NAMES}
        if not 1 <= known["vocabulary"] <= MOST_IDS:
            raise ConfigError(f"vocabulary: expected 1 to {MOST_IDS} in {name}, got {known['vocabulary']}")
        for field, value in content.items():
            if isinstance(value, dict | list):  # which a configuration would build
                raise ConfigError(f"{field}: expected a number or a word in {name}")
        return Card(**known, settings=content)

    def expect(self, other: "Card") -> None:
        """ConfigError naming the first field in which the other card differs from this one."""
        for field in NAMES:
            self.agree(field, getattr(other, field))
        for field in sorted({*self.settings, *other.settings}):
            if self.settings.get(field) != other.settings.get(field):
                raise ConfigError(
                    f"{field}: the card says {self.settings.get(field)!r}, the other one "
                    f"{other.settings.get(field)!r}; set watermark.{field}={self.settings.get(field)}"
                )

    def agree(self, field: str, found: Any, mend: str = "") -> None:
        """ConfigError unless the card's field has this value."""
        if (said := getattr(self, field)) != found:
            raise ConfigError(f"{field}: the card says {said!r}, found {found!r}{'; ' if mend else ''}{mend}")
