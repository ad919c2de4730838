"""The four tables together, and the questions that need more than one of them.

The control store's memory: nodes, actors, jobs, functions. What changed in a turn is taken from
here at its end, as rows to commit and views to publish. The tables know nothing of one another.
"""

from collections.abc import Mapping

from fabric.config import Limits
from fabric.core.control.actors import NOWHERE, ActorRow, ActorTable, thin
from fabric.core.control.functions import FunctionTable
from fabric.core.control.jobs import JobTable
from fabric.core.control.nodes import NodeTable
from fabric.core.control.placement import can_ever_run, choose_node, misfit_text
from fabric.core.machine import InvariantError
from fabric.ids import Incarnation, owner_of
from fabric.protocol.cluster import View, ViewChanged
from fabric.protocol.records import Record
from fabric.protocol.values import ActorSpec, Failure

Rows = list[tuple[str, bytes, Record | None]]


class Tables:
    """Everything that the control store knows of the cluster."""

    def __init__(
        self, rows: Mapping[str, Mapping[bytes, Record]], epoch: int, limits: Limits, now: float
    ) -> None:
        self.epoch = epoch
        self.limits = limits
        self.sequence = 0
        self.nodes = NodeTable(rows.get("nodes", {}), limits, now)
        self.actors = ActorTable(rows.get("actors", {}), limits, now)
        self.jobs = JobTable(rows.get("jobs", {}), limits)
        self.functions = FunctionTable(rows.get("functions", {}), limits)

    def instead(self, spec: ActorSpec) -> Failure | ActorSpec | None:
        """Why that actor is not made, or which one there is instead; nothing if it can be."""
        is_late = owner_of(spec.actor_id) in self.jobs.gone or self.jobs.is_over(spec.job.job)
        holder = self.actors.named(spec.job.namespace, spec.name) if spec.name else None
        if is_late and not spec.is_detached:
            return Failure("actor_died", "the client that makes it has ended")
        if holder is not None and spec.get_if_exists:
            return thin(holder.spec)
        if holder is not None:
            text = f"a living actor of class {holder.view.class_name} has the name {spec.name!r}"
            return Failure("name_taken", f"{text} in namespace {spec.job.namespace!r}")
        if len(self.actors.living) >= self.limits.actors_max:
            return Failure("control_store_full", f"{self.limits.actors_max} actors live already")
        return None

    def seat(self, row: ActorRow) -> bool:
        """Choose the node of its next life; false if there is none among those we can reach."""
        shape = row.spec.shape
        node = choose_node(shape, [one.candidate() for one in self.nodes.joined()])
        if node is None:
            return False
        self.actors.place(row, node)
        self.nodes.alive[node].promise(shape)
        return True

    def misfit(self, row: ActorRow) -> Failure | None:
        """Why no node can ever run it; nothing if one could that has to come back first."""
        every = [one.totals for one in self.nodes.alive.values()]
        if any(can_ever_run(row.spec.shape, totals) for totals in every):
            return None
        return Failure("unschedulable", misfit_text(row.view.class_name, row.spec.shape, every))

    def take_changes(self, is_beat: bool) -> tuple[Rows, ViewChanged | None]:
        """The rows that changed since the last call, and the news for everybody, if there are any.

        With ``is_beat`` there are, if empty ones.
        """
        nodes, node_views = self.nodes.take_changed()
        jobs = [(job, self.jobs.record(job)) for job in self.jobs.take_changed()]
        changed = self.actors.take_changed()
        found = [row for one in changed if (row := self.actors.get(one)) is not None]
        actor_views = tuple(row.view for row in found)
        # not before: who dies and is forgotten in the same turn is published nevertheless
        changed = list(dict.fromkeys([*changed, *self.actors.forget_oldest()]))
        actors = [(one, self.actors.get(one)) for one in changed]
        functions = self.functions.take_changed()
        rows: Rows = [("nodes", node, self.nodes.record(node)) for node in nodes]
        rows += [("jobs", job, record) for job, record in jobs]
        rows += [("actors", one, row.record() if row is not None else None) for one, row in actors]
        rows += [("functions", one, self.functions.table.get(one)) for one in functions]
        job_views = tuple(record.view for _, record in jobs if record is not None)
        if not (node_views or actor_views or job_views or is_beat):
            return rows, None
        self.sequence += 1
        news = ViewChanged(self.epoch, self.sequence, tuple(node_views), actor_views, job_views)
        return rows, news

    def view(self, request: bytes) -> View:
        """All that everybody may see, as of the last news or newer."""
        return View(
            request,
            self.epoch,
            self.sequence,
            tuple(self.nodes.views()),
            tuple(self.actors.views(self.limits.frame_bytes_max // 4)),
            tuple(self.jobs.views()),
        )

    def check(self) -> None:
        """Each is sound, and no actor lives on a node that does not."""
        for part in (self.nodes, self.actors, self.jobs, self.functions):
            part.check()
        for row in self.actors.living.values():
            if row.view.node != NOWHERE and row.view.node not in self.nodes.alive:
                raise InvariantError(f"on a node that is not alive: {row.told()}")
            is_over = Incarnation(row.spec.job.job) in self.jobs.gone
            if is_over and not row.spec.is_detached:
                raise InvariantError(f"its job is over: {row.told()}")
