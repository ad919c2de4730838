"""What a user's program relies on: calls, values, waits, actors and sessions, on a real fabric."""

import asyncio
import concurrent.futures
import copy
import gc
import io
import logging
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import fabric
from fabric import exceptions, spawn
from fabric.runtime.client import client_or_none
from tests.api_work import (
    WAIT_S,
    Counter,
    add,
    add_to_inner,
    both,
    fail,
    nap,
    nested,
    same,
    wait_until,
)

pytestmark = pytest.mark.system


@pytest.fixture
def session() -> Iterator[fabric.Context]:
    with fabric.init(num_cpus=2) as context:
        yield context


# ---------------------------------------- tasks


def test_a_session_begins_by_itself_and_ends_when_told() -> None:
    assert not fabric.is_initialized()
    assert add.remote(1).get(WAIT_S) == 2
    assert fabric.is_initialized()
    fabric.shutdown()
    fabric.shutdown()
    assert not fabric.is_initialized()


def test_calls_keep_their_order_in_get(session: fabric.Context) -> None:
    refs = [add.remote(i) for i in range(1000)]
    assert fabric.get(refs, timeout=WAIT_S) == list(range(1, 1001))


def test_a_task_is_still_a_function() -> None:
    assert add(1, y=5) == 6
    assert add.__name__ == "add"
    assert not fabric.is_initialized()


def test_wrong_arguments_are_a_type_error_at_the_caller() -> None:
    with pytest.raises(TypeError, match=r"add\(\) missing 1 required positional argument: 'x'"):
        add.remote()  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="no option 'num_cpu'"):
        add.options(num_cpu=1)
    assert not fabric.is_initialized()


def test_top_level_refs_become_values_and_nested_ones_stay_refs(session: fabric.Context) -> None:
    one = add.remote(0)
    for _ in range(50):
        one = add.remote(fabric.arg(one))
    assert one.get(WAIT_S) == 51
    assert add.remote(1, y=fabric.arg(one)).get(WAIT_S) == 52
    assert add_to_inner.remote({"inner": fabric.put(6)}).get(WAIT_S) == 7
    assert add_to_inner.remote({"inner": add.remote(5)}).get(WAIT_S) == 7


def test_a_ref_comes_back_as_the_very_same_ref(session: fabric.Context) -> None:
    inner = add.remote(1)
    back = same.remote({"inner": inner}).get(WAIT_S)
    assert back["inner"] is inner
    assert copy.deepcopy(inner) is inner
    assert pickle.loads(pickle.dumps(inner)) is inner


def test_a_task_that_submits_gets_its_answers(session: fabric.Context) -> None:
    assert nested.remote(20).get(WAIT_S) == 210
    assert fabric.get([nested.remote(3) for _ in range(4)], timeout=WAIT_S) == [6] * 4


def test_several_results_are_several_refs(session: fabric.Context) -> None:
    first, second = both.remote(1)
    assert fabric.get([second, first], timeout=WAIT_S) == [2, 1]
    assert add.options(num_returns=0).remote(1) is None


def test_an_error_is_the_users_type_and_a_task_error_and_fails_what_depends_on_it(
    session: fabric.Context,
) -> None:
    with pytest.raises(ValueError, match="broken") as caught:
        fail.remote("broken").get(WAIT_S)
    assert isinstance(caught.value, exceptions.TaskError)
    with pytest.raises(ValueError, match="broken"):
        same.remote(fail.remote("broken")).get(WAIT_S)


def test_a_large_argument_and_a_large_result_go_through_shared_memory(
    session: fabric.Context,
) -> None:
    blob = os.urandom(3_000_000)
    assert same.remote(blob).get(WAIT_S) == blob
    assert same.remote(fabric.put(blob)).get(WAIT_S) == blob


def test_an_unpicklable_argument_names_the_culprit(session: fabric.Context) -> None:
    with pytest.raises(exceptions.SerializationError, match="lock"):
        same.remote({"lock": threading.Lock()})


# ---------------------------------------- values and waits


def test_each_get_reads_a_value_anew(session: fabric.Context) -> None:
    ref = fabric.put([1, 2])
    ref.get().append(3)
    assert ref.get() == [1, 2]
    with pytest.raises(TypeError, match="ref cannot be put"):
        fabric.put(ref)


def test_get_gives_up_in_time_and_the_value_still_comes(session: fabric.Context) -> None:
    ref = nap.remote(0.3)
    with pytest.raises(exceptions.GetTimeoutError, match=r"not ready within 0\.01 s"):
        ref.get(0.01)
    with pytest.raises(TimeoutError):
        fabric.get([ref], timeout=0)
    assert ref.get(WAIT_S) == 0.3


