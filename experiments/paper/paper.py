"""`assay paper NAME`: a preset's trials, run as `assay suite` runs its own, and published against measured."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from ...core.atomic import write_atomically
from ...core.errors import ConfigError
from ...leaderboard.store import Record, Store
from ..config import CONF, Spec, composer, options
from ..launch.launcher import launcher
from ..suite import finished, run_suite
from . import show as papershow
from .judge import JudgedNumber, Records, judge_claim, judge_number
from .preset import SCALES, Measure, Number, Preset, Scale, claims, load, measures, numbers
from .show import Report

Trials = dict[tuple[str, str], dict[int, Spec]]
FAILED = 1


def paper(arguments: argparse.Namespace, rest: list[str], console: Console) -> int:
    """1 when a trial failed; what the verdicts are changes nothing."""
    folders = [*([Path(arguments.config_dir)] if arguments.config_dir else []), CONF]
    name, rest = named(arguments.name, rest)
    if name is None:
        names = sorted(set(options("paper", folders[:-1])))
        papershow.catalogue({name: load(name, folders) for name in names}, console)
        return 0
    if arguments.jobs is not None and arguments.jobs < 1:
        raise ConfigError(f"expected --jobs of at least 1, got {arguments.jobs}")
    citation, preset = load(name, folders)
    jobs = [] if arguments.jobs is None else [f"launcher.workers={arguments.jobs}"]
    engine, words = launcher([*rest, *jobs], folders)
    scale, seeds, settings = asked(words, preset)
    trials = composed(preset, scale, seeds, settings, arguments.config_dir)

    def run(specs: list[Spec]) -> None:
        run_suite(f"paper-{name}-{scale}", specs, engine, arguments.config_dir, words, console)

    records = ran(trials, run, _smaller(name, scale), console)
    report = reported(name, citation, preset, scale, settings, records)
    papershow.tell(report, console)
    runs = Path(next(iter(next(iter(trials.values())).values())).config["paths"]["runs"])
    place = Path(arguments.output or runs / "papers") / f"{name}-{scale}"
    place.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(place.with_suffix(".md"), papershow.markdown(report, runs, place.parent).encode())
    write_atomically(place.with_suffix(".html"), papershow.page(report).encode())
    console.print(f"the report: {place}.md, {place}.html", soft_wrap=True)
    failed = [r for r in report.trials if r["status"] == "failed"]
    for record in failed:
        console.print(f"[red]failed[/] {record['id']}: {escape(record['reason'])}", soft_wrap=True)
    return FAILED if failed else 0


def named(name: str | None, rest: list[str]) -> tuple[str | None, list[str]]:
    """The paper's name and the words after it. Behind options, argparse leaves the name among the others."""
    words = [*([name] if name else []), *rest]
    if words and "=" in words[0]:
        raise ConfigError(f"expected the name of a paper before {words[0]!r}; `assay paper` lists them")
    return (words[0], words[1:]) if words else (None, [])


def asked(rest: Sequence[str], preset: Preset) -> tuple[Scale, list[int], list[str]]:
    """scale=, seeds= and the overrides of every trial among the words after the name."""
    scale: Scale = "full"
    seeds, settings = preset.seeds, []
    for word in rest:
        name, found, value = word.partition("=")
        if not found:
            raise ConfigError(f"expected overrides such as scale=laptop, got {word!r}")
        if name == "scale":
            if value not in SCALES:
                raise ConfigError(f"scale: expected {' or '.join(SCALES)}, got {value!r}; set scale=laptop")
            scale = "full" if value == "full" else "laptop"
        elif name in ("seed", "seeds"):
            seeds = [int(s) for s in value.split(",") if s.isdecimal()]
            if len(set(seeds)) != len(value.split(",")):
                raise ConfigError(
                    f"{name}: expected different whole numbers, got {value!r}; set {name}=0,1,2"
                )
        else:
            settings.append(word)
    return scale, seeds, settings


