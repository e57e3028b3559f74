"""What a record says about where it was measured."""

import os
import platform
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from ..zoo.training import Hardware
from .cache import library_versions

ROOT = Path(__file__).resolve().parent.parent


def environment(hardware: Hardware, code: str) -> dict[str, Any]:
    device = torch.cuda.get_device_name() if hardware.device == "cuda" else processor()
    return {
        "assay": __version__,
        "commit": commit(),
        "code": code,
        "versions": library_versions(),
        "platform": platform.platform(),
        "device": device,
        "cuda": torch.version.cuda if hardware.device == "cuda" else None,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
    }


@cache
def commit() -> str | None:
    """The git commit of the source tree, "+" for uncommitted changes; None when it is not a checkout of Assay."""
    if not (ROOT / ".git").exists():
        return None
    try:
        head = _git("rev-parse", "--short=12", "HEAD")
        return head + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@cache
def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
