"""The client's machine: where its calls run, what becomes of them, and what their results wake."""

import pytest

from fabric.config import Limits
from fabric.core.client.client import ClientMachine
from fabric.core.effects import Hangup, Reply, Resolve, Send, WriteSegment
from fabric.core.events import (
    Ask,
    Await,
    DefineLocally,
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
    ClientDied,
    ClientRegistered,
    FreeObjects,
    FunctionFound,
    GetFunction,
    LeaseGranted,
    PutFunction,
    RegisterClient,
    SealObject,
    Taken,
    UnregisterClient,
)
from fabric.protocol.values import Failure, Sealed
from tests.core_words import (
    CPU,
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
    answered,
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
