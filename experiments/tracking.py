"""W&B as a view of the store, never the store: a run per trial, one for their board, offline unless asked, `finish()` always."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from ..core.errors import ConfigError

Record = dict[str, Any]
CURVE = ("accuracy", "agreement", "statistic", "log10_p")


def track(record: Record, project: str, mode: str, folder: str | Path = ".", group: str | None = None) -> str:
    """Send one record; the run's folder is returned. group: task and model by default."""
    choices = record["choices"]
    about = {
        "name": record["id"],
        "group": group or f"{choices['task']}-{choices['model']}",
        "job_type": choices["attack"],
        "tags": [choices["watermark"], choices["attack"], choices["deployment"], record["status"]],
        "config": {**record["config"], "choices": choices},
    }
    with _run(project, mode, folder, about) as run:
        run.summary.update({"status": record["status"], "reason": record.get("reason")})
        if record["status"] == "ok":
            _curve(run, record)
        return str(Path(run.dir).parent)


@contextmanager
def _run(project: str, mode: str, folder: str | Path, about: dict[str, Any]) -> Iterator[Any]:
    """mode is always explicit: without one W&B asks on a terminal. ConfigError for what it refuses: a wrong mode, no login."""
    import wandb

    settings = wandb.Settings(silent=True, console="off")
    places = {"project": project, "mode": cast(Any, mode), "dir": str(folder)}
    try:
        run = wandb.init(**places, **about, settings=settings, reinit="finish_previous")
    except wandb.Error as error:
        raise ConfigError(f"W&B refuses: {error}; offline mode needs neither login nor network") from None
    try:
        yield run
    finally:
        run.finish()


def _curve(run: Any, record: Record) -> None:
    import wandb

    run.define_metric("attack/strength")
    run.define_metric("robustness/*", step_metric="attack/strength")
    for point in record["curve"]:
        values = {f"robustness/{name}": point[name] for name in CURVE if point[name] is not None}
        run.log({"attack/strength": point["strength"], **values})
    columns = ["strength", *CURVE, "detected"]
    rows = [[str(p[c]) if c == "detected" else p[c] for c in columns] for p in record["curve"]]
    table = wandb.Table(columns=cast(Any, columns), data=rows)
    run.log({"curve": table})
    run.summary.update(
        {"marked/accuracy": record["marked"]["accuracy"], "marked/log10_p": record["marked"]["log10_p"]}
    )


def replay(records: list[Record], project: str, mode: str, folder: str | Path, group: str) -> int:
    """Send every record of a store as one group, and their board; how many runs."""
    for record in records:
        track(record, project, mode, folder, group)
    if not records:
        return 0
    with _run(project, mode, folder, {"name": f"{group}-board", "group": group, "job_type": "board"}) as run:
        _board(run, records, Path(folder), group)
    return len(records) + 1


def _board(run: Any, records: list[Record], folder: Path, group: str) -> None:
    """The ranking as a table; the page and the records it is made of as an artifact."""
    import wandb

    from ..leaderboard.page import write_board
    from ..leaderboard.scores import scores

    rows = scores(records)
    columns = list(rows[0]) if rows else []
    run.log(
        {"ranking": wandb.Table(columns=cast(Any, columns), data=[[row[c] for c in columns] for row in rows])}
    )
    page = Path(run.dir) / "board.html"
    write_board(records, page)
    artifact = wandb.Artifact(group, type="leaderboard")
    artifact.add_file(str(page))
    artifact.add_dir(str(folder / "records"), name="records")
    run.log_artifact(artifact)
