"""The verbs of the command ``fabric``: start, look at and end the cluster of this machine.

Each verb asks `fabric.runtime.home` and prints: for people through `show`, with ``--json`` one
object. An error is a sentence on stderr (or ``{"error": …}``) and exit status 1. What a verb needs
is imported when it runs, so that ``fabric --help`` is quick.
"""

import json
import os
import platform
import signal
import sys
from collections.abc import Callable
from functools import wraps
from types import FrameType
from typing import Any, NoReturn, ParamSpec

import click

P = ParamSpec("P")

as_json = click.option("--json", "is_json", is_flag=True, help="Print one JSON object.")


def _print_version(context: click.Context, option: click.Parameter, is_asked: bool) -> None:
    if not is_asked or context.resilient_parsing:
        return
    from fabric import __version__

    click.echo(f"fabric {__version__} (Python {platform.python_version()})")
    context.exit()


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Print the version and exit.",
)
def main() -> None:
    """A compute fabric on this machine: start it, look at it, end it.

    \b
    Example:
      fabric up
      export FABRIC_ADDRESS=auto
      python my_program.py
      fabric down
    """


def reports_errors(verb: Callable[P, None]) -> Callable[P, None]:
    """Print what the fabric raises as users read it, and exit with status 1."""

    @wraps(verb)
    def reporting(*args: P.args, **kwargs: P.kwargs) -> None:
        from fabric.exceptions import FabricError

        try:
            verb(*args, **kwargs)
        except FabricError as error:
            fail(error.text, error.code, error.advice, is_json=bool(kwargs.get("is_json")))

    return reporting


def fail(text: str, code: str, advice: str, *, is_json: bool) -> NoReturn:
    """Say what is wrong, and end with status 1."""
    if is_json:
        print_json({"error": {"code": code, "message": text, "advice": advice}})
    else:
        click.echo("\n".join(part for part in (f"Error: {text}", advice) if part), err=True)
    sys.exit(1)


def print_json(shown: dict[str, Any]) -> None:
    """One object, readable by people too."""
    click.echo(json.dumps(shown, indent=2))


def read_amounts(
    context: click.Context, option: click.Parameter, text: str | None
) -> dict[str, float] | None:
    """Names and amounts: a JSON object, or ``name=amount`` parted by commas."""
    try:
        return None if text is None else _amounts(text)
    except (ValueError, TypeError) as error:
        raise click.BadParameter(
            f"{text!r} is neither a JSON object of numbers nor name=amount,...: {error}"
        ) from error


def _amounts(text: str) -> dict[str, float]:
    if text.lstrip().startswith("{"):
        return {name: float(amount) for name, amount in json.loads(text).items()}
    pairs = [pair.partition("=") for pair in text.split(",")]
    return {name.strip(): float(amount) for name, _, amount in pairs}


@main.command()
@click.option("--num-cpus", type=float, help="CPUs to use; all that this process may, if left out.")
@click.option("--num-gpus", type=int, help="GPUs that tasks may ask for.")
@click.option(
    "--resources",
    callback=read_amounts,
    metavar="JSON or K=V,...",
    help="Anything else that tasks may ask for.",
)
@click.option("--object-store-memory", type=int, metavar="BYTES", help="Shared memory for values.")
@click.option("--state-dir", type=click.Path(file_okay=False), help="Where journal and log are.")
@click.option("--foreground", is_flag=True, help="Stay, and end the cluster on Ctrl-C.")
@as_json
@reports_errors
def up(
    num_cpus: float | None,
    num_gpus: int | None,
    resources: dict[str, float] | None,
    object_store_memory: int | None,
    state_dir: str | None,
    foreground: bool,
    is_json: bool,
) -> None:
    """Start a cluster on this machine; it goes on in the background.

    Programs reach it with FABRIC_ADDRESS=auto, or fabric.init(address="auto"). Started again, it
    remembers what its journal has.

    \b
    Example:
      fabric up --num-cpus 4 --resources disk=2
    """
    from fabric.config import load_limits
    from fabric.runtime import home

    if foreground:
        signal.signal(signal.SIGTERM, _on_sigterm)
    try:
        started = home.start_cluster(
            load_limits(),
            num_cpus=num_cpus,
            num_gpus=num_gpus,
            resources=resources,
            object_store_memory=object_store_memory,
            state_directory=state_dir,
            driver_pid=os.getpid() if foreground else 0,
        )
        report = started.report()
        if is_json:
            print_json(report)
        else:
            from .show import show, started_lines

            show(started_lines(report, is_foreground=foreground))
        if foreground:
            sys.exit(min(1, abs(home.stay_with(started))))
    except KeyboardInterrupt:
        sys.exit(130)


def _on_sigterm(number: int, frame: FrameType | None) -> NoReturn:
    sys.exit(0)


@main.command()
@as_json
@reports_errors
def status(is_json: bool) -> None:
    """Show the cluster of this machine: nodes, workers, store, actors, jobs.

    \b
    Example:
      fabric status
      fabric status --json | jq '.nodes[].available'
    """
    from fabric.config import load_limits
    from fabric.runtime import home

    if not home.running_clusters():
        fail("No cluster runs on this machine.", "FAB-601", "", is_json=is_json)
    snapshot = home.snapshot_of(home.find_running(), load_limits())
    if is_json:
        print_json(snapshot)
        return
    from .show import show, status_of

    show(status_of(snapshot))


@main.command()
@click.option("--all", "everywhere", is_flag=True, help="Also those of another FABRIC_HOME.")
@as_json
@reports_errors
def down(everywhere: bool, is_json: bool) -> None:
    """End the cluster of this machine, with everything that runs in it.

    What its journal has stays. Where nothing runs, nothing happens.

    \b
    Example:
      fabric down
    """
    from fabric.runtime import home

    ended = home.end_clusters(everywhere)
    if is_json:
        print_json({"ended": ended})
        return
    for cluster in ended:
        click.echo(f"Cluster {cluster['name']!r} (pid {cluster['pid']}) has ended.")
    if not ended:
        click.echo("No cluster runs on this machine.")
