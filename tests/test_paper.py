"""Presets of papers: what their files must say, and the command."""

import copy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from assay.core.errors import ConfigError
from assay.experiments.catalogue import with_defaults
from assay.experiments.cli import main
from assay.experiments.config import CONF, options
from assay.experiments.paper.preset import (
    SCALES,
    inequality,
    load,
    measures,
    numbers,
)
from assay.leaderboard.store import Store

PAPERS = sorted(options("paper"))
PRESET: dict[str, Any] = {
    "about": "a test",
    "seeds": [0, 1],
    "rows": {"uchida": ["watermark=uchida"]},
    "thefts": {"copy": ["attack=none"], "prune": ["attack=prune"]},
    "scales": {
        "full": {"settings": ["task=cifar10"], "differs": ""},
        "laptop": {"settings": ["task=digits"], "differs": "digits"},
    },
    "numbers": [
        {
            "where": "Table 1",
            "provenance": "verified",
            "unit": "%",
            "columns": {"accuracy": "copy.accuracy@marked"},
            "values": {"uchida": [90.0]},
        }
    ],
    "claims": [
        {
            "says": "pruning costs no bit",
            "where": "abstract",
            "provenance": "verified",
            "holds": "uchida/prune.bit_error_rate@0.5 <= uchida/copy.bit_error_rate@marked",
        }
    ],
}


def written(tmp_path: Path, **changes: Any) -> Path:
    """A folder with one preset, `mine`."""
    content = {**copy.deepcopy(PRESET), **changes}
    (tmp_path / "paper").mkdir(exist_ok=True)
    (tmp_path / "paper" / "mine.yaml").write_text(f"# Nobody, 2026.\n{yaml.safe_dump(content)}")
    return tmp_path


@pytest.mark.parametrize("paper", PAPERS)
def test_a_preset_cites_its_paper_and_is_measured_at_both_scales(paper: str) -> None:
    citation, preset = load(paper)
    year = "".join(c for c in paper.partition("_")[0] if c.isdigit())
    assert f"20{year}" in citation or f"arXiv:{year}" in citation
    assert len(preset.seeds) >= 5, "a prediction interval that may say `reproduced` needs five seeds"
    for scale in SCALES:
        assert preset.scales[scale].differs
        assert measures(preset, scale)
    assert any(claim.scales == list(SCALES) for claim in preset.claims)


@pytest.mark.parametrize("paper", PAPERS)
@pytest.mark.parametrize("scale", SCALES)
def test_overrides_name_options_and_settings_that_exist(paper: str, scale: Any) -> None:
    _, preset = load(paper)
    for row, theft in {(m.row, m.theft) for m in measures(preset, scale)}:
        words = preset.settings(scale, row, theft)
        chosen = dict(word.split("=", 1) for word in words if "." not in word.split("=")[0])
        assert {"task", "model", "watermark", "attack"} <= set(chosen), f"{row}/{theft} leaves a choice open"
        for axis, option in chosen.items():
            assert (CONF / axis / f"{option}.yaml").is_file(), f"{row}/{theft}: {axis}={option}"
        for word in words:
            axis, *path = word.split("=")[0].split(".")
            if path:
                place = CONF / axis / f"{chosen[axis]}.yaml"
                content = with_defaults(place, yaml.safe_load(place.read_text()))
                for name in path:
                    assert name in content, f"{row}/{theft}: {word}"
                    content = content[name]


@pytest.mark.slow
@pytest.mark.parametrize("paper", PAPERS)
def test_full_settings_are_valid(paper: str) -> None:
    from assay.experiments.paper.paper import composed
    from assay.experiments.trial import Settings, built, validated

    _, preset = load(paper)
    trials = composed(replace(preset, numbers=[], claims=preset.claims[:1]), "full", [3], [], None)
    for by_seed in trials.values():
        settings = validated(Settings, built(by_seed[3].config, ""), "")
        assert settings.seed == 3


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"seeds": []}, "expected different seeds"),
        ({"seeds": [1, 1]}, "expected different seeds"),
        ({"extra": 1}, "extra"),
        ({"scales": {"full": PRESET["scales"]["full"]}}, "expected full and laptop"),
        ({"rows": {"uchida": [], "copy": []}}, "is a row and a theft"),
        ({"rows": {"uchda": []}}, "Did you mean uchda"),
        ({"thefts": {"copy": []}}, "there is no 'prune'"),
        ({"claims": []}, "nothing is measured at scale=laptop"),
        ({"claims": [{**PRESET["claims"][0], "holds": "uchida/copy.accuracy@marked = 3"}]}, "expected A <= B"),
        ({"claims": [{**PRESET["claims"][0], "holds": "uchida/copy.acuracy@marked > 3"}]}, "no quantity 'acuracy'"),
        ({"claims": [{**PRESET["claims"][0], "holds": "uchida/copy.accuracy@middle > 3"}]}, "no point 'middle'"),
        ({"claims": [{**PRESET["claims"][0], "provenance": "certain"}]}, "claims.0.provenance"),
        ({"numbers": [{**PRESET["numbers"][0], "unit": "pp"}]}, "it is measured in %"),
        ({"numbers": [{**PRESET["numbers"][0], "values": {"uchida": [1, 2]}}]}, "2 values under 1 columns"),
        ({"numbers": [{**PRESET["numbers"][0], "columns": {"accuracy": None}}]}, "say why under `unmeasured`"),
        ({"numbers": [{**PRESET["numbers"][0], "columns": {"x": "copy.detected@marked"}}]}, "no single draw"),
        ({"numbers": [{**PRESET["numbers"][0], "columns": {"x": "uchida/copy.accuracy@marked"}}]}, "expected THEFT."),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_a_wrong_preset_is_explained(changes: dict[str, Any], expected: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=expected):
        load("mine", [written(tmp_path, **changes)])


