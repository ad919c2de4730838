"""What the peers are asked to run: as little as possible, and importable in every worker."""

import os
import time
from typing import Any


def nothing() -> None:
    """A call without argument and result."""


def same(value: int) -> int:
    """A call with both."""
    return value


def successor(value: int) -> int:
    """A link of a chain."""
    return value + 1


def added(left: int, right: int) -> int:
    """A knot of a tree."""
    return left + right


def count_of(*values: int) -> int:
    """Has many arguments."""
    return len(values)


def first_of(values: Any) -> Any:
    """Touches one element of something large."""
    return values[0]


def nap(seconds: float) -> int:
    """Takes its time, not the processor's; the worker's pid."""
    time.sleep(seconds)
    return os.getpid()


class Counter:
    """The smallest actor with a state."""

    def __init__(self) -> None:
        self.count = 0

    def add(self, step: int) -> int:
        self.count += step
        return self.count


def fabric_fan_out(calls: int) -> int:
    """A task that runs so many and waits for them."""
    import fabric

    submit = fabric.task(nothing).remote
    return len(fabric.get([submit() for _ in range(calls)]))


def ray_fan_out(calls: int) -> int:
    import ray

    submit = ray.remote(nothing).remote
    return len(ray.get([submit() for _ in range(calls)]))


def dask_fan_out(calls: int) -> int:
    from distributed import worker_client

    with worker_client() as client:
        return len(client.gather([client.submit(nothing, pure=False) for _ in range(calls)]))
