"""Directories are private, short, and swept when nobody lives in them."""

import fcntl
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from fabric.exceptions import ConfigError
from fabric.runtime import directories
from fabric.runtime.directories import (
    ENDPOINT_BYTES,
    PATH_BYTES_MAX,
    cluster_directory,
    fabric_home,
    hand_over,
    is_in_memory,
    is_lived_in,
    lock_of,
    remove_if_orphan,
    remove_runtime_directory,
    runtime_directory,
    store_directory,
    sweep,
)


@pytest.fixture
def root(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A short place that stands for every place a fabric would use."""
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="t-") as name:
        place = Path(name)
        (place / "memory").mkdir()
        (place / "run").mkdir(mode=0o700)
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(place / "run"))
        monkeypatch.setenv("FABRIC_HOME", str(place / "home"))
        monkeypatch.delenv("TMPDIR", raising=False)
        monkeypatch.setattr(directories, "SHARED_MEMORY", str(place / "memory"))
        yield place


def make_in_another_process(root: Path, code: str, *, and_wait: bool) -> subprocess.Popen[str]:
    """Run that code there; it prints a path and then ends without cleaning up, or waits."""
    program = (
        "import os, sys; from fabric.runtime import directories;"
        f"directories.SHARED_MEMORY = {str(root / 'memory')!r};"
        f"print(directories.{code}, flush=True);"
        f"{'sys.stdin.read();' if and_wait else ''} os._exit(0)"
    )
    return subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent.parent,
    )


def abandoned(root: Path, code: str) -> Path:
    """The directory of a process that is dead."""
    with make_in_another_process(root, code, and_wait=False) as maker:
        assert maker.stdout is not None
        return Path(maker.stdout.readline().strip())


def mode(path: Path | str) -> int:
    return stat.S_IMODE(os.lstat(path).st_mode)


# ------------------------------------------------------------------------------- runtime directory


def test_a_runtime_directory_is_private_short_and_gone_when_removed(root: Path) -> None:
    path = runtime_directory("test")
    assert Path(path).parent == root / "run"
    assert mode(path) == 0o700
    assert len(path) + ENDPOINT_BYTES <= PATH_BYTES_MAX
    assert (Path(path) / "lock").read_text() == f"{os.getpid()} test\n"
    (Path(path) / "w-0011223344556677").touch()
    (Path(path) / "logs").mkdir()
    (Path(path) / "logs" / "worker.err").touch()
    remove_runtime_directory(path)
    assert list((root / "run").iterdir()) == []


def test_several_fabrics_of_one_cluster_have_a_directory_each(root: Path) -> None:
    paths = [runtime_directory("test") for _ in range(3)]
    assert len(set(paths)) == 3
    for path in paths:
        remove_runtime_directory(path)


def test_a_place_too_deep_for_sockets_is_passed_over(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = root / ("x" * 60)
    deep.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(deep))
    monkeypatch.setenv("TMPDIR", str(deep))
    path = runtime_directory("test")
    assert Path(path).parent == Path("/tmp")
    assert list(deep.iterdir()) == []
    remove_runtime_directory(path)


@pytest.mark.parametrize("spoil", ["missing", "open to others", "a file"])
def test_a_runtime_place_that_is_no_good_is_passed_over(
    root: Path, monkeypatch: pytest.MonkeyPatch, spoil: str
) -> None:
    place = root / "bad"
    if spoil == "open to others":
        place.mkdir()
        place.chmod(0o777)
    elif spoil == "a file":
        place.touch()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(place))
    monkeypatch.setenv("TMPDIR", str(root / "run"))
    path = runtime_directory("test")
    assert Path(path).parent == root / "run"
    remove_runtime_directory(path)


def test_without_any_place_the_error_says_why_of_each(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directories, "_roots", lambda: [str(root / "none"), "/" + "x" * 60])
    with pytest.raises(ConfigError) as caught:
        runtime_directory("test")
    assert f"{root}/none: No such file or directory" in caught.value.text
    assert "paths of 92 bytes, 80 at most" in caught.value.text
    assert "XDG_RUNTIME_DIR" in caught.value.advice


# ------------------------------------------------------------------------------------------- sweep


def test_what_a_dead_process_left_is_swept_and_what_a_living_one_has_is_not(root: Path) -> None:
    dead = abandoned(root, "runtime_directory('test')")
    dead_store = abandoned(root, "store_directory('test')")
    (dead / "words").touch()
    mine = runtime_directory("test")
    with make_in_another_process(root, "runtime_directory('test')", and_wait=True) as living:
        assert living.stdout is not None
        living_path = living.stdout.readline().strip()
        assert sweep() == [str(dead), str(dead_store)]
        assert sorted(os.listdir(root / "run")) == sorted(
            map(os.path.basename, [mine, living_path])
        )
    assert sweep() == [living_path]
    remove_runtime_directory(mine)


def test_only_directories_made_by_a_fabric_are_swept(root: Path) -> None:
    run = root / "run"
    (run / "fb-00000000").mkdir(mode=0o700)  # somebody's: it has no lock
    (run / "fb-00000000" / "work").touch()
    (run / "fb-11111111").mkdir(mode=0o700)  # being made
    (run / "fb-22222222").symlink_to(root / "home")
    (run / "fb-33333333").touch()
    (run / "fb-44444444").mkdir()  # not private
    (run / "fb-44444444").chmod(0o755)
    (run / "fb-44444444" / "lock").touch()
    (run / "fb-long-name").mkdir(mode=0o700)
    (run / "fb-long-name" / "lock").touch()
    before = sorted(run.rglob("*"))
    assert sweep() == []
    assert sorted(run.rglob("*")) == before


def test_an_empty_directory_whose_maker_died_is_swept_after_a_while(root: Path) -> None:
    empty = root / "run" / "fb-00000000"
    empty.mkdir(mode=0o700)
    os.utime(empty, (0, 0))
    assert sweep() == [str(empty)]


def test_a_removal_that_was_cut_short_is_taken_up(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = abandoned(root, "runtime_directory('test')")
    for name in ("first", "second"):
        (dead / name).touch()
    real = os.unlink
    removed: list[str] = []

    def unlink_one(path: str) -> None:
        if removed:
            raise PermissionError(path)
        removed.append(path)
        real(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", unlink_one)
        assert sweep() == []
    assert len(os.listdir(dead)) == 2
    assert (dead / "lock").exists()
    assert sweep() == [str(dead)]


def test_a_link_inside_is_removed_and_not_followed(root: Path) -> None:
    dead = abandoned(root, "runtime_directory('test')")
    (root / "precious").mkdir()
    (root / "precious" / "file").touch()
    (dead / "link").symlink_to(root / "precious")
    assert sweep() == [str(dead)]
    assert (root / "precious" / "file").exists()


def test_a_directory_swept_before_it_was_locked_is_made_again(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.mkdir
    tries: list[str] = []

    def mkdir_and_lose(path: str, mode: int) -> None:
        real(path, mode)
        tries.append(path)
        if len(tries) == 1:
            os.rmdir(path)  # what a sweeper does to an old empty one

    monkeypatch.setattr(os, "mkdir", mkdir_and_lose)
    path = runtime_directory("test")
    assert path == tries[1]
    remove_runtime_directory(path)


# --------------------------------------------------------------------------------- store and state


def test_the_store_is_in_shared_memory_where_there_is_room(root: Path) -> None:
    path = store_directory("test", 1024)
    assert Path(path).parent == root / "memory"
    assert is_in_memory(path)
    assert mode(path) == 0o700
    remove_runtime_directory(path)
    assert os.listdir(root / "memory") == []


@pytest.mark.parametrize("nbytes", [1 << 60, 0])
def test_the_store_is_beside_the_state_where_shared_memory_is_small_or_missing(
    root: Path, nbytes: int
) -> None:
    if nbytes == 0:
        (root / "memory").rmdir()
    path = store_directory("test", nbytes)
    assert Path(path).parent == Path(cluster_directory("test"))
    assert not is_in_memory(path)
    remove_runtime_directory(path)
    elsewhere = store_directory("test", nbytes, str(root / "run"))
    assert Path(elsewhere).parent == root / "run"
    remove_runtime_directory(elsewhere)


def test_home_and_cluster_directories_are_made_private_by_host(root: Path) -> None:
    assert fabric_home() == str(root / "home")
    path = Path(cluster_directory("lab.1"))
    assert path == root / "home" / os.uname().nodename / "lab.1"
    assert [mode(each) for each in (root / "home", path.parent, path)] == [0o700] * 3
    assert cluster_directory("lab.1") == str(path)


def test_without_fabric_home_it_is_in_the_users_home(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FABRIC_HOME")
    monkeypatch.setenv("HOME", str(root))
    assert fabric_home() == str(root / ".fabric")


def test_a_home_that_others_can_write_is_refused(root: Path) -> None:
    (root / "home").mkdir()
    (root / "home").chmod(0o777)
    with pytest.raises(ConfigError, match="writable for you only"):
        fabric_home()


def test_a_home_that_cannot_be_made_is_said_in_one_sentence(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "file").touch()
    monkeypatch.setenv("FABRIC_HOME", str(root / "file" / "home"))
    with pytest.raises(ConfigError, match="cannot be made: Not a directory"):
        fabric_home()


@pytest.mark.parametrize("spoil", ["readable", "a link"])
def test_a_cluster_directory_that_is_not_private_is_refused(root: Path, spoil: str) -> None:
    path = Path(cluster_directory("lab"))
    if spoil == "readable":
        path.chmod(0o755)
    else:
        path.rmdir()
        path.symlink_to(root / "run")
    with pytest.raises(ConfigError, match="with mode 0700"):
        cluster_directory("lab")


@pytest.mark.parametrize("name", ["", "..", "a/b", ".hidden", "a b", "x" * 65, "é"])
def test_a_name_that_could_leave_its_place_is_refused(root: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="name of a cluster"):
        cluster_directory(name)


# ------------------------------------------------------------------------------------------- heirs


def test_a_directory_handed_over_is_lived_in_until_the_heir_ends(root: Path) -> None:
    path = runtime_directory("test")
    program = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    with subprocess.Popen(program, stdin=subprocess.PIPE, pass_fds=[lock_of(path)]) as heir:
        hand_over(path)
        assert is_lived_in(path)
        assert sweep() == []
        heir.communicate()
    assert not is_lived_in(path)
    assert sweep() == [path]
    assert not is_lived_in(path)


def test_two_who_look_whether_somebody_lives_there_do_not_see_each_other(root: Path) -> None:
    path = abandoned(root, "runtime_directory('test')")
    with (path / "lock").open() as other:
        fcntl.flock(other, fcntl.LOCK_SH)
        assert not is_lived_in(str(path))
    assert remove_if_orphan(str(path))
    assert not path.exists()
