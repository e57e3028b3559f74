"""What workers of a suite share (queue, logs), how a launch follows them, and what `assay status` says. No model is trained."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from assay.core.errors import ConfigError
from assay.experiments import suite
from assay.experiments.cli import main
from assay.experiments.config import Spec
from assay.experiments.launch import engines as launchengines
from assay.experiments.launch import launcher as launch
from assay.experiments.launch import log as launchlog
from assay.experiments.launch import status as launchstatus
from assay.experiments.launch.engines import Joblib, JoblibCrew, Local, Slurm, needed
from assay.experiments.launch.launcher import Watch, launcher
from assay.experiments.launch.log import Worker, log
from assay.experiments.launch.plan import Plan, packed
from assay.leaderboard.store import Store

ROOT = Path(__file__).resolve().parent.parent


def spec(runs: Path, attack: str, seed: int = 0) -> Spec:
    choices = {
        "task": "digits",
        "model": "cnn",
        "watermark": "uchida",
        "deployment": "open",
        "attack": attack,
    }
    config = {"seed": seed, "attack": {"shares": [0.1, 0.9]}, "trainer": {"progress": False}}
    config |= {"force": False, "save": None}
    return Spec(choices, {**config, "paths": {"runs": str(runs)}}, ["watermark.bits=8"])


def plan_of(runs: Path, count: int = 4, workers: int = 2, suite_name: str = "tiny") -> Plan:
    specs = [spec(runs, ("none", "prune")[i % 2], i // 2) for i in range(count)]
    place = Plan.place(runs, suite_name, [])
    started = "2026-11-26T00:00:00+00:00"
    due = list(range(count))
    plan = Plan(place, suite_name, "joblib", workers, str(runs), None, started, due, packed(specs))
    plan.folder.mkdir(parents=True)
    plan.begin()
    return plan


def stored(runs: Path, trial: Spec, status: str = "ok", seconds: float = 10.0) -> None:
    head = {"id": trial.id, "choices": trial.choices, "seed": trial.config["seed"], "overrides": []}
    facts = {"config": trial.config, "status": status, "reason": None if status == "ok" else "why"}
    more = {"finished": "2026-11-26T01:00:00+00:00", "spent": {"seconds": seconds}}
    measured: dict[str, Any] = {
        "owner": {"unmarked_accuracy": 1.0, "embedding_seconds": 1.0},
        "controls": {},
        "nulls": {"independent_models": [], "random_keys": []},
    }
    evidence = {**dict.fromkeys(("accuracy", "statistic", "log10_p", "fpr"), 0), "detected": False}
    nothing = dict.fromkeys(("trials", "random_keys", "independent_models"))
    cost = dict.fromkeys(("seconds", "queries", "examples", "steps"), 0)
    measured["curve"] = [{**evidence, **nothing, "strength": 0, "agreement": 1, "cost": cost}]
    Store(runs / "records").write({**head, **facts, **more, **measured, "marked": evidence})


def test_a_plan_is_read_as_it_was_written(runs: Path) -> None:
    plan = plan_of(runs)
    again = Plan.read(plan.folder)
    assert again == plan
    for i in range(4):
        assert again.spec(i) == spec(runs, ("none", "prune")[i % 2], i // 2)
        assert again.spec(i).id == plan.trials["ids"][i]
    assert [plan.attack(i) for i in range(4)] == ["none", "prune"] * 2


def test_a_suite_of_a_folder_of_its_own_is_found(runs: Path) -> None:
    plan = plan_of(runs, suite_name="mine/tiny")
    assert plan.runs == runs
    assert [found.name for found in launchstatus.suites(runs, [])] == ["mine/tiny"]


def test_parts_that_repeat_are_written_once(runs: Path) -> None:
    many = packed([spec(runs, "none", seed) for seed in range(100)])
    few = packed([spec(runs, "none", seed) for seed in range(2)])
    assert len(many["values"]) == len(few["values"]) + 98, "a seed more, a value more"


def test_no_trial_is_taken_twice(runs: Path) -> None:
    plan = plan_of(runs, count=40)
    taken: list[int] = []

    def take() -> None:
        mine = Plan.read(plan.folder)
        while (found := mine.take()) is not None:
            taken.append(found[0])

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == list(range(40))
    plan.again(7)
    assert plan.take() == (7, 2), "its second try"
    assert plan.take() is None


def test_a_log_tells_what_runs_and_survives_a_hard_kill(tmp_path: Path) -> None:
    path = tmp_path / "0.jsonl"
    code = (
        "import os, sys, pathlib; from assay.experiments.launch.log import log\n"
        "with log(pathlib.Path(sys.argv[1])) as told:\n"
        "    told.take(3); told.done(3, {'status': 'ok', 'spent': {'seconds': 1.5}}); told.take(4)\n"
        '    told.file.write(\'{"done": 4, "sta\'); told.file.flush(); os.kill(os.getpid(), 9)'
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == -9
    worker = Worker.read(path)
    assert not worker.alive, "its process is gone, although the log is fresh"
    assert [(number, found["status"], found["seconds"]) for number, found in worker.done] == [(3, "ok", 1.5)]
    assert [number for number, _ in worker.dead] == [4]
    with log(path) as told:  # a scheduler starts it anew, behind the half line
        told.take(5)
        again = Worker.read(path)
        assert again.alive
        assert [number for number, _ in again.dead] == [4]
        assert list(again.running) == [5]
    assert not Worker.read(path).alive, "it ended orderly"


def test_a_worker_of_another_machine_lives_as_long_as_its_log_is_fresh(tmp_path: Path) -> None:
    path = tmp_path / "0.jsonl"
    path.write_text('{"begin": 1, "place": "elsewhere"}\n{"take": 2, "at": 0}\n')
    assert Worker.read(path).alive
    os.utime(path, (0, time.time() - launchlog.STALE - 1))
    assert not Worker.read(path).alive
    assert [number for number, _ in Worker.read(path).dead] == [2]


def test_a_killed_worker_is_dead_before_its_parent_asks_after_it(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    (tmp_path / "0.jsonl").write_text(json.dumps({"begin": process.pid, "place": launchlog.here()}) + "\n")
    assert Worker.read(tmp_path / "0.jsonl").alive
    process.kill()
    patience = time.monotonic() + 30
    while Worker.read(tmp_path / "0.jsonl").alive and time.monotonic() < patience:
        time.sleep(0.01)
    assert not Worker.read(tmp_path / "0.jsonl").alive
    process.wait()


def test_a_living_log_is_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launchlog, "BEAT", 0.05)
    with log(tmp_path / "0.jsonl"):
        os.utime(tmp_path / "0.jsonl", (0, 0))
        patience = time.monotonic() + 30
        while Worker.read(tmp_path / "0.jsonl").beat == 0 and time.monotonic() < patience:
            time.sleep(0.01)
        assert Worker.read(tmp_path / "0.jsonl").alive


@dataclass
class Scripted:
    """A crew whose workers are lines of a script: each takes a trial, and answers or dies as the script says."""

    plan: Plan
    script: list[str]
    started: int = 0
    told: list[int] = field(default_factory=list)
    cancelled: bool = False

    def start(self, workers: Sequence[int]) -> None:
        for worker in workers:
            self.started += 1
            while self.script and (taken := self.plan.take()) is not None:
                if self.play(worker, taken[0], self.script.pop(0)) == "die":
                    break

    def play(self, worker: int, number: int, act: str) -> str:
        lines: list[dict[str, Any]] = [
            {"begin": 1, "place": "elsewhere"},
            {"take": number, "at": self.started},
        ]
        if act == "die":
            path = self.plan.path(worker)
            self.append(path, lines)
            os.utime(path, (0, 0))
            return act
        self.append(
            self.plan.path(worker), [*lines, {"done": number, "status": act, "seconds": 1.0}, {"end": True}]
        )
        return act

    def append(self, path: Path, lines: list[dict[str, Any]]) -> None:
        with path.open("a") as file:
            file.write("".join(json.dumps(line) + "\n" for line in lines))

    def alive(self) -> bool:
        return False

    def cancel(self) -> None:
        self.cancelled = True


def watched(plan: Plan, *script: str) -> tuple[Scripted, dict[str, str]]:
    crew, found = Scripted(plan, list(script)), dict[str, str]()
    with log(plan.path("launch")) as told:
        Watch(plan, crew, told, lambda s, record: found.__setitem__(s.id, record["status"])).run()
    return crew, found


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "SILENT", 0.1)


@pytest.mark.usefixtures("impatient")
def test_a_trial_whose_worker_dies_is_tried_once_more(runs: Path) -> None:
    plan = plan_of(runs, workers=1)
    crew, found = watched(plan, "ok", "die", "blocked", "ok", "ok")
    assert sorted(found.values()) == ["blocked", "ok", "ok", "ok"]
    assert crew.started == 2, "a worker in the place of the dead one"


@pytest.mark.usefixtures("impatient")
def test_a_trial_whose_workers_die_twice_has_failed(runs: Path) -> None:
    plan = plan_of(runs, count=2, workers=1)
    _, found = watched(plan, "die", "die", "ok")
    assert sorted(found.values()) == ["failed", "ok"]
    (record,) = (r for r in Store(runs / "records") if r["status"] == "failed")
    assert "died 2 times (with its worker on elsewhere, with its worker on elsewhere)" in record["reason"]
    state = launchstatus.suite(plan, {})
    assert state.done == {"failed": 1, "ok": 1}
    assert state.left == []


def test_a_worker_that_died_is_replaced_after_the_second_try_too(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a launch loses one for each trial that kills its workers: what revives it waits until none is left."""
    monkeypatch.setattr(Watch, "revive", lambda *_: pytest.fail("no worker was left"))
    monkeypatch.setattr(launch, "SILENT", 0.5)
    plan = plan_of(runs, count=3, workers=1)
    crew, found = watched(plan, "die", "die", "ok", "ok")
    assert sorted(found.values()) == ["failed", "ok", "ok"]
    assert crew.started == 3


