"""A model's file or package as a service: the deployment's gateway, its keys and its book in one folder."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ...core.errors import ConfigError
from ...deployments.book import Book
from ...deployments.gateway import Gateway
from ...deployments.licence.licence import Licence
from ...deployments.licence.revocation import Revocations, newest
from ...deployments.package.identity import Public, load_identity, load_public
from ...deployments.package.package import Proof, tensors
from ...deployments.serve.keyring import Keyring
from ...deployments.serve.service import Licensed, Service
from ...deployments.serve.wire import Limits
from ...zoo.files import filled, load_tensors
from ..config import composer
from ..exposure import Exposure
from ..package.show import text_of
from ..trial import Trial, prepare
from ..verify import overrides_of


@dataclass(frozen=True)
class Place:
    """The folder of a service."""

    folder: Path

    @property
    def keyring(self) -> Keyring:
        return Keyring(self.folder / "keys.json")

    @property
    def book(self) -> Book:
        return Book(self.folder / "book.sqlite")

    @property
    def licensed(self) -> Book:
        return Book(self.folder / "licence.sqlite")

    @property
    def seen(self) -> Path:
        return self.folder / "seen.json"


@dataclass(frozen=True)
class Sealed:
    """What opens a package; revoked: a file."""

    key: Path
    issuer: Path
    licence: Path | None = None
    revoked: Path | None = None


@dataclass(frozen=True)
class Source:
    """A model's tensors and what its header says; of a package the licence, None for the issuer himself."""

    tensors: dict[str, Tensor]
    about: dict[str, Any]
    licence: Licence | None = None
    revoked: Callable[[], Revocations | None] = lambda: None


def service(
    model: Path,
    place: Place,
    words: Sequence[str],
    limits: Limits | None = None,
    sealed: Sealed | None = None,
) -> Service:
    """words: overrides; the deployment is api_scores unless they say otherwise."""
    source = plain(model) if sealed is None else opened(model, place, sealed)
    named = overrides_of(source.about, model, ["watermark=none", *words], [])
    chosen = [] if any(word.startswith("deployment=") for word in words) else ["deployment=api_scores"]
    with composer(None) as compose:
        trial = prepare(compose([*named, "attack=none", "trainer.progress=false", *chosen, *words]))
    if not trial.task.owner.inputs.is_floating_point():
        raise ConfigError(f"a service is asked about pictures, and a model of {trial.task.name} reads ids")
    network = filled(trial.task.fresh(None), source.tensors, model)
    place.folder.mkdir(parents=True, exist_ok=True)
    licensed = None
    if source.licence is not None:
        trial = within(trial, source.licence)
        licensed = Licensed(source.licence, place.licensed, source.revoked)
    return Service(
        gateway(trial, network, place), place.keyring, trial.task.shape, limits or Limits(), licensed
    )


def plain(model: Path) -> Source:
    found, about = load_tensors(model, "model")
    return Source(found, about)


def opened(model: Path, place: Place, sealed: Sealed) -> Source:
    """In memory: a package that is served is never a file."""
    place.folder.mkdir(parents=True, exist_ok=True)
    issuer = load_public(sealed.issuer)
    revoked = list_of(sealed.revoked, issuer, place.seen)
    token = None if sealed.licence is None else text_of(sealed.licence)
    found, metadata, licence = tensors(model, Proof(load_identity(sealed.key), token, revoked()), issuer)
    about = json.loads(metadata.get("header", "{}"))
    if not isinstance(about, dict):
        raise ConfigError(f"the model in {model} has a damaged header: expected a JSON object")
    return Source(found, about, licence, revoked)


def list_of(path: Path | None, issuer: Public, seen: Path) -> Callable[[], Revocations | None]:
    """The issuer's list as the file holds it now; one older than what was seen is refused."""
    known: dict[tuple[int, int], Revocations] = {}

    def current() -> Revocations | None:
        if path is None:
            return None
        if not path.is_file():
            raise ConfigError(f"expected a revocation list, found no file at {path}")
        stamp = (path.stat().st_ino, path.stat().st_mtime_ns)
        if stamp not in known:
            found = newest(text_of(path), issuer, seen)
            known.clear()
            known[stamp] = found
        return known[stamp]

    return current


def within(trial: Trial, licence: Licence) -> Trial:
    """The deployment grants no more than the licence's output mode, and rounds as it says."""
    terms, deployment = licence.terms, trial.deployment
    allowed = ("labels",) if terms.output == "labels" else ("scores", "labels")
    decimals = [one for one in (terms.decimals, deployment.decimals) if one is not None]
    narrowed = replace(
        deployment,
        grants=tuple(one for one in deployment.grants if one in allowed),
        decimals=min(decimals) if decimals else None,
    )
    return replace(trial, settings=replace(trial.settings, deployment=narrowed))


def gateway(trial: Trial, network: nn.Module, place: Place) -> Gateway:
    """A monitor is calibrated on the owner's data, as in a trial, and kept in the cache."""
    deployment = trial.deployment
    if deployment.simulation is not None:
        raise ConfigError("a simulated deployment is not served; set deployment=api_scores")
    if not {"scores", "labels"} & set(deployment.grants):
        raise ConfigError(
            f"there is nothing to serve: the deployment grants {deployment.grants}; set deployment=api_label"
        )
    needs = bool(deployment.defences) or deployment.monitor is not None
    guard = Exposure(trial, network, fingerprint(network)).guard if needs else None
    return deployment.expose(network, trial.hardware.device, guard=guard, book=place.book)


def fingerprint(network: nn.Module) -> str:
    found = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        found.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()[:16]
