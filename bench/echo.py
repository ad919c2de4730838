"""The bare round trip under every call: a DEALER here, a ROUTER in another process, over ipc.

Latencies are bimodal from machine to machine and minute to minute; this echo, measured in the same
run, says what there was to be had.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import zmq


def serve(endpoint: str) -> None:
    """Send back what comes until an empty message comes."""
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        router.bind(endpoint)
        while True:
            source, body = router.recv_multipart()
            router.send_multipart([source, body])
            if not body:
                return


@contextmanager
def echo() -> Iterator[zmq.Socket[bytes]]:
    """A DEALER whose messages come back."""
    with tempfile.TemporaryDirectory(prefix="echo-") as directory:
        endpoint = f"ipc://{Path(directory) / 'socket'}"
        server = subprocess.Popen([sys.executable, "-m", "bench.echo", endpoint])
        try:
            with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
                dealer.connect(endpoint)
                yield dealer
                dealer.send(b"")
                dealer.recv()
            server.wait(timeout=10)
        finally:
            server.kill()
            server.wait()


def round_trips_s(number: int) -> list[float]:
    """How long each of so many round trips of 64 bytes took."""
    body = bytes(64)
    taken = []
    with echo() as dealer:
        for _ in range(number + 100):
            began = time.perf_counter()
            dealer.send(body)
            dealer.recv()
            taken.append(time.perf_counter() - began)
    return taken[100:]


if __name__ == "__main__":
    serve(sys.argv[1])
