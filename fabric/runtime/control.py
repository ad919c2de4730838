"""The control store's process: the loop around `ControlMachine`, and its journal.

It loads the journal, begins a new epoch, and serves. A commit goes to the journal's thread; what
waits for it is said when that thread reports it durable. If the journal fails, this process ends
with the reason, and says nothing more. It decides nothing.
"""

import logging
import os
import random
import signal
import time
from types import FrameType

from fabric.core.control.control import ControlMachine
from fabric.core.effects import Commit, Effect
from fabric.core.endpoint import Endpoint
from fabric.protocol.records import EpochRecord
from fabric.runtime import sockets
from fabric.runtime.journal import Journal
from fabric.runtime.loop import Loop
from fabric.runtime.poke import Poke
from fabric.runtime.settings import FabricSettings

TURN_S_MAX = 3600.0
CLOSE_LINGER_S = 0.1
EPOCH_KEY = b"epoch"

log = logging.getLogger("fabric.control")


class ControlProcess:
    """The shell of one control store."""

    def __init__(self, settings: FabricSettings) -> None:
        self.is_ending = False
        self.commits = 0
        self.journal = Journal(settings.journal_path, settings.is_synced)
        tables = self.journal.load()
        last = tables["meta"].get(EPOCH_KEY)
        machine = ControlMachine(
            last.epoch + 1 if isinstance(last, EpochRecord) else 1,
            settings.cluster,
            tables,
            settings.limits,
            time.monotonic(),
            random.Random(os.urandom(16)),
        )
        self.context = sockets.new_context()
        self.loop = Loop(
            Endpoint(settings.control, machine, cluster=settings.cluster, limits=settings.limits),
            self.context,
            settings.runtime_directory,
            clock=time.monotonic,
            perform=self.perform,
            publishes=True,
            frame_bytes_max=settings.limits.frame_bytes_max,
        )
        self.loop.watch(self.journal.fileno(), self._hear_journal)
        self.end_poke = Poke()
        self.loop.watch(self.end_poke.fd, self.end_poke.down)

    def run(self) -> None:
        """Turn until told to end."""
        signal.signal(signal.SIGTERM, self._on_sigterm)
        while not self.is_ending:
            self.loop.turn(TURN_S_MAX)

    def perform(self, effect: Effect) -> None:
        """Write; everything else is the loop's own."""
        if not isinstance(effect, Commit):
            raise TypeError(f"a control store cannot perform {effect!r}")
        self.commits += 1
        self.journal.commit(self.commits, effect.rows)

    def close(self) -> None:
        """Write what waits, and leave nothing behind."""
        self.loop.close(CLOSE_LINGER_S)
        self.context.term()
        self.journal.close()

    def _hear_journal(self) -> None:
        self.loop.committed(self.journal.finished())

    def _on_sigterm(self, number: int, frame: FrameType | None) -> None:
        self.is_ending = True
        self.end_poke.up()


def run_control(settings: FabricSettings) -> None:
    """Be the control store until told to end."""
    control = ControlProcess(settings)
    try:
        control.run()
    except Exception as error:
        log.critical("the control store ends: %s", error)
        raise
    finally:
        control.close()
