"""What a system that is measured has to offer, so that one function can measure them all.

A peer says in ``verbs`` what it has words for; rows that need more leave its cell empty. Nothing of
a peer is imported before `start`, so its class exists also where the peer is not installed. What
peers do differently is in `bench.clusters` and `bench.pools`; who is measured is in `bench.peers`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version
from platform import python_version
from typing import Any

Ref = Any
"""What the peer returns for a call that runs: a ref, a future, an async result."""

PATIENCE_S = 50.0
"""How long `get` waits; a row is given up after a little more."""


class Said(Exception):
    """What stands in a cell instead of a number: the peer answered the question with a word."""


class Peer(ABC):
    """One system, started with so many worker processes and stopped again."""

    name: str
    distribution: str = ""
    """The package to install; empty for what Python brings."""
    verbs: frozenset[str] = frozenset()
    """``submit`` calls one by one, ``map``, ``refs`` as arguments, ``actor``, ``put``, ``wait``
    for the first of many, ``nested`` calls, several ``drivers`` at a time."""
    importing: str
    """The statements with which a program imports what it uses, and has it ready."""
    script: str
    """A program from nothing to its first result, which it prints."""

    @classmethod
    def version(cls) -> str | None:
        """The version that is installed; nothing where it is not."""
        if not cls.distribution:
            return python_version()
        try:
            return version(cls.distribution)
        except PackageNotFoundError:
            return None

    @abstractmethod
    def start(self, workers: int) -> None: ...

    @abstractmethod
    def stop(self) -> None: ...

    @abstractmethod
    def task(self, function: Callable[..., Any]) -> Callable[..., Ref]:
        """What submits a call of the function when it is called."""

    @abstractmethod
    def get(self, refs: list[Ref], timeout_s: float = PATIENCE_S) -> list[Any]:
        """The results of calls, in order."""

    def get_one(self, ref: Ref) -> Any:
        return self.get([ref])[0]

    def is_done(self, ref: Ref) -> bool:
        """Whether a call has ended, without waiting."""
        raise NotImplementedError

    def one_by_one(self, refs: list[Ref]) -> Iterator[Ref]:
        """Refs in the order in which their calls end, by the loop that the peer's users write."""
        raise NotImplementedError

    def map(self, function: Callable[..., Any], values: Iterable[Any]) -> list[Any]:
        """The results of as many calls, in the way the system offers for many small ones."""
        raise NotImplementedError

    def actor(self, kind: type, method: str) -> Callable[..., Ref]:
        """A new instance in a worker; what submits calls of one of its methods."""
        raise NotImplementedError

    def put(self, value: Any) -> Ref:
        raise NotImplementedError

    def fan_out(self) -> Callable[[int], int]:
        """A function that, run as a task, runs so many tasks and waits for them."""
        raise NotImplementedError

    def start_shared(self, workers: int) -> str:
        """Instead of `start`: where several drivers can be at a time; the address for others."""
        raise NotImplementedError

    def join(self, address: str) -> None:
        """Instead of `start`: as one more driver."""
        raise NotImplementedError