def test_the_first_failure_is_raised_without_waiting_for_the_others(
    session: fabric.Context,
) -> None:
    slow = nap.remote(30.0)
    with pytest.raises(ValueError, match="soon"):
        fabric.get([slow, fail.remote("soon")], timeout=WAIT_S)


def test_wait_gives_both_lists_in_input_order(session: fabric.Context) -> None:
    slow = nap.remote(30.0)
    ready = [add.remote(i) for i in range(3)]
    fabric.get(ready, timeout=WAIT_S)
    refs = [slow, *reversed(ready)]
    assert fabric.wait(refs, num_returns=2, timeout=WAIT_S) == (
        [ready[2], ready[1]],
        [slow, ready[0]],
    )
    assert fabric.wait(refs, num_returns=4, timeout=0.01) == (refs[1:], [slow])
    assert fabric.wait([]) == ([], [])


def test_wait_refuses_what_makes_no_sense(session: fabric.Context) -> None:
    ref = add.remote(1)
    with pytest.raises(ValueError, match="once"):
        fabric.wait([ref, ref])
    with pytest.raises(TypeError, match="list of refs"):
        fabric.wait(ref)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="num_returns"):
        fabric.wait([ref], num_returns=2)
    with pytest.raises(TypeError, match="has 3 in it"):
        fabric.get([ref, 3])  # type: ignore[arg-type]


def test_as_completed_yields_each_ref_once_as_it_becomes_ready(session: fabric.Context) -> None:
    refs = [nap.remote(each) for each in (0.3, 0.0)]
    assert [ref.get() for ref in fabric.as_completed(refs)] == [0.0, 0.3]
    with pytest.raises(exceptions.GetTimeoutError):
        list(fabric.as_completed([nap.remote(30.0)], timeout=0.05))


def test_refs_can_be_awaited(session: fabric.Context) -> None:
    async def main() -> list[int]:
        gathered = await asyncio.gather(*[_value(add.remote(i)) for i in range(100)])
        async for ref in fabric.as_completed([add.remote(100)]):
            gathered.append(await ref)
        return gathered

    assert asyncio.run(main()) == list(range(1, 102))


async def _value(ref: fabric.ObjectRef[int]) -> int:
    return await ref


def test_futures_are_real_and_call_back_on_their_own_thread(session: fabric.Context) -> None:
    futures = [add.remote(i).future() for i in range(20)]
    threads: list[str] = []
    futures[0].add_done_callback(lambda _: threads.append(threading.current_thread().name))
    done = concurrent.futures.wait(futures, timeout=WAIT_S).done
    assert sorted(each.result() for each in done) == list(range(1, 21))
    assert isinstance(fail.remote("f").future().exception(WAIT_S), ValueError)
    wait_until(lambda: bool(threads))
    assert threads[0] in ("fabric-callbacks", "MainThread")


