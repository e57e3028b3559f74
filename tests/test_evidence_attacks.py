"""Attacks on evidence: each is tried, and succeeds where the defence is missing and nowhere else."""

import json
from pathlib import Path

import pytest
from rich.console import Console

from assay.experiments.config import composer
from assay.experiments.evidence import attacks_log, attacks_marks, table
from assay.experiments.evidence.rows import Row
from assay.experiments.evidence.world import World
from assay.experiments.trial import prepare

SMALL = (
    "watermark=adi_derived",
    "watermark.per_batch=32",
    "model=mlp",
    "task.recipe.epochs=6",
    "attack=none",
    "deployment=open",
)
# What the judge's rule leaves open is part of the table: honest rows.
LOG = {
    ("back-dating", "no witness"): True,
    ("back-dating", "witness"): False,
    ("log rewrite", "no witness"): True,
    ("log rewrite", "witness"): False,
    ("split view", "no witness"): True,
    ("split view", "witness"): False,
    ("split view", "witness, its key not known to the reader"): True,
    ("back-dating by another's R1", "any"): False,
    ("foreign proof", "any"): False,
}
MARKS = {
    ("free adversarial triggers", "chosen keys, committed and dated"): True,
    ("free adversarial triggers", "derived keys"): False,
    ("grinding", "R1 known before (no witness)"): True,
    ("grinding", "deposits counted by owner"): False,
    ("grinding, an owner per key", "deposits counted by owner"): True,
    ("grinding, an owner per key", "deposits counted over the log"): False,
    ("overwrite and claim", "the suspect alone is tested"): True,
    ("overwrite and claim", "deposited models are tested"): False,
    ("overwrite, deposit another model", "deposited models are tested"): True,
    ("forged counter-mark", "chosen keys"): True,
    ("forged counter-mark", "derived keys, alpha / m"): False,
    ("suspect refuses strange inputs", "shuffled with controls"): True,
    ("suspect answers strange inputs at random", "shuffled with controls"): True,
    ("suspect refuses half of all", "shuffled with controls"): False,
}


def outcomes(rows: list[Row]) -> dict[tuple[str, str], bool]:
    assert all(row.tries >= 1 and row.seconds >= 0 and row.why and row.cost for row in rows), rows
    return {(row.attack, row.defence): row.succeeded for row in rows}


def test_attacks_on_the_log_succeed_only_where_nobody_watches(tmp_path: Path) -> None:
    rows = list(attacks_log.attacks(tmp_path))
    assert outcomes(rows) == LOG
    assert sum(row.tries for row in rows if not row.succeeded) > 200


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    with composer() as compose:
        trial = prepare(compose([*SMALL]))
    return World(trial, tmp_path_factory.mktemp("world"), tries=600)


@pytest.mark.slow
def test_attacks_on_marks_succeed_only_where_the_rule_leaves_room(world: World) -> None:
    rows = list(attacks_marks.attacks(world, attacks_marks.TABLE))
    assert outcomes(rows) == MARKS, [row.why for row in rows]


def test_a_world_can_be_repeated(world: World, tmp_path: Path) -> None:
    """The same R1, so the same keys: nothing in the table but the seconds depends on the run."""
    again = World(world.trial, tmp_path)
    assert again.owner.key.fingerprint == world.owner.key.fingerprint


def test_the_command_writes_rows_and_refuses_unknown_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from assay.experiments.cli import main

    path = tmp_path / "rows.json"
    assert main(["evidence", "attacks", "model=mlp", "--only", "foreign proof", "--output", str(path)]) == 0
    said = json.loads(path.read_text())
    assert [row["attack"] for row in said["rows"]] == ["foreign proof"]
    assert said["choices"]["watermark"] == "adi_derived"
    assert main(["evidence", "attacks", "--only", "magic"]) == 2
    captured = capsys.readouterr()
    assert "foreign proof" in captured.out
    assert "there is no attack on evidence called 'magic'" in captured.err
    table.shown([], Console(file=None, quiet=True))
