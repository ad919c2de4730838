"""A client that asks a node one question and goes: how `fabric status` sees a cluster.

It registers for nothing, so it is no driver and starts no job. It runs in the thread that calls
`visit`, with sockets of its own for as long as that takes.
"""

import math
import os
import time
from collections.abc import Mapping

from fabric.config import Limits
from fabric.core.effects import Effect, Send
from fabric.core.endpoint import Endpoint
from fabric.core.events import Event, Leave, PeerLost
from fabric.exceptions import ClusterError
from fabric.ids import Address, address, call_id
from fabric.protocol.cluster import GetView, View
from fabric.protocol.messages import AnyMessage, UnregisterClient
from fabric.runtime import sockets
from fabric.runtime.loop import Loop

LINGER_S = 0.2
"""The goodbye may take this long to leave."""


class Visitor:
    """The machine: asks for the view, notes the answer, says goodbye."""

    def __init__(self, place: Address, node: Address, limits: Limits) -> None:
        self.node = node
        self.limits = limits
        self.request = call_id(bytes.fromhex(place[2:]), 1)
        self.view: View | None = None
        self.failure = ""
        self._ask_at = -math.inf

    def handle(self, source: Address, message: AnyMessage | Event, now: float) -> list[Effect]:
        """Note what the node answers, or that it is gone."""
        if isinstance(message, View) and message.request == self.request:
            self.view = message
        elif isinstance(message, PeerLost):
            self.failure = message.reason
        elif isinstance(message, Leave):  # or the node would keep a link for nobody
            return [Send(self.node, UnregisterClient())]
        return []

    def tick(self, now: float) -> list[Effect]:
        """Ask, and ask again: the control store may be starting."""
        if self.view is not None or now < self._ask_at:
            return []
        self._ask_at = now + self.limits.request_retry_s
        return [Send(self.node, GetView(self.request))]

    def deadline(self) -> float | None:
        """When to ask again."""
        return None if self.view is not None else self._ask_at

    def check(self) -> None:
        """It has nothing that could be unsound."""

    def snapshot(self) -> Mapping[str, object]:
        """Whether it has its answer."""
        return {"is_answered": self.view is not None}


def visit(cluster: str, node: Address, directory: str, limits: Limits, patience_s: float) -> View:
    """The whole view of the cluster that this node belongs to, now."""
    place = address("c", os.urandom(8))
    visitor = Visitor(place, node, limits)
    context = sockets.new_context()
    loop = Loop(
        Endpoint(place, visitor, cluster=cluster, limits=limits),
        context,
        directory,
        clock=time.monotonic,
        perform=_perform,
        frame_bytes_max=limits.frame_bytes_max,
    )
    try:
        loop.dial(node)
        until = time.monotonic() + patience_s
        while visitor.view is None and not visitor.failure and time.monotonic() < until:
            loop.turn(until - time.monotonic())
        loop.tell(Leave())
        loop.turn(0.0)
    finally:
        loop.close(LINGER_S)
        context.destroy(linger=int(1000 * LINGER_S))
    if visitor.view is None:
        why = visitor.failure or f"it has not answered within {patience_s:g} s"
        raise ClusterError(f"The node of cluster {cluster!r} cannot be asked: {why}.")
    return visitor.view


def _perform(effect: Effect) -> None:
    raise TypeError(f"a visitor cannot perform {effect!r}")
