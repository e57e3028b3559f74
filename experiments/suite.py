"""Suites: named grids of trials (conf/suite/*.yaml), run in parallel, resumed where they were left."""

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ..core.errors import ConfigError
from ..leaderboard.store import FINAL, Excluded, Record, Store
from .catalogue import GROUPS, catalogue
from .config import AXES, CONF, Spec, composer, content_of, options, suggest
from .launch.index import heads
from .launch.launcher import Launcher, run_plan
from .launch.plan import Plan, packed

Axes = dict[str, list[Any]]
Point = dict[str, Any]


def grid(name: str, folders: Sequence[Path]) -> list[Axes]:
    """The suite's blocks, each the values on every axis; schemes vary fastest, so shared models are trained early."""
    path = next((p for f in folders if (p := f / "suite" / f"{name}.yaml").is_file()), None)
    if path is None:
        raise ConfigError(f"there is no suite called {name!r}.{suggest(name, options('suite'))}")
    content = content_of(path)
    try:
        common, blocks = dict(content["common"]), [dict(block) for block in content["blocks"]]
    except (TypeError, KeyError, ValueError):
        shape = "`common` (settings) and `blocks` (a list of settings), as in conf/suite/quick.yaml"
        raise ConfigError(f"{path}: expected {shape}") from None
    found = [{a: chosen(a, v, folders) for a, v in {**block, **common}.items()} for block in blocks]
    if not any(all(axes.values()) for axes in found):
        raise ConfigError(f"{path} names no trial: its blocks are empty")
    return found


def chosen(axis: str, value: Any, folders: Sequence[Path]) -> list[Any]:
    """What a suite's entry stands for: a list as it is, one value, or by a mapping every option of the axis that declares
    these values (`{needs: weights}`; `{}` is all of them). Options in folders of the axis, which are for models of another kind,
    are meant where no other declares these values (`{family: language}`)."""
    if not isinstance(value, dict):
        return value if isinstance(value, list) else [value]
    if axis not in GROUPS:
        raise ConfigError(
            f'{axis}: a mapping stands for options of {", ".join(GROUPS)}; a setting\'s own is text, "{{name: value}}"'
        )
    own = [f for f in folders if f != CONF]
    unknown = set(value) - set(GROUPS[axis])
    if unknown:
        raise ConfigError(f"{axis} declares no {unknown.pop()!r}; expected one of {', '.join(GROUPS[axis])}")
    for nested in (False, True):
        declared = catalogue(axis, own, nested)
        names = [n for n, found in declared.items() if all(found[field] == v for field, v in value.items())]
        if names:
            return names
    return []


def narrowed(blocks: list[Axes], words: Sequence[str]) -> tuple[list[Axes], list[str]]:
    """The blocks with only the values that a word asks of an axis (`attack=prune,finetune`), where they have them. Values that no
    block has take the place of all, in every block (`seed=7,8`): one value is a word left, which overrides."""
    whole, left = blocks, []
    for word in words:
        axis, _, text = word.partition("=")
        asked = [text] if text.startswith(("[", "{")) else text.split(",")
        if axis in GROUPS and text.startswith("["):
            raise ConfigError(
                f"{word}: expected options with commas between them; set {axis}={text.strip('[]')}"
            )
        known = {str(value) for axes in whole for value in axes.get(axis, ())}
        strange = [value for value in asked if value not in known]
        if strange == asked:
            each = len(asked) > 1
            blocks = [{**axes, axis: list(asked)} if each or axis in axes else axes for axes in blocks]
            left += [] if each else [word]
        elif strange:
            text = f"the suite has no {axis}={strange[0]}; ask for it alone, and it takes the place of all"
            raise ConfigError(f"{word}: {text}")
        else:
            kept = [{**axes, axis: [v for v in axes.get(axis, []) if str(v) in asked]} for axes in blocks]
            blocks = [axes for axes in kept if all(axes.values())]
    return blocks, left


def specs_of(
    name: str, overrides: Sequence[str], config_dir: str | None, folders: Sequence[Path]
) -> list[Spec]:
    """The suite's trials, each once. ConfigError where the words leave none."""
    blocks, overrides = narrowed(grid(name, folders), overrides)
    if not blocks:
        raise ConfigError(f"no block of suite {name} has all of that together; see conf/suite/{name}.yaml")
    with composer(config_dir) as compose:

        def composed(point: Point) -> Spec:
            words = [f"{axis}={value}" for axis, value in point.items()]
            found: Spec = compose([*words, "trainer.progress=false", *overrides])
            return found

        specs = every(blocks, composed, folders)
    return list({spec.id: spec for spec in specs}.values())


