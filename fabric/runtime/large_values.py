"""Large values of a client: written into shared memory by the thread that puts them, read in place.

A part of the client. The node gives the segment, the user's thread copies, and only then is the
object put. What a segment looks like is known in `fabric.runtime.segments`.
"""

from __future__ import annotations

import errno
import threading
from typing import TYPE_CHECKING, Any

from fabric.core.effects import WriteSegment
from fabric.core.events import Drop, Put, SegmentWritten, WantSegment
from fabric.core.sizes import segment_bytes
from fabric.exceptions import ObjectLostError
from fabric.failures import load_failure
from fabric.ids import ObjectId, incarnation_of
from fabric.images import Dumped
from fabric.protocol.values import Failure, Sealed
from fabric.runtime.questions import Questions
from fabric.runtime.segments import (
    SegmentMoved,
    SegmentWriter,
    open_segment,
    segment_path,
    store_full,
)

if TYPE_CHECKING:
    from fabric.runtime.client import Client


class LargeValues:
    """See the module."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.questions = Questions()  # by object id; the answers are `WriteSegment`s
        self._writer = SegmentWriter()
        self._lock = threading.Lock()  # a writer is for one thread at a time

    def write(self, object_id: ObjectId, dumped: Dumped) -> Sealed:
        """Write a value and seal it; the caller puts it.

        `ObjectStoreFullError` if it has no room.
        """
        client = self._client
        nbytes = segment_bytes(len(dumped.pickled), [each.nbytes for each in dumped.buffers])
        answer = self.questions.expect(object_id)
        client.check()
        client.tell(WantSegment(object_id, 0, nbytes))
        place: WriteSegment = answer.wait(client.answer_s)
        if isinstance(place.failure, Failure):
            raise load_failure(place.failure)
        node = incarnation_of(client.place.node)
        sealed = Sealed(place.segment, place.generation, nbytes, node)
        try:
            self._copy(sealed, dumped, place.is_warm)
        except (OSError, SegmentMoved) as error:
            client.tell(Put(object_id, sealed))
            client.tell(Drop((object_id,)))  # the node may have the segment back
            if isinstance(error, OSError) and error.errno != errno.ENOSPC:
                raise
            full = store_full(client.place.store_directory, "A value", nbytes, str(error))
            raise load_failure(full) from error
        client.tell(SegmentWritten(object_id, 0))
        return sealed

    def _copy(self, sealed: Sealed, dumped: Dumped, is_warm: bool) -> None:
        path = segment_path(self._client.place.store_directory, sealed.segment)
        with self._lock:
            self._writer.trim()
            self._writer.write(path, sealed.generation, dumped, is_warm)

    def read(self, sealed: Sealed) -> Any:
        """The value; arrays and tables in it lie in shared memory and pin it."""
        path = segment_path(self._client.place.store_directory, sealed.segment)
        try:
            return open_segment(path, sealed.generation)
        except SegmentMoved as error:
            raise ObjectLostError(f"The object's segment holds it no longer: {error}.") from error

    def close(self) -> None:
        """Let go of what is kept mapped for writing."""
        with self._lock:
            self._writer.close()
