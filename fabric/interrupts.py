"""Ctrl-C in the user's thread, at instants where it would tear something apart.

Python raises `KeyboardInterrupt` between any two instructions of the main thread. Most code of the
user's side is in such an order that this harms nobody; what is not, runs in a `Held`: the
interrupt waits for the end of the block, or for a place inside it that says it may come now. The
handler is the program's own before and after; nothing is installed for longer than the block.
What an interrupted call gives up is not known here.
"""

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

SIGINT = int(signal.SIGINT)
MAIN_THREAD = threading.main_thread().ident

# the plain functions of C: what `signal` wraps around them makes enums, for 20 µs a wait
handler_of: Callable[[int], Any] = getattr(signal.getsignal, "__wrapped__", signal.getsignal)
handle_by: Callable[[int, Any], Any] = getattr(signal.signal, "__wrapped__", signal.signal)


class Held:
    """A block in which SIGINT waits. In other threads than the main one there is none to wait.

    ``on_interrupt`` is called at once, in the midst of whatever the block does.
    """

    __slots__ = ("_count", "_previous", "on_interrupt")

    def __init__(self) -> None:
        self.on_interrupt: Callable[[], None] | None = None
        self._previous: Callable[[int, FrameType | None], Any] | None = None
        self._count = 0

    def __enter__(self) -> "Held":
        if threading.get_ident() == MAIN_THREAD:
            previous = handler_of(SIGINT)
            if callable(previous):  # else it is ignored, deadly, or not Python's
                self._previous = previous
                handle_by(SIGINT, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._previous is not None:
            handle_by(SIGINT, self._previous)
            if self._count:
                signal.raise_signal(SIGINT)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._count += 1
        if self.on_interrupt is not None:
            self.on_interrupt()

    @property
    def is_interrupted(self) -> bool:
        """An interrupt waits."""
        return self._count > 0

    def check(self) -> None:
        """Here it may come: what the program does with an interrupt, is done if there was one."""
        if self._count and self._previous is not None:
            self._count = 0
            self._previous(SIGINT, None)
