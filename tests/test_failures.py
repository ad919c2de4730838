"""Exceptions on their way from a worker to who asked: what is kept, and that none does harm."""

import copy
import os
import pickle
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fabric.exceptions import (
    FAILURES,
    ActorDiedError,
    FabricError,
    GetTimeoutError,
    ObjectStoreFullError,
    TaskError,
)
from fabric.failures import dump_failure, failure_of, load_failure
from fabric.protocol.values import Failure
from fabric.serialization import dump, dump_arguments, load

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


class Two(Exception):
    def __init__(self, a: int, b: int) -> None:
        super().__init__(f"{a} and {b}")
        self.a, self.b = a, b


class Holding(Exception):
    def __init__(self) -> None:
        super().__init__("locked")
        self.lock, self.number = threading.Lock(), 3


class Named(Exception):
    """Uses the names that a `TaskError` has."""

    def __init__(self) -> None:
        super().__init__("named")
        self.text, self.cause, self.node, self.code = "mine", "me", 5, 404
        self.task, self.pid, self.advice = ["t"], -1, None


class Slotted(Exception):
    __slots__ = ("x",)

    def __init__(self, x: int) -> None:
        self.x = x


class Reduced(Exception):
    def __init__(self, a: int, *, k: int) -> None:
        super().__init__(a)
        self.k = k
        self.made_by = "init"

    def __reduce__(self) -> Any:
        return make_reduced, (self.args[0], self.k)


def make_reduced(a: int, k: int) -> Reduced:
    made = Reduced(a, k=k)
    made.made_by = "reduce"
    return made


class KeywordOnly(Exception):
    def __new__(cls, *, k: int) -> "KeywordOnly":
        return super().__new__(cls)

    def __init__(self, *, k: int) -> None:
        super().__init__(k)
        self.k = k


class Final(Exception):
    def __init_subclass__(cls) -> None:
        raise TypeError("final")


class RudeReduce(Exception):
    def __reduce__(self) -> Any:
        raise ZeroDivisionError("in __reduce__")


class RudeText(Exception):
    def __str__(self) -> str:
        raise ZeroDivisionError("in __str__")

    __repr__ = __str__


class RudeLoad(Exception):
    def __reduce__(self) -> Any:
        return int, ("not a number",)


class Poison:
    def __reduce__(self) -> Any:
        return int, ("not a number",)

    def __repr__(self) -> str:
        raise ZeroDivisionError("in __repr__")


def fail(error: BaseException) -> None:
    raise error


def caught(function: Callable[[], object]) -> BaseException:
    """What the function raises."""
    try:
        function()
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


def sent(function: Callable[[], object]) -> BaseException:
    """What the driver gets when a task raises what the function raises."""
    failure = dump_failure(caught(function), task="work", node="n1", pid=7)
    assert failure.kind == "task"
    return load_failure(failure)


def chained() -> None:
    try:
        _ = 1 / 0
    except ZeroDivisionError as error:
        raised = KeyError("k")
        raised.add_note("a note")
        raise raised from error


def deep(number: int) -> None:
    if number == 0:
        raise ValueError("deep")
    deep(number - 1)


# -- what is kept


def test_it_is_a_task_error_and_of_the_users_type() -> None:
    error = sent(lambda: fail(Two(1, 2)))
    assert isinstance(error, TaskError)
    assert isinstance(error, Two)
    assert (str(error), error.args, error.a, error.b) == ("1 and 2", ("1 and 2",), 1, 2)
    assert (error.task, error.node, error.pid) == ("work", "n1", 7)
    assert type(error.cause) is Two
    assert type(error).__name__ == "TaskError(Two)"
    assert type(error) is type(sent(lambda: fail(Two(3, 4))))