def test_a_preset_says_what_stands_where(tmp_path: Path) -> None:
    citation, preset = load("mine", [written(tmp_path)])
    assert citation == "Nobody, 2026."
    (number,) = numbers(preset)
    assert (number.row, number.column, number.value) == ("uchida", "accuracy", 90.0)
    assert str(number.measure) == "uchida/copy.accuracy@marked"
    assert inequality(preset.claims[0]).relation == "<="
    assert {str(m) for m in measures(preset, "laptop")} == set(preset.claims[0].holds.split(" <= "))
    assert preset.settings("laptop", "uchida", "prune") == ["task=digits", "watermark=uchida", "attack=prune"]


def test_the_list_answers_without_torch() -> None:
    code = (
        "import sys; from assay.experiments.cli import main; assert main(['paper']) == 0\n"
        "assert not {'torch', 'hydra'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for paper in PAPERS:
        assert paper in done.stdout


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["uchda17"], "Did you mean uchida17"),
        (["--jobs", "1", "uchda17"], "Did you mean uchida17"),
        (["uchida17", "scale=huge"], "expected full or laptop"),
        (["uchida17", "seeds=a"], "different whole numbers"),
        (["uchida17", "seeds=1,1"], "different whole numbers"),
        (["uchida17", "nonsense"], "expected overrides such as scale=laptop"),
        (["uchida17", "--jobs", "0"], "at least 1, got 0"),
        (["scale=laptop"], "expected the name of a paper before 'scale=laptop'"),
        (["--jobs", "1", "scale=laptop"], "expected the name of a paper before 'scale=laptop'"),
        (["uchida17", "scale=laptop", "watermark.lyer=1"], "Did you mean watermark.layer"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_explained(
    arguments: list[str], expected: str, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["paper", *arguments]) == 2
    said = capsys.readouterr()
    assert expected in said.err
    assert "Traceback" not in said.err + said.out


@pytest.mark.slow
def test_data_that_is_not_there_is_named_with_the_smaller_scale(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from assay.zoo.tasks import Cifar10

    def nowhere(self: Cifar10, seed: int) -> Any:
        raise ConfigError("CIFAR-10 was found in none of these places")

    monkeypatch.setattr(Cifar10, "examples", nowhere)
    assert main(["paper", "mine", "--config-dir", str(written(tmp_path))]) == 2
    said = capsys.readouterr().err
    assert "CIFAR-10 was found in none" in said
    assert "assay paper mine scale=laptop" in said
    assert not list(runs.rglob("*.json"))


@pytest.mark.slow
def test_a_paper_runs_reports_and_resumes(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = [
        "task.limit=200",
        "task.recipe.epochs=1",
        "verification.null_models=2",
        "verification.random_keys=20",
    ]
    command = ["paper", "mine", "scale=laptop", *tiny, "--jobs", "1", "--config-dir", str(written(tmp_path))]
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert "Published numbers are shown, and not compared" in " ".join(shown.split())
    report = (runs / "papers" / "mine-laptop.md").read_text()
    (number,) = [line for line in report.splitlines() if line.startswith("| uchida/copy | accuracy |")]
    assert number.endswith("| – | not measured: needs the data of cifar10 and scale=full |")
    claim = next(line for line in report.splitlines() if line.startswith("| pruning costs no bit |"))
    found = {(r["choices"]["attack"], r["seed"]): r for r in Store(runs / "records")}
    held = 0
    for seed in (0, 1):
        half = next(p for p in found["prune", seed]["curve"] if p["strength"] == 0.5)
        held += half["statistic"] >= found["none", seed]["marked"]["statistic"]
    verdict = "qualitative claim holds" if held == 2 else "does not hold"
    assert f"| {held} of 2 | {verdict} | uchida/prune.bit_error_rate@0.5 <= " in claim
    for link in (runs / "records").glob("*.json"):
        assert f"](../records/{link.name})" in report
    page = (runs / "papers" / "mine-laptop.html").read_text()
    assert "default-src 'none'" in page
    assert "http" not in page.replace("http-equiv", "")
    assert "<script" not in page
    assert f"assay paper mine scale=laptop {' '.join(tiny)}\n" in report
    assert main([*command, "seeds=0"]) == 0
    assert "2 of 2 trials are done already" in capsys.readouterr().out
    assert "(one seed: no interval)" in (runs / "papers" / "mine-laptop.md").read_text()
