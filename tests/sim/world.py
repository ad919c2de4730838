"""Time, chance, and what is going to happen: one heap, one random generator, one seed.

`Draw` is what the seed says of this run: its limits, its programs' size, and how much of each fault
there is, which may be none. Who acts, and what happens, is in the other modules.
"""

import heapq
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

from fabric.config import Limits
from tests.sim.trace import Trace


class Violation(AssertionError):
    """Something happened that must not; the text names the invariant."""


class Draw:
    """What the seed decides before anything happens."""

    def __init__(self, seed: int) -> None:
        self.random = random = Random(f"draw {seed}")
        some = self._some
        self.limits = draw_limits(random)
        # a generator of its own, in every fourth seed: the others keep the histories they had
        self.output = Random(f"output {seed}") if seed % 4 == 0 else None
        if self.output is not None:
            self.limits = draw_output(self.limits, self.output)
        self.drivers = random.choice((1, 1, 2))
        self.steps = random.choice((4, 12, 30))
        self.cpus = random.choice((1, 2, 4))
        self.store_bytes_max = random.choice((4096 * 3, 4096 * 16, 1 << 30))
        self.is_calm = random.random() < 0.15
        self.delay_s = random.choice((1e-5, 1e-4, 1e-3, 3e-3))
        self.turn_s = random.choice((0.0, 1e-5, 1e-3))
        self.commit_s = random.choice((1e-4, 2e-3, 0.3))
        self.drop_p = some(0.001, 0.02, 0.1)
        self.duplicate_p = some(0.01, 0.1)
        self.publish_loss_p = some(0.1, 0.5)
        self.resets_per_s = some(0.5, 5.0, 50.0)
        self.pauses_per_s = some(0.2, 2.0)
        self.pause_s = random.choice((0.01, 0.3))
        self.worker_crashes_per_s = some(0.2, 2.0, 10.0)
        self.control_crashes_per_s = some(0.5, 2.0)
        self.driver_crashes_per_s = some(0.05, 0.5)
        self.node_crashes_per_s = some(0.02, 0.3)
        self.faulty_s = random.choice((0.5, 3.0, 8.0))
        self.app_crash_p = some(0.02, 0.2)
        self.memory_shortages_per_s = some(0.3, 2.0)

    def _some(self, *values: float) -> float:
        """None of it in half of the seeds."""
        return self.random.choice((*values, *[0.0] * len(values))) if not self.is_calm else 0.0

    def heal(self) -> None:
        """From now on nothing fails."""
        self.drop_p = self.duplicate_p = self.publish_loss_p = 0.0
        self.resets_per_s = self.pauses_per_s = self.worker_crashes_per_s = 0.0
        self.control_crashes_per_s = self.driver_crashes_per_s = self.node_crashes_per_s = 0.0
        self.memory_shortages_per_s = self.app_crash_p = 0.0


def draw_limits(random: Random) -> Limits:
    """All limits that machines look at, tiny ones included."""
    pick = random.choice
    heartbeat_s = pick((0.05, 0.2, 1.0))
    return Limits(
        inline_bytes_max=pick((100, 1000, 100 * 1024)),
        window_s=pick((0.0, 0.005, 0.02)),
        window_calls_max=pick((1, 2, 20_000)),
        window_bytes_max=pick((1, 1000, 1 << 24)),
        link_bytes_max=pick((1, 300, 1 << 26)),
        link_frames_max=pick((1, 2, 10_000)),
        batch_bytes_max=pick((1, 300, 1 << 20)),
        beat_s=pick((0.02, 0.1, 0.3)),
        lease_idle_s=pick((0.0, 0.05, 1.0)),
        lease_quantum_s=pick((0.02, 0.1)),
        leases_wanted_max=pick((1, 2, 64, 1024)),
        workers_max=pick((1, 2, 8, 40, 256, 256)),
        worker_idle_s=pick((0.02, 0.5, 60.0)),
        blocked_after_s=pick((0.0, 0.005)),
        answer_delay_s=pick((0.0, 0.001, 0.02)),
        cancel_grace_s=pick((0.05, 1.0)),
        cancel_forced_s=pick((0.0, 0.1)),
        unschedulable_grace_s=pick((0.0, 0.5)),
        store_full_grace_s=pick((0.05, 0.3)),
        segment_warm_s=pick((0.0, 0.2, 5.0)),
        segment_retry_s=pick((0.01, 0.05)),
        actor_start_s=pick((0.5, 60.0)),
        actor_settled_s=pick((0.05, 10.0)),
        actor_restart_s=pick((0.01, 0.1)),
        actor_restart_max_s=pick((0.1, 1.0)),
        node_heartbeat_s=heartbeat_s,
        node_dead_s=5 * heartbeat_s,
        function_wait_s=pick((0.5, 10.0)),
        dead_actors_max=pick((2, 1000)),
        ended_jobs_max=pick((1, 1000)),
        answers_kept_max=pick((3, 10_000)),
        worker_crashes_max=pick((3, 30)),
        memory_look_s=pick((0.005, 0.02)),
        memory_look_max_s=pick((0.05, 1.0)),
        oom_retries_max=pick((0, 5)),
        oom_retry_s=pick((0.0, 0.05)),
    )


def draw_output(limits: Limits, random: Random) -> Limits:
    """What machines look at when workers print."""
    pick = random.choice
    return replace(
        limits,
        output_lines_per_s_max=pick((1, 7, 1000)),
        output_bytes_per_s_max=pick((40, 1 << 20)),
        output_bytes_max=pick((40, 1 << 20)),
    )


class World:
    """See the module."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.random = Random(seed)
        self.draw = Draw(seed)
        self.now = 0.0
        self.trace = Trace()
        self.counts: Counter[str] = Counter()
        self.steps = 0
        self.has_node = True
        self.short_until = 0.0  # of memory
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._serial = 0

    def at(self, time: float, action: Callable[..., None], *args: Any) -> None:
        """That is going to happen then."""
        self._serial += 1
        heapq.heappush(self._heap, (max(time, self.now), self._serial, action, args))

    def after(self, delay_s: float, action: Callable[..., None], *args: Any) -> None:
        """That is going to happen so much later."""
        self.at(self.now + delay_s, action, *args)

    def delay(self, mean_s: float) -> float:
        """Some time, exponentially distributed."""
        return self.random.expovariate(1.0 / mean_s) if mean_s > 0 else 0.0

    def chance(self, probability: float) -> bool:
        """Whether it happens; no number is drawn for what cannot."""
        return probability > 0 and self.random.random() < probability

    def fault(self, name: str) -> None:
        """One more of that kind."""
        self.counts[f"fault {name}"] += 1

    def next_at(self) -> float:
        """When the next thing happens."""
        return self._heap[0][0] if self._heap else float("inf")

    def step(self) -> bool:
        """Let the next thing happen; false if nothing ever will."""
        if not self._heap:
            return False
        self.now, _, action, args = heapq.heappop(self._heap)
        self.steps += 1
        action(*args)
        return True
