"""The engines that start workers: joblib on this machine, Slurm, Ray. Each only starts, counts and ends them; the rest is files."""

import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Protocol

from annotated_types import Ge, Gt

from ...core.errors import ConfigError
from .plan import Plan
from .work import call

Count = Annotated[int, Ge(1)]
ASK, LEAVE = 3.0, 60.0
"""Seconds between two questions to a scheduler, and those that cancelled workers have to go."""


class Crew(Protocol):
    """Workers under one engine."""

    def start(self, workers: Sequence[int]) -> None: ...

    def alive(self) -> bool:
        """Whether any worker runs or waits for its turn."""
        ...

    def cancel(self) -> None:
        """End all; returns when none is left."""
        ...


@dataclass(frozen=True)
class Local:
    """conf/launcher/local.yaml: trials are children of this process. workers: null is one per core."""

    name: Literal["local"]
    workers: Count | None


@dataclass(frozen=True)
class Joblib:
    name: Literal["joblib"]
    workers: Count | None

    def crew(self, plan: Plan) -> Crew:
        return JoblibCrew(plan)


@dataclass(frozen=True)
class Slurm:
    """What a worker asks for; minutes: its time limit; options: other words of sbatch (account, constraint, ...)."""

    name: Literal["slurm"]
    workers: Count
    partition: str | None
    minutes: Count
    cpus: Count
    memory_gb: Annotated[float, Gt(0)]
    gpus: Annotated[int, Ge(0)]
    options: dict[str, Any]

    def crew(self, plan: Plan) -> Crew:
        return SlurmCrew(plan, self)


@dataclass(frozen=True)
class Ray:
    """What a worker asks for. address: of a cluster (auto: the one this machine is of), null: a Ray of its own on this machine."""

    name: Literal["ray"]
    workers: Count
    address: str | None
    cpus: Annotated[float, Gt(0)]
    gpus: Annotated[float, Ge(0)]

    def crew(self, plan: Plan) -> Crew:
        return RayCrew(plan, self)


Remote = Joblib | Slurm | Ray


@dataclass
class JoblibCrew:
    """loky, joblib's engine: a pool per start, for a pool that loses a process to a signal is lost."""

    plan: Plan
    pools: list[Any] = field(default_factory=list)
    calls: list[Any] = field(default_factory=list)

    def start(self, workers: Sequence[int]) -> None:
        from joblib.externals.loky import ProcessPoolExecutor

        pool = ProcessPoolExecutor(len(workers))
        self.pools.append(pool)
        self.calls += [pool.submit(call, str(self.plan.folder), number) for number in workers]

    def alive(self) -> bool:
        return any(not found.done() for found in self.calls)

    def cancel(self) -> None:
        patience = time.monotonic() + ASK  # loky fails, in a thread, on calls that it has not handed out yet
        while (
            any(not found.running() and not found.done() for found in self.calls)
            and time.monotonic() < patience
        ):
            time.sleep(0.01)
        for pool in self.pools:
            pool.shutdown(wait=True, kill_workers=True)


@dataclass
class SlurmCrew:
    """A job array per start, by submitit. Who lives is asked of squeue: submitit asks sacct, which many clusters do not have, and
    waits for ever for a task that was killed."""

    plan: Plan
    settings: Slurm
    jobs: list[str] = field(default_factory=list)
    known: tuple[float, bool] = (0.0, False)
    """When squeue was asked last, and its answer."""

    def start(self, workers: Sequence[int]) -> None:
        submitit = needed("submitit", "slurm")
        if shutil.which("sbatch") is None or shutil.which("srun") is None:
            raise ConfigError(
                "launcher=slurm: expected sbatch and srun in PATH, found none: is this a node of the cluster?"
            )
        executor = submitit.SlurmExecutor(self.plan.folder / "slurm")
        executor.update_parameters(**self.parameters())
        try:
            with executor.batch():
                found = [executor.submit(call, str(self.plan.folder), number) for number in workers]
        except submitit.core.utils.FailedJobError as error:
            raise ConfigError(
                f"Slurm refused the workers: {str(error).strip()}; see conf/launcher/slurm.yaml"
            ) from None
        self.known = time.monotonic(), True
        self.jobs += sorted({job.job_id.partition("_")[0] for job in found})

    def parameters(self) -> dict[str, Any]:
        asked = self.settings
        wanted = {"job_name": f"assay-{self.plan.suite}", "time": asked.minutes, "cpus_per_task": asked.cpus}
        memory = {"mem": f"{round(asked.memory_gb * 1024)}M"}
        chosen = {"partition": asked.partition, "gpus_per_node": asked.gpus or None}
        others = {"additional_parameters": asked.options} if asked.options else {}
        return {**wanted, **memory, **{k: v for k, v in chosen.items() if v is not None}, **others}

    def alive(self) -> bool:
        if time.monotonic() - self.known[0] > ASK:
            self.known = time.monotonic(), self._queued()
        return self.known[1]

    def _queued(self) -> bool:
        command = ["squeue", "--noheader", "--format=%i", f"--jobs={','.join(self.jobs)}"]
        try:
            found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        except subprocess.TimeoutExpired:  # a busy controller: nothing is known
            return True
        if found.returncode:  # nor when it cannot answer; but jobs that ended minutes ago it has forgotten
            return "Invalid job id" not in found.stderr
        return bool(found.stdout.strip())

    def cancel(self) -> None:
        if not self.jobs:
            return
        subprocess.run(["scancel", *self.jobs], check=False, timeout=120)
        patience = time.monotonic() + LEAVE
        while self._queued() and time.monotonic() < patience:
            time.sleep(0.5)


@dataclass
class RayCrew:
    plan: Plan
    settings: Ray
    calls: list[Any] = field(default_factory=list)

    def start(self, workers: Sequence[int]) -> None:
        ray = needed("ray", "ray")
        if not ray.is_initialized():
            self.connect(ray)
        asked = {"num_cpus": self.settings.cpus, "num_gpus": self.settings.gpus, "max_retries": 0}
        remote = ray.remote(call).options(**asked, scheduling_strategy="SPREAD")
        self.calls += [remote.remote(str(self.plan.folder), number) for number in workers]

    def connect(self, ray: Any) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        address = self.settings.address
        try:
            ray.init(
                address=address, log_to_driver=False, include_dashboard=False if address is None else None
            )
        except ConnectionError as error:
            raise ConfigError(f"launcher.address={address}: no Ray there ({error})") from None

    def alive(self) -> bool:
        import ray

        return bool(ray.wait(self.calls, num_returns=len(self.calls), timeout=0)[1])

    def cancel(self) -> None:
        if not self.calls:
            return
        import ray

        for found in self.calls:
            ray.cancel(found, force=True)
        ray.wait(self.calls, num_returns=len(self.calls), timeout=LEAVE)
        ray.shutdown()


def needed(module: str, extra: str) -> Any:
    """A module of an extra; ConfigError says what to install."""
    from importlib import import_module

    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise ConfigError(f"launcher={extra} needs {module}: pip install 'assay[{extra}]'") from None
