"""What holds for every test: system tests leave nothing behind, and no skip goes unnoticed.

A test marked ``system`` gets a runtime directory and a home of its own and is followed by the
closing check of `tests.leaks`. With ``--strict-skips`` (`.ci/run`) a skip that `allowed_skips.txt`
does not name fails the run.
"""

import os
import shutil
import sys
import tempfile
from collections.abc import Generator, Iterator
from fnmatch import fnmatch
from pathlib import Path
from types import ModuleType

import pytest

from tests.leaks import MARK, Before

ALLOWED_SKIPS = Path(__file__).with_name("allowed_skips.txt")

PASSED = pytest.StashKey[bool]()
SKIPS = pytest.StashKey[list[tuple[str, str]]]()


# -- nothing left behind


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    item.stash[PASSED] = item.stash.get(PASSED, True) and not report.failed
    return report


@pytest.fixture(autouse=True)
def nothing_left_behind(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """A system test ends with no process, thread, descriptor, segment or directory of its own."""
    if request.node.get_closest_marker("system") is None:
        yield
        return
    root = Path(tempfile.mkdtemp(prefix="fb-", dir="/tmp"))  # a socket's path has to stay short
    runtime_root, home = root / "run", root / "home"
    runtime_root.mkdir(mode=0o700)
    mark = f"{os.getpid()}-{root.name}"
    monkeypatch.setenv(MARK, mark)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime_root))
    monkeypatch.setenv("FABRIC_HOME", str(home))
    monkeypatch.delenv("FABRIC_ADDRESS", raising=False)
    before = Before(mark, runtime_root)
    try:
        yield
        _close(request, before)
    finally:
        before.remove()
        shutil.rmtree(root, ignore_errors=True)


def _close(request: pytest.FixtureRequest, before: Before) -> None:
    """Name what is left. After a test that failed anyway that is a remark, not a second failure."""
    if not request.node.stash.get(PASSED, True):
        _shut_down()
        left = before.leftovers()
        print(
            "\n".join(["left behind by the failed test:", *left]) if left else "", file=sys.stderr
        )
        return
    left = before.leftovers()
    if left:
        try:
            _shut_down()
        finally:  # whatever that says, the list is what the reader needs
            pytest.fail("\n".join(["the test left behind:", *left]), pytrace=False)


def _shut_down() -> None:
    """End a fabric that the test did not end: this process must not go on with dead daemons."""
    fabric: ModuleType | None = sys.modules.get("fabric")
    if fabric is not None and fabric.is_initialized():
        fabric.shutdown()


# -- skips have reasons


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--strict-skips",
        action="store_true",
        help="fail if a test is skipped that tests/allowed_skips.txt does not name",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.stash[SKIPS] = []
    config.pluginmanager.register(SkipLedger(config.stash[SKIPS]), "skip-ledger")


class SkipLedger:
    """Writes down who was skipped, and why."""

    def __init__(self, skips: list[tuple[str, str]]) -> None:
        self.skips = skips

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.skipped and not hasattr(report, "wasxfail"):
            self.skips.append((report.nodeid, _reason(report)))

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.skipped:
            self.skips.append((report.nodeid, _reason(report)))


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    return report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)


def allowed_skips(text: str) -> list[tuple[str, str]]:
    """The (test pattern, words of the reason) of a list of allowed skips; each line gives a why."""
    allowed = []
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        pattern, words, why = (part.strip() for part in line.split("|"))
        if not why:
            raise ValueError(f"an allowed skip without a why: {line!r}")
        allowed.append((pattern, words))
    return allowed


def skips_not_allowed(config: pytest.Config) -> list[tuple[str, str]]:
    """What was skipped without leave; empty unless ``--strict-skips`` was given."""
    if not config.getoption("--strict-skips"):
        return []
    allowed = allowed_skips(ALLOWED_SKIPS.read_text())
    return [
        (nodeid, reason)
        for nodeid, reason in config.stash[SKIPS]
        if not any(fnmatch(nodeid, pattern) and words in reason for pattern, words in allowed)
    ]


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    if skips_not_allowed(session.config) and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    skips = skips_not_allowed(config)
    if skips:
        terminalreporter.section("skipped without leave: this fails the run", red=True)
        for nodeid, reason in skips:
            terminalreporter.line(f"{nodeid}: {reason}")
