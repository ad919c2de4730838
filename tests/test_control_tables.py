"""The control store's machine: jobs, functions, the view, and being asked twice."""

import pytest

from fabric.config import Limits
from fabric.core.control.control import ControlMachine
from fabric.core.effects import Commit, Effect, Publish, Send
from fabric.ids import CallId, FunctionId, call_id
from fabric.protocol.cluster import (
    EndJob,
    GetView,
    LeaveNode,
    NodeHeartbeat,
    NodeJoined,
    RegisterJob,
    View,
    ViewChanged,
)
from fabric.protocol.messages import (
    ActorChanged,
    ActorRefused,
    AnyMessage,
    CreateActor,
    EndActor,
    FunctionFound,
    GetFunction,
    GetNamedActor,
    JoinNode,
    NamedActor,
    PlaceActor,
    PutFunction,
    StopActor,
    WatchActor,
)
from fabric.protocol.records import FunctionRecord, JobRecord
from fabric.protocol.values import ActorSpec, Failure
from tests.control_words import (
    CLUSTER,
    COUNTER,
    DRIVER,
    JOB,
    KILLED,
    N1,
    NODE1,
    OTHER_DRIVER,
    OTHER_JOB,
    WORKER,
    actor_id,
    alive,
    failed,
    job_view,
    news,
    node_view,
    rows,
    sends,
    spec,
    started,
    turn,
    view,
    with_actor,
    with_node,
)

# -- jobs


def test_a_job_is_registered_and_ends_with_its_driver() -> None:
    machine = with_node()
    assert turn(machine, (NODE1, RegisterJob(job_view(), JOB))) == [
        Commit((("jobs", JOB.job, JobRecord(JOB, job_view(), N1)),)),
        Publish(ViewChanged(1, 2, jobs=(job_view(),))),
    ]
    ended = job_view(state="ended")
    assert turn(machine, (NODE1, EndJob(JOB.job, DRIVER))) == [
        Commit((("jobs", JOB.job, JobRecord(JOB, ended, N1)),)),
        Publish(ViewChanged(1, 3, jobs=(ended,))),
    ]


def _actors_of_all_kinds(machine: ControlMachine) -> dict[str, ActorSpec]:
    kinds = {
        "driver's": spec(1),
        "driver's, detached": spec(2, is_detached=True),
        "worker's": spec(3, WORKER),
        "worker's, detached": spec(4, WORKER, is_detached=True),
        "another job's": spec(5, OTHER_DRIVER, job=OTHER_JOB),
    }
    for each in kinds.values():
        turn(machine, (NODE1, CreateActor(each)))
        turn(machine, (NODE1, started(each)))
    return kinds


@pytest.mark.parametrize(
    ("end", "who", "dead"),
    [
        (EndJob(JOB.job, DRIVER), "the driver of its job", ["driver's", "worker's"]),
        (EndJob(JOB.job, WORKER), "the worker that made it", ["worker's"]),
    ],
)
def test_with_a_client_end_the_actors_it_answers_for(
    end: EndJob, who: str, dead: list[str]
) -> None:
    machine = with_node()
    turn(machine, (NODE1, RegisterJob(job_view(), JOB)))
    kinds = _actors_of_all_kinds(machine)
    failure = Failure("actor_died", f"{who} has ended")
    effects = turn(machine, (NODE1, end))
    assert sends(effects) == [
        Send(NODE1, StopActor(kinds[kind].actor_id, 1, failure)) for kind in dead
    ]
    still = {each.actor_id for kind, each in kinds.items() if kind not in dead}
    assert set(machine.actors.living) == still
    assert turn(machine, (NODE1, end)) == []


def test_what_an_ended_client_asks_for_too_late_is_refused_unless_it_is_detached() -> None:
    machine = with_node()
    turn(machine, (NODE1, EndJob(JOB.job, DRIVER)))
    late = Failure("actor_died", "the client that makes it has ended")
    assert sends(turn(machine, (NODE1, CreateActor(COUNTER)))) == [
        Send(NODE1, ActorRefused(COUNTER.actor_id, late))
    ]
    lasting = spec(2, is_detached=True)
    assert Send(NODE1, PlaceActor(1, lasting)) in turn(machine, (NODE1, CreateActor(lasting)))


def test_ended_jobs_are_remembered_up_to_a_limit() -> None:
    machine = with_node(Limits(ended_jobs_max=1))
    for job in (JOB, OTHER_JOB):
        turn(machine, (NODE1, RegisterJob(job_view(job), job)))
    turn(machine, (NODE1, EndJob(JOB.job, DRIVER)))
    effects = turn(machine, (NODE1, EndJob(OTHER_JOB.job, OTHER_DRIVER)))
    assert ("jobs", JOB.job, None) in rows(effects)
    assert [each.job for each in machine.jobs.views()] == [OTHER_JOB.job]


# -- functions

HASH = FunctionId(b"h" * 16)
PUT = PutFunction(HASH, "square", b"pickled")
FOUND = Send(NODE1, FunctionFound(HASH, "square", b"pickled"))


def test_a_function_is_kept_and_found() -> None:
    machine = with_node()
    kept = FunctionRecord(HASH, "square", b"pickled")
    assert turn(machine, (NODE1, PUT)) == [Commit((("functions", HASH, kept),))]
    assert turn(machine, (NODE1, GetFunction(HASH))) == [Commit(()), FOUND]


def test_who_asks_for_a_function_too_early_is_answered_when_it_comes() -> None:
    machine = with_node()
    assert turn(machine, (NODE1, GetFunction(HASH)), (NODE1, GetFunction(HASH))) == []
    assert sends(turn(machine, (NODE1, PUT))) == [FOUND]
    assert machine.functions.deadline() is None


