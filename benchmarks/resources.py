"""What every kernel uses on every target, compiled ahead of time: no GPU is needed. Prints JSON, one object per build.

python benchmarks/resources.py [FILE of kernels/, without .py]...
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

os.environ.pop("TRITON_INTERPRET", None)  # an interpreted kernel has no source to compile

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from assay.kernels.lang import Build

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
KERNELS = Path(__file__).resolve().parent.parent / "kernels"
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


def compiled(build: Build, target: GPUTarget) -> Any:
    names = build.kernel.arg_names
    source = ASTSource(
        build.kernel,
        signature={name: build.types.get(name, "constexpr") for name in names},
        constexprs={(names.index(name),): value for name, value in build.constants.items()},
    )
    return triton.compile(
        source, target=target, options={"num_warps": build.warps, "num_stages": build.stages}
    )


def of_cubin(cubin: bytes) -> dict[str, int]:
    """Registers and stack from the binary itself; LOCAL and STACK hold what was spilled."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(TOOLS / "cuobjdump"), "--dump-resource-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = dict(re.findall(r"(REG|STACK|LOCAL):(\d+)", text))
    return {"registers": int(found["REG"]), "stack": int(found["STACK"]), "spills": int(found["LOCAL"])}


def of_gcn(assembly: str) -> dict[str, int]:
    def read(name: str) -> int:
        match = re.search(rf"\.{name}:\s+(\d+)", assembly)
        assert match, f"the assembly does not say {name}"
        return int(match[1])

    # A scalar register is spilled to a lane of a vector register, not to memory: reported, no error.
    return {
        "registers": read("vgpr_count"),
        "stack": read("private_segment_fixed_size"),
        "spills": read("vgpr_spill_count"),
        "scalar_spills": read("sgpr_spill_count"),
    }


def resources(names: list[str]) -> Iterator[dict[str, Any]]:
    files = names or sorted(path.stem for path in KERNELS.glob("*.py"))
    for name in files:
        for build in getattr(import_module(f"assay.kernels.{name}"), "BUILDS", ()):
            for label, target in TARGETS.items():
                binary = compiled(build, target)
                is_cuda = target.backend == "cuda"
                used = of_cubin(binary.asm["cubin"]) if is_cuda else of_gcn(binary.asm["amdgcn"])
                yield {
                    "file": name,
                    "kernel": build.kernel.__name__,
                    "constants": {key: str(value) for key, value in build.constants.items()},
                    "target": label,
                    **used,
                    "shared": binary.metadata.shared,
                    "budget": build.registers,
                    "stack_budget": build.stack,
                }


if __name__ == "__main__":
    print(json.dumps(list(resources(sys.argv[1:])), indent=1))
