"""The peers that are clusters: fabric itself, Ray and dask.distributed.

Each gets what its own documentation shows for one machine, without what only watches (dashboards).
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from bench.peer import PATIENCE_S, Peer, Ref
from bench.work import dask_fan_out, fabric_fan_out, ray_fan_out

ROOT = Path(__file__).parent.parent


class Fabric(Peer):
    """Fabric, private to the process that measures."""

    name = "fabric"
    distribution = "fabric-compute"
    verbs = frozenset({"submit", "refs", "map", "actor", "put", "wait", "nested", "drivers"})
    importing = """
import fabric
fabric.init, fabric.task, fabric.actor, fabric.get, fabric.wait, fabric.put
"""
    script = """
import fabric
fabric.init(num_cpus=2)
@fabric.task
def one(): return 1
print(fabric.get(one.remote()), flush=True)
"""
    _home = ""

    def start(self, workers: int) -> None:
        self._fabric: Any = import_module("fabric")
        self._fabric.init(num_cpus=workers)

    def stop(self) -> None:
        self._fabric.shutdown()
        if self._home:
            self._run_command("down")
            shutil.rmtree(self._home)

    def _run_command(self, *words: str) -> None:
        subprocess.run([sys.executable, "-m", "cli", *words, "--json"], check=True, cwd=ROOT)

    def start_shared(self, workers: int) -> str:
        self._home = tempfile.mkdtemp(prefix="b-", dir="/tmp")
        os.environ["FABRIC_HOME"] = self._home
        self._run_command("up", "--num-cpus", str(workers))
        self.join("auto")
        return "auto"

    def join(self, address: str) -> None:
        self._fabric = import_module("fabric")
        self._fabric.init(address=address)

    def task(self, function: Callable[..., Any]) -> Callable[..., Ref]:
        submit: Callable[..., Ref] = self._fabric.task(function).remote
        return submit

    def get(self, refs: list[Ref], timeout_s: float = PATIENCE_S) -> list[Any]:
        return list(self._fabric.get(refs, timeout=timeout_s))

    def get_one(self, ref: Ref) -> Any:
        return self._fabric.get(ref)

    def is_done(self, ref: Ref) -> bool:
        return bool(self._fabric.wait([ref], timeout=0)[0])

    def one_by_one(self, refs: list[Ref]) -> Iterator[Ref]:
        while refs:
            done, refs = self._fabric.wait(refs)
            yield from done

    def map(self, function: Callable[..., Any], values: Iterable[Any]) -> list[Any]:
        return list(self._fabric.get(self._fabric.task(function).map(values)))

    def actor(self, kind: type, method: str) -> Callable[..., Ref]:
        submit: Callable[..., Ref] = getattr(self._fabric.actor(kind).remote(), method).remote
        return submit

    def put(self, value: Any) -> Ref:
        return self._fabric.put(value)

    def fan_out(self) -> Callable[[int], int]:
        return fabric_fan_out


class Ray(Peer):
    """Ray, without dashboard and usage report."""

    name = "ray"
    distribution = "ray"
    verbs = frozenset({"submit", "refs", "actor", "put", "wait", "nested", "drivers"})
    importing = "import ray"
    script = """
import ray
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
@ray.remote
def one(): return 1
print(ray.get(one.remote()), flush=True)
"""
    _directory = ""

    def start(self, workers: int) -> None:
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        self._directory = tempfile.mkdtemp(prefix="b-", dir="/tmp")
        self._ray: Any = import_module("ray")
        self._ray.init(
            num_cpus=workers,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
            _temp_dir=self._directory,
        )

    def stop(self) -> None:
        self._ray.shutdown()
        if self._directory:
            shutil.rmtree(self._directory, ignore_errors=True)

    def start_shared(self, workers: int) -> str:
        self.start(workers)
        return str(self._ray.get_runtime_context().gcs_address)

    def join(self, address: str) -> None:
        self._ray = import_module("ray")
        self._ray.init(address=address, log_to_driver=False, logging_level="ERROR")

    def task(self, function: Callable[..., Any]) -> Callable[..., Ref]:
        submit: Callable[..., Ref] = self._ray.remote(function).remote
        return submit

    def get(self, refs: list[Ref], timeout_s: float = PATIENCE_S) -> list[Any]:
        return list(self._ray.get(refs, timeout=timeout_s))

    def get_one(self, ref: Ref) -> Any:
        return self._ray.get(ref)

    def is_done(self, ref: Ref) -> bool:
        return bool(self._ray.wait([ref], timeout=0)[0])

    def one_by_one(self, refs: list[Ref]) -> Iterator[Ref]:
        while refs:
            done, refs = self._ray.wait(refs)
            yield from done

    def actor(self, kind: type, method: str) -> Callable[..., Ref]:
        submit: Callable[..., Ref] = getattr(self._ray.remote(kind).remote(), method).remote
        return submit

    def put(self, value: Any) -> Ref:
        return self._ray.put(value)

    def fan_out(self) -> Callable[[int], int]:
        return ray_fan_out


class Dask(Peer):
    """dask.distributed on a LocalCluster of processes with one thread each."""

    name = "dask"
    distribution = "distributed"
    verbs = frozenset({"submit", "refs", "actor", "put", "wait", "nested", "drivers"})
    importing = "from dask.distributed import Client, LocalCluster"
    script = """
from dask.distributed import Client
def one(): return 1
if __name__ == "__main__":
    with Client(n_workers=2, threads_per_worker=1, dashboard_address=None) as client:
        print(client.submit(one).result(), flush=True)
"""
    _cluster: Any = None
    _directory = ""

    def start(self, workers: int) -> None:
        self._distributed: Any = import_module("distributed")
        self._directory = tempfile.mkdtemp(prefix="b-", dir="/tmp")
        self._cluster = self._distributed.LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            dashboard_address=None,
            local_directory=self._directory,
            silence_logs=50,
        )
        self._client = self._distributed.Client(self._cluster)

    def stop(self) -> None:
        self._client.close()
        if self._cluster is not None:
            self._cluster.close()
            shutil.rmtree(self._directory, ignore_errors=True)

    def start_shared(self, workers: int) -> str:
        self.start(workers)
        return str(self._cluster.scheduler_address)

    def join(self, address: str) -> None:
        self._distributed = import_module("distributed")
        self._client = self._distributed.Client(address)

    def task(self, function: Callable[..., Any]) -> Callable[..., Ref]:
        submit = self._client.submit  # "pure" would run a call once and share its result
        return lambda *arguments: submit(function, *arguments, pure=False)

    def get(self, refs: list[Ref], timeout_s: float = PATIENCE_S) -> list[Any]:
        if refs and not hasattr(refs[0], "key"):  # calls of actors
            return [ref.result() for ref in refs]
        return list(self._client.gather(refs))

    def get_one(self, ref: Ref) -> Any:
        return ref.result()

    def is_done(self, ref: Ref) -> bool:
        return bool(ref.done())

    def one_by_one(self, refs: list[Ref]) -> Iterator[Ref]:
        return iter(self._distributed.as_completed(refs))

    def actor(self, kind: type, method: str) -> Callable[..., Ref]:
        future = self._client.submit(kind, actor=True, pure=False)
        submit: Callable[..., Ref] = getattr(future.result(), method)
        return submit

    def put(self, value: Any) -> Ref:
        return self._client.scatter(value)

    def fan_out(self) -> Callable[[int], int]:
        return dask_fan_out
