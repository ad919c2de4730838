"""The inline session: a client whose calls run where they are made, in this very process.

To the user's threads it is the client of every session. What they tell it goes to no loop thread
but to `fabric.runtime.inline_fabric`, which does it at once, on the thread that says it: when
`remote` returns, the call has run and its refs have their values. Values are copied and errors wait
for `get` because the code that does so is the same; that of a worker runs the calls.

There is one turn: a thread that makes calls while another runs one waits for it. Who waits without
a limit for what cannot come while it waits is told so by `NeedsConcurrencyError`. Limits of
messages and of shared memory do not exist here.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from fabric.config import Limits
from fabric.context import running
from fabric.core.events import Leave
from fabric.exceptions import ConfigError, NeedsConcurrencyError, SessionEndedError
from fabric.ids import Address, Incarnation, ObjectId, address
from fabric.protocol.values import UNIT, Failure, JobSpec, Value
from fabric.refs import ObjectRef
from fabric.runtime.client import Client, Ref
from fabric.runtime.inline_fabric import InlineFabric
from fabric.runtime.settings import Place, resource_units
from fabric.runtime.waits import Courier, Waiting

MODE = "inline"
"""What FABRIC_MODE may say."""

logger = logging.getLogger("fabric")


class Turn:
    """Whose calls run: those of one thread, inside one another. Others wait and say so."""

    def __init__(self, patience_s: float) -> None:
        self.owner: int | None = None
        self.depth = 0
        self._patience_s = patience_s
        # re-entered also by destructors, which run anywhere
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        patience_s = self._patience_s
        while not self._lock.acquire(timeout=patience_s):
            logger.warning(
                "waiting for the thread that runs `%s`: an inline session runs one call at a time",
                running.task,
            )
            patience_s *= 2
        self.owner = threading.get_ident()
        self.depth += 1

    def __exit__(self, *_: object) -> None:
        self.depth -= 1
        if not self.depth:
            self.owner = None
        self._lock.release()

    @property
    def is_elsewhere(self) -> bool:
        """Another thread has it."""
        return self.owner not in (None, threading.get_ident())


class InlineClient(Client):
    """See the module."""

    def __init__(self, job: JobSpec, limits: Limits, units: Mapping[str, int]) -> None:
        me = Incarnation(job.job)
        place = Place(f"inline-{me[:4].hex()}", address("n", os.urandom(8)), Address(""), "", "")
        # whatever its size, a value is kept by its ref
        limits = replace(limits, inline_bytes_max=sys.maxsize)
        super().__init__(me, place, job, limits, is_driver=True)
        self.turn = Turn(limits.wait_warning_s)
        self.waits = InlineWaiting(self)
        self.blocking = InlineBlocking(self.turn)
        self.cpus = -(-units.get("CPU", 0) // UNIT)
        self.fabric = InlineFabric(self, units)

    def start(self) -> None:
        """From now on, what is told is done."""
        self.tell = self.fabric.hear
        self.registered.set()

    def close(self) -> None:
        """End the actors; refs and handles say from now on that the session is over. Idempotent."""
        if self.why_closed is not None:
            return
        self.why_closed = SessionEndedError("The session of this ref or handle is over.")
        self.fabric.hear(Leave())
        self.tell = lambda event: None
        self._fail_everything(Failure("session_ended", self.why_closed.text))

    def living(self, object_id: ObjectId) -> Ref | None:
        """The ref of that id: there is one for each object that anything here can name."""
        return self.inflight.get(object_id) or self.shared.find(object_id)

    def settle(self, object_id: ObjectId, value: Value, contained: tuple[Ref, ...]) -> None:
        """The ref has its value, and with it it keeps the refs that are inside."""
        ref = self.inflight.get(object_id)
        if ref is not None:
            ref._contained = contained
            self._resolve(object_id, value)


class InlineBlocking:
    """What becomes of waits: here they can only be for other threads."""

    def __init__(self, turn: Turn) -> None:
        self._turn = turn

    def on_blocked(self, timeout: float | None) -> None:
        """Nobody waits for ever for what cannot come."""
        if timeout is None and not self._turn.is_elsewhere:
            raise hopeless()

    def on_resumed(self) -> None:
        """Another thread brought it, or the time is up."""


class InlineWaiting(Waiting):
    """Who waits in an inline session; those who want to be called are, by who brings the value."""

    def __init__(self, client: InlineClient) -> None:
        super().__init__(client)
        self._turn = client.turn
        self._courier = InlineCourier()

    def expect_in_loop(self, ref: Ref) -> None:
        """A coroutine waits without a limit, on a thread whose calls run inside one another."""
        self.expect(ref)
        if ref._value is None and not self._turn.is_elsewhere:
            raise hopeless()

    def explain(self, pending: Iterable[ObjectRef[Any]]) -> str:
        """Why a wait goes on: its thread is not the one whose turn it is."""
        return f"another thread runs `{running.task}`, and an inline session one call at a time"


class InlineCourier(Courier):
    """Runs callbacks on the thread that brings them, one after the other, never inside another."""

    def __init__(self) -> None:
        self._due: deque[Callable[[], None]] = deque()
        self._is_at_work = False

    def call(self, job: Callable[[], None]) -> None:
        """Run it now, or after what runs now."""
        self._due.append(job)
        if self._is_at_work:
            return
        self._is_at_work = True
        try:
            while self._due:
                self._due.popleft()()
        finally:
            self._is_at_work = False

    def end(self) -> None:
        """All of them have run."""


def hopeless() -> NeedsConcurrencyError:
    """The error for a wait that would never end."""
    behind = f" of `{running.task}`, which waits here," if running.task else ""
    return NeedsConcurrencyError(
        f"What is waited for comes after the end{behind} and that comes after the wait: an inline"
        " session runs one call at a time."
    )


def new_inline_client(
    namespace: str | None,
    num_cpus: float | None,
    num_gpus: float | None,
    resources: dict[str, float],
    limits: Limits,
) -> InlineClient:
    """The client of a driver that runs its calls itself, on a machine with these resources."""
    mode = os.environ.get("FABRIC_MODE") or MODE
    if mode != MODE:
        raise ConfigError(f"FABRIC_MODE is {MODE!r} or empty, not {mode!r}.")
    from fabric.runtime.start import new_job

    return InlineClient(
        new_job(Incarnation(os.urandom(8)), namespace),
        limits,
        resource_units(num_cpus, num_gpus, resources),
    )
