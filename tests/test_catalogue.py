"""The catalogue's page follows the yamls, and a suite may name its options by what they declare."""

from pathlib import Path

import pytest

from assay.core.errors import ConfigError
from assay.experiments.catalogue import CONF, catalogue
from assay.experiments.handbook import handbook, table
from assay.experiments.suite import chosen, grid
from assay.leaderboard.store import Store

ROOT = Path(__file__).resolve().parent.parent


def test_the_page_is_what_the_yamls_say() -> None:
    written = (ROOT / "docs" / "catalogue.md").read_text()
    records = Store(ROOT / "results" / "digits" / "records")
    assert written == handbook(records, "../results/digits/records"), (
        "run `assay list --markdown > docs/catalogue.md` in the repository's root"
    )


@pytest.mark.parametrize("group", ["watermark", "attack"])
def test_every_option_has_a_row_with_its_mechanism(group: str) -> None:
    page = handbook([], "records")
    for name in catalogue(group):
        rows = [line for line in page.splitlines() if line.startswith(f"| `{name}` |")]
        assert rows, name
        for row in rows:  # `none` is a scheme and an attack
            mechanism = row.split("|")[2].strip()
            assert len(mechanism) > 20 or mechanism.startswith("as `"), name


def test_measured_cells_are_linked() -> None:
    records = list(Store(ROOT / "results" / "quick" / "records"))
    page = handbook(records, "there")
    assert "| `finetune` |" in page
    assert all(f"(there/{r['id']}.json)" in page for r in records if r["choices"]["watermark"] != "none")


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
    trials = grid("matrix", [CONF])
    assert (
        len(trials)
        == len({tuple(t) for t in trials})
        == len(catalogue("watermark")) * len(catalogue("attack"))
    )
