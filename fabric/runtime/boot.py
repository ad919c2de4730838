"""The first process of a fabric on this machine: ``python -m fabric.runtime.boot FD``.

It imports once, forks the control store, forks the zygote, and is then the node. Both daemons start
in parallel and live in a session of their own. The settings come through the descriptor named in
argv.
"""

import importlib
import os
import signal
import sys

from fabric.runtime.control import run_control
from fabric.runtime.directories import remove_if_orphan
from fabric.runtime.node import run_node
from fabric.runtime.settings import FabricSettings, read_settings
from fabric.runtime.zygote import PR_SET_CHILD_SUBREAPER, PR_SET_NAME, PR_SET_PDEATHSIG, prctl


def main() -> None:
    """Become the node of the fabric whose settings are behind the descriptor in ``argv[1]``."""
    settings = read_settings(int(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    control_pid = _fork_control(settings)
    # nothing here needs it: the zygote's workers do, and share its pages, if it is here before them
    importlib.import_module("cloudpickle")
    prctl(PR_SET_NAME, b"fabric:node")
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    try:
        run_node(settings, control_pid)
    finally:
        _end_control(control_pid)
        if settings.driver_pid:  # a driver that lives has these locked, and removes them itself
            remove_if_orphan(settings.runtime_directory)
            remove_if_orphan(settings.store_directory)


def _fork_control(settings: FabricSettings) -> int:
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        prctl(PR_SET_NAME, b"fabric:control")
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() == parent:
            run_control(settings)
            status = 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stderr.flush()
        os._exit(status)


def _end_control(pid: int) -> None:
    """The node ends last: what it had to say has been committed by now."""
    try:
        os.kill(pid, signal.SIGTERM)
        os.waitpid(pid, 0)
    except (ProcessLookupError, ChildProcessError):  # it has ended before us, and was reaped
        return


if __name__ == "__main__":
    main()