@pytest.mark.usefixtures("impatient")
def test_a_trial_whose_worker_dies_after_its_record_was_written_is_done(runs: Path) -> None:
    """Told to W&B, say, which takes a while; it is not run again, and a death is no reason to write over it."""
    plan = plan_of(runs, count=1, workers=1)
    stored(runs, plan.spec(0))
    crew, found = watched(plan, "die", "die")
    assert list(found.values()) == ["ok"]
    assert crew.script == ["die"]
    assert [record["status"] for record in Store(runs / "records")] == ["ok"]


@pytest.mark.usefixtures("impatient")
def test_the_record_of_an_earlier_launch_is_no_answer(runs: Path) -> None:
    plan = replace(plan_of(runs, count=1, workers=1), started="2026-11-26T02:00:00+00:00")
    stored(runs, plan.spec(0))
    _, found = watched(plan, "die", "blocked")
    assert list(found.values()) == ["blocked"]


def test_nobody_is_dead_for_a_launch_that_was_held_up(runs: Path) -> None:
    """A file system that was away, a suspended machine: the workers' signs of life are old because its own are."""
    plan = plan_of(runs, count=1, workers=1)
    crew = Scripted(plan, ["die"])
    with log(plan.path("launch")) as told:
        watch = Watch(plan, crew, told, lambda *_: None, looked=time.time() - launchlog.STALE)
        watch.start(1)
        watch.look(plan.seen())
        assert watch.deaths == {}
        watch.wary = 0.0
        watch.look(plan.seen())
        assert watch.deaths == {0: ["with its worker on elsewhere"]}


