"""A node's workers, clients and actors: who comes, who dies, and who is told of it."""

import pytest

from fabric.core.crashes import crash_failure
from fabric.core.effects import (
    CreateSegment,
    Effect,
    Exit,
    Hangup,
    RecycleSegment,
    Send,
    StartWorker,
    StopWorker,
)
from fabric.core.events import PeerLost, ProcessEnded, ShutDown, WorkerExited
from fabric.core.node.node import NodeMachine
from fabric.protocol.cluster import (
    EndJob,
    GetView,
    LeaveNode,
    NodeFenced,
    NodeHeartbeat,
    NodeJoined,
    View,
    ViewChanged,
)
from fabric.protocol.messages import (
    ActorChanged,
    ActorFailed,
    ActorRefused,
    ActorStarted,
    Allocate,
    Allocated,
    ClientDied,
    CreateActor,
    EndActor,
    EndWorker,
    FunctionFound,
    GetFunction,
    JoinNode,
    LeaseReturned,
    PlaceActor,
    PutFunction,
    RecallLease,
    ReturnLease,
    StartActor,
    StopActor,
    UnregisterClient,
    Unschedulable,
    WatchActor,
    WorkerDied,
    WorkerReady,
)
from fabric.protocol.values import ActorView, Crash, Progress, Shape
from tests.core_words import (
    CONTROL,
    CPU,
    CRASHED,
    HALF,
    INNER,
    JOB,
    ME,
    NODE,
    OTHER,
    RAISED,
    W1,
    W2,
    W3,
    G,
    a,
    actor_spec,
    c,
    granted,
    hear,
    killed,
    me_of,
    new_node,
    o,
    ready,
    registered,
    requested,
    tell,
)

TWO_CPUS = Shape((("CPU", 20_000),))
KILLED = Crash(signal=9)


# -- workers that come and go


def test_a_worker_that_dies_is_reported_to_its_client_with_how_far_it_came() -> None:
    node = ready(1)
    hear(node, ME, requested(1))
    progress = Progress(me_of(ME), 1, 4, finished=False)
    others = Progress(me_of(OTHER), 2, 0, finished=True)
    assert tell(node, killed(W1, progress, others))[:3] == [
        Send(ME, WorkerDied(W1, (progress,), 0, KILLED)),
        Send(ME, ClientDied(me_of(W1))),  # the one inside it may have spoken to owners already
        Hangup(W1),
    ]
    assert node.resources.free == {"CPU": 20_000}


def test_a_worker_that_dies_is_reported_to_its_former_clients_too() -> None:
    node = ready(1)
    hear(node, ME, requested(1))
    hear(node, ME, ReturnLease(1))
    assert tell(node, killed(W1))[:3] == [
        Send(ME, WorkerDied(W1, (), 0, KILLED)),
        Send(ME, ClientDied(me_of(W1))),
        Hangup(W1),
    ]


def test_a_worker_that_ran_nothing_was_no_client() -> None:
    assert tell(registered(ready(1)), killed(W1))[0] == Hangup(W1)


def test_a_crash_says_how_where_and_with_which_last_words_a_worker_ended() -> None:
    node = ready(1)
    hear(node, ME, requested(1))
    exited = WorkerExited(
        me_of(W1), 3, None, (), "Segmentation fault", known_from=4, pid=7, rss=1_000
    )
    crash = Crash(exit_code=3, pid=7, node=NODE, last_words="Segmentation fault")
    assert tell(node, exited)[0] == Send(ME, WorkerDied(W1, (), 4, crash))


@pytest.mark.parametrize(
    ("crash", "text"),
    [
        (Crash(signal=9), "its worker was ended by signal 9 (SIGKILL)"),
        (Crash(signal=64), "its worker was ended by signal 64"),
        (Crash(exit_code=7, pid=4, node=NODE), f"its worker exited with code 7 (pid 4 on {NODE})"),
        (Crash(), "its worker could not be started"),
        (Crash(reason="no room"), "its worker could not be started: no room"),
        (
            Crash("crunch", 2, None, 11, 4, NODE, last_words="Fatal"),
            "task `crunch` crashed in attempt 2: its worker was ended by signal 11 (SIGSEGV)"
            f" (pid 4 on {NODE}); its last words:\nFatal",
        ),
        (
            Crash("crunch", 1, None, 9, 4, NODE, rss=300_000_000, limit=1_000_000_000),
            f"task `crunch` crashed: its worker was ended (pid 4 on {NODE}) because its node ran"
            " out of memory: it used 300 MB of 1,000 MB",
        ),
    ],
)
def test_a_crash_in_words(crash: Crash, text: str) -> None:
    assert crash_failure(crash).text == text


