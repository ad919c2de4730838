"""The sentence of a wait's warning: what is waited for, and who holds what it needs."""

from fabric.core.client.client import ClientMachine
from fabric.protocol.messages import LeaseGranted
from fabric.runtime.reasons import why_waiting
from tests.core_words import (
    HALF,
    NODE,
    OTHER,
    W1,
    W2,
    F,
    a,
    ask,
    hear,
    leased,
    new_client,
    o,
    submit,
    tell,
)


def busy() -> ClientMachine:
    """A client with one worker, one call there, and three that wait for another."""
    client = new_client()
    leased(client, W1)
    client.calls.durations[F] = 1.0
    tell(client, *(submit(number) for number in range(1, 5)))
    return client


def test_it_names_the_calls_and_who_holds_the_cpus() -> None:
    at_worker = "task `f` (is at its worker)"
    held = "this process holds CPU 1 for task `f`"
    client = busy()
    assert why_waiting(client, [o(1)]) == f"1 ref: {at_worker}; {held}"
    assert why_waiting(client, [o(1), o(2), o(3), o(4)]) == (
        f"4 refs: 3 times task `f` (waits for a worker with CPU 1), {at_worker}; {held}"
    )


def test_each_shape_arguments_actors_and_strangers_have_words_of_their_own() -> None:
    client = new_client()
    tell(client, submit(1, shape=HALF), submit(2, o(1)), ask(3, a(9)))
    assert why_waiting(client, [o(1)]) == "1 ref: task `f` (waits for a worker with CPU 0.5)"
    assert why_waiting(client, [o(2)]) == "1 ref: task `f` (waits for its arguments)"
    assert why_waiting(client, [o(3)]) == "1 ref: call `add` (its actor is not there yet)"
    assert why_waiting(client, [o(1, client=OTHER)]) == "1 ref: a value of another process"
    assert why_waiting(client, []) == "no ref: the last value is just coming"


def test_workers_of_one_kind_are_counted() -> None:
    client = busy()
    hear(client, NODE, LeaseGranted(0, 2, W2))
    assert why_waiting(client, [o(1)]).endswith("holds 2 times CPU 1 for task `f`")
