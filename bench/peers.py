"""The systems that are measured, each behind the same few verbs.

A system says in ``verbs`` what it has words for; rows that need more leave its cell empty. Nothing
is imported before `start`, so this module is importable where a peer is not installed.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

Ref = Any
"""What the peer returns for a call that runs: a ref, a future, an async result."""


class Peer(ABC):
    """One system, started with so many worker processes and stopped again."""

    name: str
    module: str
    """What must be importable."""
    verbs: frozenset[str] = frozenset()
    """What it can do besides tasks: ``refs`` (refs as arguments), ``map``, ``actor``, ``put``."""
    script: str
    """A program from nothing to its first result, which it prints."""

    @classmethod
    def is_installed(cls) -> bool:
        return find_spec(cls.module) is not None

    @abstractmethod
    def start(self, workers: int) -> None: ...

    @abstractmethod
    def stop(self) -> None: ...

    @abstractmethod
    def task(self, function: Callable[..., Any]) -> Callable[..., Ref]:
        """What submits a call of the function when it is called."""

    @abstractmethod
    def get(self, refs: list[Ref]) -> list[Any]:
        """The results of calls, in order."""

    def get_one(self, ref: Ref) -> Any:
        return self.get([ref])[0]

    def map(self, function: Callable[..., Any], values: Iterable[Any]) -> list[Any]:
        """The results of as many calls, in the way the system offers for many small ones."""
        raise NotImplementedError

    def actor(self, kind: type, method: str) -> Callable[..., Ref]:
        """A new instance in a worker; what submits calls of one of its methods."""
        raise NotImplementedError

    def put(self, value: Any) -> Ref:
        raise NotImplementedError


class Fabric(Peer):
    """Fabric, private to the process that measures."""

    name = "fabric"
    module = "fabric"
    verbs = frozenset({"refs", "map", "actor", "put"})
    script = """
from fabric import task
import fabric
fabric.init(num_cpus=2)
@task
def one(): return 1
print(one.remote().get(), flush=True)
"""

    def start(self, workers: int) -> None:
        self._fabric: Any = import_module(self.module)
        self._fabric.init(num_cpus=workers)

    def stop(self) -> None:
        self._fabric.shutdown()

    def task(self, function: Callable[..., Any]) -> Callable[..., Ref]:
        submit: Callable[..., Ref] = self._fabric.task(function).remote
        return submit

    def get(self, refs: list[Ref]) -> list[Any]:
        return list(self._fabric.get(refs))

    def get_one(self, ref: Ref) -> Any:
        return self._fabric.get(ref)

    def map(self, function: Callable[..., Any], values: Iterable[Any]) -> list[Any]:
        return list(self._fabric.get(self._fabric.task(function).map(values)))

    def actor(self, kind: type, method: str) -> Callable[..., Ref]:
        submit: Callable[..., Ref] = getattr(self._fabric.actor(kind).remote(), method).remote
        return submit

    def put(self, value: Any) -> Ref:
        return self._fabric.put(value)


class Pool(Peer):
    """`multiprocessing.Pool`."""

    name = "Pool"
    module = "multiprocessing"
    verbs = frozenset({"map"})
    script = """
from multiprocessing import Pool
def one(): return 1
if __name__ == "__main__":
    with Pool(2) as pool:
        print(pool.apply(one), flush=True)
"""

    def start(self, workers: int) -> None:
        from multiprocessing import Pool

        self._pool = Pool(workers)

    def stop(self) -> None:
        self._pool.terminate()
        self._pool.join()

    def task(self, function: Callable[..., Any]) -> Callable[..., Ref]:
        apply_async = self._pool.apply_async
        return lambda *arguments: apply_async(function, arguments)

    def get(self, refs: list[Ref]) -> list[Any]:
        return [ref.get() for ref in refs]

    def map(self, function: Callable[..., Any], values: Iterable[Any]) -> list[Any]:
        return self._pool.map(function, values)


class Futures(Peer):
    """`concurrent.futures.ProcessPoolExecutor`."""

    name = "PPE"
    module = "concurrent.futures"
    verbs = frozenset({"map"})
    script = """
from concurrent.futures import ProcessPoolExecutor
def one(): return 1
if __name__ == "__main__":
    with ProcessPoolExecutor(2) as executor:
        print(executor.submit(one).result(), flush=True)
"""

    def start(self, workers: int) -> None:
        from concurrent.futures import ProcessPoolExecutor

        self._executor = ProcessPoolExecutor(workers)

    def stop(self) -> None:
        self._executor.shutdown()

    def task(self, function: Callable[..., Any]) -> Callable[..., Ref]:
        submit = self._executor.submit
        return lambda *arguments: submit(function, *arguments)

    def get(self, refs: list[Ref]) -> list[Any]:
        return [ref.result() for ref in refs]

    def map(self, function: Callable[..., Any], values: Iterable[Any]) -> list[Any]:
        return list(self._executor.map(function, values, chunksize=1000))


PEERS: dict[str, type[Peer]] = {peer.name: peer for peer in (Fabric, Pool, Futures)}
