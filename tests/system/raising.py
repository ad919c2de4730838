"""Tasks and actors that raise: for the tests of errors.

In a module of their own that imports little, because workers import it.
"""

import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import fabric
from fabric import actor, task


class Bare(BaseException):
    """No `Exception`, like those with which some libraries cancel."""


class Two(Exception):
    """Comes back from a pickle only if nobody calls its constructor."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__(f"{a} and {b}")
        self.a, self.b = a, b


class KeywordOnly(Exception):
    def __init__(self, *, code: int) -> None:
        super().__init__()
        self.code = code

    def __str__(self) -> str:
        return f"code {self.code}"


class Slotted(Exception):
    __slots__ = ("x",)

    def __init__(self, x: int) -> None:
        self.x = x


class Final(Exception):
    def __init_subclass__(cls) -> None:
        raise TypeError("final")


class Holding(Exception):
    def __init__(self) -> None:
        super().__init__("locked")
        self.lock, self.number = threading.Lock(), 3


class RudeText(Exception):
    def __str__(self) -> str:
        raise ZeroDivisionError("in __str__")

    __repr__ = __str__


class RudeReduce(Exception):
    def __reduce__(self) -> Any:
        raise ZeroDivisionError("in __reduce__")


class RudeState(Exception):
    def __setstate__(self, state: object) -> None:
        raise ZeroDivisionError("in __setstate__")

    def __reduce__(self) -> Any:
        return RudeState, self.args, {"a": 1}


class LeavingReduce(Exception):
    def __reduce__(self) -> Any:
        sys.exit(9)


class LeavingText(Exception):
    def __str__(self) -> str:
        raise KeyboardInterrupt


def throw(error: BaseException) -> NoReturn:
    raise error


def chained() -> None:
    try:
        try:
            _ = 1 / 0
        except ZeroDivisionError as error:
            raised = ValueError("middle")
            raised.add_note("of the middle")
            raise raised from error
    except ValueError:
        last = KeyError("last")
        last.add_note("first note")
        last.add_note("second note")
        raise last  # noqa: B904  # its context is what is looked at


def deep(levels: int) -> None:
    if levels == 0:
        raise ValueError("deep")
    deep(levels - 1)


def grouped() -> None:
    found: list[Exception] = []
    for number in range(3):
        try:
            throw(Two(number, 0))
        except Two as error:
            found.append(error)
    raise ExceptionGroup("several", [*found, ExceptionGroup("inner", [KeyError("k")])])


def large(what: str) -> None:
    error = ValueError("w " * 50_000_000 if what == "text" else "large")
    if what == "attribute":
        error.blob = b"y" * 100_000_000  # type: ignore[attr-defined]
    if what == "note":
        error.add_note("n\n" * 50_000_000)
    raise error


RAISERS: dict[str, Callable[[], object]] = {
    "two": lambda: throw(Two(1, 2)),
    "keyword only": lambda: throw(KeywordOnly(code=4)),
    "slots": lambda: throw(Slotted(5)),
    "final": lambda: throw(Final("last of its kind")),
    "holding": lambda: throw(Holding()),
    "builtin": lambda: os.stat("/nowhere/at/all"),
    "decoding": lambda: b"\xff".decode(),
    "rude text": lambda: throw(RudeText("q")),
    "rude reduce": lambda: throw(RudeReduce(5)),
    "rude state": lambda: throw(RudeState("s")),
    "leaving reduce": lambda: throw(LeavingReduce("r")),
    "leaving text": lambda: throw(LeavingText("t")),
    "stop": lambda: throw(StopIteration(3)),
    "bare": lambda: throw(Bare("b")),
    "generator exit": lambda: throw(GeneratorExit()),
    "interrupt": lambda: throw(KeyboardInterrupt()),
    "chained": chained,
    "deep": lambda: deep(300),
    "endless": lambda: deep(10**9),
    "grouped": grouped,
    "large text": lambda: large("text"),
    "large attribute": lambda: large("attribute"),
    "large note": lambda: large("note"),
    "result": lambda: {"db": [1, threading.Lock()]},
    "generator": lambda: (x for x in "abc"),
    "import": lambda: __import__("no_such_module"),
}


@task
def run_raiser(name: str) -> object:
    return RAISERS[name]()


@task
def run_nested(name: str) -> object:
    return fabric.get(run_raiser.remote(name))


@task
def tower(levels: int, name: str) -> object:
    return fabric.get(tower.remote(levels - 1, name) if levels else run_raiser.remote(name))


@task
def echo(value: object) -> object:
    return value


@task
def odd_one_out(number: int) -> object:
    if number == 4:
        raise GeneratorExit
    return threading.Lock() if number == 3 else number


@actor
class Raiser:
    """Raises in its methods, or in its constructor."""

    def __init__(self, name: str = "") -> None:
        if name:
            RAISERS[name]()

    def run(self, name: str) -> object:
        return RAISERS[name]()


@task
def own_pid() -> int:
    return os.getpid()


@task(max_retries=0)
def leave(said: Any, place: str = "", times: int = 1) -> str:
    """End this process that often, then give a result."""
    marks = len(list(Path(place).glob("left-*"))) if place else 0
    if marks < times:
        if place:
            Path(place, f"left-{marks}").touch()
        sys.exit(said)
    return f"after {marks}"


@actor
class Leaver:
    """Ends its process when told to, or at once."""

    def __init__(self, said: Any = None) -> None:
        if said is not None:
            sys.exit(said)

    def pid(self) -> int:
        return os.getpid()

    def leave(self, said: Any) -> None:
        sys.exit(said)
