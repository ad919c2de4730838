"""One run: faults while the programs go on, then everything heals, and all must come to an end.

Which process dies, which line breaks and when is drawn here, at the rates that the seed drew. What
dying means is in `processes`, what breaking means in `network`.
"""

import traceback
from collections import Counter
from collections.abc import Callable

from fabric.core.events import ShutDown
from fabric.core.machine import InvariantError
from fabric.ids import call_of
from tests.sim.processes import DriverProcess
from tests.sim.simulation import Simulation
from tests.sim.world import Violation

LIVELY_S = 100.0
"""After the healing every program ends within this long."""
QUIET_S = 15.0
"""What is still on its way when the last program has ended arrives within this long."""
STEPS_MAX = 1_500_000


class Outcome:
    """What became of a seed."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.error = ""
        self.digest = ""
        self.counts: Counter[str] = Counter()
        self.steps = 0
        self.seconds = 0.0
        self.tail: list[str] = []


def begin_faults(simulation: Simulation) -> None:
    """Each kind at its own rate."""
    draw = simulation.world.draw
    every(simulation, lambda: draw.resets_per_s, simulation.network.reset)
    every(simulation, lambda: draw.pauses_per_s, lambda: pause(simulation))
    every(simulation, lambda: draw.worker_crashes_per_s, lambda: crash_worker(simulation))
    every(simulation, lambda: draw.memory_shortages_per_s, lambda: fill_memory(simulation))
    every(simulation, lambda: draw.control_crashes_per_s, lambda: crash_control(simulation))
    every(simulation, lambda: draw.driver_crashes_per_s, lambda: crash_driver(simulation))
    every(simulation, lambda: draw.node_crashes_per_s, lambda: crash_node(simulation))


def every(simulation: Simulation, rate: Callable[[], float], action: Callable[[], None]) -> None:
    """Do it at random times, that often on average, as long as there is a rate."""
    world = simulation.world

    def again() -> None:
        if rate() > 0:
            action()
            world.after(world.delay(1 / rate()), again)

    if rate() > 0:
        world.after(world.delay(1 / rate()), again)


def pause(simulation: Simulation) -> None:
    """Somebody stands still for a while."""
    world = simulation.world
    processes = simulation.processes()
    if processes:  # all may be dead at once
        world.random.choice(processes).pause(world.delay(world.draw.pause_s))
        world.fault("pause")


def fill_memory(simulation: Simulation) -> None:
    """Workers use more than the node may let them."""
    world = simulation.world
    world.short_until = world.now + world.delay(0.1)
    simulation.has_lost_clients = True
    simulation.checkers.executions.free_retries = simulation.limits.oom_retries_max
    world.fault("memory shortage")


def crash_worker(simulation: Simulation) -> None:
    """kill -9."""
    workers = list(simulation.node.workers.values())
    if workers:
        simulation.world.fault("worker crash")
        worker = simulation.world.random.choice(workers)
        if len(worker.shells) > 1:
            simulation.world.fault("worker-client crash")
        simulation.has_lost_clients = True
        worker.crash()


def crash_control(simulation: Simulation) -> None:
    """It comes back by itself."""
    if simulation.control.is_alive:
        simulation.world.fault("control crash")
        simulation.control.crash()


def crash_driver(simulation: Simulation) -> None:
    """It does not come back."""
    drivers = [one for one in simulation.drivers if one.is_alive]
    if drivers:
        simulation.world.fault("driver crash")
        simulation.has_lost_clients = True
        simulation.world.random.choice(drivers).crash()


def crash_node(simulation: Simulation) -> None:
    """It does not come back either, and its workers go with it."""
    if simulation.node.is_alive:
        simulation.world.fault("node crash")
        simulation.has_lost_clients = True
        simulation.node.crash()


def heal(simulation: Simulation) -> None:
    """From now on nothing fails any more."""
    simulation.world.draw.heal()
    for process in simulation.processes():
        process.paused_until = 0.0
    for line in simulation.network.lines.values():
        line.down_until = 0.0


def play(simulation: Simulation) -> None:
    """Safety, then liveness, then silence."""
    world = simulation.world
    begin_faults(simulation)
    run_until(simulation, world.draw.faulty_s, lambda: False)
    heal(simulation)
    run_until(simulation, world.now + LIVELY_S, simulation.is_finished)
    if not simulation.is_finished():
        waits = [why_it_waits(one) for one in simulation.drivers if one.is_alive]
        node = node_in_words(simulation)
        raise Violation(f"L1: {LIVELY_S:g} s after the healing programs wait: {waits}; {node}")
    run_until(simulation, world.now + QUIET_S, lambda: False)
    stuck = simulation.checkers.stuck_links()
    run_until(simulation, world.now + 3.0, lambda: False)
    simulation.checkers.links_move(stuck)
    simulation.checkers.quiet()
    for driver in simulation.drivers:
        driver.leave()
    run_until(simulation, world.now + QUIET_S, lambda: False)
    simulation.checkers.gone()
    simulation.is_over = True
    simulation.node.shell.tell(ShutDown())
    run_until(simulation, world.now + QUIET_S, lambda: False)
    simulation.checkers.shut_down()


def why_it_waits(driver: DriverProcess) -> list[str]:
    """Where the calls are whose results a program waits for."""
    reasons = []
    client = driver.client
    machine = client.machine
    if not driver.thread.waiting_for:
        return [f"finished: {driver.is_finished}, writes {list(client.writes)} {client.questions}"]
    for name in driver.thread.waiting_for:
        call = machine.calls.pending.get(call_of(name))
        if call is None:
            reasons.append(f"{name.hex()[-8:]} is of nobody here")
            continue
        channel = machine.actors.channels.get(call.actor_id) if call.actor_id else None
        where = f"lease {call.lease}" if channel is None else f"channel {vars(channel)}"
        reasons.append(
            f"{name.hex()[-8:]} attempt {call.attempt} lacks {call.missing} number {call.number}"
            f" shape {call.queue_key} {where[:600]}"
        )
    return reasons[:3]


def node_in_words(simulation: Simulation) -> str:
    """Who has which worker, and who wants one."""
    if not simulation.node.is_alive:
        return "there is no node"
    machine = simulation.node.shell.machine
    workers = [
        (one.address[:6], one.state, one.client[:6], one.lease, one.is_blocked, one.recall)
        for one in machine.staff.workers.values()
    ]
    demands = [
        (one.client[:6], one.shape.amounts, one.wanted, one.held)
        for one in machine.scheduling.demands.table.values()
    ]
    running = [
        (one.me.hex()[:4], str(one.worker.machine.snapshot()))
        for one in simulation.node.workers.values()
    ]
    free = machine.resources.free
    return f"free {free}, workers {workers}, demands {demands}, running {running}"


def run_until(simulation: Simulation, time: float, is_enough: Callable[[], bool]) -> None:
    """Let things happen."""
    world = simulation.world
    while world.next_at() <= time and not is_enough():
        world.step()
        if world.steps > STEPS_MAX:
            raise Violation(f"L4: {world.steps} steps, {simulation.checkers.calls} calls")
    world.now = max(world.now, min(time, world.next_at()))


def run_seed(seed: int, tail: int = 0, about: str = "") -> Outcome:
    """Run it all; what went wrong is in the outcome, as words."""
    outcome = Outcome(seed)
    simulation = Simulation(seed)
    try:
        play(simulation)
    except Violation as error:
        outcome.error = str(error)
    except InvariantError as error:
        outcome.error = f"a machine's own invariant: {error}"
    except Exception:
        outcome.error = traceback.format_exc(limit=-6)
    world = simulation.world
    outcome.digest = world.trace.digest()
    outcome.counts = world.counts
    outcome.steps = world.steps
    outcome.seconds = world.now
    if tail:
        outcome.tail = world.trace.lines(tail, about)
    return outcome
