"""The worker's machine: what runs, in which order, what is answered when, what goes back."""

from typing import Any

from fabric.config import Limits
from fabric.core.effects import (
    BecomeActor,
    Exit,
    Hangup,
    Interrupt,
    Learn,
    LetGo,
    Run,
    Send,
    WriteSegment,
)
from fabric.core.events import (
    ActorMade,
    CallBlocked,
    CallOverran,
    CallRan,
    CallResumed,
    PeerLost,
    Quit,
    SegmentWritten,
    WantSegment,
)
from fabric.core.worker import WorkerMachine
from fabric.protocol.messages import (
    ActorFailed,
    ActorStarted,
    Allocate,
    Allocated,
    AllocationFailed,
    CallsReturned,
    ClientDied,
    DefineFunction,
    DefineJob,
    EndWorker,
    FunctionFound,
    GetFunction,
    LeaseReturned,
    RecallLease,
    RunCalls,
    SealObject,
    StartActor,
    Taken,
    WorkerBlocked,
    WorkerReady,
    WorkerResumed,
)
from fabric.protocol.values import Failure
from tests.core_words import (
    ME,
    NODE,
    OTHER,
    RAISED,
    SPEC,
    W1,
    G,
    a,
    actor_spec,
    answers,
    c,
    done,
    hear,
    me_of,
    method,
    new_worker,
    o,
    run,
    spec,
    tell,
)


def queued(*numbers: int, lease: int = 1, **limits: Any) -> WorkerMachine:
    """A worker that runs the first of these calls and has the others queued."""
    worker = new_worker(**limits)
    calls = [spec(number, at) for at, number in enumerate(numbers)]
    assert hear(worker, ME, RunCalls(lease, 0, calls)) == [run(numbers[0], 0, lease)]
    return worker


# -- running and answering


def test_a_new_worker_says_that_it_is_ready_once() -> None:
    worker = WorkerMachine(W1, NODE, Limits(), pid=7)
    assert tell(worker) == [Send(NODE, WorkerReady(7))]
    assert tell(worker) == []


def test_calls_run_one_at_a_time_in_number_order() -> None:
    worker = queued(1, 2)
    assert tell(worker, CallRan(done(1))) == [answers(ME, 1, done(1)), run(2, 1)]
    assert tell(worker, CallRan(done(2))) == [answers(ME, 1, done(2))]


def test_answers_wait_for_company_while_tiny_calls_follow() -> None:
    worker = queued(1, 2)
    assert tell(worker, CallRan(done(1, us=20))) == [run(2, 1)]
    assert worker.deadline() == 0.001
    assert tell(worker, CallRan(done(2, us=20))) == [answers(ME, 1, done(1, us=20), done(2, us=20))]
    assert worker.deadline() is None


def test_an_answer_that_is_a_millisecond_old_waits_no_longer() -> None:
    worker = queued(1, 2)
    assert tell(worker, CallRan(done(1, us=20)), now=5.0) == [run(2, 1)]
    assert worker.deadline() == 5.001
    assert tell(worker, now=5.001) == [answers(ME, 1, done(1, us=20))]


def test_answers_leave_before_a_call_that_is_not_known_to_be_tiny() -> None:
    worker = new_worker()
    hear(worker, ME, RunCalls(1, 0, [spec(1, 0), spec(2, 1, function=G)]))
    assert tell(worker, CallRan(done(1, us=20))) == [
        answers(ME, 1, done(1, us=20)),
        Run(ME, 1, 0, spec(2, 1, function=G)),
    ]


def test_a_method_is_measured_by_its_own_name() -> None:
    worker = alive_actor()
    slow = method(2, 1)
    hear(worker, ME, RunCalls(9, 0, [method(1, 0), slow]))
    tell(worker, CallRan(done(1, us=20)))
    assert worker.durations_us == {"add": 20}