@pytest.mark.usefixtures("impatient")
def test_workers_that_end_before_their_work_are_replaced(runs: Path) -> None:
    plan = plan_of(runs, workers=1)
    crew = Scripted(plan, ["ok", "ok"])  # then it leaves, as a worker does whose time is over
    with log(plan.path("launch")) as told:
        watch = Watch(plan, crew, told, lambda *_: crew.script.extend(["ok"] * (crew.started == 1)))
        watch.run()
    assert crew.started == 2
    assert watch.answered == {0, 1, 2, 3}


@pytest.mark.usefixtures("impatient")
def test_workers_that_never_do_anything_are_reported(runs: Path) -> None:
    plan = plan_of(runs)
    plan.expect([0])
    plan.path(0).with_suffix(".out").write_text("Traceback\nModuleNotFoundError: No module named 'assay'\n")
    with pytest.raises(ConfigError, match="ended before their work: ModuleNotFoundError"):
        watched(plan)


def test_a_refused_setting_ends_the_launch(runs: Path) -> None:
    plan = plan_of(runs)
    plan.expect([0])
    plan.path(0).write_text('{"begin": 1, "place": "elsewhere"}\n{"refused": "set watermark.bits=8"}\n')
    with pytest.raises(ConfigError, match=r"set watermark\.bits=8"):
        watched(plan)


