"""A machine and its links: frames and events in, effects and frames out.

The real loop and the simulator both drive exactly this. A turn is: `hear` and `tell` all that
waits, then `turn` once, which ticks the machine and returns what is to happen, in order. Messages
for a peer become one frame where the last of them stood, so that whatever the machine wanted done
before it spoke is done before. What follows a `Commit` is held until `committed` says that it is
durable; the links' own beats never are. Nothing here touches a socket or knows what messages mean.
"""

from collections import deque
from collections.abc import Mapping

from fabric.config import Limits
from fabric.core.effects import Commit, Effect, Hangup, Publish, Send, Transmit
from fabric.core.events import SELF, Event, PeerLost
from fabric.core.link import HelloRefused, Link, LinkForgotten, Lives
from fabric.core.machine import Machine, WordError
from fabric.ids import Address
from fabric.protocol.cluster import ViewChanged
from fabric.protocol.frames import (
    ACK,
    BEAT,
    DATA,
    HEADER,
    HELLO,
    UNKNOWN,
    FrameError,
    decode_messages,
    encode_bodies,
    unpack_header,
)
from fabric.protocol.messages import AnyMessage

_NEVER = float("inf")
_SPOKEN = frozenset((Commit, Send, Hangup, Publish))
"""Effects that concern links; all others are the shell's alone."""


