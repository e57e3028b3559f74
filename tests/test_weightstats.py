"""`assay weightstats` as a person uses it: real files, references, pictures, and everything that can be wrong with them."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from assay.experiments.cli import main
from assay.experiments.weightstats import plot as weightplot
from assay.experiments.weightstats.weightstats import weightstats
from assay.zoo import files
from assay.zoo.files import save_tensors

SHAPES = {"blocks.10.weight": (40, 30), "blocks.2.weight": (8, 3, 3, 3), "head.bias": (10,), "scale": ()}


def weights(seed: int, **changed: Tensor) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        **{name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()},
        "steps": torch.tensor(7),
        **changed,
    }


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a suspect whose first block is twice as wide as that of five references."""
    monkeypatch.chdir(tmp_path)
    suspect = weights(0)
    suspect["blocks.10.weight"] *= 2
    save_file(suspect, tmp_path / "suspect.safetensors")
    for seed in range(1, 6):
        save_file(weights(seed), tmp_path / f"clean{seed}.safetensors")
    return tmp_path


CLEAN = [f"clean{seed}.safetensors" for seed in range(1, 6)]


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert main(["weightstats", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_statistics_of_every_layer(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = told(capsys, "suspect.safetensors")
    assert [layer["name"] for layer in found["layers"]] == [
        "blocks.2.weight",
        "blocks.10.weight",
        "head.bias",
        "scale",
    ]
    layer = found["layers"][1]
    w = 2 * weights(0)["blocks.10.weight"].double()
    assert layer["shape"] == [40, 30]
    assert (layer["count"], layer["nonfinite"]) == (1200, 0)
    assert layer["mean"] == pytest.approx(w.mean().item())
    assert layer["sd"] == pytest.approx(w.std().item())
    assert (layer["min"], layer["max"]) == (w.min().item(), w.max().item())
    assert sum(layer["histogram"]["counts"][0]) == 1200
    assert list(layer["tests"]) == ["jarque_bera"]
    assert found["layers"][3]["sd"] is None
    assert found["exchangeability"] is None
    assert found["plot"] is None
    assert not list(folder.glob("*.png"))


def test_the_odd_layer_shows_against_references(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = told(capsys, "suspect.safetensors", *CLEAN)
    by_name = {layer["name"]: layer for layer in found["layers"]}
    wide, plain = by_name["blocks.10.weight"]["tests"], by_name["blocks.2.weight"]["tests"]
    assert wide["variance_ratio"]["statistic"] == pytest.approx(4, rel=0.2)
    for test in ("kolmogorov_smirnov", "chi_square", "variance_ratio"):
        assert wide[test]["holm_log10_p"] < -10
        assert wide[test]["log10_p"] <= wide[test]["holm_log10_p"]
        assert plain[test]["holm_log10_p"] > -2
    assert by_name["scale"]["tests"]["variance_ratio"] == {
        "statistic": None,
        "log10_p": 0,
        "holm_log10_p": None,
    }
    assert 10 ** found["exchangeability"]["log10_p"] == pytest.approx(1 / 6)
    assert by_name["blocks.10.weight"]["references"] == 5


def test_an_honest_suspect_is_one_of_many(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = told(capsys, *CLEAN)
    assert min(t["holm_log10_p"] or 0 for layer in found["layers"] for t in layer["tests"].values()) > -2
    ranks = [
        weightstats(Path(c), [Path(r) for r in CLEAN if r != c], 64, False).exchangeability.log10_p
        for c in CLEAN
    ]
    assert sorted(10**p for p in ranks) == pytest.approx([0.2, 0.4, 0.6, 0.8, 1])


def test_tables_and_a_picture(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weightstats", "suspect.safetensors", *CLEAN, "--channels"]) == 0
    said = capsys.readouterr().out
    for words in ("blocks.10.weight", "excess kurt", "Output channels", "Holm over", "describe", "p = 1/6"):
        assert words in said
    assert "the picture: suspect.weights.png" in said
    assert (folder / "suspect.weights.png").read_bytes().startswith(b"\x89PNG")


def test_one_reference_allows_no_calibrated_answer(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weightstats", "suspect.safetensors", CLEAN[0]]) == 0
    assert "needs at least 2 references" in capsys.readouterr().out


def test_channels(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layer = told(capsys, "suspect.safetensors", "--channels")["layers"][1]
    w = 2 * weights(0)["blocks.10.weight"].double()
    assert layer["channels"]["sd"] == pytest.approx(w.std(1).tolist())
    assert layer["channels"]["count"] == [30] * 40


@pytest.mark.parametrize("name", ["out.svg", "out.pdf", "new/out.png"])
def test_formats_of_the_picture(folder: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = told(capsys, "suspect.safetensors", *CLEAN, "--plot", name)
    assert found["plot"] == name
    start = {"svg": b"<?xml", "pdf": b"%PDF", "png": b"\x89PNG"}[name[-3:]]
    assert (folder / name).read_bytes().startswith(start)


def test_not_finite_weights_are_reported(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spoilt, lost = weights(0)["blocks.10.weight"], torch.full((10,), torch.nan)
    spoilt[0, :3] = torch.tensor([torch.nan, torch.inf, -torch.inf])
    save_file(weights(0, **{"blocks.10.weight": spoilt, "head.bias": lost}), folder / "bad.safetensors")
    layers = {
        layer["name"]: layer
        for layer in told(capsys, "bad.safetensors", *CLEAN, "--plot", "bad.png")["layers"]
    }
    assert (layers["blocks.10.weight"]["count"], layers["blocks.10.weight"]["nonfinite"]) == (1197, 3)
    assert layers["head.bias"]["mean"] is None
    assert layers["head.bias"]["tests"]["kolmogorov_smirnov"]["log10_p"] == 0
    assert main(["weightstats", "bad.safetensors"]) == 0
    assert "10" in capsys.readouterr().out


def test_dtypes_of_other_makers(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    w = weights(0)["blocks.10.weight"]
    kinds = {
        "f64": w.double(),
        "bf16": w.bfloat16(),
        "f16": w.half(),
        "f8": w.to(torch.float8_e4m3fn),
        "far": w.double() * 1e300,
    }
    save_file(kinds, folder / "kinds.safetensors", {"format": "pt"})
    layers = {layer["name"]: layer for layer in told(capsys, "kinds.safetensors")["layers"]}
    for name in ("f64", "bf16", "f16", "f8"):
        assert layers[name]["sd"] == pytest.approx(w.std().item(), rel=0.02)
    assert layers["far"]["nonfinite"] == 1200


def test_layers_that_only_some_references_have(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = weights(9)
    del other["head.bias"]
    other["scale"] = torch.ones(3)
    save_file(other, folder / "other.safetensors")
    found = told(capsys, "suspect.safetensors", "other.safetensors", *CLEAN)
    counts = {layer["name"]: layer["references"] for layer in found["layers"]}
    assert counts == {"blocks.2.weight": 6, "blocks.10.weight": 6, "head.bias": 5, "scale": 5}
    assert found["exchangeability"] is not None


def test_equal_and_constant_layers(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, value in (("ones", 1.0), ("zeros", 0.0), ("large", 3e38)):
        save_file({"w": torch.full((50,), value), "v": torch.arange(50.0)}, folder / f"{name}.safetensors")
    found = told(capsys, "ones.safetensors", "zeros.safetensors", "large.safetensors", "--plot", "equal.png")
    assert found["layers"][0]["tests"]["kolmogorov_smirnov"]["log10_p"] == 0
    assert found["layers"][1]["tests"]["variance_ratio"]["log10_p"] == 0


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["nothing.safetensors"], "found nothing at nothing.safetensors"),
        (["pickle.pt"], "is a pickle"),
        (["text.safetensors"], "not a whole safetensors"),
        (["cut.safetensors"], "not a whole safetensors"),
        (["whole.safetensors"], "no floating-point tensors"),
        (["key.safetensors"], "is a key, expected a model"),
        (["suspect.safetensors", "nothing.safetensors"], "found nothing at nothing.safetensors"),
        (
            ["suspect.safetensors", "apart.safetensors"],
            "apart.safetensors shares no layer with suspect.safetensors",
        ),
        (["suspect.safetensors", "--plot", "out.jpeg"], ".png, .svg, .pdf"),
        (["suspect.safetensors", "--plot", "text.safetensors/out.png"], "--plot FILE"),
        (["suspect.safetensors", "--plot", "dir.png"], "--plot FILE"),
        (["suspect.safetensors", "--bins", "2"], "--bins between 4 and 500"),
        (["suspect.safetensors", "--bins", "5000"], "--bins between 4 and 500"),
        (["suspect.safetensors", "--typo"], "unexpected argument '--typo'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_explained_and_exits_2(
    folder: Path, arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"w": torch.ones(3)}, folder / "pickle.pt")
    (folder / "text.safetensors").write_text("not tensors at all")
    (folder / "cut.safetensors").write_bytes((folder / "suspect.safetensors").read_bytes()[:-100])
    save_file({"n": torch.ones(3, dtype=torch.int64)}, folder / "whole.safetensors")
    save_file({"blocks.2.weight": torch.ones(3)}, folder / "apart.safetensors")
    save_tensors(folder / "key.safetensors", "key", {"x": torch.ones(3)}, {})
    (folder / "dir.png").mkdir()
    assert main(["weightstats", *arguments]) == 2
    said = capsys.readouterr()
    assert expected in said.err
    assert "Traceback" not in said.err + said.out
    assert not said.out


def test_one_layer_of_each_model_is_in_memory_at_a_time(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    real = files.load_tensor

    def counted(path: Path, name: str) -> Tensor:
        asked.append(name)
        return real(path, name)

    monkeypatch.setattr("assay.experiments.weightstats.weightstats.load_tensor", counted)
    weightstats(Path("suspect.safetensors"), [Path(CLEAN[0])], 64, False)
    assert asked == [
        name for name in ("blocks.2.weight", "blocks.10.weight", "head.bias", "scale") for _ in range(2)
    ]


@pytest.mark.parametrize("layers", [1, 4, 61])
def test_any_number_of_layers_can_be_drawn(folder: Path, layers: int) -> None:
    tensors = {f"layer.{i}.a_name_longer_than_its_panel": torch.linspace(0.5, 3, 50) for i in range(layers)}
    tensors["layer.0.a_name_longer_than_its_panel"][:40] = 0  # pruned: its spike is cut
    save_file(tensors, folder / "many.safetensors")
    figure = weightplot.drawn(weightstats(Path("many.safetensors"), [], 16, False))
    assert len(figure.axes) == min(layers, 60)
    words = " ".join(text.get_text() for text in figure.texts)
    assert ("60 of 61 layers" in words) == (layers == 61)
    assert any("80% in one bin" in text.get_text() for axes in figure.axes for text in axes.texts)
    for axes in figure.axes:
        assert np.isfinite(axes.get_ylim()).all()


def test_help_comes_without_torch_or_matplotlib() -> None:
    code = (
        "import sys; from assay.experiments.cli import main\n"
        "try: main(['weightstats', '--help'])\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'matplotlib', 'scipy', 'numpy'} & set(sys.modules); assert not heavy, heavy"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=dict(os.environ)
    )
    assert done.returncode == 0, done.stderr
    assert "REFERENCE" in done.stdout