def test_cause_context_and_notes_are_kept() -> None:
    error = sent(chained)
    assert isinstance(error, KeyError)
    assert isinstance(error.__cause__, ZeroDivisionError)
    assert error.__notes__ == [
        "a note",
        "raised by `work` in process 7 on node n1 [FAB-200]",
    ]
    assert error.__suppress_context__

    def during() -> None:
        try:
            fail(OSError(2, "no"))
        except OSError:
            fail(Two(1, 2))

    error = sent(during)
    assert error.__cause__ is None
    assert isinstance(error.__context__, FileNotFoundError)
    assert error.__context__.errno == 2


def test_the_users_frames_are_raised_and_printed() -> None:
    error = sent(chained)
    text = "".join(traceback.format_exception(error))
    for part in ("in chained\n", "raise raised from error", "_ = 1 / 0", "a note", "KeyError"):
        assert part in text
    names = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
    assert names == ["caught", "chained"]
    assert isinstance(error, TaskError)
    assert "ZeroDivisionError: division by zero" in error.remote_traceback
    assert "raise raised from error" in error.remote_traceback


def test_frames_of_the_fabric_are_left_out() -> None:
    def through_the_fabric() -> None:
        def user_code(thing: object) -> bool:
            raise ValueError("in the middle")

        dump_arguments(([],), {}, user_code)

    error = sent(through_the_fabric)
    names = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
    assert "dump_arguments" not in names
    assert names[-2:] == ["through_the_fabric", "user_code"]


def test_frames_of_the_fabric_stay_where_it_broke_itself() -> None:
    error = sent(lambda: load(b""))
    assert isinstance(error, IndexError)
    assert traceback.extract_tb(error.__traceback__)[-1].name == "load"


def test_deep_stacks_lose_their_middle() -> None:
    error = sent(lambda: deep(500))
    assert isinstance(error, ValueError)
    frames = traceback.extract_tb(error.__traceback__)
    assert len(frames) <= 25
    assert any("frames left out" in frame.name for frame in frames)
    assert frames[0].name == "caught"
    assert isinstance(error, TaskError)
    assert len(error.remote_traceback.splitlines()) <= 25


def test_recursion_without_end_arrives() -> None:
    assert isinstance(sent(lambda: deep(10**9)), RecursionError)


def test_each_load_makes_another_error() -> None:
    failure = dump_failure(caught(chained))
    first, second = load_failure(failure), load_failure(failure)
    assert first is not second
    caught(lambda: fail(first))
    assert len(traceback.extract_tb(second.__traceback__)) == 2


@pytest.mark.parametrize(
    "function",
    [
        lambda: os.stat("/nowhere/at/all"),
        lambda: b"\xff".decode(),
        lambda: object().foo,  # type: ignore[attr-defined]
        lambda: __import__("no_such_module"),
        lambda: compile("1 +", "file", "exec"),
        lambda: dict[str, int]()["key"],
        lambda: "é".encode("ascii"),
        lambda: fail(UnicodeTranslateError("text", 1, 2, "why")),
        lambda: fail(ImportError("m", name="n", path="p")),
        lambda: fail(OSError(5, "io", "file", None, "other")),
        lambda: fail(ValueError()),
    ],
)
def test_builtin_errors_look_as_they_did(function: Callable[[], object]) -> None:
    before, after = caught(function), sent(function)
    assert isinstance(after, type(before))
    assert str(after) == str(before)
    for name in ("errno", "filename", "filename2", "name", "path", "lineno", "start", "object"):
        assert getattr(after, name, None) == getattr(before, name, None)


def test_names_that_the_user_uses_stay_the_users() -> None:
    error: Any = sent(lambda: fail(Named()))
    assert type(error).__mro__[1:3] == (Named, TaskError)
    assert (error.text, error.cause, error.node, error.code) == ("mine", "me", 5, 404)
    assert (error.task, error.pid, error.advice) == (["t"], -1, None)
    again: Any = sent(lambda: fail(error))
    assert type(again) is type(error)
    assert again.cause == "me"


def test_slots_and_constructors_of_any_kind_arrive() -> None:
    slotted = sent(lambda: fail(Slotted(4)))
    assert isinstance(slotted, Slotted)
    assert slotted.x == 4
    keyword = sent(lambda: fail(KeywordOnly(k=3)))
    assert isinstance(keyword, KeywordOnly)
    assert (keyword.k, keyword.args) == (3, (3,))


