"""What came out, as a table for people and as one object for programs."""

import os
import platform
import subprocess
import time
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from bench.rows import Figures, Metric, Row

BESIDE = "beside"
"""The column of what was measured next to the peers."""


class Samples:
    """Every figure of a run: (row, metric) → peer → one value for each repetition."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(dict)
        self.failures: list[str] = []

    def add(self, peer: str, row: str, figures: Figures) -> None:
        for metric, value in figures.items():
            self.values[row, metric].setdefault(peer, []).append(value)

    def median(self, row: str, metric: str, peer: str) -> float | None:
        values = self.values[row, metric].get(peer)
        return median(values) if values else None


def table(samples: Samples, rows: list[Row], peers: list[str]) -> Table:
    """Medians; the last column says how many times better fabric is than the best of the others."""
    shown = Table(box=SIMPLE_HEAD, pad_edge=False)
    shown.add_column("")
    shown.add_column("", style="dim")
    for peer in peers:
        shown.add_column(peer, justify="right", style="bold" if peer == "fabric" else "")
    shown.add_column("against best", justify="right")
    shown.add_column("beside", justify="right", style="dim")
    for row in rows:
        for name, metric in row.metrics.items():
            cells = [samples.median(row.name, name, peer) for peer in peers]
            beside = samples.median(row.name, name, BESIDE)
            shown.add_row(
                metric.title,
                metric.unit,
                *map(number, cells),
                factor(metric, dict(zip(peers, cells, strict=True))),
                f"{row.beside_name} {number(beside)}" if beside is not None else "",
            )
    return shown


def number(value: float | None) -> str:
    """Three digits that mean something."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def factor(metric: Metric, medians: dict[str, float | None]) -> str:
    """How many times better than the best other peer; below one is worse."""
    ours = medians.get("fabric")
    others = [value for peer, value in medians.items() if value and peer != "fabric"]
    if not ours or not others:
        return ""
    ratio = ours / max(others) if metric.better == "more" else min(others) / ours
    return f"[{'green' if ratio >= 1 else 'red'}]{ratio:.2f}[/]"


def as_json(
    samples: Samples, rows: list[Row], peers: list[str], repetitions: int
) -> dict[str, Any]:
    """Every sample, what it was measured on, and what was measured."""
    return {
        "commit": commit(),
        "machine": machine(),
        "repetitions": repetitions,
        "peers": peers,
        "failures": samples.failures,
        "rows": {
            row.name: {
                name: {
                    "title": metric.title.strip(),
                    "unit": metric.unit,
                    "better": metric.better,
                    "samples": samples.values[row.name, name],
                }
                for name, metric in row.metrics.items()
            }
            for row in rows
        },
    }


def commit() -> str:
    """The commit that was measured, with a plus if files differ from it."""
    here = Path(__file__).parent
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty=+", "--abbrev=12"],
        cwd=here,
        capture_output=True,
        text=True,
        check=False,
    )
    return described.stdout.strip() or "unknown"


def machine() -> dict[str, Any]:
    """What the numbers depend on beside the code."""
    rows = Path("/proc/cpuinfo").read_text().splitlines()
    models = [row.partition(":")[2].strip() for row in rows if row.startswith("model name")]
    return {
        "cpus": len(os.sched_getaffinity(0)),
        "model": models[0] if models else platform.machine(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_1min": os.getloadavg()[0],
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
