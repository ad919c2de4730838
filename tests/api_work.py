"""The tasks and the actor that the tests of the public names share."""

import os
import time
from collections.abc import Callable
from typing import Any

import fabric
from fabric import actor, method, task

WAIT_S = 10.0


@task
def add(x: int, y: int = 1) -> int:
    return x + y


@task
def same(x: Any) -> Any:
    return x


@task
def fail(text: str) -> None:
    raise ValueError(text)


@task
def nap(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


@task(num_returns=2)
def both(x: int) -> tuple[int, int]:
    return x, x + 1


@task
def add_to_inner(refs: dict[str, Any]) -> int:
    value: int = refs["inner"].get() + 1
    return value


@task
def nested(n: int) -> int:
    return sum(fabric.get([add.remote(i) for i in range(n)]))


@actor
class Counter:
    def __init__(self, start: int = 0) -> None:
        self.n = start

    @method
    def add(self, k: int = 1) -> int:
        self.n += k
        return self.n

    @method(num_returns=2)
    def both(self) -> tuple[int, int]:
        return self.n, -self.n

    @method
    def fail(self) -> None:
        raise KeyError("k")

    @method
    def die(self) -> None:
        os._exit(3)

    @method
    def leave(self) -> None:
        fabric.exit_actor()


def wait_until(is_true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not is_true():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.01)
