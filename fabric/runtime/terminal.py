"""The driver's voice for its workers: prints their lines to ``sys.stdout`` and ``sys.stderr``.

A thread of its own does it, so that a terminal that takes its time stops neither the loop nor the
user's threads. What waits here is bounded by the nodes, which send more only when told that
something was printed. The streams are looked up each time: notebooks and tests replace them.
"""

import contextlib
import os
import re
import select
import sys
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import TYPE_CHECKING

from fabric.core.effects import ShowOutput
from fabric.core.events import Ask, Event, OutputPrinted
from fabric.exceptions import FabricError
from fabric.ids import Address, brief, incarnation_of
from fabric.protocol.messages import FlushOutput, OutputWritten
from fabric.runtime.settings import LOGS, Place

if TYPE_CHECKING:
    from fabric.runtime.client import Client

REPORT_BYTES = 64 * 1024
"""While more waits, the node hears only after so many bytes what was printed."""

FLUSH_S = 1.0
"""At the end of a session the node gets this long to send what is left, and the user's streams to
take it."""

PIECE_CHARS = select.PIPE_BUF // 4
"""A pipe that is ready takes so much without blocking, whatever the letters."""

LOOK_MS = 100
"""While a stream takes nothing, it is looked this often whether the session is over."""

NAMELESS = "worker"
"""Who wrote what no task has said."""

COLOUR = r"\x1b\[[0-9;:]*m"
CONTROLS = re.compile(rf"({COLOUR})|[\x00-\x08\x0a-\x1f\x7f-\x9f]")
COLOUR_OFF = "\x1b[0m"


class Terminal:
    """See the module. `show` belongs to the loop thread, `finish` to the user's."""

    def __init__(self, tell: Callable[[Event], None], place: Place) -> None:
        self._tell = tell
        self._place = place
        self._items: SimpleQueue[ShowOutput | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._printed: dict[Address, int] = {}
        self._is_over = False
        self._has_given_up = False

    def show(self, output: ShowOutput) -> None:
        """Print that after what came before."""
        if self._is_over:
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="fabric-output", daemon=True)
            self._thread.start()
        self._items.put(output)

    def finish(self, client: "Client") -> None:
        """Print what workers wrote before this; then print nothing any more."""
        if client.registered.is_set() and client.failure is None:
            request = client.next_call()
            answer = client.questions.expect(request)
            client.tell(Ask(request, FlushOutput(request)))
            with contextlib.suppress(FabricError):  # a node that is gone or stuck has no more
                answer.wait(FLUSH_S)
        self._is_over = True
        if self._thread is not None:
            self._items.put(None)
            try:
                self._thread.join(FLUSH_S)
            finally:
                self._has_given_up = True

    def _run(self) -> None:
        while (output := self._items.get()) is not None:
            self._print(output)

    def _print(self, output: ShowOutput) -> None:
        node, message = output.node, output.message
        if message.omitted:
            logs = os.path.join(self._place.runtime_directory, LOGS)
            here = logs if node == self._place.node else ""
            self._write(notice(node, message.omitted, here), is_error=True)
        self._write(prefixed(node, message), message.is_error)
        self._printed[node] = self._printed.get(node, 0) + len(message.text)
        if self._items.empty() or self._printed[node] >= REPORT_BYTES:
            for one, nbytes in self._printed.items():
                self._tell(OutputPrinted(one, nbytes))
            self._printed.clear()

    def _write(self, text: str, is_error: bool) -> None:
        for piece in pieces_of(text, PIECE_CHARS):
            if self._has_room(is_error):
                write(piece, is_error)

    def _has_room(self, is_error: bool) -> bool:
        """Wait until the stream takes more; False if the session is over before that.

        A write that stood still would keep the stream's lock, and the interpreter from its end.
        """
        try:
            descriptor = (sys.stderr if is_error else sys.stdout).fileno()
        except (AttributeError, OSError, ValueError):  # a notebook's, or none
            return not self._has_given_up
        poll = select.poll()
        poll.register(descriptor, select.POLLOUT)
        while not self._has_given_up:
            if poll.poll(LOOK_MS):
                return True
        return False


def pieces_of(text: str, size: int) -> list[str]:
    """Whole lines, as many together as have that size."""
    pieces: list[str] = []
    at = 0
    while at < len(text):
        cut = text.rfind("\n", at, at + size) + 1 or text.find("\n", at) + 1 or len(text)
        pieces.append(text[at:cut])
        at = cut
    return pieces


def write(text: str, is_error: bool) -> None:
    """To the stream of that kind as it is now; one that is closed or gone takes nothing."""
    stream = sys.stderr if is_error else sys.stdout
    if not text or stream is None:
        return
    with contextlib.suppress(OSError, ValueError):  # the user's own prints will say so
        try:
            stream.write(text)
        except UnicodeEncodeError:
            encoding = stream.encoding or "ascii"
            stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        stream.flush()


def notice(node: Address, omitted: int, logs: str) -> str:
    """What is said instead of lines; ``logs`` is where they are, if that is on this machine."""
    lines = "1 line" if omitted == 1 else f"{omitted:,} lines"
    where = logs or f"the logs of {brief('n', incarnation_of(node))}"
    return f"(fabric) {lines} of output left out here; everything is in {where}\n"


def prefixed(node: Address, message: OutputWritten) -> str:
    """The lines, each with ``(name node/pid)`` before it."""
    where = brief("n", incarnation_of(node))
    prefix = f"({printable(message.name) or NAMELESS} {where}/{message.pid}) "
    lines = message.text.decode(errors="backslashreplace").split("\n")
    return "".join([f"{prefix}{printable(line)}\n" for line in lines[:-1]])


def printable(line: str) -> str:
    """As a terminal would show it at last: colours stay, other control characters are spelled."""
    if line.isprintable():
        return line
    line = line.rstrip("\r").rpartition("\r")[2]  # what a progress bar drew over is gone
    shown = CONTROLS.sub(lambda found: found[1] or f"\\x{ord(found[0]):02x}", line)
    return shown + COLOUR_OFF if "\x1b" in shown else shown
