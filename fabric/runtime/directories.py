"""Where a fabric lives on this machine: runtime directory, object store, state.

A runtime directory holds sockets and shared words for one life of a fabric; a store directory holds
its segments. Both get a random name, mode 0700 and a ``lock`` file whose flock the process that
made them keeps for life: the kernel lets go of it, whatever the death, so `sweep` knows what is
nobody's. State that outlives its processes is under `fabric_home`, by host and cluster.

Nothing predictable is made in a directory that others can write, and nothing found there is
believed before its owner and mode were looked at. What lies in these directories is not known here.
"""

import contextlib
import fcntl
import logging
import os
import re
import shutil
import stat
import time
from collections.abc import Iterator

from fabric.exceptions import ConfigError

SHARED_MEMORY = "/dev/shm"
PREFIX = "fb-"
PRIVATE = "private-"
"""How the names of fabrics begin that belong to one driver."""
NAME = re.compile(PREFIX + "[0-9a-f]{8}")
ENDPOINT_BYTES = len("/w-0123456789abcdef")
PATH_BYTES_MAX = 80
"""The longest path of a socket: the kernel takes 107, and libzmq and people want room."""

NEWBORN_S = 60.0
"""An empty directory without a lock may be about to get one for this long."""

CLUSTER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

log = logging.getLogger("fabric.directories")

_locks: dict[str, int] = {}
"""Path of a directory that this process made -> descriptor of its lock."""


# ------------------------------------------------------------------------------ runtime directories


def runtime_directory(cluster: str) -> str:
    """Make the runtime directory of one node or private fabric; it is this process's until its end.

    It is in ``XDG_RUNTIME_DIR`` or, where that is missing or not ours alone, in the temporary
    directory. A temporary directory too deep for socket paths is passed over for ``/tmp``, because
    the kernel cuts those at 107 bytes.
    """
    refused = []
    for root in _roots():
        reason = _why_not(root)
        if reason is None:
            try:
                return _make_locked(root, cluster)
            except OSError as error:
                reason = str(error.strerror)
        refused.append(f"{root}: {reason}")
    raise ConfigError(
        f"there is no place for the runtime directory ({'; '.join(refused)})",
        advice="Set XDG_RUNTIME_DIR to a short path of a directory with mode 0700 that is yours.",
    )


def remove_runtime_directory(path: str) -> None:
    """Remove a runtime or store directory that this process made, and let go of its lock.

    A daemon that has inherited the lock may have removed it before.
    """
    lock = _locks.pop(path)
    _remove(path)
    os.close(lock)


def lock_of(path: str) -> int:
    """The lock's descriptor of a directory that this process made.

    A process that inherits it has the directory as well, and may be the only one that is left.
    """
    return _locks[path]


def hand_over(path: str) -> None:
    """The directory is its heirs' from now on: they have inherited `lock_of` it."""
    os.close(_locks.pop(path))


def take_over(path: str, lock: int) -> None:
    """This process has inherited the lock of that directory, and so the directory."""
    os.set_inheritable(lock, False)
    _locks[path] = lock


def _let_go_in_child() -> None:
    """A fork of the user's has no part in the directory, and must not keep it alive."""
    while _locks:
        os.close(_locks.popitem()[1])


