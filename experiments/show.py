"""What the command line prints."""

import math
from collections.abc import Iterable
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

Record = dict[str, Any]
VERDICT = {True: "[green]yes[/]", False: "[red]no[/]", None: "[yellow]undecided[/]"}


def terminal(stderr: bool = False) -> Console:
    """A console; wide enough for tables when nobody's terminal says otherwise."""
    console = Console(stderr=stderr)
    return console if console.is_terminal else Console(stderr=stderr, width=110)


def plain_table(title: str) -> Table:
    return Table(
        title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )


def percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def p_value(log10_p: float) -> str:
    """4.4e-75 for -74.35; plain above 1/1000."""
    if log10_p > -3:
        return f"{10**log10_p:.3g}"
    exponent = math.floor(log10_p)
    mantissa = f"{10 ** (log10_p - exponent):.1f}"
    return f"1.0e{exponent + 1}" if mantissa == "10.0" else f"{mantissa}e{exponent}"


def statistic(found: Record) -> str:
    if found["statistic"] is None:
        return "-"
    return f"{found['statistic']:g}" + (f"/{found['trials']}" if found["trials"] else "")


def trial(record: Record, console: Console) -> None:
    """A short table of one trial."""
    if record["status"] != "ok":
        console.print(
            f"{record['id']}: [yellow]{record['status']}[/]: {escape(record['reason'])}", soft_wrap=True
        )
        return
    axis, unit = record["declared"]["attack"]["axis"], record["marked"]["unit"]
    table = plain_table(record["id"])
    for name in ("", axis, "accuracy", "agrees", unit, "p", "null", "owned"):
        table.add_column(name, justify="left" if name in ("", "null") else "right", no_wrap=True)
    owner, marked, controls = record["owner"], record["marked"], record["controls"]
    rows = [
        ("unmarked", "", owner["unmarked_accuracy"], None, controls["unmarked"]),
        ("rival's model", "", None, None, controls["marked_by_rival"]),
        ("rival's key", "", None, None, controls["key_of_rival"]),
        ("marked", "", marked["accuracy"], None, marked),
        *(("stolen", f"{p['strength']:g}", p["accuracy"], p["agreement"], p) for p in record["curve"]),
    ]
    for name, strength, accuracy, agreement, found in rows:
        if found is None:
            continue
        shown = [percent(value) if value is not None else "" for value in (accuracy, agreement)]
        verdict = VERDICT[found["detected"]] if found["source"] != "none" else "-"
        table.add_row(
            name, strength, *shown, statistic(found), p_value(found["log10_p"]), found["source"], verdict
        )
    console.print(table)
    if (reached := record.get("deployment")) and reached["simulation"]:
        console.print(f"  simulated: {reached['simulation']}", soft_wrap=True)
    for point in record["curve"]:
        for line in _told(point):
            console.print(f"  at {point['strength']:g}: {line}", soft_wrap=True, highlight=False)


def _told(point: Record) -> list[str]:
    """Whom the owner accuses, and the message as it is read."""
    lines = []
    traced, message = point.get("tracing"), point.get("message")
    if traced:
        lines.append(
            f"accused {traced['accused']} of {traced['buyers']} buyers, colluders {traced['colluders']}"
        )
    if message and message["decoded"]:
        verdict = "right" if message["whole"] else "wrong"
        lines.append(
            f"message {message['decoded']}, {verdict}; {percent(message['accuracy'])} of its embedded bits"
        )
    return lines


def ranking(rows: Iterable[Record], console: Console) -> None:
    title = "Survival of the attacks that cost the thief at most 2 pp of accuracy"
    table = plain_table(title)
    for name in ("#", "scheme", "reads", "cost", "survived", "weakest p", "under", "controls"):
        table.add_column(
            name, justify="left" if name in ("scheme", "reads", "under") else "right", no_wrap=True
        )
    for row in rows:
        found = row["weakest_log10_p"] is not None
        table.add_row(
            str(row["rank"] or "-"),
            row["watermark"],
            row["reads"],
            "-" if row["cost_pp"] is None else f"{row['cost_pp']:+.1f} pp",
            f"{row['survived']}/{row['decided']}" if row["decided"] else "-",
            p_value(row["weakest_log10_p"]) if found else "-",
            row["weakest_attack"] if found else "-",
            _controls(row),
        )
    console.print(table)


def _controls(row: Record) -> str:
    if row["false_claims"]:
        return f"[red]{row['false_claims']} false[/]"
    return f"{row['claims_on_rivals']} on rivals" if row["claims_on_rivals"] else "clean"
