"""The node's scheduling side: who gets a worker, who gives one back, when one is forked or ended.

The part of the node's machine that speaks about leases. It grants by fairness between jobs and by
depth within one, recalls leases when others wait, lends out the share of a call that waits, and
refuses what can never be. It knows neither objects nor what an actor is, beyond that it needs a
worker.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from fabric.config import Limits
from fabric.core.effects import Effect, KillRunning, Send, StartWorker, StopWorker
from fabric.core.machine import InvariantError
from fabric.core.node.crashes import Crashes
from fabric.core.node.demands import (
    Demand,
    Demands,
    helps,
    is_fair_victim,
    needs,
    shares_of,
)
from fabric.core.node.resources import Resources, amounts_text
from fabric.core.node.staff import NO_SHAPE, Staff, WorkerState
from fabric.ids import Address, Incarnation, JobId, incarnation_of
from fabric.protocol.messages import (
    EndWorker,
    KillCall,
    LeaseGranted,
    LeaseReturned,
    RecallLease,
    RequestLease,
    ReturnLease,
    Unschedulable,
    WorkerBlocked,
    WorkerReady,
    WorkerResumed,
)
from fabric.protocol.values import Failure, Shape

if TYPE_CHECKING:
    from random import Random

SPARE_WHILE_BLOCKED_MAX = 2
"""Workers kept ready beyond the usual while calls wait for other calls."""

FRESH_S = 0.010
"""A lease is not taken back as idle before this long."""

CHAIN_LINKS_MAX = 8
"""Calls that a chain of waits is told with; those in its middle are counted."""

STARTING_MAX = 8
"""Workers being forked at a time; more would only compete for the same cores."""

FAILED_STARTS_MAX = 3
"""Workers that may fail to start in a row before what waits for them fails too."""


class Scheduling:
    """See the module."""

    def __init__(
        self,
        limits: Limits,
        random: "Random",
        resources: Mapping[str, int],
        workers_kept: int,
        is_client: Callable[[bytes], bool],
    ) -> None:
        self.limits = limits
        self.random = random
        self.workers_kept = workers_kept
        self.is_ending = False
        self.is_client = is_client
        self.resources = Resources(resources)
        self.staff = Staff(limits)
        self.demands = Demands()
        self.lease_serial = 0
        self._served_at = 0.0
        self._refuse_at: dict[tuple[Address, int], float] = {}  # impossible demands in their grace
        self.crashes = Crashes(limits)

    def end_surplus(self, now: float) -> list[Effect]:
        """Workers idle for too long end, and those that take too long to start."""
        effects = [self.end(one, now) for one in self.staff.surplus(self._kept(), now)]
        for worker in self.staff.late(now):
            worker.become("late", now)
            worker.is_doomed = True
            effects.append(StopWorker(worker.incarnation))
        for worker in self._overdue(now):
            worker.orphaned_at = None
            effects.append(StopWorker(worker.incarnation))
        return effects

    def _overdue(self, now: float) -> list[WorkerState]:
        """Workers whose call's client died so long ago that it should have ended by now."""
        grace_s = self.limits.cancel_grace_s
        return [
            one
            for one in self.staff.workers.values()
            if one.orphaned_at is not None and now >= one.orphaned_at + grace_s
        ]

    def dues(self) -> list[float]:
        """When a refusal or the end of a quantum is due."""
        dues = [*self._refuse_at.values(), *self.crashes.dues()]
        start_s = self.limits.worker_start_s
        dues += [
            one.since + start_s for one in self.staff.workers.values() if one.state == "starting"
        ]
        dues += [
            one.orphaned_at + self.limits.cancel_grace_s
            for one in self.staff.workers.values()
            if one.orphaned_at is not None
        ]
        if any(one.wanted > one.held for one in self.demands.table.values()):
            quantum = self.limits.lease_quantum_s
            # one whose end has passed was no fair victim then, and only news can change that
            dues += [
                due
                for one in self.staff.workers.values()
                if one.state == "leased" and one.recall != "full"
                for due in (one.since + FRESH_S, one.since + quantum)
                if due > self._served_at
            ]
        return dues

    def check(self) -> None:
        """What is free and what is leased add up to what there is."""
        used = Resources({})
        for worker in self.staff.workers.values():
            if worker.uses_resources:
                used.take(worker.shape)
        for name, total in self.resources.totals.items():
            if self.resources.free[name] - used.free.get(name, 0) != total:
                raise InvariantError(
                    f"{name}: {self.resources.free[name]} free, {-used.free.get(name, 0)} leased, "
                    f"{total} in all"
                )
        for demand in self.demands.table.values():
            if demand.held < 0:
                raise InvariantError(f"{demand.client} holds {demand.held} leases")

    # demands and leases

    def on_request_lease(self, client: Address, message: RequestLease, now: float) -> list[Effect]:
        """A client's latest word; what can never be is refused, after a grace if it may change."""
        if not self.is_client(incarnation_of(client)):
            return []
        self.demands.state(client, message, now)
        if not self.resources.could_fit(message.shape) and message.wanted:
            key = (client, message.shape_id)
            self._refuse_at.setdefault(key, now + self.limits.unschedulable_grace_s)
        return []

    def on_return_lease(self, client: Address, message: ReturnLease, now: float) -> list[Effect]:
        """The client needs the worker no longer."""
        worker = self.staff.by_lease.get(message.lease)
        if worker is None or worker.client != client or worker.recall == "full":
            return []
        self.release(worker, is_wanted=False, now=now)
        return []

    def on_kill_call(self, source: Address, message: KillCall, now: float) -> list[Effect]:
        """A cancelled call goes on; only who leases the worker may say so, or the worker itself."""
        worker = self.staff.by_lease.get(message.lease)
        if worker is None or worker.state != "leased":
            return []
        if source not in (worker.client, worker.address):
            return []
        return [KillRunning(worker.incarnation, message.lease, message.number)]

    def on_lease_returned(
        self, source: Address, message: LeaseReturned, now: float
    ) -> list[Effect]:
        """The worker has ended a lease that was recalled.

        What was idle is wanted no longer, unless its client has spoken since it was recalled.
        """
        worker = self.staff.by_lease.get(message.lease)
        if worker is None or worker.address != source:
            return []
        demand = self.demands.table.get((worker.client, worker.shape_id))
        has_spoken = demand is not None and demand.words > worker.recall_words
        self.release(worker, is_wanted=worker.recall == "full" or has_spoken, now=now)
        return []

    def release(self, worker: WorkerState, *, is_wanted: bool, now: float) -> None:
        self.demands.released(worker, is_wanted, now)
        self.vacate(worker)
        if worker.state == "leased":
            worker.become("idle", now)

    def vacate(self, worker: WorkerState) -> None:
        """The lease is over; its share is free."""
        self.staff.by_lease.pop(worker.lease, None)
        if worker.uses_resources:
            self.resources.give_back(worker.shape)
        worker.client = Address("")
        worker.shape = NO_SHAPE
        worker.is_blocked = False
        worker.recall = ""
        worker.orphaned_at = None

    def serve(self, missing: int, now: float) -> list[Effect]:
        """Refuse what can never be, grant what fits, fork and recall for the rest.

        ``missing`` counts the workers that others than clients lack (actors to be placed).
        """
        if self.is_ending:
            return []
        self._served_at = now
        effects = [*self._refuse(now), *self._make_room(missing, now)]
        shares = shares_of(self.staff.workers)
        hungry: list[Demand] = []
        reserved = Resources(self.resources.free)
        while True:
            demand = self._next_demand(hungry, reserved, shares)
            if demand is None:
                break
            worker = self.staff.idle_for(demand.job)
            if worker is not None:
                effects.append(self._grant(worker, demand, now))
                reserved.take(demand.shape)
                shares = shares_of(self.staff.workers)
            else:
                missing += self._starts_for(demand, reserved)
                hungry.append(demand)
                effects += self._make_room(missing, now)
        effects += self._start_workers(missing, now)
        effects += self._recall(now, shares)
        return effects

    def _next_demand(
        self, passed: list[Demand], free: Resources, shares: Mapping[JobId, int]
    ) -> Demand | None:
        """Who is served next. For one that has nothing and does not fit yet, room is kept.

        Otherwise small shapes would take again and again what was recalled for a large one.
        """
        for demand in self.demands.waiting(shares):
            if demand in passed:
                continue
            if free.fits(demand.shape):
                return demand
            if demand.held == 0 and self._could_fit_soon(demand.shape):
                free.take(demand.shape)
                passed.append(demand)
        return None

    def _could_fit_soon(self, shape: Shape) -> bool:
        """There would be room if every lease but those for life were given back."""
        left = Resources(self.resources.totals)
        for worker in self.staff.workers.values():
            if worker.state == "actor" and worker.uses_resources:
                left.take(worker.shape)
        return left.fits(shape)

    def _starts_for(self, demand: Demand, reserved: Resources) -> int:
        """How many workers this demand lacks only processes for."""
        count = 0
        while count < demand.wanted - demand.held and count < STARTING_MAX:
            if not reserved.fits(demand.shape):
                break
            reserved.take(demand.shape)
            count += 1
        return count

    def _grant(self, worker: WorkerState, demand: Demand, now: float) -> Effect:
        self.lease(worker, demand.job, demand.shape, now)
        worker.client = demand.client
        worker.lessees[demand.client] = None
        worker.shape_id = demand.shape_id
        worker.depth = demand.depth
        worker.may_retry = demand.may_retry
        worker.become("leased", now)
        demand.held += 1
        demand.since = now
        return Send(demand.client, LeaseGranted(demand.shape_id, worker.lease, worker.address))

    def lease(self, worker: WorkerState, job: JobId, shape: Shape, now: float) -> None:
        self.lease_serial += 1
        worker.lease = self.lease_serial
        worker.job = job
        worker.shape = shape
        self.staff.by_lease[worker.lease] = worker
        self.resources.take(shape)

    def _refuse(self, now: float) -> list[Effect]:
        effects: list[Effect] = []
        for key, due in list(self._refuse_at.items()):
            demand = self.demands.table.get(key)
            if demand is not None and now < due:
                continue
            del self._refuse_at[key]
            if demand is not None and demand.wanted > demand.held:
                demand.wanted = demand.held
                effects.append(
                    Send(demand.client, Unschedulable(key[1], self._cannot(demand.shape)))
                )
        if self.staff.is_stuck:
            effects += self._refuse_deepest()
        return effects

    def _refuse_deepest(self) -> list[Effect]:
        """Every worker waits for another call and none may be added: the deepest wait gives up."""
        waiting = [
            one
            for one in self.demands.waiting({})
            if incarnation_of(one.client) in self.staff.workers
        ]
        if not waiting:
            return []
        demand = waiting[0]
        demand.wanted = demand.held
        text = (
            f"all {self.limits.workers_max} workers of the node wait for other calls, "
            f"the deepest at depth {demand.depth}: {self._chain(demand.client)}"
        )
        return [Send(demand.client, Unschedulable(demand.shape_id, Failure("waits_limit", text)))]

    def _chain(self, client: Address) -> str:
        """Who waits for whom, from the driver's call to the one that gives up."""
        links: list[str] = []
        worker = self.staff.workers.get(incarnation_of(client))
        while worker is not None and len(links) < len(self.staff.workers):
            links.append(f"{worker.waits_in or 'a call'} in {worker.address[:10]}")
            caller = worker.client[2:]
            worker = self.staff.workers.get(incarnation_of(worker.client)) if caller else None
        links.reverse()
        if len(links) > CHAIN_LINKS_MAX:
            half = CHAIN_LINKS_MAX // 2
            left_out = len(links) - 2 * half
            links = [*links[:half], f"{left_out} more", *links[-half:]]
        return " waits for ".join(links) + " waits for one more"

    def _cannot(self, shape: Shape) -> Failure:
        asked = amounts_text(dict(shape.amounts))
        text = f"it needs {asked}; the best node has "
        return Failure("unschedulable", text + amounts_text(self.resources.totals))

    def _recall(self, now: float, shares: Mapping[JobId, int]) -> list[Effect]:
        """Others wait: take idle leases back at once, working ones after a quantum, where fair."""
        effects: list[Effect] = []
        taken: list[WorkerState] = []
        for demand in self.demands.waiting(shares):
            lacks_workers = self.resources.fits(demand.shape)
            if lacks_workers and len(self.staff.workers) < self.limits.workers_max:
                continue
            if not self.resources.could_fit(demand.shape):
                continue
            for worker in self.staff.workers.values():
                if worker.state != "leased" or worker.is_blocked or worker in taken:
                    continue
                if worker.client == demand.client and worker.shape_id == demand.shape_id:
                    continue
                if not lacks_workers and not helps(demand.shape, worker, self.resources.free):
                    continue
                if worker.recall == "full":
                    if needs(demand.shape, worker, self.resources.free):
                        taken.append(worker)
                        break
                    continue
                other = self.demands.table.get((worker.client, worker.shape_id))
                is_due = now >= worker.since + self.limits.lease_quantum_s
                if is_due and is_fair_victim(demand, worker, shares, other):
                    worker.recall = "full"
                    effects.append(Send(worker.address, RecallLease(worker.lease, False)))
                    taken.append(worker)
                    break
                # who wants more than it holds uses what it holds, and a new lease's calls are on
                # their way: taking either for idle would only make leases wander
                is_in_use = other is not None and other.wanted > other.held
                if worker.recall == "" and not is_in_use and now >= worker.since + FRESH_S:
                    worker.recall = "idle"
                    worker.recall_words = 0 if other is None else other.words
                    effects.append(Send(worker.address, RecallLease(worker.lease, True)))
        return effects

    # workers

    def _make_room(self, missing: int, now: float) -> list[Effect]:
        """At the limit, idle workers of other jobs end before who comes later could have them."""
        staff = self.staff
        room = self.limits.workers_max - len(staff.workers) + staff.count("ending")
        lacking = missing - staff.count("starting") - room
        return [self.end(stranger, now) for stranger in staff.strangers()[: max(0, lacking)]]

    def _start_workers(self, missing: int, now: float) -> list[Effect]:
        """Fork what is lacking, and what the node keeps ready."""
        staff = self.staff
        ready = sum(
            1
            for one in staff.workers.values()
            if one.state in ("starting", "idle") or (one.state == "leased" and not one.is_blocked)
        )
        starting = staff.count("starting")
        count = max(missing - starting, self._kept() - ready)
        room = self.limits.workers_max - len(staff.workers)
        effects: list[Effect] = []
        wished = min(count, room, STARTING_MAX - starting)
        for _ in range(self.crashes.admit(wished, now)):
            incarnation = Incarnation(self.random.randbytes(8))
            staff.workers[incarnation] = WorkerState(incarnation, now)
            effects.append(StartWorker(incarnation))
        return effects

    def _kept(self) -> int:
        """How many workers stay without a lease.

        A call that waits is likely to wait for one that waits, too: have workers ready for those.
        """
        blocked = sum(1 for one in self.staff.workers.values() if one.is_blocked)
        return self.workers_kept + min(blocked, SPARE_WHILE_BLOCKED_MAX)

    def end_all(self, now: float) -> list[Effect]:
        """The node ends: start nothing more; what is idle ends now, the rest after its call."""
        self.is_ending = True
        effects: list[Effect] = []
        for worker in list(self.staff.workers.values()):
            if worker.state == "idle":
                effects.append(self.end(worker, now))
            elif worker.state == "starting":
                worker.is_doomed = True
                effects.append(StopWorker(worker.incarnation))
            elif worker.state != "ending":
                effects.append(Send(worker.address, EndWorker()))
        return effects

    def end(self, worker: WorkerState, now: float) -> Effect:
        worker.become("ending", now)
        return Send(worker.address, EndWorker())

    def on_worker_ready(self, source: Address, message: WorkerReady, now: float) -> list[Effect]:
        """A worker has started."""
        worker = self.staff.workers.get(incarnation_of(source))
        if worker is not None and worker.state == "starting":
            worker.pid = message.pid
            worker.become("idle", now)
            self.staff.failed_starts = 0
        return []

    def on_worker_blocked(
        self, source: Address, message: WorkerBlocked, now: float
    ) -> list[Effect]:
        """Its call waits for others: its share is lent out."""
        worker = self.staff.by_lease.get(message.lease)
        if worker is not None and worker.address == source and not worker.is_blocked:
            if worker.uses_resources:
                self.resources.give_back(worker.shape)
            worker.is_blocked = True
            worker.waits_in = message.name
        return []

    def on_worker_resumed(
        self, source: Address, message: WorkerResumed, now: float
    ) -> list[Effect]:
        """Its call goes on, whether or not there is room."""
        worker = self.staff.by_lease.get(message.lease)
        if worker is not None and worker.address == source and worker.is_blocked:
            worker.is_blocked = False
            if worker.uses_resources:
                self.resources.take(worker.shape)
        return []

    def start_failed(self) -> bool:
        """A worker did not come up; true if too many in a row did not."""
        self.staff.failed_starts += 1
        if self.staff.failed_starts < FAILED_STARTS_MAX:
            return False
        self.staff.failed_starts = 0
        return True

    def refuse_all(self, failure: Failure) -> list[Effect]:
        """Nobody who waits for a worker will get one."""
        effects: list[Effect] = []
        for demand in self.demands.waiting({}):
            demand.wanted = demand.held
            effects.append(Send(demand.client, Unschedulable(demand.shape_id, failure)))
        return effects