def test_a_function_is_learned_once() -> None:
    worker = new_worker()
    definition = DefineFunction(G, "g", b"pickled")
    assert hear(worker, ME, DefineJob(SPEC)) == [Learn(DefineJob(SPEC))]
    assert hear(worker, ME, definition) == [Learn(definition)]
    assert hear(worker, OTHER, definition) == []


def test_refs_inside_a_result_are_held_until_the_caller_has_taken_them() -> None:
    worker = queued(1)
    answer = done(1, contained=((o(7, client=OTHER),),))
    assert tell(worker, CallRan(answer)) == [answers(ME, 1, answer)]
    assert worker.handed == {ME: {c(1): None}}
    assert hear(worker, ME, Taken((c(1),))) == [LetGo((c(1),))]
    assert worker.handed == {}


# -- leases end


def test_a_recall_hands_back_what_has_not_started_and_waits_for_the_running_call() -> None:
    worker = queued(1, 2, 3)
    assert hear(worker, NODE, RecallLease(1, only_if_idle=False)) == [
        Send(ME, CallsReturned(1, (1, 2), is_lease_over=True))
    ]
    assert tell(worker, CallRan(done(1))) == [
        answers(ME, 1, done(1)),
        Send(NODE, LeaseReturned(1)),
    ]


def test_calls_that_cross_a_recall_go_back() -> None:
    worker = queued(1)
    hear(worker, NODE, RecallLease(1, only_if_idle=False))
    assert hear(worker, ME, RunCalls(1, 0, [spec(2, 1)])) == [
        Send(ME, CallsReturned(1, (1,), is_lease_over=True))
    ]


def test_a_recall_of_an_idle_lease_ends_it_at_once_and_its_holder_is_told() -> None:
    worker = queued(1)
    tell(worker, CallRan(done(1)))
    assert hear(worker, NODE, RecallLease(1, only_if_idle=True)) == [
        Send(ME, CallsReturned(1, (), is_lease_over=True)),
        Send(NODE, LeaseReturned(1)),
    ]


def test_a_recall_of_a_lease_whose_calls_have_not_come_yet_ends_it() -> None:
    worker = new_worker()
    assert hear(worker, NODE, RecallLease(3, only_if_idle=True)) == [Send(NODE, LeaseReturned(3))]
    assert hear(worker, ME, RunCalls(3, 0, [spec(1)])) == [
        Send(ME, CallsReturned(3, (0,), is_lease_over=True))
    ]


def test_a_recall_for_idleness_waits_for_it() -> None:
    worker = queued(1, 2)
    assert hear(worker, NODE, RecallLease(1, only_if_idle=True)) == []
    assert tell(worker, CallRan(done(1))) == [answers(ME, 1, done(1)), run(2, 1)]
    assert tell(worker, CallRan(done(2))) == [
        answers(ME, 1, done(2)),
        Send(ME, CallsReturned(1, (), is_lease_over=True)),
        Send(NODE, LeaseReturned(1)),
    ]


def test_a_late_recall_of_an_older_lease_does_not_end_the_present_one() -> None:
    worker = queued(1, lease=2)
    assert hear(worker, NODE, RecallLease(1, only_if_idle=True)) == []
    assert tell(worker, CallRan(done(1))) == [answers(ME, 2, done(1)), Send(NODE, LeaseReturned(1))]
    assert hear(worker, ME, RunCalls(2, 0, [spec(2, 1)])) == [run(2, 1, lease=2)]


def test_a_second_recall_of_the_same_lease_says_nothing() -> None:
    worker = queued(1)
    hear(worker, NODE, RecallLease(1, only_if_idle=False))
    assert hear(worker, NODE, RecallLease(1, only_if_idle=False)) == []


def test_answers_to_two_clients_are_kept_apart() -> None:
    worker = queued(1)
    hear(worker, NODE, RecallLease(1, only_if_idle=False))
    tell(worker, CallRan(done(1)))
    hear(worker, OTHER, RunCalls(2, 0, [spec(1, 0, client=OTHER)]))
    answer = done(1, client=OTHER)
    assert tell(worker, CallRan(answer)) == [answers(OTHER, 2, answer)]