def test_a_dead_worker_takes_its_client_with_it() -> None:
    node = registered(ready(1), INNER)
    hear(node, ME, requested(1))
    hear(node, INNER, Allocate(o(1, client=INNER), 0, 100))
    effects = tell(node, killed(W1))
    assert effects[:6] == [
        Send(ME, WorkerDied(W1, (), 0, KILLED)),
        Send(CONTROL, EndJob(JOB, me_of(W1))),
        Send(ME, ClientDied(me_of(INNER))),
        RecycleSegment("S-1", 2),
        Hangup(INNER),
        Hangup(W1),
    ]
    assert hear(node, INNER, requested(1)) == []


def test_workers_that_do_not_start_fail_what_waits_for_them_in_the_end() -> None:
    node = registered(new_node(cpus=1), ME)
    hear(node, ME, requested(1))
    exited = [WorkerExited(me_of(one), 1, None, ()) for one in (W1, W2, W3)]
    assert tell(node, exited[0]) == [Hangup(W1), StartWorker(me_of(W2))]
    assert tell(node, exited[1]) == [Hangup(W2), StartWorker(me_of(W3))]
    failure = crash_failure(Crash(exit_code=1))
    assert tell(node, exited[2]) == [Send(ME, Unschedulable(0, failure)), Hangup(W3)]


def test_a_worker_that_does_not_say_hello_in_time_is_ended() -> None:
    node = registered(new_node(cpus=1), ME)
    hear(node, ME, requested(1))
    assert node.deadline() == 30.0
    assert tell(node, now=30.0) == [StopWorker(me_of(W1))]
    assert hear(node, W1, WorkerReady(1), now=30.0) == [StartWorker(me_of(W2))]


def test_workers_above_those_kept_end_when_they_are_idle_for_long() -> None:
    node = ready(1, cpus=2)
    hear(node, ME, requested(2))
    hear(node, W2, WorkerReady(2))
    hear(node, ME, ReturnLease(1))
    hear(node, ME, ReturnLease(2))
    assert tell(node, now=60.0) == [Send(W1, EndWorker())]
    assert tell(node, WorkerExited(me_of(W1), 0, None, ()), now=60.0)[-1] == Hangup(W1)


def test_at_the_limit_idle_workers_of_another_job_make_room() -> None:
    node = registered(ready(1, cpus=2, workers_max=1), OTHER)
    hear(node, ME, requested(1))
    hear(node, ME, ReturnLease(1))
    assert hear(node, OTHER, requested(1, client=OTHER)) == [Send(W1, EndWorker())]
    assert tell(node) == []
    assert tell(node, WorkerExited(me_of(W1), 0, None, ()))[-1] == StartWorker(me_of(W2))


# -- clients that die


def test_with_its_driver_a_job_ends() -> None:
    node = registered(ready(2), OTHER)
    hear(node, ME, requested(1))
    assert tell(node, ProcessEnded(me_of(ME))) == [
        Send(CONTROL, EndJob(JOB, me_of(ME))),
        Send(OTHER, ClientDied(me_of(ME))),
        StopWorker(me_of(W1)),
        Send(W2, ClientDied(me_of(ME))),
        Hangup(ME),
    ]
    assert tell(node, killed(W1)) == [
        Send(OTHER, ClientDied(me_of(W1))),  # and nobody is told of calls
        Hangup(W1),
        StartWorker(me_of(W3)),
    ]


def test_the_leases_of_a_client_that_died_are_recalled() -> None:
    node = registered(ready(2), INNER)
    hear(node, ME, requested(1))
    hear(node, INNER, requested(1, depth=1))
    assert tell(node, killed(W1))[1:5] == [
        Send(CONTROL, EndJob(JOB, me_of(INNER))),
        Send(ME, ClientDied(me_of(INNER))),
        Send(W2, ClientDied(me_of(INNER))),
        Send(W2, RecallLease(2, only_if_idle=False)),
    ]
    assert hear(node, W2, LeaseReturned(2)) == [granted(3, W2)]


def test_a_driver_that_says_goodbye_is_gone() -> None:
    node = ready(1)
    assert hear(node, ME, UnregisterClient()) == [
        Send(CONTROL, EndJob(JOB, me_of(ME))),
        Send(W1, ClientDied(me_of(ME), is_orderly=True)),
        Hangup(ME),
    ]
    assert tell(node, ProcessEnded(me_of(ME))) == [Hangup(ME)]


def test_a_driver_whose_link_is_lost_is_gone() -> None:
    node = ready(1)
    assert tell(node, PeerLost(ME, "gone"))[0] == Send(CONTROL, EndJob(JOB, me_of(ME)))


def test_values_for_a_client_that_is_gone_get_no_room() -> None:
    node = registered(ready(1), OTHER)
    tell(node, ProcessEnded(me_of(OTHER)))
    (effect,) = hear(node, W1, Allocate(o(1, client=OTHER), 1, 100))
    assert isinstance(effect, Send)
    assert type(effect.message).__name__ == "AllocationFailed"


