"""The peers that are pools of processes: two of Python's own, loky, and joblib on top of it."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from bench.peer import PATIENCE_S, Peer, Ref


class Pool(Peer):
    """`multiprocessing.Pool`."""

    name = "Pool"
    verbs = frozenset({"submit", "map"})
    importing = "from multiprocessing.pool import Pool"
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

    def get(self, refs: list[Ref], timeout_s: float = PATIENCE_S) -> list[Any]:
        return [ref.get(timeout_s) for ref in refs]

    def is_done(self, ref: Ref) -> bool:
        return bool(ref.ready())

    def map(self, function: Callable[..., Any], values: Iterable[Any]) -> list[Any]:
        return self._pool.map(function, values)


class Futures(Peer):
    """`concurrent.futures.ProcessPoolExecutor`."""

    name = "PPE"
    verbs = frozenset({"submit", "map", "wait"})
    importing = "from concurrent.futures import ProcessPoolExecutor"
    script = """
from concurrent.futures import ProcessPoolExecutor
def one(): return 1
if __name__ == "__main__":
    with ProcessPoolExecutor(2) as executor:
        print(executor.submit(one).result(), flush=True)
"""
    _executor: Any

    def start(self, workers: int) -> None:
        from concurrent.futures import ProcessPoolExecutor

        self._executor = ProcessPoolExecutor(workers)

    def stop(self) -> None:
        self._executor.shutdown()

    def task(self, function: Callable[..., Any]) -> Callable[..., Ref]:
        submit = self._executor.submit
        return lambda *arguments: submit(function, *arguments)

    def get(self, refs: list[Ref], timeout_s: float = PATIENCE_S) -> list[Any]:
        return [ref.result(timeout_s) for ref in refs]

    def is_done(self, ref: Ref) -> bool:
        return bool(ref.done())

    def one_by_one(self, refs: list[Ref]) -> Iterator[Ref]:
        from concurrent.futures import as_completed

        return as_completed(refs)

    def map(self, function: Callable[..., Any], values: Iterable[Any]) -> list[Any]:
        return list(self._executor.map(function, values, chunksize=1000))


class Loky(Futures):
    """loky's reusable executor."""

    name = "loky"
    distribution = "loky"
    importing = "from loky import get_reusable_executor"
    script = """
from loky import get_reusable_executor
def one(): return 1
if __name__ == "__main__":
    executor = get_reusable_executor(max_workers=2)
    print(executor.submit(one).result(), flush=True)
    executor.shutdown()
"""

    def start(self, workers: int) -> None:
        from loky import get_reusable_executor

        self._executor = get_reusable_executor(max_workers=workers, timeout=None)


class Joblib(Peer):
    """joblib on its default backend: calls come as one batch, and all results at once.

    So a ref is a call that has not been sent, and `get` sends it: no row about single calls fits.
    """

    name = "joblib"
    distribution = "joblib"
    verbs = frozenset({"map"})
    importing = "from joblib import Parallel, delayed"
    script = """
from joblib import Parallel, delayed
def one(): return 1
if __name__ == "__main__":
    print(Parallel(n_jobs=2)(delayed(one)() for _ in range(2))[0], flush=True)
"""

    def start(self, workers: int) -> None:
        from joblib import Parallel, delayed

        self._parallel, self._delayed = Parallel(n_jobs=workers), delayed

    def stop(self) -> None:
        from joblib.externals.loky import get_reusable_executor

        get_reusable_executor().shutdown(wait=True)

    def task(self, function: Callable[..., Any]) -> Callable[..., Ref]:
        return self._delayed(function)  # type: ignore[no-any-return]

    def get(self, refs: list[Ref], timeout_s: float = PATIENCE_S) -> list[Any]:
        return self._parallel(refs)  # type: ignore[no-any-return]

    def map(self, function: Callable[..., Any], values: Iterable[Any]) -> list[Any]:
        call = self._delayed(function)
        return self._parallel(call(value) for value in values)  # type: ignore[no-any-return]
