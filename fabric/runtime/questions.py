"""Questions of user threads that the loop thread answers.

A part of the client. A thread says which answer it expects before it tells its question, then
waits; the loop thread brings the answer under the same key. What is asked is not known here.
"""

import threading
from typing import Any

from fabric.exceptions import ClusterError
from fabric.failures import load_failure
from fabric.protocol.values import Failure


class Answer:
    """What one thread waits for."""

    __slots__ = ("lock", "message")

    def __init__(self) -> None:
        self.message: Any = None
        self.lock = threading.Lock()
        self.lock.acquire()

    def wait(self, timeout: float) -> Any:
        """The answer; raises it if it is a failure."""
        if not self.lock.acquire(timeout=timeout):
            raise ClusterError(f"The node has not answered within {timeout:g} s.")
        if isinstance(self.message, Failure):
            raise load_failure(self.message)
        return self.message


class Questions:
    """The answers that are expected."""

    def __init__(self) -> None:
        self._expected: dict[bytes, Answer] = {}

    def expect(self, key: bytes) -> Answer:
        """To be said before the question is told."""
        answer = self._expected[key] = Answer()
        return answer

    def answer(self, key: bytes, message: object) -> None:
        """Wake who waits for it; nobody may, then it is dropped. The pop is what makes it once."""
        answer = self._expected.pop(key, None)
        if answer is not None:
            answer.message = message
            answer.lock.release()

    def fail(self, failure: Failure) -> None:
        """No answer will come."""
        for key in list(self._expected):
            self.answer(key, failure)
