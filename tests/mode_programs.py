"""Programs that need no concurrency, and what each of them gives: the same in every mode.

A program is a function without arguments that begins with a session of `RESOURCES` and gives a
value, or raises. `PROGRAMS` has them with what is expected: a value, or an `Error`.
"""

import asyncio
import io
import pickle
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import fabric
from fabric import actor, exceptions, task
from tests.api_work import Counter, add, both, fail, same
from tests.system.work import Broken, Ledger, depth, fail_deeper, give, leaves, make_refs
from tests.system.work import fail as fail_number

RESOURCES: dict[str, Any] = {"num_cpus": 2, "resources": {"slot": 2.0}}
WAIT_S = 30.0

Counters: Any = Counter
Ledgers: Any = Ledger
Brokens: Any = Broken


class Error(NamedTuple):
    """An error of these types, with that in its text."""

    kinds: tuple[type[BaseException], ...]
    text: str


PROGRAMS: dict[str, tuple[Callable[[], Any], Any]] = {}


def program(expected: Any) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    """Put it into the table."""

    def keep(function: Callable[[], Any]) -> Callable[[], Any]:
        PROGRAMS[function.__name__] = function, expected
        return function

    return keep


def error_of(use: Callable[[], Any]) -> str:
    """The type of what that raises."""
    try:
        use()
    except Exception as error:
        return type(error).__name__
    return "none"


# ---------------------------------------- calls


@task
def spoil(items: list[int]) -> list[int]:
    items.append(99)
    return items


@task
def is_writable(array: Any) -> bool:
    return bool(array.flags.writeable)


@task
def quarter(x: int) -> float:
    return 12 / x


@task
def who() -> tuple[Any, ...]:
    here = fabric.get_runtime_context()
    return here.task_name, here.attempt, here.actor_class, here.actor_id, len(here.task_id or "")


@task
def leave(code: int) -> None:
    sys.exit(code)


@task
def begin_and_end() -> Any:
    with fabric.init():
        pass
    fabric.shutdown()
    return fabric.is_initialized(), fabric.get(add.remote(1))


@task
def lock() -> Any:
    return {"held": [threading.Lock()]}


@program([1, 2, 3, 7, None])
def values_in_order() -> Any:
    refs = [add.remote(i) for i in range(3)]
    return [*fabric.get(refs, WAIT_S), add.remote(3, y=4).get(WAIT_S), same.remote(None).get()]


@program((3, 7, 12))
def refs_are_arguments_and_nested_ones_stay_refs() -> Any:
    one = add.remote(add.remote(add.remote(0)))
    inner = same.remote({"inner": add.remote(5)}).get(WAIT_S)["inner"]
    made = make_refs.remote(3).get(WAIT_S)
    pending = fabric.get(made["pending"], WAIT_S)
    return one.get(WAIT_S), inner.get() + len(pending) - 2, made["ready"].get() + inner.get() + 4


@program(([1], [1, 99], [1, 99], [1]))
def arguments_and_results_are_copies() -> Any:
    items = [1]
    ref = spoil.remote(items)
    ref.get(WAIT_S).append(100)
    kept = fabric.put(items)
    spoil.remote(kept).get(WAIT_S)
    return items, ref.get(), spoil.remote(items).get(WAIT_S), kept.get()


@program(([0], [0], [0, 1]))
def what_an_actor_gives_is_not_its_own() -> Any:
    entry = [0]
    ledger = Ledgers.remote(entry)
    entry.append(5)
    seen = ledger.read.remote().get(WAIT_S)[0]
    seen.append(7)
    first = ledger.read.remote().get(WAIT_S)[0]
    ledger.add.remote(1)
    second = ledger.read.remote().get(WAIT_S)
    return [0], first, [second[0][0], second[1]]


@program([False] * 6)
def arrays_are_read_only() -> Any:
    found: list[bool] = []
    for length in (10, 100_000):
        array = np.zeros(length)
        found.append(is_writable.remote(array).get(WAIT_S))
        found.append(same.remote(array).get(WAIT_S).flags.writeable)
        found.append(fabric.put(array).get(WAIT_S).flags.writeable)
    return found


