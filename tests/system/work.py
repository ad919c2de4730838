"""The tasks and actors of the system tests.

In a module of their own, which imports little: a worker that runs one of them imports its module,
and two hundred workers that import pytest take a minute.
"""

import os
import signal
from pathlib import Path
from typing import Any

import fabric
from fabric import actor, task
from tests.system.looks import meet, wait_for_file


@task
def add(x: Any, y: Any = 1) -> Any:
    return x + y


@task
def pid() -> int:
    return os.getpid()


@task(max_retries=2)
def crash(number: int, times: int, place: str) -> str:
    """Kill this very process that often, then give a result."""
    crashes = len(list(Path(place).glob("crash-*")))
    if crashes < times:
        Path(place, f"crash-{crashes}").touch()
        os.kill(os.getpid(), number)
    return f"after {crashes}"


@task
def depth(n: int) -> int:
    """As deep as that: each call waits for the next."""
    return 0 if n == 0 else fabric.get(depth.remote(n - 1)) + 1


@task
def leaves(n: int) -> int:
    """A tree of calls, each of which waits for its children."""
    return 1 if n == 0 else sum(fabric.get([leaves.remote(n - 1) for _ in range(2)]))


@task
def run_together(place: str, company: int) -> int:
    return meet(place, company)


@task
def after(path: str, value: Any = None) -> Any:
    """The value, or else the path, when somebody has made that file."""
    wait_for_file(path)
    return path if value is None else value


@task
def length(*pieces: bytes) -> int:
    return sum(map(len, pieces))


@task(num_returns=0)
def touch(path: str) -> None:
    Path(path).touch()


@task(num_returns=3)
def give(values: Any) -> Any:
    return values


class Unlucky(Exception):
    """An error of a user's own, with attributes."""

    def __init__(self, number: int) -> None:
        super().__init__(f"number {number}")
        self.number = number


@task
def fail(number: int) -> int:
    raise Unlucky(number)


@task
def fail_deeper(n: int, number: int) -> int:
    return fabric.get(fail_deeper.remote(n - 1, number) if n else fail.remote(number))


@task
def make_refs(n: int) -> dict[str, Any]:
    """Refs of this worker's own calls and puts, small and large, pending and ready."""
    ready = add.remote(1)
    fabric.get(ready)
    return {
        "ready": ready,
        "pending": [add.remote(i) for i in range(n)],
        "put": fabric.put("small"),
        "large": fabric.put(b"x" * 1_000_000),
        "large result": add.remote(b"y" * 1_000_000, b"z"),
        "failed": fail.remote(15),
    }


@actor
class Ledger:
    """Keeps what it is told, in the order in which it is told."""

    def __init__(self, *entries: Any) -> None:
        self.entries = list(entries)

    def length(self, piece: bytes) -> int:
        return len(piece)

    def add(self, entry: Any) -> int:
        self.entries.append(entry)
        return len(self.entries)

    def read(self) -> list[Any]:
        return self.entries

    def pid(self) -> int:
        return os.getpid()

    def wait(self, path: str) -> int:
        wait_for_file(path)
        return os.getpid()

    def crash(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def leave(self) -> str:
        try:
            fabric.exit_actor()
        except Exception:
            return "stayed"
        return "stayed"

    def tell(self, other: Any, entry: Any) -> Any:
        """Call another actor from this one."""
        return fabric.get(other.add.remote(entry))


@actor
class Broken:
    def __init__(self, path: str) -> None:
        raise KeyError(f"no {path}")

    def read(self) -> str:
        return "whole"


@task
def reciprocal(x: int) -> float:
    return 1 / x


@task
def add_to(ledger: Any, entries: list[Any]) -> list[int]:
    return fabric.get([ledger.add.remote(entry) for entry in entries])


@task
def find(name: str) -> list[Any]:
    entries: list[Any] = fabric.get(fabric.get_actor(name).read.remote())
    return entries


@task
def same(value: int) -> int:
    """What it is given."""
    return value
