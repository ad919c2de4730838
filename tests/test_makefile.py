"""What the verbs of the Makefile say where something is missing."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

NO_VENV = """\
#!/bin/sh
case "$*" in *venv*) exit 1;; esac
exec {} "$@"
"""


def test_a_python_without_venv_is_named_with_what_to_install(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(NO_VENV.format(sys.executable))
    python.chmod(0o700)
    done = subprocess.run(
        ["make", "demo", f"PYTHON={python}", f"VENV={tmp_path / 'made'}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode != 0
    assert f"{python} has no venv" in done.stderr
    assert "apt-get install python3-venv" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "made").exists()
