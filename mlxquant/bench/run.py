"""Measure builds in turn and put the record together.

Builds are interleaved: every round measures each of them, in an order drawn anew, so that what the machine does
meanwhile meets all of them alike and a ratio can be taken pair by pair. Where all builds fit into memory at once they
stay loaded, and each workload is measured for every build before the next one; else each round loads every build
once, which its load time shows. Servers are measured like builds that do not fit: all workloads of one model, then
the next.

`Bench.run` does the work and returns the record; it prints nothing. What could not be measured is in the record as a
failure with its reason and is in no average.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from random import Random
from typing import Any

from ..errors import MeasurementError
from ..records.head import describe_machine, describe_versions, utc_date
from ..words.interrupts import asked_to_end
from ..words.progress import Progress, Watch, unwatched
from ..words.secrets import redacted
from ..words.text import distinct
from .conditions import Reading, between, condition_notes, gpu_cores, power_mode, read_conditions, unreadable
from .record import SCHEMA, finish
from .served import model_notes, stream_notes
from .workload import BenchSettings, Subject, Workload


@dataclass
class Bench:
    """One run. `resident` keeps all subjects open; `machine` is what the device and its owner add to the record.

    With `served`, a server does the work: its CPU time is no other process's. Where `machine` is `unknown`, it is not
    this one, and nothing of this one is told.
    """

    subjects: Sequence[Subject]
    settings: BenchSettings
    resident: bool = True
    served: bool = False
    machine: dict[str, Any] = field(default_factory=dict)
    prompt: dict[str, Any] = field(default_factory=dict)
    watch: Watch = unwatched
    rows: list[dict[str, Any]] = field(default_factory=list)
    loads: dict[int, list[float]] = field(default_factory=dict)
    warm: set[int] = field(default_factory=set)
    began: float = 0.0

    def run(self) -> dict[str, Any]:
        """Measure everything and return the record. Stopped by hand, it keeps what it has, if that is a round."""
        start = read_conditions()
        self.began = start.at
        date = datetime.now(UTC)
        notes: list[str] = []
        try:
            for row in self._rows():
                self.rows.append(row)
                if asked_to_end():  # a library may have kept the interrupt to itself
                    raise KeyboardInterrupt
        except KeyboardInterrupt:
            if not any(r["round"] > 1 for r in self.rows):
                raise
            notes.append(f"stopped by hand in round {self.rows[-1]['round']} of {self.settings.repetitions}")
        return self._record(date, start, notes)

    def _rows(self) -> Iterator[dict[str, Any]]:
        draw = Random(self.settings.seed)
        everyone = list(range(len(self.subjects)))
        if self.resident:
            try:
                for index in everyone:
                    self._open(index)
                for round_ in range(1, self.settings.repetitions + 1):
                    for workload in self.settings.workloads():
                        for order, index in enumerate(_shuffled(everyone, draw)):
                            yield self._measure(index, workload, round_, order)
            finally:
                for subject in self.subjects:
                    subject.close()
            return
        for round_ in range(1, self.settings.repetitions + 1):
            for order, index in enumerate(_shuffled(everyone, draw)):
                try:
                    self._open(index)
                    for workload in self.settings.workloads():
                        yield self._measure(index, workload, round_, order)
                finally:
                    self.subjects[index].close()

    def _open(self, index: int) -> None:
        """Load a subject and run every workload, shortened, without counting it; after the first time one will do."""
        subject = self.subjects[index]
        workloads = self.settings.workloads()
        if index in self.warm:
            workloads = workloads[:1]
        self.warm.add(index)
        self._tell(index, "loading")
        seconds = subject.open()
        if seconds is not None:
            self.loads.setdefault(index, []).append(round(seconds, 4))
        for _ in range(self.settings.warmups):
            for workload in workloads:
                self._tell(index, f"warm-up {workload.label}")
                with suppress(MeasurementError):  # it is told where it counts
                    subject.measure(workload.warm(), self.settings, 0)

    def _measure(self, index: int, workload: Workload, round_: int, order: int) -> dict[str, Any]:
        if self.settings.delay_s:
            time.sleep(self.settings.delay_s)
        self._tell(index, workload.label)
        row: dict[str, Any] = {"build": index, "test": workload.label, "round": round_, "order": order}
        before = read_conditions()
        row["at_s"] = round(before.at - self.began, 3)
        try:
            row |= self.subjects[index].measure(workload, self.settings, round_).as_dict()
        except MeasurementError as error:
            row["failure"] = error.as_dict()
        row |= between(before, read_conditions())
        return row | {"others_cores": None} if self.served else row

    def _tell(self, index: int, what: str) -> None:
        total = self.settings.repetitions * len(self.settings.workloads()) * len(self.subjects)
        self.watch(Progress(len(self.rows), total, what, self.subjects[index].name))

    def _record(self, date: datetime, start: Reading, notes: list[str]) -> dict[str, Any]:
        here = "unknown" not in self.machine
        machine = {**describe_machine(), "gpu_cores": gpu_cores(), "power_mode": power_mode()} if here else {}
        machine |= self.machine
        builds = []
        for index, name in enumerate(distinct([s.name for s in self.subjects])):
            builds.append(
                {"name": name, **self.subjects[index].describe(self.settings), "load_s": self.loads.get(index, [])}
            )
        notes += [*model_notes(builds), *stream_notes(self.rows)]
        notes += condition_notes(self.rows, start, machine.get("cores")) if here else []
        record = finish(
            {
                "schema": SCHEMA,
                "date": utc_date(date),
                "machine": machine,
                "versions": describe_versions(),
                "settings": {**self.settings.as_dict(), "resident": self.resident, "text": self.prompt},
                "builds": builds,
                "notes": notes,
                "unreadable": unreadable() if here else [],
                "samples": self.rows,
            }
        )
        return dict(redacted(record))


def _shuffled(items: Sequence[int], draw: Random) -> list[int]:
    return draw.sample(list(items), len(items))
