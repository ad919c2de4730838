"""A client's leases: how many it asks for, what comes back from them, and workers that die."""

import msgspec
import pytest

from fabric.core.client.client import ClientMachine
from fabric.core.crashes import crash_failure
from fabric.core.effects import Drain, Effect, Hangup, Resolve, Send
from fabric.core.events import (
    Drained,
)
from fabric.protocol.messages import (
    CallsDone,
    CallsReturned,
    FreeObjects,
    LeaseGranted,
    ReturnLease,
    Unschedulable,
    WorkerDied,
)
from fabric.protocol.values import Crash, Failure, Progress
from tests.core_words import (
    HALF,
    ME,
    NODE,
    W1,
    W2,
    F,
    answered,
    c,
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
    spec,
    submit,
    tell,
)

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
    needs = "it needs GPU 1; the best node has CPU 2"
    failure = Failure("unschedulable", f"no node can run task `f`: {needs}")
    assert hear(client, NODE, Unschedulable(0, Failure("unschedulable", needs))) == [
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

CRASH = Crash(signal=9, pid=7, node=NODE, last_words="oh")


def died(client: ClientMachine, *reached: Progress, known_from: int = 0) -> list[Effect]:
    """The worker is gone, having come that far; all it said has been heard."""
    assert hear(client, NODE, WorkerDied(W1, reached, known_from, CRASH)) == [Drain(W1)]
    return tell(client, Drained(W1))


def reached(lease: int, number: int, finished: bool = False) -> Progress:
    """How far it came with that lease of ours."""
    return Progress(me_of(ME), lease, number, finished)


def crashed(attempt: int = 1, crash: Crash = CRASH) -> Failure:
    """What becomes of a call that was running."""
    return crash_failure(msgspec.structs.replace(crash, task="f", attempt=attempt))


def test_after_a_death_the_running_call_is_charged_and_its_neighbours_are_innocent() -> None:
    client = new_client()
    leased(client, W1)
    tell(client, submit(1), submit(2), submit(3))
    answered(client, 1, 1)
    assert died(client, reached(1, 1)) == [
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
    leased(client, W1, may_retry=False)
    tell(client, submit(1, retries=0))
    assert died(client, reached(1, 0, True)) == [
        Resolve(o(1), crashed()),
        Hangup(W1),
        Send(NODE, requested(0, may_retry=False)),
        Send(NODE, FreeObjects((o(1),))),
    ]


def test_calls_of_a_worker_that_died_before_it_started_any_are_innocent() -> None:
    client = new_client()
    leased(client, W1, may_retry=False)
    tell(client, submit(1, retries=0))
    died(client)
    hear(client, NODE, LeaseGranted(0, 2, W2))
    assert client.calls.pending[c(1)].attempt == 1


def test_last_words_count() -> None:
    client = new_client()
    leased(client, W1, may_retry=False)
    tell(client, submit(1, retries=0))
    hear(client, NODE, WorkerDied(W1, (reached(1, 0, True),), 0, CRASH))
    assert answered(client, 1, 1) == [Resolve(o(1), b"v")]
    assert tell(client, Drained(W1)) == [Hangup(W1), Send(NODE, requested(0, may_retry=False))]


def test_nothing_is_sent_to_a_worker_that_is_dead() -> None:
    client = new_client()
    leased(client, W1)
    hear(client, NODE, WorkerDied(W1, (), 0, CRASH))
    assert tell(client, submit(1)) == []
    assert client.deadline() is None
    assert tell(client, Drained(W1)) == [Hangup(W1), Send(NODE, requested(1))]


def test_an_attempt_that_is_over_counts_no_more() -> None:
    client = new_client()
    leased(client, W1)
    tell(client, submit(1))
    died(client, reached(1, 0))
    introduced(client, W2)
    hear(client, NODE, LeaseGranted(0, 2, W2))
    assert hear(client, W1, CallsDone(1, [done(1, attempt=1)])) == []
    assert hear(client, W2, CallsDone(2, [done(1, attempt=2)])) == [
        Resolve(o(1), b"v"),
        Send(NODE, FreeObjects((o(1),))),  # what the first attempt may have sealed
    ]


@pytest.mark.parametrize(
    ("progress", "known_from", "attempt"),
    [
        ((reached(1, 0),), 0, 2),  # it was started under the older lease
        ((reached(2, 5),), 0, 1),  # nothing was
        ((reached(2, 5),), 1, 1),
        ((reached(2, 5),), 2, 2),  # nobody knows: what the older lease had come to is forgotten
    ],
)
def test_calls_of_an_older_lease_are_charged_by_how_far_that_one_came(
    progress: tuple[Progress, ...], known_from: int, attempt: int
) -> None:
    client = new_client()
    leased(client, W1)
    tell(client, submit(1), submit(2))
    hear(client, W1, CallsReturned(1, (1,), is_lease_over=True))
    died(client, *progress, known_from=known_from)
    assert client.calls.pending[c(1)].attempt == attempt


def test_a_call_ends_after_its_last_retry() -> None:
    client = new_client()
    tell(client, submit(1, retries=1))
    introduced(client, W1)
    hear(client, NODE, LeaseGranted(0, 1, W1))
    assert died(client, reached(1, 0)) == [
        Hangup(W1),
        Send(NODE, requested(1)),
    ]
    introduced(client, W1)
    hear(client, NODE, LeaseGranted(0, 2, W1))
    assert died(client, reached(2, 0))[0] == Resolve(o(1), crashed(attempt=2))
