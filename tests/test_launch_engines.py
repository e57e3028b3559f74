"""A suite under real engines: a Slurm of one node and a Ray of two raylets, started here. Workers and trials are real and small;
one worker is killed, and one trial kills itself once."""

import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from assay.experiments.cli import main
from assay.experiments.launch.log import Worker
from assay.leaderboard.store import Record, Store

TINY = [
    "task.limit=200",
    "task.recipe.epochs=1",
    "verification.null_models=2",
    "verification.random_keys=20",
]
SUITE = """
common: {task: digits, model: cnn_small, watermark: none, deployment: open, seed: 0}
blocks:
  - {attack: [none, once, prune, quantize]}
"""
ONCE = """
import os, signal
from dataclasses import dataclass
from pathlib import Path
from assay.core.theft import Attack, Surrogate

@dataclass(frozen=True)
class Once(Attack):
    flag: str
    needs = "weights"
    data = "none"
    axis = "none"
    paper = "none"

    def __call__(self, access, adversary):
        if not Path(self.flag).exists():
            Path(self.flag).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        yield Surrogate(0.0, access.weights())
"""
DEADLY = 1  # its number in the suite
TOOLS = ("slurmctld", "slurmd", "munged", "sbatch", "srun", "squeue", "scancel")


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A user's folder: a suite, and an attack that dies hard the first time."""
    folder = tmp_path / "mine"
    for name in ("suite", "attack"):
        (folder / name).mkdir(parents=True)
    (folder / "suite" / "tiny.yaml").write_text(SUITE)
    yaml = f"_target_: once_user_module.Once\nflag: {tmp_path / 'flag'}\n"
    (folder / "attack" / "once.yaml").write_text(yaml)
    (folder / "once_user_module.py").write_text(ONCE)
    return folder


def launched(mine: Path, runs: Path, cache: Path, *words: str) -> list[Record]:
    command = [
        "suite",
        "tiny",
        "--config-dir",
        str(mine),
        *TINY,
        f"paths.runs={runs}",
        f"paths.cache={cache}",
    ]
    code = main([*command, *words])
    records = list(Store(runs / "records"))
    assert code == 0, [record.get("reason") for record in records]
    return records


def logs(runs: Path) -> dict[str, Worker]:
    return {path.stem: Worker.read(path) for path in runs.glob("launch/tiny-*/workers/*.jsonl")}


def when(seen: Callable[[], bool], act: Callable[[], object]) -> threading.Thread:
    """Does it once, as soon as that is seen."""

    def wait() -> None:
        patience = time.monotonic() + 300
        while not seen() and time.monotonic() < patience:
            time.sleep(0.05)
        act()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def has_taken(runs: Path, name: str) -> bool:
    """A trial that does not die by itself: each may die once."""
    found = logs(runs).get(name)
    return found is not None and bool(set(found.running) - {DEADLY})


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


def configuration(folder: Path) -> str:
    """Nothing outside `folder`, nothing that needs systemd, cgroups or accounting."""
    host, (controller, daemon) = socket.gethostname().partition(".")[0], free_ports(2)
    settings = {
        "ClusterName": "assay",
        "SlurmctldHost": f"{host}(127.0.0.1)",
        "SlurmctldPort": controller,
        "SlurmdPort": daemon,
        "SlurmUser": "root",
        "AuthType": "auth/munge",
        "AuthInfo": f"socket={folder}/munge.sock",
        "StateSaveLocation": folder / "state",
        "SlurmdSpoolDir": folder / "spool",
        "SlurmctldPidFile": folder / "slurmctld.pid",
        "SlurmdPidFile": folder / "slurmd.pid",
        "SlurmctldLogFile": folder / "slurmctld.log",
        "SlurmdLogFile": folder / "slurmd.log",
        "ProctrackType": "proctrack/linuxproc",
        "TaskPlugin": "task/none",
        "JobAcctGatherType": "jobacct_gather/none",
        "SelectType": "select/cons_tres",
        "SelectTypeParameters": "CR_CPU",
        "ReturnToService": 2,
        "KillWait": 2,
        "MailProg": "/bin/true",
        "NodeName": f"{host} NodeAddr=127.0.0.1 CPUs={os.cpu_count()} RealMemory=1024 State=UNKNOWN",
        "PartitionName": f"test Nodes={host} Default=YES MaxTime=INFINITE State=UP",
    }
    return "".join(f"{name}={value}\n" for name, value in settings.items())


