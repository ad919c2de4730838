"""``task.map``: many calls of one task in few messages.

A chunk of items is one call of a `ChunkRunner`, whose result is one object: a value or a failure
for each item. Chunks begin with one item for each worker and grow with the measured duration of an
item, so that long calls spread and short ones cost next to nothing each. Refs of items are made
when they are looked at: with their value if the chunk is back, else as a promise that is kept when
it comes. Pickling of later chunks happens on the thread for callbacks, or on the one that waits,
never on the loop thread.

Where an item is a ref itself, its value has to be known before its call runs, which only calls of
their own can do, and only those can be timed each; such a map is not chunked.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, overload

import msgspec

from fabric.context import running
from fabric.exceptions import SerializationError
from fabric.failures import dump_failure, load_failure
from fabric.protocol.values import Failure
from fabric.refs import ObjectRef
from fabric.runtime import client as clients
from fabric.runtime import waits
from fabric.serialization import Dumped, dump, dump_function

if TYPE_CHECKING:
    from fabric.tasks import Task

Ref = ObjectRef[Any]

CHUNK_S = 0.03
"""Chunks grow until one takes about this long."""

CHUNK_ITEMS_MAX = 16_000
GROWTH_MAX = 16
"""A chunk is at most this many times as large as the one before: one measurement proves little."""

CHUNKS_PER_WORKER = 3
"""Chunks that are submitted and not back, for each CPU."""


class Failed(msgspec.Struct, frozen=True):
    """An item whose call raised, in a chunk's result."""

    failure: Failure


class ChunkRunner:
    """What runs in the worker: one item after the other, each with a result of its own."""

    def __init__(self, function: Callable[..., Any], name: str, is_star: bool) -> None:
        self._function = function
        self._name = name
        self._is_star = is_star

    def __call__(self, items: Sequence[Any]) -> tuple[float, int, list[Any]]:
        """Seconds for all of them, how many failed, and a value or `Failed` for each."""
        results: list[Any] = []
        failed = 0
        began = time.perf_counter()
        calls = (itertools.starmap if self._is_star else map)(self._function, items)
        while len(results) < len(items):
            error: BaseException
            try:
                results.extend(calls)  # keeps what came before one that raises
                if len(results) == len(items):
                    break
                error = StopIteration()  # raised by the function: it looked like the end
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as raised:
                error = raised
            results.append(self._failed(error))
            failed += 1
        return time.perf_counter() - began, failed, results

    def _fabric_mend_(self, returned: tuple[float, int, list[Any]]) -> tuple[float, int, list[Any]]:
        """The worker could not pickle all of this: fail what it is due to, and keep the others."""
        seconds, _, results = returned
        mended = [self._mended(each) for each in results]
        return seconds, sum(type(each) is Failed for each in mended), mended

    def _mended(self, result: Any) -> Any:
        try:
            dump(result, "result")
        except SerializationError as error:
            return self._failed(error)
        return result

    def _failed(self, error: BaseException) -> Failed:
        return Failed(dump_failure(error, task=self._name, node=running.node, pid=os.getpid()))


class Chunk:
    """A run of items: submitted as one call, and later their results."""

    __slots__ = ("failed", "ref", "results", "start", "stop")

    def __init__(self, start: int, stop: int, ref: Ref) -> None:
        self.start = start
        self.stop = stop
        self.ref = ref
        self.results: list[Any] | None = None
        self.failed = 0  # of the results


