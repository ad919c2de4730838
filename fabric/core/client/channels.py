"""Channels to actors: one caller's calls to one actor, in the order of submission.

A part of the client. Numbers are gapless and given at sending, so a call whose arguments are not
ready holds back those behind it, and one whose argument failed uses no number. After a restart
numbering begins anew with what policy allows to repeat.
"""

from collections import deque

from fabric.core.client.calls import PendingCall
from fabric.ids import ActorId, Address, Incarnation
from fabric.protocol.values import ActorView, Failure, Progress


class Channel:
    """What this client knows of an actor and has in flight to it."""

    def __init__(self, actor_id: ActorId) -> None:
        self.actor_id = actor_id
        self.view: ActorView | None = None
        self.queue: deque[PendingCall] = deque()
        self.cancelled = 0  # how many of those are over
        self.inflight: dict[int, PendingCall] = {}
        self.next_number = 0
        self.worker: Address | None = None  # where the calls in flight went
        self.life = 0  # the actor's incarnation they went to
        self.is_draining = False
        self.is_awaited = False  # the user's thread waits to hear that it exists

    @property
    def is_open(self) -> bool:
        """Calls may be sent to its present life."""
        view = self.view
        return view is not None and view.state == "alive" and not self.is_draining

    @property
    def is_over(self) -> bool:
        """It is dead, and what was in flight has been settled."""
        return self.view is not None and self.view.state == "dead" and not self.is_draining

    def learn(self, view: ActorView) -> bool:
        """Take in news; false if they are old."""
        if not view.is_news_to(self.view):
            return False
        self.view = view
        return True

    def must_drain(self) -> bool:
        """The life that calls were sent to is over, and its worker's last words are not heard."""
        view = self.view
        if view is None or self.worker is None or self.is_draining:
            return False
        return view.incarnation > self.life or view.state != "alive"

    def take_ready(self, calls_max: int, bytes_max: int) -> list[PendingCall]:
        """Calls for the next message, numbered; one with a failed input is left for the caller."""
        calls: list[PendingCall] = []
        if not self.is_open or self.view is None:
            return calls
        if self.life != self.view.incarnation:
            self.life = self.view.incarnation
            self.worker = self.view.worker
            self.next_number = 0
        nbytes = 0
        while self.queue and len(self.inflight) < calls_max and nbytes < bytes_max:
            call = self.queue[0]
            if call.missing or call.failure is not None or call.is_over:
                break
            self.queue.popleft()
            call.number = self.next_number
            call.lease = self.view.lease
            self.next_number += 1
            self.inflight[call.number] = call
            calls.append(call)
            nbytes += call.nbytes if call.inputs else len(call.args)
        return calls

    def sweep(self) -> None:
        """Take out what was cancelled at the front."""
        while self.cancelled and self.queue and self.queue[0].is_over:
            self.queue.popleft()
            self.cancelled -= 1

    def settle(self, me: Incarnation) -> list[tuple[PendingCall, bool]]:
        """Calls in flight to a life that ended, in number order, and whether each may have run."""
        calls, self.inflight = self.inflight, {}
        self.is_draining = False
        self.worker = None
        reached = self._reached(me)
        for call in calls.values():
            call.lease = 0
        return [(call, reached is None or number <= reached) for number, call in calls.items()]

    def reason(self) -> Failure:
        """Why a call of it fails: it is dead, or was lost under the call and comes back."""
        view = self.view
        if view is None:
            return Failure("actor_unavailable", "the actor is not known")
        if view.state == "dead":
            return view.failure or Failure("actor_died", f"the {view.class_name} is dead")
        cause = view.failure.text if view.failure else "its worker is gone"
        return Failure("actor_unavailable", f"the {view.class_name} may have run this: {cause}")

    def _reached(self, me: Incarnation) -> int | None:
        """The last number of ours that the ended life started; None if nobody knows."""
        view = self.view
        if view is None:
            return None
        # a dead actor's progress is that of its last life, any other's that of the life before
        told_of = view.incarnation if view.state == "dead" else view.incarnation - 1
        if told_of != self.life:
            return None
        mine: Progress | None = next((one for one in view.progress if one.caller == me), None)
        return -1 if mine is None else mine.number
