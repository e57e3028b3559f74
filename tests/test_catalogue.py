"""The catalogue's page follows the yamls, and a suite may name its options by what they declare."""

import hashlib
from pathlib import Path

import pytest

from assay.core.errors import ConfigError
from assay.experiments.catalogue import catalogue
from assay.experiments.config import CONF, composer
from assay.experiments.handbook import LINKED, handbook, table
from assay.experiments.suite import chosen, grid, specs_of
from assay.leaderboard.ranking import outcome
from assay.leaderboard.store import Store

ROOT = Path(__file__).resolve().parent.parent


def test_the_page_is_what_the_yamls_say() -> None:
    written = (ROOT / "docs" / "catalogue.md").read_text()
    records, elsewhere = (Store(ROOT / "results" / name / "records") for name in ("digits", "defaults"))
    assert written == handbook(records, "../results/digits/records", elsewhere), (
        "run `assay list --markdown > docs/catalogue.md` in the repository's root"
    )


def test_every_option_has_a_row_with_its_mechanism() -> None:
    page = handbook([], "records")
    for name in [*catalogue("watermark"), *catalogue("attack")]:
        rows = [line for line in page.splitlines() if line.startswith(f"| `{name}` |")]
        assert rows, name
        for row in rows:  # `none` is a scheme and an attack
            mechanism = row.split("|")[2].strip()
            assert len(mechanism) > 20 or mechanism.startswith("as `"), name


def test_every_measured_cell_stands_in_the_row_of_its_scheme() -> None:
    records = list(Store(ROOT / "results" / "quick" / "records"))
    lines = handbook(records, "there").split("What survives what")[1].splitlines()
    rows = {
        scheme: next(line for line in lines if line.startswith(f"| `{scheme}` |"))
        for scheme in ("uchida", "akh")
    }
    for record in records:
        scheme, attack = record["choices"]["watermark"], record["choices"]["attack"]
        if scheme in rows:
            assert attack in rows[scheme]
            assert (f"[{attack}](there/{record['id']}.json)" in rows[scheme]) == (
                outcome(record)[0] in LINKED
            )
    assert "| `none` |" not in "\n".join(lines), "the control is no scheme"


def test_cells_cannot_break_a_table() -> None:
    assert table(["a"], [["x|y"]]).splitlines()[2] == "| x/y |"


def test_a_mapping_in_a_suite_stands_for_all_that_declare_it() -> None:
    assert set(chosen("attack", {"needs": "labels"}, [CONF])) == {
        name for name, found in catalogue("attack").items() if found["needs"] == "labels"
    }
    assert chosen("watermark", {}, [CONF]) == list(catalogue("watermark"))
    assert chosen("watermark", ["adi", "akh"], [CONF]) == ["adi", "akh"]
    assert chosen("seed", 0, [CONF]) == [0]
    with pytest.raises(ConfigError, match="declares no 'need'"):
        chosen("attack", {"need": "labels"}, [CONF])


def test_the_matrix_is_every_scheme_under_every_attack() -> None:
    specs = specs_of("matrix", [], None, [CONF])
    pairs = {(spec.choices["watermark"], spec.choices["attack"]) for spec in specs}
    assert len(specs) == len(pairs) == len(catalogue("watermark")) * len(catalogue("attack"))
    with composer() as compose:
        for spec in specs[:: len(specs) // 4]:  # what is put together from parts is what Hydra composes
            assert spec == compose(
                [*(f"{axis}={option}" for axis, option in spec.choices.items()), "trainer.progress=false"]
            )


def test_the_standard_suite_is_fixed() -> None:
    """standard-v1: what is in it may not change under that name."""
    blocks = grid("standard", [CONF])
    schemes, attacks, deployments = map(catalogue, ("watermark", "attack", "deployment"))
    assert {name for axes in blocks for name in axes["attack"]} <= set(attacks)
    cells = [
        (a, m, *axes["deployment"]) for axes in blocks for a in axes["attack"] for m in axes["adversary"]
    ]
    assert len(cells) == len(set(cells)) == 63
    assert hashlib.sha256(repr(sorted(cells)).encode()).hexdigest()[:12] == "f2c48f84aabf"
    for axes in blocks:
        assert axes["seed"] == [0, 1, 2]
        assert axes["watermark"] == list(schemes)
        assert axes["verification"] == ["mixed"]
        granted = deployments[axes["deployment"][0]]["grants"]
        assert all(attacks[name]["needs"] in granted for name in axes["attack"])


def test_words_narrow_a_suite() -> None:
    def cells(*words: str) -> set[tuple[str, str, str, int]]:
        return {
            (c["watermark"], c["attack"], c["deployment"], spec.config["seed"])
            for spec in specs_of("quick", words, None, [CONF])
            for c in [spec.choices]
        }

    assert cells("attack=distill", "watermark=uchida,akh") == {
        (scheme, "distill", "api_scores", 0) for scheme in ("uchida", "akh")
    }, "only the deployment that the suite has for it"
    assert cells("attack=none", "watermark=akh", "seed=7,8") == {
        ("akh", "none", "open", seed) for seed in (7, 8)
    }
    assert cells("attack=wrk", "deployment=open") == {
        (scheme, "wrk", "open", 0) for scheme in ("none", "uchida", "adi_derived", "akh")
    }, "an attack that the suite has not takes the place of all"
    assert {
        s.config["task"]["limit"]
        for s in specs_of("defaults", ["task.limit=500", "model=mlp", "watermark=akh,uchida"], None, [CONF])
    } == {500}
    limits = specs_of("quick", ["attack=none", "watermark=akh", "task.limit=40,50"], None, [CONF])
    assert sorted(s.config["task"]["limit"] for s in limits) == [40, 50]
    with pytest.raises(ConfigError, match="the suite has no attack=wrk"):
        cells("attack=wrk,none")
    with pytest.raises(ConfigError, match="set attack=none,distill"):
        cells("attack=[none,distill]")
    with pytest.raises(ConfigError, match="no block of suite quick"):
        cells("deployment=open", "attack=distill,extract")


def test_every_trial_of_a_suite_names_its_own_settings(tmp_path: Path) -> None:
    """The board takes trials of equal options, settings and seed for one cell."""
    keys = [tmp_path / name for name in ("a.safetensors", "b.safetensors")]
    for key in keys:
        key.write_text(key.name)
    words = ["attack=none", "watermark=akh,uchida", "key=" + ",".join(map(str, keys))]
    specs = specs_of("quick", words, None, [CONF])
    assert len(specs) == 4
    assert all(spec.overrides == [f"key={spec.config['key']['file']}"] for spec in specs)


def test_axes_that_refer_to_each_other_are_composed_point_by_point(tmp_path: Path) -> None:
    (tmp_path / "suite").mkdir()
    text = "common: {task: digits, seed: [0, 1]}\nblocks:\n  - {model: [cnn_small, mlp], watermark: [none, uchida]}"
    (tmp_path / "suite" / "both.yaml").write_text(text)
    specs = specs_of("both", [], str(tmp_path), [tmp_path, CONF])
    layers = {s.config["watermark"]["layer"] for s in specs if s.choices["watermark"] == "uchida"}
    assert layers == {"net.block3.conv", "net.hidden2.linear"}, "uchida takes the layer that the model names"
    assert len(specs) == 8
    assert len(specs_of("both", ["watermark=uchida"], str(tmp_path), [tmp_path, CONF])) == 4, "each once"
