"""Where the microseconds of a call go: ``python -m bench.profile_calls [--calls N] [--top N]``.

Two runs of the same calls. The first is undisturbed and reads each thread's CPU time from the
kernel, in the driver and in every process below it. The second has a profiler in the driver's main
thread, in its other threads and in the workers' main threads; a profiler slows what it looks at, so
its times show proportions, not costs. From Python 3.12 on only one thread of a process can be
profiled: the driver's main thread, then.
"""

import argparse
import os
import sys
import threading
from importlib import import_module
from typing import Any

from bench.processes import command_of, descendants, thread_cpu_s
from bench.profiles import PROFILES, arm, arm_new_threads, arm_worker, report, worker_report
from bench.work import nothing


def threads_now() -> dict[tuple[int, str], float]:
    """CPU time of every thread here and below; processes that end meanwhile are left out."""
    found: dict[tuple[int, str], float] = {}
    for pid in (os.getpid(), *descendants()):
        try:
            found |= {(pid, thread): spent for thread, spent in thread_cpu_s(pid).items()}
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def show_threads(before: dict[tuple[int, str], float], calls: int) -> None:
    """Microseconds of CPU a call, by thread; what spent under 0.05 is left out."""
    total = 0.0
    for (pid, thread), spent in sorted(threads_now().items()):
        cost = (spent - before.get((pid, thread), 0.0)) / calls * 1e6
        total += cost
        if cost >= 0.05:
            who = "driver" if pid == os.getpid() else command_of(pid)[:40]
            print(f"{cost:8.2f} µs  {who:<40}  {thread}")
    print(f"{total:8.2f} µs  all")


def profile_threads(fabric: Any, calls: int, top: int) -> dict[str, str]:
    """Thread → its profile, of one run with profilers in all of them."""

    def call_all() -> None:
        submit = fabric.task(nothing).remote
        fabric.get([submit() for _ in range(calls)])

    if sys.version_info < (3, 12):
        arm_new_threads()
    with fabric.init(num_cpus=2):
        threading.setprofile(None)
        armed = fabric.task(arm_worker).remote
        fabric.get([armed(number) for number in range(1_000)])
        arm("main thread")
        call_all()
        found = {"driver, main thread": report(PROFILES.pop("main thread"), top)}
        asked = fabric.task(worker_report).remote
        workers = dict(fabric.get([asked(top) for _ in range(200)]))
    found |= {f"driver, {name}": report(profile, top) for name, profile in PROFILES.items()}
    found |= {f"worker {pid}, main thread": text for pid, text in workers.items()}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Where the microseconds of a call go.")
    parser.add_argument("--calls", type=int, default=20_000)
    parser.add_argument("--top", type=int, default=12)
    chosen = parser.parse_args()
    fabric: Any = import_module("fabric")
    submit = fabric.task(nothing).remote
    with fabric.init(num_cpus=2):
        fabric.get([submit() for _ in range(chosen.calls)])
        before = threads_now()
        fabric.get([submit() for _ in range(chosen.calls)])
        print(f"CPU of {chosen.calls:,} calls, by thread\n")
        show_threads(before, chosen.calls)
    for name, text in profile_threads(fabric, chosen.calls, chosen.top).items():
        print(f"\n\n{name}\n{text}")


if __name__ == "__main__":
    main()
