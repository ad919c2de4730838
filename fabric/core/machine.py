"""The law of the core: what every machine is.

A machine hears messages and events with `handle`, ends each turn with `tick`, and answers with
effects. Nothing else changes it. Duties of the caller, in this order: hear all that waits, `tick`
once, make commits durable, then send; call `tick` again no later than `deadline`. Time is the
``now`` handed in, in seconds of a monotonic clock; chance is an injected `random.Random`.
"""

from collections.abc import Mapping
from typing import Protocol

from fabric.core.effects import Effect
from fabric.core.events import Event
from fabric.ids import Address
from fabric.protocol.messages import AnyMessage


class InvariantError(AssertionError):
    """A machine found itself in a state that must not be; the text tells the story."""


class WordError(InvariantError):
    """A peer said what cannot be, and nothing was changed: its link ends, the machine goes on."""


class Machine(Protocol):
    """A client, a worker, a node or the control store."""

    def handle(self, source: Address, message: AnyMessage | Event, now: float) -> list[Effect]:
        """Hear one message (or, from `SELF`, one event)."""

    def tick(self, now: float) -> list[Effect]:
        """End a turn: what fell due, and what was gathered during the turn."""

    def deadline(self) -> float | None:
        """When the next `tick` is needed if nothing is heard before."""

    def check(self) -> None:
        """Raise `InvariantError` if an invariant does not hold."""

    def snapshot(self) -> Mapping[str, object]:
        """Plain figures for `fabric status` and the tests."""
