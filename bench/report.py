"""What came out, for people in a terminal and for programs.

A run is kept as one JSON object: every sample, the commit, the machine, the versions of the peers,
and how quiet it was. The README's table and picture are made from such a file (`bench.readme`).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from bench.peers import BARE, PEERS
from bench.rows import Metric, Row
from bench.samples import Samples, rows_as_json, samples_of
from bench.table import ROWS

RESULTS = Path(__file__).parent / "results"


@dataclass
class Run:
    """All of one run of the bench."""

    samples: Samples
    rows: list[Row]
    versions: Mapping[str, str]
    """System → version, in the order of the columns; others were not measured."""
    repetitions: int
    commit: str
    machine: Mapping[str, Any]
    load_before: float
    shares: list[float]

    def as_json(self) -> str:
        found = {
            "commit": self.commit,
            "machine": self.machine,
            "repetitions": self.repetitions,
            "versions": self.versions,
            "load_before": self.load_before,
            "shares": self.shares,
            "failures": self.samples.failures,
            "turn_seconds": self.samples.seconds,
            "rows": rows_as_json(self.samples, self.rows),
        }
        return json.dumps(found, indent=1) + "\n"

    def path(self) -> Path:
        """Where it is kept, unless told otherwise."""
        day = str(self.machine["time"])[:16].replace(":", "")
        return RESULTS / f"{day}-{self.commit.replace('+', '-changed')}.json"


def run_of(text: str) -> Run:
    """What `Run.as_json` wrote; a row that no longer exists is left out."""
    found = json.loads(text)
    samples = samples_of(found["rows"])
    samples.failures = found["failures"]
    samples.seconds.update(found["turn_seconds"])
    return Run(
        samples,
        [ROWS[name] for name in found["rows"] if name in ROWS],
        found["versions"],
        found["repetitions"],
        found["commit"],
        found["machine"],
        found["load_before"],
        found["shares"],
    )


def number(value: float | None) -> str:
    """Three digits that mean something."""
    if value is None:
        return "-"
    size = abs(value)
    digits = 0 if size >= 100 or value == int(value) else 1 if size >= 10 else 2 if size >= 1 else 3
    return f"{value:,.{digits}f}"


def title(row: Row, name: str, counts: Mapping[str, int]) -> str:
    """What a line is about; whoever had fewer calls is named."""
    metric = row.metrics[name]
    if name != next(iter(row.metrics)):
        return f"- {metric.title}" if metric.title else f"- {name}"
    full = counts.get("fabric", row.count)
    fewer = [f"{who} {n:,}" for who, n in counts.items() if who != BARE and n != full]
    what = f": {metric.title}" if metric.title else ""
    return row.title.format(f"{full:,}") + what + (f" ({', '.join(fewer)})" if fewer else "")


def cell(samples: Samples, row: Row, name: str, system: str) -> str:
    """A number, or the word that stands for it."""
    is_first = name == next(iter(row.metrics))
    said = samples.said.get(row.name, {}).get(system)
    return said if said and is_first else number(samples.median(row.name, name, system))


def table(run: Run) -> Table:
    """Medians, the factor by which fabric is better than the best other, and its target."""
    shown = Table(box=SIMPLE_HEAD, pad_edge=False)
    shown.add_column("")
    shown.add_column("", style="dim")
    systems = [system for system in PEERS if system in run.versions]
    for system in systems:
        shown.add_column(system, justify="right", style="bold" if system == "fabric" else "")
    shown.add_column("x best", justify="right")
    shown.add_column("target")
    shown.add_column("bare", justify="right", style="dim")
    for row in run.rows:
        for name, metric in row.metrics.items():
            bare = run.samples.median(row.name, name, BARE)
            shown.add_row(
                escape(title(row, name, run.samples.counts.get(row.name, {}))),
                metric.unit,
                *[cell(run.samples, row, name, system) for system in systems],
                _factor(run.samples.factor(row.name, metric, name)),
                _target(run.samples, row, name, metric),
                "" if bare is None else number(bare),
            )
    return shown


def _factor(factor: float | None) -> str:
    return "" if factor is None else f"[{'green' if factor >= 1 else 'red'}]{number(factor)}[/]"


def _target(samples: Samples, row: Row, name: str, metric: Metric) -> str:
    is_met = samples.is_met(row.name, metric, name)
    colour = {True: "green", False: "red", None: "dim"}[is_met]
    mark = {True: "✓ ", False: "✗ ", None: ""}[is_met]
    return f"[{colour}]{mark}{metric.target_text()}[/]" if metric.targets else ""
