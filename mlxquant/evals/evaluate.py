"""One evaluation from sides and suites to its record: checked, run or gone on with, and worked out.

What is finished is in a file beside the record to be (`OUT.partial`) until the record is there. The record is made of
the trials alone, so a run that was killed ten times gives the record of one that never was, times of day aside.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..bench.workload import distinct
from ..disk.kept import Kept
from ..errors import UsageError
from ..records.head import describe_machine, describe_versions
from ..words.secrets import redacted
from .asking import Sampling
from .identity import same_as
from .items import Suite
from .record import SCHEMA, finish
from .run import Evaluation, Step, digest_of
from .sides import Side
from .trace import Trace


@dataclass(frozen=True, slots=True)
class Settings:
    """How it is run: trials of each item, how answers are drawn, repeats after transport errors, confidence."""

    sampling: Sampling = field(default_factory=Sampling)
    trials: int = 1
    retries: int = 3
    backoff_s: float = 1.0
    confidence: float = 0.95

    def __post_init__(self) -> None:
        wrong = [
            f"{name}: {value:g} is {'less than' if value < least else 'more than'} {least if value < least else most:g}"
            for name, value, least, most in (
                ("--trials", self.trials, 1, 1000),
                ("--retries", self.retries, 0, 100),
                ("--temperature", self.sampling.temperature, 0, 10),
                ("--confidence", self.confidence, 0.5, 0.9999),
            )
            if not least <= value <= most
        ]
        if wrong:
            raise UsageError("\n".join(wrong))

    def as_dict(self) -> dict[str, Any]:
        """The settings as a record keeps them."""
        s = self.sampling
        return {
            "trials": self.trials,
            "temperature": s.temperature,
            "top_p": s.top_p,
            "seed": s.seed,
            "chat_template_kwargs": dict(s.template) if s.template else None,
            "retries": self.retries,
        }


@dataclass
class Files:
    """Where things go: `partial` keeps what is finished, `fresh` throws an earlier one away; None is nowhere."""

    partial: Path | None = None
    fresh: bool = False
    trace: Path | None = None
    content: bool = False


def evaluate(
    sides: Sequence[Side],
    suites: Sequence[Suite],
    settings: Settings,
    files: Files | None = None,
    watch: Callable[[Step], None] = lambda _: None,
) -> dict[str, Any]:
    """Play all items of `suites` through `sides`, the baseline first, and make the record.

    Raises OutputError where files cannot be used, MeasurementError where a side is gone, BuildError where it is none.
    """
    files = files or Files()
    check(sides, suites)
    date = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    about = [_suite(suite) for suite in suites]
    described = [side.describe() for side in sides]
    for side, description in zip(sides[1:], described[1:], strict=True):
        if what := same_as(sides[0].variant, side.variant):
            description["same_as_baseline"] = what
    signature = {
        "schema": SCHEMA,
        "sides": described,
        "suites": about,
        "settings": {k: v for k, v in settings.as_dict().items() if k != "retries"},
        "versions": describe_versions(),
    }
    kept = Kept(files.partial, signature, fresh=files.fresh) if files.partial else None
    trace = Trace(files.trace, content=files.content) if files.trace else None
    evaluation = Evaluation(
        sides, suites, settings.sampling, settings.trials, settings.retries, settings.backoff_s, kept, trace, watch
    )
    try:
        trials = _run(evaluation)
    finally:
        for file in (kept, trace):
            if file is not None:
                file.close()
    record = finish(
        {
            "schema": SCHEMA,
            "date": date,
            "machine": describe_machine(),
            "versions": describe_versions(),
            "confidence": settings.confidence,
            "settings": settings.as_dict(),
            "suites": about,
            "baseline": described[0],
            "candidates": described[1:],
            "trials": trials,
        }
    )
    return dict(redacted(record))


def check(sides: Sequence[Side], suites: Sequence[Suite]) -> None:
    """Refuse what cannot be evaluated. Raises UsageError."""
    if len(sides) < 2:
        raise UsageError("nothing to compare: give --baseline and at least one --candidate")
    names = [side.variant.name for side in sides]
    if distinct(names) != names:
        raise UsageError(f"two sides of one name: {', '.join(names)}; traces and tables need to tell them apart")
    if empty := [suite.name for suite in suites if not suite.items()]:
        raise UsageError(f"{empty[0]}: has no items")


def _run(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Open the sides, unless everything is finished already."""
    finished = evaluation.kept.finished if evaluation.kept else {}
    if all(key in finished for key in evaluation.all_keys()):
        return evaluation.run()
    opened: list[Side] = []
    try:
        for side in evaluation.sides:
            side.open()
            opened.append(side)
        return evaluation.run()
    finally:
        for side in opened:
            side.close()


def _suite(suite: Suite) -> dict[str, Any]:
    return {
        "name": suite.name,
        "items": len(suite.items()),
        "sha256": digest_of(suite),
        "about": dict(suite.describe()),
    }