def map_calls(task: Task[Any, Any], iterables: tuple[Any, ...], chunk: int | None) -> Any:
    """The refs of one call for each item, or for each tuple of items of several iterables."""
    if not iterables:
        raise TypeError("map needs at least one iterable")
    if chunk is not None and (isinstance(chunk, bool) or not isinstance(chunk, int) or chunk < 1):
        raise ValueError(f"chunk must be a number of calls, 1 or more, not {chunk!r}")
    if task._returns != 1:
        raise TypeError("map is for tasks with one result each")
    is_star = len(iterables) > 1
    items: Any  # a sequence
    if is_star:
        items = list(zip(*iterables, strict=False))
    else:  # a range travels as what it is
        items = iterables[0] if type(iterables[0]) is range else list(iterables[0])
    if items:
        task._check_arguments(*(items[0] if is_star else items[:1]))
    if task._timeout_s is not None or _have_refs(items):
        return [task.remote(*item) if is_star else task.remote(item) for item in items]
    return MappedCalls(task, items, is_star, chunk)


def _have_refs(items: Sequence[Any]) -> bool:
    """Whether an item is a ref or a tuple with one. Looks at types first, all of them in C."""
    if type(items) is range:
        return False
    kinds = set(map(type, items))
    if not any(kind is tuple or issubclass(kind, ObjectRef) for kind in kinds):
        return False
    return any(map(_has_ref, items))


def _has_ref(item: Any) -> bool:
    if type(item) is tuple:
        return any(isinstance(each, ObjectRef) for each in item)
    return isinstance(item, ObjectRef)


