"""The control store's journal: its tables in SQLite, so that they outlive its process.

One thread owns the one connection, for writing and for checkpoints: it takes every commit that
waits, makes them one transaction, and only then says so (`fileno` becomes readable, `finished` has
the number). The connection locks the database for itself, which also keeps other programs from
holding a snapshot open; a lock file held for life says who has it. A commit that fails is the last
one: the failure is reported once and nothing is acknowledged any more, because what a disk that
refused a write has kept is not known. What the rows mean is not known here.
"""

import contextlib
import fcntl
import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Sequence
from queue import Empty, SimpleQueue

import msgspec

from fabric.exceptions import (
    AlreadyRunningError,
    ClusterError,
    ConfigError,
    ControlStoreFullError,
    VersionMismatchError,
)
from fabric.protocol.records import TABLES, Record

Rows = Sequence[tuple[str, bytes, Record | None]]

APPLICATION = 0x66616272
"""SQLite's application id of a journal: ``fabr``."""

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        "CREATE TABLE meta (key BLOB PRIMARY KEY, record BLOB NOT NULL)",
        "CREATE TABLE nodes (key BLOB PRIMARY KEY, record BLOB NOT NULL)",
        "CREATE TABLE actors (key BLOB PRIMARY KEY, record BLOB NOT NULL)",
        "CREATE TABLE jobs (key BLOB PRIMARY KEY, record BLOB NOT NULL)",
        "CREATE TABLE functions (key BLOB PRIMARY KEY, record BLOB NOT NULL)",
        "CREATE TABLE journal (one INTEGER PRIMARY KEY CHECK (one = 1), commit_seq INTEGER)",
        "INSERT INTO journal VALUES (1, 0)",
    ),
)
"""What leads from each schema version (`PRAGMA user_version`) to the next; never changed, only
added to."""

WAL_BYTES_MAX = 8 * 1024 * 1024
"""A write-ahead log longer than this is written back into the database."""

NETWORKS = (
    *("nfs", "cifs", "smb", "afs", "ceph", "gluster", "lustre", "gpfs", "beegfs"),
    *("fuse.sshfs", "fuse.gluster", "fuse.ceph", "fuse.s3", "fuse.gcs"),
)
"""How the names of file systems begin that are kept elsewhere."""


