"""The command line as a person uses it: help, lists, bad input, sweeps, resuming, files."""

import json
import os
import pickle
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from own_attack import own_attack
from safetensors.torch import load_file, save_file

from assay.experiments.cli import main
from assay.leaderboard.store import Store
from assay.watermarks.trigger import TriggerKey
from assay.zoo.files import load_key, load_tensors, save_key

TINY = [
    "task.limit=200",
    "task.recipe.epochs=1",
    "verification.null_models=2",
    "verification.random_keys=20",
    "trainer.progress=false",
]


FORKSERVER = pytest.mark.xdist_group("forkserver")
"""One worker starts the server that trials are forked from, which takes 12 s."""


def assay(*arguments: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own, as from a shell."""
    command = [sys.executable, "-m", "assay.experiments.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


@pytest.mark.parametrize(
    "arguments", [["--help"], ["list"], ["status"], ["board", "--help"], ["run", "--help"]]
)
def test_light_commands_do_not_import_torch(arguments: list[str], runs: Path) -> None:
    code = (
        "import sys; from assay.experiments.cli import main\n"
        f"try: main({arguments!r})\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'pytorch_lightning', 'wandb', 'transformers'} & set(sys.modules); assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_list_names_everything_with_its_declarations(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {"none", "uchida", "adi", "adi_derived", "akh"} <= set(found["watermark"])
    assert found["watermark"]["uchida"]["derivation"] == "derived"
    assert found["attack"]["extract"]["needs"] == "labels"
    assert {"digits", "fashion_mnist", "cifar10", "cifar100", "lm_tiny"} <= set(found["task"])
    assert main(["list"]) == 0
    assert "uchida_direct" in capsys.readouterr().out


@FORKSERVER
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["watermark=uchda"], "Did you mean uchida"),
        (["attak=prune"], "Did you mean attack"),
        (["watermark.lyer=1"], "Did you mean watermark.layer"),
        (["watermark=neuralmark", "watermark.bits=64"], "watermark=uchida"),
        (["+typo=1"], "there is no setting 'typo'"),
        (["+task.recipe.epoch=1"], "Did you mean epochs"),
        (["watermark.bits=-3"], "greater than or equal to 1, got -3"),
        (["task.recipe.lr=abc"], "task.recipe.lr"),
        (["task.recipe.epochs=0"], "expected epochs >= 1"),
        (["verification.fpr=2"], "verification.fpr"),
        (["seed=-1"], "seed"),
        (["seed=1000000"], "less than 500000"),
        (["deployment.grants=[wieghts]"], "'weights', 'scores', 'labels' or 'texts'"),
        (["attack=finetune", "adversary.data=0"], "adversary.data=1.0"),
        (["attack=extract", "adversary.queries=1"], "adversary.queries"),
        (["attack=extract", "adversary.data=0.02"], "leaves 1; set adversary.data=1.0"),
        (["attack=finetune", "adversary=no_data"], "adversary.distribution=owner"),
        (["nonsense"], "nonsense"),
        (["watermark=null"], "must be a string"),
        (["--resolve"], "in conjunction with --cfg"),
        (["-m", "--cfg", "job"], "Only one of"),
        (["--config-dir", "/nowhere/at/all"], "expected a folder"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_explained_and_exits_2(
    arguments: list[str], expected: str, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", *TINY, *arguments]) == 2
    said = capsys.readouterr()
    assert expected in said.err
    assert "Traceback" not in said.err + said.out
    assert len(said.err.splitlines()) <= 11
    assert not list(runs.rglob("*.json"))


@pytest.mark.skipif(
    torch.cuda.is_available(), reason="asks for a device that is not there; this machine has one"
)
def test_a_missing_device_is_refused(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "trainer=gpu"]) == 2
    assert "use trainer=cpu" in capsys.readouterr().err


def test_unknown_suite_and_stray_arguments(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["suite", "quik"]) == 2
    assert "Did you mean quick" in capsys.readouterr().err
    assert main(["suite", "quick", "--jobs", "0"]) == 2
    assert "at least 1, got 0" in capsys.readouterr().err
    assert main(["status", "seed=1"]) == 2
    assert main(["board"]) == 2
    assert "found none" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("file", "content", "arguments", "expected"),
    [
        ("watermark/mine", ": [", ["list"], "mine.yaml: expected yaml"),
        ("watermark/mine", ": [", ["run", "watermark=mine"], "mine.yaml"),
        ("watermark/mine", "[1]", ["list"], "mine.yaml: expected settings"),
        ("watermark/mine", "_target_: nowhere.at.All", ["list"], "nowhere.at.All"),
        ("watermark/mine", "_target_: broken.Mine", ["list"], "broken.Mine"),
        ("suite/mine", "common: [", ["suite", "mine"], "mine.yaml: expected yaml"),
        (
            "suite/mine",
            "{common: {task: digits}, blocks: [{seed: {a: 1}}]}",
            ["suite", "mine"],
            "seed: a mapping",
        ),
        ("launcher/mine", "name: [", ["suite", "quick", "launcher=mine"], "mine.yaml: expected yaml"),
        ("launcher/mine", "name: local", ["suite", "quick", "launcher=mine", "launcher.workers={a"], "'}'"),
        (
            "launcher/mine",
            "name: local",
            ["suite", "quick", "launcher=mine2"],
            "There are: joblib, local, mine, ray",
        ),
    ],
)
def test_a_folder_of_ones_own_with_faults_is_explained(
    file: str, content: str, arguments: list[str], expected: str,
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    path = tmp_path / f"{file}.yaml"
    path.parent.mkdir()
    path.write_text(content)
    (tmp_path / "broken.py").write_text("class Mine(:\n")
    assert main([*arguments, "--config-dir", str(tmp_path)]) == 2
    assert expected in capsys.readouterr().err


def test_a_sweep_over_nothing_is_refused(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "-m", "attack=glob(fintune*)"]) == 2
    assert "holds no trial" in capsys.readouterr().err
    assert not list(runs.rglob("*.json"))


def test_the_catalogue_is_the_same_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["list", "--markdown"]) == 0
    assert "## What survives what" in capsys.readouterr().out


def test_the_launch_of_another_version_is_explained(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = runs / "launch" / "quick-1"
    folder.mkdir(parents=True)
    for content in ('{"suite": "quick"}', '{"suite": ', '{"rows": 3}'):
        (folder / "plan.json").write_text(content)
        assert main(["status"]) == 2
        assert "remove its folder" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["", "[]", "common: 3", "common: {seed: 0}", "{common: {}, blocks: []}"])
def test_a_suite_of_another_shape_is_explained(
    content: str, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "suite").mkdir()
    (tmp_path / "suite" / "mine.yaml").write_text(content)
    assert main(["suite", "mine", "--config-dir", str(tmp_path)]) == 2
    assert "blocks" in capsys.readouterr().err


@pytest.mark.slow
@FORKSERVER
def test_a_sweep_skips_what_is_done_and_shows_it(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["run", *TINY, "watermark=uchida"]
    assert main([*command, "attack=prune"]) == 0
    assert "256" in capsys.readouterr().out
    assert main([*command, "-m", "attack=prune,none,quantize"]) == 0
    out = capsys.readouterr().out
    assert out.count("already done") == 1
    assert len(list(Store(runs / "records"))) == 3
    assert main([*command, "attack=prune", "force=true"]) == 0
    assert "already done" not in capsys.readouterr().out
    assert main(["status", "--json"]) == 0
    assert [record["status"] for record in json.loads(capsys.readouterr().out)] == ["ok"] * 3
    assert main(["board"]) == 0
    assert (runs / "board.html").stat().st_size > 10_000
    assert not {p.name for p in runs.iterdir()} - {"records", "board.html", "multirun.yaml"}


@pytest.mark.slow
def test_a_joblib_sweep_in_the_shell(runs: Path) -> None:
    done = assay("run", *TINY, "-m", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "attack=none,prune")
    assert done.returncode == 0, done.stderr
    assert {record["status"] for record in Store(runs / "records")} == {"ok"}


@pytest.mark.slow
def test_wandb_cannot_harm_a_record(runs: Path) -> None:
    """Asked for in a mode that W&B refuses: the trial is done and stored all the same, and the user is told."""
    done = assay("run", *TINY, "attack=none", "tracking=wandb", "tracking.mode=nonsense")
    assert done.returncode == 0, done.stderr
    assert [record["status"] for record in Store(runs / "records")] == ["ok"]
    assert "its record is stored" in done.stderr


@pytest.mark.slow
@FORKSERVER
def test_a_failing_trial_exits_1_and_the_others_go_on(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own_attack(tmp_path, "broken", "raise RuntimeError('no luck')")
    assert main(["run", "--config-dir", str(tmp_path), *TINY, "-m", "attack=broken,none"]) == 1
    statuses = {record["choices"]["attack"]: record["status"] for record in Store(runs / "records")}
    assert statuses == {"broken": "failed", "none": "ok"}
    assert "RuntimeError: no luck" in capsys.readouterr().out


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    runs = f"paths.runs={folder / 'runs'}"
    assert (
        main(
            [
                "run",
                *TINY,
                "task.recipe.epochs=8",
                "watermark=adi_derived",
                "attack=none",
                f"save={folder}",
                runs,
            ]
        )
        == 0
    )
    return folder


def verify(model: Path, key: Path, runs: Path, *more: str) -> int:
    return main(["verify", str(model), str(key), *more, "verification.null_models=2", f"paths.runs={runs}"])


@pytest.mark.slow
@FORKSERVER
def test_verify_finds_the_owner_and_not_the_unmarked(
    exported: Path, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = exported / "key.safetensors"
    capsys.readouterr()
    assert verify(exported / "marked.safetensors", key, runs, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["detected"] is True
    assert found["log10_p"] < -10
    assert found["random_keys"]["count"] == 200
    assert verify(exported / "unmarked.safetensors", key, runs) == 0
    out = capsys.readouterr().out
    assert "not distinguishable from an independent model" in out
    assert "independent models score as high" in out


def header_of(path: Path) -> dict[str, Any]:
    header = load_tensors(path, "key")[1]
    return {name: value for name, value in header.items() if name not in ("key_type", "plain", "secret")}


def damaged_headers(header: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Headers that name code, or Hydra's grammar, where a setting's name or value should be."""

    def with_config(**more: Any) -> dict[str, Any]:
        scheme = header["watermark"]
        return {**header, "watermark": {**scheme, "config": {**scheme["config"], **more}}}

    return {
        "no scheme": {name: value for name, value in header.items() if name != "watermark"},
        "names code": with_config(**{"student._target_": "antigravity"}),
        "interpolates": with_config(triggers="${oc.env:HOME}"),
    }


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


@pytest.mark.slow
@FORKSERVER
def test_verify_refuses_bad_files(
    exported: Path, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, key = exported / "marked.safetensors", exported / "key.safetensors"
    tensors = load_file(model)
    cases: dict[str, tuple[Path, Path, list[str], str]] = {}
    (tmp_path / "cut").write_bytes(model.read_bytes()[:5000])
    cases["truncated"] = (tmp_path / "cut", key, [], "truncated")
    (tmp_path / "pickle").write_bytes(pickle.dumps(Evil(tmp_path / "executed")))
    cases["pickle"] = (tmp_path / "pickle", key, [], "pickle")
    save_file(tensors, tmp_path / "bare")
    cases["no header"] = (tmp_path / "bare", key, [], "task=")
    save_file(
        {**tensors, "net.head.bias": torch.full_like(tensors["net.head.bias"], torch.nan)}, tmp_path / "nan"
    )
    cases["nan"] = (tmp_path / "nan", key, ["task=digits", "model=cnn_small"], "NaN")
    cases["another network"] = (model, key, ["model=mlp"], "does not fit")
    cases["another scheme"] = (model, key, ["watermark=uchida"], "TriggerKey")
    cases["no key"] = (model, model, [], "key file")
    forged = load_key(key, TriggerKey)
    save_key(tmp_path / "forged", replace(forged, labels_T=(forged.labels_T + 1) % 10), header_of(key))
    cases["chosen contents"] = (model, tmp_path / "forged", [], "not derived from its secret")
    cases["another length"] = (model, key, ["watermark.triggers=50"], "not derived from its secret")
    save_key(
        tmp_path / "wide",
        replace(forged, images_T=torch.zeros(100, 1, 9, 9, dtype=torch.uint8)),
        header_of(key),
    )
    cases["another shape"] = (model, tmp_path / "wide", [], "shape (1, 9, 9)")
    chosen = ["watermark=adi"]
    cases["another length, chosen"] = (
        model,
        key,
        [*chosen, "watermark.triggers=50"],
        "length 50, got [50, 100]",
    )
    for name, header in damaged_headers(header_of(key)).items():
        save_key(tmp_path / name, forged, header)
        cases[name] = (
            model,
            tmp_path / name,
            [],
            {"no scheme": "watermark=..."}.get(name, "which is no name"),
        )
    cases["missing"] = (tmp_path / "nothing", key, [], "found nothing")
    for name, (suspect, owner, more, expected) in cases.items():
        assert verify(suspect, owner, runs, *more) == 2, name
        assert expected in capsys.readouterr().err, name
    assert not (tmp_path / "executed").exists()


SUITE = """
common: {task: digits, watermark: [uchida, adi_derived], seed: 0}
blocks:
  - {attack: [none, prune, finetune], deployment: open}
  - {attack: extract, deployment: api_label}
"""


@pytest.mark.slow
@FORKSERVER
def test_a_killed_sweep_resumes_to_the_same_records(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """SIGKILL at random moments, then the same command again; then one uninterrupted run with a cache of its own."""
    mine = tmp_path / "mine" / "suite"
    mine.mkdir(parents=True)
    (mine / "small.yaml").write_text(SUITE)
    command = ["suite", "small", "--config-dir", str(mine.parent), "--jobs", "2", *TINY]
    monkeypatch.setenv("ASSAY_CACHE", str(tmp_path / "cache1"))
    seconds = random.Random(0)
    stopped = 0
    for _ in range(2):
        process = subprocess.Popen(
            [sys.executable, "-m", "assay.experiments.cli", *command],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + 120
        goal = len(list(runs.rglob("records/*.json"))) + 1
        while (
            process.poll() is None
            and len(list(runs.rglob("records/*.json"))) < goal
            and time.monotonic() < deadline
        ):
            time.sleep(0.05)
        time.sleep(seconds.uniform(0, 1.5))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            stopped += 1
        process.wait()
        for path in runs.rglob("records/*.json"):
            json.loads(path.read_text())  # whole, or not there
    assert stopped >= 1  # a fast machine may finish before the second kill
    capsys.readouterr()
    assert main(command) == 0
    assert "are done already" in capsys.readouterr().out
    monkeypatch.setenv("ASSAY_CACHE", str(tmp_path / "cache2"))
    assert main([*command, f"paths.runs={tmp_path / 'whole'}"]) == 0
    one, other = (
        {r["id"]: timeless(r) for r in Store(folder / "records")} for folder in (runs, tmp_path / "whole")
    )
    assert len(one) == 8
    assert one == other


def timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            k: timeless(v)
            for k, v in value.items()
            if not k.endswith("seconds") and k not in ("finished", "commit")
        }
    return [timeless(item) for item in value] if isinstance(value, list) else value


SEEDS = 12
"""More than are done before the interrupt; Hydra composes all of them first, 0.2 s each."""


@pytest.mark.slow
def test_ctrl_c_leaves_no_partial_record(runs: Path, tmp_path: Path) -> None:
    # A background job ignores SIGINT and its children inherit that; this one hears it, however the tests were started.
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from assay.experiments.cli import main; sys.exit(main())"
    )
    command = [sys.executable, "-c", code, "run", *TINY, "-m", f"seed=range(0,{SEEDS})", "attack=none"]
    process = subprocess.Popen(
        command,
        env={**os.environ, "ASSAY_CACHE": str(tmp_path / "cache")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while not list(runs.rglob("records/*.json")) and time.monotonic() < deadline:
        time.sleep(0.05)
    while (
        process.poll() is None and time.monotonic() < deadline
    ):  # Python ignores one that falls into a callback of an import
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(3)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert "the same command resumes" in error
    records = list(Store(runs / "records"))
    assert 1 <= len(records) < SEEDS
    assert {record["status"] for record in records} == {"ok"}
    assert not [path for path in runs.rglob("*") if path.name.startswith(".")]
