"""What the README shows is run: its programs, and the commands it names exist."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from bench import readme

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
PROGRAMS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
COMMANDS = "\n".join(re.findall(r"```sh\n(.*?)```", README, re.DOTALL))


def promised_lines(program: str) -> list[str]:
    """What the comments behind its prints say it prints."""
    return re.findall(r"^\s*print\(.*\)  # (.*)$", program, re.MULTILINE)


@pytest.mark.system
@pytest.mark.parametrize("number", range(len(PROGRAMS)))
def test_a_program_of_the_readme_prints_what_its_comments_say(number: int, tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text(PROGRAMS[number])
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=50, check=False, cwd=ROOT
    )
    assert (done.stdout.splitlines(), done.stderr) == (promised_lines(PROGRAMS[number]), "")


def test_every_verb_the_readme_names_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for verb in re.findall(r"^make (\w+)", COMMANDS, re.MULTILINE):
        assert re.search(rf"^{verb}:", makefile, re.MULTILINE), verb
    from cli.main import main

    assert set(re.findall(r"^fabric (\w+)", COMMANDS, re.MULTILINE)) <= set(main.commands)


def test_no_placeholder_was_left_behind() -> None:
    assert re.findall(r"^\W*[A-Z]{4,}\W*$|\bTBD\b|\?\?\?|lorem ipsum", README, re.M) == []


def test_the_numbers_are_those_of_the_run_that_is_named() -> None:
    """Before the first run there are none."""
    source, block = readme.shown_in(README)
    if not source:
        assert (block, readme.PICTURE.exists()) == ("", False)
        return
    run = readme.read(ROOT / source)
    assert block == readme.block(run)
    assert readme.PICTURE.read_text() == readme.drawn(run)
    readme.refuse(run)
