"""What a build will take, told before its first step: time, room on the disk, memory, and what is read how often.

Time is arithmetic and encoding, at the speeds of this machine: a moment of products and of rounding is timed.
Reading and downloading are counted in bytes, since nobody knows the disk's speed from a cold cache; what gptq takes
beyond rounding is not counted. Each pass says its own time as soon as a layer tells. Room and memory are upper bounds
of the largest step: passes keep their hidden states in files, and one layer in memory as the source and as float32 has
it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..allocate.contest import PLAIN
from ..allocate.groups import ModuleGroup
from ..allocate.measure import MOST_PROBES, probes_of
from ..allocate.run import AllocateOptions
from ..builds.write.work import BASE_MEMORY, SLACK
from ..disk import files as disk
from ..errors import OutputError
from ..plan.plan import Plan
from ..plan.recipe.recipe import available
from ..source.checkpoint import Checkpoint
from ..source.hub.reader import HubReader
from ..stream.speed import Speeds
from ..stream.state import SETS
from ..words.formats import GPTQ, IMATRIX
from ..words.units import show_bytes, show_size

_FLOAT = 4
# a probe is computed from the layer of its group on: half of the layers in the mean
_HALF = 0.5


@dataclass(frozen=True, slots=True)
class Outline:
    """What a build is made of, as far as it is known before: the plan that keeps everything, groups, documents.

    `tokens` are those of each purpose. `free` are the bytes free where OUT will be, `download` those of the source that
    are not on this machine.
    """

    plan: Plan
    groups: Sequence[ModuleGroup]
    options: AllocateOptions
    tokens: Mapping[str, int]
    width: int
    free: int
    download: int = 0

    @property
    def build_bytes(self) -> int:
        """The most bytes that the build can take."""
        return min(self.options.budgets[0].nbytes, int(self.plan.totals["bytes"]))

    @property
    def contestants(self) -> int:
        """The most recipes that an allocation is held against."""
        return len(PLAIN) * len(self.options.group_sizes) + len(available())


@dataclass(frozen=True, slots=True)
class ExpectedStep:
    """One step: what it does in words, and how long the arithmetic and the encoding of it take, in seconds."""

    name: str
    what: str
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a build takes. `disk_bytes` are needed at once beside OUT, on its disk; `memory_bytes` by the process."""

    steps: tuple[ExpectedStep, ...]
    build_bytes: int
    work_bytes: int
    download_bytes: int
    free_bytes: int
    memory_bytes: int
    read_bytes: int

    def as_dict(self, documents: Mapping[str, int]) -> dict[str, Any]:
        """What build.json keeps of it, beside the number of documents of each purpose."""
        sizes = ("build_bytes", "work_bytes", "download_bytes", "free_bytes", "memory_bytes", "read_bytes")
        return {
            "documents": dict(documents),
            "steps": [{"step": s.name, "what": s.what, "seconds": round(s.seconds, 3)} for s in self.steps],
            **{name: getattr(self, name) for name in sizes},
        }


def forecast(work: Outline, speeds: Speeds) -> Forecast:
    """Work out what a build takes."""
    totals = work.plan.totals
    steps = tuple(_steps(work, speeds))
    return Forecast(
        steps,
        work.build_bytes,
        max(_pass_bytes(work), _encoded_bytes(work)) + SLACK,
        work.download,
        work.free,
        BASE_MEMORY + _layer_bytes(work.plan),
        int(totals["source_bytes"]),
    )


def check_room(expected: Mapping[str, Any], held: int, out: Path) -> None:
    """Raise OutputError where the disk of OUT is too small for all steps.

    `expected` is what the record says of them; `held` bytes are taken by the work already.
    """
    names = "build_bytes", "work_bytes", "download_bytes", "free_bytes"
    build, work, download, free = (int(expected[name]) for name in names)
    if (needed := build + work + download - held) > free:
        also = f", the source {show_bytes(download)}" if download else ""
        raise OutputError(
            f"{out}: all steps together take {show_size(needed)} there (the build at most {show_bytes(build)}, work"
            f" {show_bytes(work)}{also}); {show_size(free)} are free: make room or choose another disk"
        )


