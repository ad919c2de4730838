"""Tasks and actors that are stopped by the system tests; workers import little with them."""

import ctypes
import os
import time
from pathlib import Path
from typing import Any

import fabric
from fabric import actor, task
from tests.system.looks import wait_for_file

LONG_S = 300.0


def mark(path: str) -> None:
    """Say that this has been reached; the process says which it is."""
    Path(path).write_text(str(os.getpid()))


@task
def sleeps(path: str) -> None:
    mark(path)
    time.sleep(LONG_S)


@task
def computes(path: str) -> None:
    mark(path)
    until = time.monotonic() + LONG_S
    while time.monotonic() < until:
        pass


@task
def swallows(path: str) -> None:
    """Whatever is raised in here, it goes on."""
    mark(path)
    until = time.monotonic() + LONG_S
    while time.monotonic() < until:
        try:
            time.sleep(LONG_S)
        except BaseException:
            continue


@task
def sits_in_c(path: str) -> None:
    """C code that keeps the interpreter's lock and never comes back."""
    mark(path)
    ctypes.PyDLL(None).sleep(int(LONG_S))


@task
def tidies_up(path: str) -> None:
    try:
        mark(path)
        time.sleep(LONG_S)
    except KeyboardInterrupt:
        Path(path + "-interrupted").touch()
        raise
    finally:
        Path(path + "-tidied").touch()


@task
def waits_for(refs: list[Any]) -> Any:
    return fabric.get(refs)


@task
def calls_others(path: str, count: int) -> Any:
    """Waits for calls of its own, which take long."""
    refs = [tidies_up.options(num_cpus=0).remote(f"{path}-{i}") for i in range(count)]
    mark(path)
    return fabric.get(refs)


@task
def cancels(refs: list[Any]) -> None:
    for ref in refs:
        fabric.cancel(ref)


@task(max_retries=0)
def counts(place: str, number: int) -> int:
    """Leaves a trace of each of its runs."""
    Path(place, f"{number}-{time.monotonic_ns()}").touch()
    return number


@task
def makes_named(name: str, gate: str) -> str:
    """Make an actor of that name when the gate opens; whether it was made."""
    wait_for_file(gate)
    try:
        Keeper.options(name=name, lifetime="detached").remote()  # type: ignore[attr-defined]
    except fabric.exceptions.NameTakenError:
        return "taken"
    return "made"


@actor
class Keeper:
    """Has a state that a cancelled call must leave alone."""

    def __init__(self, path: str = "") -> None:
        self.entries: list[int] = []
        if path:
            wait_for_file(path)

    def sleep(self, path: str) -> None:
        mark(path)
        time.sleep(LONG_S)

    def add(self, number: int) -> list[int]:
        self.entries.append(number)
        return self.entries

    def pid(self) -> int:
        return os.getpid()

    def ask(self, other: Any) -> Any:
        """Wait for another actor, which may wait for this one."""
        return fabric.get(other.pid.remote())