class Journal:
    """The database at a path, opened, checked and locked; see the module."""

    def __init__(self, path: str, is_synced: bool, *, mounts: str = "/proc/self/mounts") -> None:
        self.path = os.path.abspath(path)
        self.is_synced = is_synced
        self.commit_seq = 0
        _refuse_network(self.path, mounts)
        self._lock = _take_lock(self.path + ".lock")
        try:
            self._connection = self._open()
        except BaseException:
            os.close(self._lock)
            raise
        self._event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._waiting: SimpleQueue[tuple[int, Rows] | None] = SimpleQueue()
        self._finished = 0
        self._failure: Exception | None = None
        self._encode = msgspec.msgpack.Encoder().encode
        self._thread: threading.Thread | None = None

    # the loop's thread

    def load(self) -> dict[str, dict[bytes, Record]]:
        """Every table as it was committed last. Before the first `commit`."""
        if self._thread is not None:
            raise RuntimeError("the journal's thread has the connection already")
        tables: dict[str, dict[bytes, Record]] = {}
        try:
            for name, kind in TABLES.items():
                decode = msgspec.msgpack.Decoder(kind).decode
                found = self._connection.execute(f"SELECT key, record FROM {name} ORDER BY rowid")
                tables[name] = {key: decode(record) for key, record in found}
        except (msgspec.DecodeError, sqlite3.Error) as error:
            raise _damaged(self.path, str(error)) from error
        return tables

    def commit(self, number: int, rows: Rows) -> None:
        """Make them durable; `finished` will be at least that number then. Numbers grow."""
        self._waiting.put((number, rows))
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="fabric-journal", daemon=True)
            self._thread.start()

    def fileno(self) -> int:
        """Readable when `finished` has news."""
        return self._event

    def finished(self) -> int:
        """The highest number that is durable. Raises, once, why no more will be."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._event)
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure
        return self._finished

    def close(self) -> None:
        """Finish what waits, write the log back, let go of the lock."""
        if self._thread is not None:
            self._waiting.put(None)
            self._thread.join()
        self._connection.close()
        os.close(self._event)
        os.close(self._lock)

    # the journal's thread

    def _run(self) -> None:
        try:
            while self._write_group():
                if self._wal_bytes() > WAL_BYTES_MAX:
                    self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except Exception as error:
            # whatever it is, nothing is durable from here on: the loop's thread must hear of it
            is_disk = isinstance(error, sqlite3.Error)
            self._failure = _refused(self.path, error) if is_disk else error
            os.eventfd_write(self._event, 1)

    def _write_group(self) -> bool:
        """One transaction for all that waits; false at the end."""
        is_open = True
        number = 0
        images: dict[tuple[str, bytes], Record | None] = {}
        for commit in self._all_that_waits():
            if commit is None:
                is_open = False
            else:
                number, rows = commit
                images.update(((table, key), record) for table, key, record in rows)
        if images:
            self._write(images.items())
        if number:
            self._finished = number
            os.eventfd_write(self._event, 1)
        return is_open

    def _all_that_waits(self) -> list[tuple[int, Rows] | None]:
        found = [self._waiting.get()]
        with contextlib.suppress(Empty):
            while True:
                found.append(self._waiting.get_nowait())
        return found

    def _write(self, images: Iterable[tuple[tuple[str, bytes], Record | None]]) -> None:
        execute = self._connection.execute
        execute("BEGIN IMMEDIATE")
        for (table, key), record in images:
            if table not in TABLES:
                raise KeyError(f"the journal has no table {table!r}")
            if record is None:
                execute(f"DELETE FROM {table} WHERE key = ?", (key,))
            else:
                execute(
                    f"INSERT INTO {table} VALUES (?, ?)"
                    " ON CONFLICT (key) DO UPDATE SET record = excluded.record",
                    (key, self._encode(record)),
                )
        execute("UPDATE journal SET commit_seq = commit_seq + 1")
        execute("COMMIT")
        self.commit_seq += 1

    def _wal_bytes(self) -> int:
        try:
            return os.stat(self.path + "-wal").st_size
        except FileNotFoundError:  # nothing was written since the last checkpoint
            return 0

    # opening

    def _open(self) -> sqlite3.Connection:
        os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        connection = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
        try:
            self._prepare(connection)
        except sqlite3.OperationalError as error:
            connection.close()
            raise _refused(self.path, error) from error
        except sqlite3.DatabaseError as error:
            connection.close()
            raise _damaged(self.path, str(error)) from error
        except BaseException:
            connection.close()
            raise
        if self.is_synced:
            _sync(os.path.dirname(self.path))
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        def ask(question: str) -> object:
            return connection.execute(question).fetchone()[0]

        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        version, application = ask("PRAGMA user_version"), ask("PRAGMA application_id")
        if application not in (APPLICATION, 0) or (not application and ask(_ANY_TABLE)):
            raise ConfigError(
                f"{self.path} is a database, but no control store's.",
                advice="Give another directory with `fabric up --state-dir`.",
            )
        verdict = ask("PRAGMA quick_check(1)")
        if verdict != "ok":
            raise _damaged(self.path, str(verdict))
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA synchronous = {'FULL' if self.is_synced else 'OFF'}")
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        connection.execute(f"PRAGMA journal_size_limit = {WAL_BYTES_MAX}")
        if not isinstance(version, int):
            raise TypeError(f"user_version is {version!r}")
        self._migrate(connection, version)
        sequence = ask("SELECT commit_seq FROM journal")
        self.commit_seq = sequence if isinstance(sequence, int) else 0

    def _migrate(self, connection: sqlite3.Connection, version: int) -> None:
        """Bring an older schema up to date, after a copy of it; refuse a newer one."""
        if version > len(MIGRATIONS):
            raise VersionMismatchError(
                f"{self.path} has schema {version} of a newer fabric; this one knows up to "
                f"{len(MIGRATIONS)}.",
                advice="Install the newer fabric-compute again, or use another state directory.",
            )
        if 0 < version < len(MIGRATIONS):
            self._back_up(connection, version)
        for number, statements in enumerate(MIGRATIONS[version:], version + 1):
            connection.execute("BEGIN IMMEDIATE")
            for statement in statements:
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION}")
            connection.execute(f"PRAGMA user_version = {number}")
            connection.execute("COMMIT")

    def _back_up(self, connection: sqlite3.Connection, version: int) -> None:
        """A copy beside it, made aside and renamed; one that an earlier try made stays."""
        target = f"{self.path}.v{version}.backup"
        if os.path.exists(target):
            return
        aside = f"{target}.part"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(aside)
        connection.execute("VACUUM INTO ?", (aside,))
        _sync(aside)
        os.replace(aside, target)


_ANY_TABLE = "SELECT count(*) FROM sqlite_master"


def _refused(path: str, error: Exception) -> ClusterError:
    """What to tell the operator when SQLite could not open or write it."""
    name = getattr(error, "sqlite_errorname", type(error).__name__)
    if name == "SQLITE_FULL":
        return ControlStoreFullError(f"{path} cannot grow: {error}.")
    return ClusterError(
        f"{path} cannot be written: {error} ({name}).",
        advice="What was acknowledged is in it. Look after the disk, then start again.",
    )


def _damaged(path: str, verdict: str) -> ClusterError:
    return ClusterError(
        f"{path} is damaged: {verdict}.",
        advice=f"Put a copy back in its place ({path}.v*.backup, or your own), or move it away to"
        " begin with an empty control store.",
    )


def _sync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _take_lock(path: str) -> int:
    """Hold the lock file; the kernel lets go of it with this process."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, 100, 0).decode(errors="replace").strip()
        os.close(descriptor)
        raise AlreadyRunningError(
            f"The control store {holder or 'of another process'} holds the lock {path}.",
            advice="Use that one, end it with `fabric down`, or give another --state-dir.",
        ) from None
    os.ftruncate(descriptor, 0)
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    os.pwrite(descriptor, f"pid {os.getpid()} since {since}\n".encode(), 0)
    return descriptor


def _refuse_network(path: str, mounts: str) -> None:
    """A database needs locks that hold and writes that stay in order; no network offers both."""
    directory = os.path.realpath(os.path.dirname(path))
    kind, where = "", ""
    with open(mounts) as table:
        for line in table:
            _, mounted, system = line.split()[:3]
            mounted = mounted.replace("\\040", " ")
            is_above = directory == mounted or directory.startswith(mounted.rstrip("/") + "/")
            if is_above and len(mounted) >= len(where):
                kind, where = system, mounted
    if kind.startswith(NETWORKS):
        raise ConfigError(
            f"{directory} is on a network file system ({kind}), where the control store's database"
            " is not safe.",
            advice="Give a directory on a local disk with `fabric up --state-dir DIR`.",
        )
