"""The first process of a fabric on this machine: ``python -m fabric.runtime.boot FD``.

It imports once, forks the control store, forks the zygote, and is then the node. Both daemons start
in parallel and live in a session of their own. The settings come through the descriptor named in
argv. It has inherited the locks of its directories and removes them when it ends as it was told to,
or when its driver is gone: nobody else may be left to do it. After a failure a living driver reads
the log first.
"""

import importlib
import os
import signal
import sys

from fabric.runtime.control import run_control
from fabric.runtime.directories import remove_runtime_directory, take_over
from fabric.runtime.node import run_node
from fabric.runtime.settings import FabricSettings, read_settings
from fabric.runtime.zygote import PR_SET_CHILD_SUBREAPER, PR_SET_NAME, PR_SET_PDEATHSIG, prctl


def main() -> None:
    """Become the node of the fabric whose settings are behind the descriptor in ``argv[1]``."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    settings = read_settings(int(sys.argv[1]))
    control_pid = _fork_control(settings)
    # nothing here needs it: the zygote's workers do, and share its pages, if it is here before them
    importlib.import_module("cloudpickle")
    prctl(PR_SET_NAME, b"fabric:node")
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    is_in_order = False
    try:
        is_in_order = run_node(settings, control_pid)
    finally:
        _end_control(control_pid)
        # the parent that a process began with is its driver, unless that is dead
        if is_in_order or (settings.driver_pid and os.getppid() != settings.driver_pid):
            _remove_directories(settings)


def _remove_directories(settings: FabricSettings) -> None:
    directories = (settings.runtime_directory, settings.store_directory)
    for path, lock in zip(directories, settings.locks, strict=True):
        take_over(path, lock)
        remove_runtime_directory(path)


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
