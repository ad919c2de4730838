"""Every limit of the fabric, once, with its unit in its name.

The machines get this table handed in; the simulator draws its values from the seed. ``FABRIC_*`` in
the environment overrides a value (``FABRIC_INLINE_BYTES_MAX=4096``).
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields

from fabric.exceptions import ConfigError


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one process. Defaults are what `fabric.init()` uses."""

    inline_bytes_max: int = 100 * 1024
    """Values up to this size travel in messages and stay with their owner; larger are sealed."""

    window_s: float = 0.020
    """Work queued at a worker, by the function's measured duration. One call until it is measured.
    """
    window_calls_max: int = 20_000
    """Calls queued at a worker, however short."""
    window_bytes_max: int = 8 * 1024 * 1024
    """Argument bytes queued at a worker."""
    link_bytes_max: int = 64 * 1024 * 1024
    """Unacknowledged bytes in flight on one link; what is more waits in the link."""
    link_frames_max: int = 10_000
    """Unacknowledged frames in flight on one link."""
    frame_bytes_max: int = 256 * 1024 * 1024
    """The largest frame a machine accepts: a call with all its inline arguments must fit."""
    call_bytes_max: int = 64 * 1024 * 1024
    """Inline arguments of one call, those that came with refs included; above it the call fails."""
    batch_bytes_max: int = 1024 * 1024
    """Messages of one turn to one peer are cut into frames of about this size."""
    beat_s: float = 0.1
    """A link with something unacknowledged repeats its numbers this often."""

    lease_idle_s: float = 1.0
    """A client keeps a lease without work this long before it returns it."""
    lease_quantum_s: float = 0.1
    """A working lease is recalled for a waiting client after this long."""
    leases_wanted_max: int = 1024
    """Workers of one shape that one client asks for beyond those that work for it already."""
    workers_max: int = 256
    """Worker processes of a node, those of actors included."""
    worker_idle_s: float = 60.0
    """Workers above the node's CPU count end after this long without a lease."""
    worker_start_s: float = 30.0
    """A worker that has not said hello after this long counts as dead."""
    blocked_after_s: float = 0.005
    """A worker that waits in `get` this long gives its CPU back."""
    watchdog_after_s: float = 0.010
    """A call that runs this long hands its worker's link to the watchdog."""
    answer_delay_s: float = 0.001
    """Finished answers wait at most this long for company while tiny calls follow."""

    output_lines_per_s_max: int = 1_000
    """Lines of its workers that a driver prints in a second; what is more is counted."""
    output_bytes_per_s_max: int = 1024 * 1024
    """Bytes of them in a second."""
    output_bytes_max: int = 1024 * 1024
    """Bytes sent to a driver that it has not printed yet; what comes meanwhile is counted."""
    log_bytes_max: int = 32 * 1024 * 1024
    """A worker's log of this size is put aside, and replaces the one put aside before."""
    logs_bytes_max: int = 256 * 1024 * 1024
    """Logs of dead workers that a node keeps."""
    logs_kept_max: int = 1_000
    """Log files of dead workers that a node keeps."""
    cancel_grace_s: float = 5.0
    """A cancelled task that goes on is ended with its worker after this long."""
    cancel_forced_s: float = 0.1
    """A worker whose call is cancelled by force gets this long to hand back what waits behind it.
    """

    max_retries_default: int = 3
    """Attempts after the first when a worker dies under a task."""
    worker_crashes_max: int = 30
    """Workers that crash are replaced at once, up to so many that are not forgotten yet."""
    worker_crash_forget_s: float = 0.1
    """The node forgets a crash this often; so crash loops start no more workers than that."""
    memory_used_max: float = 0.95
    """Above this share of its memory the node ends a worker before the kernel ends the node."""
    memory_growth_bytes: int = 4 * 1024**3
    """Workers use at most so much more memory a second; the node looks again before it can be full.
    """
    memory_look_s: float = 0.02
    """While calls run the node looks at its memory at most this often."""
    memory_look_idle_s: float = 0.1
    """Or so often when it is full and no worker's end would help."""
    memory_look_max_s: float = 1.0
    """And at least this often."""
    oom_retries_max: int = 5
    """Further attempts of a call whose worker was ended to save memory, where it has any."""
    oom_retry_s: float = 0.25
    """Such an attempt waits this long, twice as long each time."""
    oom_retry_max_s: float = 10.0
    """The longest it waits."""
    unschedulable_grace_s: float = 0.0
    """An impossible request waits this long for the cluster to grow."""
    store_full_grace_s: float = 3.0
    """An allocation waits this long for memory to come back before it fails."""
    segment_warm_s: float = 5.0
    """A free segment stays warm this long."""
    segment_retry_s: float = 0.05
    """Freed segments that readers still pin are looked at this often."""
    actor_start_s: float = 60.0
    """An actor whose worker has not appeared after this long is started again."""
    actor_settled_s: float = 10.0
    """A life of an actor shorter than this makes its next restart wait longer."""
    actor_restart_s: float = 0.1
    """Restarts of an actor after short lives wait this long, twice as long each time."""
    actor_restart_max_s: float = 10.0
    """The longest an actor waits for its restart."""
    node_heartbeat_s: float = 1.0
    """A node tells the control store it lives this often."""
    node_dead_s: float = 5.0
    """A node silent for this long is dead."""
    request_retry_s: float = 1.0
    """A control request without an answer is repeated this often; it is idempotent by id."""
    function_wait_s: float = 10.0
    """Who asks for a function that nobody put is answered after this long."""

    actors_max: int = 20_000
    """Living actors that the control store keeps."""
    dead_actors_max: int = 1_000
    """Dead actors that the control store remembers."""
    dead_nodes_max: int = 1_000
    """Dead nodes that the control store remembers."""
    ended_jobs_max: int = 1_000
    """Ended jobs that the control store remembers."""
    functions_bytes_max: int = 256 * 1024 * 1024
    """Pickled functions and classes that the control store keeps."""
    answers_kept_max: int = 10_000
    """Refusals, ended clients and open questions that the control store remembers, of each."""
    wait_warning_s: float = 10.0
    """A wait without progress says why after this long, then at doubling intervals."""


def load_limits(environment: Mapping[str, str] | None = None) -> Limits:
    """The defaults, with what ``FABRIC_<NAME>`` says instead. Bad numbers raise `ConfigError`."""
    environment = os.environ if environment is None else environment
    changed: dict[str, float] = {}
    for field in fields(Limits):
        name = "FABRIC_" + field.name.upper()
        text = environment.get(name)
        if text is None:
            continue
        number = int if field.type in (int, "int") else float
        try:
            changed[field.name] = number(text)
        except ValueError:
            raise ConfigError(
                f"{name}={text!r} is not a number; its default is {field.default}"
            ) from None
    return Limits(**changed)  # type: ignore[arg-type]
