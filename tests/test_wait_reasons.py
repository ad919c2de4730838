"""Every reason a wait can have: a call is put into it, says so, and the wait ends.

A reason without a row fails.
"""

from collections.abc import Callable

import pytest

from fabric.core.client.client import ClientMachine
from fabric.core.client.reasons import REASONS
from fabric.core.effects import Resolve, Send
from fabric.core.events import Cancel, Drained, Hold, Put, Want
from fabric.ids import ObjectId
from fabric.protocol.messages import ActorChanged, CancelObject, ObjectReady, WorkerDied
from fabric.protocol.values import ActorView, Crash, Failure, Progress
from fabric.runtime.reasons import why_waiting
from tests.core_words import (
    ME,
    NODE,
    OTHER,
    W1,
    W2,
    a,
    ask,
    hear,
    leased,
    me_of,
    new_client,
    o,
    submit,
    tell,
)

Case = tuple[ClientMachine, ObjectId]
ACTOR = a(5, OTHER)
ALIVE = ActorView(ACTOR, "alive", 1, "Counter", worker=W2, lease=7)
CANCELLED = Failure("cancelled", "it was cancelled")


def working(**limits: int) -> ClientMachine:
    """A client with a call at `W1` and an actor that it may call."""
    client = new_client(**limits)
    leased(client, W1)
    tell(client, submit(1))
    hear(client, NODE, ActorChanged(ALIVE))
    return client


def argument() -> Case:
    client = working()
    tell(client, submit(2, o(1)))
    return client, o(2)


def worker() -> Case:
    client = new_client()
    tell(client, submit(2))
    return client, o(2)


def queued() -> Case:
    client = working()
    tell(client, submit(2))
    return client, o(2)


def running() -> Case:
    return working(), o(1)


def resting() -> Case:
    client = working()
    crash = Crash(signal=9, limit=1)
    hear(client, NODE, WorkerDied(W1, (Progress(me_of(ME), 1, 0, False),), 0, crash))
    tell(client, Drained(W1))
    return client, o(1)


def last_words() -> Case:
    client = working()
    hear(client, NODE, WorkerDied(W1, (Progress(me_of(ME), 1, 0, False),), 0, Crash(signal=9)))
    return client, o(1)


def actor_start() -> Case:
    client = new_client()
    tell(client, ask(2, ACTOR))
    hear(client, NODE, ActorChanged(ActorView(ACTOR, "pending", 1, "Counter")))
    return client, o(2)


def actor_order() -> Case:
    client = working()
    tell(client, ask(2, ACTOR, o(1)), ask(3, ACTOR))
    hear(client, NODE, ActorChanged(ALIVE))
    return client, o(3)


def actor_window() -> Case:
    client = working(window_calls_max=1)
    tell(client, ask(2, ACTOR), ask(3, ACTOR))
    hear(client, NODE, ActorChanged(ALIVE))
    return client, o(3)


def owner() -> Case:
    client = new_client()
    theirs = o(2, client=OTHER)
    tell(client, Hold(theirs), Want(theirs))
    return client, theirs


def promise() -> Case:
    return new_client(), o(2)


CASES: tuple[Callable[[], Case], ...] = (
    argument,
    worker,
    queued,
    running,
    resting,
    last_words,
    actor_start,
    actor_order,
    actor_window,
    owner,
    promise,
)


def test_every_reason_has_a_row() -> None:
    assert [case.__name__ for case in CASES] == list(REASONS)


@pytest.mark.parametrize("case", CASES, ids=[case.__name__ for case in CASES])
def test_a_wait_says_its_reason_and_ends_with_a_cancel(case: Callable[[], Case]) -> None:
    client, object_id = case()
    name = client.reason_of(object_id)
    assert name == case.__name__
    assert REASONS[name] in why_waiting(client, [object_id])
    effects = tell(client, Cancel(b"asked", object_id, False, True))
    if name == "owner":
        asked = Send(OTHER, CancelObject(object_id, False, True))
        assert asked in effects
        effects = hear(client, OTHER, ObjectReady(object_id, CANCELLED))
    elif name == "promise":  # nobody runs it: the user's thread says what it is
        effects = tell(client, Put(object_id, CANCELLED), Want(object_id))
    (said,) = (one for one in effects if type(one) is Resolve and one.object_id == object_id)
    assert isinstance(said.value, Failure)
    assert said.value.kind == "cancelled"
