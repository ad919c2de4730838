"""What a worker knows of being an actor: for life, and which number each caller's next call has.

A part of the worker. Calls of one caller run in the order of their numbers, whatever order they
come in; between callers there is no order.
"""

from fabric.core.effects import Run
from fabric.ids import Address
from fabric.protocol.messages import StartActor


class ActorLife:
    """The spec, and each caller's next number."""

    def __init__(self, start: StartActor) -> None:
        self.start = start
        self.is_begun = False  # the constructor was asked for
        self.is_made = False
        self.expected: dict[Address, int] = {}
        self.early: dict[Address, dict[int, Run]] = {}

    def in_order(self, run: Run) -> list[Run]:
        """The calls that may be queued now that this one has come, by its caller's numbers."""
        number, caller = run.call.number, run.caller
        expected = self.expected.get(caller, 0)
        if number < expected:
            return []
        early = self.early.setdefault(caller, {})
        early[number] = run
        ready: list[Run] = []
        while expected in early:
            ready.append(early.pop(expected))
            expected += 1
        self.expected[caller] = expected
        return ready

    def forget(self, caller: Address) -> None:
        """That caller is gone."""
        self.expected.pop(caller, None)
        self.early.pop(caller, None)
