"""W&B as a view of a record, never the store: one run per trial, offline unless asked, `finish()` always."""

from pathlib import Path
from typing import Any, cast

Record = dict[str, Any]
CURVE = ("accuracy", "agreement", "statistic", "log10_p")


def track(record: Record, project: str, mode: str, folder: str | Path = ".") -> str:
    """Send one record; the run's folder is returned. mode is always explicit: without one W&B asks on a terminal."""
    import wandb

    choices = record["choices"]
    run = wandb.init(
        project=project,
        mode=cast(Any, mode),  # W&B refuses wrong ones itself
        name=record["id"],
        group=f"{choices['task']}-{choices['model']}",
        job_type=choices["attack"],
        tags=[choices["watermark"], choices["attack"], choices["deployment"], record["status"]],
        config={**record["config"], "choices": choices},
        dir=str(folder),
        settings=wandb.Settings(silent=True, console="off"),
        reinit="finish_previous",
    )
    try:
        run.summary.update({"status": record["status"], "reason": record.get("reason")})
        if record["status"] == "ok":
            _curve(run, record)
    finally:
        run.finish()
    return str(Path(run.dir).parent)


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


def replay(records: list[Record], project: str, mode: str, folder: str | Path = ".") -> int:
    """Send every record of a store; how many."""
    for record in records:
        track(record, project, mode, folder)
    return len(records)
