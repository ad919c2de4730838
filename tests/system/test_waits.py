"""Waiting for real calls: get, wait, as_completed, await, futures and map."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import fabric
from fabric import exceptions
from tests.system.looks import WAIT_S
from tests.system.work import Unlucky, add, fail, reciprocal
from tests.system.work import after as waiting

pytestmark = pytest.mark.system


after = waiting.options(num_cpus=0)


@pytest.fixture
def session() -> Iterator[fabric.Context]:
    with fabric.init(num_cpus=2) as context:
        yield context


def test_get_keeps_the_order_and_raises_the_first_failure_at_once(
    session: fabric.Context, tmp_path: Path
) -> None:
    gates = [str(tmp_path / f"gate-{i}") for i in range(3)]
    refs = [after.remote(gate, i) for i, gate in enumerate(gates)]
    with pytest.raises(exceptions.GetTimeoutError) as caught:
        fabric.get(refs, timeout=0.05)
    assert isinstance(caught.value, TimeoutError)
    with pytest.raises(exceptions.GetTimeoutError):
        refs[0].get(timeout=0)
    with pytest.raises(Unlucky, match="number 4"):
        fabric.get([*refs, fail.remote(4)])  # without a timeout: the gates are closed
    for gate in reversed(gates):
        Path(gate).touch()
    assert fabric.get(refs, WAIT_S) == [0, 1, 2]
    assert fabric.get([refs[2], refs[0], refs[2]], WAIT_S) == [2, 0, 2]
    assert fabric.get([]) == []


def test_wait_returns_exactly_as_many_as_asked_for_in_input_order(
    session: fabric.Context, tmp_path: Path
) -> None:
    gate = str(tmp_path / "gate")
    late = [after.remote(gate, i) for i in range(2)]
    early: list[Any] = [add.remote(1), fail.remote(5), add.remote(3)]
    refs = [late[0], *early, late[1]]
    ready, rest = fabric.wait(refs, num_returns=3, timeout=WAIT_S)
    assert (ready, rest) == (early, late)
    ready, rest = fabric.wait(refs, num_returns=2)
    assert (ready, rest) == (early[:2], [late[0], early[2], late[1]])
    ready, rest = fabric.wait(refs, num_returns=4, timeout=0.05)
    assert (ready, rest) == (early, late)
    with pytest.raises(ValueError, match="twice"):
        fabric.wait([early[0], early[0]])
    with pytest.raises(ValueError, match="num_returns"):
        fabric.wait(refs, num_returns=6)
    with pytest.raises(TypeError):
        fabric.wait(early[0])
    assert fabric.wait([]) == ([], [])
    Path(gate).touch()
    ready, rest = fabric.wait(refs, num_returns=5, timeout=WAIT_S)
    assert (ready, rest) == (refs, [])


def test_as_completed_gives_refs_as_they_become_ready(
    session: fabric.Context, tmp_path: Path
) -> None:
    gates = [str(tmp_path / f"gate-{i}") for i in range(4)]
    refs = [after.remote(gate, i) for i, gate in enumerate(gates)]
    seen = []
    Path(gates[3]).touch()
    for ref in fabric.as_completed(refs, timeout=WAIT_S):
        value = ref.get()
        seen.append(value)
        if value:
            Path(gates[value - 1]).touch()
    assert seen == [3, 2, 1, 0]


def test_a_thousand_refs_are_awaited_together(session: fabric.Context, tmp_path: Path) -> None:
    gate = str(tmp_path / "gate")

    async def gather() -> list[int]:
        late = after.remote(gate, 5)
        refs = [add.remote(i, late) for i in range(1000)]
        waiting = asyncio.gather(*refs)
        await asyncio.sleep(0)
        Path(gate).touch()
        return await waiting

    assert asyncio.run(asyncio.wait_for(gather(), WAIT_S)) == list(range(5, 1005))


def test_await_raises_and_the_loop_goes_on_meanwhile(
    session: fabric.Context, tmp_path: Path
) -> None:
    gate = str(tmp_path / "gate")

    async def both() -> list[Any]:
        async def open_gate() -> str:
            Path(gate).touch()
            return "opened"

        found = await asyncio.gather(
            after.remote(gate, 1), open_gate(), fail.remote(6), return_exceptions=True
        )
        return [*found, [await ref async for ref in fabric.as_completed([add.remote(1)])]]

    one, opened, error, completed = asyncio.run(asyncio.wait_for(both(), WAIT_S))
    assert (one, opened, completed) == (1, "opened", [2])
    assert isinstance(error, Unlucky)


def test_a_future_has_the_value_or_the_error_and_calls_back(session: fabric.Context) -> None:
    called = threading.Event()
    future = add.remote(1).future()
    future.add_done_callback(lambda _: called.set())
    assert future.result(WAIT_S) == 2
    assert called.wait(WAIT_S)
    error = fail.remote(7).future().exception(WAIT_S)
    assert isinstance(error, Unlucky)
    assert isinstance(error, exceptions.TaskError)


def test_map_keeps_order_and_an_item_that_fails_fails_alone(session: fabric.Context) -> None:
    refs = add.map(range(20_000), range(20_000))
    assert len(refs) == 20_000
    assert fabric.get(refs, WAIT_S) == [2 * i for i in range(20_000)]
    assert refs[77].get(WAIT_S) == 154
    assert fabric.get(add.remote(refs[5], refs[6]), WAIT_S) == 22
    odd = reciprocal.map([1, 0, 2], chunk=3)
    assert [odd[0].get(WAIT_S), odd[2].get(WAIT_S)] == [1.0, 0.5]
    with pytest.raises(ZeroDivisionError):
        odd[1].get(WAIT_S)
    with pytest.raises(ZeroDivisionError):
        fabric.get(odd, WAIT_S)
