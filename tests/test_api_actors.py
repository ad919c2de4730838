"""Actors as a user's program relies on them, on a real fabric."""

import gc
import time
from collections.abc import Iterator
from typing import Any

import pytest

import fabric
from fabric import exceptions, spawn, task
from fabric.runtime.client import client_or_none
from tests.api_work import WAIT_S, Counter, same, wait_until

pytestmark = pytest.mark.system


@pytest.fixture
def session() -> Iterator[fabric.Context]:
    with fabric.init(num_cpus=2) as context:
        yield context


def test_calls_of_an_actor_run_in_order(session: fabric.Context) -> None:
    counter = spawn(Counter, 10)
    refs = [counter.add.remote(1) for _ in range(100)]
    assert fabric.get(refs, timeout=WAIT_S) == list(range(11, 111))
    assert fabric.get(counter.both.remote(), timeout=WAIT_S) == [110, -110]  # type: ignore[comparison-overlap]
    with pytest.raises(KeyError):
        counter.fail.remote().get(WAIT_S)
    assert counter.add.remote().get(WAIT_S) == 111


def test_wrong_methods_and_arguments_are_errors_at_the_caller(session: fabric.Context) -> None:
    with pytest.raises(TypeError, match="start"):
        spawn(Counter, 1, start=2)  # type: ignore[misc]
    counter = spawn(Counter)
    with pytest.raises(AttributeError, match="did you mean 'add'"):
        counter.ad  # type: ignore[attr-defined]  # noqa: B018
    with pytest.raises(TypeError, match="add"):
        counter.add.remote(1, 2, 3)  # type: ignore[call-overload]
    assert "both" in dir(counter)


def test_an_actor_class_is_not_inherited() -> None:
    with pytest.raises(TypeError, match="inherit from a plain class"):
        exec("class Sub(Counter): pass", {"Counter": Counter})


def test_a_handle_travels_and_is_equal_to_itself(session: fabric.Context) -> None:
    counter = spawn(Counter)
    assert same.remote([counter]).get(WAIT_S)[0] == counter

    @task
    def use(one: Any) -> int:
        value: int = one.add.remote(5).get()
        return value

    assert use.remote(counter).get(WAIT_S) == 5


def test_an_actor_is_found_by_its_name(session: fabric.Context) -> None:
    counter = Counter.options(name="c").remote(1)  # type: ignore[attr-defined]
    assert counter.add.remote().get(WAIT_S) == 2
    assert fabric.get_actor("c").add.remote().get(WAIT_S) == 3
    with pytest.raises(exceptions.NameTakenError):
        Counter.options(name="c").remote()  # type: ignore[attr-defined]
    again = Counter.options(name="c", get_if_exists=True).remote()  # type: ignore[attr-defined]
    assert again == counter
    with pytest.raises(ValueError, match="no living actor"):
        fabric.get_actor("d")


def test_an_actor_lives_while_a_handle_that_was_found_does(session: fabric.Context) -> None:
    counter = Counter.options(name="found").remote()  # type: ignore[attr-defined]
    gate = spawn(Counter)

    @task
    def use_late(gates: list[Any]) -> int:
        found = fabric.get_actor("found")
        gates[0].add.remote().get()
        while gates[0].add.remote(0).get() < 2:
            time.sleep(0.01)
        value: int = found.add.remote(7).get()
        return value

    late = use_late.remote([gate])
    wait_until(lambda: gate.add.remote(0).get(WAIT_S) == 1)
    del counter
    gc.collect()
    assert gate.add.remote().get(WAIT_S) == 2
    assert late.get(WAIT_S) == 7


def test_a_killed_actor_fails_its_calls_and_frees_its_name(session: fabric.Context) -> None:
    counter = Counter.options(name="k").remote()  # type: ignore[attr-defined]
    assert counter.add.remote().get(WAIT_S) == 1
    fabric.kill(counter)
    wait_until(lambda: _error_of(counter.add.remote()) is exceptions.ActorDiedError)

    def is_free() -> bool:
        try:
            fabric.get_actor("k")
        except ValueError:
            return True
        return False

    wait_until(is_free)


def _error_of(ref: fabric.ObjectRef[Any]) -> type[BaseException] | None:
    error = ref.future().exception(WAIT_S)
    return None if error is None else type(error)


def test_an_actor_that_crashes_or_leaves_is_dead(session: fabric.Context) -> None:
    for end in ("die", "leave"):
        counter = spawn(Counter)
        getattr(counter, end).remote()
        with pytest.raises(exceptions.ActorError):
            fabric.get([counter.add.remote() for _ in range(3)], timeout=WAIT_S)


def test_an_actor_ends_after_what_was_sent_to_it_when_its_last_handle_goes(
    session: fabric.Context,
) -> None:
    counter = spawn(Counter)
    refs = [counter.add.remote() for _ in range(10)]
    del counter
    assert fabric.get(refs, timeout=WAIT_S) == list(range(1, 11))

    def is_dead() -> bool:
        client = client_or_none()
        assert client is not None
        return all(each.state == "dead" for each in client.view().actors)

    wait_until(is_dead)