def free_bytes(out: Path) -> int:
    """Bytes free where OUT will be."""
    return disk.free_bytes(out.absolute().parent)


def missing_bytes(source: Checkpoint, out: Path) -> int:
    """Bytes of a source on the Hub that are downloaded to the usual cache, if that is on the disk of OUT; else 0."""
    return source.reader.missing_beside(out, source.files) if isinstance(source.reader, HubReader) else 0


def allocation_seconds(work: Outline, speeds: Speeds) -> tuple[float, float]:
    """Seconds of arithmetic and encoding that an allocation takes: to measure, and to check what came out."""
    probes, others, groups = len(probes_of(work.groups)), work.contestants, max(1, len(work.groups))
    measured = _streams(work, speeds, 1 + _HALF * probes, "allocate") + _encoded(work, speeds, probes / groups)
    return measured, _streams(work, speeds, 2 + others, "check") + _encoded(work, speeds, 1 + others)


def _streams(work: Outline, speeds: Speeds, count: float, purpose: str) -> float:
    """Seconds of so many passes over a purpose's tokens."""
    return 2 * int(work.plan.totals["active_parameters"]) * work.tokens[purpose] * count / speeds.operations


def _encoded(work: Outline, speeds: Speeds, times: float) -> float:
    """Seconds to encode the model so many times."""
    return int(work.plan.totals["parameters"]) * times / speeds.parameters(work.options.measured_with)


def _steps(work: Outline, speeds: Speeds) -> Iterator[ExpectedStep]:
    options, tokens = work.options, work.tokens
    if options.method == IMATRIX:
        yield ExpectedStep(
            "calibrate", f"{tokens['calibrate']:,} tokens, one pass", _streams(work, speeds, 1, "calibrate")
        )
    elif options.method == GPTQ:
        yield ExpectedStep("calibrate", "nothing beforehand: convert makes its own pass for gptq")
    else:
        yield ExpectedStep("calibrate", f"nothing: {options.method} needs no documents")
    probes, others = len(probes_of(work.groups)), work.contestants
    checked_by = f"{others} recipes at most"
    what = (
        f"{len(work.groups)} groups, {probes} choices measured, then those near the best; checked against {checked_by}"
    )
    yield ExpectedStep("allocate", what, sum(allocation_seconds(work, speeds)))
    own = _streams(work, speeds, 2, "calibrate") if options.method == GPTQ else 0.0
    yield ExpectedStep("convert", f"at most {show_bytes(work.build_bytes)}", _encoded(work, speeds, 1) + own)
    # each recipe that is encoded on documents costs what the build does, so one is compared
    others, beside = (1, "beside the best other recipe") if options.method == GPTQ else (others, f"beside {checked_by}")
    judged = own + _encoded(work, speeds, others) + _streams(work, speeds, 3 + others, "judge")
    yield ExpectedStep("compare", f"{tokens['judge']:,} tokens, {beside}", judged)
    yield ExpectedStep("validate", "the limits of tolerances.toml, written before")
    yield ExpectedStep("report", "one HTML page")


def _pass_bytes(work: Outline) -> int:
    """Hidden states of the largest pass."""
    probes = min(MOST_PROBES, len(probes_of(work.groups)))
    others = 3 + work.contestants
    most = max(work.tokens["allocate"] * (1 + probes), max(work.tokens["check"], work.tokens["judge"]) * others)
    return SETS * _FLOAT * work.width * most


def _encoded_bytes(work: Outline) -> int:
    """What gptq's own pass leaves beside the build until that is written (see `Compensating.nbytes`)."""
    if work.options.method != GPTQ:
        return 0
    return work.build_bytes + SETS * _FLOAT * work.width * work.tokens["calibrate"]


def _layer_bytes(plan: Plan) -> int:
    """The largest layer, as the source and as float32 has it, or what lies outside of the layers."""
    layers: dict[int | None, int] = {}
    for planned in plan.modules:
        size = planned.source_nbytes + _FLOAT * planned.module.parameters
        layers[planned.module.layer] = layers.get(planned.module.layer, 0) + size
    return max(layers.values(), default=0)
