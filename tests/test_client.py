"""The client's machine: where its calls run, what becomes of them, and what their results wake."""

import pytest

from fabric.config import Limits
from fabric.core.client.client import ClientMachine
from fabric.core.effects import Drain, Effect, Hangup, Reply, Resolve, Send, WriteSegment
from fabric.core.events import (
    Ask,
    Await,
    DefineLocally,
    Drained,
    Drop,
    Leave,
    PeerLost,
    Put,
    SegmentWritten,
    Submit,
    WantSegment,
)
from fabric.ids import FunctionId
from fabric.protocol.messages import (
    Allocate,
    Allocated,
    CallsDone,
    CallsReturned,
    ClientDied,
    ClientRegistered,
    FreeObjects,
    FunctionFound,
    GetFunction,
    LeaseGranted,
    PutFunction,
    RegisterClient,
    ReturnLease,
    SealObject,
    Taken,
    UnregisterClient,
    Unschedulable,
    WorkerDied,
)
from fabric.protocol.values import Failure, Progress, Sealed
from tests.core_words import (
    CPU,
    CRASHED,
    HALF,
    ME,
    NODE,
    OTHER,
    RAISED,
    SPEC,
    W1,
    W2,
    F,
    G,
    Ref,
    c,
    define,
    done,
    hear,
    introduced,
    introductions,
    leased,
    me_of,
    new_client,
    o,
    requested,
    runs,
    sealed,
    spec,
    submit,
    tell,
)


def answered(client: ClientMachine, lease: int, *numbers: int) -> list[Effect]:
    """Those calls come back from `W1` under that lease."""
    return hear(client, W1, CallsDone(lease, [done(n) for n in numbers]))


# -- one call after another


def test_the_node_knows_a_client_before_anything_is_asked() -> None:
    client = ClientMachine(ME, NODE, SPEC, Limits(), is_driver=True, pid=7, entrypoint="here")
    shared = DefineLocally(F, "f", b"pickled", is_shared=True)
    assert tell(client, shared) == [
        Send(NODE, RegisterClient(7, True, SPEC, "here")),
        Send(NODE, PutFunction(F, "f", b"pickled")),
    ]
    assert tell(client) == []


def test_a_call_asks_for_a_worker_and_runs_on_it() -> None:
    client = new_client()
    assert tell(client, submit(1)) == [Send(NODE, requested(1))]
    assert hear(client, NODE, LeaseGranted(0, 1, W1)) == [
        *introductions(W1),
        runs(W1, 1, spec(1)),
    ]
    assert answered(client, 1, 1) == [Resolve(o(1), b"v")]
    assert client.calls.pending == {}


def test_a_worker_is_introduced_once() -> None:
    client = new_client()
    leased(client, W1)
    client.introduced.clear()
    assert tell(client, submit(1)) == [*introductions(W1), runs(W1, 1, spec(1))]
    assert tell(client, submit(2)) == [runs(W1, 1, spec(2, 1))]


def test_a_result_sends_the_calls_that_waited_for_it_in_the_same_turn() -> None:
    client = new_client()
    leased(client, W1)
    assert tell(client, submit(1), submit(2, o(1))) == [runs(W1, 1, spec(1))]
    assert answered(client, 1, 1) == [
        Resolve(o(1), b"v"),
        runs(W1, 1, spec(2, 1, inputs=(b"v",))),
    ]


def test_an_argument_that_resolved_on_the_way_is_taken_from_its_ref() -> None:
    client = new_client()
    leased(client, W1)
    late = Submit(c(2), F, CPU, b"args", (Await(o(1), Ref(b"v")),), (), 1, 3)
    assert tell(client, late) == [runs(W1, 1, spec(2, inputs=(b"v",)))]


def test_the_same_argument_twice_is_waited_for_once() -> None:
    client = new_client()
    leased(client, W1)
    tell(client, submit(1), submit(2, o(1), o(1)))
    assert answered(client, 1, 1) == [
        Resolve(o(1), b"v"),
        runs(W1, 1, spec(2, 1, inputs=(b"v", b"v"))),
    ]


def test_a_failed_argument_fails_the_call_and_all_that_wait_for_it() -> None:
    client = new_client()
    leased(client, W1)
    tell(client, submit(1), submit(2, o(1)), submit(3, o(2)))
    assert hear(client, W1, CallsDone(1, [done(1, RAISED)])) == [
        Resolve(o(1), RAISED),
        Resolve(o(2), RAISED),
        Resolve(o(3), RAISED),
    ]