def every(blocks: list[Axes], composed: Callable[[Point], Spec], folders: Sequence[Path]) -> list[Spec]:
    """Every point of the blocks. Hydra takes 0.1 s for one, so where no option refers to another axis that varies, it composes as
    many as the longest axis has values, and the rest is put together from their parts."""
    wanted = [
        dict(zip(axes, point, strict=True)) for axes in blocks for point in itertools.product(*axes.values())
    ]
    values: Axes = {axis: list(dict.fromkeys(point[axis] for point in wanted)) for axis in wanted[0]}
    varied = {axis for axis, found in values.items() if len(found) > 1}
    if any(set(point) != set(values) for point in wanted) or not _separable(varied, folders):
        return [composed(point) for point in wanted]
    longest = max(map(len, values.values()))
    rows = [composed({a: found[i % len(found)] for a, found in values.items()}) for i in range(longest)]
    parts = {(axis, v): rows[i] for axis in varied for i, v in enumerate(values[axis])}

    def assembled(point: Point) -> Spec:
        own = {axis: parts[axis, point[axis]] for axis in varied}
        choices = {a: part.choices[a] for a, part in own.items() if a in part.choices}
        config = {axis: part.config[axis] for axis, part in own.items()}
        return Spec({**rows[0].choices, **choices}, {**rows[0].config, **config}, rows[0].overrides)

    return [assembled(point) for point in wanted]


def _separable(varied: set[str], folders: Sequence[Path]) -> bool:
    """Whether what an option of a varied axis resolves to depends on no other varied axis, and no record names it as a setting."""
    if not varied <= {*AXES, "seed"}:
        return False
    texts = [path.read_text() for axis in varied for f in folders for path in (f / axis).rglob("*.yaml")]
    return not any("${" + axis in text for axis in varied for text in texts)


def run_suite(
    name: str,
    specs: list[Spec],
    asked: Launcher,
    config_dir: str | None,
    words: Sequence[str],
    console: Console,
) -> list[Record]:
    """Run what is not in the store yet, with a progress bar; all records of the suite, in its order."""
    store = Store(specs[0].records)
    final = finished(store, {spec.id for spec in specs})
    due = [i for i, s in enumerate(specs) if s.anew or s.id not in final]
    if len(due) < len(specs):
        console.print(
            f"{len(specs) - len(due)} of {len(specs)} trials are done already (force=true runs them again)"
        )
    if due:
        plan = planned(name, specs, due, asked, config_dir, words)
        with alone(plan), shown(len(due), console) as tell:
            plan.begin()
            run_plan(plan, asked, tell)
    found = [store.read(spec.id) for spec in specs]
    return [record for record in found if record is not None]


def finished(store: Store, ids: set[str]) -> set[str]:
    """Those that need not run. Unfit when the record of one was edited or is half: running it again would hide that."""
    found = set()
    for head in heads(store):
        if isinstance(head, Excluded):
            if (trial := head.file.removesuffix(".json")) in ids:
                store.read(trial)
        elif head["status"] in FINAL:
            found.add(head["id"])
    return found


def planned(
    name: str,
    specs: list[Spec],
    due: list[int],
    asked: Launcher,
    config_dir: str | None,
    words: Sequence[str],
) -> Plan:
    """The launch, in paths that hold in any worker."""
    runs = Path(specs[0].config["paths"]["runs"]).absolute()
    own = str(Path(config_dir).resolve()) if config_dir else None
    workers = asked.workers or os.cpu_count() or 1
    folder = Plan.place(runs, name, [*words, own or ""])
    started = datetime.now(UTC).isoformat(timespec="seconds")
    return Plan(folder, name, asked.name, workers, str(Path.cwd()), own, started, due, packed(specs))


@contextmanager
def alone(plan: Plan) -> Iterator[None]:
    """One launch of a suite at a time, also when the process that began an earlier one was killed and its workers go on."""
    plan.folder.mkdir(parents=True, exist_ok=True)
    try:
        held = FileLock(plan.folder / "launch.lock").acquire(timeout=0)
    except Timeout:
        raise ConfigError(
            f"this suite runs already, from another terminal: `assay status --runs {plan.runs}`"
        ) from None
    with held:
        left = [worker for worker in plan.seen() if worker.alive]
        if left:
            where = ", ".join(sorted({f"{worker.host} (process {worker.pid})" for worker in left})[:5])
            raise ConfigError(
                f"{len(left)} workers of an earlier launch of this suite still run, on {where}: let them end, or end them"
            )
        yield


@contextmanager
def shown(count: int, console: Console) -> Iterator[Callable[[Spec, Record], None]]:
    """A progress bar, and a line per trial that is done."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("trials", total=count)

        def tell(spec: Spec, record: Record) -> None:
            names = f"{spec.choices['watermark']} × {spec.choices['attack']} seed {spec.config['seed']}"
            progress.console.print(
                f"[dim]{names}[/]: {record['status']} {escape(record.get('reason') or '')}", soft_wrap=True
            )
            progress.advance(bar)

        yield tell
