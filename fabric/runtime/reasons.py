"""Why a wait goes on, as the sentence of its warning: what is waited for, and who holds the CPUs.

Read from the tables of the client's machine by the thread that waits, while the loop's thread may
change them: figures may be a turn old, which does for a sentence. What other processes hold is not
known here; a node knows, and is not asked.
"""

from collections import Counter
from collections.abc import Iterable, Mapping

from fabric.core.client.calls import PendingCall
from fabric.core.client.client import ClientMachine
from fabric.core.client.reasons import REASONS
from fabric.core.node.resources import amounts_text
from fabric.ids import ObjectId, call_of
from fabric.protocol.values import Shape

NAMES_MAX = 3
"""Names in one list of a warning."""


def why_waiting(machine: ClientMachine, awaited: Iterable[ObjectId]) -> str:
    """How many these are, what they wait for, and what this process holds meanwhile."""
    reasons = Counter(_reason(machine, one) for one in awaited)
    if not reasons:
        return "no ref: the last value is just coming"
    count = sum(reasons.values())
    text = f"{count} ref{'' if count == 1 else 's'}: {_listed(reasons)}"
    held = Counter(_held(machine))
    return f"{text}; this process holds {_listed(held)}" if held else text


def _reason(machine: ClientMachine, object_id: ObjectId) -> str:
    reason = machine.reason_of(object_id)
    text = REASONS[reason]
    call = machine.calls.pending.get(call_of(object_id))
    if call is None:
        return text
    if reason == "worker":
        text += f" with {_amounts(machine.tasks.leases.queues[call.queue_key].shape)}"
    return f"{_name(machine, call)} ({text})"


def _held(machine: ClientMachine) -> Iterable[str]:
    """Who of this process's own holds workers and what they take with them."""
    for lease in list(machine.tasks.leases.leases.values()):
        first = next(iter(list(lease.inflight.values())), None)
        if first is not None:
            yield f"{_amounts(lease.queue.shape)} for {_name(machine, first)}"
    for spec in list(machine.actors.made.values()):
        if spec.shape.amounts:
            yield f"{_amounts(spec.shape)} for actor `{spec.class_name}`"


def _name(machine: ClientMachine, call: PendingCall) -> str:
    if call.actor_id is None:
        return f"task `{machine.functions[call.function].name}`"
    spec = machine.actors.made.get(call.actor_id)
    channel = machine.actors.channels.get(call.actor_id)
    view = channel.view if channel is not None else None
    known = spec or view
    return f"call `{known.class_name}.{call.method}`" if known else f"call `{call.method}`"


def _amounts(shape: Shape) -> str:
    return amounts_text(dict(shape.amounts))


def _listed(counted: Mapping[str, int]) -> str:
    """The most frequent first, each with how often if that is more than once."""
    ordered = sorted(counted.items(), key=lambda one: -one[1])
    texts = [f"{times} times {text}" if times > 1 else text for text, times in ordered[:NAMES_MAX]]
    left = sum(times for _, times in ordered[NAMES_MAX:])
    return ", ".join([*texts, *([f"{left} more"] if left else [])])
