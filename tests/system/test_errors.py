"""Errors on their way from real workers: what the user catches, and that the fabric goes on."""

import contextlib
import os
import sys
import threading
import traceback
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import fabric
from fabric import exceptions, task
from fabric.exceptions import SerializationError, TaskError
from tests.commands import run_failing_program
from tests.system import raising
from tests.system.looks import WAIT_S, worker_pids
from tests.system.raising import (
    Bare,
    Final,
    Holding,
    KeywordOnly,
    Leaver,
    LeavingReduce,
    LeavingText,
    Raiser,
    RudeReduce,
    RudeState,
    RudeText,
    Slotted,
    Two,
    echo,
    leave,
    odd_one_out,
    own_pid,
    run_nested,
    run_raiser,
    tower,
)

pytestmark = pytest.mark.system


@pytest.fixture
def session() -> Iterator[fabric.Context]:
    with fabric.init(num_cpus=2) as context:
        yield context


# ---------------------------------------- what is no Exception


def test_sys_exit_in_a_task_is_a_crash_with_its_exit_code(tmp_path: Path) -> None:
    with fabric.init(num_cpus=1):
        for said, code in ((3, 3), (0, 0), (None, 0), ("a text", 1), (256, 0)):
            before = [own_pid.remote() for _ in range(50)]
            unlucky = leave.remote(said)
            after = [own_pid.remote() for _ in range(50)]
            error = caught(lambda unlucky=unlucky: unlucky.get(WAIT_S))
            assert type(error) is exceptions.WorkerCrashedError
            assert error.text.startswith(
                f"task `leave` crashed: its worker exited with code {code}"
            )
            assert ("a text" in error.text) == (said == "a text")
            # one worker ran those before it, and another those behind it, each once
            assert len(set(fabric.get(before + after, WAIT_S))) == 2
        # it costs a retry like any other crash
        assert leave.options(max_retries=2).remote(7, str(tmp_path), 2).get(WAIT_S) == "after 2"


def test_sys_exit_ends_an_actor_in_its_constructor_and_its_methods(session: fabric.Context) -> None:
    made = Leaver.remote()
    pid = made.pid.remote().get(WAIT_S)
    calls = [made.pid.remote(), made.leave.remote(5), made.pid.remote()]
    assert calls[0].get(WAIT_S) == pid
    for call in calls[1:]:
        with pytest.raises(exceptions.ActorDiedError, match=r"Leaver died: .* exited with code 5"):
            call.get(WAIT_S)
    unmade = Leaver.remote(6)
    with pytest.raises(exceptions.ActorDiedError, match=r"Leaver died: .* exited with code 6"):
        unmade.pid.remote().get(WAIT_S)
    restarted = Leaver.options(max_restarts=1).remote()
    first = restarted.pid.remote().get(WAIT_S)
    with pytest.raises(exceptions.ActorUnavailableError, match=r"Leaver.* exited with code 5"):
        restarted.leave.remote(5).get(WAIT_S)
    assert restarted.pid.remote().get(WAIT_S) != first
    assert own_pid.remote().get(WAIT_S) != os.getpid()


# ---------------------------------------- what is kept, by whatever way it comes

Expected = tuple[type[BaseException], str]

EXPECTED: dict[str, Expected] = {
    "two": (Two, "1 and 2"),
    "keyword only": (KeywordOnly, "code 4"),
    "slots": (Slotted, "5"),
    "holding": (Holding, "locked"),
    "builtin": (FileNotFoundError, "[Errno 2] No such file or directory: '/nowhere/at/all'"),
    "decoding": (UnicodeDecodeError, "'utf-8' codec can't decode byte 0xff in position 0: "),
    "rude text": (RudeText, ""),
    "rude reduce": (RudeReduce, "5"),
    "rude state": (RudeState, "s"),
    "leaving reduce": (LeavingReduce, "r"),
    "leaving text": (LeavingText, ""),
    "chained": (KeyError, "'last'"),
    "deep": (ValueError, "deep"),
    "endless": (RecursionError, "maximum recursion depth exceeded"),
    "grouped": (ExceptionGroup, "several (4 sub-exceptions)"),
    "large text": (ValueError, "w w w"),
    "large attribute": (ValueError, "large"),
    "large note": (ValueError, "large"),
    "result": (SerializationError, "Cannot pickle `result['db'][1]` (threading.Lock): "),
    "generator": (SerializationError, "Cannot pickle `result` (generator): "),
    "import": (ModuleNotFoundError, "No module named 'no_such_module'"),
}
"""What is raised → the type that the user catches, and how its text begins."""

CAUSES: dict[str, type[BaseException]] = {
    "final": Final,
    "stop": StopIteration,
    "bare": Bare,
    "generator exit": GeneratorExit,
    "interrupt": KeyboardInterrupt,
}
"""What nothing can be a subclass of, or must not be taken for: it is the cause."""

FRAMES = {"result", "generator"}
"""Not raised by a line of the user's."""

WAYS: dict[str, Callable[[Any, str], Any]] = {
    "task": lambda actor, name: run_raiser.remote(name),
    "method": lambda actor, name: actor.run.remote(name),
    "nested": lambda actor, name: run_nested.remote(name),
    "dependent": lambda actor, name: echo.remote(echo.remote(actor.run.remote(name))),
}


