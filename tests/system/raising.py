"""Tasks and actors that raise: for the tests of errors.

In a module of their own that imports little, because workers import it.
"""

import builtins
import os
import sys
from pathlib import Path
from typing import Any

from fabric import actor, task


class Bare(BaseException):
    """No `Exception`, like those with which some libraries cancel."""


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


@task
def raise_this(kind: str) -> None:
    raise Bare if kind == "Bare" else getattr(builtins, kind)


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

    def raise_this(self, kind: str) -> None:
        raise_this(kind)
