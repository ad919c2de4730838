"""What came out: every figure of a run, its medians, and the same as JSON and back."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from bench.peers import BARE
from bench.rows import Metric, Row, Target

Cell = tuple[str, str]
"""Row and metric."""


@dataclass
class Samples:
    """Every figure: (row, metric) → system → one value for each repetition."""

    values: dict[Cell, dict[str, list[float]]] = field(default_factory=lambda: defaultdict(dict))
    said: dict[str, dict[str, str]] = field(default_factory=lambda: defaultdict(dict))
    """Row → system → the word it gave instead."""
    counts: dict[str, dict[str, int]] = field(default_factory=lambda: defaultdict(dict))
    """Row → system → how many calls (or what the row counts) it was measured with."""
    failures: list[str] = field(default_factory=list)
    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """Family and system → how long each of its turns took, start and end included."""

    def add(self, system: str, finding: Mapping[str, Any]) -> None:
        row = finding["row"]
        self.counts[row][system] = finding["count"]
        if "failure" in finding:
            self.failures.append(f"{system}, {row}: {finding['failure']}")
        elif "said" in finding:
            self.said[row][system] = finding["said"]
        for metric, value in finding.get("figures", {}).items():
            self.values[row, metric].setdefault(system, []).append(value)

    def median(self, row: str, metric: str, system: str) -> float | None:
        values = self.values.get((row, metric), {}).get(system)
        return median(values) if values else None

    def best(self, row: str, metric: Metric, name: str) -> tuple[str, float] | None:
        """The best of all but fabric and what is bare, and its median."""
        rivals = {
            system: median(values)
            for system, values in self.values.get((row, name), {}).items()
            if system not in ("fabric", BARE) and values
        }
        if not rivals:
            return None
        first = max if metric.better == "more" else min
        return first(rivals.items(), key=lambda rival: rival[1])

    def factor(self, row: str, metric: Metric, name: str) -> float | None:
        """How many times better fabric is than the best of the others; below one is worse."""
        ours, best = self.median(row, name, "fabric"), self.best(row, metric, name)
        if ours is None or best is None or ours <= 0 or best[1] <= 0:
            return None
        return ours / best[1] if metric.better == "more" else best[1] / ours

    def is_met(self, row: str, metric: Metric, name: str) -> bool | None:
        """Whether the targets are; nothing if there are none, or one cannot be compared."""
        ours = self.median(row, name, "fabric")
        bounds = [self._bound(row, metric, name, target) for target in metric.targets]
        if ours is None or not bounds or None in bounds:
            return None
        if metric.better == "more":
            return all(bound is not None and ours >= bound for bound in bounds)
        return all(bound is not None and ours <= bound for bound in bounds)

    def _bound(self, row: str, metric: Metric, name: str, target: Target) -> float | None:
        row, name = target.row or row, target.metric or name
        if not target.of:
            return target.factor
        if target.of == "best":
            best = self.best(row, metric, name)
            return None if best is None else target.factor * best[1]
        other = self.median(row, name, target.of)
        return None if other is None else target.factor * other


def rows_as_json(samples: Samples, rows: list[Row]) -> dict[str, Any]:
    return {
        row.name: {
            "title": row.title,
            "counts": samples.counts.get(row.name, {}),
            "said": samples.said.get(row.name, {}),
            "samples": {
                name: samples.values[row.name, name]
                for name in row.metrics
                if (row.name, name) in samples.values
            },
        }
        for row in rows
    }


def samples_of(rows: Mapping[str, Any]) -> Samples:
    """What `rows_as_json` wrote."""
    samples = Samples()
    for name, row in rows.items():
        samples.counts[name] = row["counts"]
        samples.said[name] = row["said"]
        for metric, values in row["samples"].items():
            samples.values[name, metric] = values
    return samples
