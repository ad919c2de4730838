"""The zygote: forks workers in milliseconds, because what they need is imported already.

The node forks it before it makes a thread or a ZeroMQ context, and talks to it over a socket pair:
a `WorkerLaunch` there, a pid or an error back. It has one thread, never a ZeroMQ context, never
numpy. Each worker is forked twice, so that it becomes the child of the node, its subreaper: the
node sees its exit status and signal. A zygote outlives a node that was killed, to kill what user
code had started. A dead zygote is replaced by exec; what it was asked and had not answered never
began, as a worker runs nothing before its birth has been reported.

Settings that only act when a program starts (``LD_PRELOAD``, ``OMP_*``) cannot be given to a forked
worker. The node must fork and restart the zygote on its main thread: parent-death signals fire when
the *thread* that is the parent ends.
"""

import atexit
import contextlib
import ctypes
import faulthandler
import functools
import gc
import importlib
import os
import signal
import socket
import subprocess
import sys
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from typing import NoReturn

import msgspec

from fabric.config import Limits
from fabric.ids import Address, Incarnation
from fabric.runtime.orphans import kill_orphans, origin_of
from fabric.runtime.stdio import flush_all, open_stdio

PR_SET_PDEATHSIG = 1
PR_SET_NAME = 15
PR_SET_CHILD_SUBREAPER = 36

PACKET_BYTES_MAX = 128 * 1024
"""The largest launch or reply; what a socket pair takes in one piece by default is larger."""

BIRTHS_AT_ONCE = 8
"""Launches that share the process in between: half the forks, and none waits for many others."""

OOM_SCORE = 500
"""As if a worker used half the memory more than it does. Anybody may raise his own."""

GO = b"go"
REPORT = msgspec.msgpack.Decoder(list[int | str])


class WorkerLaunch(msgspec.Struct, frozen=True, array_like=True):
    """Everything a worker is told before it says its first word.

    ``environment`` is added to the node's. The two paths are pipes that the node reads, or files.
    """

    incarnation: Incarnation
    node: Address
    runtime_directory: str
    cluster: str
    words_path: str
    slot: int
    stdout_path: str
    stderr_path: str
    environment: dict[str, str]
    limits: Limits


WorkerMain = Callable[[WorkerLaunch], None]
"""What a worker does with its life; `fabric.runtime.worker.main`, except in tests."""


class BirthReply(msgspec.Struct, frozen=True, array_like=True):
    """zygote -> node. That worker's pid, or why there is none."""

    worker: Incarnation
    outcome: int | str


class ZygoteSetting(msgspec.Struct, frozen=True, array_like=True):
    """node -> zygote that was started by exec. What a fork would have inherited."""

    sys_path: list[str]
    working_dir: str
    worker_main: str
    mark: str
    spared: list[int]


# ---------------------------------------------------------------------------------------- node side


class ZygoteChannel:
    """The node's end: launches go out, births come back. Belongs to the node's main thread."""

    def __init__(
        self, end: socket.socket, pid: int, worker_main: str, mark: str, spared: Sequence[int]
    ) -> None:
        self.pid = pid
        self._mark, self._spared = mark, list(spared)
        self.is_over = False
        """The zygote is gone: `restart` it."""
        self.has_answered = False
        """It has done something since it was started, so a restart is worth its while."""
        self._socket = end
        self._socket.setblocking(False)
        self._worker_main = worker_main
        self._program: subprocess.Popen[bytes] | None = None
        self._waiting: deque[bytes] = deque()  # launches that the socket has no room for yet

    def fileno(self) -> int:
        """Readable when there are replies, or the zygote is gone."""
        return self._socket.fileno()

    def start_worker(self, launch: WorkerLaunch) -> None:
        """Ask for a worker; `replies` will tell its pid."""
        packet = msgspec.msgpack.encode(launch)
        if len(packet) > PACKET_BYTES_MAX:
            raise ValueError(
                f"a worker's launch has {len(packet)} bytes and at most {PACKET_BYTES_MAX} are"
                " possible: its environment is too large"
            )
        self._waiting.append(packet)
        self._flush()

    def replies(self) -> list[tuple[Incarnation, int | str]]:
        """Births since the last time: an incarnation with its pid, or with the text of an error.

        The worker is a child of this process by then.
        """
        found: list[tuple[Incarnation, int | str]] = []
        while not self.is_over:
            try:
                packet = self._socket.recv(PACKET_BYTES_MAX)
            except BlockingIOError:
                break
            except ConnectionResetError:
                continue  # it died with launches unread; its replies can still be heard
            if not packet:
                self.is_over = True
                break
            reply = msgspec.msgpack.decode(packet, type=BirthReply)
            self.has_answered = True
            found.append((reply.worker, reply.outcome))
        self._flush()
        return found

    def restart(self) -> None:
        """Replace the zygote by exec; this process may have threads and sockets by now.

        Launches without a reply are forgotten: start them again.
        """
        self.close()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._program = subprocess.Popen(
                [sys.executable, "-m", __name__, str(theirs.fileno()), str(os.getpid())],
                cwd=_package_root(),
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
            )
        self.pid, self.is_over, self.has_answered = self._program.pid, False, False
        self._socket = ours
        self._socket.setblocking(False)
        setting = ZygoteSetting(
            sys.path, _working_dir(), self._worker_main, self._mark, self._spared
        )
        self._waiting.append(msgspec.msgpack.encode(setting))
        self._flush()

    def close(self) -> None:
        """End the zygote, and wait until its children have become ours."""
        if self.pid == 0:
            return
        os.kill(self.pid, signal.SIGKILL)  # not waited for yet, so the number is still its own
        if self._program is None:
            os.waitpid(self.pid, 0)
        else:
            self._program.wait()
        self._socket.close()
        self._waiting.clear()
        self.is_over, self.pid = True, 0

    def _flush(self) -> None:
        """Send what waits. A full socket has answers outstanding, and each leads here again."""
        while self._waiting and not self.is_over:
            try:
                self._socket.send(self._waiting[0])
            except BlockingIOError:
                return
            except (BrokenPipeError, ConnectionResetError):
                return  # `replies` will hear that it is gone
            self._waiting.popleft()


