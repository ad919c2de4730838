"""What a row of the table is: what is measured, in which unit, and which target it has.

A target is a ratio to a peer of the same run, or a plain bound; its text is made from it, so that
what the table says and what is compared cannot differ. The rows themselves are in the modules of
their families; `bench.table` puts them together.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from bench.peer import Peer

Figures = dict[str, float]
"""Metric → value, of one repetition."""


@dataclass(frozen=True)
class Target:
    """At least, or at most, so many times what ``of`` shows; without ``of``, the number itself."""

    factor: float
    of: str = ""
    """A peer, ``best`` for the best of them, ``bare``, or nothing."""
    row: str = ""
    metric: str = ""
    """Where the other figure stands, if not in the same place."""


@dataclass(frozen=True)
class Metric:
    """One number of a row."""

    title: str
    unit: str
    better: Literal["more", "less"]
    targets: tuple[Target, ...] = ()
    is_shown: bool = True
    """Whether it has a line in the README."""

    def target_text(self) -> str:
        """The target as people read it."""
        sign = "≥" if self.better == "more" else "≤"
        return ", ".join(
            f"{sign} {each.factor:g} x {each.of}{' ' + each.row if each.row else ''}"
            if each.of
            else f"{sign} {each.factor:g} {self.unit}".strip()
            for each in self.targets
        )


@dataclass(frozen=True)
class Row:
    """Something to measure; the first of its metrics is the one that the picture shows."""

    name: str
    title: str
    """With ``{}`` where the count belongs."""
    family: str
    """Rows of one family share a process, one after the other, warm."""
    metrics: dict[str, Metric]
    measure: Callable[[Peer, int], Figures]
    count: int
    """How many calls, megabytes or seconds, as the title says."""
    verbs: frozenset[str] = frozenset()
    fewer: Mapping[str, int] = field(default_factory=dict)
    """Peer → its count, where the full one would take more than a minute."""
    peers: frozenset[str] = frozenset()
    """Only these are measured; empty means all that have the verbs."""
    least: int = 2
    """The count below which there is nothing to measure."""
    start: Literal["started", "shared", "cold"] = "started"
    """Whether the peer runs already, runs for several drivers, or is started by the row itself."""
    bare: Callable[[int], Figures] | None = None
    """What there is to be had, measured beside it."""
    bare_name: str = ""

    def fits(self, peer: type[Peer]) -> bool:
        return self.verbs <= peer.verbs and (not self.peers or peer.name in self.peers)

    def count_for(self, system: str, scale: float = 1.0) -> int:
        """The count of one system; with a scale below one, to see that everything works."""
        count = self.fewer.get(system, self.count)
        return count if scale == 1 else max(min(self.least, count), round(count * scale))


def verbs(text: str) -> frozenset[str]:
    return frozenset(text.split())


def rate(title: str, *targets: Target, unit: str = "/s") -> Metric:
    return Metric(title, unit, "more", targets)


def spent(title: str, unit: str, *targets: Target, is_shown: bool = True) -> Metric:
    return Metric(title, unit, "less", targets, is_shown)
