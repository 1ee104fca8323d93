"""The steps of a build, one after another: calibrate, allocate, convert, compare, validate, report.

Each is the library of the command of its name, on the documents of its purpose, and leaves that command's record in the
work folder. A step that is done is not done again (see `record`); one that was killed goes on from its own unfinished
work, so a build that was killed anywhere ends with the same bytes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..allocate.contest import contestants, with_stand_in
from ..allocate.record import allocation_record
from ..allocate.run import checked_with, run_allocation
from ..allocate.shares import Shares
from ..builds.methods import needs_columns, needs_documents
from ..builds.write.convert import convert
from ..calibrate.candidates import EncodedCandidates
from ..calibrate.compensating import Documents as Calibrating
from ..calibrate.record import Calibration
from ..calibrate.run import run_calibration
from ..disk import files as disk
from ..divergence.record import Question, run_comparison
from ..divergence.texts.documents import Documents, read_documents
from ..divergence.texts.tokens import open_tokenizer
from ..layout.layout import Layout, read_layout
from ..plan.plan import make_plan
from ..plan.recipe.recipe import load_recipe
from ..records.files import read_record, record_text
from ..records.loading import load
from ..report.page.page import make_report
from ..source.checkpoint import Checkpoint
from ..stream.candidates import Candidate
from ..stream.options import CompareOptions
from ..sweep.run import needed
from ..validate import read_evidence, read_tolerances, template_text, validate
from ..words.formats import GPTQ, IMATRIX
from .folder import (
    ALLOCATION,
    CALIBRATING,
    CALIBRATION,
    COMPARING,
    COMPARISON,
    JUDGE,
    PAGE,
    RECIPE,
    TOLERANCES,
    VERDICT,
    BuildFolder,
    document_file,
)
from .record import Steps
from .settings import BuildSettings, Showing

STEPS = ("calibrate", "allocate", "convert", "compare", "validate", "report")
MANIFEST, AUDIT = "OUT/mlxquant.json", "OUT/audit.json"


@dataclass(frozen=True)
class _Step:
    """A step, the files that it reads and writes, and what does it; None where the method needs no such step."""

    name: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    act: Callable[[], None] | None


class BuildRun:
    """One run of a build's steps; `at` is the one that it is at.

    `open_source` opens the source anew for each step that reads its weights.
    """

    def __init__(
        self, folder: BuildFolder, steps: Steps, settings: BuildSettings, open_source: Callable[[], Checkpoint],
        showing: Showing,
    ) -> None:  # fmt: skip
        self._folder, self._steps, self._settings, self._showing = folder, steps, settings, showing
        self._open = open_source
        self._method = settings.options.method
        self.at = STEPS[0]

    def run(self) -> dict[str, Any]:
        """Do what is not done. Gives the record, with the verdict. Raises what the steps raise."""
        for number, step in enumerate(self._sequence(), 1):
            self.at = step.name
            where = f"step {number} of {len(STEPS)}, {step.name}"
            if step.act is None:
                self._showing.tell(f"{where}: nothing to do for the method {self._method}")
            elif self._steps.is_done(step.name, step.reads):
                self._showing.tell(f"{where}: done before")
            else:
                self._showing.tell(where)
                began = time.monotonic()
                step.act()
                self._steps.finish(step.name, step.reads, step.writes, time.monotonic() - began)
        self._steps.conclude(self._outcome())
        return self._steps.record

    def _sequence(self) -> list[_Step]:
        columns = (CALIBRATION,) if self._method == IMATRIX else ()
        texts = (document_file("calibrate"),) if self._method == GPTQ else ()
        chosen = (document_file("allocate"), document_file("check"), *columns, *texts)
        return [
            _Step("calibrate", (document_file("calibrate"),), columns, self._calibrate if columns else None),
            _Step("allocate", chosen, (RECIPE, ALLOCATION), self._allocate),
            _Step("convert", (RECIPE, *columns, *texts), (MANIFEST, AUDIT), self._convert),
            _Step("compare", (document_file(JUDGE), MANIFEST, ALLOCATION, *columns, *texts),
                  (TOLERANCES, COMPARISON), self._compare),
            _Step("validate", (TOLERANCES, COMPARISON), (VERDICT,), self._validate),
            _Step("report", (ALLOCATION, AUDIT, COMPARISON, VERDICT), (PAGE,), self._report),
        ]  # fmt: skip

    # --- the steps ---

    def _calibrate(self) -> None:
        source = self._open()
        documents = self._documents(source, "calibrate")
        described = documents.described(Path(document_file("calibrate")).name)
        with self._showing.passing() as watch:
            result = run_calibration(source, documents.documents, described, self._passing(CALIBRATING), watch)
        assert result is not None, "one rank"
        self._folder.write(CALIBRATION, result[0])

    def _allocate(self) -> None:
        source = self._open()
        layout = self._layout(source)
        purposes = ("calibrate", "allocate", "check") if self._method == GPTQ else ("allocate", "check")
        read = {purpose: list(self._documents(source, purpose).documents) for purpose in purposes}
        shares = Shares(read.get("calibrate", []), read["allocate"], read["check"])
        data, options = self._steps.record["request"]["data"]["--data"], self._settings.options
        described = {**data, "documents": sum(map(len, read.values()))}
        calibration = self._calibration(source)
        with self._showing.passing() as watch:
            outcome = run_allocation(
                source, layout, shares, described, options, self._folder.allocating,
                passes=CompareOptions(dtype=self._settings.dtype), calibration=calibration, watch=watch,
            )  # fmt: skip
        self._folder.write(RECIPE, outcome.budgets[0].text.encode())
        self._write_record(ALLOCATION, allocation_record(source, layout, shares, described, options, outcome))

    def _convert(self) -> None:
        source = self._open()
        layout = self._layout(source)
        plan = make_plan(layout, load_recipe(str(self._folder.file(RECIPE))), source)
        for warning in plan.warnings:
            self._showing.warn(warning)
        calibration = self._calibration(source)
        columns = calibration.columns(layout) if calibration is not None and needs_columns(plan) else None
        disk.make_folder(self._folder.out.absolute().parent)
        options = replace(self._settings.convert, dtype=self._settings.dtype, reuse=True)
        encoder, encoding = None, self._encoding(source)
        if encoding is not None and needs_documents(plan):
            encoder = encoding.for_build(self._open(), layout, plan, dtype=self._settings.dtype)
        with self._showing.writing() as watch:
            convert(
                source, layout, plan, self._folder.out, options, watch, encoder=encoder, columns=columns,
                opening=self._showing.opening,
            )  # fmt: skip

    def _compare(self) -> None:
        settings = self._settings
        entry = self._allocated()
        limits = settings.tolerances or template_text(against=[entry["best"]] if entry["best"] else ()).encode()
        self._folder.write(TOLERANCES, limits)  # before anything is measured
        source = self._open()
        others, encoding = self._others(source, entry["best"])
        candidates = [Candidate(self._name(), build=self._folder.out), *others]
        question = Question(self._folder.file(document_file(JUDGE)), max_tokens=settings.max_tokens)
        options = needed(self._passing(COMPARING), read_tolerances(self._folder.file(TOLERANCES), None))
        with self._showing.passing() as watch:
            record, _ = run_comparison(
                source, candidates, question, options, watch, calibration=self._calibration(source),
                encoding=encoding, warn=self._showing.warn,
            )  # fmt: skip
        self._write_record(COMPARISON, record)

    def _validate(self) -> None:
        best = self._allocated()["best"]
        where = None if best is None else f"recipe {best} of the same source"
        evidence = [read_evidence(self._folder.file(COMPARISON))]
        tolerances = self._folder.file(TOLERANCES)
        self._write_record(VERDICT, validate(evidence, tolerances, candidates=[self._name()], baseline_at=where))

    def _report(self) -> None:
        files = [self._folder.file(name) for name in (ALLOCATION, AUDIT, COMPARISON, VERDICT)]
        page = make_report([load(path) for path in files], f"{self._name()}: build of {self._source_name()}")
        self._folder.write(PAGE, page.encode("utf-8", "replace"))

    # --- what several steps need ---

    def _layout(self, source: Checkpoint) -> Layout:
        return read_layout(source, dtype=self._settings.dtype)

    def _documents(self, source: Checkpoint, purpose: str) -> Documents:
        path = self._folder.file(document_file(purpose))
        return read_documents(path, open_tokenizer(source), max_tokens=self._settings.max_tokens)

    def _passing(self, work: str) -> CompareOptions:
        return CompareOptions(dtype=self._settings.dtype, work=self._folder.path / work)

    def _calibration(self, source: Checkpoint) -> Calibration | None:
        return Calibration(self._folder.file(CALIBRATION), source) if self._method == IMATRIX else None

    def _encoding(self, source: Checkpoint) -> EncodedCandidates | None:
        """What encodes on documents; None for a method that needs none of them."""
        if self._method != GPTQ:
            return None
        documents, options = self._documents(source, "calibrate"), self._settings.convert
        data = Calibrating(documents.documents, documents.described(Path(document_file("calibrate")).name))
        return EncodedCandidates(data, threads=options.threads, max_memory=options.max_memory)

    def _others(self, source: Checkpoint, best: str | None) -> tuple[list[Candidate], EncodedCandidates | None]:
        """The recipes that OUT is compared with, and what encodes them in the pass, where their method needs documents.

        Each costs such a method what the build itself does, so only the best of the others is compared then.
        """
        asked, layout = self._settings.options, self._layout(source)
        entered = contestants(
            layout, source, asked.budgets[0].nbytes, active=asked.active, method=asked.method, bits=asked.bits,
            group_sizes=asked.group_sizes,
        )  # fmt: skip
        encoding = self._encoding(source)
        if encoding is not None:
            entered = [each for each in entered if each.name == best]
        if checked_with(asked, layout) != asked.method:
            self._showing.warn(f"{best} is compared with {asked.measured_with} in place of {asked.method}: a tied head")
            entered, encoding = [replace(each, recipe=with_stand_in(each.recipe)) for each in entered], None
        return [Candidate(each.name, recipe=each.recipe) for each in entered], encoding

    def _allocated(self) -> dict[str, Any]:
        """What the allocation says of the one budget."""
        entry: dict[str, Any] = json.loads(disk.read_regular(self._folder.file(ALLOCATION)))["budgets"][0]
        return entry

    def _name(self) -> str:
        return self._folder.out.resolve().name

    def _source_name(self) -> str:
        return str(self._steps.record["request"]["source"]["name"])

    def _write_record(self, name: str, record: dict[str, Any]) -> None:
        self._folder.write(name, f"{record_text(record)}\n".encode())

    def _outcome(self) -> dict[str, Any]:
        """What came out, for the record and whoever shows it."""
        verdict = read_record(self._folder.file(VERDICT))
        compared = read_record(self._folder.file(COMPARISON))
        own = next(c for c in compared["candidates"] if c["name"] == self._name())
        entry = self._allocated()
        return {
            "build": {"name": self._name(), "bytes": own["bytes"], "bpw": own["bpw"]},
            "recipe": {"ships": entry["ships"], "why": entry["why"], "best_of_the_others": entry["best"]},
            "verdict": verdict["verdict"],
        }
