"""Runs the trials of a plan under any launcher: here, or by workers that an engine starts. What they share is the plan's folder."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from ...core.errors import ConfigError
from ...leaderboard.store import Record, Store
from ..config import CONF, Spec, content_of, explained, options, suggest
from ..isolate import died, isolated
from .engines import LEAVE, Crew, Joblib, Local, Ray, Remote, Slurm
from .log import BEAT, STALE, Log, Worker, log
from .plan import Plan

Launcher = Local | Remote
KINDS: dict[str, Any] = {"local": Local, "joblib": Joblib, "slurm": Slurm, "ray": Ray}
SILENT = 5.0
"""Seconds to wait for the last words of workers that an engine says are gone."""

Told = Callable[[Spec, Record], None]


def launcher(words: Sequence[str], folders: Sequence[Path] = ()) -> tuple[Launcher, list[str]]:
    """The launcher that `launcher=slurm launcher.partition=gpu` asks for, and the words that are none of its. Users' own
    folders may hold options, e.g. a cluster's (launcher/mine.yaml with `name: slurm`)."""
    from omegaconf import OmegaConf

    mine = [word for word in words if word.startswith(("launcher=", "launcher."))]
    chosen = [word.partition("=")[2] for word in mine if word.startswith("launcher=")]
    name = chosen[-1] if chosen else "local"
    path = next((p for f in (*folders, CONF) if (p := f / "launcher" / f"{name}.yaml").is_file()), None)
    if path is None:
        raise ConfigError(
            f"there is no launcher called {name!r}.{suggest(name, options('launcher', folders))}"
        )
    content = content_of(path)
    kind = KINDS.get(str(content.get("name"))) if isinstance(content, dict) else None
    if kind is None:
        raise ConfigError(f"{path}: expected `name` to be one of {', '.join(KINDS)}")
    base = {} if path.parent.parent == CONF else content_of(CONF / "launcher" / f"{content['name']}.yaml")
    given = [word.removeprefix("launcher.") for word in mine if word.startswith("launcher.")]
    with explained():
        settings = OmegaConf.to_container(OmegaConf.merge(base, content, OmegaConf.from_dotlist(given)))
    return _checked(kind, settings), [word for word in words if word not in mine]


def _checked(kind: Any, settings: Any) -> Launcher:
    unknown = sorted(set(settings) - set(kind.__dataclass_fields__))
    if unknown:
        raise ConfigError(
            f"there is no setting 'launcher.{unknown[0]}'.{suggest(unknown[0], kind.__dataclass_fields__)}"
        )
    try:
        found: Launcher = TypeAdapter(kind).validate_python(settings)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(["launcher", *map(str, first["loc"])])
        raise ConfigError(f"{name}: {first['msg']}, got {first['input']!r}; set {name}=...") from None
    return found


def run_plan(plan: Plan, asked: Launcher, on_done: Told) -> None:
    """Every due trial of the plan, each to a record; `on_done` hears of it. ConfigError when a trial is refused, or when the
    workers ended before their work; KeyboardInterrupt ends the workers."""
    if isinstance(asked, Local):
        _here(plan, on_done)
        return
    crew = asked.crew(plan)
    with log(plan.path("launch")) as told:
        try:
            Watch(plan, crew, told, on_done).run()
        finally:
            crew.cancel()
            _gone(plan)


def _gone(plan: Plan) -> None:
    """Waits for the last words of workers that were cancelled, so that the next launch finds none."""
    patience = time.monotonic() + LEAVE
    while any(w.alive for w in plan.seen() if w.path.stem.isdigit()) and time.monotonic() < patience:
        time.sleep(0.2)


def _here(plan: Plan, on_done: Told) -> None:
    with log(plan.path(0)) as told:
        numbers: dict[str, int] = {}

        def taken() -> Iterator[Spec]:
            for number in plan.due:
                spec = plan.spec(number)
                numbers[spec.id] = number
                told.take(number)
                yield spec

        def done(spec: Spec, record: Record) -> None:
            told.done(numbers[spec.id], record)
            on_done(spec, record)

        isolated(taken(), plan.workers, done)