def test_a_reduce_of_its_own_is_respected() -> None:
    error = sent(lambda: fail(Reduced(1, k=2)))
    assert isinstance(error, Reduced)
    assert (error.args, error.k, error.made_by) == ((1,), 2, "reduce")


def test_groups_keep_their_members_with_frames() -> None:
    members: list[Any] = [caught(lambda: deep(1)), Two(1, 2)]
    error = sent(lambda: fail(ExceptionGroup("g", members)))
    assert isinstance(error, ExceptionGroup)
    assert [type(each) for each in error.exceptions] == [ValueError, Two]
    names = [each.name for each in traceback.extract_tb(error.exceptions[0].__traceback__)]
    assert names[-1] == "deep"
    assert error.split(Two)[0] is not None


def test_a_class_of_the_task_itself_travels_by_value() -> None:
    script = (
        "import sys\n"
        "from fabric.failures import dump_failure\n"
        "class Mine(Exception):\n"
        "    def __init__(self, a, b):\n"
        "        self.a, self.b = a, b\n"
        "    def total(self):\n"
        "        return self.a + self.b\n"
        "try:\n"
        "    raise Mine(1, 2)\n"
        "except Mine as error:\n"
        "    sys.stdout.buffer.write(dump_failure(error, task='t').pickled)\n"
    )
    made = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, check=True, timeout=30
    )
    error: Any = load_failure(Failure("task", "Mine", made.stdout))
    assert type(error).__name__ == "TaskError(Mine)"
    assert error.total() == 3


# -- what degrades


def test_attributes_that_cannot_travel_are_left_behind() -> None:
    error = sent(lambda: fail(Holding()))
    assert isinstance(error, Holding)
    assert (str(error), error.number) == ("locked", 3)
    assert not hasattr(error, "lock")


def test_arguments_that_cannot_travel_become_text() -> None:
    error = sent(lambda: fail(ValueError("why", threading.Lock(), Poison())))
    assert isinstance(error, ValueError)
    assert error.args[0] == "why"
    assert error.args[1].startswith("<unlocked _thread.lock")
    assert error.args[2].startswith("<Poison instance")


@pytest.mark.parametrize(
    "error", [Final("x"), SystemExit(3), KeyboardInterrupt(), StopIteration(3), GeneratorExit()]
)
def test_types_that_cannot_be_mixed_are_the_cause(error: BaseException) -> None:
    found = sent(lambda: fail(error))
    assert type(found) is TaskError
    assert type(found.cause) is type(error)
    assert found.__cause__ is found.cause
    assert found.text.startswith(type(error).__name__) or type(error) is Final


@pytest.mark.parametrize("error", [RudeReduce(5), RudeText(), RudeLoad("x")])
def test_rude_exceptions_keep_their_type(error: Exception) -> None:
    found = sent(lambda: fail(error))
    assert isinstance(found, type(error))
    assert isinstance(found, TaskError)


def test_a_cause_that_cannot_travel_costs_the_chain_and_not_the_error() -> None:
    def function() -> None:
        cause = ValueError("cause")
        cause.poison = type("Bad", (Poison,), {"__slots__": ()})  # type: ignore[attr-defined]
        raise Two(1, 2) from cause

    assert isinstance(sent(function), Two)


def test_endless_and_circular_chains_arrive() -> None:
    error: Exception = ValueError("first")
    for index in range(3000):
        following = ValueError(index)
        following.__cause__ = error
        error = following
    assert isinstance(sent(lambda: fail(error)), ValueError)
    first, second = Two(1, 2), Two(3, 4)
    first.__cause__, second.__cause__ = second, first
    found = sent(lambda: fail(first))
    assert isinstance(found, Two)
    assert found.__cause__ is not None
    assert isinstance(found.__cause__.__cause__, Two)