@program(([1, 2, 3], None, ["ValueError"] * 3, (4, 5)))
def several_results() -> Any:
    three: Any = give.remote((1, 2, 3))
    wrong: Any = give.remote((1, 2))
    kinds = [error_of(lambda ref=ref: ref.get(WAIT_S)) for ref in wrong]  # type: ignore[misc]
    kinds = [kind.removeprefix("TaskError(").removesuffix(")") for kind in kinds]
    nothing: object = add.options(num_returns=0).remote(1)
    return fabric.get(three, WAIT_S), nothing, kinds, tuple(fabric.get(both.remote(4), WAIT_S))


@program(20)
def calls_in_calls() -> Any:
    return depth.remote(12).get(WAIT_S) + leaves.remote(3).get(WAIT_S)


@program(("who", 1, None, None, 28))
def a_call_knows_what_it_is() -> Any:
    assert fabric.get_runtime_context().task_name is None
    return who.remote().get(WAIT_S)


@program((True, 2))
def a_session_is_not_a_calls_to_begin_or_end() -> Any:
    return begin_and_end.remote().get(WAIT_S)


@program((3, 30, 1))
def functions_take_their_globals_along() -> Any:
    seen = 1

    @task
    def count(x: int) -> int:
        nonlocal seen
        seen += x
        return seen

    return count.remote(2).get(WAIT_S), task(lambda x: 10 * x).remote(3).get(WAIT_S), seen


# ---------------------------------------- errors


@program(Error((ValueError, exceptions.TaskError), "broken"))
def an_error_is_the_users_type() -> Any:
    ref = fail.remote("broken")  # not here
    return ref.get(WAIT_S)


@program(([13, 14], ["fail", "fail"], "fail", True))
def an_error_has_its_attributes_and_its_frames() -> Any:
    errors: Any = [
        add.remote(fabric.arg(fail_number.remote(13))).future().exception(WAIT_S),
        fail_deeper.remote(2, 14).future().exception(WAIT_S),
    ]
    shown = "".join(traceback.format_exception(errors[0]))
    frames = [frame.name for frame in traceback.extract_tb(errors[0].__traceback__)]
    numbers, tasks = [error.number for error in errors], [error.task for error in errors]
    return numbers, tasks, frames[-1], "raise Unlucky(number)" in shown


@program((None, None, False))
def an_error_knows_nothing_of_what_the_caller_was_handling() -> Any:
    try:
        raise KeyError("outer")
    except KeyError:
        ref = fail.remote("inner")
    try:
        ref.get(WAIT_S)
    except ValueError as error:
        cause = getattr(error, "cause", None)
        return error.__context__, cause.__context__, "outer" in str(error)  # type: ignore[union-attr]


@program(Error((ZeroDivisionError, exceptions.TaskError), "division by zero"))
def the_first_failure_is_raised() -> Any:
    return fabric.get([quarter.remote(1), quarter.remote(0), quarter.remote(2)], WAIT_S)


@program(Error((TypeError,), "missing 1 required positional argument: 'x'"))
def wrong_arguments() -> Any:
    return add.remote()  # type: ignore[call-overload]


@program(Error((exceptions.SerializationError,), "args[0]['cfg']['lock']"))
def an_argument_that_cannot_be_pickled() -> Any:
    return same.remote({"cfg": {"lock": threading.Lock()}})


@program(Error((exceptions.SerializationError,), "['held'][0]"))
def a_result_that_cannot_be_pickled() -> Any:
    return lock.remote().get(WAIT_S)


@program(Error((exceptions.SerializationError,), "lock"))
def a_function_that_cannot_be_pickled() -> Any:
    held = threading.Lock()
    return task(lambda: held.locked()).remote()


@program(Error((exceptions.UnschedulableError,), "needs CPU 64; the best node has CPU 2, slot 2"))
def a_task_that_never_fits() -> Any:
    return add.options(num_cpus=64).remote(1).get(WAIT_S)


@program(Error((exceptions.UnschedulableError,), "needs slot 3; the best node has slot 2"))
def an_actor_that_never_fits() -> Any:
    return Counters.options(resources={"slot": 3}).remote().add.remote().get(WAIT_S)


@program(Error((exceptions.WorkerCrashedError,), "its worker"))
def a_task_that_leaves() -> Any:
    return leave.options(max_retries=0).remote(3).get(WAIT_S)


@program(Error((TypeError,), "a ref cannot be put"))
def a_put_of_a_ref() -> Any:
    return fabric.put(fabric.put(1))