# -- actors


def placed(node: NodeMachine) -> list[Effect]:
    """The control store wants the actor here."""
    return hear(node, CONTROL, PlaceActor(1, actor_spec(5)))


def test_an_actor_is_placed_on_an_idle_worker_for_life() -> None:
    node = ready(1)
    assert placed(node)[0] == Send(W1, StartActor(1, 1, actor_spec(5)))
    assert placed(node) == []
    started = ActorStarted(a(5), 1, W1, 1)
    assert hear(node, W1, started) == [Send(CONTROL, started)]
    assert placed(node) == [Send(CONTROL, started)]


def test_for_an_actor_a_worker_is_forked() -> None:
    node = registered(new_node(), ME)
    assert placed(node) == [StartWorker(me_of(W1))]
    assert hear(node, W1, WorkerReady(1)) == [Send(W1, StartActor(1, 1, actor_spec(5)))]


def test_no_worker_is_forked_for_an_actor_that_there_is_no_room_for() -> None:
    node = ready(1, cpus=1)
    hear(node, ME, requested(1))
    large = actor_spec(5, shape=CPU)
    assert hear(node, CONTROL, PlaceActor(1, large)) == []


def test_an_actor_whose_worker_dies_is_reported_with_how_far_it_came() -> None:
    node = ready(1)
    placed(node)
    hear(node, W1, ActorStarted(a(5), 1, W1, 1))
    mine, stale = Progress(me_of(ME), 1, 4, False), Progress(me_of(OTHER), 9, 0, True)
    assert tell(node, killed(W1, mine, stale))[0] == Send(
        CONTROL, ActorFailed(a(5), 1, crash_failure(KILLED), may_restart=True, progress=(mine,))
    )


def test_a_constructor_that_raised_is_reported_and_its_worker_may_go() -> None:
    node = ready(1)
    placed(node)
    failed = ActorFailed(a(5), 1, RAISED, may_restart=False)
    assert hear(node, W1, failed) == [Send(CONTROL, failed), Send(W1, EndWorker())]
    assert tell(node, killed(W1))[:2] == [Send(ME, ClientDied(me_of(W1))), Hangup(W1)]


def test_an_actor_that_is_told_to_end_is_killed_and_its_end_has_that_reason() -> None:
    node = ready(1)
    placed(node)
    stop = StopActor(a(5), 1, CRASHED)
    assert hear(node, CONTROL, stop) == [StopWorker(me_of(W1))]
    assert hear(node, CONTROL, stop) == []
    assert tell(node, killed(W1))[0] == Send(
        CONTROL, ActorFailed(a(5), 1, CRASHED, may_restart=True)
    )


def test_an_actor_that_is_told_to_end_before_it_has_a_worker_is_over() -> None:
    node = ready(1, cpus=1)
    hear(node, ME, requested(1))
    hear(node, CONTROL, PlaceActor(1, actor_spec(5, shape=CPU)))
    assert hear(node, CONTROL, StopActor(a(5), 1, CRASHED)) == [
        Send(CONTROL, ActorFailed(a(5), 1, CRASHED, may_restart=True))
    ]


def test_a_detached_actor_outlives_its_driver() -> None:
    node = ready(1)
    hear(node, CONTROL, PlaceActor(1, actor_spec(5, is_detached=True)))
    assert Send(W1, ClientDied(me_of(ME))) in tell(node, ProcessEnded(me_of(ME)))


def test_who_makes_an_actor_hears_what_becomes_of_it() -> None:
    node = ready(1)
    create = CreateActor(actor_spec(5))
    assert hear(node, ME, create) == [Send(CONTROL, create)]
    pending = ActorView(a(5), "pending", 1, "Counter")
    assert hear(node, CONTROL, ActorChanged(pending)) == [Send(ME, ActorChanged(pending))]
    alive = ActorView(a(5), "alive", 1, "Counter", worker=W1)
    assert hear(node, CONTROL, ViewChanged(0, 1, actors=(alive,))) == [
        Send(ME, ActorChanged(alive))
    ]


def test_news_of_an_actor_that_come_late_by_the_other_way_are_ignored() -> None:
    node = ready(1)
    hear(node, ME, CreateActor(actor_spec(5)))
    hear(node, CONTROL, ViewChanged(0, 1, actors=(ActorView(a(5), "alive", 1, "C", worker=W1),)))
    assert hear(node, CONTROL, ActorChanged(ActorView(a(5), "pending", 1, "C"))) == []
    dead = ActorView(a(5), "dead", 1, "C")
    assert hear(node, CONTROL, ActorChanged(dead)) == [Send(ME, ActorChanged(dead))]
    assert hear(node, CONTROL, ActorChanged(ActorView(a(5), "alive", 2, "C", worker=W2))) == []
    assert hear(node, ME, WatchActor(a(5))) == [Send(ME, ActorChanged(dead))]