def caught(get: Callable[[], object]) -> Any:
    """What it raises."""
    try:
        value = get()
    except BaseException as error:
        return error
    raise AssertionError(f"it returned {value!r}")


def test_the_table_has_a_row_for_everything_that_is_raised() -> None:
    assert EXPECTED.keys() | CAUSES.keys() == raising.RAISERS.keys()


def test_every_error_arrives_as_the_users_own_by_every_way(session: fabric.Context) -> None:
    made = Raiser.remote()
    before = {own_pid.remote().get(WAIT_S)}
    for way in WAYS:
        _check_all(made, way)
    assert before <= worker_pids()  # nobody was harmed
    assert echo.remote(1).get(WAIT_S) == 1


def _check_all(made: Any, way: str) -> None:
    for name, (kind, text) in EXPECTED.items():
        error = caught(WAYS[way](made, name).get)
        assert isinstance(error, kind), (name, error)
        assert isinstance(error, TaskError), name
        assert type(error.cause) is kind, name
        if text:
            assert str(error).startswith(text), name
            assert len(str(error)) < 10_000, name
        _check_what_is_shown(error, name, way)
    for name, kind in CAUSES.items():
        error = caught(WAYS[way](made, name).get)
        assert type(error) is TaskError, name
        assert type(error.cause) is type(error.__cause__) is kind, name


def _check_what_is_shown(error: Any, name: str, way: str) -> None:
    """The user's lines and no others, where it was, and all of it on one page."""
    frames = traceback.extract_tb(error.__traceback__)
    files = {frame.filename for frame in frames}
    assert not any("/fabric/" in each for each in files), (name, files)
    if name not in FRAMES:
        assert any(frame.filename == raising.__file__ for frame in frames), name
    where = "Raiser.run" if way in ("method", "dependent") else "run_raiser"
    notes = [note for note in error.__notes__ if note.startswith("raised by")]
    assert [note.split()[2] for note in notes] == [f"`{where}`"], name
    assert (error.task, error.pid > 0, error.node[:2]) == (where, True, "n:"), name
    if name not in ("rude text", "leaving text"):  # the interpreter lets nobody print the last
        shown = "".join(traceback.format_exception(error)).splitlines()
        assert len(shown) <= 25, "\n".join(shown)


def test_attributes_chain_and_notes_arrive(session: fabric.Context) -> None:
    for ref in (run_raiser.remote("chained"), run_nested.remote("chained")):
        error = caught(ref.get)
        assert error.__notes__[:2] == ["first note", "second note"]
        assert isinstance(error.__context__, ValueError)
        assert error.__context__.__notes__ == ["of the middle"]
        assert isinstance(error.__context__.__cause__, ZeroDivisionError)
    two = caught(run_nested.remote("two").get)
    assert (two.a, two.b, two.args) == (1, 2, ("1 and 2",))
    holding = caught(run_nested.remote("holding").get)
    assert (holding.number, hasattr(holding, "lock")) == (3, False)
    group = caught(run_nested.remote("grouped").get)
    assert [type(each) for each in group.exceptions] == [Two, Two, Two, ExceptionGroup]
    assert [each.a for each in group.split(Two)[0].exceptions] == [0, 1, 2]
    assert caught(run_raiser.remote("slots").get).x == 5
    high = caught(tower.remote(5, "two").get)
    assert [note.split(" in ")[0] for note in high.__notes__] == [
        "raised by `run_raiser`",
        "passed on by 6 tasks, at last `tower`",
    ]


def test_a_large_exception_costs_no_daemon_memory(session: fabric.Context) -> None:
    caught(run_raiser.remote("two").get)
    before = _most_memory_of_daemons()
    for name in ("large text", "large attribute", "large note"):
        error = caught(run_raiser.remote(name).get)
        assert "more characters" in "".join(traceback.format_exception(error)) or name == (
            "large attribute"
        )
    after = _most_memory_of_daemons()
    daemons = before.keys() & after.keys()
    assert len(daemons) >= 3  # control store, node, zygote
    assert all(after[pid] - before[pid] < 20_000 for pid in daemons)


def _most_memory_of_daemons() -> dict[int, int]:
    """Pid → the most that process ever had, in kB."""
    found = {}
    for one in psutil.Process().children(recursive=True):
        if one.pid not in worker_pids():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it only forked
                status = Path(f"/proc/{one.pid}/status").read_text()
                found[one.pid] = int(status.partition("VmHWM:")[2].split()[0])
    return found


# ---------------------------------------- actors


def test_a_constructor_that_raises_is_the_cause_of_every_call(session: fabric.Context) -> None:
    for name in ("two", "rude reduce", "large text", "bare"):
        made = Raiser.remote(name)
        for ref in (made.run.remote("two"), echo.remote(made.run.remote("two"))):
            error = caught(ref.get)
            assert type(error) is exceptions.ActorDiedError
            assert error.text.startswith("the constructor of Raiser raised "), name
            kind = CAUSES.get(name) or EXPECTED[name][0]
            assert isinstance(error.__cause__, TaskError)
            assert type(error.__cause__.cause) is kind
            assert len("".join(traceback.format_exception(error)).splitlines()) <= 25