def test_launchers_are_options_with_settings(tmp_path: Path) -> None:
    assert launcher(["task=digits"]) == (Local("local", None), ["task=digits"])
    found, rest = launcher(["launcher=slurm", "seed=1", "launcher.options.account=me", "launcher.workers=9"])
    assert isinstance(found, Slurm)
    assert (found.workers, found.options, rest) == (9, {"account": "me"}, ["seed=1"])
    (tmp_path / "launcher").mkdir()
    (tmp_path / "launcher" / "ours.yaml").write_text("name: slurm\npartition: gpu\ngpus: 1\n")
    ours, _ = launcher(["launcher=ours"], [tmp_path])
    assert isinstance(ours, Slurm)
    assert (ours.partition, ours.gpus, ours.minutes) == ("gpu", 1, 1440)
    parameters = launchengines.SlurmCrew(
        plan_of(tmp_path / "runs"), replace(ours, options={"account": "me"})
    ).parameters()
    assert parameters["gpus_per_node"] == 1
    assert parameters["additional_parameters"] == {"account": "me"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["launcher=slrum"], "Did you mean slurm"),
        (["launcher=slurm", "launcher.worker=3"], "Did you mean workers"),
        (["launcher.workers=0"], "greater than or equal to 1"),
        (["launcher=ray", "launcher.cpus=none"], r"set launcher\.cpus="),
        (["launcher=broken"], "expected `name` to be one of local, joblib, slurm, ray"),
    ],
)
def test_bad_launchers_are_explained(words: list[str], message: str, tmp_path: Path) -> None:
    (tmp_path / "launcher").mkdir()
    (tmp_path / "launcher" / "broken.yaml").write_text("name: pbs\n")
    with pytest.raises(ConfigError, match=message):
        launcher(words, [tmp_path])


def test_a_sweep_has_launchers_of_its_own(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "launcher=slurm"]) == 2
    assert "hydra/launcher=joblib" in capsys.readouterr().err


def test_a_missing_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"launcher=ray needs ray: pip install 'assay\[ray\]'"):
        needed("ray", "ray")


