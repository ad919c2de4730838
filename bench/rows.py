"""The rows of the table: what is measured, in which unit, and what a peer needs for it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from bench.peers import Peer

Figures = dict[str, float]
"""Metric → value, of one repetition."""


@dataclass(frozen=True)
class Metric:
    """One number of a row."""

    title: str
    unit: str
    better: Literal["more", "less"]


@dataclass(frozen=True)
class Row:
    """Something to measure, and what is measured ``beside`` it to say what there was to be had."""

    name: str
    metrics: dict[str, Metric]
    measure: Callable[[Peer], Figures]
    verbs: frozenset[str] = frozenset()
    is_cold: bool = False
    """Measured before the peer is started."""
    beside: Callable[[], Figures] | None = None
    beside_name: str = ""

    def fits(self, peer: type[Peer]) -> bool:
        return self.verbs <= peer.verbs


def rate(title: str) -> Metric:
    return Metric(title, "/s", "more")


def spent(title: str, unit: str) -> Metric:
    return Metric(title, unit, "less")
