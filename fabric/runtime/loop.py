"""The impure half of a process: hear, let the endpoint decide, perform, speak.

One `Loop` carries one `Endpoint`: it binds the machine's ROUTER, dials who must be dialed, and
turns effects into frames and calls. User threads reach it through `tell_soon`, everything else
that has a descriptor through `watch`. It keeps nothing that a link keeps: a frame that cannot be
said now is dropped, and said again by its link. It knows no message and decides nothing about
calls.

**How it waits.** One epoll holds the descriptors of all sockets, whatever their number. A ZeroMQ
descriptor is readable when libzmq has news for the socket, not when a frame waits, and any use of
the socket may swallow the news. So a socket that was used since it last answered "nothing waits"
is *touched*, and is asked again before the loop sleeps; all others cost nothing. Beside a thread
that computes, a turn costs one switch interval of Python, paid where the loop sleeps: measured,
the short `recv` and `send` have the GIL back before the other thread has woken, so sparing those
calls gains nothing, and fewer, fuller turns gain much.

**How it is woken.** `tell_soon` appends to a deque and raises an eventfd only while the loop
sleeps, and once a sleep. The loop puts out a fresh list first and looks into the deque again then;
the teller appends first and looks for the list then; so one of the two sees the other. The teller
marks the list after it has written: an interrupt in between costs a wake-up too many, and a late
mark on the list of an earlier sleep harms nobody.

**Who is gone.** A socket file is never bound twice, so where nobody listens any more nobody ever
will. Lines to nodes, control stores and clients have a monitor; when one breaks, or does not come
about for `DIAL_GRACE_S`, the kernel is asked whether the file still has a listener, and
`PeerLost` follows once every word that had arrived is heard. Workers are watched by their node,
so their lines get a monitor only to be drained: libzmq has handed over all that a dead peer wrote
before it reports the end (``docs/decisions/0002-draining-a-dead-worker.md``).
"""

import math
import os
import select
import weakref
from collections import deque
from collections.abc import Callable
from functools import partial

import zmq

from fabric.config import Limits
from fabric.core.effects import Drain, Effect, Hangup, Publish, Transmit
from fabric.core.endpoint import Endpoint
from fabric.core.events import Drained, Event, PeerLost
from fabric.exceptions import FabricError
from fabric.ids import Address
from fabric.runtime import sockets
from fabric.runtime.lines import (
    CONNECTED,
    DIALING,
    DISCONNECTED,
    Dialed,
    Line,
    Listener,
    Publisher,
    Subscription,
)
from fabric.runtime.poke import Poke

DIALS = {"c": "nwc", "w": "n", "n": "s", "s": ""}
"""Kind of machine -> the kinds it dials. Everybody else dials it, or they never talk."""

FRAMES_MAX = 1000
"""Frames heard in one turn."""
EVENTS_MAX = 1000
"""Events of other threads heard in one turn."""
READY_MAX = 64
"""Descriptors reported by one wait; the rest is reported by the next."""
DIAL_GRACE_S = 2.0
"""A dialed peer whose socket file has no listener yet may still be starting for this long."""
START_GRACE_S = 30.0
"""The same for one that was started together with us."""
DRAIN_S_MAX = 0.2
"""A dead worker counts as drained after this long, whatever libzmq says."""
DOUBT_S_MIN = 0.01
DOUBT_S_MAX = 0.5
"""A broken line whose peer still listens is looked at again after this long; it doubles."""
HANGUP_LINGER_S = 0.2
"""What was said just before a hangup may take this long to leave."""
LOST_MAX = 1000
"""Peers remembered as lost, so that nobody dials them again."""

_living: "weakref.WeakSet[Loop]" = weakref.WeakSet()