def test_a_failure_runs_down_a_chain_of_any_length() -> None:
    client = new_client()
    leased(client, W1)
    tell(client, submit(1), *(submit(n, o(n - 1)) for n in range(2, 5000)))
    assert len(hear(client, W1, CallsDone(1, [done(1, RAISED)]))) == 4999


def test_a_sealed_result_stays_known_until_its_ref_goes() -> None:
    client = new_client()
    leased(client, W1)
    tell(client, submit(1))
    assert hear(client, W1, CallsDone(1, [done(1, sealed(1))])) == [Resolve(o(1), sealed(1))]
    assert tell(client, submit(2, o(1))) == [runs(W1, 1, spec(2, 1, inputs=(sealed(1),)))]
    assert tell(client, Drop((o(1),))) == []
    assert answered(client, 1, 2) == [Resolve(o(2), b"v"), Send(NODE, FreeObjects((o(1),)))]


def test_a_result_whose_ref_was_dropped_is_freed_when_it_comes() -> None:
    client = new_client()
    leased(client, W1)
    tell(client, submit(1), Drop((o(1),)))
    assert hear(client, W1, CallsDone(1, [done(1, sealed(1))])) == [
        Resolve(o(1), sealed(1)),
        Send(NODE, FreeObjects((o(1),))),
    ]


def test_a_put_that_is_an_argument_is_held_while_the_call_runs() -> None:
    client = new_client()
    leased(client, W1)
    tell(client, Put(o(9), sealed(9)), submit(1, nested=(o(9),)), Drop((o(9),)))
    assert answered(client, 1, 1) == [Resolve(o(1), b"v"), Send(NODE, FreeObjects((o(9),)))]


# -- windows


def test_one_call_at_a_time_goes_to_a_worker_until_the_function_is_measured() -> None:
    client = new_client()
    introduced(client, W1)
    tell(client, submit(1), submit(2), submit(3))
    assert hear(client, NODE, LeaseGranted(0, 1, W1)) == [runs(W1, 1, spec(1))]
    assert answered(client, 1, 1) == [
        Resolve(o(1), b"v"),
        runs(W1, 1, spec(2, 1), spec(3, 2)),
        Send(NODE, requested(1)),
    ]


def test_the_window_is_a_time() -> None:
    client = new_client(window_s=0.003)
    leased(client, W1)
    assert tell(client, *(submit(n) for n in range(1, 6)))[0] == runs(
        W1, 1, spec(1), spec(2, 1), spec(3, 2)
    )
    assert answered(client, 1, 1)[1] == runs(W1, 1, spec(4, 3))


def test_a_call_longer_than_the_window_runs_alone() -> None:
    client = new_client()
    leased(client, W1)
    client.calls.durations[F] = 5.0
    assert tell(client, submit(1), submit(2))[0] == runs(W1, 1, spec(1))


def test_the_window_is_bounded_in_calls_and_in_bytes() -> None:
    client = new_client(window_calls_max=2)
    leased(client, W1)
    assert tell(client, submit(1), submit(2), submit(3))[0] == runs(W1, 1, spec(1), spec(2, 1))
    client = new_client(window_bytes_max=5)
    leased(client, W1)
    assert tell(client, submit(1), submit(2))[0] == runs(W1, 1, spec(1))


def test_ready_calls_are_spread_over_the_leases() -> None:
    client = new_client()
    leased(client, W1, W2)
    assert tell(client, *(submit(n) for n in range(1, 5))) == [
        runs(W1, 1, spec(1), spec(2, 1)),
        runs(W2, 2, spec(3), spec(4, 1)),
    ]


# -- asking for workers


def test_more_workers_are_asked_for_in_powers_of_two() -> None:
    client = new_client()
    assert tell(client, submit(1)) == [Send(NODE, requested(1))]
    assert tell(client, submit(2)) == [Send(NODE, requested(2))]
    assert tell(client, submit(3)) == [Send(NODE, requested(4))]
    assert tell(client, submit(4)) == []
    assert tell(client, submit(5)) == [Send(NODE, requested(8))]


def test_no_more_workers_are_asked_for_than_the_waiting_work_is_worth() -> None:
    client = new_client()
    leased(client, W1)
    client.calls.durations[F] = 0.000_01
    tell(client, *(submit(n) for n in range(1, 2001)))
    assert tell(client, *(submit(n) for n in range(2001, 2300))) == [Send(NODE, requested(4))]


