"""A client's actors: made when their arguments are there, called in order, ended by handles."""

from msgspec.structs import replace

from fabric.core.client.client import ClientMachine
from fabric.core.effects import Drain, Effect, Hangup, Reply, Resolve, Send
from fabric.core.events import (
    Await,
    Drained,
    Drop,
    Hold,
    KillActor,
    MakeActor,
    PeerLost,
    Put,
)
from fabric.ids import Address, FunctionId
from fabric.protocol.messages import (
    ActorChanged,
    ActorRefused,
    CallsDone,
    CreateActor,
    DefineJob,
    EndActor,
    FreeObjects,
    WatchActor,
)
from fabric.protocol.values import ActorView, Failure, Progress
from tests.core_words import (
    ME,
    NODE,
    OTHER,
    RAISED,
    SPEC,
    W1,
    W2,
    Ref,
    a,
    actor_spec,
    ask,
    done,
    hear,
    leased,
    me_of,
    method,
    new_client,
    o,
    runs,
    sealed,
    submit,
    tell,
)

MINE, THEIRS = a(5), a(5, OTHER)
HANDLE, THEIR_HANDLE = o(5), o(5, client=OTHER)
GONE = Failure("actor_died", "the last handle of this Counter is gone")
DIED = Failure("actor_died", "it is over")
CRASHED = Failure("actor_unavailable", "its worker is gone")


def view(state: str, life: int = 1, worker: Address = W1, **more: object) -> ActorChanged:
    """News of the actor; the lease has the number of its life."""
    is_there = state == "alive"
    known = ActorView(
        MINE,
        state,
        life,
        "Counter",
        worker=worker if is_there else Address(""),
        lease=life if is_there else 0,
    )
    return ActorChanged(replace(known, **more))


def called(*numbers: int, retries: int = 0) -> ClientMachine:
    """A client with a living actor that it has sent these calls to."""
    client = new_client()
    tell(client, MakeActor(actor_spec(5), ()))
    client.introduced[W1] = {FunctionId(b""): None}
    client.introduced[W2] = {FunctionId(b""): None}
    hear(client, NODE, view("alive"))
    tell(client, *(ask(number, MINE, retries=retries) for number in numbers))
    return client


def reached(number: int) -> tuple[Progress, ...]:
    """How far the life under lease 1 came with this client."""
    return (Progress(me_of(ME), 1, number, finished=False),)


# -- making them


def test_an_actor_is_made_when_its_arguments_are_there() -> None:
    client = new_client()
    leased(client, W1)
    actor = actor_spec(5)
    tell(client, submit(1))
    assert tell(client, MakeActor(actor, (Await(o(1), Ref()),))) == []
    assert hear(client, W1, CallsDone(1, [done(1)])) == [
        Resolve(o(1), b"v"),
        Send(NODE, CreateActor(replace(actor, inputs=(b"v",)))),
    ]


def test_an_actor_with_a_failed_argument_is_dead_before_it_is_made() -> None:
    client = new_client()
    leased(client, W1)
    tell(client, submit(1))
    tell(client, MakeActor(actor_spec(5), (Await(o(1), Ref()),)), ask(6, MINE))
    assert hear(client, W1, CallsDone(1, [done(1, RAISED)])) == [
        Resolve(o(1), RAISED),
        Send(NODE, EndActor(MINE, RAISED, may_restart=False)),  # others may have its handle
        Resolve(o(6), RAISED),
    ]


def test_an_actor_whose_handles_go_before_its_arguments_come_is_never_made() -> None:
    client = new_client()
    leased(client, W1)
    tell(client, submit(1))
    tell(client, MakeActor(actor_spec(5), (Await(o(1), Ref()),)), Drop((HANDLE,)))
    assert hear(client, W1, CallsDone(1, [done(1)])) == [Resolve(o(1), b"v")]
    assert client.actors.channels == {}
    assert HANDLE not in client.references.objects.owned


def test_a_named_actor_is_told_of_as_soon_as_its_name_is_known_to_be_free() -> None:
    client = new_client()
    tell(client, MakeActor(actor_spec(5, name="anna"), ()))
    assert hear(client, NODE, view("pending")) == [Reply(MINE, view("pending"))]
    assert hear(client, NODE, view("alive")) == []