def start_zygote(
    worker_main: WorkerMain, mark: str = "", spared: Sequence[int] = ()
) -> ZygoteChannel:
    """Fork the zygote, and become the subreaper of all its workers.

    ``worker_main`` must be importable by its name, for the day the zygote has to be replaced. When
    the node has died the zygote kills what carries its ``mark`` (see `fabric.runtime.orphans`), but
    not ``spared`` processes.
    """
    check_single_thread()
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    node = os.getpid()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        _flush_stdio()  # or a worker would write it once more
        pid = os.fork()
        if pid == 0:
            _live(lambda: _serve(theirs, node, worker_main, mark, spared))
    name = f"{worker_main.__module__}:{worker_main.__qualname__}"
    return ZygoteChannel(ours, pid, name, mark, spared)


def check_single_thread() -> None:
    """Raise unless this process has one thread: a fork copies one, and the locks of all."""
    threads = len(os.listdir("/proc/self/task"))
    if threads != 1:
        raise RuntimeError(f"this process has {threads} threads and must not fork")


def prctl(option: int, argument: int | bytes) -> None:
    """The system call of that name, for this process or thread."""
    libc = ctypes.CDLL(None, use_errno=True)
    value = ctypes.c_ulong(argument) if isinstance(argument, int) else ctypes.c_char_p(argument)
    if libc.prctl(ctypes.c_int(option), value, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl({option}): {os.strerror(number)}")


def _package_root() -> str:
    """Where the package lies: the folder from which a new interpreter finds it."""
    path = os.path.abspath(__file__)
    for _ in __name__.split("."):
        path = os.path.dirname(path)
    return path


def _working_dir() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:  # somebody removed it
        return "/"


# -------------------------------------------------------------------------------------- zygote side


def main() -> NoReturn:
    """A zygote by exec: ``python -m fabric.runtime.zygote <descriptor> <pid of the node>``."""
    channel, node = socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2])

    def serve() -> None:
        setting = msgspec.msgpack.decode(channel.recv(PACKET_BYTES_MAX), type=ZygoteSetting)
        sys.path[:] = setting.sys_path
        os.chdir(setting.working_dir)
        module, name = setting.worker_main.split(":")
        worker_main = getattr(importlib.import_module(module), name)
        _serve(channel, node, worker_main, setting.mark, setting.spared)

    _live(serve)


def _live(life: Callable[[], None]) -> NoReturn:
    """What a forked process does until its end: it never returns into its parent's code."""
    status = 1
    try:
        status = _status_of(life)
        _flush_stdio()
    finally:
        os._exit(status)


def _status_of(life: Callable[[], None]) -> int:
    """Run it; the exit status that ``python`` would have, tracebacks and messages included."""
    try:
        life()
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return (end.code or 0) & 0xFF
        print(end.code, file=sys.stderr)
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _serve(
    channel: socket.socket, node: int, worker_main: WorkerMain, mark: str, spared: Sequence[int]
) -> None:
    """Fork a worker for each launch heard, until the node is gone; then end what it has left.

    In order a node ends its zygote first. So when its end of the channel is closed it was killed,
    and its workers with it; what their user code had started is nobody's, and lives.
    """
    gc.freeze()  # the collector neither copies the parent's pages nor finalises its objects
    origin = origin_of(node, mark)
    if os.getppid() != node:
        os._exit(1)
    _settle(b"fabric:zygote")
    _reset_signals()
    _close_descriptors(channel.fileno())
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        while launches := _heard(channel):
            try:
                _bring_forth(launches, channel, node, worker_main)
            except (OSError, RuntimeError) as error:
                for launch in launches:
                    _reply(channel, launch, f"the worker could not be forked: {error}")
    if origin is not None:
        kill_orphans(origin, spared)