def test_what_is_not_needed_any_more_is_not_wanted_any_more() -> None:
    client = new_client()
    introduced(client, W1)
    tell(client, submit(1), submit(2), submit(3))
    hear(client, NODE, LeaseGranted(0, 1, W1))
    assert answered(client, 1, 1) == [
        Resolve(o(1), b"v"),
        runs(W1, 1, spec(2, 1), spec(3, 2)),
        Send(NODE, requested(1)),
    ]


def test_shapes_have_queues_of_their_own() -> None:
    client = new_client()
    assert tell(client, submit(1), submit(2, shape=HALF)) == [
        Send(NODE, requested(1)),
        Send(NODE, requested(1, HALF, shape_id=1)),
    ]


def test_an_idle_lease_goes_back_after_a_while() -> None:
    client = new_client()
    leased(client, W1)
    assert client.deadline() == 1.0
    assert tell(client, now=0.9) == []
    assert tell(client, now=1.0) == [Send(NODE, ReturnLease(1))]
    assert client.deadline() is None
    assert tell(client, submit(1), now=1.0) == [Send(NODE, requested(1))]


def test_a_grant_that_crosses_a_return_is_used_or_goes_back_like_any_other() -> None:
    client = new_client()
    leased(client, W1)
    client.tasks.leases.queues[0].asked = 2
    assert tell(client, now=1.0) == [Send(NODE, ReturnLease(1))]
    assert hear(client, NODE, LeaseGranted(0, 2, W2), now=1.0) == []
    assert tell(client, now=2.0) == [Send(NODE, ReturnLease(2))]


def test_a_shape_that_nobody_can_run_fails_what_waits_for_it() -> None:
    client = new_client()
    tell(client, submit(1), submit(2))
    failure = Failure("unschedulable", "no node can run it")
    assert hear(client, NODE, Unschedulable(0, failure)) == [
        Resolve(o(1), failure),
        Resolve(o(2), failure),
    ]


def test_after_a_refusal_a_new_call_of_that_shape_asks_again() -> None:
    client = new_client()
    tell(client, submit(1), submit(2), submit(3))
    hear(client, NODE, Unschedulable(0, Failure("unschedulable", "not yet")))
    assert tell(client, submit(4)) == [Send(NODE, requested(1))]


# -- what workers hand back


def test_calls_that_come_back_go_to_another_worker_uncharged() -> None:
    client = new_client()
    leased(client, W1)
    tell(client, submit(1), submit(2), submit(3))
    assert hear(client, W1, CallsReturned(1, (1, 2), is_lease_over=False)) == [
        Send(NODE, requested(4))
    ]
    assert hear(client, NODE, LeaseGranted(0, 2, W2)) == [
        *introductions(W2),
        runs(W2, 2, spec(2), spec(3, 1)),
        Send(NODE, requested(2)),
    ]


def test_a_worker_that_handed_calls_back_gets_no_more_before_it_answers() -> None:
    client = new_client()
    leased(client, W1)
    tell(client, submit(1), submit(2))
    assert hear(client, W1, CallsReturned(1, (1,), is_lease_over=False)) == [
        Send(NODE, requested(2))
    ]
    assert answered(client, 1, 1) == [
        Resolve(o(1), b"v"),
        runs(W1, 1, spec(2, 2)),
        Send(NODE, requested(1)),
    ]


def test_a_recalled_lease_ends_when_what_runs_is_answered() -> None:
    client = new_client()
    leased(client, W1)
    tell(client, submit(1), submit(2))
    hear(client, W1, CallsReturned(1, (1,), is_lease_over=True))
    assert client.snapshot()["leases"] == 1
    assert answered(client, 1, 1) == [Resolve(o(1), b"v"), Send(NODE, requested(1))]
    assert client.snapshot()["leases"] == 0


def test_a_lost_lease_is_asked_for_again_although_the_node_was_told_before() -> None:
    client = new_client()
    leased(client, W1)
    tell(client, submit(1))
    assert hear(client, W1, CallsReturned(1, (0,), is_lease_over=True)) == [
        Send(NODE, requested(1))
    ]


def test_an_idle_lease_that_was_recalled_is_wanted_no_longer() -> None:
    client = new_client()
    leased(client, W1)
    assert hear(client, W1, CallsReturned(1, (), is_lease_over=True)) == [Send(NODE, requested(0))]
    assert client.deadline() is None


