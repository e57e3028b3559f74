"""Without Triton, and beside it: what the kernels' files do where they cannot launch anything."""

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from assay.kernels import lang

ABSENT = """
import sys
sys.modules["triton"] = None
from importlib import import_module
from pathlib import Path
import torch, assay
for path in (Path(assay.__file__).parent / "kernels").glob("*.py"):
    import_module(f"assay.kernels.{path.stem}")
from assay.kernels.row_labels import row_labels
assert row_labels(torch.tensor([[0.0, 2.0, 1.0]])).tolist() == [1]
"""


def test_without_triton_the_cpu_computes() -> None:
    subprocess.run([sys.executable, "-c", ABSENT], check=True)


def test_without_triton_a_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    there: Any = SimpleNamespace(device=torch.device("cuda", 0))
    assert lang.on_gpu(there)
    monkeypatch.setattr(lang, "HAS_TRITON", False)
    with pytest.raises(ValueError, match="need Triton, which is not installed"):
        lang.on_gpu(there)
    assert not lang.on_gpu(torch.zeros(1))