class Endpoint:
    """One machine with its links."""

    def __init__(self, address: Address, machine: Machine, *, cluster: str, limits: Limits) -> None:
        self.address = address
        self.machine = machine
        self._cluster = cluster
        self._limits = limits
        self._lives = Lives()
        self._links: dict[Address, Link] = {}
        self._gathered: list[Effect] = []
        self._stirred: dict[Address, Link] = {}  # heard from in this turn
        # strayed in this turn -> the link it believed in, and the newest life that we had given
        self._unknown: dict[Address, tuple[int, int]] = {}
        self._timed: dict[Address, Link] = {}  # those that have a deadline
        self._wake_at = _NEVER  # no later than the earliest of them
        self._commits = 0
        self._durable = 0
        self._held: deque[tuple[int, Effect]] = deque()  # (commit, what waits for it)
        self._held_for: dict[Address, int] = {}  # peer -> commit that its last held effect awaits
        self._gated: dict[Address, Link] = {}  # heard frames that a commit has to settle
        self._refused = 0

    # -- what comes in

    def hear(self, peer: Address, frame: bytes, now: float) -> None:
        """A frame came from that peer: hear what it says, if it is what comes next."""
        link = self._links.get(peer)
        if link is None:
            self._hear_stranger(peer, frame, now)
            return
        if link.refusal:
            return
        try:
            body = link.hear(frame, now)
            messages = () if body is None else decode_messages(body)
        except FrameError as error:
            self._end(link, error, now)
            return
        self._stirred[peer] = link
        handle = self.machine.handle
        try:
            for message in messages:
                self._gathered += handle(peer, message, now)
        except WordError as error:
            self._end(link, error, now)

    def tell(self, event: Event, now: float) -> None:
        """Something happened in this process."""
        self._gathered += self.machine.handle(SELF, event, now)

    def tell_published(self, message: ViewChanged, source: Address, now: float) -> None:
        """The control store published that; it comes outside links and may be lost."""
        self._gathered += self.machine.handle(source, message, now)

    def _hear_stranger(self, peer: Address, frame: bytes, now: float) -> None:
        """No link with that peer yet: only a proper `HELLO` makes one."""
        try:
            kind, number, _, _ = unpack_header(frame)
            if kind == HELLO:
                link = self._make_link(peer)
                try:
                    link.hear(frame, now)
                except HelloRefused as error:
                    self._end(link, error, now)
                else:
                    self._links[peer] = self._stirred[peer] = link
            elif kind in (DATA, BEAT):
                self._unknown[peer] = (number, self._lives.newest)
            elif kind not in (ACK, UNKNOWN):
                raise FrameError(f"a frame of unknown kind {kind}")
        except FrameError:
            # Garbage from nobody we know: there is no one to tell but `snapshot`.
            self._refused += 1

    def _make_link(self, peer: Address) -> Link:
        return Link(self.address, peer, self._lives, cluster=self._cluster, limits=self._limits)

    def _end(self, link: Link, error: FrameError | WordError, now: float) -> None:
        """Nothing that this peer says from here on can be trusted, or it wants to hear no more."""
        self._refused += 1
        self.forget(link.peer)
        if not isinstance(error, LinkForgotten):
            if not link.refusal:
                link.refuse(str(error))
            self._links[link.peer] = self._stirred[link.peer] = link
        self.tell(PeerLost(link.peer, str(error)), now)

    # -- the turn

    def turn(self, now: float) -> list[Effect]:
        """End the turn: everything that is to happen now, in order."""
        self._gathered += self.machine.tick(now)
        effects, self._gathered = self._gathered, []
        if self._is_quiet(effects, now):  # between two tiny calls of a worker, say
            return effects
        commit = 0
        if self._held or Commit in map(type, effects):
            effects, commit = self._hold(effects)
        stirred, self._stirred = self._stirred, {}
        for peer, link in stirred.items():
            link.settle(now, commit)
            if commit:
                self._gated[peer] = link
        is_due = now >= self._wake_at
        if is_due:
            stirred.update(self._timed)
        out = self._perform(effects, stirred, now)
        if is_due:
            self._set_wake()
        return out

    def _is_quiet(self, effects: list[Effect], now: float) -> bool:
        """Nobody was heard, nothing is to be said, and no link has anything to say by itself."""
        return not (
            self._stirred or self._unknown or self._held or now >= self._wake_at
        ) and _SPOKEN.isdisjoint(map(type, effects))

    def committed(self, number: int, now: float) -> list[Effect]:
        """That commit (counted from 1 as they appeared) and all before it are durable."""
        self._durable = max(self._durable, number)
        released: list[Effect] = []
        held = self._held
        while held and held[0][0] <= number:
            released.append(held.popleft()[1])
        if not held:
            self._held_for.clear()
        stirred = self._gated
        self._gated = {peer: link for peer, link in stirred.items() if link.committed(number, now)}
        return self._perform(released, stirred, now)

    def _hold(self, effects: list[Effect]) -> tuple[list[Effect], int]:
        """What may happen before the pending commits are durable, and the last of this turn's."""
        free: list[Effect] = []
        commit = 0
        for effect in effects:
            if isinstance(effect, Commit):
                self._commits += 1
                commit = self._commits
            elif isinstance(effect, Send | Hangup | Publish):
                peer = SELF if isinstance(effect, Publish) else effect.peer
                if commit or self._held_for.get(peer, 0) > self._durable:
                    # Behind all that is held: it would otherwise overtake within one peer.
                    gate = max(commit, self._held[-1][0] if self._held else 0)
                    self._held.append((gate, effect))
                    self._held_for[peer] = gate
                    continue
            free.append(effect)
        return free, commit

    def _perform(
        self, effects: list[Effect], stirred: Mapping[Address, Link], now: float
    ) -> list[Effect]:
        """Local effects as they stand; each peer's frames where its last message stood."""
        local: list[Effect] = []
        outbox: dict[Address, list[AnyMessage]] = {}
        places: dict[Address, int] = {}
        for effect in effects:
            if type(effect) is Send:
                peer = effect.peer
                messages = outbox.pop(peer, None)
                if messages is None:
                    messages = []
                messages.append(effect.message)
                outbox[peer] = messages  # peers stand in the order of their last message
                places[peer] = len(local)
            elif type(effect) is Hangup:
                local += self._say_goodbye(effect.peer, outbox.pop(effect.peer, []), now)
                local.append(effect)
            else:
                local.append(effect)
        out = self._answer([peer for peer in stirred if peer not in outbox], now)
        done = 0
        for peer, messages in outbox.items():
            out += local[done : places[peer]]
            done = places[peer]
            out += self._say(peer, messages, now)
        out += local[done:]
        return out

    def _answer(self, peers: list[Address], now: float) -> list[Effect]:
        """What the links themselves have to say to peers that get no message now."""
        out: list[Effect] = []
        for peer, (number, newest) in self._unknown.items():
            out.append(Transmit(peer, HEADER.pack(UNKNOWN, number, newest, 0)))
        self._unknown.clear()
        for peer in peers:
            link = self._links.get(peer)
            if link is not None:  # else the turn hung up on it
                out += self._speak(link, now)
        return out

    def _say(self, peer: Address, messages: list[AnyMessage], now: float) -> list[Effect]:
        return self._speak(self._queue(peer, messages), now)

    def _queue(self, peer: Address, messages: list[AnyMessage]) -> Link:
        link = self._links.get(peer)
        if link is None:
            link = self._links[peer] = self._make_link(peer)
        limits = self._limits
        for body in encode_bodies(messages, limits.batch_bytes_max, limits.frame_bytes_max):
            link.queue(body)
        return link

    def _speak(self, link: Link, now: float) -> list[Effect]:
        """The link's frames; also keeps its deadline in view."""
        peer = link.peer
        frames = link.speak(now)
        deadline = link.deadline()
        if deadline is None:
            self._timed.pop(peer, None)
        else:
            self._timed[peer] = link
            if deadline < self._wake_at:
                self._wake_at = deadline
        return [Transmit(peer, frame) for frame in frames]

    def _say_goodbye(self, peer: Address, messages: list[AnyMessage], now: float) -> list[Effect]:
        """The turn's messages and whatever else is unsaid; then the link is no more."""
        link = self._queue(peer, messages) if messages else self._links.get(peer)
        self._drop(peer)
        return [] if link is None else [Transmit(peer, each) for each in link.last_words(now)]

    # -- what the shell does to links

    def retransmit(self, peer: Address, now: float) -> list[Effect]:
        """The shell could not send to that peer, or has connected again: say all of it again."""
        link = self._links.get(peer)
        if link is None:
            return []
        link.repeat()
        return self._speak(link, now)

    def unacknowledged(self, peer: Address) -> tuple[AnyMessage, ...]:
        """What was said to that peer and may not have been heard, or not be durable there."""
        link = self._links.get(peer)
        bodies = [] if link is None else link.unacknowledged()
        return tuple(message for body in bodies for message in decode_messages(body))

    def forget(self, peer: Address) -> None:
        """That peer is gone: its link, and all that was still to be said to it."""
        self._drop(peer)
        self._gathered = [each for each in self._gathered if not _is_send_to(peer, each)]
        self._held = deque(each for each in self._held if not _is_send_to(peer, each[1]))
        if not self._held:
            self._held_for.clear()

    def _drop(self, peer: Address) -> None:
        self._links.pop(peer, None)
        self._stirred.pop(peer, None)
        self._unknown.pop(peer, None)
        self._timed.pop(peer, None)
        self._gated.pop(peer, None)

    # -- time and figures

    def deadline(self) -> float | None:
        """When the next turn is needed if nothing is heard before; at times a little early."""
        machine_at = self.machine.deadline()
        if not self._timed:
            return machine_at
        return self._wake_at if machine_at is None else min(machine_at, self._wake_at)

    def _set_wake(self) -> None:
        deadlines = [link.deadline() for link in self._timed.values()]
        self._wake_at = min([each for each in deadlines if each is not None], default=_NEVER)

    def check(self) -> None:
        """Raise `InvariantError` if the machine or a link is not sound."""
        self.machine.check()
        for link in self._links.values():
            link.check()

    def snapshot(self) -> Mapping[str, object]:
        """Plain figures of the links; the machine has its own."""
        return {
            "address": self.address,
            "links": {peer: link.snapshot() for peer, link in self._links.items()},
            "commits": self._commits,
            "durable": self._durable,
            "held": len(self._held),
            "refused": self._refused,
        }


def _is_send_to(peer: Address, effect: Effect) -> bool:
    return isinstance(effect, Send) and effect.peer == peer