def test_calls_returned_by_another_than_the_leased_worker_are_ignored() -> None:
    client = new_client()
    leased(client, W1)
    tell(client, submit(1))
    assert hear(client, W2, CallsReturned(1, (0,), is_lease_over=True)) == []


def test_calls_that_finish_although_their_lease_was_recalled_count() -> None:
    client = new_client()
    leased(client, W1)
    tell(client, submit(1), submit(2), submit(3))
    hear(client, W1, CallsReturned(1, (2,), is_lease_over=True))
    assert answered(client, 1, 1, 2)[:2] == [Resolve(o(1), b"v"), Resolve(o(2), b"v")]
    assert client.snapshot() == {
        "pending": 1,
        "ready": 1,
        "leases": 0,
        "owned": 0,
        "borrowed": 0,
        "actors": 0,
    }


# -- workers that die


def died(client: ClientMachine, progress: Progress | None, lease: int = 1) -> list[Effect]:
    """The worker of that lease is gone; all it said has been heard."""
    assert hear(client, NODE, WorkerDied(W1, lease, progress, CRASHED)) == [Drain(W1)]
    return tell(client, Drained(W1))


def test_after_a_death_the_running_call_is_charged_and_its_neighbours_are_innocent() -> None:
    client = new_client()
    leased(client, W1)
    tell(client, submit(1), submit(2), submit(3, retries=0))
    answered(client, 1, 1)
    assert died(client, Progress(me_of(ME), 1, 1, finished=False)) == [
        Hangup(W1),
        Send(NODE, requested(2)),
    ]
    introduced(client, W2)
    assert hear(client, NODE, LeaseGranted(0, 2, W2)) == [
        runs(W2, 2, spec(2, 0, attempt=2), spec(3, 1)),
        Send(NODE, requested(1)),
    ]


def test_a_call_without_retries_that_may_have_run_fails() -> None:
    client = new_client()
    leased(client, W1)
    tell(client, submit(1, retries=0))
    assert died(client, Progress(me_of(ME), 1, 0, finished=True)) == [
        Resolve(o(1), CRASHED),
        Hangup(W1),
        Send(NODE, requested(0)),
        Send(NODE, FreeObjects((o(1),))),
    ]


def test_calls_of_a_worker_that_died_before_it_started_any_are_innocent() -> None:
    client = new_client()
    leased(client, W1)
    tell(client, submit(1, retries=0))
    died(client, None)
    hear(client, NODE, LeaseGranted(0, 2, W2))
    assert client.calls.pending[c(1)].attempt == 1


def test_last_words_count() -> None:
    client = new_client()
    leased(client, W1)
    tell(client, submit(1, retries=0))
    hear(client, NODE, WorkerDied(W1, 1, Progress(me_of(ME), 1, 0, True), CRASHED))
    assert answered(client, 1, 1) == [Resolve(o(1), b"v")]
    assert tell(client, Drained(W1)) == [Hangup(W1), Send(NODE, requested(0))]


def test_nothing_is_sent_to_a_worker_that_is_dead() -> None:
    client = new_client()
    leased(client, W1)
    hear(client, NODE, WorkerDied(W1, 1, None, CRASHED))
    assert tell(client, submit(1)) == []
    assert client.deadline() is None
    assert tell(client, Drained(W1)) == [Hangup(W1), Send(NODE, requested(1))]


def test_an_attempt_that_is_over_counts_no_more() -> None:
    client = new_client()
    leased(client, W1)
    tell(client, submit(1))
    died(client, Progress(me_of(ME), 1, 0, finished=False))
    introduced(client, W2)
    hear(client, NODE, LeaseGranted(0, 2, W2))
    assert hear(client, W1, CallsDone(1, [done(1, attempt=1)])) == []
    assert hear(client, W2, CallsDone(2, [done(1, attempt=2)])) == [
        Resolve(o(1), b"v"),
        Send(NODE, FreeObjects((o(1),))),  # what the first attempt may have sealed
    ]


def test_calls_of_an_older_lease_at_a_dead_worker_may_have_run() -> None:
    client = new_client()
    leased(client, W1)
    tell(client, submit(1), submit(2))
    hear(client, W1, CallsReturned(1, (1,), is_lease_over=True))
    died(client, None, lease=0)  # it was another client's when it died; our answer is lost
    assert client.calls.pending[c(1)].attempt == 2


