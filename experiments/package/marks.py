"""A buyer's own bits in his copy, and who leaked one: traitor tracing (DeepMarks: Chen et al., ICMR 2019, and other schemes).

The cipher ends where a licensee opens his package; the mark in his copy does not. The owner derives every buyer's key from his own,
so tracing needs the numbers of the buyers, which their packages hold, and nothing else. The owner has every copy too: a trace shows
whose copy leaked to those who trust that he leaked none.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from ...core.errors import ConfigError, NotApplicable
from ...core.key import Key
from ...deployments.package.header import MOST_BUYERS, Header
from ...deployments.package.identity import Identity, Public
from ...deployments.package.package import create, inspect
from ...zoo.files import load_key, load_model, load_tensors, save_model
from ..config import composer
from ..trial import Trial, prepare
from ..verify import overrides_of


@dataclass(frozen=True)
class Traced:
    """accused: by number, the kids of the parties for whom that buyer's copies were sealed. buyers: all who were considered."""

    buyers: tuple[int, ...]
    accused: dict[int, tuple[str, ...]]
    fpr: float


@dataclass(frozen=True)
class Owner:
    """The owner's key and the trial that its file and the model's describe."""

    trial: Trial
    key: Key
    about: dict[str, Any]
    """What the model's file says it is."""

    def model(self, path: Path) -> nn.Module:
        return load_model(path, lambda: self.trial.task.fresh(None))


def owner_of(mark: Path, model: Path, words: Sequence[str]) -> Owner:
    """Nothing in the files is run: they name options, as in `assay verify`."""
    _, about_model = load_tensors(model, "model")
    _, about_key = load_tensors(mark, "key")
    about = {**about_key, **about_model, "watermark": about_key.get("watermark")}
    named = overrides_of(about, model, list(words), [])
    with composer(None) as compose:
        trial = prepare(compose([*named, "attack=none", "deployment=open", "trainer.progress=false", *words]))
    kept: dict[str, Any] = {name: about[name] for name in ("task", "model", "seed") if name in about}
    return Owner(trial, load_key(mark, trial.watermark.key_type), kept)


def buyers_key(owner: Owner, number: int, victim: nn.Module | None = None) -> Key:
    """ConfigError for schemes that cannot tell copies apart."""
    scheme, name = owner.trial.watermark, owner.trial.spec.choices["watermark"]
    if not 1 <= number <= MOST_BUYERS:
        raise ConfigError(f"expected a buyer from 1 to 2^31, got {number}: number 0 is the owner's own copy")
    if not scheme.embeds or "random_keys" not in scheme.nulls:
        raise ConfigError(
            f"{name} has no buyers' keys with an exact null; expected the key of another scheme: watermark=deepmarks"
        )
    return scheme.buyer_key(owner.trial.task, owner.key.secret, number, victim)


def marked(owner: Owner, victim: nn.Module, number: int) -> nn.Module:
    """The copy of one buyer, from the owner's unmarked model."""
    trial = owner.trial
    key = buyers_key(owner, number, victim)
    try:
        return trial.watermark.embed(victim, key, trial.task, trial.trainer("buyer", number))
    except NotApplicable as error:
        raise ConfigError(f"buyer {number} cannot be marked: {error}") from None


def create_marked(
    owner: Owner, source: Path, target: Path, issuer: Identity, to: Sequence[Public], number: int, chunk: int
) -> Header:
    """The marked copy is written to a folder of the owner's alone while it is sealed."""
    copy = marked(owner, owner.model(source), number)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "copy.safetensors"
        save_model(path, copy, owner.about)
        return create(path, target, issuer, to, number, chunk)


def traced(owner: Owner, suspect: Path, packages: Sequence[Path], issuer: Public, fpr: float) -> Traced:
    """Only packages that the issuer signed count: the number of a buyer and his kids stand under one signature."""
    if not 0 < fpr < 1:
        raise ConfigError(f"expected a false-positive rate between 0 and 1, got {fpr}; set --fpr 0.01")
    parties: dict[int, set[str]] = {}
    for path in packages:
        header = inspect(path, issuer)
        if header.content.buyer is not None:
            others = {one.kid for one in header.recipients} - {issuer.kid}
            parties.setdefault(header.content.buyer, set()).update(others)
    if not parties:
        raise ConfigError(
            "none of these packages is marked for a buyer; `assay package create --buyer N` marks one"
        )
    numbers = sorted(parties)
    keys = [buyers_key(owner, number) for number in numbers]
    try:
        found = owner.trial.watermark.accuse(owner.model(suspect), keys, fpr)
    except NotApplicable as error:
        raise ConfigError(f"{suspect} cannot be traced: {error}") from None
    accused = {numbers[i]: tuple(sorted(parties[numbers[i]])) for i in found}
    return Traced(tuple(numbers), accused, fpr)