def test_a_worker_that_is_to_end_finishes_its_call_first() -> None:
    worker = queued(1, 2)
    assert hear(worker, NODE, EndWorker()) == [Send(ME, CallsReturned(1, (1,), is_lease_over=True))]
    assert hear(worker, ME, RunCalls(1, 0, [spec(3, 2)])) == [
        Send(ME, CallsReturned(1, (2,), is_lease_over=True))
    ]
    assert tell(worker, CallRan(done(1))) == [
        answers(ME, 1, done(1)),
        Exit("ended by its node"),
    ]
    assert tell(worker) == []


def test_a_worker_ends_when_the_refs_in_its_answers_have_been_taken() -> None:
    worker = queued(1)
    hear(worker, NODE, EndWorker())
    result = done(1, contained=((o(7, client=OTHER),),))
    assert tell(worker, CallRan(result)) == [answers(ME, 1, result)]
    assert hear(worker, ME, Taken((c(1),))) == [LetGo((c(1),)), Exit("ended by its node")]


# -- calls that wait or take long


def test_a_call_that_waits_hands_back_what_is_behind_it_and_lends_its_share() -> None:
    worker = queued(1, 2)
    assert tell(worker, CallBlocked()) == [
        Send(ME, CallsReturned(1, (1,), is_lease_over=False)),
        Send(NODE, WorkerBlocked(1, "")),
    ]
    assert hear(worker, ME, RunCalls(1, 0, [spec(3, 2)])) == [
        Send(ME, CallsReturned(1, (2,), is_lease_over=False))
    ]
    assert tell(worker, CallResumed()) == [Send(NODE, WorkerResumed(1))]
    assert hear(worker, ME, RunCalls(1, 0, [spec(3, 3)])) == []
    assert tell(worker, CallRan(done(1))) == [answers(ME, 1, done(1)), run(3, 3)]


def test_a_call_that_ends_while_it_is_said_to_wait_takes_its_share_back() -> None:
    worker = queued(1)
    tell(worker, CallBlocked())
    assert tell(worker, CallRan(done(1))) == [
        Send(NODE, WorkerResumed(1)),
        answers(ME, 1, done(1)),
    ]


def test_answers_leave_before_a_call_waits() -> None:
    worker = queued(1, 2)
    tell(worker, CallRan(done(1, us=20)))
    assert tell(worker, CallBlocked()) == [
        answers(ME, 1, done(1, us=20)),
        Send(NODE, WorkerBlocked(1, "")),
    ]


def test_a_waiting_call_whose_lease_is_recalled_ends_it_when_it_is_through() -> None:
    worker = queued(1)
    tell(worker, CallBlocked())
    hear(worker, NODE, RecallLease(1, only_if_idle=False))
    assert tell(worker, CallRan(done(1))) == [
        Send(NODE, WorkerResumed(1)),
        answers(ME, 1, done(1)),
        Send(NODE, LeaseReturned(1)),
    ]


def test_a_call_that_overruns_the_window_hands_back_what_is_behind_it() -> None:
    worker = queued(1, 2)
    assert tell(worker, CallOverran()) == [Send(ME, CallsReturned(1, (1,), is_lease_over=False))]


def test_nothing_waits_when_nothing_runs() -> None:
    assert tell(new_worker(), CallBlocked(), CallResumed(), CallOverran()) == []


# -- clients that die


def test_the_calls_of_a_dead_client_do_not_run() -> None:
    worker = queued(1, 2)
    stop = Interrupt(c(1), is_recursive=True)
    assert hear(worker, NODE, ClientDied(me_of(ME))) == [stop, Hangup(ME)]
    assert tell(worker, CallRan(done(1))) == []


def test_nobody_is_told_that_a_dead_clients_lease_is_recalled() -> None:
    worker = queued(1, 2)
    hear(worker, NODE, ClientDied(me_of(ME)))
    assert hear(worker, NODE, RecallLease(1, only_if_idle=False)) == []
    assert tell(worker, CallRan(done(1))) == [Send(NODE, LeaseReturned(1))]


