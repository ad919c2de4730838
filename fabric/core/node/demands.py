"""Who wants workers, and who goes first.

A part of the node. A demand is a client's latest word on how many workers of a shape it wants in
all. Between jobs the one that has least goes first; within a job the deepest calls do, so that what
others wait for is finished before anything new is begun. Nothing is granted here.
"""

from collections.abc import Mapping

from fabric.core.node.resources import cpus
from fabric.core.node.staff import WorkerState
from fabric.ids import Address, Incarnation, JobId
from fabric.protocol.messages import RequestLease
from fabric.protocol.values import Shape


class Demand:
    """What one client wants of one shape."""

    __slots__ = (
        "client",
        "depth",
        "held",
        "job",
        "may_retry",
        "shape",
        "shape_id",
        "since",
        "wanted",
        "words",
    )

    def __init__(self, client: Address, request: RequestLease, now: float) -> None:
        self.client = client
        self.shape_id = request.shape_id
        self.shape = request.shape
        self.job = request.job
        self.may_retry = request.may_retry
        self.wanted = request.wanted
        self.depth = request.depth
        self.held = 0  # leases granted and not over
        self.since = now  # when it began to want more, or last got or lost a worker
        self.words = 0  # how often its client said what it wants


class Demands:
    """All demands of a node's clients."""

    def __init__(self) -> None:
        self.table: dict[tuple[Address, int], Demand] = {}

    def state(self, client: Address, request: RequestLease, now: float) -> Demand:
        """Take in a client's word."""
        key = (client, request.shape_id)
        demand = self.table.get(key)
        if demand is None:
            demand = self.table[key] = Demand(client, request, now)
        elif demand.wanted <= demand.held:
            demand.since = now
        demand.words += 1
        demand.wanted = request.wanted
        demand.depth = request.depth
        demand.job = request.job
        return demand

    def forget_client(self, client: Address) -> None:
        """A client is gone."""
        for key in [key for key in self.table if key[0] == client]:
            del self.table[key]

    def released(self, worker: WorkerState, is_wanted: bool, now: float) -> None:
        """A lease is over; where its client had no use for it, it wants so many no longer."""
        demand = self.table.get((worker.client, worker.shape_id))
        if demand is None:
            return
        demand.since = now  # it had its turn; otherwise it would get the same worker again
        demand.held -= 1
        if not is_wanted:
            demand.wanted = min(demand.wanted, demand.held)

    def waiting(self, shares: Mapping[JobId, int]) -> list[Demand]:
        """Those that want more than they hold, in the order in which they are to be served."""
        waiting = [one for one in self.table.values() if one.wanted > one.held]
        waiting.sort(key=lambda one: (shares.get(one.job, 0), -one.depth, one.held > 0, one.since))
        return waiting


def shares_of(workers: Mapping[Incarnation, WorkerState]) -> dict[JobId, int]:
    """CPU units each job's leases use now; what is lent out while a call waits does not count."""
    shares: dict[JobId, int] = {}
    for worker in workers.values():
        if worker.state == "leased" and not worker.is_blocked and worker.job is not None:
            shares[worker.job] = shares.get(worker.job, 0) + max(cpus(worker.shape), 1)
    return shares


def is_fair_victim(
    demand: Demand, worker: WorkerState, shares: Mapping[JobId, int], other: Demand | None
) -> bool:
    """Taking that worker's lease for this demand would make things fairer."""
    if worker.job is None:
        return False
    share = max(cpus(worker.shape), 1)
    if worker.job != demand.job:
        return shares.get(worker.job, 0) - share >= shares.get(demand.job, 0)
    if worker.client == demand.client and worker.shape_id == demand.shape_id:
        return False
    if other is not None and demand.depth != other.depth:
        return demand.depth > other.depth
    return demand.held == 0


def helps(shape: Shape, worker: WorkerState, free: Mapping[str, int]) -> bool:
    """That worker's share has something that the shape lacks."""
    own = dict(worker.shape.amounts)
    return any(free.get(name, 0) < amount and own.get(name, 0) for name, amount in shape.amounts)


def needs(shape: Shape, worker: WorkerState, free: Mapping[str, int]) -> bool:
    """That worker's share, once free, would make room for the shape."""
    own = dict(worker.shape.amounts)
    return all(free.get(name, 0) + own.get(name, 0) >= amount for name, amount in shape.amounts)
