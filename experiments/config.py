"""From overrides to a validated trial specification: plain data, composed by Hydra, no torch import.

A trial's identity is the hash of its resolved configuration; what does not change the result (paths, tracking, force, save,
progress) is left out of it.
"""

import difflib
import hashlib
import json
import re
import sys
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..core.errors import ConfigError

AXES = ("task", "model", "watermark", "deployment", "attack", "adversary", "verification", "trainer")
UNIDENTIFYING = ("paths", "tracking", "force", "save")
CONF = Path(__file__).resolve().parent.parent / "conf"


@dataclass(frozen=True)
class Spec:
    """One trial as plain data. choices: the option's name on every axis; config: everything, resolved; overrides: the settings
    by which it differs from those options."""

    choices: dict[str, str]
    config: dict[str, Any]
    overrides: list[str] = field(default_factory=list)

    def identity(self) -> dict[str, Any]:
        config = {name: value for name, value in self.config.items() if name not in UNIDENTIFYING}
        if (key := config.pop("key", None)) is not None:
            config["key"] = {"digest": key["digest"]}
        trainer = {name: value for name, value in config["trainer"].items() if name != "progress"}
        if folder := config.get("task", {}).get("model"):  # another model may be trained into the same folder
            from ..zoo.folders import contents

            config["task"] = {**config["task"], "files": contents(Path(folder).expanduser())}
        return {"choices": self.choices, "config": {**config, "trainer": trainer}}

    @property
    def id(self) -> str:
        names = [self.choices[axis].replace("/", ".") for axis in AXES[:5]]  # llm/kgw: no folder of records
        return "-".join([*names, f"s{self.config['seed']}", digest(self.identity())[:12]])

    @property
    def anew(self) -> bool:
        """Whether it runs although its record exists: it is forced to, or its models are to be kept, which no record holds."""
        return bool(self.config["force"]) or self.config["save"] is not None

    @property
    def records(self) -> Path:
        return Path(self.config["paths"]["runs"]) / "records"


def digest(content: Any) -> str:
    """SHA-256 of canonical JSON, as hex."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def spec_of(config: Any, choices: dict[str, Any], overrides: list[str]) -> Spec:
    """From a composed Hydra configuration, the choices it made and the task overrides it was asked for."""
    from omegaconf import OmegaConf

    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    plain.pop("hydra", None)
    if plain.get("key") is not None:
        plain["key"] = key_file(str(plain["key"]))
    named = {axis: str(choices.get(axis)) for axis in AXES}
    left_out = (*AXES, *UNIDENTIFYING, "seed", "trainer.progress")
    settings = [word for word in overrides if not word.startswith(("paths.", "tracking."))]
    # Of a setting said twice, as by a suite and its caller, the last word counts.
    last = {word.partition("=")[0]: word for word in settings}
    telling = sorted(word for name, word in last.items() if name not in left_out)
    return Spec(named, {str(name): value for name, value in plain.items()}, telling)


def key_file(path: str) -> dict[str, str]:
    """A key file as a trial names it. The SHA-256 of what it holds is public: it says nothing of the 32 secret bytes inside."""
    if not Path(path).is_file():
        raise ConfigError(
            f"expected a key file, found none at {path}; `assay evidence deposit key` writes one: key=DEPOSIT/key-0.safetensors"
        )
    return {"file": path, "digest": hashlib.sha256(Path(path).read_bytes()).hexdigest()}


@contextmanager
def composer(config_dir: str | None = None) -> Iterator[Any]:
    """Within it, `compose(overrides)` gives a Spec; ConfigError explains what Hydra refuses."""
    from hydra import compose, initialize_config_module
    from omegaconf import open_dict

    if config_dir is not None:
        importable(config_dir)
    extra = [f"hydra.searchpath=[file://{Path(config_dir).resolve()}]"] if config_dir else []

    def one(overrides: Sequence[str]) -> Spec:
        with explained():
            config = compose("config", overrides=[*overrides, *extra], return_hydra_config=True)
            choices, given = dict(config.hydra.runtime.choices), list(config.hydra.overrides.task)
            with open_dict(config):
                config.pop("hydra")
            return spec_of(config, choices, given)

    with explained(), initialize_config_module("assay.conf", version_base="1.3"):
        yield one


def importable(config_dir: str) -> None:
    """A user's folder holds yaml files, and may hold the modules that their `_target_` names; trials inherit the path."""
    if not Path(config_dir).is_dir():
        raise ConfigError(f"--config-dir={config_dir}: expected a folder, found none there")
    folder = str(Path(config_dir).resolve())
    if folder not in sys.path:
        sys.path.insert(0, folder)