def test_a_taken_name_is_a_dead_actor() -> None:
    client = new_client()
    tell(client, MakeActor(actor_spec(5, name="anna"), ()), ask(6, MINE))
    taken = Failure("name_taken", "somebody has it")
    dead = ActorView(MINE, "dead", 1, "Counter", failure=taken)
    assert hear(client, NODE, ActorRefused(MINE, taken)) == [
        Reply(MINE, ActorChanged(dead)),
        Resolve(o(6), taken),
    ]


def test_constructor_arguments_are_held_until_the_actor_is_dead() -> None:
    client = new_client()
    tell(client, Put(o(1), sealed(1)))
    tell(client, MakeActor(actor_spec(5, nested=(o(1),)), ()), Drop((o(1),)))
    assert tell(client, Drop((HANDLE,))) == [Send(NODE, EndActor(MINE, GONE, may_restart=False))]
    assert hear(client, NODE, view("dead", failure=GONE)) == [Send(NODE, FreeObjects((o(1),)))]
    assert client.actors.channels == {}


# -- calling them


def test_calls_wait_until_the_actor_is_alive_and_go_straight_to_its_worker() -> None:
    client = new_client()
    actor = actor_spec(5)
    assert tell(client, MakeActor(actor, ()), ask(6, MINE), ask(7, MINE)) == [
        Send(NODE, CreateActor(actor))
    ]
    assert hear(client, NODE, view("pending")) == []
    assert hear(client, NODE, view("alive")) == [
        Send(W1, DefineJob(SPEC)),
        runs(W1, 1, method(6, 0), method(7, 1)),
    ]
    assert hear(client, W1, CallsDone(1, [done(6), done(7)])) == [
        Resolve(o(6), b"v"),
        Resolve(o(7), b"v"),
    ]


def test_a_call_that_waits_for_an_argument_holds_back_those_behind_it() -> None:
    client = called()
    leased(client, W2)
    tell(client, submit(1))
    assert tell(client, ask(6, MINE, o(1)), ask(7, MINE)) == []
    assert hear(client, W2, CallsDone(1, [done(1)])) == [
        Resolve(o(1), b"v"),
        runs(W1, 1, replace(method(6, 0), inputs=(b"v",)), method(7, 1)),
    ]


def test_a_call_with_a_failed_argument_uses_no_number() -> None:
    client = called()
    leased(client, W2)
    tell(client, submit(1), ask(6, MINE, o(1)), ask(7, MINE))
    assert hear(client, W2, CallsDone(1, [done(1, RAISED)])) == [
        Resolve(o(1), RAISED),
        Resolve(o(6), RAISED),
        runs(W1, 1, method(7, 0)),
    ]


def test_an_actor_made_by_somebody_else_is_watched() -> None:
    client = new_client()
    assert tell(client, Hold(THEIR_HANDLE), ask(6, THEIRS)) == [Send(NODE, WatchActor(THEIRS))]


def test_numbering_goes_on_when_a_handle_goes_and_comes_back() -> None:
    client = new_client()
    client.introduced[W1] = {FunctionId(b""): None}
    alive = ActorChanged(ActorView(THEIRS, "alive", 1, "Counter", worker=W1, lease=1))
    tell(client, Hold(THEIR_HANDLE), ask(6, THEIRS))
    assert hear(client, NODE, alive) == [runs(W1, 1, method(6, 0))]
    hear(client, W1, CallsDone(1, [done(6)]))
    tell(client, Drop((THEIR_HANDLE,)))
    assert tell(client, Hold(THEIR_HANDLE), ask(7, THEIRS)) == [runs(W1, 1, method(7, 1))]


def test_an_actor_ends_after_what_was_sent_to_it() -> None:
    client = called(6)
    assert tell(client, Drop((HANDLE,))) == []
    assert hear(client, W1, CallsDone(1, [done(6)])) == [
        Resolve(o(6), b"v"),
        Send(NODE, EndActor(MINE, GONE, may_restart=False)),
    ]


def test_a_detached_actor_does_not_end_with_its_handles() -> None:
    client = new_client()
    tell(client, MakeActor(actor_spec(5, is_detached=True), ()))
    assert tell(client, Drop((HANDLE,))) == []


def test_a_kill_goes_to_the_control_store() -> None:
    assert tell(called(), KillActor(MINE, DIED, may_restart=True)) == [
        Send(NODE, EndActor(MINE, DIED, may_restart=True))
    ]


# -- lives that end


def over(client: ClientMachine, news: ActorChanged) -> list[Effect]:
    """That life is over, and its worker's last words are heard."""
    assert hear(client, NODE, news) == [Drain(W1)]
    return tell(client, Drained(W1))