def _heard(channel: socket.socket) -> list[WorkerLaunch]:
    """Launches that wait, at least one; none when the node is gone."""
    packets = [channel.recv(PACKET_BYTES_MAX)]
    with contextlib.suppress(BlockingIOError):  # no more of them
        while packets[-1] and len(packets) < BIRTHS_AT_ONCE:
            packets.append(channel.recv(PACKET_BYTES_MAX, socket.MSG_DONTWAIT))
    return [msgspec.msgpack.decode(packet, type=WorkerLaunch) for packet in packets if packet]


def _bring_forth(
    launches: list[WorkerLaunch], channel: socket.socket, node: int, worker_main: WorkerMain
) -> None:
    """Fork workers by way of a process that ends at once, so that they become the node's children.

    The replies precede the word to go: a worker that has left the zygote's process group is known
    to the node, and one that was not reported ends by itself, as nobody is left to say the word.
    """
    check_single_thread()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        with theirs:
            between = os.fork()
            if between == 0:
                _live(lambda: _fork_workers(launches, theirs, node, worker_main))
        os.waitpid(between, 0)
        try:
            report = ours.recv(PACKET_BYTES_MAX, socket.MSG_DONTWAIT)
        except BlockingIOError:
            raise OSError("the process in between was killed") from None
        for launch, outcome in zip(launches, REPORT.decode(report), strict=True):
            _reply(channel, launch, outcome)
        with contextlib.suppress(BrokenPipeError):  # all dead already, as the node will see
            for _ in launches:
                ours.send(GO)


def _reply(channel: socket.socket, launch: WorkerLaunch, outcome: int | str) -> None:
    channel.send(msgspec.msgpack.encode(BirthReply(launch.incarnation, outcome)))


def _fork_workers(
    launches: list[WorkerLaunch], births: socket.socket, node: int, worker_main: WorkerMain
) -> None:
    """Between zygote and workers: fork them, report their pids or errors, and end."""
    outcomes: list[int | str] = []
    for launch in launches:
        try:
            worker = os.fork()
        except OSError as error:
            outcomes.append(f"the worker could not be forked: {error}")
            continue
        if worker == 0:
            _live(functools.partial(_be_worker, launch, births, node, worker_main))
        outcomes.append(worker)
    births.send(msgspec.msgpack.encode(outcomes))


# -------------------------------------------------------------------------------------- worker side


def _be_worker(
    launch: WorkerLaunch, births: socket.socket, node: int, worker_main: WorkerMain
) -> None:
    """Become a worker: wait for the word to go, arrange this process, run ``worker_main``."""
    _close_descriptors(births.fileno())  # the other end too, or the zygote's death went unnoticed
    try:
        word = births.recv(len(GO))
    except ConnectionResetError:  # the zygote died before it had read the report
        word = b""
    if word != GO:
        sys.exit(1)
    births.close()
    _die_with(node)
    _settle(b"fabric:worker")
    # What the user's code leaves behind stays below its own worker until that ends, and only then
    # comes to the node: so the node knows that every stranger among its children may be killed.
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    _go_first_when_memory_is_short()
    _open_output(launch)
    os.environ.update(launch.environment)
    atexit._clear()  # what the node registered is the node's; `random` seeds itself after a fork
    try:
        status = _status_of(lambda: worker_main(launch))
    finally:
        atexit._run_exitfuncs()
    sys.exit(status)


def _die_with(node: int) -> None:
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != node:  # it died before it could be the death of us
        os._exit(1)


def _settle(name: bytes) -> None:
    """A process group and a name of one's own."""
    os.setpgid(0, 0)
    prctl(PR_SET_NAME, name)


def _go_first_when_memory_is_short() -> None:
    """The kernel is to end workers, and what they start, before the daemons and the driver."""
    with open("/proc/self/oom_score_adj", "r+") as file:
        score = max(int(file.read()), OOM_SCORE)
        file.seek(0)
        file.write(str(score))


def _reset_signals() -> None:
    """Ctrl-C is for the driver; the parent's Python code answers no signal; none is blocked."""
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)) or number == signal.SIGCHLD:
            signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.set_wakeup_fd(-1)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


def _close_descriptors(*kept: int) -> None:
    """Close all but the standard three and ``kept``."""
    for entry in os.listdir("/proc/self/fd"):
        if int(entry) > 2 and int(entry) not in kept:
            with contextlib.suppress(OSError):  # the descriptor of the listing is closed already
                os.close(int(entry))


def _open_output(launch: WorkerLaunch) -> None:
    """Standard output and error go where the node wants them, also from C and children."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
    null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    output = os.open(launch.stdout_path, flags, 0o600)
    errors = os.open(launch.stderr_path, flags, 0o600)
    for number, opened in enumerate((null, output, errors)):
        os.dup2(opened, number)
        os.close(opened)
    sys.stdin = os.fdopen(0, closefd=False)
    open_stdio()
    faulthandler.enable(file=2, all_threads=False)


def _flush_stdio() -> None:
    flush_all()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # full, closed, or None
            stream.flush()


if __name__ == "__main__":
    # under its own name: what workers import must be the same classes as what the zygote uses
    from fabric.runtime.zygote import main as main_of_module

    main_of_module()