def test_who_asks_for_a_function_that_nobody_puts_is_told_so() -> None:
    machine = with_node(Limits(node_dead_s=1000.0))
    turn(machine, (NODE1, GetFunction(HASH)))
    nothing = Send(NODE1, FunctionFound(HASH, "", b""))
    assert sends(turn(machine, now=Limits().function_wait_s)) == [nothing]


def test_functions_that_no_living_actor_needs_make_room_for_others() -> None:
    machine = with_node(Limits(functions_bytes_max=10))
    needed, idle, new = (FunctionId(bytes([one]) * 16) for one in b"nix")
    turn(
        machine, (NODE1, PutFunction(needed, "", b"1234")), (NODE1, PutFunction(idle, "", b"1234"))
    )
    turn(machine, (NODE1, CreateActor(spec(function=needed))))
    effects = turn(machine, (NODE1, PutFunction(new, "", b"1234")))
    assert rows(effects) == [
        ("functions", idle, None),
        ("functions", new, FunctionRecord(new, "", b"1234")),
    ]
    assert rows(turn(machine, (NODE1, PutFunction(idle, "", b"1234567")))) == []


# -- the view


def test_the_view_has_everything_as_of_the_last_news() -> None:
    machine = with_actor()
    turn(machine, (NODE1, RegisterJob(job_view(), JOB)))
    assert sends(turn(machine, (NODE1, GetView(b"request")))) == [
        Send(NODE1, View(b"request", 1, 4, (node_view(),), (alive(),), (job_view(),)))
    ]


def test_of_the_dead_the_view_has_the_last_ones_that_fit_into_a_frame() -> None:
    machine = with_node(Limits(frame_bytes_max=2100))
    for number in range(1, 6):
        end = EndActor(actor_id(number), KILLED, may_restart=False)
        turn(machine, (NODE1, CreateActor(spec(number))), (NODE1, end))
    seen = machine.tables.view(b"").actors
    assert [each.actor_id for each in seen] == [actor_id(number) for number in (3, 4, 5)]


def test_many_changes_of_one_turn_are_one_publication() -> None:
    machine = with_node()
    effects = turn(
        machine,
        (NODE1, RegisterJob(job_view(), JOB)),
        (NODE1, NodeHeartbeat(node_view(free=1))),
        (NODE1, CreateActor(COUNTER)),
    )
    assert news(effects) == [
        ViewChanged(1, 2, (node_view(free=1),), (view(COUNTER),), (job_view(),))
    ]


def test_heartbeats_are_not_recorded_and_published_only_when_they_say_something_new() -> None:
    machine = with_node()
    assert turn(machine, (NODE1, NodeHeartbeat(node_view(free=3)))) == [
        Commit(()),
        Publish(ViewChanged(1, 2, nodes=(node_view(free=3),))),
    ]
    assert turn(machine, (NODE1, NodeHeartbeat(node_view(free=3)))) == []


def test_where_nothing_changed_for_a_heartbeat_an_empty_publication_keeps_count() -> None:
    machine = with_node()
    assert machine.deadline() == Limits().node_heartbeat_s
    assert turn(machine, now=1.0) == [Commit(()), Publish(ViewChanged(1, 2))]


# -- asked twice


CREATE_LATE = spec(9, name="taken")
TWICE: list[tuple[AnyMessage, list[Effect]]] = [
    (JoinNode(node_view()), [Send(NODE1, NodeJoined(1, CLUSTER))]),
    (NodeHeartbeat(node_view(free=2)), []),
    (RegisterJob(job_view(OTHER_JOB), OTHER_JOB), []),
    (EndJob(JOB.job, DRIVER), []),
    (EndJob(JOB.job, WORKER), []),
    (CreateActor(spec(8)), [Send(NODE1, ActorChanged(view(spec(8))))]),
    (
        CreateActor(CREATE_LATE),
        [
            Send(
                NODE1,
                ActorRefused(
                    CREATE_LATE.actor_id,
                    Failure(
                        "name_taken",
                        "a living actor of class Counter has the name 'taken' in namespace 'space'",
                    ),
                ),
            )
        ],
    ),
    (WatchActor(actor_id(1)), [Send(NODE1, ActorChanged(alive(spec(1, name="taken"))))]),
    (EndActor(actor_id(1), KILLED, may_restart=False), []),
    (EndActor(actor_id(1), KILLED, may_restart=True), []),
    (
        GetNamedActor(CallId(call_id(DRIVER, 3)), "nobody", "space"),
        [Send(NODE1, NamedActor(CallId(call_id(DRIVER, 3)), None))],
    ),
    (started(spec(2)), []),
    (failed(spec(2)), []),
    (PUT, []),
    (GetFunction(HASH), []),
    (GetView(b"r"), []),
]


@pytest.mark.parametrize(
    ("message", "answer"), TWICE, ids=lambda each: type(each).__name__ if each else ""
)
def test_asked_twice_the_second_time_has_the_same_answer_and_no_effect(
    message: AnyMessage, answer: list[Effect]
) -> None:
    machine = with_actor(spec(1, name="taken", restarts_max=1))
    turn(machine, (NODE1, CreateActor(spec(2))))
    first = turn(machine, (NODE1, message))
    second = turn(machine, (NODE1, message))
    if isinstance(message, GetView):
        assert first == second
        return
    assert second == ([Commit(()), *answer] if answer else [])
    assert all(each in first for each in answer)


def test_the_table_of_messages_asked_twice_has_them_all() -> None:
    asked = {type(message) for message, _ in TWICE}
    asked.add(LeaveNode)  # who has left is nobody we know
    assert asked == set(with_node()._reactions())
