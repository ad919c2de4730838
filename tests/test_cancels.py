"""Cancelled calls, machine by machine: the owner, the worker, the node."""

from typing import Any

import pytest
from msgspec.structs import replace

from fabric.core.client.client import ClientMachine
from fabric.core.effects import (
    Drain,
    Effect,
    Interrupt,
    KillRunning,
    Reply,
    Resolve,
    Send,
    StopWorker,
)
from fabric.core.events import CallRan, Cancel, CancelSince, Drained, Drop, PeerLost
from fabric.ids import Address, ObjectId, incarnation_of
from fabric.protocol.messages import (
    ActorChanged,
    CallsDone,
    CallsReturned,
    CancelCalls,
    CancelObject,
    ClientDied,
    FreeObjects,
    KillCall,
    LeaseGranted,
    RequestLease,
    ReturnLease,
    RunCalls,
    WorkerDied,
)
from fabric.protocol.values import ActorView, CallDone, Crash, Failure, Progress
from tests.core_words import (
    CPU,
    INNER,
    JOB,
    ME,
    NODE,
    OTHER,
    W1,
    W2,
    F,
    a,
    answers,
    ask,
    c,
    done,
    granted,
    hear,
    killed,
    leased,
    new_client,
    new_worker,
    o,
    ready,
    registered,
    requested,
    run,
    runs,
    sealed,
    spec,
    submit,
    tell,
)

UNSENT = Failure("cancelled", "it was cancelled before it was sent to a worker")
AT_WORKER = Failure("cancelled", "it was cancelled at its worker")
SKIPPED = Failure("cancelled", "it was cancelled before it began")
ASKED = b"asked"


def cancel(object_id: ObjectId, force: bool = False, recursive: bool = True) -> Cancel:
    """A user's thread cancels."""
    return Cancel(ASKED, object_id, force, recursive)


def yes(object_id: ObjectId, force: bool = False) -> Reply:
    """It hears that the call is over."""
    return Reply(ASKED, CancelObject(object_id, force, True))


def sent(*numbers: int, **limits: Any) -> ClientMachine:
    """A client with these calls at `W1` under lease 1."""
    client = new_client(**limits)
    leased(client, W1)
    calls = [spec(number, at) for at, number in enumerate(numbers)]
    assert tell(client, *(submit(number) for number in numbers)) == [runs(W1, 1, *calls)]
    return client


def died(number: int, finished: bool = False) -> WorkerDied:
    """The worker of lease 1 is gone, and had begun that number."""
    return WorkerDied(W1, (Progress(incarnation_of(ME), 1, number, finished),), 0, Crash(signal=9))


# -- the owner


def test_a_call_that_waits_for_a_worker_is_over_and_never_sent() -> None:
    client = new_client()
    tell(client, submit(1), submit(2))
    assert tell(client, cancel(o(1))) == [Resolve(o(1), UNSENT), yes(o(1))]
    leased_now = hear(client, NODE, LeaseGranted(0, 1, W1))
    assert runs(W1, 1, spec(2)) in leased_now


def test_when_the_last_ready_call_is_over_no_worker_is_wanted() -> None:
    client = new_client()
    tell(client, submit(1))
    assert tell(client, cancel(o(1))) == [
        Resolve(o(1), UNSENT),
        yes(o(1)),
        Send(NODE, RequestLease(0, CPU, 0, 0, JOB)),
    ]


def test_a_call_that_waits_for_an_argument_is_over_and_what_waits_for_it_fails_with_it() -> None:
    client = sent(1)
    tell(client, submit(2, o(1)), submit(3, o(2)))
    assert tell(client, cancel(o(2))) == [
        Resolve(o(2), UNSENT),
        yes(o(2)),
        Resolve(o(3), UNSENT),
    ]
    assert hear(client, W1, CallsDone(1, [done(1)])) == [Resolve(o(1), b"v")]
    assert client.calls.pending == {}


def test_a_call_at_a_worker_is_over_at_once_and_the_worker_is_told() -> None:
    client = sent(1, 2)
    assert tell(client, cancel(o(2))) == [
        Resolve(o(2), AT_WORKER),
        Send(W1, CancelCalls(1, (1,), False, True)),
        yes(o(2)),
    ]
    assert hear(client, W1, CallsDone(1, [done(1)])) == [Resolve(o(1), b"v")]
    assert client.deadline() == 5.0
    assert hear(client, W1, CallsDone(1, [done(2, SKIPPED)])) == []
    assert client.calls.over == {}


