"""How a message, an event or an effect reads in a transcript: one line, short names, no defaults.

Calls are ``c:1``, their results ``o:1``, leases ``L1``; those of other clients than the first
driver carry their name (``c:w1/1``). Of values of user code only the length is shown.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from fabric.ids import INCARNATION_BYTES, Address
from fabric.protocol.messages import CallsDone, RunCalls
from fabric.protocol.values import (
    UNIT,
    ActorSpec,
    ActorView,
    Call,
    CallDone,
    Failure,
    Progress,
    Sealed,
    Shape,
)

DROPPED = frozenset(
    (
        "pid",
        "job",
        "entrypoint",
        "sys_path",
        "store_prefix",
        "resources",
        "duration_us",
        "epoch",
        "sequence",
        "namespace",
        "slot",
        "host",
        "shape_id",
    )
)
"""What would only be noise."""

CALL_BYTES = 14
OBJECT_BYTES = 16


class Names:
    """Who is called what."""

    def __init__(self) -> None:
        self.of: dict[str, str] = {}  # incarnation in hex → name

    def place(self, place: Address) -> str:
        """A machine."""
        return self.of.get(place[2:], place)

    def owner(self, thing: bytes) -> str:
        """The prefix of what a client made: none for the first driver."""
        name = self.of.get(thing[:INCARNATION_BYTES].hex(), "?")
        return "" if name == "driver" else name.removeprefix("A.") + "/"

    def thing(self, thing: bytes) -> str:
        """A call, an object or an incarnation."""
        if len(thing) == INCARNATION_BYTES:
            return self.of.get(thing.hex(), "?")
        number = int.from_bytes(thing[INCARNATION_BYTES:CALL_BYTES], "big")
        if len(thing) == CALL_BYTES:
            return f"c:{self.owner(thing)}{number}"
        index = int.from_bytes(thing[CALL_BYTES:OBJECT_BYTES], "big")
        return f"o:{self.owner(thing)}{number}" + (f".{index}" if index else "")


class Spelling:
    """See the module."""

    def __init__(self, names: Names) -> None:
        self.names = names

    def line(self, message: msgspec.Struct) -> str:
        """Its name and what matters of it."""
        return f"{type(message).__name__:<17} {self.details(message)}".rstrip()

    def details(self, message: msgspec.Struct) -> str:
        """What matters of it."""
        if isinstance(message, RunCalls):
            return f"L{message.lease} " + " ".join(map(self.call, message.calls))
        if isinstance(message, CallsDone):
            return f"L{message.lease} " + " ".join(map(self.done, message.calls))
        words = [
            self.field(name, getattr(message, name))
            for name in message.__struct_fields__
            if name not in DROPPED
        ]
        return " ".join(word for word in words if word)

    def call(self, call: Call) -> str:
        """A call spec."""
        words = [self.names.thing(call.call_id)]
        if call.method:
            words.append(f".{call.method}")
        if call.attempt > 1:
            words.append(f" attempt={call.attempt}")
        if call.number:
            words.append(f" #{call.number}")
        if call.inputs:
            words.append(" inputs=" + ",".join(map(self.value, call.inputs)))
        if call.nested:
            words.append(" nested=" + ",".join(map(self.names.thing, call.nested)))
        return "".join(words)

    def done(self, done: CallDone) -> str:
        """An answer."""
        words = self.names.thing(done.call_id)
        if done.attempt > 1:
            words += f" attempt={done.attempt}"
        if done.values:
            words += " " + " ".join(map(self.value, done.values))
        inner = [one for each in done.contained for one in each]
        return words + (" with " + ",".join(map(self.names.thing, inner)) if inner else "")

    def field(self, name: str, value: Any) -> str:
        """One field; nothing if it says nothing."""
        match name:
            case "lease":
                return f"L{value}" if value else ""
            case "depth":
                return f"depth={value}" if value else ""
            case "known_from" | "rss" | "memory_limit":
                return f"{name}={value}" if value else ""
            case "attempt":
                return f"attempt={value}" if value != 1 else ""
            case "generation":
                return f"g{value}"
            case "incarnation":
                return f"life={value}"
        if value is None or value is False or value == () or value in ("", b""):
            return ""
        if value is True:
            return name
        text = self.value(value)
        speaks_for_itself = isinstance(value, msgspec.Struct | bytes) and name != "progress"
        return text if speaks_for_itself else f"{name}={text}"

    def value(self, value: Any) -> str:
        """Anything inside a message."""
        match value:
            case Failure():
                return f"failed:{value.kind}"
            case Sealed():
                return f"sealed:{value.segment}.g{value.generation}"
            case Shape():
                amounts = [f"{name.lower()}:{amount / UNIT:g}" for name, amount in value.amounts]
                return "+".join(amounts) or "nothing"
            case Progress():
                state = "done" if value.finished else "running"
                return f"#{value.number}:{state}"
            case CallDone():
                return self.done(value)
            case Call():
                return self.call(value)
            case ActorSpec():
                return (
                    f"{self.names.thing(value.actor_id)} {value.class_name} {value.name}".rstrip()
                )
            case ActorView():
                return self.view(value)
            case msgspec.Struct():
                return f"{type(value).__name__}({self.details(value)})"
            case bytes():
                return self.bytes(value)
            case tuple() | list():
                return ",".join(map(self.value, value))
            case Mapping():
                return ",".join(map(str, value))
            case str() if value[1:2] == ":":
                return self.names.place(Address(value))
        return str(value)

    def view(self, view: ActorView) -> str:
        """An actor as others see it."""
        words = f"{self.names.thing(view.actor_id)} {view.state} life={view.incarnation}"
        if view.state == "alive":
            words += f" at {self.names.place(view.worker)} L{view.lease}"
        if view.failure is not None:
            words += f" {self.value(view.failure)}"
        if view.progress:
            words += " progress=" + self.value(view.progress)
        return words

    def bytes(self, value: bytes) -> str:
        """An id if it is one of somebody known, else how long it is."""
        is_id = len(value) in (INCARNATION_BYTES, CALL_BYTES, OBJECT_BYTES)
        if is_id and value[:INCARNATION_BYTES].hex() in self.names.of:
            return self.names.thing(value)
        if value.endswith(b"()"):  # functions of journeys are named like this
            return value.decode().strip("-")
        return f"{len(value)} bytes"