# ---------------------------------------- what cannot be pickled, or not loaded


class Settings:
    """Has a lock somewhere inside."""

    def __init__(self) -> None:
        self.db = types.SimpleNamespace(lock=threading.Lock())


def in_closure() -> Callable[[], object]:
    cfg = Settings()

    def f() -> object:
        return cfg.db.lock

    return f


def test_what_cannot_be_pickled_is_named_with_its_path(session: fabric.Context) -> None:
    cfg, made = Settings(), Raiser.remote()
    tries: list[tuple[Callable[[], object], str]] = [
        (lambda: echo.remote(cfg), "`args[0].db.lock` (threading.Lock)"),
        (lambda: echo.remote(value={"a": [cfg]}), "`value['a'][0].db.lock` (threading.Lock)"),
        (lambda: made.run.remote(cfg), "`args[0].db.lock` (threading.Lock)"),  # type: ignore[arg-type]
        (lambda: Raiser.remote(cfg), "`args[0].db.lock` (threading.Lock)"),  # type: ignore[arg-type]
        (lambda: fabric.put([cfg]), "`value[0].db.lock` (threading.Lock)"),
        (lambda: echo.remote(in_closure()), "`cfg.db.lock` (threading.Lock) in the closure of"),
        (
            lambda: task(in_closure()).remote(),
            "`cfg.db.lock` (threading.Lock) in the closure of `in_closure.<locals>.f`",
        ),
    ]
    for make, path in tries:
        error = caught(make)
        assert type(error) is SerializationError
        assert f"Cannot pickle {path}" in error.text
        assert error.__cause__ is None
        names = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
        assert names == ["caught", "<lambda>"]
    assert echo.remote(1).get(WAIT_S) == 1


def test_an_item_or_result_of_a_map_that_cannot_travel_fails_alone(
    session: fabric.Context,
) -> None:
    refs = echo.map([*range(50), Settings(), *range(50)])
    for place in (0, 49, 51, 100):
        assert refs[place].get(WAIT_S) == (place if place < 50 else place - 51)
    error = caught(lambda: refs[50].get(WAIT_S))
    assert "`items[50].db.lock` (threading.Lock)" in error.text
    assert caught(lambda: fabric.get(refs, WAIT_S)).text == error.text
    futures = [ref.future() for ref in odd_one_out.map(range(6), chunk=6)]
    assert [futures[place].result(WAIT_S) for place in (0, 1, 2, 5)] == [0, 1, 2, 5]
    assert isinstance(futures[3].exception(WAIT_S), SerializationError)
    assert type(futures[4].exception(WAIT_S).cause) is GeneratorExit  # type: ignore[union-attr]


def test_a_module_that_the_worker_lacks_is_named_with_where_it_is_looked_for(
    session: fabric.Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    ghost = types.ModuleType("ghost")
    exec("def f(x): return x\nclass Thing: pass", vars(ghost))
    monkeypatch.setitem(sys.modules, "ghost", ghost)
    for ref in (task(ghost.f).remote(1), echo.remote(echo.remote(ghost.Thing()))):
        error = caught(ref.get)
        assert isinstance(error, ModuleNotFoundError)
        assert isinstance(error, TaskError)
        assert any("looked for in the driver's `sys.path`" in note for note in error.__notes__)


# ---------------------------------------- what is printed in the end

PROGRAM = """
import sys
import fabric

class Mine(Exception):
    def __init__(self, a, b):
        super().__init__(f"{a} and {b}")
        self.a, self.b = a, b

def deeper(levels):
    if not levels:
        try:
            {}["k"]
        except KeyError as error:
            raise Mine(1, 2) from error
    deeper(levels - 1)

@fabric.task
def fall(levels):
    deeper(levels)

@fabric.task
def call(levels):
    return fabric.get(fall.remote(levels))

@fabric.actor
class Falling:
    def __init__(self, levels):
        deeper(levels)
    def ok(self):
        pass

with fabric.init(num_cpus=1):
    try:
        fall.remote(2).get()
    except Mine as error:
        assert (error.a, error.b, type(error.cause)) == (1, 2, Mine)
    if sys.argv[1] == "actor":
        Falling.remote(100).ok.remote().get()
    fabric.get([call.remote(100)])
"""


@pytest.mark.parametrize("what", ["task", "actor"])
def test_an_uncaught_error_is_printed_on_one_page(what: str, tmp_path: Path) -> None:
    script = tmp_path / "falls.py"
    script.write_text(PROGRAM)
    printed = run_failing_program(str(script), what).splitlines()
    assert printed[0] == "Traceback (most recent call last):"
    assert len(printed) <= 25, "\n".join(printed)
    text = "\n".join(printed)
    assert f'File "{script}", line 15, in deeper' in text
    assert f'File "{script}", line 13, in deeper' in text
    assert "KeyError: 'k'" in text
    assert "TaskError(Mine): 1 and 2" in text
    assert os.path.dirname(fabric.__file__) not in text