def test_a_call_ends_after_its_last_retry() -> None:
    client = new_client()
    tell(client, submit(1, retries=1))
    introduced(client, W1)
    hear(client, NODE, LeaseGranted(0, 1, W1))
    assert died(client, Progress(me_of(ME), 1, 0, False)) == [
        Hangup(W1),
        Send(NODE, requested(1)),
    ]
    introduced(client, W1)
    hear(client, NODE, LeaseGranted(0, 2, W1))
    assert died(client, Progress(me_of(ME), 2, 0, False), lease=2)[0] == Resolve(o(1), CRASHED)


# -- the node and the others


def test_without_a_node_everything_that_waits_fails_and_nothing_is_said_to_it() -> None:
    client = new_client()
    leased(client, W1)
    tell(client, submit(1), submit(2, o(1)))
    tell(client, Ask(b"who?", GetFunction(G)), WantSegment(o(5), 0, 10))
    lost = Failure("cluster", "the node is gone: killed")
    assert tell(client, PeerLost(NODE, "killed")) == [
        WriteSegment(o(5), 0, "", 0, False, lost),
        Resolve(o(1), lost),
        Resolve(o(2), lost),
        Reply(b"who?", lost),
        Hangup(W1),
    ]
    assert tell(client, submit(3), Ask(b"again", GetFunction(G)), WantSegment(o(6), 0, 10)) == [
        Resolve(o(3), lost),
        Reply(b"again", lost),
        WriteSegment(o(6), 0, "", 0, False, lost),
    ]
    assert tell(client, Put(o(9), sealed(9)), Drop((o(9),)), Leave()) == []


def test_questions_to_the_control_store_are_asked_once_and_answered_to_all() -> None:
    client = new_client()
    assert tell(client, Ask(b"one", GetFunction(G))) == [Send(NODE, GetFunction(G))]
    assert tell(client, Ask(b"two", GetFunction(G))) == []
    found = FunctionFound(G, "g", b"pickled")
    assert hear(client, NODE, found) == [Reply(b"one", found), Reply(b"two", found)]
    assert hear(client, NODE, found) == []


def test_a_client_says_goodbye() -> None:
    assert tell(new_client(), Leave()) == [Send(NODE, UnregisterClient())]


def test_the_welcome_of_the_node_reaches_who_waits_for_it() -> None:
    welcome = ClientRegistered(me_of(NODE), (), "S")
    assert hear(new_client(), NODE, welcome) == [Reply(b"registered", welcome)]


def test_room_for_a_large_put_is_asked_of_the_node() -> None:
    client = new_client()
    assert tell(client, WantSegment(o(5), 0, 10)) == [Send(NODE, Allocate(o(5), 0, 10))]
    assert hear(client, NODE, Allocated(o(5), 0, "S-1", 1, False)) == [
        WriteSegment(o(5), 0, "S-1", 1, False)
    ]
    assert tell(client, SegmentWritten(o(5), 0), Put(o(5), sealed(1))) == [
        Send(NODE, SealObject(o(5), 0))
    ]


def test_the_link_to_a_client_that_died_is_closed() -> None:
    assert hear(new_client(), NODE, ClientDied(me_of(OTHER))) == [Hangup(OTHER)]


def test_a_result_that_nobody_expects_lets_go_of_what_is_in_it() -> None:
    client = new_client()
    leased(client, W1)
    stray = done(7, contained=((o(1, client=OTHER),),))
    assert hear(client, W1, CallsDone(1, [stray])) == [Send(W1, Taken((c(7),)))]


@pytest.mark.parametrize("value", [b"v", RAISED])
def test_a_small_result_leaves_nothing_in_the_tables(value: bytes | Failure | Sealed) -> None:
    client = new_client()
    leased(client, W1)
    tell(client, submit(1))
    hear(client, W1, CallsDone(1, [done(1, value)]))
    assert client.references.objects.owned == {}
    assert client.calls.pending == {}
    assert client.calls.dependents == {}


def test_functions_are_defined_for_workers_that_need_them_only() -> None:
    client = new_client()
    leased(client, W1)
    client.introduced[W1] = {FunctionId(b""): None}
    tell(client, define(G))
    effects = tell(client, submit(1, function=G))
    assert [type(one.message).__name__ for one in effects if isinstance(one, Send)] == [
        "DefineFunction",
        "RunCalls",
    ]
