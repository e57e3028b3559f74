"""What the command line prints."""

from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.table import Table

Record = dict[str, Any]
VERDICT = {True: "[green]yes[/]", False: "[red]no[/]", None: "[yellow]undecided[/]"}


def percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def p_value(log10_p: float) -> str:
    """1e-73 for -73.2; plain below 1000."""
    return f"{10**log10_p:.3g}" if log10_p > -3 else f"1e{log10_p:.0f}"


def statistic(found: Record) -> str:
    if found["statistic"] is None:
        return "-"
    return f"{found['statistic']:g}" + (f"/{found['trials']}" if found["trials"] else "")


def trial(record: Record, console: Console) -> None:
    """A short table of one trial."""
    if record["status"] != "ok":
        console.print(f"{record['id']}: [yellow]{record['status']}[/]: {record['reason']}", soft_wrap=True)
        return
    axis, unit = record["declared"]["attack"]["axis"], record["marked"]["unit"]
    table = Table(title=record["id"], title_justify="left", title_style="bold")
    for name in ("model", axis, "accuracy", "agreement", unit, "p", "decided by", "detected"):
        table.add_column(name, justify="left" if name in ("model", "decided by") else "right")
    owner, marked, controls = record["owner"], record["marked"], record["controls"]
    rows = [
        ("unmarked", "", owner["unmarked_accuracy"], None, controls["unmarked"]),
        ("marked by a rival", "", None, None, controls["marked_by_rival"]),
        ("marked, a rival's key", "", None, None, controls["key_of_rival"]),
        ("marked", "", marked["accuracy"], None, marked),
        *(("stolen", f"{p['strength']:g}", p["accuracy"], p["agreement"], p) for p in record["curve"]),
    ]
    for name, strength, accuracy, agreement, found in rows:
        shown = [percent(value) if value is not None else "" for value in (accuracy, agreement)]
        verdict = VERDICT[found["detected"]] if found["source"] != "none" else "-"
        table.add_row(name, strength, *shown, statistic(found), p_value(found["log10_p"]), found["source"], verdict)
    console.print(table)


def ranking(rows: Iterable[Record], console: Console) -> None:
    table = Table(title="Ranking: survival of attacks that cost the thief at most 2 pp", title_justify="left")
    columns = ("#", "scheme", "reads", "key", "owner's cost", "survived", "removed", "weakest p within 2 pp", "controls")
    for name in columns:
        table.add_column(name, justify="left" if name in ("scheme", "reads", "key") else "right")
    for row in rows:
        weakest = "-" if row["weakest_log10_p"] is None else f"{p_value(row['weakest_log10_p'])} ({row['weakest_attack']})"
        table.add_row(
            str(row["rank"] or "-"),
            row["watermark"],
            row["reads"],
            row["derivation"],
            f"{row['cost_pp']:+.1f} pp",
            f"{row['survived']}/{row['decided']}" if row["decided"] else "-",
            str(row["removed"]) if row["decided"] else "-",
            weakest,
            "clean" if not row["false_claims"] else f"[red]{row['false_claims']} false claims[/]",
        )
    console.print(table)