@dataclass
class Watch:
    """Follows the logs of a crew: tells what is done, and gives the trials of a dead worker a second try, by a new worker."""

    plan: Plan
    crew: Crew
    told: Log
    on_done: Told
    answered: set[int] = field(default_factory=set)
    deaths: dict[int, list[str]] = field(default_factory=dict)
    mourned: set[tuple[Path, int, float]] = field(default_factory=set)
    looked: float = field(default_factory=time.time)
    wary: float = 0.0
    """Until when nobody counts as dead. A launch that was held up, by a file system that was away or as a suspended machine, sees
    old signs of life of workers that were held up with it."""
    workers: int = 0
    revived: tuple[int, int] = (0, 0)

    def run(self) -> None:
        due = set(self.plan.due)
        self.start(min(self.plan.workers, len(due)))
        quiet, before = time.monotonic(), self.progress
        while True:
            over = not self.crew.alive()  # asked first, so that what follows reads all that was written
            self.look(self.plan.seen())
            if due <= self.answered:
                return
            if before != self.progress:
                quiet, before = time.monotonic(), self.progress
            if over and time.monotonic() - quiet > SILENT and time.time() >= self.wary:
                self.revive(due - self.answered)
                quiet = time.monotonic()
            time.sleep(max(0.2, self.workers / 100))

    @property
    def progress(self) -> tuple[int, int]:
        return len(self.answered), len(self.mourned)

    def start(self, count: int) -> None:
        numbers = range(self.workers, self.workers + count)
        self.plan.expect(numbers)
        self.crew.start(numbers)
        self.workers += count

    def look(self, seen: Sequence[Worker]) -> None:
        for worker in seen:
            if worker.refused is not None:
                raise ConfigError(worker.refused)
            for number, outcome in worker.done:
                self.answer(number, outcome)
        now = time.time()
        if now - self.looked > STALE - 2 * BEAT:
            self.wary = now + 2 * BEAT
        self.looked = now
        for worker in seen if now >= self.wary else ():
            for number, at in worker.dead:
                if (worker.path, number, at) not in self.mourned:
                    self.mourned.add((worker.path, number, at))
                    self.mourn(number, f"with its worker on {worker.host}")

    def answer(self, number: int, outcome: Record) -> None:
        if number not in self.answered:
            self.answered.add(number)
            self.on_done(self.plan.spec(number), outcome)

    def mourn(self, number: int, how: str) -> None:
        if number in self.answered:
            return
        record = self.recorded(number)
        if record is None:
            self.deaths.setdefault(number, []).append(how)
            if len(self.deaths[number]) < 2:
                self.plan.again(number)
            else:
                record = died(self.plan.spec(number), self.deaths[number])
        if record is not None:
            self.told.done(number, record)
            self.answer(number, record)
        if len(self.answered) < len(self.plan.due):
            self.start(1)

    def recorded(self, number: int) -> Record | None:
        """The record of a trial whose worker died after it was written: while W&B was told, say."""
        spec = self.plan.spec(number)
        record = Store(spec.records).read(spec.id)
        return record if record and (record.get("finished") or "") >= self.plan.started else None

    def revive(self, left: set[int]) -> None:
        """No worker is left, and trials are: workers were cancelled, or died before they logged what they took."""
        if self.progress == self.revived:
            words = self.last_words()
            raise ConfigError(
                f"the workers of launcher={self.plan.launcher} ended before their work: {words}"
            )
        self.revived = self.progress
        self.plan.refill([(number, len(self.deaths.get(number, ())) + 1) for number in sorted(left)])
        self.start(min(self.plan.workers, len(left)))

    def last_words(self) -> str:
        """The end of what workers wrote to their terminals."""
        folder = self.plan.folder / "workers"
        texts = [text for path in sorted(folder.glob("*.out")) if (text := path.read_text().strip())]
        return texts[-1].splitlines()[-1] if texts else f"see {self.plan.folder}"
