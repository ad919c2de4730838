"""A control store of its own: ``python -m tests.control_child``, its settings as JSON on stdin.

With a number as argument it may write no file longer than that many bytes.
"""

import resource
import signal
import sys

from fabric.runtime.control import run_control
from fabric.runtime.settings import decode_settings


def main() -> None:
    """Serve until SIGTERM."""
    if len(sys.argv) > 1:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), int(sys.argv[1])))
    run_control(decode_settings(sys.stdin.buffer.read()))


if __name__ == "__main__":
    main()