@contextmanager
def explained() -> Iterator[None]:
    """Turns what Hydra, OmegaConf and yaml raise about the configuration into a short ConfigError."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    try:
        yield
    except (HydraException, OmegaConfBaseException, YAMLError) as error:
        raise ConfigError(explain(error)) from None
    except ValueError as error:
        if not _by_hydra(error):
            raise
        raise ConfigError(f"{error}; see `assay run --help`") from None


def _by_hydra(error: ValueError) -> bool:
    """Whether a function of Hydra's raised it, as it does for watermark=null and for flags that exclude each other."""
    frames = list(traceback.walk_tb(error.__traceback__))
    return str(frames[-1][0].f_globals["__name__"]).startswith("hydra.")


def explain(error: Exception) -> str:
    """At most 10 lines: what Hydra said, and the nearest name that exists."""
    chain: list[str] = []
    cause: BaseException | None = error
    while cause is not None:
        chain.append(str(cause).strip())
        cause = cause.__cause__
    text = "\n".join(dict.fromkeys(chain))
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    missing_option = re.search(r"Could not find '([\w/@.]+)/([\w.-]+)'", text)
    missing_key = re.search(r"Could not override '([\w./@]+)'", text)
    if missing_option:
        group, name = missing_option.groups()
        return f"there is no {group} called {name!r}.{suggest(name, options(group))}"
    if missing_key:
        name = missing_key.group(1)
        known = settings()
        if holders := known.get(name):
            return f"the option chosen has no setting {name!r}. Those that have it: {', '.join(holders)}"
        return f"there is no setting {name!r}.{suggest(name, known)}"
    return "\n".join(lines[:9])


def suggest(name: str, known: Iterable[str]) -> str:
    known = sorted(set(known))
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]}?" if near else ""
    return f"{hint} There are: {', '.join(known)}" if len(known) <= 40 else hint


def options(group: str, folders: Sequence[Path] = ()) -> list[str]:
    """The names of a group's options, those in folders of their own (llm/kgw) and users' included."""
    places = [folder / group for folder in (CONF, *folders)]
    return [path.relative_to(p).with_suffix("").as_posix() for p in places for path in p.rglob("*.yaml")]


def parsed(text: str) -> Any:
    """A yaml's content, by libyaml where it is there: it reads our 200 files in a tenth of the time. ConfigError for text that is
    no yaml."""
    import yaml

    try:
        return yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader)) or {}
    except yaml.YAMLError as error:
        raise ConfigError(f"expected yaml: {error}") from None


def content_of(path: Path) -> Any:
    """A yaml file's content; ConfigError names the file."""
    try:
        return parsed(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None


def settings() -> dict[str, list[str]]:
    """Axes and the dotted names of every field, each with the options that have it (none for an axis)."""
    fixed = ("seed", "key", "force", "save", "paths.runs", "paths.cache", *AXES, "tracking")
    names: dict[str, list[str]] = {name: [] for name in fixed}
    for path in sorted(CONF.rglob("*/*.yaml")):
        group, *option = path.relative_to(CONF).with_suffix("").parts
        for setting in content_of(path):
            if setting not in ("defaults", "_target_"):
                names.setdefault(f"{group}.{setting}", []).append(f"{group}={'/'.join(option)}")
    return names
