"""A client's questions to its node and, through it, to the control store.

A part of the client. Questions for the same thing travel once; the answer goes to all who asked.
"""

from fabric.core.effects import Effect, Reply, Send
from fabric.core.events import Ask
from fabric.ids import Address
from fabric.protocol.cluster import View
from fabric.protocol.messages import FlushOutput, FunctionFound, GetFunction, NamedActor
from fabric.protocol.values import Failure


class Asks:
    """See the module."""

    def __init__(self, node: Address) -> None:
        self.node = node
        self.open: dict[bytes, list[bytes]] = {}  # key of the expected answer → requests
        self.lost: Failure | None = None  # the node is gone

    def on_ask(self, source: Address, message: Ask, now: float) -> list[Effect]:
        """A question to the node or the control store."""
        if self.lost is not None:
            return [Reply(message.request, self.lost)]
        asked = message.message
        key = asked.function if type(asked) is GetFunction else message.request
        requests = self.open.setdefault(key, [])
        requests.append(message.request)
        return [Send(self.node, asked)] if len(requests) == 1 else []

    def on_answer(
        self,
        source: Address,
        message: NamedActor | FunctionFound | View | FlushOutput,
        now: float,
    ) -> list[Effect]:
        """Its answer."""
        key = message.function if isinstance(message, FunctionFound) else message.request
        return [Reply(request, message) for request in self.open.pop(key, [])]

    def node_lost(self, failure: Failure) -> list[Effect]:
        """No answer will come."""
        self.lost = failure
        asked, self.open = self.open, {}
        return [Reply(request, failure) for requests in asked.values() for request in requests]
