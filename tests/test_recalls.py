"""Whose lease a node takes back when somebody waits: idle ones soon, others after a quantum."""

from random import Random

import pytest

from fabric.config import Limits
from fabric.core.effects import Effect, Send, StartWorker
from fabric.core.node.scheduling import FRESH_S, Scheduling
from fabric.ids import Address, Incarnation, JobId, address
from fabric.protocol.messages import (
    LeaseGranted,
    LeaseReturned,
    RecallLease,
    RequestLease,
    WorkerReady,
)
from fabric.protocol.values import UNIT, Shape

LIMITS = Limits()
QUANTUM_S = LIMITS.lease_quantum_s
ONE_CPU = Shape((("CPU", UNIT),))
FIRST, SECOND = (address("c", bytes([number] * 8)) for number in (1, 2))


class OneWorker:
    """A node's scheduling with one CPU, whose worker the first client has leased at time 0."""

    def __init__(self, wanted: int) -> None:
        self.scheduling = Scheduling(
            LIMITS, Random(1), {"CPU": UNIT}, workers_kept=1, is_client=lambda client: True
        )
        [start] = self.scheduling.serve(0, -1.0)
        assert isinstance(start, StartWorker)
        self.worker = address("w", start.worker)
        self.scheduling.on_worker_ready(self.worker, WorkerReady(1), -1.0)
        assert self.ask(FIRST, wanted, 0.0) == [Send(FIRST, LeaseGranted(0, 1, self.worker))]

    def ask(self, client: Address, wanted: int, now: float) -> list[Effect]:
        """What a client's word leads to."""
        job = JobId(Incarnation(bytes.fromhex(client[2:])))
        request = RequestLease(0, ONE_CPU, wanted, depth=0, job=job)
        self.scheduling.on_request_lease(client, request, now)
        return self.said(now)

    def said(self, now: float) -> list[Effect]:
        """What a turn says of leases; workers forked meanwhile do not matter here."""
        effects = self.scheduling.serve(0, now)
        return [each for each in effects if not isinstance(each, StartWorker)]


def test_a_lease_whose_first_calls_are_on_their_way_is_not_idle() -> None:
    one = OneWorker(wanted=1)
    assert one.ask(SECOND, 1, now=0.001) == []
    assert min(one.scheduling.dues()) == FRESH_S
    assert one.said(FRESH_S) == [Send(one.worker, RecallLease(1, only_if_idle=True))]


def test_who_wants_more_than_it_holds_keeps_its_lease_for_a_quantum() -> None:
    one = OneWorker(wanted=5)
    assert one.ask(SECOND, 5, now=0.001) == []
    assert one.said(FRESH_S) == []
    assert one.scheduling.dues() == [QUANTUM_S]
    assert one.said(QUANTUM_S) == [Send(one.worker, RecallLease(1, only_if_idle=False))]
    one.scheduling.on_lease_returned(one.worker, LeaseReturned(1), QUANTUM_S)
    assert one.scheduling.dues() == []


@pytest.mark.parametrize("now", [FRESH_S, QUANTUM_S, 1.0])
def test_what_has_passed_is_not_due_again(now: float) -> None:
    one = OneWorker(wanted=5)
    one.ask(SECOND, 5, now=0.001)
    one.said(now)
    assert [due for due in one.scheduling.dues() if due <= now] == []