def test_huge_exceptions_are_cut() -> None:
    big = ValueError("x" * 5_000_000)
    big.attribute = b"y" * 5_000_000  # type: ignore[attr-defined]
    failure = dump_failure(caught(lambda: fail(big)))
    assert len(failure.pickled) < 100_000
    assert len(failure.text) < 1_000
    error = load_failure(failure)
    assert isinstance(error, ValueError)
    assert "more characters)" in str(error)


def test_a_type_that_is_missing_here_leaves_its_texts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "only_there.py").write_text("class Odd(Exception): pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import only_there  # type: ignore[import-not-found]

    failure = dump_failure(caught(lambda: fail(only_there.Odd("why"))), task="t", pid=7)
    del sys.modules["only_there"]
    sys.path.remove(str(tmp_path))
    error = load_failure(failure)
    assert type(error) is TaskError
    assert error.text == "only_there.Odd: why"
    assert (error.cause, error.task, error.pid) == (None, "t", 7)
    assert "fail(only_there.Odd" in error.remote_traceback
    assert any("fail(only_there.Odd" in note for note in error.__notes__)


@pytest.mark.parametrize("pickled", [b"", b"garbage", b"\x97" + b"\xa0" * 7])
def test_garbage_is_an_error_too(pickled: bytes) -> None:
    error = load_failure(Failure("task", "a sentence", pickled))
    assert type(error) is TaskError
    assert error.text == "a sentence"


# -- through several hands


def test_a_task_that_waits_for_a_failed_task_hands_its_error_on() -> None:
    inner = sent(chained)
    outer = load_failure(dump_failure(caught(lambda: fail(inner)), task="outer", pid=8))
    assert type(outer) is type(inner)
    assert isinstance(outer, TaskError)
    assert outer.task == "work"
    assert outer.__notes__[-2:] == [
        "raised by `work` in process 7 on node n1 [FAB-200]",
        "passed on by `outer` in process 8",
    ]
    assert isinstance(outer.__cause__, ZeroDivisionError)
    names = [frame.name for frame in traceback.extract_tb(outer.__traceback__)]
    assert names[-1] == "chained"


def test_an_error_of_the_fabric_raised_in_a_task_keeps_its_type() -> None:
    error = sent(lambda: fail(GetTimeoutError("slow")))
    assert isinstance(error, GetTimeoutError)
    assert isinstance(error, TimeoutError)
    assert isinstance(error, TaskError)


@pytest.mark.parametrize("how", [lambda e: pickle.loads(pickle.dumps(e)), copy.copy])
def test_a_task_error_can_be_pickled_and_copied_as_a_value(how: Callable[[Any], Any]) -> None:
    error: Any = sent(lambda: fail(Two(1, 2)))
    again = how(error)
    assert type(again) is type(error)
    assert (str(again), again.a, again.task) == ("1 and 2", 1, "work")
    assert type(again.cause) is Two


def test_a_task_error_can_be_put() -> None:
    error = sent(chained)
    assert type(load(dump([error]).packed())[0]) is type(error)


# -- the fabric's own kinds


@pytest.mark.parametrize("kind", [kind for kind in FAILURES if kind != "task"])
def test_every_kind_becomes_its_error_and_back(kind: str) -> None:
    failure = Failure(kind, "a sentence")
    error = load_failure(failure)
    assert type(error) is FAILURES[kind]
    assert error.text == "a sentence"
    assert failure_of(error) == failure


def test_an_unknown_kind_is_still_an_error_of_the_fabric() -> None:
    assert type(load_failure(Failure("from the future", "text"))) is FabricError
    assert load_failure(failure_of(ObjectStoreFullError("full"))).args == ("full",)


def test_a_failure_may_have_a_users_exception_as_its_cause() -> None:
    inside = dump_failure(caught(lambda: fail(Two(1, 2))), task="Counter.__init__")
    error = load_failure(Failure("actor_died", "the constructor raised", inside.pickled))
    assert type(error) is ActorDiedError
    assert isinstance(error.__cause__, Two)