# ---------------------------------------- waits


@program(([0, 1], [2], [1, 2, 3], [2, 3, 4]))
def every_wait() -> Any:
    refs = [add.remote(i) for i in range(3)]
    fabric.get(refs, WAIT_S)
    ready, rest = fabric.wait(refs, num_returns=2, timeout=WAIT_S)
    completed = sorted(ref.get() for ref in fabric.as_completed(refs, timeout=WAIT_S))

    async def gathered() -> list[int]:
        found: list[int] = await asyncio.gather(*[add.remote(ref) for ref in refs])
        async for ref in fabric.as_completed(refs):
            await ref
        return found

    index = [refs.index(ref) for ref in ready], [refs.index(ref) for ref in rest]
    return *index, completed, asyncio.run(gathered())


@program((2, True, True))
def futures() -> Any:
    called = threading.Event()
    future = add.remote(1).future()
    future.add_done_callback(lambda _: called.set())
    error = fail.remote("f").future().exception(WAIT_S)
    return future.result(WAIT_S), isinstance(error, ValueError), called.wait(WAIT_S)


@program((list(range(1, 501)), [1, 500], 12.0, "TaskError(ZeroDivisionError)", [3, 5], []))
def mapped_calls() -> Any:
    refs = add.map(range(500))
    odd = quarter.map([1, 0, 2], chunk=3)
    failed = error_of(lambda: odd[1].get(WAIT_S))
    two = fabric.get(add.map([1, 2], [2, 3]), WAIT_S)
    ends = fabric.get([refs[0], refs[-1]], WAIT_S)
    values = fabric.get(refs, WAIT_S)
    return values, ends, odd[0].get(WAIT_S), failed, two, fabric.get(add.map([]))


@program("tasks: 3/3, 1 failed\n")
def progress_in_a_pipe() -> Any:
    text = io.StringIO()
    refs = [add.remote(1), fail.remote("f"), add.remote(2)]
    assert len(list(fabric.progress(refs, file=text))) == 3
    return text.getvalue()


@program(({"CPU": 2.0, "slot": 2.0}, 1, True))
def the_fabric_can_be_looked_at() -> Any:
    (node,) = fabric.nodes()
    is_here = node["node_id"] == fabric.get_runtime_context().node_id
    return fabric.cluster_resources(), len(fabric.nodes()), node["Alive"] and is_here


@program((True, True, 2))
def a_ref_comes_back_as_the_same_ref() -> Any:
    ref = add.remote(1)
    back = same.remote({"ref": ref}).get(WAIT_S)["ref"]
    return (
        back is ref,
        pickle.loads(pickle.dumps(ref)) is ref,
        pickle.loads(pickle.dumps(ref)).get(),
    )


# ---------------------------------------- actors


@actor
class Teller:
    """Calls itself."""

    def __init__(self) -> None:
        self.told: list[int] = []

    def tell(self, me: Any, n: int) -> list[int]:
        """What it tells itself, it hears later."""
        for i in range(n):
            me.hear.remote(i)
        return self.told

    def wait_for_itself(self, me: Any, timeout: float | None) -> Any:
        return me.hear.remote(7).get(timeout)

    def look(self, me: Any) -> Any:
        ready, rest = fabric.wait([me.hear.remote(8)], timeout=0)
        return len(ready), len(rest)

    def hear(self, i: int) -> None:
        self.told.append(i)

    def all(self) -> list[int]:
        return self.told

    def who(self) -> tuple[Any, ...]:
        here = fabric.get_runtime_context()
        return here.task_name, here.actor_class, here.attempt


Tellers: Any = Teller


@program(([11, 12, 13], [13, -13], "TaskError(KeyError)", 14))
def an_actor_counts_in_order() -> Any:
    counter = Counters.remote(10)
    values = fabric.get([counter.add.remote() for _ in range(3)], WAIT_S)
    two = fabric.get(counter.both.remote(), WAIT_S)
    failed = error_of(lambda: counter.fail.remote().get(WAIT_S))
    return values, two, failed, counter.add.remote().get(WAIT_S)


@program((2, ["x", 1], True))
def handles_travel() -> Any:
    first, second = Ledgers.remote("x"), Ledgers.remote()
    told = second.tell.remote(first, 1).get(WAIT_S)
    return told, first.read.remote().get(WAIT_S), same.remote([first]).get(WAIT_S)[0] == first


