"""Running user code in the driver's own process, under the eyes of who debugs it.

The code of a worker does it; here is only what differs where the caller is on the same stack. What
is meant for the person at the keyboard, Ctrl-C and the end of a debugger, is no failure of the
call: it goes up through `remote`. What would end a worker's process ends the attempt.
"""

import bdb

from fabric.core.effects import BecomeActor, Run
from fabric.protocol.values import Failure
from fabric.runtime.execution import Execution, Outcome

DEBUGGERS = ("pdb", "bdb")


class InlineExecution(Execution):
    """See the module."""

    def __init__(self, node: str) -> None:
        super().__init__(node, "", lambda name: None)
        self.outer: BaseException | None = None  # what the caller was handling

    def attempt(self, run: Run) -> list[Outcome] | None:
        """Run that call; nothing if a worker would have ended."""
        self._begin()
        outcomes = self.run(run)
        if self.exit is None:
            return outcomes
        self._pass_on_quit(self.exit)
        return None

    def construct(self, effect: BecomeActor) -> Failure | None:
        """Make the instance; why that failed, if it did."""
        self._begin()
        failure = self.make_actor(effect)
        if self.exit is not None:
            self._pass_on_quit(self.exit)
            failure = self.crash()
        return failure

    def _begin(self) -> None:
        self.exit = None  # what the last attempt said ended no process here

    def crash(self) -> Failure:
        """What is said of a worker whose process user code has ended."""
        code = self.exit.code if self.exit is not None else None
        number = code if isinstance(code, int) else int(code is not None)
        return Failure("worker_crashed", f"its worker exited with code {number}")

    def _failure(self, error: BaseException, name: str, kind: str = "task") -> Failure:
        if isinstance(error, KeyboardInterrupt | bdb.BdbQuit):
            raise error
        _forget_context(error, self.outer)
        return super()._failure(error, name, kind)

    def _pass_on_quit(self, end: SystemExit) -> None:
        """Later versions of the debugger end a program in this way."""
        at = end.__traceback__
        while at is not None and at.tb_next is not None:
            at = at.tb_next
        if at is not None and at.tb_frame.f_globals.get("__name__") in DEBUGGERS:
            raise end


def _forget_context(error: BaseException, outer: BaseException | None) -> None:
    """In another process, the call would know nothing of what its caller was handling."""
    link: BaseException | None = error
    met: set[int] = set()
    while link is not None and id(link) not in met:
        met.add(id(link))
        if link.__context__ is outer:
            link.__context__ = None
        link = link.__context__
