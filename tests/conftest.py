"""One artifact cache for the whole test run, shared by all workers: a victim is trained once. Without a GPU the kernels run
in Triton's interpreter, which must be chosen before their files are imported."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

TOGETHER = (
    *("test_browser", "test_deepmarks", "test_deployments", "test_evidence_attacks", "test_fingerprints"),
    *("test_radioactivity", "test_text_tasks", "test_trace", "test_weight_schemes"),
)
"""Files whose tests share a browser, models, a corpus or a search that only one worker's memory holds."""


def pytest_configure(config: pytest.Config) -> None:
    """Not in the process that hands tests to the workers: it runs none, and importing torch takes it 5 s. A machine may be busy: a
    property has no deadline."""
    if config.getoption("dist", "no") != "no":
        return
    import torch
    from hypothesis import settings

    if not torch.cuda.is_available():
        os.environ["TRITON_INTERPRET"] = "1"
    settings.register_profile("assay", settings(), deadline=None)
    settings.load_profile("assay")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All tests of one scheme, or of one attack, go to one worker: what they train or steal is kept in its memory."""
    for item in items:
        name = getattr(item, "callspec", None) and item.callspec.params.get("name")  # type: ignore[attr-defined]
        if item.path.stem in TOGETHER:
            item.add_marker(pytest.mark.xdist_group(item.path.stem))
        elif isinstance(name, str):
            item.add_marker(pytest.mark.xdist_group(f"{item.path.stem} {name}"))


@pytest.fixture(scope="session")
def device() -> str:
    """Where the kernels run: the GPU, or the interpreter."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(scope="session", autouse=True)
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / "cache"
    previous = {name: os.environ.get(name) for name in ("ASSAY_CACHE", "ASSAY_RUNS", "WANDB_MODE")}
    os.environ["ASSAY_CACHE"] = str(folder)
    yield folder
    for name, value in previous.items():
        os.environ.pop(name, None) if value is None else os.environ.__setitem__(name, value)


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh results folder, also for `assay status` and `assay board`."""
    monkeypatch.setenv("ASSAY_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"
