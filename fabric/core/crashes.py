"""Crashes in words: what becomes of a worker's end on its way to who called.

The node knows how the process ended, the owner which call it was running and for which time. Both
say it here, so that it is said in the same words. The error that users see is made from the same
figures by `fabric.failures`; who is charged with a crash is not decided here.
"""

import msgspec

from fabric.protocol.values import Crash, Failure

SIGNAL_NAMES = {
    4: "SIGILL",
    6: "SIGABRT",
    7: "SIGBUS",
    8: "SIGFPE",
    9: "SIGKILL",
    11: "SIGSEGV",
    15: "SIGTERM",
}
"""Those that end processes; pure code does not ask the system."""

MB = 1_000_000


def crash_failure(crash: Crash) -> Failure:
    """The failure of what that worker was, or ran: a call if the crash names one."""
    which = f" in attempt {crash.attempt}" if crash.attempt > 1 else ""
    what = f"task `{crash.task}` crashed{which}: " if crash.task else ""
    text = f"{what}its worker {_how(crash)}"
    if crash.last_words:
        text += f"; its last words:\n{crash.last_words}"
    kind = "out_of_memory" if crash.limit else "worker_crashed"
    return Failure(kind, text, msgspec.msgpack.encode(crash))


def _how(crash: Crash) -> str:
    where = f" (pid {crash.pid} on {crash.node})" if crash.pid else ""
    if crash.limit:
        return (
            f"was ended{where} because its node ran out of memory: it used "
            f"{crash.rss / MB:,.0f} MB of {crash.limit / MB:,.0f} MB"
        )
    if crash.signal is not None:
        name = SIGNAL_NAMES.get(crash.signal)
        return f"was ended by signal {crash.signal}" + (f" ({name})" if name else "") + where
    if crash.exit_code is not None:
        return f"exited with code {crash.exit_code}{where}"
    return "could not be started" + (f": {crash.reason}" if crash.reason else "")
