"""Who runs the client's loop: its own thread, or a thread of the user's that waits for a value.

A round trip costs a wake-up for each thread it passes through. So a thread that has just submitted
something and now waits asks for the loop and runs it itself until its value is there: the answer
wakes the very thread that wants it. When it leaves, nobody runs the loop for up to `SPARE_S`, so
that the next wait of the same kind takes it without asking; then the loop thread has it back. What
a turn does is the loop's; what is waited for is `fabric.runtime.waits`'.

**Interrupts.** A signal handler written in Python runs on the main thread between any two byte
codes, and one that raises in the midst of a turn would leave the machine half changed. The main
thread therefore runs the loop only while the one such handler is Python's own for Ctrl-C, and that
one is put aside for as long: the interrupt ends the turn's sleep, and is raised once the loop is
handed back. Workers do not lend the loop: their calls may be interrupted at any time.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from fabric.core.events import Event
from fabric.exceptions import FabricError
from fabric.interrupts import MAIN_THREAD, SIGINT, Held, handler_of

if TYPE_CHECKING:
    from fabric.runtime.loop import Loop  # which imports zmq: the first session does

SPARE_S = 0.002
"""After a thread that waited has left, the loop stays free for the next one for this long."""

DEEP_S = 0.03
"""While one thread runs the loop for long the loop thread looks more and more seldom; beyond this
it sleeps until it is rung."""

CLOSE_S = 0.5
"""The loop thread gets this long to say goodbye."""

RAISING = (signal.SIGTERM, signal.SIGALRM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""Signals whose handlers, where a program has its own, like to raise."""


