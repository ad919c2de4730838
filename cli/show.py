"""What is shown to people: snapshots in, rich renderables out, and nothing asked or known besides.

`show` is the one function that prints. Into a pipe goes plain text, as wide as it needs to be.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

Row = Mapping[str, Any]

PIPE_WIDTH = 200
ID_LETTERS = 8
ROWS_MAX = 20
COLOURS = {"alive": "green", "running": "green", "dead": "red", "ended": "dim"}
BYTES_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def show(shown: RenderableType) -> None:
    """Print it."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=PIPE_WIDTH)
    console.print(shown)


def started_lines(report: Row, *, is_foreground: bool) -> RenderableType:
    """What runs now, how programs reach it, and how it is ended."""
    has = amounts_text(report["resources"])
    end = "Ctrl-C" if is_foreground else "fabric down"
    return Group(
        Text.assemble(
            "Cluster ", (report["cluster"], "bold"), f" runs on this machine (pid {report['pid']})"
        ),
        Text(f"  it has      {has}; {bytes_text(report['store_bytes_max'])} for objects"),
        Text(f"  state, log  {report['state_directory']}, {report['log']}"),
        Text(""),
        Text.assemble("Programs reach it with    ", ("export FABRIC_ADDRESS=auto", "bold")),
        Text.assemble("It is looked at with      ", ("fabric status", "bold")),
        Text.assemble("It is ended with          ", (end, "bold")),
    )


def status_of(snapshot: Row) -> RenderableType:
    """A whole cluster: a line of its own, then a table for each kind of thing there is."""
    cluster = snapshot["cluster"]
    parts: list[RenderableType] = [
        Text.assemble(
            "Cluster ",
            (cluster["name"], "bold"),
            f"  pid {cluster['pid']}  epoch {cluster['epoch']}",
        ),
        nodes_table(snapshot["nodes"]),
    ]
    parts += _listing("actor", snapshot["actors"], actors_table, "dead")
    parts += _listing("job", snapshot["jobs"], jobs_table, "ended")
    return Group(*parts)


def _listing(
    noun: str, rows: Sequence[Row], table: Callable[[Sequence[Row]], Table], over: str
) -> list[RenderableType]:
    """Those that go on, in a table of bounded length; the others are counted."""
    going_on = [row for row in rows if row["state"] != over]
    past = len(rows) - len(going_on)
    parts: list[RenderableType] = [Text("")]
    if going_on:
        parts.append(table(going_on[:ROWS_MAX]))
    more = max(0, len(going_on) - ROWS_MAX)
    counted = [f"{more} more" if more else "", f"{past} {over}" if past else ""]
    said = ", ".join(part for part in counted if part)
    if not going_on:
        said = f"no {noun}s" + (f" ({said})" if said else "")
    if said:
        parts.append(Text(said, style="dim"))
    return parts


def nodes_table(nodes: Sequence[Row]) -> Table:
    """One line a node."""
    table = _table("NODE", "STATE", "HOST", "PID", "FREE / ALL", "WORKERS", "STORE")
    for node in nodes:
        table.add_row(
            node["node_id"][:ID_LETTERS],
            state_text(node["state"]),
            node["host"],
            str(node["pid"]),
            _share_text(node["available"], node["resources"]),
            str(node["workers"]),
            f"{bytes_text(node['store_bytes'])} of {bytes_text(node['store_bytes_max'])}",
        )
    return table


def actors_table(actors: Sequence[Row]) -> Table:
    """One line an actor."""
    table = _table("ACTOR", "STATE", "CLASS", "NAME", "NODE", "RESTARTS")
    for actor in actors:
        table.add_row(
            brief_id(actor["actor_id"]),
            state_text(actor["state"]),
            actor["class_name"],
            actor["name"],
            actor["node_id"][:ID_LETTERS],
            str(actor["restarts"]),
        )
    return table


def jobs_table(jobs: Sequence[Row]) -> Table:
    """One line a job."""
    table = _table("JOB", "STATE", "PID", "PROGRAM")
    for job in jobs:
        table.add_row(
            job["job_id"][:ID_LETTERS],
            state_text(job["state"]),
            str(job["pid"]),
            Text(job["entrypoint"], no_wrap=True, overflow="ellipsis"),
        )
    return table


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in columns:
        table.add_column(column, no_wrap=True)
    return table


def state_text(state: str) -> Text:
    """A state in its colour."""
    return Text(state, style=COLOURS.get(state, "yellow"))


def brief_id(name: str) -> str:
    """An actor's id as people read it: its creator's first letters and its number."""
    return f"{name[:ID_LETTERS]}-{int(name[16:28] or '0', 16):x}"


def amounts_text(amounts: Mapping[str, float]) -> str:
    """``4 CPU, 1 GPU``."""
    return ", ".join(f"{amount:g} {name}" for name, amount in amounts.items()) or "nothing"


def _share_text(free: Mapping[str, float], total: Mapping[str, float]) -> str:
    return ", ".join(f"{free.get(name, 0):g}/{amount:g} {name}" for name, amount in total.items())


def bytes_text(nbytes: int) -> str:
    """``1.5 GiB``."""
    amount = float(nbytes)
    for unit in BYTES_UNITS:
        if amount < 1024 or unit == BYTES_UNITS[-1]:
            break
        amount /= 1024
    return f"{amount:.0f} {unit}" if amount >= 100 else f"{amount:.3g} {unit}"