def test_a_machine_without_slurm_is_told_so(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    asked, _ = launcher(["launcher=slurm"])
    assert isinstance(asked, Slurm)
    with pytest.raises(ConfigError, match="expected sbatch and srun in PATH"):
        asked.crew(plan_of(runs)).start([0])


def test_one_launch_of_a_suite_at_a_time(runs: Path) -> None:
    plan = plan_of(runs)
    with suite.alone(plan), pytest.raises(ConfigError, match="runs already"), suite.alone(plan):
        pass
    with suite.alone(plan):
        pass
    plan.expect([0])
    plan.path(0).write_text('{"begin": 1, "place": "elsewhere"}\n')
    with pytest.raises(ConfigError, match=r"1 workers of an earlier launch .* elsewhere"), suite.alone(plan):
        pass


def test_status_shows_every_state(runs: Path) -> None:
    plan = plan_of(runs, count=6)
    for number, state in enumerate(("ok", "blocked")):
        stored(runs, plan.spec(number), state)
    with log(plan.path(0)) as told:
        for number in (0, 1):
            told.take(number)
            told.done(number, {"status": ("ok", "blocked")[number]})
        told.take(2)
        told.done(2, {"status": "failed", "reason": "RuntimeError"})
        told.take(3)
        (found,) = launchstatus.suites(runs, list(Store(runs / "records")))
        assert found.done == {"ok": 1, "blocked": 1, "failed": 1}
        assert [one.id for one in found.running] == [plan.trials["ids"][3]]
        assert found.left == plan.trials["ids"][4:]
        text = "\n".join(launchstatus.lines(found))
    assert "2 of 6 done (1 blocked, 1 ok), 1 failed, 1 running, 2 left" in text
    assert plan.trials["ids"][3] in text
    assert "unknown until 3 trials are done" in text
    after = "\n".join(launchstatus.lines(launchstatus.suite(plan, {})))
    assert "0 running, 3 left" in after
    assert "no worker is alive" in after


def test_trials_that_share_a_reason_share_a_line() -> None:
    reasons = ["only here", "often", "often", "often"]
    records = [
        {"id": f"t{i}", "status": "not_applicable", "reason": reason} for i, reason in enumerate(reasons)
    ]
    assert list(launchstatus.told(records, [])) == [
        "  not_applicable  t1 and 2 more: often",
        "  not_applicable  t0: only here",
    ]


def test_the_status_command_shows_suites(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = plan_of(runs)
    stored(runs, plan.spec(0), "blocked")
    with log(plan.path(0)) as told:
        told.take(1)
        assert main(["status", "--runs", str(runs)]) == 0
        text = capsys.readouterr().out
        assert main(["status", "--runs", str(runs), "--json"]) == 0
    assert "1 trials in" in text
    assert f"blocked  {plan.trials['ids'][0]}: why" in text
    assert "suite tiny, launcher=joblib: 1 of 4 done (1 blocked), 0 failed, 1 running, 2 left" in text
    states = {found["id"]: found["status"] for found in json.loads(capsys.readouterr().out)}
    ids = plan.trials["ids"]
    assert states == {ids[0]: "blocked", ids[1]: "running", ids[2]: "left", ids[3]: "left"}


def test_time_to_go_is_a_range_of_the_means() -> None:
    took = [("slow", s) for s in (90.0, 100.0, 110.0)] + [("fast", s) for s in (1.0, 1.0, 1.0)]
    low, high = launchstatus.to_go({"slow": 10, "fast": 10}, took, workers=2) or (0.0, 0.0)
    assert low < (10 * 100 + 10 * 1) / 2 < high
    assert high - low < 0.2 * low
    assert launchstatus.to_go({"slow": 1}, took, workers=100) == pytest.approx((0.87, 100), abs=0.2)
    assert launchstatus.to_go({}, took, 2) == (0.0, 0.0)
    assert launchstatus.to_go({"slow": 1}, took[:2], 2) is None
    pooled = launchstatus.to_go({"new": 10}, took, workers=1)
    assert pooled is not None
    assert pooled[0] < 10 * 50.5 < pooled[1]


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [
        (95.0, 131.0, "1 to 3 min"),
        (0.0, 20.0, "up to 20 s"),
        (5000.0, 7300.0, "1 to 3 h"),
        (61.0, 119.0, "60 to 200 s"),
    ],
)
def test_a_range_is_rounded_outward(low: float, high: float, text: str) -> None:
    assert launchstatus.between(low, high) == text


def test_joblib_runs_and_cancels(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """loky alone: the calls are replaced by ones that sleep."""
    monkeypatch.setattr(launchengines, "call", sleep)
    crew = Joblib("joblib", 2).crew(plan_of(runs))
    assert isinstance(crew, JoblibCrew)
    crew.start([0, 1])
    assert crew.alive()
    crew.cancel()
    assert not crew.alive()


def sleep(folder: str, number: int) -> int:
    time.sleep(600)
    return number


def test_a_finished_suite_does_nothing(runs: Path) -> None:
    specs = [spec(runs, "none", seed) for seed in range(3)]
    for one in specs:
        stored(runs, one)
    records = suite.run_suite("tiny", specs, Local("local", 1), None, [], Console(quiet=True))
    assert [record["id"] for record in records] == [one.id for one in specs]
    assert not (runs / "launch").exists()


def test_an_edited_record_is_not_run_over(runs: Path) -> None:
    one = spec(runs, "none")
    stored(runs, one)
    path = Store(runs / "records").path(one.id)
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 1', 1))
    with pytest.raises(ConfigError, match="was edited"):
        suite.finished(Store(runs / "records"), {one.id})
    assert suite.finished(Store(runs / "records"), {"another"}) == set()
