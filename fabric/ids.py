"""Identities: who speaks, which call, which object.

Every process draws eight random bytes when it starts, its *incarnation*; whatever it makes is
numbered under them, so ids need no coordination, and an object ref names its owner. This module
draws nothing: randomness is handed in.
"""

from typing import NewType

Incarnation = NewType("Incarnation", bytes)
"""8 random bytes: one life of one process. A worker and the client inside it share one."""

JobId = NewType("JobId", bytes)
"""The incarnation of the driver that started the job."""

CallId = NewType("CallId", bytes)
"""14 bytes: the submitting client's incarnation and its 6-byte counter."""

ObjectId = NewType("ObjectId", bytes)
"""16 bytes: a call id and a 2-byte index. Puts take a call number of their own."""

ActorId = NewType("ActorId", bytes)
"""16 bytes: the object id of the first handle, so an actor names its creator."""

FunctionId = NewType("FunctionId", bytes)
"""16 bytes: the hash of a pickled function or class."""

Address = NewType("Address", str)
"""Where a machine hears: a letter for its kind and its incarnation in hex, ``w:9f86d081884c7d65``.

Kinds: ``c`` client, ``w`` worker, ``n`` node, ``s`` control store. An address is never used twice.
"""

INCARNATION_BYTES = 8
CALL_ID_BYTES = 14
OBJECT_ID_BYTES = 16


def address(kind: str, incarnation: bytes) -> Address:
    """The address of the machine of that kind in that process."""
    return Address(f"{kind}:{incarnation.hex()}")


def incarnation_of(place: Address) -> Incarnation:
    """The incarnation an address was made from."""
    return Incarnation(bytes.fromhex(place[2:]))


def call_id(client: bytes, number: int) -> CallId:
    """The id of a client's ``number``-th call."""
    return CallId(client + number.to_bytes(6, "big"))


def object_id(call: bytes, index: int) -> ObjectId:
    """The id of a call's ``index``-th result."""
    return ObjectId(call + index.to_bytes(2, "big"))


def owner_of(thing: bytes) -> Incarnation:
    """The client that answers for a call, an object or an actor."""
    return Incarnation(thing[:INCARNATION_BYTES])


def owner_address(thing: bytes) -> Address:
    """Where the owner of a call, an object or an actor hears."""
    return Address("c:" + thing[:INCARNATION_BYTES].hex())


def call_of(thing: bytes) -> CallId:
    """The call that an object is a result of."""
    return CallId(thing[:CALL_ID_BYTES])


def brief(letter: str, thing: bytes) -> str:
    """An id as people read it, ``o:1f3a9c00-12``: four bytes of the owner, the number in hex."""
    number = (
        int.from_bytes(thing[INCARNATION_BYTES:CALL_ID_BYTES], "big") if len(thing) > 8 else None
    )
    text = thing[:4].hex()
    if number is not None:
        text += f"-{number:x}"
    index = int.from_bytes(thing[CALL_ID_BYTES:], "big")
    return f"{letter}:{text}" + (f".{index}" if index else "")