def test_a_wait_without_progress_says_why(
    session: fabric.Context, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    client = client_or_none()
    assert client is not None
    monkeypatch.setattr(client, "limits", type(client.limits)(wait_warning_s=0.1))
    with caplog.at_level(logging.WARNING, "fabric"), pytest.raises(TimeoutError):
        nap.remote(30.0).get(0.5)
    assert len(caplog.records) == 2  # after 0.1 and 0.3 seconds: the intervals double
    assert "for 1 ref: task `nap` (is at its worker)" in caplog.text
    assert "this process holds CPU 1 for task `nap`" in caplog.text


def test_many_threads_may_wait_at_once(session: fabric.Context) -> None:
    refs = [add.remote(i) for i in range(200)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        sums = list(pool.map(lambda _: sum(fabric.get(refs, timeout=WAIT_S)), range(16)))
    assert sums == [20_100] * 16


# ---------------------------------------- map


def test_map_gives_refs_and_values_in_order(session: fabric.Context) -> None:
    mapped = add.map(range(5000))
    assert fabric.get([mapped[0], mapped[-1], *mapped[10:12]], timeout=WAIT_S) == [1, 5000, 11, 12]
    assert fabric.get(mapped, timeout=WAIT_S) == list(range(1, 5001))
    assert fabric.get(add.map(range(10), range(10)), timeout=WAIT_S) == list(range(0, 20, 2))
    assert fabric.get(add.map([]), timeout=WAIT_S) == []


def test_an_item_that_fails_fails_alone(session: fabric.Context) -> None:
    mapped = add.map([1, "two", 3], chunk=3)
    assert mapped[0].get(WAIT_S) == 2
    assert mapped[2].get(WAIT_S) == 4
    with pytest.raises(TypeError):
        mapped[1].get(WAIT_S)
    with pytest.raises(TypeError):
        fabric.get(mapped, timeout=WAIT_S)


def test_refs_of_a_map_are_arguments_like_any_other(session: fabric.Context) -> None:
    mapped = add.map([nap.remote(0.05), 3])
    assert same.remote([mapped[1]]).get(WAIT_S) == [mapped[1]]
    assert add.remote(mapped[0], y=mapped[1]).get(WAIT_S) == pytest.approx(5.05)
    early = nap.map([0.05, 0.0])
    assert add.remote(early[0], y=fabric.put(1)).get(WAIT_S) == pytest.approx(1.05)


# ---------------------------------------- sessions


def test_init_twice_is_fine_if_it_says_the_same(session: fabric.Context) -> None:
    assert fabric.init().cluster == session.cluster
    assert fabric.init(num_cpus=2).cluster == session.cluster
    with pytest.raises(exceptions.AlreadyRunningError, match="num_cpus=3"):
        fabric.init(num_cpus=3)


def test_an_unknown_address_is_an_error_that_says_what_there_is() -> None:
    with pytest.raises(exceptions.ConfigError, match="auto"):
        fabric.init("nowhere")
    with pytest.raises(exceptions.ClusterNotFoundError):
        fabric.init("auto")


def test_refs_and_handles_of_an_ended_session_say_so() -> None:
    fabric.init(num_cpus=1)
    ready, pending, counter = add.remote(1), nap.remote(30.0), spawn(Counter)
    ready.get(WAIT_S)
    fabric.shutdown()
    for use in (ready.get, pending.get, counter.add.remote, lambda: pickle.dumps(ready)):
        with pytest.raises(exceptions.SessionEndedError):
            use()
    with fabric.init(num_cpus=1):
        with pytest.raises(exceptions.SessionEndedError):
            add.remote(fabric.arg(ready))
        assert add.remote(1).get(WAIT_S) == 2


def test_the_machine_is_described_to_a_private_fabric() -> None:
    with fabric.init(num_cpus=1, resources={"disk": 2}):
        assert fabric.cluster_resources() == {"CPU": 1.0, "disk": 2.0}
        (node,) = fabric.nodes()
        assert node["Alive"]
        assert node["node_id"] == fabric.get_runtime_context().node_id
        with pytest.raises(exceptions.UnschedulableError):
            add.options(num_cpus=3).remote(1).get(WAIT_S)


def test_nothing_of_a_finished_call_stays_in_the_client(session: fabric.Context) -> None:
    client = client_or_none()
    assert client is not None
    blob = fabric.put(bytes(500_000))
    refs = [same.remote(blob), same.remote({"r": add.remote(1)}), same.remote(blob)]
    fabric.wait(refs, num_returns=3, timeout=WAIT_S)
    values = [refs[1].get()]
    del blob, refs, values
    gc.collect()
    owned = client.machine.references.objects.owned
    wait_until(lambda: not owned and not client.inflight)
    client.machine.check()


def test_a_fork_of_a_driver_is_refused_clearly(session: fabric.Context) -> None:
    ref = add.remote(1)
    ref.get(WAIT_S)
    context = multiprocessing.get_context("fork")
    reader, writer = context.Pipe(duplex=False)
    child = context.Process(target=_use_in_fork, args=(writer, ref))
    child.start()
    found = reader.recv()
    child.join(WAIT_S)
    reader.close()
    writer.close()
    assert found == ["FAB-103"] * 3
    assert add.remote(1).get(WAIT_S) == 2


def _use_in_fork(writer: Any, ref: fabric.ObjectRef[int]) -> None:
    found = []
    for use in (ref.get, lambda: add.remote(1), lambda: fabric.put(1)):
        try:
            use()
        except exceptions.FabricError as error:
            found.append(error.code)
    writer.send(found)
    writer.close()


SCRIPT = """
import fabric
@fabric.task
def square(x): return x * x
class Kept:
    def __init__(self, x): self.x = x
@fabric.task
def keep(x): return Kept(x)
print(fabric.get([square.remote(i) for i in range(4)]), keep.remote(3).get().x)
"""


def test_a_script_prints_its_results_and_nothing_else() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "[0, 1, 4, 9] 3\n", "")


def test_a_script_that_fails_ends_its_fabric_too() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT + "\nraise SystemExit(7)"], timeout=30, check=False
    )
    assert done.returncode == 7


def test_importing_the_package_loads_nothing_heavy() -> None:
    script = (
        "import sys, fabric; from fabric import task, actor, get;"
        "print([m for m in ('numpy pyarrow rich click sqlite_utils pandas asyncio').split()"
        " if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout == "[]\n"


def test_progress_writes_plain_lines_into_a_pipe(session: fabric.Context) -> None:
    text = io.StringIO()
    refs = [add.remote(1), fail.remote("f"), add.remote(2)]
    assert len(list(fabric.progress(refs, file=text))) == 3
    assert text.getvalue() == "tasks: 3/3, 1 failed\n"
