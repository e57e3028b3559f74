"""Every benchmark, one after the other, each in a process of its own."""

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent

if __name__ == "__main__":
    for name in (
        "kernels",
        "text_detectors",
        "null_loop",
        "training",
        "fleet",
        "board",
        "suite",
        "store",
        "workers",
        "text_marks",
        "deployment",
    ):
        subprocess.run([sys.executable, str(HERE / f"{name}.py")], check=True)
