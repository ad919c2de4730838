"""The command ``fabric`` and programs beside it, as processes of their own."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent

PATIENCE_S = 40.0


def fabric_command(*words: str) -> list[str]:
    """What to execute for that command line."""
    return [sys.executable, "-m", "cli", *words]


def run_command(*words: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    """Run it to its end, into pipes; the exit status has to be that one."""
    ran = subprocess.run(
        fabric_command(*words), cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert ran.returncode == status, (ran.stdout, ran.stderr)
    assert "\x1b" not in ran.stdout + ran.stderr
    return ran


def run_json(*words: str, status: int = 0) -> dict[str, Any]:
    """Run it with ``--json``; what it printed."""
    printed: dict[str, Any] = json.loads(run_command(*words, "--json", status=status).stdout)
    return printed


def start_program(text: str, *arguments: str) -> subprocess.Popen[str]:
    """A Python program beside this one; it speaks and hears by pipes."""
    return subprocess.Popen(
        [sys.executable, "-c", text, *arguments],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def run_program(text: str, *arguments: str) -> str:
    """Run a program to its end; what it printed."""
    with start_program(text, *arguments) as program:
        printed, _ = program.communicate(timeout=PATIENCE_S)
    assert program.returncode == 0
    return printed


def run_failing_program(script: str, *arguments: str) -> str:
    """Run a script that ends with an uncaught exception; what that printed."""
    ran = subprocess.run(
        [sys.executable, script, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert ran.returncode == 1, (ran.stdout, ran.stderr)
    return ran.stderr
