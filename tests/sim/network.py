"""Lines between machines, as libzmq gives them: in order on one connection, or lost.

A line belongs to who dialed it. Frames may be late, dropped where a queue was full, or come twice;
a reset loses what is in flight in both directions without a word, though some of it may still
arrive behind what the next connection brings. What a dead process had said arrives up to some
frame. Numbers and repetition are the links' matter, not known here.
"""

from collections.abc import Callable
from typing import Protocol

from fabric.ids import Address
from tests.sim.world import Violation, World

DIALS = {"c": "nwc", "w": "n", "n": "s", "s": ""}


class Carried:
    """A frame on its way."""

    __slots__ = ("arrives_at", "frame", "is_lost")

    def __init__(self, frame: bytes, arrives_at: float) -> None:
        self.frame = frame
        self.arrives_at = arrives_at
        self.is_lost = False


class Line:
    """What one machine has dialed of another."""

    def __init__(self, dialer: Address, listener: Address) -> None:
        self.dialer = dialer
        self.listener = listener
        self.down_until = 0.0
        self.is_known = False  # the listener has heard it
        self.is_over = False
        self.flights: dict[Address, list[Carried]] = {dialer: [], listener: []}  # by speaker
        self.last_at = {dialer: 0.0, listener: 0.0}

    def other(self, place: Address) -> Address:
        """Its other end."""
        return self.listener if place == self.dialer else self.dialer


class Party(Protocol):
    """Who has an address."""

    @property
    def is_alive(self) -> bool:
        """Its process runs."""

    def hear(self, source: Address, frame: bytes) -> None:
        """A frame has arrived."""

    def lose(self, peer: Address) -> None:
        """Nobody listens there any more, and nobody will."""

    def reconnected(self, peer: Address) -> None:
        """A line that had been up is up again."""


class Network:
    """See the module."""

    def __init__(self, world: World, find: Callable[[Address], Party | None]) -> None:
        self.world = world
        self.find = find
        self.lines: dict[tuple[Address, Address], Line] = {}  # (dialer, listener)
        self.lost: dict[tuple[Address, Address], None] = {}

    # -- what machines say

    def say(self, source: Address, target: Address, frame: bytes) -> None:
        """Carry a frame, if there is a way."""
        line = self._line(source, target)
        if line is None:
            return
        world, draw = self.world, self.world.draw
        party = self.find(target)
        if world.now < line.down_until or party is None or not party.is_alive:
            return
        if world.chance(draw.drop_p):
            world.fault("drop")
            return
        arrives_at = max(world.now + world.delay(draw.delay_s), line.last_at[source])
        line.last_at[source] = arrives_at
        self._carry(line, source, Carried(frame, arrives_at))
        if world.chance(draw.duplicate_p):
            world.fault("duplicate")
            late = arrives_at + world.delay(10 * draw.delay_s)
            self._carry(line, source, Carried(frame, late))

    def _line(self, source: Address, target: Address) -> Line | None:
        line = self.lines.get((source, target))
        if line is not None:
            return line
        line = self.lines.get((target, source))
        if line is not None and line.is_known:
            return line
        if target[0] not in DIALS[source[0]] or (source, target) in self.lost:
            return None
        line = self.lines[source, target] = Line(source, target)
        party = self.find(target)
        if party is None or not party.is_alive:
            self._break(line)
        return line

    def _carry(self, line: Line, source: Address, carried: Carried) -> None:
        line.flights[source].append(carried)
        self.world.at(carried.arrives_at, self._arrive, line, source, carried)

    def _arrive(self, line: Line, source: Address, carried: Carried) -> None:
        flight = line.flights[source]
        if carried in flight:
            flight.remove(carried)
        if carried.is_lost or line.is_over:
            return
        target = line.other(source)
        if source == line.dialer:
            line.is_known = True
        party = self.find(target)
        if party is not None and party.is_alive:
            party.hear(source, carried.frame)

    def publish(self, listeners: list[Party], hear: Callable[[Party], None]) -> None:
        """To everybody who subscribed, or not."""
        world = self.world
        for party in listeners:
            if world.chance(world.draw.publish_loss_p):
                world.fault("publication lost")
                continue
            world.after(world.delay(world.draw.delay_s), hear, party)

    # -- who is gone

    def hangup(self, source: Address, target: Address) -> None:
        """That machine closes its line; what it said last still leaves.

        Who has lost its node gives up everything; all others hear a dead worker out first.
        """
        world = self.world
        for key in ((source, target), (target, source)):
            line = self.lines.pop(key, None)
            if line is None:
                continue
            party = self.find(target)
            is_dead = world.has_node and (party is None or not party.is_alive)
            if is_dead and source[0] == "c" and target[0] == "w" and self._pending(line, target):
                raise Violation(f"drain: {source} hangs up on dead {target} before hearing it out")
            for carried in line.flights[target]:
                carried.is_lost = True

    def _pending(self, line: Line, speaker: Address) -> list[Carried]:
        return [one for one in line.flights[speaker] if not one.is_lost]

    def quiet_at(self, speaker: Address, hearer: Address) -> float:
        """When all that a dead process had said to that one has arrived."""
        times = [self.world.now]
        for key in ((speaker, hearer), (hearer, speaker)):
            line = self.lines.get(key)
            if line is not None:
                times += [one.arrives_at for one in self._pending(line, speaker)]
        return max(times)

    def died(self, place: Address, is_orderly: bool) -> None:
        """Its process is gone: the last of what it said may be lost, and its dialers find out."""
        world = self.world
        for line in list(self.lines.values()):
            if place not in (line.dialer, line.listener):
                continue
            pending = self._pending(line, place)
            if pending and not is_orderly:
                first = world.random.randint(0, len(pending))
                for carried in pending[first:]:
                    carried.is_lost = True
            if line.listener == place:
                self._break(line)

    def _break(self, line: Line) -> None:
        """The dialer learns it when it has heard what had arrived; of a worker the node tells."""
        if line.listener[0] == "w":
            return
        at = self.quiet_at(line.listener, line.dialer) + self.world.delay(self.world.draw.delay_s)
        self.world.at(at, self._lose, line)

    def _lose(self, line: Line) -> None:
        if self.lines.get((line.dialer, line.listener)) is not line:
            return
        self.lost[line.dialer, line.listener] = None
        del self.lines[line.dialer, line.listener]
        line.is_over = True
        party = self.find(line.dialer)
        if party is not None and party.is_alive:
            party.lose(line.listener)

    # -- faults

    def reset(self) -> None:
        """One connection breaks and comes back."""
        world = self.world
        lines = [one for one in self.lines.values() if one.is_known]
        if not lines:
            return
        line = world.random.choice(lines)
        world.fault("reset")
        for flight in line.flights.values():
            for carried in flight:
                if carried.is_lost:
                    continue
                if world.random.random() < 0.8:
                    carried.is_lost = True
                else:
                    world.fault("reorder")
        line.down_until = world.now + world.delay(0.01)
        line.last_at = dict.fromkeys(line.last_at, world.now)
        world.at(line.down_until, self._reconnect, line)

    def _reconnect(self, line: Line) -> None:
        if self.lines.get((line.dialer, line.listener)) is not line:
            return
        dialer, listener = self.find(line.dialer), self.find(line.listener)
        if dialer is None or not dialer.is_alive or listener is None or not listener.is_alive:
            return
        if line.listener[0] != "w":  # lines to workers have no monitor
            dialer.reconnected(line.listener)