def until(done: Callable[[], bool], what: str, logs: Path) -> None:
    patience = time.monotonic() + 120
    while not done():
        assert time.monotonic() < patience, f"{what}: {[p.read_text()[-2000:] for p in logs.glob('*.log')]}"
        time.sleep(0.1)


def said(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("PATH", f"{os.environ['PATH']}:/usr/sbin")
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing or os.geteuid() != 0:
        pytest.skip(
            f"a Slurm needs root and {missing or 'nothing else'}; tests/install-system-packages installs it"
        )
    folder = tmp_path / "slurm"
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    (folder / "slurm.conf").write_text(configuration(folder))
    monkeypatch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
    munge = {name: f"{folder}/munge.{name}" for name in ("socket", "pid", "log", "seed")}
    paths = [f"--socket={folder}/munge.sock", f"--key-file={key}", f"--pid-file={munge['pid']}"]
    more = [f"--log-file={munge['log']}", f"--seed-file={munge['seed']}", "--num-threads=2"]
    daemons = [["munged", "--foreground", "--force", *paths, *more], ["slurmctld", "-D"], ["slurmd", "-D"]]
    with ExitStack() as stack:
        output = stack.enter_context((folder / "daemons.log").open("wb"))
        for command in daemons:
            process = subprocess.Popen(command, stdout=output, stderr=output)
            stack.callback(process.wait)
            stack.callback(process.terminate)
            if command[0] == "munged":
                until((folder / "munge.sock").exists, "no munge", folder)
        until(lambda: "idle" in said("sinfo", "--noheader", "--format=%T"), "no idle node", folder)
        yield


@pytest.mark.slow
@pytest.mark.usefixtures("slurm")
def test_a_suite_on_slurm_survives_a_killed_task(mine: Path, runs: Path, shared_cache: Path) -> None:
    def kill() -> None:
        patience = time.monotonic() + 30  # a controller that is busy answers nothing
        while not killed and time.monotonic() < patience:
            tasks = said("squeue", "--noheader", "--array", "--format=%i").split()
            killed.extend(task for task in tasks if task.endswith("_0"))
        subprocess.run(["scancel", "--signal=KILL", "--full", killed[0]], check=True)

    killed: list[str] = []
    thread = when(lambda: has_taken(runs, "0"), kill)
    asked = ["launcher=slurm", "launcher.workers=2", "launcher.memory_gb=0.1"]
    records = launched(mine, runs, shared_cache, *asked)
    thread.join()
    assert [record["status"] for record in records] == ["ok"] * 4
    assert killed, "one task of the array"
    found = logs(runs)
    assert len(found["0"].dead) == 1, "its worker died in a trial"
    assert "2" in found, "and another was submitted in its place"
    lost = found["0"].dead[0][0]
    assert lost in [number for name, worker in found.items() if name != "0" for number, _ in worker.done]
    assert said("squeue", "--noheader").strip() == "", "nothing is left on the cluster"


@pytest.mark.slow
def test_a_suite_on_two_raylets(
    mine: Path, runs: Path, shared_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster_utils = pytest.importorskip("ray.cluster_utils", reason="pip install 'assay[ray]'")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    cluster = cluster_utils.Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
    )
    try:
        cluster.add_node(num_cpus=1)
        asked = ["launcher=ray", "launcher.workers=2", f"launcher.address={cluster.address}"]
        records = launched(mine, runs, shared_cache, *asked)
    finally:
        cluster.shutdown()
    assert [record["status"] for record in records] == ["ok"] * 4, (
        "the one that killed itself was tried again"
    )
    workers = [worker for name, worker in logs(runs).items() if name != "launch"]
    assert len(workers) == 2
    assert all(worker.pid is not None for worker in workers)
    assert sum(len(worker.done) for worker in workers) == 4


@pytest.fixture
def interruptible() -> Iterator[None]:
    """A shell's background jobs start with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.slow
@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_ends_the_workers(mine: Path, runs: Path, shared_cache: Path) -> None:
    def interrupt() -> None:
        os.kill(os.getpid(), signal.SIGINT)

    command = [
        "suite",
        "tiny",
        "--config-dir",
        str(mine),
        *TINY,
        f"paths.runs={runs}",
        f"paths.cache={shared_cache}",
    ]
    thread = when(lambda: has_taken(runs, "0"), interrupt)
    assert main([*command, "launcher=joblib", "launcher.workers=1"]) == 130
    thread.join()
    assert not any(worker.alive for worker in logs(runs).values())
    assert not [path for path in runs.rglob("*") if path.name.startswith(".")], "no half file"
