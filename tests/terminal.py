"""A program in the foreground of a terminal of its own, and a finger on Ctrl-C.

The terminal is a pseudo-terminal whose foreground process group is the program's, so what is typed
reaches whom a user's key would reach: the kernel sends SIGINT to the whole group. It knows nothing
of fabric.
"""

import fcntl
import os
import pty
import select
import subprocess
import termios
import time
from collections.abc import Sequence
from functools import partial
from types import TracebackType

PATIENCE_S = 40.0
"""What ends at all has ended after this long."""

CTRL_C = b"\x03"


class Terminal:
    """See the module. ``output`` is what was shown so far."""

    def __init__(self, command: Sequence[str], directory: str | os.PathLike[str] = ".") -> None:
        self.output = ""
        self._master, slave = pty.openpty()
        take_control = partial(fcntl.ioctl, slave, termios.TIOCSCTTY, 0)
        try:
            self.process = subprocess.Popen(
                command,
                stdin=slave,
                stdout=slave,
                stderr=slave,
                cwd=directory,
                start_new_session=True,
                preexec_fn=take_control,
            )
        finally:
            os.close(slave)

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._master)

    def press_ctrl_c(self) -> None:
        """As a user does; who is in the foreground hears it."""
        os.write(self._master, CTRL_C)

    def read_until(self, text: str) -> None:
        """Read until that was shown."""
        deadline = time.monotonic() + PATIENCE_S
        while text not in self.output:
            assert time.monotonic() < deadline, f"{text!r} was not shown: {self.output}"
            assert self._read(0.1), f"it ended without {text!r}: {self.output}"

    def read_for(self, seconds: float) -> None:
        """Read for that long, or until nobody is there to show anything."""
        until = time.monotonic() + seconds
        while (left_s := until - time.monotonic()) > 0 and self._read(left_s):
            pass

    def wait(self) -> int:
        """Read to the end; the program's status as `subprocess` says it."""
        deadline = time.monotonic() + PATIENCE_S
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"it does not end: {self.output}"
            self._read(0.02)
        while self._read(0.0) and select.select([self._master], [], [], 0)[0]:
            pass
        return self.process.returncode

    def _read(self, patience_s: float) -> bool:
        """Read what is shown, for at most that long; false if the terminal has lost its program."""
        if not select.select([self._master], [], [], patience_s)[0]:
            return True
        try:
            shown = os.read(self._master, 65536)
        except OSError:  # nobody has the other end open
            time.sleep(min(patience_s, 0.005))
            return False
        self.output += shown.decode(errors="replace")
        return True