class Turns:
    """See the module."""

    def __init__(
        self,
        open_loop: Callable[[], Loop],
        close_loop: Callable[[Loop], None],
        on_failure: Callable[[BaseException], None],
        *,
        is_lent: bool,
    ) -> None:
        self.tell: Callable[[Event], None] = _nobody_hears
        self._open_loop = open_loop
        self._close_loop = close_loop
        self._on_failure = on_failure
        self._is_lent = is_lent
        self._is_ending = False
        self._loop: Loop | None = None
        self._has_started = threading.Event()
        self._turning = threading.Lock()  # who holds it runs the loop
        self._runner = 0  # that thread
        self._claim: threading.Lock | None = None  # released when its holder gets the loop
        self._claiming = threading.Lock()
        self._bell: SimpleQueue[None] = SimpleQueue()  # wakes the loop thread when it is parked
        self._is_parked_deep = False  # it waits for the bell only
        self._stints = 0  # how often a thread that waited has left the loop
        self._bystanders: set[threading.Lock] = set()  # wait, and leave the turns to others
        self._thread = threading.Thread(target=self._run, name="fabric-client", daemon=True)

    # -- life

    def start(self, patience_s: float) -> bool:
        """Start the loop thread; whether it has its sockets within that time."""
        self._thread.start()
        return self._has_started.wait(patience_s)

    def close(self) -> None:
        """Have the loop thread say what it was told, and end."""
        self._is_ending = True
        loop = self._loop
        if loop is not None:
            loop.wake()
        self._bell.put(None)
        self._thread.join(CLOSE_S)
        self.tell = _nobody_hears

    def abandon(self) -> None:
        """In a forked child: nothing of the parent's loop may be touched."""
        self.tell = _nobody_hears
        self._is_lent = False
        self._loop = None

    # -- the loop thread

    def _run(self) -> None:
        try:
            with self._turning:
                self._turn_until_the_end()
        except BaseException as error:  # fails every waiter; the user's process goes on
            self._on_failure(error)
            if not isinstance(error, Exception):
                raise

    def _turn_until_the_end(self) -> None:
        self._loop = loop = self._open_loop()
        self.tell = loop.tell_soon
        self._runner = threading.get_ident()
        self._has_started.set()
        try:
            while not self._is_ending:
                if self._claim is not None:
                    self._lend(loop)
                loop.turn(math.inf)
            loop.turn(0.0)
        finally:
            self.tell = _nobody_hears
            self._close_loop(loop)

    def _lend(self, loop: Loop) -> None:
        """Leave the loop to threads that wait; returns when none has run it for a while."""
        with self._claiming:
            claim, self._claim = self._claim, None
            if claim is None:  # withdrawn
                return
            self._runner = 0
        stints = self._stints
        claim.release()  # its holder has `_turning` from here on
        try:
            patience_s = SPARE_S
            while not self._is_ending:
                with suppress(Empty):
                    self._bell.get(timeout=patience_s)
                is_same = stints == self._stints
                stints = self._stints
                if not self._turning.locked():
                    if is_same or self._bystanders:
                        break
                    patience_s = SPARE_S
                elif not is_same:
                    patience_s = SPARE_S
                elif patience_s < DEEP_S:  # somebody runs it for long
                    patience_s *= 2
                else:
                    self._park_deep()
        finally:
            self._turning.acquire()
            self._runner = threading.get_ident()
            loop.take()

    def _park_deep(self) -> None:
        """Whoever leaves the loop rings."""
        self._is_parked_deep = True
        if self._turning.locked():  # said first, then looked: see `_leave`
            self._bell.get()
        self._is_parked_deep = False

    # -- threads that wait

    def wait(self, arrived: threading.Lock, timeout: float) -> bool:
        """Wait until the lock is released, which a turn does; whether it was within the time."""
        loop = self._loop
        if loop is None or not self._is_lent:
            return arrived.acquire(timeout=timeout)
        if self._runner == threading.get_ident():
            raise FabricError(
                "Something that runs on the fabric's own behalf (a `__del__`, a signal handler)"
                " waits for a value, which could then never come.",
                advice="Only submit there, and wait elsewhere.",
            )
        deadline = time.monotonic() + timeout
        if threading.get_ident() != MAIN_THREAD:
            is_here = self._run_if_free(loop, arrived, deadline, Held())
        elif _may_run_here():
            with Held() as held:
                held.on_interrupt = loop.wake
                is_here = self._run_if_free(loop, arrived, deadline, held)
        else:
            is_here = None
        return self._stand_by(arrived, deadline) if is_here is None else is_here

    def _run_if_free(
        self, loop: Loop, arrived: threading.Lock, deadline: float, held: Held
    ) -> bool | None:
        """Run the loop on this thread, if it may be had; None if another thread is to do it."""
        if self._turning.acquire(blocking=False):
            return self._run_here(loop, arrived, deadline, held)
        claim = self._make_claim() if loop.has_news else None
        if claim is None:
            return None
        loop.wake()  # whatever it does: before it sleeps it looks at claims
        if not claim.acquire(timeout=max(0.0, deadline - time.monotonic())):
            with self._claiming:
                if self._claim is claim:
                    self._claim = None
                    return arrived.acquire(blocking=False)
            claim.acquire()
        return self._run_here(loop, arrived, deadline, held)

    def _make_claim(self) -> threading.Lock | None:
        """Ask the loop thread for the loop, if it has that and nobody else asks."""
        with self._claiming:
            if self._claim is not None or self._runner != self._thread.ident:
                return None
            self._claim = claim = threading.Lock()
            claim.acquire()
            return claim

    def _stand_by(self, arrived: threading.Lock, deadline: float) -> bool:
        """Another thread runs the loop, or the loop thread soon does."""
        self._bystanders.add(arrived)
        try:
            if self._is_parked_deep or not self._runner:
                self._bell.put(None)
            return arrived.acquire(timeout=max(0.0, deadline - time.monotonic()))
        finally:
            self._bystanders.discard(arrived)

    def _run_here(self, loop: Loop, arrived: threading.Lock, deadline: float, held: Held) -> bool:
        """Run the loop on this thread until the lock is released."""
        self._runner = threading.get_ident()
        began = time.monotonic()
        try:
            loop.take()
            if loop.has_news:  # most often what is waited for is still to be asked for
                loop.speak()
            while not arrived.acquire(blocking=False):
                left_s = deadline - time.monotonic()
                if left_s <= 0 or held.is_interrupted or self._is_ending:
                    return False
                loop.turn(left_s)
            return True
        except BaseException as error:  # as on the loop thread
            self._on_failure(error)
            raise
        finally:
            self._leave(time.monotonic() - began)

    def _leave(self, stint_s: float) -> None:
        self._stints += 1
        self._runner = 0
        self._turning.release()
        # released first, then looked; after a long stint the loop thread may be resting for longer
        if self._is_parked_deep or self._bystanders or stint_s > SPARE_S:
            self._bell.put(None)


def _may_run_here() -> bool:
    """No handler of this program raises on the main thread, but that of Ctrl-C."""
    if handler_of(SIGINT) is not signal.default_int_handler:
        return False
    return not any(callable(handler_of(number)) for number in RAISING)


def _nobody_hears(event: Event) -> None:
    """Where events go when the session is over, or in a fork."""
