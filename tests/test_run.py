"""Trials end to end: the record, statuses, isolation, the notebook entry, W&B, verification of files."""

import errno
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from own_attack import own_attack

from assay.core.errors import ConfigError
from assay.core.secret import Secret
from assay.experiments import isolate
from assay.experiments.api import build
from assay.experiments.cli import main
from assay.experiments.config import Spec, composer
from assay.experiments.launch.log import _exists
from assay.leaderboard.store import Store
from assay.zoo.folders import contents

# A trial of about a second: one epoch on 200 digits, few nulls.
TINY = (
    "task.limit=200",
    "task.recipe.epochs=1",
    "verification.null_models=2",
    "verification.random_keys=20",
    "trainer.progress=false",
)


def spec(runs: Path, *overrides: str) -> Spec:
    with composer() as compose:
        made: Spec = compose([*TINY, f"paths.runs={runs}", *overrides])
    return made


def test_a_record_holds_what_the_documentation_says(runs: Path) -> None:
    record = isolate.perform(spec(runs, "watermark=uchida", "attack=prune"))
    assert record["status"] == "ok"
    assert set(record) == {
        "id", "choices", "seed", "overrides", "declared", "config", "environment", "finished", "status",
        "owner", "marked", "curve", "controls", "nulls", "size", "spent",
    }  # fmt: skip
    assert [point["strength"] for point in record["curve"]] == [0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95]
    for point in record["curve"]:
        assert 0 <= point["agreement"] <= 1
        assert point["log10_p"] <= 0
        assert point["random_keys"]["count"] == 20
        assert point["independent_models"]["count"] == 2
        assert set(point["cost"]) == {"seconds", "queries", "examples", "steps"}
    assert set(record["controls"]) == {"unmarked", "marked_by_rival", "key_of_rival"}
    assert len(record["nulls"]["random_keys"]) == 20
    assert record["size"]["cells"] == 2 * 20
    assert 0 <= record["size"]["claims"] <= 6
    assert record["environment"]["threads"] == 1
    assert record["owner"]["verification"]["queries"] == 0  # a mark of weights asks nothing
    assert record["owner"]["verification"]["seconds"] > 0
    assert set(record["spent"]) == {"seconds", "cpu_seconds"}
    stored = Store(runs / "records").read(record["id"])
    assert stored is not None
    assert {**stored, "schema": None} == {**json.loads(json.dumps(record)), "schema": None}


def test_no_secret_is_in_a_record(runs: Path) -> None:
    for scheme in ("uchida", "adi_derived"):
        text = json.dumps(isolate.perform(spec(runs, f"watermark={scheme}")))
        for seed in (0, 500_000):
            assert Secret.simulated(seed, "owner").raw.hex() not in text


@pytest.mark.parametrize("scheme", ["none", "uchida", "adi", "akh"])
def test_same_configuration_same_record(runs: Path, scheme: str) -> None:
    overrides = (f"watermark={scheme}", "attack=finetune", "attack.recipe.epochs=2", "attack.report=[1,2]")
    first, second = (timeless(isolate.perform(spec(runs, *overrides))) for _ in range(2))
    assert first == second


def timeless(record: dict[str, Any]) -> dict[str, Any]:
    """A record without what may differ between two runs of the same trial: clock times."""

    def strip(value: Any) -> Any:
        if isinstance(value, dict):
            return {
                k: strip(v)
                for k, v in value.items()
                if not k.endswith("seconds") and k not in ("finished", "commit")
            }
        return [strip(item) for item in value] if isinstance(value, list) else value

    return dict(strip(record))