class MappedCalls(Sequence[Ref]):
    """The refs of `map`, made on access. `fabric.get` of the whole makes none."""

    def __init__(
        self, task: Task[Any, Any], items: Sequence[Any], is_star: bool, chunk: int | None
    ) -> None:
        self._client = clients.current_client()
        self._items = items
        self._shape = task._shape
        self._retries = task._retries
        self._function = self._define(task, is_star)
        self._fixed_size = chunk
        self._size = 1 if chunk is None else chunk
        self._workers = max(1, self._client.cpus)
        self._chunks: list[Chunk] = []
        self._submitted = 0  # items
        self._waiting = 0  # chunks that are not back
        self._promises: dict[int, Ref] = {}  # index → ref that was looked at before its value came
        self._lock = threading.RLock()
        with self._lock:
            self._feed(self._workers)

    def _define(self, task: Task[Any, Any], is_star: bool) -> Any:
        from fabric.tasks import is_found_by_name

        function = task if is_found_by_name(task) else task._function
        runner = ChunkRunner(function, task._name, is_star)
        return self._client.define(dump_function(runner), task._name, is_shared=False)

    # -- chunks go out and come back

    def _feed(self, chunks_max: int) -> None:
        """Submit up to that many chunks more. The caller has the lock."""
        for _ in range(chunks_max):
            start = self._submitted
            stop = min(start + self._size, len(self._items))
            if start == stop:
                return
            try:
                ref = self._submit(start, stop)
            except SerializationError:  # one of them cannot travel: the first goes alone
                stop = start + 1
                ref = self._submit_one(start)
            chunk = Chunk(start, stop, ref)
            self._chunks.append(chunk)
            self._submitted = stop
            self._waiting += 1

            def back(_: Ref, chunk: Chunk = chunk) -> None:
                self._client.waits.courier().call(lambda: self._on_back(chunk))

            if self._client.waits.add_waiter(ref, back):
                back(ref)

    def _submit(self, start: int, stop: int) -> Ref:
        items = self._items[start:stop]
        ref: Ref = self._client.submit(
            self._function, self._shape, (items,), {}, 1, self._retries, None
        )
        return ref

    def _submit_one(self, place: int) -> Ref:
        """A ref in any case, of a failure if the item cannot be pickled."""
        try:
            return self._submit(place, place + 1)
        except SerializationError as error:
            text = error.text.replace("`args[0][0]", f"`items[{place}]", 1)
            ref = self._client.promise()
            self._client.keep_promise(ref, Failure("serialization", text))
            return ref

    def _on_back(self, chunk: Chunk) -> None:
        """A chunk is back: keep its promises, learn how long items take, send more."""
        with self._lock:
            if chunk.results is not None:  # the one who waits for all was faster
                return
            try:
                seconds, chunk.failed, chunk.results = chunk.ref._load()
            except BaseException:
                # the call as a whole failed (its worker died, say): so did each of its items
                seconds, chunk.results = CHUNK_S, self._all_failed(chunk)
                chunk.failed = len(chunk.results)
            self._waiting -= 1
            if self._fixed_size is None:
                self._adapt(seconds / max(1, chunk.stop - chunk.start))
            self._keep_promises(chunk)
            if self._client.why_closed is None:
                self._feed(CHUNKS_PER_WORKER * self._workers - self._waiting)

    def _all_failed(self, chunk: Chunk) -> list[Any]:
        value = chunk.ref._value
        failure = value if type(value) is Failure else Failure("serialization", "no result to read")
        return [Failed(failure)] * (chunk.stop - chunk.start)

    def _adapt(self, item_s: float) -> None:
        left = len(self._items) - self._submitted
        fair = max(1, left // (2 * self._workers))
        wanted = int(CHUNK_S / max(item_s, 1e-9))
        self._size = max(1, min(wanted, self._size * GROWTH_MAX, CHUNK_ITEMS_MAX, fair))

    def _keep_promises(self, chunk: Chunk) -> None:
        if not self._promises or chunk.results is None:
            return
        for index in range(chunk.start, chunk.stop):
            ref = self._promises.pop(index, None)
            if ref is not None:
                value = _as_sent(chunk.results[index - chunk.start])
                self._client.keep_promise(ref, value)

    # -- a sequence of refs

    def __len__(self) -> int:
        return len(self._items)

    @overload
    def __getitem__(self, index: int) -> Ref: ...
    @overload
    def __getitem__(self, index: slice) -> list[Ref]: ...
    def __getitem__(self, index: int | slice) -> Ref | list[Ref]:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        place = index + len(self) if index < 0 else index
        if not 0 <= place < len(self):
            raise IndexError(f"there are {len(self)} calls, and none has the index {index}")
        with self._lock:
            chunk = self._chunk_of(place)
            if chunk is not None and chunk.results is not None:
                return self._ref_of(chunk.results[place - chunk.start])
            ref = self._promises.get(place)
            if ref is None:
                ref = self._promises[place] = self._client.promise()
            return ref

    def _ref_of(self, result: Any) -> Ref:
        value = _as_sent(result)
        if isinstance(value, Failure):
            ref = self._client.promise()
            self._client.keep_promise(ref, value)
            return ref
        return self._client.put_dumped(value)

    def _chunk_of(self, place: int) -> Chunk | None:
        low, high = 0, len(self._chunks)
        while low < high:
            middle = (low + high) // 2
            if self._chunks[middle].stop <= place:
                low = middle + 1
            else:
                high = middle
        return self._chunks[low] if low < len(self._chunks) else None

    def _gather(self, timeout: float | None) -> list[Any]:
        """Every value, in order; raises the first failure that it comes to."""
        deadline = None if timeout is None else time.monotonic() + timeout
        values: list[Any] = []
        place = 0
        while len(values) < len(self._items):
            chunk = self._chunk_at(place)
            if chunk.ref._value is None:
                left = None if deadline is None else max(0.0, deadline - time.monotonic())
                waits.wait_for_one(self._client, chunk.ref, left)
            self._on_back(chunk)
            results = chunk.results or []
            if chunk.failed:
                raise load_failure(next(one for one in results if type(one) is Failed).failure)
            values += results
            place += 1
        return values

    def _chunk_at(self, place: int) -> Chunk:
        with self._lock:
            if place == len(self._chunks):
                self._feed(1)
            return self._chunks[place]

    def __repr__(self) -> str:
        return f"<{len(self)} mapped calls>"


def _as_sent(result: Any) -> Dumped | Failure:
    """An item's result as its ref will hold it."""
    if type(result) is Failed:
        return result.failure
    try:
        return dump(result)
    except SerializationError as error:  # it came out of a pickle, but does not go into one again
        return Failure("serialization", error.text)
