"""The control store of the model: what its journal has written survives it.

It comes back from that under a new epoch; some of what was not synced may have reached the disk.
"""

from random import Random
from typing import Any

import msgspec

from fabric.core.control.control import ControlMachine
from fabric.core.effects import Commit, Effect, Publish
from fabric.ids import Address, address
from fabric.protocol.records import EpochRecord, Record
from tests.sim.processes import SimProcess
from tests.sim.shells import Shell

Tables = dict[str, dict[bytes, Record]]


class Control(Shell):
    """A control machine and its journal."""

    def __init__(self, process: "ControlProcess", machine: ControlMachine, place: Address) -> None:
        self.home = process
        self.commits = 0
        super().__init__(process, place, machine)

    def perform(self, effect: Effect) -> None:
        """Write and publish."""
        if isinstance(effect, Commit):
            self.commits += 1
            self.home.commit(effect.rows)
        elif isinstance(effect, Publish):
            node = self.simulation.node.shell
            message = effect.message
            self.network.publish([node], lambda party: node.hear_published(message, self.address))
        else:
            super().perform(effect)


class ControlProcess(SimProcess):
    """The control store: what is written survives it."""

    def __init__(self, simulation: Any, tables: Tables) -> None:
        super().__init__(simulation, simulation.incarnation())
        self.tables = tables
        self.journal: list[Any] = []  # not written yet
        self.durable = 0
        self.is_writing = False
        last = tables.get("meta", {}).get(b"epoch")
        epoch = last.epoch + 1 if isinstance(last, EpochRecord) else 1
        machine = ControlMachine(
            epoch,
            "sim",
            tables,
            simulation.limits,
            self.world.now + self.offset_s,
            Random(self.world.random.random()),
        )
        self.address = address("s", self.me)
        self.shell = Control(self, machine, self.address)

    def commit(self, rows: Any) -> None:
        """Write that; what comes meanwhile is the next group."""
        self.journal.append(rows)
        if not self.is_writing:
            self._write()

    def _write(self) -> None:
        self.is_writing = True
        delay_s = self.world.delay(self.world.draw.commit_s)
        self.world.after(delay_s, self._written, len(self.journal))

    def _written(self, count: int) -> None:
        if not self.is_alive:
            return
        self._apply(count)
        self.shell.committed(self.durable)
        self.is_writing = False
        if self.journal:
            self._write()

    def _apply(self, count: int) -> None:
        for rows in self.journal[:count]:
            self.durable += 1
            for table, key, record in rows:
                if record is None:
                    self.tables.setdefault(table, {}).pop(key, None)
                else:
                    copy = msgspec.msgpack.decode(msgspec.msgpack.encode(record), type=type(record))
                    self.tables.setdefault(table, {})[key] = copy
        del self.journal[:count]

    def on_end(self, is_orderly: bool) -> None:
        """Some of what was not synced may have reached the disk; then another takes over."""
        self._apply(self.world.random.randint(0, len(self.journal)))
        self.world.after(self.world.delay(0.05), self.simulation.restart_control, self.tables)