def test_schemes_that_embed_nothing_are_judged_on_one_theft(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from assay.attacks.extract import Extract

    overrides = (f"paths.cache={runs}/cache", "attack=extract_mlp", "attack.epochs=1", "deployment=api_label")
    first = isolate.perform(spec(runs, "watermark=akh", *overrides))
    again = isolate.perform(spec(runs, "watermark=akh", *overrides))
    assert timeless(first) == timeless(again)
    assert [p["cost"] for p in first["curve"]] == [p["cost"] for p in again["curve"]], "as it was measured"

    def stolen_already(*_: object) -> None:
        raise AssertionError("the theft is done")

    monkeypatch.setattr(Extract, "__call__", stolen_already)
    other = isolate.perform(spec(runs, "watermark=random_queries", "watermark.queries=100", *overrides))
    for one, two in zip(first["curve"], other["curve"], strict=True):
        assert {**one["cost"], "of": one["agreement"]} == {**two["cost"], "of": two["agreement"]}
    marked = isolate.perform(spec(runs, "watermark=uchida", *overrides))
    assert marked["reason"] == "AssertionError: the theft is done", "a marked model is another one to steal"


def test_a_theft_that_is_more_than_weights_is_not_kept(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the filter leaves the test pictures as they are."""
    from assay.attacks.evade import FILTERS

    overrides = ("watermark=akh", f"paths.cache={runs}/cache")
    isolate.perform(spec(runs, *overrides, "attack=evade_flip"))
    monkeypatch.setitem(FILTERS, "blur", lambda inputs, _: inputs)
    isolate.perform(spec(runs, *overrides, "attack=evade_blur"))
    assert not list((runs / "cache" / "thefts").glob("*.safetensors"))
    isolate.perform(spec(runs, *overrides, "attack=prune"))
    assert len(list((runs / "cache" / "thefts").glob("*.safetensors"))) == 1


def test_overwriting_shows_both_owners(runs: Path) -> None:
    record = isolate.perform(spec(runs, "watermark=uchida", "attack=overwrite", "attack.multipliers=[10.0]"))
    (point,) = record["curve"]
    assert point["overwriter"]["surrogate"]["detected"] is True, "the thief's mark is in his model"
    assert point["overwriter"]["marked"]["detected"] is False, "and not in the owner's"
    assert record["controls"]["unmarked"]["detected"] is False


def test_statuses(runs: Path) -> None:
    blocked = isolate.perform(spec(runs, "attack=prune", "deployment=api_label"))
    assert blocked["status"] == "blocked"
    assert "needs weights" in blocked["reason"]
    unsuitable = isolate.perform(spec(runs, "watermark=uchida", "watermark.layer=net.nowhere"))
    assert unsuitable["status"] == "not_applicable"
    assert "net.nowhere" in unsuitable["reason"]
    assert "net.block3.conv" in unsuitable["reason"]


def test_an_error_in_a_scheme_is_recorded_with_its_traceback(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from assay.attacks import prune

    def broken(*_: object) -> None:
        raise RuntimeError("the attack broke")

    monkeypatch.setattr(prune, "pruned", broken)
    record = isolate.perform(spec(runs, "attack=prune"))
    assert record["status"] == "failed"
    assert record["reason"] == "RuntimeError: the attack broke"
    assert "broken" in record["traceback"]
    stored = Store(runs / "records").read(record["id"])
    assert stored is not None
    assert stored["status"] == "failed"


def test_an_attack_that_yields_nothing_is_refused(runs: Path) -> None:
    """Its empty curve would read as an attack that destroys what it steals."""
    with pytest.raises(ConfigError, match="prune yielded no model"):
        isolate.perform(spec(runs, "attack=prune", "attack.sparsities=[]"))
    assert not list(runs.rglob("*.json"))


def test_a_folder_keeps_the_models_of_one_owner(runs: Path, tmp_path: Path) -> None:
    """Models of one read by the key of another would show no evidence."""
    save, nothing = f"save={tmp_path / 'out'}", "verification.null_models=0"
    isolate.perform(spec(runs, "attack=none", save, nothing))
    isolate.perform(spec(runs, "attack=prune", save, nothing))
    before = (tmp_path / "out" / "key.safetensors").read_bytes()
    for other, differs in (
        ("seed=1", "seed and secret"),
        ("watermark.bits=64", "watermark"),
        ("model=mlp", "model"),
    ):
        with pytest.raises(ConfigError, match=f"{differs}.* differ; name another one"):
            isolate.perform(spec(runs, "attack=none", save, nothing, other))
    assert (tmp_path / "out" / "key.safetensors").read_bytes() == before
    with pytest.raises(ConfigError, match="set save=FOLDER"):
        isolate.perform(spec(runs, "attack=none", f"save={tmp_path / 'out' / 'key.safetensors'}", nothing))


def test_a_trial_whose_models_are_to_be_kept_runs_again(runs: Path, tmp_path: Path) -> None:
    plain, kept = spec(runs, "attack=prune"), spec(runs, "attack=prune", f"save={tmp_path}")
    assert plain.id == kept.id
    assert [plain.anew, kept.anew, spec(runs, "force=true").anew] == [False, True, True]


@pytest.mark.slow
def test_a_trial_ends_with_the_process_that_waits_for_it(runs: Path, tmp_path: Path) -> None:
    """A worker that is killed leaves no trial behind, which would run beside its second try."""
    written = tmp_path / "pid"
    own_attack(
        tmp_path, "sleeper", f"pathlib.Path({str(written)!r}).write_text(str(os.getpid())); time.sleep(600)"
    )
    words = ["run", "--config-dir", str(tmp_path), *TINY, "verification.null_models=0", "attack=sleeper"]
    parent = subprocess.Popen([sys.executable, "-m", "assay.experiments.cli", *words], cwd=tmp_path)
    wait_until(lambda: written.is_file() and bool(written.read_text()))
    trial = int(written.read_text())
    assert _exists(trial)
    parent.kill()
    parent.wait()
    wait_until(lambda: not _exists(trial))


def wait_until(done: Callable[[], bool]) -> None:
    patience = time.monotonic() + 120
    while not done():
        assert time.monotonic() < patience
        time.sleep(0.1)


class Torn:
    """A pipe whose other end was killed in the middle of an answer, and the process that held it."""

    exitcode = -9

    def recv(self) -> None:
        raise OSError("got end of file during message")

    def join(self) -> None:
        pass


def test_half_an_answer_is_a_death() -> None:
    assert isolate._answer(Torn(), Torn()) == ("died", "SIGKILL")  # type: ignore[arg-type]


@pytest.mark.xdist_group("forkserver")
def test_the_fork_server_hears_no_ctrl_c() -> None:
    """It would print where it was interrupted, five seconds from the start."""
    import signal
    from multiprocessing import forkserver

    isolate.context()
    server = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]
    status = dict(line.split(":", 1) for line in Path(f"/proc/{server}/status").read_text().splitlines())
    assert int(status["SigBlk"], 16) >> (signal.SIGINT - 1) & 1
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


@pytest.mark.slow
def test_a_setting_that_only_the_data_shows_to_be_wrong_is_refused(runs: Path) -> None:
    """The owner's own request: explained, and nothing is stored. A thief who cannot do as the owner did is no bad request."""
    with pytest.raises(ConfigError, match=r"set watermark\.triggers="):
        isolate.perform(spec(runs, "watermark=margin", "watermark.triggers=5000"))
    with pytest.raises(ConfigError, match=r"set watermark\.bits=65280"):
        isolate.perform(spec(runs, "watermark=riga", "watermark.bits=100000"))
    assert not list(Store(runs / "records"))
    record = isolate.perform(spec(runs, "watermark=margin", "attack=overwrite"))
    assert record["status"] == "not_applicable"
    assert "the thief cannot mark as the owner did" in record["reason"]
    narrow = isolate.perform(spec(runs, "watermark=uchida", "watermark.bits=600"))
    assert narrow["status"] == "not_applicable"
    assert "watermark.bits to at most 576" in narrow["reason"]


@pytest.mark.xdist_group("forkserver")
def test_a_trial_that_dies_hard_loses_only_itself(runs: Path, tmp_path: Path) -> None:
    """A user's scheme, brought by --config-dir, kills its process; the trial beside it is unharmed."""
    own_attack(tmp_path, "deadly", "os.kill(os.getpid(), signal.SIGKILL)")
    with composer(str(tmp_path)) as compose:
        specs = [compose([*TINY, f"paths.runs={runs}", f"attack={name}"]) for name in ("deadly", "none")]
    found: dict[str, dict[str, Any]] = {}
    isolate.isolated(specs, 1, lambda s, record: found.__setitem__(s.choices["attack"], record))
    assert found["none"]["status"] == "ok"
    assert found["deadly"]["status"] == "failed"
    assert "SIGKILL" in found["deadly"]["reason"]
    stored = Store(runs / "records").read(specs[0].id)
    assert stored is not None
    assert stored["status"] == "failed"


@pytest.mark.slow
@pytest.mark.xdist_group("forkserver")
def test_a_scheme_that_cannot_be_built_is_recorded_with_its_traceback(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "attack").mkdir()
    (tmp_path / "attack" / "unbuildable.yaml").write_text("_target_: unbuildable_user_module.Attack\n")
    (tmp_path / "unbuildable_user_module.py").write_text("raise RuntimeError('at import')\n")
    with composer(str(tmp_path)) as compose:
        asked = compose([*TINY, f"paths.runs={runs}", "attack=unbuildable"])
    found: list[dict[str, Any]] = []
    isolate.isolated([asked], 1, lambda _, record: found.append(record))
    assert found[0]["status"] == "failed"
    assert found[0]["reason"] == "RuntimeError: at import"
    assert "unbuildable_user_module" in found[0]["traceback"]


def test_a_full_disk_is_reported_and_leaves_nothing(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from assay.leaderboard import store

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "write_atomically", full)
    with pytest.raises(OSError, match="No space left"):
        isolate.perform(spec(runs, "attack=none"))
    assert not list(runs.rglob("*.json"))


def test_a_cache_that_cannot_be_written_ends_the_sweep_instead_of_failing_its_trials(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One node with a folder mounted read-only would take every trial of the queue and fail it at once."""
    from assay.experiments.cache import Cache

    asked = spec(runs, "attack=none")

    def refusing(code: int, place: Path) -> Callable[..., None]:
        def kept(*_: object) -> None:
            raise OSError(code, os.strerror(code), str(place))

        return kept

    cache = Path(asked.config["paths"]["cache"]) / "models/0.safetensors.lock"
    for code, place in ((errno.EROFS, cache), (errno.EACCES, cache)):
        monkeypatch.setattr(Cache, "kept", refusing(code, place))
        with pytest.raises(OSError, match=r"safetensors\.lock"):
            isolate.perform(asked)
    assert not list(runs.rglob("*.json"))
    monkeypatch.setattr(Cache, "kept", refusing(errno.EACCES, Path("/elsewhere")))
    assert isolate.perform(asked)["status"] == "failed", "of what the trial itself opens"


def test_a_file_that_cannot_be_read_is_named(runs: Path) -> None:
    asked = spec(runs, "attack=none")
    data = PermissionError(errno.EACCES, "Permission denied", "/data/train.gz")
    assert isolate._where(data, asked) == "Permission denied at /data/train.gz; nothing is lost"
    full = OSError(errno.ENOSPC, "No space left on device")
    assert f"No space left on device while writing to {runs}" in isolate._where(full, asked)


def test_the_notebook_entry(runs: Path) -> None:
    trial = build("task=digits", "watermark=uchida", "attack=prune", f"paths.runs={runs}", *TINY)
    assert trial.task.name == "digits"
    assert trial.watermark.family == "parameter"
    assert trial.attack.axis == "sparsity"
    assert trial.run()["status"] == "ok"
    with pytest.raises(ConfigError, match="Did you mean uchida"):
        build("watermark=uchda")


def test_identity_leaves_out_what_does_not_change_the_result(runs: Path) -> None:
    one = spec(runs, "attack=prune")
    assert (
        spec(runs / "elsewhere", "attack=prune", "tracking=wandb", "force=true", "trainer.progress=true").id
        == one.id
    )
    assert spec(runs, "attack=prune", "seed=1").id != one.id
    assert spec(runs, "attack=prune", "watermark.bits=128").id != one.id
    assert spec(runs, "attack=prune", "trainer.threads=2").id != one.id


def test_a_model_that_the_task_brings_is_named_by_what_it_is(runs: Path, tmp_path: Path) -> None:
    """Else a model trained anew into the folder would be `already done`."""
    words = ("task=lm_folder", "model=of_task", f"task.model={tmp_path}", "watermark=llm/kgw")
    with composer() as compose:
        asked: Spec = compose([f"paths.runs={runs}", *words])
        before = asked.id
        (tmp_path / "model.safetensors").write_bytes(b"other weights")
        contents.cache_clear()  # of one process, which loads the model once
        assert asked.id != before
        assert compose([f"paths.runs={runs}", *words]).id == asked.id


def test_what_wandb_refuses_is_bad_input(
    runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import wandb

    def nobody(**_: object) -> None:
        raise wandb.errors.UsageError("No API key configured.")

    monkeypatch.setattr(wandb, "init", nobody)
    isolate.stored(spec(runs), {"status": "failed", "reason": "why"})
    assert main(["wandb", "--runs", str(runs), "--mode", "online"]) == 2
    assert "W&B refuses: No API key configured.; offline mode needs neither" in capsys.readouterr().err


@pytest.mark.slow
def test_wandb_run_is_written_offline_and_finished(runs: Path, tmp_path: Path) -> None:
    from assay.experiments.tracking import replay

    records = [isolate.perform(spec(runs, f"attack={name}")) for name in ("prune", "none")]
    assert replay(records, "assay", "offline", runs, "tiny") == 3
    folders = sorted((runs / "wandb").glob("offline-run-*"))
    assert len(folders) == 3, "two trials and their board"
    tables = {
        path.name.partition("_")[0]: json.loads(path.read_text())
        for f in folders
        for path in f.glob("files/media/table/*.table.json")
    }
    assert len(tables["ranking"]["data"]) == 1
    assert "watermark" in tables["ranking"]["columns"]
    assert all(list(folder.glob("run-*.wandb")) for folder in folders)
    assert len(list(runs.glob("wandb/offline-run-*/files/board.html"))) == 1
    assert not (runs / "board.html").exists(), "the page of the store is assay board's"
