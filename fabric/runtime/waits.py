"""Waiting for refs: threads, coroutines, futures and callbacks, which are all the same thing
here.

Whoever waits leaves a waiter at the ref (or, for many refs at once, one countdown at the client)
and looks again; the loop thread calls it once the value is there. User code never runs on the
loop thread: callbacks of futures run on a thread of their own. Which value it is and whether it
can be read is not looked at here, except that the first failure ends a wait for all.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Protocol

from fabric.core.events import Want
from fabric.exceptions import GetTimeoutError
from fabric.ids import brief
from fabric.protocol.values import Failure
from fabric.refs import ObjectRef, Waiter
from fabric.runtime.reasons import why_waiting
from fabric.tracebacks import beneath

if TYPE_CHECKING:
    import asyncio
    from concurrent.futures import Future

    from fabric.runtime.client import Client

logger = logging.getLogger("fabric")

Ref = ObjectRef[Any]


class Blocking(Protocol):
    """What a worker wants to hear of waits that take a while."""

    def on_blocked(self, timeout: float | None) -> None:
        """A thread has waited for ``blocked_after_s`` and goes on waiting, for so long in all."""

    def on_resumed(self) -> None:
        """It waits no longer."""


class Countdown:
    """A thread that waits until at most ``allowed`` of its refs are pending (or one has failed)."""

    __slots__ = ("allowed", "ends_on_failure", "is_over", "lock", "pending")

    def __init__(self, pending: set[Ref], allowed: int, ends_on_failure: bool) -> None:
        self.pending = pending
        self.allowed = allowed
        self.ends_on_failure = ends_on_failure
        self.is_over = False
        self.lock = threading.Lock()
        self.lock.acquire()

    def on_resolved(self, ref: Ref) -> None:
        """Only the loop thread calls this, so the lock is released once."""
        if self.is_over or ref not in self.pending:
            return
        self.pending.discard(ref)
        if len(self.pending) <= self.allowed or (
            self.ends_on_failure and type(ref._value) is Failure
        ):
            self.is_over = True
            self.lock.release()


class Waiting:
    """Who waits in this client; the loop thread's side is `notify`."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._lock = threading.Lock()
        self._countdowns: tuple[Countdown, ...] = ()
        self._courier: Courier | None = None

    def expect(self, ref: Ref) -> None:
        """See to it that a ref from elsewhere gets its value here."""
        client = self._client
        if client.why_closed is not None or client.failure is not None:
            client.check()
        # in that order: a ref leaves the table after it got its value
        if ref._id not in client.inflight and ref._value is None:
            client.inflight[ref._id] = ref
            client.tell(Want(ref._id))
            client.check()

    def expect_in_loop(self, ref: Ref) -> None:
        """The same for a coroutine."""
        self.expect(ref)

    def notify(self, ref: Ref) -> None:
        """The ref has its value: call its waiters once, and all countdowns."""
        waiters = ref._waiters
        if waiters is not None:
            ref._waiters = None
            for waiter in waiters:
                waiter(ref)
        for countdown in self._countdowns:
            countdown.on_resolved(ref)

    def add_waiter(self, ref: Ref, waiter: Waiter) -> bool:
        """Call that when the ref has its value; true if it has one, and then it may be called too.

        The lock is against other threads that wait; against `notify` the order is enough.
        """
        with self._lock:
            if ref._waiters is None:
                ref._waiters = [waiter]
            else:
                ref._waiters.append(waiter)
        return ref._value is not None

    def add_countdown(self, countdown: Countdown) -> None:
        """Tell it of every ref that gets its value from now on."""
        with self._lock:
            self._countdowns = (*self._countdowns, countdown)

    def remove_countdown(self, countdown: Countdown) -> None:
        """Tell it no more."""
        with self._lock:
            self._countdowns = tuple(one for one in self._countdowns if one is not countdown)

    def courier(self) -> Courier:
        """The thread for users' callbacks, started when first needed."""
        with self._lock:
            if self._courier is None:
                self._courier = Courier()
            return self._courier

    def explain(self, pending: Iterable[Ref]) -> str:
        """Which of these refs have no value yet, and why."""
        awaited = [ref._id for ref in tuple(pending) if ref._value is None]
        return why_waiting(self._client.machine, awaited)

    def close(self) -> None:
        """Run the callbacks that are due, then end their thread."""
        if self._courier is not None:
            self._courier.end()


def wait_for_one(client: Client, ref: Ref, timeout: float | None) -> None:
    """Return when the ref has a value; `GetTimeoutError` if that takes too long."""
    client.waits.expect(ref)
    lock = threading.Lock()
    lock.acquire()
    # the loop thread calls each waiter of the list once; this thread never does
    if client.waits.add_waiter(ref, lambda _: lock.release()):
        return
    if not block(client, lock, timeout, [ref]):
        raise _timed_out([ref], timeout)


def wait_for_all(client: Client, refs: Iterable[Ref], timeout: float | None) -> None:
    """Return when all have a value or one of them has failed."""
    pending = {ref for ref in refs if ref._value is None}
    if pending and not wait_for_some(client, pending, 0, timeout, ends_on_failure=True):
        raise _timed_out(list(pending), timeout)


def wait_for_some(
    client: Client, pending: set[Ref], allowed: int, timeout: float | None, ends_on_failure: bool
) -> bool:
    """Return when at most ``allowed`` of the refs are pending; false if the time was up before."""
    for ref in pending:
        client.waits.expect(ref)
    countdown = Countdown(pending, allowed, ends_on_failure)
    client.waits.add_countdown(countdown)
    try:
        # what was resolved before the countdown was there: nobody told it, so look
        resolved = [ref for ref in tuple(pending) if ref._value is not None]
        pending.difference_update(resolved)
        if len(pending) <= allowed:
            return True
        if ends_on_failure and any(type(ref._value) is Failure for ref in resolved):
            return True
        return block(client, countdown.lock, timeout, pending)
    finally:
        client.waits.remove_countdown(countdown)