class Loop:
    """Sockets, descriptors and threads around one endpoint; one thread at a time runs it."""

    def __init__(
        self,
        endpoint: Endpoint,
        context: zmq.Context[zmq.Socket[bytes]],
        directory: str,
        *,
        clock: Callable[[], float],
        perform: Callable[[Effect], None],
        publishes: bool = False,
        frame_bytes_max: int = Limits().frame_bytes_max,
    ) -> None:
        self._endpoint = endpoint
        self._own = endpoint.address
        self._context = context
        self._directory = directory
        self._clock = clock
        self._perform = perform
        self._frame_bytes_max = frame_bytes_max
        self._custody = sockets.Custody()
        self._is_closed = False

        self._epoll = select.epoll()
        self._calls: dict[int, Callable[[], None]] = {}  # descriptor -> what to do when readable
        self._touched: list[Line] = []
        self._dialed: dict[Address, Dialed] = {}
        self._doubted: dict[Address, tuple[float, float]] = {}  # peer -> (look at, look again in)
        self._lost: dict[Address, None] = {}
        self._subscriptions: list[Subscription] = []
        self._mine: dict[type[Effect], Callable[..., None]] = {
            Hangup: self._on_hangup,
            Drain: self._on_drain,
            Publish: self._on_publish,
        }

        self._now = clock()
        self._frames_left = FRAMES_MAX
        self._has_slept = False
        self._has_spoken = False  # a machine may have something to say before it hears anything
        self._told: deque[Event] = deque()
        self._durable: deque[int] = deque()
        self._effects: list[Effect] = []
        self._sleep: list[bool] | None = None  # of the present sleep; not empty: it was ended
        poke = Poke()
        self._wake: Callable[[], None] = poke.up
        self.watch(poke.fd, poke.down)

        self._listener = Listener(
            sockets.listen(context, directory, self._own, frame_bytes_max), endpoint.hear
        )
        self._attend(self._listener)
        self._publisher: Publisher | None = None
        if publishes:
            name = publisher_name(self._own)
            self._publisher = Publisher(sockets.publish(context, directory, name, frame_bytes_max))
        _living.add(self)

    # -- who is heard

    def dial(self, peer: Address, grace_s: float = DIAL_GRACE_S) -> None:
        """Connect to a peer, if we are not. What is said before it listens waits for it.

        If nobody listens there after ``grace_s`` it is lost.
        """
        if peer in self._dialed:
            return
        self._custody.check()
        dealer = sockets.dialer(self._context, self._own, self._frame_bytes_max)
        line = Dialed(peer, dealer, self._endpoint.hear)
        self._dialed[peer] = line
        if peer[0] != "w":
            self._monitor(line, CONNECTED | DISCONNECTED)
            self._doubted[peer] = (self._clock() + grace_s, DOUBT_S_MIN)
        sockets.connect(dealer, self._directory, peer)
        self._attend(line)

    def subscribe(self, publisher: Address, name: str = "") -> None:
        """Hear what that control store publishes, at another socket file than its own if named."""
        self._custody.check()
        name = name or publisher_name(publisher)
        socket = sockets.subscribe(self._context, self._directory, name, self._frame_bytes_max)
        subscription = Subscription(publisher, socket, self._endpoint.tell_published)
        self._subscriptions.append(subscription)
        self._attend(subscription)

    def watch(self, fd: int, on_readable: Callable[[], None]) -> None:
        """Call that in a turn whenever the descriptor is readable. It has to read it."""
        self._epoll.register(fd, select.EPOLLIN)
        self._calls[fd] = on_readable

    def unwatch(self, fd: int) -> None:
        """Call nothing any more. To be said before the descriptor is closed."""
        del self._calls[fd]
        self._epoll.unregister(fd)

    def tell(self, event: Event) -> None:
        """The machine hears that in this turn, or the next. The loop's thread only."""
        self._told.append(event)

    def tell_soon(self, event: Event) -> None:
        """The machine hears that soon. Any thread, also from `__del__`; order is kept."""
        self._told.append(event)
        sleep = self._sleep
        if sleep is not None and not sleep:
            self._wake()
            sleep.append(True)  # after the wake-up: an interrupt in between costs one too many

    @property
    def has_news(self) -> bool:
        """Something was told and not yet heard."""
        return bool(self._told)

    def wake(self) -> None:
        """The turn that sleeps now, or the next that would, does not. Any thread or signal."""
        self._wake()

    def committed(self, number: int) -> None:
        """That commit is durable: what waited for it is said in this turn, or the next."""
        self._durable.append(number)

    def take(self) -> None:
        """The calling thread runs the loop from now on; the one before has stopped."""
        self._custody.take()

    # -- the turn

    def turn(self, patience_s: float) -> None:
        """Hear all that waits, or sleep that long for it; decide; perform."""
        self._custody.check()
        self._now = self._clock()
        self._frames_left = FRAMES_MAX
        self._has_slept = False
        if self._touched:
            self._hear_touched()
        for fd, _ in self._ready(patience_s):
            call = self._calls.get(fd)
            if call is not None:  # unwatched by a call before it
                call()
        if self._doubted:
            self._look_at_doubted()
        if self._told:
            self._hear_told()
        self._speak()

    def speak(self, event: Event | None = None) -> None:
        """A turn that looks at no socket: hear what was told and that, decide, perform."""
        self._now = self._clock()
        if self._told:
            self._hear_told()
        if event is not None:
            self._endpoint.tell(event, self._now)
        self._speak()

    def _ready(self, patience_s: float) -> list[tuple[int, int]]:
        """The descriptors that are readable; sleeps if there is nothing else to do."""
        wait_s = self._wait_s(patience_s)
        if not wait_s:
            return self._epoll.poll(0, READY_MAX)
        self._sleep = []
        try:
            if self._told:  # by a thread that did not see that list yet
                wait_s = 0
            ready = self._epoll.poll(wait_s, READY_MAX)
        finally:
            self._sleep = None
        self._has_slept = True
        self._now = self._clock()
        return ready

    def _wait_s(self, patience_s: float) -> float:
        if self._told or self._durable or self._effects or self._frames_left < FRAMES_MAX:
            return 0.0
        if not self._has_spoken:
            return 0.0
        due = self._endpoint.deadline()
        wait_s = patience_s if due is None else min(patience_s, due - self._now)
        for look_at, _ in self._doubted.values():
            wait_s = min(wait_s, look_at - self._now)
        return -1.0 if wait_s == math.inf else max(wait_s, 0.0)

    def _hear_touched(self) -> None:
        touched, self._touched = self._touched, []
        for line in touched:
            line.is_touched = False
            if line.has_frames():
                self._hear(line)

    def _hear(self, line: Line) -> None:
        """Hear what waits. What wakes an idle loop is mostly one frame, so no second is asked for:
        the answer leaves first, and before it sleeps again the loop asks anyway."""
        frames_max = 1 if self._has_slept else self._frames_left
        heard = line.hear(self._now, frames_max)
        self._frames_left -= heard
        if heard == frames_max:
            self._touch(line)

    def _touch(self, line: Line) -> None:
        if not line.is_touched:
            line.is_touched = True
            self._touched.append(line)

    def _hear_told(self) -> None:
        told, tell, now = self._told, self._endpoint.tell, self._now
        for _ in range(min(len(told), EVENTS_MAX)):
            tell(told.popleft(), now)

    # -- what is said and done

    def _speak(self) -> None:
        self._has_spoken = True
        effects, self._effects = self._effects, []
        while self._durable:
            effects += self._endpoint.committed(self._durable.popleft(), self._now)
        effects += self._endpoint.turn(self._now)
        mine, perform = self._mine, self._perform
        for effect in effects:
            kind = type(effect)
            if kind is Transmit:
                self._transmit(effect.peer, effect.frame)  # type: ignore[attr-defined]
            elif kind in mine:
                mine[kind](effect)
            else:
                perform(effect)

    def _transmit(self, peer: Address, frame: bytes) -> None:
        """Say a frame, or drop it if there is no way: its link says it again when there is one."""
        if len(frame) > self._frame_bytes_max:
            raise FabricError(
                f"A frame of {len(frame)} bytes for {peer} is larger than any machine hears.",
                advice="Raise FABRIC_FRAME_BYTES_MAX everywhere, or send less at once.",
            )
        line = self._dialed.get(peer)
        if line is None and peer in self._listener:
            self._touch(self._listener)
            if self._listener.say(peer, frame):
                return
        if line is None and peer[0] in DIALS[self._own[0]] and peer not in self._lost:
            self.dial(peer)
            line = self._dialed[peer]
        if line is not None:
            self._touch(line)
            line.say(frame)

    def _on_publish(self, effect: Publish) -> None:
        assert self._publisher is not None, f"{self._own} publishes, but was made not to"
        self._publisher.say(effect.message)

    def _on_hangup(self, effect: Hangup) -> None:
        self.hangup(effect.peer)

    def _on_drain(self, effect: Drain) -> None:
        self.drain(effect.peer)

    # -- who is gone

    def drain(self, peer: Address) -> None:
        """The peer's process is dead: hear what it said before, then tell `Drained`."""
        line = self._dialed.get(peer)
        if line is None:
            self.tell(Drained(peer))
            return
        now = self._clock()
        line.drain_by = now + DRAIN_S_MAX
        if line.monitor is None:
            # libzmq redials a dead peer every few milliseconds and reports that too, so a monitor
            # made after the end learns of it all the same
            line.is_connected = True
            self._monitor(line, DISCONNECTED | DIALING)
        self._doubted[peer] = (now, DRAIN_S_MAX)

    def _look_at_doubted(self) -> None:
        due = [peer for peer, (look_at, _) in self._doubted.items() if look_at <= self._now]
        for peer in due:
            line = self._dialed[peer]
            if line.read_monitor():
                self._effects += self._endpoint.retransmit(peer, self._now)
            self._look_at(line)

    def _look_at(self, line: Dialed) -> None:
        """A line is connected, or drained, or its peer is lost, or we have to look again."""
        _, again_in_s = self._doubted.pop(line.peer)
        is_ending = not line.is_connected
        if line.drain_by is not None:
            is_ending |= line.drain_by <= self._now
        if not is_ending:
            if line.drain_by is not None:
                self._doubted[line.peer] = (line.drain_by, DRAIN_S_MAX)
            return
        if line.has_frames():
            self._hear(line)
        if line.is_touched and line.has_frames():  # more than one turn hears: the rest comes first
            self._doubted[line.peer] = (self._now, again_in_s)
        elif line.drain_by is not None:
            self._unmonitor(line)
            line.drain_by = None
            self.tell(Drained(line.peer))
        elif sockets.is_gone(sockets.file_of(self._directory, line.peer)):
            self._lose(line)
        else:
            again_in_s = min(again_in_s, DOUBT_S_MAX)
            self._doubted[line.peer] = (self._now + again_in_s, again_in_s * 2)

    def _lose(self, line: Dialed) -> None:
        reason = "its process is gone" if line.was_connected else "nobody listens at its address"
        self._lost[line.peer] = None
        if len(self._lost) > LOST_MAX:
            del self._lost[next(iter(self._lost))]
        self._end(line, 0.0)
        self._endpoint.forget(line.peer)
        self.tell(PeerLost(line.peer, reason))

    def hangup(self, peer: Address) -> None:
        """Close the line to a peer; what was just said still leaves."""
        line = self._dialed.get(peer)
        if line is not None:
            self._end(line, HANGUP_LINGER_S)
        self._listener.forget(peer)

    def close(self, linger_s: float) -> None:
        """Close everything; what was said may take that long to leave, once the context ends."""
        if self._is_closed:
            return
        self._custody.check()
        self._is_closed = True
        for line in list(self._dialed.values()):
            self._end(line, linger_s)
        for subscription in self._subscriptions:
            self._disregard(subscription)
            sockets.close(subscription.socket)
        self._disregard(self._listener)
        sockets.close(self._listener.socket, linger_s)
        sockets.remove_file(self._directory, self._own)
        if self._publisher is not None:
            sockets.close(self._publisher.socket, linger_s)
            sockets.remove_file(self._directory, publisher_name(self._own))
        self._epoll.close()
        self._calls.clear()
        self._touched.clear()
        self._mine.clear()
        self._wake = _nothing  # a teller in the midst of the real one keeps its eventfd alive

    def _end(self, line: Dialed, linger_s: float) -> None:
        del self._dialed[line.peer]
        self._doubted.pop(line.peer, None)
        self._unmonitor(line)
        self._disregard(line)
        if line.is_touched:
            self._touched.remove(line)
        sockets.close(line.socket, linger_s)

    # -- descriptors

    def _attend(self, line: Line) -> None:
        self.watch(line.socket.fileno(), partial(self._hear, line))
        self._touch(line)  # what came before the descriptor was watched

    def _disregard(self, line: Line) -> None:
        self.unwatch(line.socket.fileno())

    def _monitor(self, line: Dialed, events: int) -> None:
        monitor = line.watch(events)
        self.watch(monitor.fileno(), partial(self._doubt, line.peer))
        line.read_monitor()  # what came before the descriptor was watched

    def _unmonitor(self, line: Dialed) -> None:
        if line.monitor is not None:
            self.unwatch(line.monitor.fileno())
            line.unwatch()

    def _doubt(self, peer: Address) -> None:
        """The monitor has something to say: look in this turn."""
        _, again_in_s = self._doubted.get(peer, (0.0, DOUBT_S_MIN))
        self._doubted[peer] = (self._now, again_in_s)


def _nothing() -> None:
    """Who tells a closed loop something wakes nobody."""


def publisher_name(own: Address) -> str:
    """The name of the socket file where a control store publishes."""
    return "p-" + own[2:]


def _silence_in_child() -> None:
    """Refs that die in a forked child must not wake its parent: they share the eventfd."""
    for loop in list(_living):
        loop._sleep = None


os.register_at_fork(after_in_child=_silence_in_child)
