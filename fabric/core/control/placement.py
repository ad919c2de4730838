"""Where an actor goes: a pure function of what is asked and what the nodes have.

An actor is placed where its shape fits the node's totals, and there where most is free now; a node
that is busy keeps it queued and recalls leases for it, so what is free is a preference, not a
condition. No table is read or changed here; who asks has made the candidates.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from fabric.ids import Incarnation
from fabric.protocol.values import UNIT, Shape

CPU = "CPU"


class Candidate(NamedTuple):
    """A node as placement sees it: what it has, what is free of it, how many workers it runs."""

    node: Incarnation
    totals: Mapping[str, int]
    free: Mapping[str, int]
    load: int


def can_ever_run(shape: Shape, totals: Mapping[str, int]) -> bool:
    """Whether a node with these totals could run it if nothing else ran there."""
    return all(totals.get(name, 0) >= amount for name, amount in shape.amounts)


def choose_node(shape: Shape, candidates: Iterable[Candidate]) -> Incarnation | None:
    """The node with the most room left after it, then with the fewest workers, then the first."""
    able = [one for one in candidates if can_ever_run(shape, one.totals)]
    if not able:
        return None
    return max(able, key=lambda one: (_room_left(shape, one), -one.load)).node


def _room_left(shape: Shape, candidate: Candidate) -> float:
    """The smallest free share that it would leave of what it asks for, and of the CPUs.

    Below zero it would wait there.
    """
    asked = dict(shape.amounts)
    names = dict.fromkeys([CPU, *asked])
    shares = [
        (candidate.free.get(name, 0) - asked.get(name, 0)) / candidate.totals[name]
        for name in names
        if candidate.totals.get(name, 0) > 0
    ]
    return min(shares, default=0.0)


def misfit_text(class_name: str, shape: Shape, nodes: Iterable[Mapping[str, int]]) -> str:
    """Why no node can ever run it: what is asked, and what the best node has of that."""
    asked = dict(shape.amounts)
    needs = f"no node can run the actor {class_name}: it needs {_text(asked)}"
    totals = list(nodes)
    if not totals:
        return f"{needs}; there is no node"
    best = max(totals, key=lambda one: _share_met(asked, one))
    has = {name: best.get(name, 0) for name in asked}
    return f"{needs}; the best node has {_text(has)}"


def _share_met(asked: Mapping[str, int], totals: Mapping[str, int]) -> float:
    """How much of what is asked for the worst-off resource there is."""
    return min(
        (totals.get(name, 0) / amount for name, amount in asked.items() if amount), default=1
    )


def _text(amounts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {amount / UNIT:g}" for name, amount in amounts.items()) or "nothing"
