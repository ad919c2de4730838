"""The journal on real files: what it acknowledged is found again, what it cannot keep is said."""

import os
import select
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from fabric.exceptions import (
    AlreadyRunningError,
    ClusterError,
    ConfigError,
    VersionMismatchError,
)
from fabric.ids import FunctionId
from fabric.protocol.records import TABLES, EpochRecord, FunctionRecord, NodeRecord
from fabric.runtime import journal as module
from fabric.runtime.journal import Journal, Rows
from tests.control_words import CLUSTER, COUNTER, N1, alive, node_view, record

PATIENCE_S = 20.0


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "journal.db")


@pytest.fixture
def journal(path: str) -> Iterator[Journal]:
    opened = Journal(path, is_synced=True)
    yield opened
    opened.close()


def wait_for(journal: Journal, number: int) -> None:
    """Until that commit is durable."""
    while journal.finished() < number:
        assert select.select([journal.fileno()], [], [], PATIENCE_S)[0], "no answer"


def function(number: int, nbytes: int = 10) -> tuple[str, bytes, FunctionRecord]:
    key = FunctionId(number.to_bytes(8, "big"))
    return "functions", key, FunctionRecord(key, "f", bytes(nbytes))


def reopened(path: str) -> dict[str, dict[bytes, object]]:
    again = Journal(path, is_synced=True)
    try:
        return {table: dict(rows) for table, rows in again.load().items() if rows}
    finally:
        again.close()


# -- keeping


def test_a_new_journal_has_every_table_and_no_row(journal: Journal) -> None:
    assert journal.load() == {table: {} for table in TABLES}
    assert journal.commit_seq == 0


def test_what_was_committed_is_found_by_the_next_one(path: str) -> None:
    first = Journal(path, is_synced=True)
    rows: Rows = [
        ("meta", b"epoch", EpochRecord(CLUSTER, 3)),
        ("nodes", N1, NodeRecord(node_view())),
        ("actors", COUNTER.actor_id, record(COUNTER, alive())),
        function(1),
    ]
    first.commit(1, rows)
    wait_for(first, 1)
    first.close()
    assert reopened(path) == {table: {key: kept} for table, key, kept in rows}


def test_the_newest_image_counts_and_nothing_deletes(path: str) -> None:
    first = Journal(path, is_synced=False)
    epoch = ("meta", b"epoch", EpochRecord(CLUSTER, 1))
    first.commit(1, [epoch, function(1), function(2)])
    first.commit(2, [("functions", function(1)[1], None), function(2, nbytes=99)])
    wait_for(first, 2)
    first.close()
    key = function(2)[1]
    assert reopened(path) == {
        "meta": {b"epoch": epoch[2]},
        "functions": {key: FunctionRecord(FunctionId(key), "f", bytes(99))},
    }


def test_commits_that_wait_are_one_transaction(path: str) -> None:
    opened = Journal(path, is_synced=True)
    for number in range(1, 501):
        opened._waiting.put((number, [function(number)]))  # before there is a thread to take them
    opened.commit(501, [function(501)])
    wait_for(opened, 501)
    assert opened.commit_seq == 1
    opened.close()
    assert len(reopened(path)["functions"]) == 501


def test_an_empty_commit_is_done_in_its_turn_and_writes_nothing(journal: Journal) -> None:
    journal.commit(1, [function(1)])
    wait_for(journal, 1)
    sequence = journal.commit_seq
    journal.commit(2, [])
    wait_for(journal, 2)
    assert journal.commit_seq == sequence


def test_the_commit_sequence_goes_on_where_it_was(path: str) -> None:
    for expected in (1, 2, 3):
        opened = Journal(path, is_synced=True)
        opened.commit(1, [function(expected)])
        wait_for(opened, 1)
        assert opened.commit_seq == expected
        opened.close()


