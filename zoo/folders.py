"""Language models that exist already: any transformers folder on this machine, read as data. Safetensors weights and tokenizer.json
alone: no pickle is opened, and none of a model's own code is run."""

import copy
import hashlib
import json
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..core.errors import ConfigError, NotApplicable
from .language import LanguageModel
from .language_models import Causal
from .models import Architecture, Shape
from .text_tasks import NextIds
from .tokens import Tokens, of_folder


@dataclass(frozen=True)
class OfTask(Causal):
    """The network that the task brings (conf/task/lm_folder.yaml); `context` cuts its own to so many ids."""

    layer: str = "net.model.layers.0.mlp.down_proj"
    context: int = 512

    def network(self, shape: Shape, classes: int) -> nn.Module:
        raise ConfigError(
            "model=of_task is the model that a task brings; set task=lm_folder, or another model"
        )


@dataclass(frozen=True)
class Folder(NextIds):
    """Next ids of the corpus by a model that is not trained here. It is its own judge; other seeds share it, so there are no null
    models, and a fresh student has its architecture, untrained."""

    trains = False
    name = "folder"

    model: str = ""
    """The folder: config.json, tokenizer.json, *.safetensors."""

    def place(self) -> Path:
        return Path(self.model).expanduser()

    def tokens(self) -> Tokens:
        width, found = self.width, of_folder(self.place())
        if found.size > width:
            raise ConfigError(
                f"{self.place()}: the tokenizer has {found.size} tokens, the model a vocabulary of {width}: they are not of "
                "one model; set task.model=FOLDER"
            )
        return found

    @property
    def width(self) -> int:
        return int(settings(self.place()).vocab_size)

    def check(self, architecture: Architecture) -> None:
        if not isinstance(architecture, OfTask):
            raise ConfigError(f"task {self.name} brings its model; set model=of_task")
        super().check(replace(architecture, context=self.context(architecture)))

    def context(self, architecture: OfTask) -> int:
        """The shorter of what is set and what the model has positions for."""
        return min(
            architecture.context, int(getattr(settings(self.place()), "max_position_embeddings", 2**31))
        )

    def network(self, architecture: Architecture, shape: Shape, classes: int, seed: int) -> nn.Module:
        return self._wrapped(architecture, untrained(self.place(), seed))

    def start(self, architecture: Architecture, shape: Shape, seed: int) -> nn.Module:
        return self._wrapped(architecture, weights(self.place()))

    def contents(self) -> str:
        return contents(self.place())

    def _wrapped(self, architecture: Architecture, net: nn.Module) -> LanguageModel:
        if not isinstance(architecture, OfTask):
            raise NotApplicable(
                f"task {self.name} brings its architecture, {type(architecture).__name__} is another"
            )
        context = self.context(architecture)
        return LanguageModel(net, context, self.tokens().hash, architecture.temperature).eval()


@cache
def settings(folder: Path) -> Any:
    """The folder's config.json as transformers reads it. ConfigError for one that is missing, or needs code of its own."""
    from transformers import AutoConfig

    try:
        content = json.loads((folder / "config.json").read_text())
        found = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # noqa: BLE001 - what the library raises depends on what stands in the file
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(
            f"{folder} is no folder of a transformers model ({why}); set task.model=FOLDER"
        ) from None
    if not isinstance(getattr(found, "vocab_size", None), int):
        raise ConfigError(
            f"{folder}: config.json is of a {found.model_type}, which reads no ids; set task.model=FOLDER"
        )
    if "auto_map" in content:
        raise ConfigError(f"{folder}: config.json asks for code of the model's own, which Assay does not run")
    return found


@cache
def contents(folder: Path) -> str:
    """16 hex digits of the folder's configuration, tokenizer and weights: whoever trains another model into it has another."""
    found = hashlib.sha256()
    for path in sorted({*folder.glob("*.json"), *folder.glob("*.safetensors")}):
        with path.open("rb") as file:
            found.update(hashlib.file_digest(file, "sha256").digest())
    return found.hexdigest()[:16]


def weights(folder: Path) -> nn.Module:
    """A causal language model in float32. ConfigError without safetensors, with some of them alone, or with what is not finite."""
    from transformers import AutoModelForCausalLM

    config = copy.deepcopy(settings(folder))  # a model changes its own
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            dtype=torch.float32,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"{folder} holds no safetensors weights of a causal language model ({str(error).splitlines()[0]}); "
            "convert them where you trust them: model.save_pretrained(FOLDER)"
        ) from None
    net, found = loaded
    if found["missing_keys"]:
        raise ConfigError(
            f"{folder}: the safetensors files lack {len(found['missing_keys'])} weights of the model, {min(found['missing_keys'])} "
            "among them, which would be drawn at random; fetch them again"
        )
    model: nn.Module = net
    bad = next((name for name, weight in model.named_parameters() if not weight.isfinite().all()), None)
    if bad is not None:
        raise ConfigError(f"{folder} holds NaN or infinite values in {bad}; expected finite weights")
    return model


def untrained(folder: Path, seed: int) -> nn.Module:
    """The same architecture with random weights; the global random state is left as it was."""
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net: nn.Module = AutoModelForCausalLM.from_config(
            copy.deepcopy(settings(folder)), dtype=torch.float32
        )
    return net
