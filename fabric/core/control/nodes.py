"""The table of nodes: who is in, since when it has been silent, what it has free.

A part of the control store. A node's states are the view's: it joins alive, dies once, and never
comes back under the same incarnation. Only joining and dying are worth a record; what is free is
heard again with the next heartbeat. It decides no placement and sends nothing.
"""

from collections.abc import Iterator, Mapping

from msgspec.structs import replace

from fabric.config import Limits
from fabric.core.control.placement import Candidate
from fabric.core.machine import InvariantError
from fabric.ids import Incarnation
from fabric.protocol.records import NodeRecord, Record
from fabric.protocol.values import NodeView, Shape


class NodeRow:
    """One node: its view, and what only this life of the control store knows."""

    def __init__(self, view: NodeView, dead_at: float) -> None:
        self.view = view
        self.dead_at = dead_at  # unless it is heard before
        self.is_joined = False  # it said so to this life of the control store: it can be told
        self._recount()

    def refresh(self, view: NodeView) -> bool:
        """It says what it has now; true if that is new."""
        is_new = view != self.view
        self.view = view
        self._recount()
        return is_new

    def promise(self, shape: Shape) -> None:
        """An actor was sent there that its own figures do not show yet."""
        for name, amount in shape.amounts:
            self.free[name] = self.free.get(name, 0) - amount
        self.load += 1

    def candidate(self) -> Candidate:
        """This node as placement sees it."""
        return Candidate(self.view.node, self.totals, self.free, self.load)

    def _recount(self) -> None:
        self.totals = dict(self.view.resources)
        self.free = dict(self.view.available)
        self.load = self.view.workers


class NodeTable:
    """Every node alive, and the last ones that died."""

    def __init__(self, records: Mapping[bytes, Record], limits: Limits, now: float) -> None:
        self.limits = limits
        self.alive: dict[Incarnation, NodeRow] = {}
        self.dead: dict[Incarnation, NodeView] = {}
        self._to_record: dict[Incarnation, None] = {}
        self._to_show: dict[Incarnation, None] = {}
        for record in records.values():
            if not isinstance(record, NodeRecord):
                raise InvariantError(f"table nodes has a row {record!r}")
            view = record.view
            if view.state == "alive":
                self.alive[view.node] = NodeRow(view, now + limits.node_dead_s)
            else:
                self.dead[view.node] = view

    def join(self, view: NodeView, now: float) -> bool:
        """A node is in; true if this life of the control store had not heard so before."""
        row = self.alive.get(view.node)
        if row is None:
            row = self.alive[view.node] = NodeRow(view, now)
            self._to_record[view.node] = None
            self._to_show[view.node] = None
        elif row.refresh(view):
            self._to_show[view.node] = None
        is_first = not row.is_joined
        row.is_joined = True
        self.heard(view.node, now)
        return is_first

    def heard(self, node: Incarnation, now: float) -> None:
        """It said something, so it lives."""
        self.alive[node].dead_at = now + self.limits.node_dead_s

    def refresh(self, view: NodeView) -> None:
        """A heartbeat brought its figures."""
        if self.alive[view.node].refresh(view):
            self._to_show[view.node] = None

    def silent(self, now: float) -> list[Incarnation]:
        """Those whose time is over.

        If this process itself was held up, what they said meanwhile may still wait unheard: they
        get one more heartbeat.
        """
        late = [row for row in self.alive.values() if row.dead_at <= now]
        grace_s = self.limits.node_heartbeat_s
        for row in late:
            if now - row.dead_at > grace_s:
                row.dead_at = now + grace_s
        return [row.view.node for row in late if row.dead_at <= now]

    def bury(self, node: Incarnation) -> None:
        """It is dead from now on; the oldest dead beyond the limit are forgotten."""
        view = self.alive.pop(node).view
        self.dead[node] = replace(view, state="dead", available=(), workers=0, store_bytes=0)
        self._to_record[node] = None
        self._to_show[node] = None
        while len(self.dead) > self.limits.dead_nodes_max:
            oldest = next(iter(self.dead))
            del self.dead[oldest]
            self._to_record[oldest] = None

    def can_be_told(self, node: Incarnation) -> bool:
        """It is alive and has a link to this life of the control store."""
        row = self.alive.get(node)
        return row is not None and row.is_joined

    def joined(self) -> list[NodeRow]:
        """Where actors can be sent."""
        return [row for row in self.alive.values() if row.is_joined]

    def views(self) -> Iterator[NodeView]:
        """Every node as everybody may know it."""
        yield from (row.view for row in self.alive.values())
        yield from self.dead.values()

    def view(self, node: Incarnation) -> NodeView | None:
        """One of them."""
        row = self.alive.get(node)
        return row.view if row is not None else self.dead.get(node)

    def deadline(self) -> float | None:
        """When the next one has been silent for too long."""
        return min((row.dead_at for row in self.alive.values()), default=None)

    def take_changed(self) -> tuple[list[Incarnation], list[NodeView]]:
        """What changed since the last call: rows to record, views to show."""
        to_record, self._to_record = list(self._to_record), {}
        shown = [self.view(node) for node in self._to_show]
        self._to_show = {}
        return to_record, [view for view in shown if view is not None]

    def record(self, node: Incarnation) -> NodeRecord | None:
        """Its row; nothing if it is forgotten."""
        view = self.view(node)
        return None if view is None else NodeRecord(view)

    def check(self) -> None:
        """No node is both alive and dead, and what is remembered is bounded."""
        both = [node.hex() for node in self.alive if node in self.dead]
        if both:
            raise InvariantError(f"nodes alive and dead at once: {both}")
        if len(self.dead) > self.limits.dead_nodes_max:
            raise InvariantError(f"{len(self.dead)} dead nodes are remembered")