@program(("Teller.who", "Teller", 1))
def a_method_knows_what_it_is() -> Any:
    return Tellers.remote().who.remote().get(WAIT_S)


@program(([], [0, 1, 2]))
def what_an_actor_tells_itself_comes_later() -> Any:
    teller = Tellers.remote()
    at_once = teller.tell.remote(teller, 3).get(WAIT_S)
    while len(told := teller.all.remote().get(WAIT_S)) < 3:
        pass
    return at_once, told


@program(Error((exceptions.GetTimeoutError, exceptions.TaskError), "not ready within 0.05 s"))
def an_actor_that_waits_for_itself_gives_up_in_time() -> Any:
    teller = Tellers.remote()
    return teller.wait_for_itself.remote(teller, 0.05).get(WAIT_S)


@program((0, 1))
def an_actor_that_looks_for_what_it_told_itself_sees_nothing() -> Any:
    teller = Tellers.remote()
    return teller.look.remote(teller).get(WAIT_S)


@program((["a"], True, "NameTakenError", True, ["c"], "ValueError"))
def names() -> Any:
    one = Ledgers.options(name="one").remote("a")
    found = fabric.get_actor("one")
    taken = error_of(lambda: Ledgers.options(name="one").remote("b"))
    again = Ledgers.options(name="one", get_if_exists=True).remote("b")
    other = Ledgers.options(name="one", namespace="other").remote("c")
    there = fabric.get_actor("one", namespace="other")
    free = error_of(lambda: fabric.get_actor("two"))
    seen = found.read.remote().get(WAIT_S), there.read.remote().get(WAIT_S)
    return seen[0], found == one, taken, again == one and other == there, seen[1], free


@program(("ActorDiedError", ["heir"]))
def a_killed_actor_is_gone_and_its_name_is_free() -> Any:
    ledger = Ledgers.options(name="killed").remote()
    ledger.read.remote().get(WAIT_S)
    fabric.kill(ledger)
    while (kind := error_of(lambda: ledger.read.remote().get(WAIT_S))) == "none":
        pass
    heir = Ledgers.options(name="killed").remote("heir")
    return kind, heir.read.remote().get(WAIT_S)


@program(([1, 2], [1], "ActorDiedError"))
def a_killed_actor_may_come_back_without_its_state() -> Any:
    ledger = Ledgers.options(max_restarts=1).remote(1)
    ledger.add.remote(2)
    before = ledger.read.remote().get(WAIT_S)
    fabric.kill(ledger, no_restart=False)
    while (after := read_or_none(ledger)) != [1]:
        pass
    fabric.kill(ledger, no_restart=False)
    while (kind := error_of(lambda: ledger.read.remote().get(WAIT_S))) == "none":
        pass
    return before, after, kind


def read_or_none(ledger: Any) -> Any:
    try:
        return ledger.read.remote().get(WAIT_S)
    except exceptions.ActorUnavailableError:
        return None


@program((1, "ActorDiedError", "ActorDiedError"))
def an_actor_leaves() -> Any:
    ledger = Ledgers.options(max_restarts=3).remote()
    before, left = ledger.add.remote(1), ledger.leave.remote()
    kinds = [error_of(lambda ref=ref: ref.get(WAIT_S)) for ref in (left, ledger.read.remote())]  # type: ignore[misc]
    return before.get(WAIT_S), *kinds


@program(Error((exceptions.ActorDiedError,), "raised KeyError: 'no key'"))
def an_actor_whose_constructor_fails() -> Any:
    broken = Brokens.remote("key")
    return broken.read.remote().get(WAIT_S)


@program(Error((ValueError, exceptions.TaskError), "late"))
def an_actor_made_with_a_failed_argument() -> Any:
    return Ledgers.remote(fail.remote("late")).read.remote().get(WAIT_S)


@program((["kept"], "ValueError"))
def a_name_goes_with_the_last_handle() -> Any:
    ledger = Ledgers.options(name="last").remote("kept")
    kept = ledger.read.remote().get(WAIT_S)
    del ledger
    while (kind := error_of(lambda: fabric.get_actor("last"))) == "none":
        pass
    return kept, kind


@program(Error((TypeError,), "exit_actor"))
def exit_actor_outside_of_an_actor() -> Any:
    return fabric.exit_actor()