def test_an_actor_that_was_refused_is_dead_for_those_who_have_its_handle() -> None:
    node = registered(ready(1), OTHER)
    hear(node, ME, CreateActor(actor_spec(5)))
    assert hear(node, OTHER, WatchActor(a(5))) == [Send(CONTROL, WatchActor(a(5)))]
    refused = ActorRefused(a(5), RAISED)
    assert hear(node, CONTROL, refused) == [
        Send(ME, refused),
        Send(OTHER, ActorChanged(ActorView(a(5), "dead", 1, "", failure=RAISED))),
    ]


def test_what_a_client_that_is_gone_still_wanted_to_make_is_not_made() -> None:
    node = ready(1)
    tell(node, ProcessEnded(me_of(ME)))
    assert hear(node, ME, CreateActor(actor_spec(5))) == []


def test_the_end_of_an_actor_is_the_control_stores_to_decide() -> None:
    end = EndActor(a(5), RAISED, may_restart=False)
    assert hear(ready(1), ME, end) == [Send(CONTROL, end)]


# -- the control store


def test_a_node_joins_and_tells_that_it_lives() -> None:
    node = new_node(node_heartbeat_s=2.0)
    assert node.deadline() is None
    assert hear(node, CONTROL, NodeJoined(1, "demo"), now=10.0) == [Send(CONTROL, GetView(b""))]
    assert node.deadline() == 12.0
    assert tell(node, now=12.0) == [Send(CONTROL, NodeHeartbeat(node.view()))]
    assert node.deadline() == 14.0
    assert type(node.view()).__name__ == "NodeView"
    assert JoinNode(node.view()).view.state == "alive"


def test_a_node_that_was_declared_dead_ends() -> None:
    assert hear(ready(1), CONTROL, NodeFenced()) == [
        Exit("the control store declared this node dead")
    ]


def test_across_a_gap_the_whole_view_is_asked_for() -> None:
    node = ready(1)
    hear(node, CONTROL, View(b"", 1, 5, (), (), ()))
    assert hear(node, CONTROL, ViewChanged(1, 6)) == []
    assert hear(node, CONTROL, ViewChanged(1, 6)) == []
    assert hear(node, CONTROL, ViewChanged(1, 8)) == [Send(CONTROL, GetView(b""))]
    assert hear(node, CONTROL, ViewChanged(2, 1)) == [Send(CONTROL, GetView(b""))]


def test_the_view_that_a_client_asked_for_shows_what_is_free_now() -> None:
    node = ready(1)
    hear(node, ME, requested(1))
    assert hear(node, ME, GetView(c(9))) == [Send(CONTROL, GetView(c(9)))]
    shown = View(c(9), 1, 5, (node.view(),), (), ())
    stale = View(c(9), 1, 5, (new_node().view(),), (), ())
    assert hear(node, CONTROL, stale) == [Send(ME, shown)]


def test_a_function_is_asked_for_once_and_then_at_hand() -> None:
    node = ready(1)
    found = FunctionFound(G, "g", b"pickled")
    assert hear(node, W1, GetFunction(G)) == [Send(CONTROL, GetFunction(G))]
    assert hear(node, W2, GetFunction(G)) == []
    assert hear(node, CONTROL, found) == [Send(W1, found), Send(W2, found)]
    assert hear(node, W3, GetFunction(G)) == [Send(W3, found)]


def test_a_function_that_passes_by_is_kept_at_hand() -> None:
    node = ready(1)
    put = PutFunction(G, "g", b"pickled")
    assert hear(node, ME, put) == [Send(CONTROL, put)]
    assert hear(node, W1, GetFunction(G)) == [Send(W1, FunctionFound(G, "g", b"pickled"))]


def test_room_is_granted_through_the_node() -> None:
    assert hear(ready(1), W1, Allocate(o(1), 1, 5000)) == [
        CreateSegment("S-1", 8192),
        Send(W1, Allocated(o(1), 1, "S-1", 1, is_warm=False)),
    ]


def test_half_a_cpu_is_half_a_cpu() -> None:
    node = ready(2, cpus=1)
    assert hear(node, ME, requested(4, HALF)) == [granted(1, W1), granted(2, W2)]
    assert node.resources.free == {"CPU": 0}


def test_a_node_that_is_shut_down_has_itself_counted_out_and_beats_no_more() -> None:
    node = ready(1)
    hear(node, CONTROL, NodeJoined(1, "test"))
    assert tell(node, ShutDown()) == [Send(W1, EndWorker()), Send(CONTROL, LeaveNode())]
    assert hear(node, CONTROL, NodeFenced(), now=100.0) == []
