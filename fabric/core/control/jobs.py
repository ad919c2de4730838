"""The tables of jobs, and of clients that ended.

A part of the control store. A job runs until its driver ends and is then remembered for a while;
clients are not known while they live, only that they ended, so that what they ask for too late is
not begun. What becomes of their actors is not decided here.
"""

from collections.abc import Iterator, Mapping

from msgspec.structs import replace

from fabric.config import Limits
from fabric.core.machine import InvariantError
from fabric.ids import Incarnation, JobId
from fabric.protocol.records import JobRecord, Record
from fabric.protocol.values import JobSpec, JobView


class JobTable:
    """Every job that runs, the last ones that ended, and the last clients that did."""

    def __init__(self, records: Mapping[bytes, Record], limits: Limits) -> None:
        self.limits = limits
        self.running: dict[JobId, JobRecord] = {}
        self.ended: dict[JobId, JobRecord] = {}
        self.gone: dict[Incarnation, None] = {}  # clients
        self._changed: dict[JobId, None] = {}
        for record in records.values():
            if not isinstance(record, JobRecord):
                raise InvariantError(f"table jobs has a row {record!r}")
            table = self.running if record.view.state == "running" else self.ended
            table[record.view.job] = record

    def register(self, view: JobView, spec: JobSpec, via: Incarnation) -> None:
        """A driver started; told twice, or after its end, it changes nothing."""
        if view.job in self.running or self.is_over(view.job):
            return
        self.running[view.job] = JobRecord(spec, view, via)
        self._changed[view.job] = None

    def end(self, job: JobId) -> None:
        """Its driver is gone; the oldest ended jobs beyond the limit are forgotten."""
        record = self.running.pop(job, None)
        if record is None:
            return
        self.ended[job] = replace(record, view=replace(record.view, state="ended"))
        self._changed[job] = None
        while len(self.ended) > self.limits.ended_jobs_max:
            oldest = next(iter(self.ended))
            del self.ended[oldest]
            self._changed[oldest] = None

    def client_gone(self, client: Incarnation) -> None:
        """A client ended, and no word of it counts that comes later."""
        self.gone[client] = None
        if len(self.gone) > self.limits.answers_kept_max:
            del self.gone[next(iter(self.gone))]

    def is_over(self, job: JobId) -> bool:
        """The job is known to have ended; one never heard of has not."""
        return job in self.ended or Incarnation(job) in self.gone

    def via(self, node: Incarnation) -> list[JobId]:
        """The running jobs whose driver speaks through that node."""
        return [job for job, record in self.running.items() if record.via == node]

    def views(self) -> Iterator[JobView]:
        """Every job as everybody may know it."""
        yield from (record.view for record in self.running.values())
        yield from (record.view for record in self.ended.values())

    def record(self, job: JobId) -> JobRecord | None:
        """Its row; nothing if it is forgotten."""
        return self.running.get(job) or self.ended.get(job)

    def take_changed(self) -> list[JobId]:
        """What changed since the last call."""
        changed, self._changed = list(self._changed), {}
        return changed

    def check(self) -> None:
        """No job both runs and has ended, and what is remembered is bounded."""
        both = [job.hex() for job in self.running if job in self.ended]
        if both:
            raise InvariantError(f"jobs running and ended at once: {both}")
        if len(self.ended) > self.limits.ended_jobs_max:
            raise InvariantError(f"{len(self.ended)} ended jobs are remembered")
