"""Types of the public surface, as a checker sees them."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("file", ["calls.py"])
def test_mypy_finds_the_types_and_the_errors_that_stand_there(file: str) -> None:
    pytest.importorskip("mypy")
    command = [sys.executable, "-m", "mypy", "--strict", f"tests/typing/{file}"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    ours = [line for line in found.stdout.splitlines() if line.startswith("tests/typing")]
    assert not ours, "\n".join(ours)
