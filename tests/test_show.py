"""What is printed: p-values and reasons."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from assay.experiments import show
from assay.experiments.catalogue import catalogue


@pytest.mark.parametrize(
    ("log10_p", "text"),
    [
        (0.0, "1"),
        (-0.26, "0.55"),
        (-2.0, "0.01"),
        (-3.0, "1.0e-3"),
        (-74.35271577, "4.4e-75"),
        (-99.99999999999999, "1.0e-100"),
        (-99.001, "1.0e-99"),
        (-320.5, "3.2e-321"),
    ],
)
def test_p_values_are_printed_as_they_are(log10_p: float, text: str) -> None:
    assert show.p_value(log10_p) == text


def test_a_reason_is_text_not_markup() -> None:
    out = io.StringIO()
    record = {"id": "x", "status": "not_applicable", "reason": "layers [net.a|net.b] [/] [red]"}
    show.trial(record, Console(file=out, width=100))
    assert "layers [net.a|net.b] [/] [red]" in out.getvalue()


def test_declarations_are_inherited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's scheme that extends one of ours is listed without importing either."""
    (tmp_path / "watermark").mkdir()
    (tmp_path / "watermark" / "mine.yaml").write_text(
        "# Mine.\n_target_: inherited_user_module.Mine\nlayer: x\n"
    )
    (tmp_path / "inherited_user_module.py").write_text(
        "from assay.watermarks.uchida import Uchida\n\nclass Mine(Uchida):\n    paper = 'mine'\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    listed = catalogue("watermark", [tmp_path])["mine"]
    assert listed["paper"] == "mine"
    assert (listed["family"], listed["derivation"], listed["embeds"]) == ("parameter", "derived", True)