def block(
    client: Client, lock: threading.Lock, timeout: float | None, pending: Iterable[Ref]
) -> bool:
    """Wait for the lock; tell the worker when it takes a while. False if the time was up before."""
    deadline = None if timeout is None else time.monotonic() + timeout
    blocking = client.blocking
    if blocking is None:
        return _block(client, lock, deadline, pending)
    short = client.limits.blocked_after_s
    if lock.acquire(timeout=short if timeout is None else max(0.0, min(short, timeout))):
        return True
    blocking.on_blocked(timeout)
    try:
        return _block(client, lock, deadline, pending)
    finally:
        blocking.on_resumed()


def _block(
    client: Client, lock: threading.Lock, deadline: float | None, pending: Iterable[Ref]
) -> bool:
    patience = client.limits.wait_warning_s
    started = now = time.monotonic()
    while True:
        left = patience if deadline is None else min(patience, deadline - now)
        if client.turns.wait(lock, max(0.0, left)):
            return True
        now = time.monotonic()
        if deadline is not None and now >= deadline:
            return False
        if now - started >= patience:
            logger.warning(
                "waited %s for %s", f"{now - started:.0f} s", client.waits.explain(pending)
            )
            patience *= 2


def _timed_out(refs: list[Ref], timeout: float | None) -> GetTimeoutError:
    first = brief("o", refs[0]._id)
    which = f"{first} was" if len(refs) == 1 else f"{len(refs)} objects ({first}, …) were"
    return GetTimeoutError(f"{which} not ready within {timeout:g} s.")


# ---------------------------------------- coroutines


async def wait_in_loop(client: Client, ref: Ref) -> None:
    """Return when the ref has a value, while the running event loop goes on."""
    import asyncio

    client.waits.expect_in_loop(ref)
    loop = asyncio.get_running_loop()
    arrived: asyncio.Future[None] = loop.create_future()

    def arrive() -> None:
        if not arrived.done():
            arrived.set_result(None)

    def waiter(_: Ref) -> None:
        if not loop.is_closed():  # a program may end its event loop before its tasks
            loop.call_soon_threadsafe(arrive)

    if not client.waits.add_waiter(ref, waiter):
        await arrived


# ---------------------------------------- futures


class Courier:
    """The thread on which futures get their values, and so on which users' callbacks run."""

    def __init__(self) -> None:
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="fabric-callbacks", daemon=True)
        self._thread.start()

    def call(self, job: Callable[[], None]) -> None:
        """Run that soon; jobs run in order."""
        self._jobs.put(job)

    def end(self) -> None:
        """Run what is queued, then stop."""
        self._jobs.put(None)
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout=0.5)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job()
            except Exception:  # others wait for their turn on this thread
                logger.exception("a callback on the thread for callbacks has failed")


def future_of(client: Client, ref: Ref) -> Future[Any]:
    """A real future of the ref's value."""
    from concurrent.futures import Future

    future: Future[Any] = Future()

    def settle() -> None:
        if future.done() or not future.set_running_or_notify_cancel():
            return
        try:
            value = ref._load()
        except BaseException as error:
            future.set_exception(error.with_traceback(beneath(error.__traceback__)))
        else:
            future.set_result(value)

    client.waits.expect(ref)
    if client.waits.add_waiter(ref, lambda _: client.waits.courier().call(settle)):
        # the loop thread may have called too; the courier runs both in order, the second does
        # nothing
        client.waits.courier().call(settle)
    return future


# ---------------------------------------- in order of arrival


def completed(refs: list[Ref], timeout: float | None) -> Iterator[Ref]:
    """The refs as they get their values, on the thread that iterates."""
    deadline = None if timeout is None else time.monotonic() + timeout
    pending = dict.fromkeys(refs)
    arrivals: SimpleQueue[Ref] = SimpleQueue()
    for ref in list(pending):
        ref._client.waits.expect(ref)
        if ref._client.waits.add_waiter(ref, arrivals.put):
            arrivals.put(ref)  # perhaps for the second time; it leaves `pending` once
    while pending:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        ref = _next_arrival(arrivals, pending, left, timeout)
        if ref in pending:
            del pending[ref]
            yield ref


def _next_arrival(
    arrivals: SimpleQueue[Ref], pending: dict[Ref, None], left: float | None, timeout: float | None
) -> Ref:
    """The next one; waits like every other wait, so that a worker lends its CPU meanwhile."""
    if arrivals.empty():
        first = next(iter(pending))
        if not wait_for_some(first._client, set(pending), len(pending) - 1, left, False):
            raise _timed_out(list(pending), timeout)
    return arrivals.get()


async def completed_in_loop(refs: list[Ref]) -> AsyncIterator[Ref]:
    """The same for a coroutine."""
    import asyncio

    loop = asyncio.get_running_loop()
    pending = dict.fromkeys(refs)
    arrivals: asyncio.Queue[Ref] = asyncio.Queue()

    def waiter(ref: Ref) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(arrivals.put_nowait, ref)

    for ref in list(pending):
        ref._client.waits.expect_in_loop(ref)
        if ref._client.waits.add_waiter(ref, waiter):
            arrivals.put_nowait(ref)
    while pending:
        ref = await arrivals.get()
        if ref in pending:
            del pending[ref]
            yield ref