def is_lived_in(path: str) -> bool:
    """Whether some process has that runtime or store directory; what is missing, nobody has."""
    try:
        lock = os.open(os.path.join(path, "lock"), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: two who look do not see another
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def store_directory(cluster: str, nbytes: int = 0, state: str | None = None) -> str:
    """Make the directory of the object store: in /dev/shm if ``nbytes`` fit, else beside the state.

    ``state`` is `cluster_directory` unless told otherwise. `remove_runtime_directory` removes it.
    """
    if _has_room(SHARED_MEMORY, nbytes):
        with contextlib.suppress(OSError):  # present and writable for nobody: as good as missing
            return _make_locked(SHARED_MEMORY, cluster)
    return _make_locked(state or cluster_directory(cluster), cluster)


def is_in_memory(path: str) -> bool:
    """Whether a store directory is in /dev/shm."""
    return path.startswith(SHARED_MEMORY + "/")


def sweep(*places: str) -> list[str]:
    """Remove directories of this user whose process is gone; returns what was removed.

    Looks where runtime and store directories are made, and in ``places`` (state directories).
    """
    removed = []
    for root in dict.fromkeys([*_roots(), SHARED_MEMORY, *places]):
        for path in list(_made_here(root)):
            try:
                if path not in _locks and remove_if_orphan(path):
                    removed.append(path)
            except OSError as error:  # what cannot be removed must not keep a fabric from starting
                log.warning("%s is left over and cannot be removed: %s", path, error)
    return removed


def _roots() -> list[str]:
    """Where a runtime directory may be, best first."""
    named = (os.environ.get("XDG_RUNTIME_DIR"), os.environ.get("TMPDIR"), "/tmp")
    return list(dict.fromkeys(os.path.abspath(root) for root in named if root))


def _why_not(root: str) -> str | None:
    """Why that place cannot have a runtime directory in it, or None."""
    longest = len(os.fsencode(root)) + len(f"/{PREFIX}01234567") + ENDPOINT_BYTES
    if longest > PATH_BYTES_MAX:
        return f"sockets in it would have paths of {longest} bytes, {PATH_BYTES_MAX} at most"
    try:
        found = os.stat(root)
    except OSError as error:
        return str(error.strerror)
    if found.st_uid not in (0, os.geteuid()):
        return "it belongs to another user"
    if found.st_mode & 0o022 and not found.st_mode & stat.S_ISVTX:
        return "others could replace what is in it (no sticky bit)"
    return None


def _has_room(root: str, nbytes: int) -> bool:
    try:
        room = os.statvfs(root)
    except OSError:
        return False
    return os.access(root, os.W_OK | os.X_OK) and room.f_bavail * room.f_frsize >= nbytes


# ------------------------------------------------------------------------------- locked directories


def _make_locked(root: str, cluster: str) -> str:
    """A new directory of ours with a lock held; tries again if a sweeper was faster."""
    while True:
        path = os.path.join(root, PREFIX + os.urandom(4).hex())
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            continue
        lock = _create_lock(path, f"{os.getpid()} {cluster}\n")
        if lock is not None:
            _locks[path] = lock
            return path


def _create_lock(path: str, text: str) -> int | None:
    """The descriptor of a directory's new lock; None if the directory was swept meanwhile."""
    name = os.path.join(path, "lock")
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        lock = os.open(name, flags, 0o600)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.write(lock, text.encode())
        if os.stat(name).st_ino == os.fstat(lock).st_ino:
            return lock
    except (BlockingIOError, FileNotFoundError):
        pass  # a sweeper took it for an orphan's
    os.close(lock)
    return None


def _made_here(root: str) -> Iterator[str]:
    """Directories in that place that look like ours, and are this user's."""
    try:
        entries = os.scandir(root)
    except OSError:  # no such place, or not for us
        return
    with entries:
        for entry in entries:
            if NAME.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False):
                with contextlib.suppress(FileNotFoundError):
                    found = entry.stat(follow_symlinks=False)
                    if found.st_uid == os.geteuid() and found.st_mode & 0o077 == 0:
                        yield entry.path


def remove_if_orphan(path: str) -> bool:
    """Take the lock of a directory's dead process and remove both; whether it was dead."""
    try:
        lock = os.open(os.path.join(path, "lock"), os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return _remove_if_empty(path)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _remove(path)
    except BlockingIOError:  # somebody lives there
        return False
    finally:
        os.close(lock)
    return True


def _remove_if_empty(path: str) -> bool:
    """Remove a directory whose maker died before it had a lock. What is not empty is not ours."""
    try:
        if time.time() - os.stat(path).st_mtime < NEWBORN_S:
            return False
        os.rmdir(path)
    except OSError:
        return False
    return True


def _remove(path: str) -> None:
    """Remove a directory, its lock last, so that a removal that was cut short can be taken up."""
    with contextlib.suppress(FileNotFoundError):  # another sweeper is at it
        for entry in list(os.scandir(path)):
            if entry.name == "lock":
                continue
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)
            else:
                os.unlink(entry.path)
        os.unlink(os.path.join(path, "lock"))
        os.rmdir(path)


# -------------------------------------------------------------------------------------------- state


def fabric_home() -> str:
    """``FABRIC_HOME``, else ``~/.fabric``; made with mode 0700 where it is missing."""
    home = os.path.abspath(os.environ.get("FABRIC_HOME") or os.path.expanduser("~/.fabric"))
    try:
        os.makedirs(home, 0o700, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"{home} cannot be made: {error.strerror}",
            advice="Set FABRIC_HOME to a directory that you can write.",
        ) from error
    found = os.stat(home)
    if found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise ConfigError(
            f"{home} must be yours, and writable for you only",
            advice=f"`chmod 700 {home}`, or set FABRIC_HOME to another directory.",
        )
    return home


def cluster_directory(name: str) -> str:
    """The state directory of a cluster on this host, made where it is missing."""
    if not CLUSTER_NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r} cannot be the name of a cluster: letters, digits, '.', '_', '-'"
        )
    path = private_directory(host_directory())
    return private_directory(os.path.join(path, name))


def host_directory() -> str:
    """Where the state directories of this host's clusters are. It need not exist."""
    host = re.sub(r"[^A-Za-z0-9.-]", "_", os.uname().nodename).lstrip(".") or "localhost"
    return os.path.join(fabric_home(), host)


def private_directory(path: str) -> str:
    """That directory with mode 0700, made or found so; anything else is refused."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o700)
    found = os.lstat(path)
    is_private = found.st_uid == os.geteuid() and found.st_mode & 0o077 == 0
    if not stat.S_ISDIR(found.st_mode) or not is_private:
        raise ConfigError(
            f"{path} must be a directory that is yours, with mode 0700",
            advice=f"`chmod 700 {path}`, if you trust what is in it.",
        )
    return path


os.register_at_fork(after_in_child=_let_go_in_child)