def test_the_log_is_written_back_before_it_grows_large(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WAL_BYTES_MAX", 50_000)
    opened = Journal(path, is_synced=False)
    for number in range(1, 101):
        opened.commit(number, [function(number, nbytes=5_000)])
        wait_for(opened, number)
    opened.commit(101, [])
    wait_for(opened, 101)
    assert os.stat(path + "-wal").st_size < 100_000
    opened.close()
    assert len(reopened(path)["functions"]) == 100


def test_a_closed_journal_leaves_no_thread_and_no_log(path: str) -> None:
    opened = Journal(path, is_synced=True)
    opened.commit(1, [function(1)])
    opened.close()
    assert "fabric-journal" not in [thread.name for thread in threading.enumerate()]
    assert sorted(os.listdir(os.path.dirname(path))) == ["journal.db", "journal.db.lock"]
    assert list(reopened(path)) == ["functions"]


# -- dying


@pytest.mark.system
@pytest.mark.parametrize("synced", ["synced", "unsynced"])
def test_whatever_was_acknowledged_before_a_kill_is_found_after_it(path: str, synced: str) -> None:
    acknowledged = 0
    for _ in range(3):
        child = _child(path, synced)
        assert child.stdout is not None
        for _ in range(5):
            acknowledged = int(child.stdout.readline())
        child.kill()
        rest = child.stdout.read().split()
        child.wait()
        child.stdout.close()
        acknowledged = int(rest[-1]) if rest else acknowledged
        found = reopened(path)["functions"]
        numbers = [int.from_bytes(key, "big") for key in found]
        assert numbers == list(range(1, len(numbers) + 1))
        assert len(numbers) >= acknowledged


@pytest.mark.system
def test_a_disk_that_refuses_ends_the_acknowledgements_and_loses_none(path: str) -> None:
    child = _child(path, "synced", file_bytes_max=200_000)
    assert child.stdout is not None
    lines = child.stdout.read().splitlines()
    child.stdout.close()
    assert child.wait() == 1
    assert "cannot" in lines[-1]
    assert "journal.db" in lines[-1]
    assert len(reopened(path)["functions"]) >= int(lines[-2])


def _child(path: str, synced: str, file_bytes_max: int = 0) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.journal_child", path, synced, str(file_bytes_max)],
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_full_disk_is_reported_once_by_its_name(journal: Journal) -> None:
    pages = journal._connection.execute("PRAGMA page_count").fetchone()[0]
    journal._connection.execute(f"PRAGMA max_page_count = {pages}")
    journal.commit(1, [function(1, nbytes=1_000_000)])
    assert select.select([journal.fileno()], [], [], PATIENCE_S)[0]
    with pytest.raises(ClusterError, match="cannot grow: database or disk is full") as caught:
        journal.finished()
    assert caught.value.code == "FAB-606"
    journal.commit(2, [])
    assert journal.finished() == 0


def test_a_row_for_no_table_is_the_callers_error_and_is_not_swallowed(journal: Journal) -> None:
    journal.commit(1, [("poems", b"key", EpochRecord(CLUSTER, 1))])
    assert select.select([journal.fileno()], [], [], PATIENCE_S)[0]
    with pytest.raises(KeyError, match="poems"):
        journal.finished()


# -- opening


def test_a_second_journal_at_the_same_path_is_refused_with_the_holder(path: str) -> None:
    first = Journal(path, is_synced=True)
    with pytest.raises(AlreadyRunningError, match=f"pid {os.getpid()} since 20.*holds the lock"):
        Journal(path, is_synced=True)
    first.close()
    Journal(path, is_synced=True).close()


def test_no_other_program_can_hold_the_database_open_meanwhile(path: str, journal: Journal) -> None:
    reader = sqlite3.connect(path, timeout=0)
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        reader.execute("SELECT * FROM nodes")
    reader.close()


def test_a_network_file_system_is_refused_with_the_option_that_helps(
    path: str, tmp_path: Path
) -> None:
    mounts = tmp_path / "mounts"
    real = os.path.realpath(tmp_path)
    mounts.write_text(f"/dev/sda / ext4 rw 0 0\nfiler:/home {real} nfs4 rw 0 0\n")
    with pytest.raises(ConfigError, match="nfs4") as caught:
        Journal(path, is_synced=True, mounts=str(mounts))
    assert "--state-dir" in caught.value.advice
    mounts.write_text(f"filer:/ / nfs4 rw 0 0\n/dev/sda {real} ext4 rw 0 0\n")
    Journal(path, is_synced=True, mounts=str(mounts)).close()


def test_a_database_of_a_newer_fabric_is_refused(path: str) -> None:
    Journal(path, is_synced=True).close()
    _execute(path, "PRAGMA user_version = 99")
    with pytest.raises(VersionMismatchError, match="schema 99 of a newer fabric"):
        Journal(path, is_synced=True)


def test_an_older_database_is_copied_and_then_migrated(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = Journal(path, is_synced=True)
    older.commit(1, [function(1)])
    older.close()
    added = ("CREATE TABLE groups (key BLOB PRIMARY KEY, record BLOB NOT NULL)",)
    monkeypatch.setattr(module, "MIGRATIONS", (*module.MIGRATIONS, added))
    assert list(reopened(path)) == ["functions"]
    assert _execute(path, "SELECT count(*) FROM groups") == 0
    assert _execute(path, "PRAGMA user_version") == 2
    assert _execute(path + ".v1.backup", "PRAGMA user_version") == 1
    assert _execute(path + ".v1.backup", "SELECT count(*) FROM functions") == 1


def test_a_damaged_database_is_refused_with_the_way_back(path: str) -> None:
    opened = Journal(path, is_synced=True)
    opened.commit(1, [function(number) for number in range(1, 2_000)])
    opened.close()
    with open(path, "r+b") as file:
        file.seek(0, os.SEEK_END)
        file.truncate(file.tell() // 2)
    with pytest.raises(ClusterError, match="is damaged") as caught:
        Journal(path, is_synced=True)
    assert ".backup" in caught.value.advice


@pytest.mark.parametrize("content", [b"not a database at all, but long enough to look" * 30])
def test_a_file_that_is_no_database_is_refused(path: str, content: bytes) -> None:
    Path(path).write_bytes(content)
    with pytest.raises(ClusterError, match="damaged"):
        Journal(path, is_synced=True)


def test_a_database_of_somebody_else_is_left_alone(path: str) -> None:
    _execute(path, "CREATE TABLE recipes (name TEXT)")
    with pytest.raises(ConfigError, match="no control store's"):
        Journal(path, is_synced=True)
    assert _execute(path, "SELECT count(*) FROM sqlite_master") == 1


def test_a_record_that_cannot_be_read_is_damage(path: str) -> None:
    Journal(path, is_synced=True).close()
    _execute(path, "INSERT INTO meta VALUES (x'00', x'ff')")
    opened = Journal(path, is_synced=True)
    with pytest.raises(ClusterError, match="damaged"):
        opened.load()
    opened.close()


def _execute(path: str, statement: str) -> object:
    connection = sqlite3.connect(path)
    try:
        with connection:
            row = connection.execute(statement).fetchone()
            return row and row[0]
    finally:
        connection.close()