def test_what_was_handed_to_a_dead_client_is_let_go() -> None:
    worker = queued(1)
    tell(worker, CallRan(done(1, contained=((o(7, client=OTHER),),))))
    assert hear(worker, NODE, ClientDied(me_of(ME))) == [LetGo((c(1),)), Hangup(ME)]


def test_refs_in_a_result_that_nobody_waits_for_are_let_go() -> None:
    worker = queued(1)
    hear(worker, NODE, ClientDied(me_of(ME)))
    answer = done(1, contained=((o(7, client=OTHER),),))
    assert tell(worker, CallRan(answer)) == [LetGo((c(1),))]


def test_without_its_node_a_worker_ends() -> None:
    assert tell(new_worker(), PeerLost(NODE, "gone")) == [Exit("lost its node: gone")]


def test_a_lost_client_counts_as_dead() -> None:
    worker = queued(1, 2)
    assert tell(worker, PeerLost(ME, "gone")) == [Interrupt(c(1), is_recursive=True), Hangup(ME)]
    assert tell(worker, CallRan(done(1))) == []


# -- large results


def test_room_for_a_large_result_is_asked_of_the_node() -> None:
    worker = queued(1)
    assert tell(worker, WantSegment(o(1), 1, 10_000)) == [Send(NODE, Allocate(o(1), 1, 10_000))]
    assert hear(worker, NODE, Allocated(o(1), 1, "S-1", 1, True)) == [
        WriteSegment(o(1), 1, "S-1", 1, True)
    ]
    assert tell(worker, SegmentWritten(o(1), 1)) == [Send(NODE, SealObject(o(1), 1))]


def test_a_full_store_is_the_result() -> None:
    full = Failure("store_full", "no room")
    assert hear(new_worker(), NODE, AllocationFailed(o(1), 1, full)) == [
        WriteSegment(o(1), 1, "", 0, False, full)
    ]


# -- being an actor


def alive_actor() -> WorkerMachine:
    """A worker that is an actor under lease 9."""
    worker = new_worker()
    hear(worker, NODE, StartActor(1, 9, actor_spec(5)))
    hear(worker, NODE, FunctionFound(G, "Counter", b"pickled"))
    assert tell(worker, ActorMade(None)) == [Send(NODE, ActorStarted(a(5), 1, W1, 9))]
    return worker


def test_an_actor_fetches_its_class_before_it_is_made() -> None:
    worker = new_worker()
    actor = actor_spec(5)
    assert hear(worker, NODE, StartActor(1, 9, actor)) == [
        Learn(DefineJob(actor.job)),
        Send(NODE, GetFunction(G)),
    ]
    assert hear(worker, NODE, FunctionFound(G, "Counter", b"pickled")) == [
        Learn(DefineFunction(G, "Counter", b"pickled")),
        BecomeActor(1, actor),
    ]
    assert hear(worker, NODE, FunctionFound(G, "Counter", b"pickled")) == []


def test_an_actor_whose_class_is_known_is_made_at_once() -> None:
    worker = new_worker()
    hear(worker, ME, DefineFunction(G, "Counter", b"pickled"))
    actor = actor_spec(5)
    assert hear(worker, NODE, StartActor(1, 9, actor)) == [
        Learn(DefineJob(actor.job)),
        BecomeActor(1, actor),
    ]


def test_an_actor_whose_class_was_learned_while_it_asked_is_made_all_the_same() -> None:
    worker = new_worker()
    actor = actor_spec(5)
    hear(worker, NODE, StartActor(1, 9, actor))
    hear(worker, ME, DefineFunction(G, "Counter", b"pickled"))
    assert BecomeActor(1, actor) in hear(worker, NODE, FunctionFound(G, "Counter", b"pickled"))


