"""Triton where it is installed (Linux), and how every kernel of this folder is built.

A kernel's file holds, in this order: the definition in plain torch, the Triton kernel, its launcher, the dispatch. The
dispatch takes Triton for CUDA tensors (HIP ones too, which torch calls cuda) and a vectorised path with bounded memory
elsewhere. Without Triton the decorator does nothing, and every dispatch refuses CUDA tensors.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

# Triton 3.9 warns when this is unset, and 3.10 changes the default. Fused multiply-add is what the budgets were read with.
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")

if TYPE_CHECKING:
    import triton.language as tl

    jit: Any
    HAS_TRITON: bool
else:
    try:
        import triton.language as tl
        from triton import jit

        HAS_TRITON = True
    except ImportError:
        HAS_TRITON = False

        class tl:
            """Stands for triton.language in annotations."""

            constexpr = Any

        def jit(function: Any) -> Any:
            return function


__all__ = ["Build", "ceil_div", "jit", "on_gpu", "tl"]


@dataclass(frozen=True)
class Build:
    """One ahead-of-time build of a kernel: tests compile it for every target and hold it to its budget (tests/test_aot.py).

    types: run-time argument -> Triton's type ("*fp32", "i64"). constants: the constexpr arguments. registers: the most that a
    thread may use on an NVIDIA target; stack: the most bytes on any target. A spill is an error, and so is a stack, unless a
    measurement beside the kernel says what it buys."""

    kernel: Any
    types: Mapping[str, str]
    constants: Mapping[str, Any]
    registers: int
    warps: int = 4
    stages: int = 3
    stack: int = 0


def on_gpu(*tensors: Tensor) -> bool:
    """Whether the dispatch takes Triton. ValueError when the tensors live on different devices, or on a GPU without Triton."""
    devices = {tensor.device for tensor in tensors}
    if len(devices) > 1:
        raise ValueError(
            f"expected tensors on one device, got {', '.join(sorted(map(str, devices)))}; move them with .to(device)"
        )
    is_gpu = bool(devices) and next(iter(devices)).type == "cuda"
    if is_gpu and not HAS_TRITON:
        raise ValueError("tensors on a GPU need Triton, which is not installed; move them with .to('cpu')")
    return is_gpu


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)