def test_what_it_was_given_is_kept_until_its_worker_answers() -> None:
    client = new_client()
    leased(client, W1)
    tell(client, submit(1, nested=(o(9),)))
    tell(client, Drop((o(9),)))
    tell(client, cancel(o(1)))
    assert o(9) in client.references.objects.owned
    hear(client, W1, CallsDone(1, [done(1)]))
    assert client.references.objects.owned == {}


def test_a_value_that_comes_all_the_same_is_freed() -> None:
    client = sent(1)
    tell(client, cancel(o(1)))
    assert hear(client, W1, CallsDone(1, [done(1, sealed(1))])) == [
        Send(NODE, FreeObjects((o(1),)))
    ]


def test_a_task_that_goes_on_after_its_grace_is_ended_and_again_if_need_be() -> None:
    client = sent(1, cancel_grace_s=5.0)
    tell(client, cancel(o(1)), now=10.0)
    assert client.deadline() == 15.0
    assert tell(client, now=15.0) == [Send(NODE, KillCall(1, 0))]
    assert client.deadline() == 20.0
    assert hear(client, W1, CallsDone(1, [done(1)]), now=16.0) == []
    assert client.deadline() == 17.0  # of the idle lease


def test_force_leaves_the_worker_only_the_time_to_hand_back() -> None:
    client = sent(1, 2)
    assert tell(client, cancel(o(1), force=True)) == [
        Resolve(o(1), AT_WORKER),
        Send(W1, CancelCalls(1, (0,), True, True)),
        yes(o(1), force=True),
    ]
    assert client.deadline() == 0.1
    assert hear(client, W1, CallsReturned(1, (1,), False)) == [
        Send(NODE, RequestLease(0, CPU, 2, 0, JOB))
    ]


def test_the_death_of_a_cancelled_calls_worker_charges_nobody() -> None:
    client = sent(1, 2, 3)  # 1 was done, its answer is lost; 2 is cancelled; 3 never began
    tell(client, cancel(o(2), force=True))
    assert hear(client, NODE, died(1)) == [Drain(W1)]
    effects = tell(client, Drained(W1))
    assert [one for one in effects if type(one) is Resolve] == []
    again = list(client.tasks.leases.queues[0].ready)
    assert [(call.call_id, call.attempt, call.retries) for call in again] == [
        (c(1), 2, 3),
        (c(3), 1, 3),
    ]
    assert client.calls.over == {}


def test_a_call_that_may_run_only_once_is_not_repeated_even_then() -> None:
    client = new_client()
    client.calls.measured(F, 0.001)
    tell(client, submit(1, retries=0), submit(2, retries=0))
    hear(client, NODE, LeaseGranted(0, 1, W1))
    tell(client, cancel(o(2), force=True))
    hear(client, NODE, died(1))
    (said,) = (one for one in tell(client, Drained(W1)) if type(one) is Resolve)
    assert said.object_id == o(1)
    assert isinstance(said.value, Failure)
    assert said.value.kind == "worker_crashed"


def test_a_cancelled_call_that_is_handed_back_goes_nowhere() -> None:
    client = sent(1, 2)
    tell(client, cancel(o(2)))
    hear(client, W1, CallsReturned(1, (1,), False))
    assert not client.tasks.leases.queues[0].ready
    assert client.calls.over == {}


def test_a_finished_call_is_left_alone() -> None:
    client = sent(1)
    hear(client, W1, CallsDone(1, [done(1)]))
    assert tell(client, cancel(o(1))) == [yes(o(1))]


def test_another_owner_is_asked_and_does_the_same() -> None:
    client = new_client()
    theirs = o(4, client=OTHER)
    assert tell(client, cancel(theirs))[-2:] == [
        Send(OTHER, CancelObject(theirs, False, True)),
        yes(theirs),
    ]
    owner = sent(1)
    assert hear(owner, OTHER, CancelObject(o(1), False, False)) == [
        Resolve(o(1), AT_WORKER),
        Send(W1, CancelCalls(1, (0,), False, False)),
    ]


