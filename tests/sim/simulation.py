"""All processes of one seed, and what belongs to none: the network, the store, the checkers.

It starts them, brings a control store back and tells the node of it. When something fails is drawn
in `faults`.
"""

from fabric.core.events import ControlMoved, ProcessEnded
from fabric.ids import Address, Incarnation
from tests.sim.checkers import Checkers
from tests.sim.journals import ControlProcess, Tables
from tests.sim.network import Network
from tests.sim.processes import (
    DriverProcess,
    Node,
    NodeProcess,
    SimProcess,
)
from tests.sim.shells import Shell
from tests.sim.store import StoreFiles
from tests.sim.world import World


class Simulation:
    """All processes of one seed."""

    def __init__(self, seed: int) -> None:

        self.world = World(seed)
        self.limits = self.world.draw.limits
        self.shells: dict[Address, Shell] = {}
        self.network = Network(self.world, lambda place: self.shells.get(place))
        self.store = StoreFiles()
        self.checkers = Checkers(self)
        self._pids = 0
        self.is_over = False
        self.has_lost_clients = False
        self.control = ControlProcess(self, {})
        self.node = NodeProcess(self, self.control.address)
        self.drivers = [DriverProcess(self, number) for number in range(self.world.draw.drivers)]

    def next_pid(self) -> int:
        """A number of a process."""
        self._pids += 1
        return self._pids

    def incarnation(self) -> bytes:
        """Eight bytes that nobody has had."""
        return self.world.random.randbytes(8)

    def watch(self, client: Incarnation, node: Node) -> None:
        """Tell the node when that driver ends."""
        driver = next(one for one in self.drivers if one.me == client)
        ended = ProcessEnded(client)
        if driver.is_alive:
            driver.watchers.append(lambda: node.tell(ended))
        else:
            node.tell(ended)

    def restart_control(self, tables: Tables) -> None:
        """`fabric up` starts what is missing."""
        if self.is_over:
            return
        self.checkers.control_starts(tables)
        self.control = ControlProcess(self, tables)
        self.world.after(self.world.delay(0.01), self._control_moved, self.node.shell)

    def _control_moved(self, node: Node) -> None:
        if node.is_alive:
            unsaid = node.endpoint.unacknowledged(node.machine.control)
            node.tell(ControlMoved(self.control.address, unsaid))

    def is_finished(self) -> bool:
        """Every program that still could has come to its end."""
        return all(one.is_finished or not one.is_alive for one in self.drivers)

    def processes(self) -> list[SimProcess]:
        """Everybody alive."""
        everybody: list[SimProcess] = [
            self.control, self.node, *self.drivers, *self.node.workers.values()
        ]  # fmt: skip
        return [one for one in everybody if one.is_alive]