def test_after_a_crash_only_what_never_started_is_sent_to_the_next_life() -> None:
    client = called(6, 7, 8)
    lost = Failure("actor_unavailable", "the Counter may have run this: its worker is gone")
    assert over(client, view("restarting", 2, failure=CRASHED, progress=reached(1))) == [
        Resolve(o(6), lost),
        Resolve(o(7), lost),
        Hangup(W1),
        Send(NODE, FreeObjects((o(6), o(7)))),
    ]
    assert hear(client, NODE, view("alive", 2, W2)) == [runs(W2, 2, method(8, 0))]


def test_calls_with_retries_are_repeated_in_their_order() -> None:
    client = called(6, 7, 8, retries=1)
    assert over(client, view("restarting", 2, progress=reached(1))) == [Hangup(W1)]
    assert hear(client, NODE, view("alive", 2, W2)) == [
        runs(W2, 2, method(6, 0, attempt=2), method(7, 1, attempt=2), method(8, 2))
    ]


def test_where_nobody_saw_how_far_a_life_came_everything_may_have_run() -> None:
    client = called(6, retries=1)
    over(client, view("restarting", 3))  # a life was left out
    assert hear(client, NODE, view("alive", 3, W2)) == [runs(W2, 3, method(6, 0, attempt=2))]


def test_answers_that_were_on_their_way_count() -> None:
    client = called(6)
    hear(client, NODE, view("restarting", 2, progress=reached(0)))
    assert hear(client, W1, CallsDone(1, [done(6)])) == [Resolve(o(6), b"v")]
    assert tell(client, Drained(W1)) == [Hangup(W1)]


def test_calls_wait_while_last_words_are_heard() -> None:
    client = called(6)
    hear(client, NODE, view("alive", 2, W2, progress=reached(0)))
    assert tell(client, ask(7, MINE)) == []
    assert tell(client, Drained(W1))[-2:] == [
        runs(W2, 2, method(7, 0)),
        Send(NODE, FreeObjects((o(6),))),
    ]


def test_all_calls_to_a_dead_actor_fail_with_its_reason() -> None:
    client = called(6)
    assert over(client, view("dead", failure=DIED, progress=reached(-1))) == [
        Resolve(o(6), DIED),
        Hangup(W1),
    ]
    assert tell(client, ask(7, MINE)) == [Resolve(o(7), DIED)]
    leased(client, W2)
    tell(client, submit(1))
    assert tell(client, ask(8, MINE, o(1))) == [Resolve(o(8), DIED)]  # whatever it waits for


def test_the_link_to_a_worker_whose_actor_is_over_is_closed_without_calls_in_flight_too() -> None:
    assert over(called(), view("dead", failure=DIED)) == [Hangup(W1)]


def test_old_news_of_an_actor_are_ignored() -> None:
    client = called(6)
    assert hear(client, NODE, view("pending")) == []
    assert hear(client, NODE, view("alive")) == []
    over(client, view("dead", failure=DIED))
    assert hear(client, NODE, view("alive", 2, W2)) == []


def test_a_handle_that_is_dropped_after_the_end_says_nothing() -> None:
    client = called()
    over(client, view("dead", failure=DIED))
    assert tell(client, Drop((HANDLE,))) == []
    assert client.actors.channels == {}


def test_without_a_node_an_actor_that_nobody_wants_is_forgotten_before_it_is_made() -> None:
    client = new_client()
    tell(client, submit(1), MakeActor(actor_spec(5), (Await(o(1), Ref()),)), Drop((HANDLE,)))
    lost = Failure("cluster", "the node is gone: killed")
    assert tell(client, PeerLost(NODE, "killed")) == [Resolve(o(1), lost)]
    assert HANDLE not in client.references.objects.owned


def test_without_a_node_actors_are_lost_with_everything_else() -> None:
    client = called(6)
    tell(client, MakeActor(actor_spec(8, name="anna"), ()))
    lost = Failure("cluster", "the node is gone: killed")
    assert tell(client, PeerLost(NODE, "killed")) == [
        Reply(a(8), lost),
        Resolve(o(6), lost),
        Hangup(W1),
        Hangup(W2),
    ]
    assert tell(client, ask(7, MINE), MakeActor(actor_spec(9, name="bert"), ())) == [
        Resolve(o(7), lost),
        Reply(a(9), lost),
    ]
