"""Every kernel is compiled ahead of time for four targets, on a machine without any: no spills, no stack, registers in budget."""

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
TARGETS = {"sm_80", "sm_90", "sm_100", "gfx942"}
WITH_KERNELS = sorted(path.stem for path in (ROOT / "kernels").glob("*.py") if "@jit" in path.read_text())
PROCESSES = 2
"""That compile, one a worker: each imports torch and Triton once for all its files."""


@cache
def compiled(part: int) -> list[dict[str, Any]]:
    """What every PROCESSES-th file's kernels use."""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    command = [sys.executable, str(ROOT / "benchmarks" / "resources.py"), *WITH_KERNELS[part::PROCESSES]]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("part", "file"),
    [
        pytest.param(place % PROCESSES, file, marks=pytest.mark.xdist_group(f"compiled {place % PROCESSES}"))
        for place, file in enumerate(WITH_KERNELS)
    ],
)
def test_a_kernel_compiles_for_every_target_within_its_budget(part: int, file: str) -> None:
    found = [used for used in compiled(part) if used["file"] == file]
    assert {used["target"] for used in found} == TARGETS
    for used in found:
        assert used["spills"] == 0, used
        assert used["stack"] <= used["stack_budget"], used
        if used["target"] != "gfx942":
            assert used["registers"] <= used["budget"], used
        assert used["shared"] <= 160 * 1024, used  # what a block may take on sm_80


@pytest.mark.parametrize("name", WITH_KERNELS)
def test_every_kernel_that_is_launched_has_a_build(name: str) -> None:
    text = (ROOT / "kernels" / f"{name}.py").read_text()
    launched = {line.split("[")[0].strip() for line in text.splitlines() if "[grid]" in line}
    builds = text[text.index("BUILDS") :]
    assert launched
    for kernel in launched:
        assert f"{kernel}," in builds, f"{kernel} is not in BUILDS of {name}"