def test_what_a_cancelled_call_has_called_is_cancelled_and_nothing_older() -> None:
    client = sent(1, 2, 3)
    effects = tell(client, CancelSince(2))
    assert [one.object_id for one in effects if type(one) is Resolve] == [o(2), o(3)]
    assert Send(W1, CancelCalls(1, (1,), False, True)) in effects
    assert list(client.calls.pending) == [c(1)]


def test_without_its_node_nothing_is_over_and_still_somewhere() -> None:
    client = sent(1)
    tell(client, cancel(o(1)))
    tell(client, PeerLost(NODE, "gone"))
    assert client.calls.over == {}
    assert client.deadline() is None


# -- calls that may run only so long


def timed(number: int, timeout_s: float) -> Any:
    """A call of a task with `timeout_s`."""
    return replace(submit(number), timeout_s=timeout_s)


def test_a_call_is_timed_from_when_the_one_before_it_was_answered() -> None:
    client = new_client(lease_idle_s=100.0)
    tell(client, timed(1, 2.0), timed(2, 2.0))
    hear(client, NODE, LeaseGranted(0, 1, W1), now=10.0)
    assert client.deadline() == 12.0
    hear(client, W1, CallsDone(1, [done(1)]), now=11.0)
    assert client.deadline() == 13.0
    late = Failure("cancelled", "it ran longer than its timeout_s of 2 s")
    assert tell(client, now=13.0) == [
        Resolve(o(2), late),
        Send(W1, CancelCalls(1, (1,), False, True)),
    ]
    assert client.deadline() == 18.0
    assert hear(client, W1, CallsDone(1, [done(2)]), now=14.0) == []


def test_an_answer_in_the_last_moment_counts() -> None:
    client = new_client()
    tell(client, timed(1, 2.0))
    hear(client, NODE, LeaseGranted(0, 1, W1))
    assert hear(client, W1, CallsDone(1, [done(1)]), now=2.0)[0] == Resolve(o(1), b"v")


def test_what_waits_for_a_call_that_took_too_long_fails_in_the_same_turn() -> None:
    client = new_client()
    tell(client, timed(1, 2.0), submit(2, o(1)))
    hear(client, NODE, LeaseGranted(0, 1, W1))
    late = Failure("cancelled", "it ran longer than its timeout_s of 2 s")
    assert Resolve(o(2), late) in tell(client, now=2.0)


def test_calls_with_other_times_have_leases_of_their_own() -> None:
    client = new_client()
    effects = tell(client, submit(1), timed(2, 1.0), timed(3, 2.0), timed(4, 1.0))
    assert [one.message.shape_id for one in effects if type(one) is Send][-3:] == [0, 1, 2]


# -- calls of actors


def actor_called(*numbers: int) -> ClientMachine:
    """A client with these calls at an actor's worker, under lease 7."""
    client = new_client()
    tell(client, *(ask(number, a(5, OTHER)) for number in numbers))
    alive = ActorView(a(5, OTHER), "alive", 1, "Counter", worker=W2, lease=7)
    hear(client, NODE, ActorChanged(alive))
    return client


def test_an_actors_call_is_interrupted_and_never_ended_with_its_worker() -> None:
    client = actor_called(1, 2)
    assert tell(client, cancel(o(1))) == [
        Resolve(o(1), AT_WORKER),
        Send(W2, CancelCalls(7, (0,), False, True)),
        yes(o(1)),
    ]
    assert client.deadline() is None
    assert hear(client, W2, CallsDone(7, [done(1)])) == []
    assert hear(client, W2, CallsDone(7, [done(2)])) == [Resolve(o(2), b"v")]


def test_force_is_refused_for_an_actors_call_and_nothing_is_cancelled() -> None:
    client = actor_called(1)
    assert tell(client, cancel(o(1), force=True)) == [yes(o(1), force=False)]
    assert hear(client, W2, CallsDone(7, [done(1)])) == [Resolve(o(1), b"v")]


