"""What was heard, in order: a rolling hash of it all, and the tail in words.

The hash is over the bytes of the delivered frames with time and place, so two runs that differ in
anything that a machine heard differ in it. The words are made only when somebody reads them.
"""

from collections import deque
from hashlib import blake2b

import msgspec

from fabric.ids import CALL_ID_BYTES, INCARNATION_BYTES, OBJECT_ID_BYTES

TAIL = 20000


class Trace:
    """See the module."""

    def __init__(self) -> None:
        self._hash = blake2b(digest_size=16)
        self._tail: deque[tuple[float, str, str, object]] = deque(maxlen=TAIL)

    def heard(self, now: float, source: str, hearer: str, frame: bytes) -> None:
        """A frame was delivered."""
        self._hash.update(f"{now!r} {source} {hearer} ".encode())
        self._hash.update(frame)

    def note(self, now: float, source: str, hearer: str, what: object) -> None:
        """A message was handled, or something else worth telling happened."""
        self._tail.append((now, source, hearer, what))

    def digest(self) -> str:
        """The hash of everything so far."""
        return self._hash.hexdigest()

    def lines(self, count: int, about: str = "") -> list[str]:
        """The last so many lines, or those that name something."""
        told = [
            f"{now:11.6f}  {_short(source):>7} -> {_short(hearer):<7} {_words(what)}"
            for now, source, hearer, what in self._tail
        ]
        if about:
            told = [line for line in told if about in line]
        return told[-count:]


def _short(place: str) -> str:
    return place[:6] if place[1:2] == ":" else place


def _words(what: object) -> str:
    text = what if isinstance(what, str) else in_words(what)
    return text if len(text) < 400 else text[:397] + "..."


def in_words(what: object) -> str:
    """A message as people read it: ids short, values as their size."""
    if isinstance(what, msgspec.Struct):
        fields = [
            f"{name}={in_words(value)}"
            for name in what.__struct_fields__
            if (value := getattr(what, name)) not in ("", b"", (), None)
        ]
        return f"{type(what).__name__}({' '.join(fields)})"
    if isinstance(what, bytes):
        if len(what) in (CALL_ID_BYTES, OBJECT_ID_BYTES):
            number = int.from_bytes(what[8:14], "big")
            return f"{what[:2].hex()}-{number}" + (f".{what[15]}" if len(what) > 14 else "")
        return what.hex()[:4] if len(what) == INCARNATION_BYTES else f"<{len(what)}>"
    if isinstance(what, tuple | list):
        return f"[{', '.join(map(in_words, what))}]"
    return str(what)