def composed(
    preset: Preset, scale: Scale, seeds: Sequence[int], settings: Sequence[str], config_dir: str | None
) -> Trials:
    """Every trial that the scale reads, per seed. No option refers to the seed, so Hydra composes each trial once."""
    wanted = dict.fromkeys((m.row, m.theft) for m in measures(preset, scale))
    trials: Trials = {}
    with composer(config_dir) as compose:
        for row, theft in wanted:
            words = [*preset.settings(scale, row, theft), "trainer.progress=false", *settings]
            spec = compose(words)
            trials[row, theft] = {
                seed: Spec(spec.choices, {**spec.config, "seed": seed}, spec.overrides) for seed in seeds
            }
    return trials


def ran(trials: Trials, run: Callable[[list[Spec]], None], remedy: str, console: Console) -> Records:
    """The records, after what is missing has run. Trials whose data is not there say so; ConfigError when nothing else is left."""
    known = {spec.id: spec for by_seed in trials.values() for spec in by_seed.values()}
    specs = sorted(
        known.values(), key=lambda spec: int(spec.config["seed"])
    )  # a stopped paper has whole seeds
    missing = without_data(specs)
    if len(missing) == len(specs):
        raise ConfigError(f"{next(iter(missing.values()))}\n{remedy}")
    for reason in dict.fromkeys(missing.values()):
        console.print(f"[yellow]{escape(reason)}[/]", soft_wrap=True, highlight=False)
    run([spec for spec in specs if spec.id not in missing])

    def outcome(spec: Spec) -> Record | str:
        lacking = f"needs the data of {spec.choices['task']}"
        return Store(spec.records).read(spec.id) or lacking

    return {key: {seed: outcome(s) for seed, s in by_seed.items()} for key, by_seed in trials.items()}


def _smaller(name: str, scale: Scale) -> str:
    other = f"Or check the qualitative claims on small data: assay paper {name} scale=laptop"
    return other if scale == "full" else "Such data is needed at either scale."


def without_data(specs: Sequence[Spec]) -> dict[str, str]:
    """The trials that have still to run and whose data cannot be had, by id, with what to do about it."""
    final = finished(Store(specs[0].records), {spec.id for spec in specs})
    waiting = [spec for spec in specs if spec.config["force"] or spec.id not in final]
    if not waiting:
        return {}
    from ..trial import Settings, built, validated  # torch: seconds that a finished paper need not wait for

    tried: dict[str, str | None] = {}
    for spec in waiting:
        task = spec.choices["task"]
        if task not in tried:
            settings: Settings = validated(Settings, built(spec.config, ""), "")
            try:
                settings.task.splits(settings.seed)
                tried[task] = None
            except ConfigError as error:
                tried[task] = str(error)
    found = {spec.id: tried[spec.choices["task"]] for spec in waiting}
    return {trial: reason for trial, reason in found.items() if reason is not None}


def reported(
    name: str, citation: str, preset: Preset, scale: Scale, settings: Sequence[str], records: Records
) -> Report:
    same = not preset.scales["full"].differs and not settings

    def judged(number: Number) -> JudgedNumber:
        if scale == "full" or number.measure is None:
            return judge_number(number, records, same)
        data = task_of(preset, number.measure)
        return JudgedNumber(number, None, f"not measured: needs the data of {data} and scale=full")

    return Report(
        name=name,
        citation=citation,
        preset=preset,
        scale=scale,
        settings=list(settings),
        numbers=[judged(number) for number in numbers(preset)],
        claims=[judge_claim(claim, records) for claim in claims(preset, scale)],
        records=records,
    )


def task_of(preset: Preset, measure: Measure) -> str:
    """On which data the number was published."""
    words = [w for w in preset.settings("full", measure.row, measure.theft) if w.startswith("task=")]
    return words[-1].partition("=")[2]