def test_who_waited_behind_a_cancelled_call_of_an_actor_goes_on() -> None:
    client = sent(1)
    tell(client, ask(2, a(5, OTHER), o(1)), ask(3, a(5, OTHER)))
    alive = ActorView(a(5, OTHER), "alive", 1, "Counter", worker=W2, lease=7)
    assert hear(client, NODE, ActorChanged(alive)) == []
    effects = tell(client, cancel(o(2)))
    assert effects[:2] == [Resolve(o(2), UNSENT), yes(o(2))]
    (calls,) = (one.message.calls for one in effects if _is_run(one))
    assert [(call.call_id, call.number) for call in calls] == [(c(3), 0)]


def _is_run(effect: Effect) -> bool:
    return type(effect) is Send and type(effect.message) is RunCalls


# -- the worker


def test_a_queued_call_is_skipped_and_answered() -> None:
    worker = new_worker()
    hear(worker, ME, RunCalls(1, 0, [spec(1, 0), spec(2, 1), spec(3, 2)]))
    assert hear(worker, ME, CancelCalls(1, (1,), False, True)) == []
    skipped = CallDone(c(2), 1, (SKIPPED,), 0)
    assert tell(worker, CallRan(done(1))) == [answers(ME, 1, skipped, done(1)), run(3, 2)]


def test_the_running_call_is_interrupted_and_ends_as_any_other() -> None:
    worker = new_worker()
    hear(worker, ME, RunCalls(1, 0, [spec(1, 0), spec(2, 1)]))
    assert hear(worker, ME, CancelCalls(1, (0,), False, True)) == [Interrupt(c(1), True)]
    assert tell(worker, CallRan(done(1))) == [answers(ME, 1, done(1)), run(2, 1)]


def test_by_force_what_is_queued_goes_back_before_the_worker_ends() -> None:
    worker = new_worker()
    hear(worker, ME, RunCalls(1, 0, [spec(1, 0), spec(2, 1)]))
    assert hear(worker, ME, CancelCalls(1, (0,), True, True)) == [
        Send(ME, CallsReturned(1, (1,), False)),
        Send(NODE, KillCall(1, 0)),
    ]


@pytest.mark.parametrize(
    ("caller", "lease", "number"),
    [(ME, 1, 5), (ME, 2, 0), (OTHER, 1, 0)],
    ids=["number", "lease", "caller"],
)
def test_whoever_is_not_meant_is_not_touched(caller: Address, lease: int, number: int) -> None:
    worker = new_worker()
    hear(worker, ME, RunCalls(1, 0, [spec(1, 0), spec(2, 1)]))
    assert hear(worker, caller, CancelCalls(lease, (number,), False, True)) == []
    assert len(worker.queue) == 1


def test_a_call_whose_client_crashed_is_interrupted_and_one_that_left_goes_on() -> None:
    for is_orderly, struck in ((False, True), (True, False)):
        worker = new_worker()
        hear(worker, ME, RunCalls(1, 0, [spec(1, 0)]))
        effects = hear(worker, NODE, ClientDied(incarnation_of(ME), is_orderly))
        assert (Interrupt(c(1), True) in effects) == struck


# -- the node


def test_the_node_ends_a_running_call_for_its_client_or_its_worker_only() -> None:
    node = registered(ready(2), OTHER)
    hear(node, ME, requested(1))
    assert hear(node, OTHER, KillCall(1, 4)) == []
    assert hear(node, ME, KillCall(9, 4)) == []
    kill = KillRunning(incarnation_of(W1), 1, 4)
    assert hear(node, ME, KillCall(1, 4)) == [kill]
    assert hear(node, W1, KillCall(1, 4)) == [kill]
    hear(node, ME, ReturnLease(1))
    assert hear(node, ME, KillCall(1, 4)) == []


def test_a_call_whose_client_crashed_gets_a_grace_and_then_its_worker_ends() -> None:
    node = registered(ready(2), INNER)
    hear(node, ME, requested(1))
    assert granted(2, W2, INNER) in hear(node, INNER, requested(1, depth=1))
    tell(node, killed(W1), now=10.0)
    assert StopWorker(incarnation_of(W2)) not in tell(node, now=14.9)
    assert StopWorker(incarnation_of(W2)) in tell(node, now=15.0)
    assert StopWorker(incarnation_of(W2)) not in tell(node, now=30.0)
