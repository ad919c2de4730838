"""What people are shown is a function of a snapshot, and the command's words are what they say."""

import io
import subprocess
import sys
from typing import Any

import click
import pytest
from click.testing import CliRunner
from rich.console import Console

from cli.main import main, read_amounts, up
from cli.show import amounts_text, brief_id, bytes_text, started_lines, status_of
from tests.commands import ROOT

NODE = "1f3a9c00" * 2

SNAPSHOT: dict[str, Any] = {
    "cluster": {"name": "default", "pid": 71, "epoch": 3},
    "nodes": [
        {
            "node_id": NODE,
            "state": "alive",
            "host": "box",
            "pid": 71,
            "resources": {"CPU": 4.0, "disk": 2.0},
            "available": {"CPU": 0.5, "disk": 2.0},
            "workers": 5,
            "store_bytes": 3 * 1024**2,
            "store_bytes_max": 2 * 1024**3,
        }
    ],
    "actors": [
        {
            "actor_id": "ab" * 8 + "00000000000b" + "0000",
            "state": state,
            "class_name": "Counter",
            "name": name,
            "namespace": "",
            "node_id": NODE,
            "restarts": 0,
        }
        for state, name in (("alive", "tally"), ("dead", ""))
    ],
    "jobs": [{"job_id": "cd" * 8, "state": "ended", "pid": 9, "entrypoint": "python job.py"}],
}


def shown(renderable: Any, width: int = 100) -> str:
    """What a pipe of that width gets; trailing blanks do not count."""
    console = Console(file=io.StringIO(), width=width)
    console.print(renderable)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in text.splitlines())


def test_a_cluster_is_shown_with_what_goes_on_in_it_and_the_rest_is_counted() -> None:
    assert shown(status_of(SNAPSHOT)).splitlines() == [
        "Cluster default  pid 71  epoch 3",
        "NODE       STATE   HOST   PID   FREE / ALL            WORKERS   STORE",
        "─" * 78,
        "1f3a9c00   alive   box    71    0.5/4 CPU, 2/2 disk   5         3 MiB of 2 GiB",
        "",
        "ACTOR        STATE   CLASS     NAME    NODE       RESTARTS",
        "─" * 58,
        "abababab-b   alive   Counter   tally   1f3a9c00   0",
        "1 dead",
        "",
        "no jobs (1 ended)",
    ]


@pytest.mark.parametrize("width", [40, 80, 200])
def test_no_line_is_longer_than_the_terminal(width: int) -> None:
    assert max(map(len, shown(status_of(SNAPSHOT), width).splitlines())) <= width


def test_a_long_list_is_cut_and_says_how_much_more_there_is() -> None:
    jobs = [
        {"job_id": f"{number:016x}", "state": "running", "pid": number, "entrypoint": "x"}
        for number in range(25)
    ]
    lines = shown(status_of({**SNAPSHOT, "jobs": jobs})).splitlines()
    assert lines[-1] == "5 more"
    assert sum(line.endswith(" x") for line in lines) == 20


def test_who_starts_a_cluster_reads_what_runs_and_how_it_is_reached_and_ended() -> None:
    report = {
        "cluster": "default",
        "pid": 71,
        "resources": {"CPU": 4.0},
        "store_bytes_max": 1024**3,
        "state_directory": "/s",
        "log": "/s/fabric.log",
    }
    text = shown(started_lines(report, is_foreground=False))
    assert "pid 71" in text
    assert "4 CPU; 1 GiB" in text
    assert "export FABRIC_ADDRESS=auto" in text
    assert text.endswith("fabric down")
    assert shown(started_lines(report, is_foreground=True)).endswith("Ctrl-C")


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (7582950604, "7.06 GiB"),
        (1024, "1 KiB"),
        (1536 * 1024, "1.5 MiB"),
    ],
)
def test_sizes_have_units(nbytes: int, text: str) -> None:
    assert bytes_text(nbytes) == text


def test_amounts_and_ids_are_short() -> None:
    assert amounts_text({"CPU": 1.5, "disk": 2.0}) == "1.5 CPU, 2 disk"
    assert amounts_text({}) == "nothing"
    assert brief_id("ab" * 8 + "0000000000ff" + "0000") == "abababab-ff"


# -- what is typed


@pytest.mark.parametrize(
    ("text", "amounts"),
    [
        (None, None),
        ("disk=2", {"disk": 2.0}),
        ("disk=2, licence=0.5", {"disk": 2.0, "licence": 0.5}),
        ('{"disk": 2}', {"disk": 2.0}),
    ],
)
def test_resources_are_typed_as_json_or_as_pairs(
    text: str | None, amounts: dict[str, float] | None
) -> None:
    assert read_amounts(click.Context(up), up.params[2], text) == amounts


@pytest.mark.parametrize("text", ["disk", "disk=much", '{"disk": null}', "{"])
def test_resources_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(click.BadParameter):
        read_amounts(click.Context(up), up.params[2], text)


@pytest.mark.parametrize("verb", sorted(main.commands))
def test_the_help_of_each_verb_has_an_example(verb: str) -> None:
    answer = CliRunner().invoke(main, [verb, "--help"])
    assert answer.exit_code == 0
    assert f"Example:\n    fabric {verb}" in answer.output


def test_the_help_loads_nothing_that_only_a_verb_needs() -> None:
    program = (
        "import sys\n"
        "from cli.main import main\n"
        "main(['--help'], standalone_mode=False)\n"
        "heavy = {'rich', 'zmq', 'msgspec', 'psutil', 'pyarrow', 'numpy', 'sqlite_utils'}\n"
        "sys.exit(f'loaded: {heavy & set(sys.modules)}' if heavy & set(sys.modules) else 0)\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
