"""Interrupting the running call: the directed signal, and what it must not strike.

A worker's watchdog hears that a call is cancelled while the main thread runs it. It notes the call
and signals the main thread; the signal breaks a system call, and Python runs `_on_signal` between
two instructions of the main thread. There, and only there, it is decided: `Interrupted` is raised
if the main thread is inside user code of that very call, and at most once a call. A signal that
comes too late finds another call, or none, and does nothing; one that comes too early is seen by
`enter`. What the worker itself does on the main thread inside a call (it lends its loop while the
call waits, it starts its client) is shielded: the interrupt waits until it is done.

A call that swallows the interrupt, or sits in C code, is not looked at again here; see `KillCall`.
"""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from fabric.context import Interrupted
from fabric.ids import CallId

SIGNAL = signal.SIGRTMIN + 6
"""Nobody's: programs use SIGUSR1 and SIGUSR2, libraries the first of the real-time signals."""


class Interrupts:
    """The main thread enters and leaves user code; the watchdog's thread interrupts."""

    def __init__(self) -> None:
        self._inside: CallId | None = None  # the call whose user code the main thread is in
        self._wanted: CallId | None = None  # the call that was last to be interrupted
        self._shields = 0
        self._main = threading.main_thread().ident or 0

    def install(self) -> None:
        """To be said once, on the main thread, before the first call."""
        signal.signal(SIGNAL, self._on_signal)

    def interrupt(self, call: CallId) -> None:
        """Stop that call if it is inside, or about to be. Any thread."""
        self._wanted = call  # before the signal: one of the two threads sees the other's word
        if threading.get_ident() != self._main:
            signal.pthread_kill(self._main, SIGNAL)

    # -- main thread

    def enter(self, call: CallId) -> None:
        """User code of that call begins; to be said inside the `try` that `leave` ends."""
        self._inside = call
        if self._wanted is not None:
            self._strike()

    def leave(self) -> None:
        """It has ended: from here on nothing is raised."""
        self._inside = None
        self._wanted = None

    @contextlib.contextmanager
    def shielded(self) -> Iterator[None]:
        """The worker's own business, even while user code waits for it."""
        if threading.get_ident() != self._main:
            yield
            return
        self._shields += 1
        try:
            yield
        finally:
            self._shields -= 1
            if self._wanted is not None:
                self._strike()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._strike()

    def _strike(self) -> None:
        call = self._inside
        if call is None or self._wanted != call or self._shields:
            return
        self._inside = self._wanted = None  # once a call, so none comes on the way out of it
        raise Interrupted