def test_calls_that_come_before_the_actor_is_made_wait() -> None:
    worker = new_worker()
    hear(worker, NODE, StartActor(1, 9, actor_spec(5)))
    hear(worker, NODE, FunctionFound(G, "Counter", b"pickled"))
    assert hear(worker, ME, RunCalls(9, 0, [method(1)])) == []
    assert tell(worker, ActorMade(None)) == [
        Send(NODE, ActorStarted(a(5), 1, W1, 9)),
        Run(ME, 9, 0, method(1)),
    ]


def test_a_constructor_that_raised_is_reported_and_the_worker_waits_for_leave_to_go() -> None:
    worker = new_worker()
    hear(worker, NODE, StartActor(1, 9, actor_spec(5)))
    hear(worker, NODE, FunctionFound(G, "Counter", b"pickled"))
    assert tell(worker, ActorMade(RAISED)) == [
        Send(NODE, ActorFailed(a(5), 1, RAISED, may_restart=False))
    ]
    assert hear(worker, NODE, EndWorker()) == [Exit("ended by its node")]


def test_a_class_that_nobody_defined_is_a_dead_actor() -> None:
    worker = new_worker()
    hear(worker, NODE, StartActor(1, 9, actor_spec(5)))
    failure = Failure("actor_died", "the class asked for was never defined")
    assert hear(worker, NODE, FunctionFound(G, "", b"")) == [
        Send(NODE, ActorFailed(a(5), 1, failure, may_restart=False))
    ]


def test_an_actor_runs_each_callers_calls_in_the_callers_order() -> None:
    worker = alive_actor()
    assert hear(worker, ME, RunCalls(9, 0, [method(2, 1)])) == []
    assert hear(worker, OTHER, RunCalls(9, 0, [method(1, 0, client=OTHER)])) == [
        Run(OTHER, 9, 0, method(1, 0, client=OTHER))
    ]
    hear(worker, ME, RunCalls(9, 0, [method(1, 0)]))
    tell(worker, CallRan(done(1, client=OTHER)))
    assert worker.running == Run(ME, 9, 0, method(1, 0))
    assert tell(worker, CallRan(done(1))) == [
        answers(ME, 9, done(1)),
        Run(ME, 9, 0, method(2, 1)),
    ]


def test_an_actor_keeps_its_queue_when_its_call_waits_or_takes_long() -> None:
    worker = alive_actor()
    hear(worker, ME, RunCalls(9, 0, [method(1, 0), method(2, 1)]))
    assert tell(worker, CallBlocked()) == [Send(NODE, WorkerBlocked(9, "Counter.add"))]
    assert tell(worker, CallResumed()) == [Send(NODE, WorkerResumed(9))]
    assert tell(worker, CallOverran()) == []
    assert hear(worker, NODE, RecallLease(9, only_if_idle=False)) == []


def test_task_calls_that_come_to_an_actor_go_back() -> None:
    worker = alive_actor()
    assert hear(worker, ME, RunCalls(3, 0, [spec(1)])) == [
        Send(ME, CallsReturned(3, (0,), is_lease_over=True))
    ]


def test_an_actor_that_quits_answers_the_call_that_did_it_and_runs_no_other() -> None:
    worker = alive_actor()
    hear(worker, ME, RunCalls(9, 0, [method(1, 0), method(2, 1)]))
    left = Failure("actor_died", "exit_actor")
    assert tell(worker, CallRan(done(1)), Quit(left)) == [
        Send(NODE, ActorFailed(a(5), 1, left, may_restart=False)),
        answers(ME, 9, done(1)),
    ]
    assert hear(worker, NODE, EndWorker()) == [Exit("ended by its node")]


def test_a_dead_caller_of_an_actor_is_forgotten() -> None:
    worker = alive_actor()
    hear(worker, ME, RunCalls(9, 0, [method(2, 1)]))
    assert hear(worker, NODE, ClientDied(me_of(ME))) == [Hangup(ME)]
    assert worker.actor is not None
    assert (worker.actor.expected, worker.actor.early) == ({}, {})
