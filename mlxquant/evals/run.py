"""Play every item through every side, in turn, keep each result as it comes, and make the record of it.

For each item and trial the sides take turns, in an order drawn from the seed and the item's name: what a server or
the machine does meanwhile meets all of them alike, and a run that was stopped goes on as if it had not been. What is
finished is in a journal beside the record to be (`OUT.partial`) until the record is there. The record is made of the
trials alone, so a run that was killed ten times gives the record of one that never was, times of day aside.

What could not be asked is kept as a failure of the infrastructure, with its kind. Where a side fails so several times
in a row it is taken to be gone: the run stops with what it has, and the same command goes on later. Nothing here
knows what a good answer is (suites do), nor what the results mean (`record` does).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

from ..disk.journal import RunJournal
from ..errors import MeasurementError, UsageError
from ..records.head import describe_machine, describe_versions, utc_date
from ..words.progress import Progress, Watch, unwatched
from ..words.secrets import redacted
from ..words.text import distinct
from .asking import Asking, Sampling
from .identity import same_as
from .items import Item, Played, Suite
from .record import SCHEMA, finish
from .sides import EvalSide, worth_repeating
from .trace import Trace

# --- playing ---


# What a trial is known by: suite, item, side, trial
Key = tuple[str, str, int, int]
# Trials of one side that fail in a row before it is taken to be gone
_GONE = 5
_LARGEST_SEED = (1 << 63) - 1


@dataclass
class Evaluation:
    """One run: the first of `sides` is the baseline. `journal` is None where nothing is to survive a stop."""

    sides: Sequence[EvalSide]
    suites: Sequence[Suite]
    sampling: Sampling = field(default_factory=Sampling)
    trials: int = 1
    retries: int = 3
    backoff_s: float = 1.0
    journal: RunJournal | None = None
    trace: Trace | None = None
    watch: Watch = unwatched
    _in_a_row: dict[int, int] = field(default_factory=dict)

    def run(self) -> list[dict[str, Any]]:
        """Play what is not finished yet; all trials, in the order of items, trials and sides.

        Raises MeasurementError where a side seems to be gone.
        """
        trials: dict[Key, dict[str, Any]] = self.finished()
        keys = list(self.all_keys())
        total, before = len(keys), len(trials)
        if before == total:
            return [trials[key] for key in keys]
        for done, (suite, item, trial, side) in enumerate(self._due(trials)):
            self.watch(Progress(before + done, total, item.id, self.sides[side].variant.name))
            result: dict[str, Any] = redacted(self._play(suite, item, trial, side))
            trials[(suite.name, item.id, side, trial)] = result
            if self.journal is not None:
                self.journal.add(result)
            self._check_gone(side, result)
        return [trials[key] for key in keys]

    def finished(self) -> dict[Key, dict[str, Any]]:
        """The trials of earlier runs that gave a result; what had no answer is tried anew."""
        trials = self.journal.entries if self.journal else ()
        return {key_of(trial): trial for trial in trials if trial["failure"] is None}

    def all_keys(self) -> Sequence[Key]:
        """Every trial that the run consists of."""
        return [
            (suite.name, item.id, side, trial)
            for suite in self.suites
            for item in suite.items()
            for trial in range(self.trials)
            for side in range(len(self.sides))
        ]

    def _due(self, finished: Mapping[Key, Any]) -> list[tuple[Suite, Item, int, int]]:
        due = []
        for suite in self.suites:
            for item in suite.items():
                for trial in range(self.trials):
                    order = list(range(len(self.sides)))
                    Random(f"{self.sampling.seed}/{suite.name}/{item.id}/{trial}").shuffle(order)
                    due += [(suite, item, trial, s) for s in order if (suite.name, item.id, s, trial) not in finished]
        return due

    def _play(self, suite: Suite, item: Item, trial: int, side: int) -> dict[str, Any]:
        asking = Asking(self.sides[side], item, trial, self.sampling, self.retries, self.backoff_s, self.trace)
        played, failure = None, None
        at = utc_date()
        try:
            played = suite.play(item, asking)
        except MeasurementError as error:
            failure = {**error.as_dict(), "repeated": worth_repeating(error)}
        return {
            "suite": suite.name,
            "item": item.id,
            "unit": item.unit,
            "slices": list(item.slices),
            "side": side,
            "trial": trial,
            "at": at,
            **_outcome(played),
            "failure": failure,
            "requests": asking.served,
            "attempts": asking.attempts,
        }

    def _check_gone(self, side: int, result: Mapping[str, Any]) -> None:
        failure = result["failure"]
        gone = failure is not None and failure["kind"] in ("refused", "unreachable")
        self._in_a_row[side] = self._in_a_row.get(side, 0) + 1 if gone else 0
        if self._in_a_row[side] >= _GONE:
            advice = "; what is finished is kept, the same command goes on" if self.journal else ""
            name = self.sides[side].variant.name
            raise MeasurementError("gone", f"{name}: {_GONE} items in a row: {failure['message']}{advice}")


def key_of(trial: Mapping[str, Any]) -> Key:
    """What a trial is known by."""
    return str(trial["suite"]), str(trial["item"]), int(trial["side"]), int(trial["trial"])


def _outcome(played: Played | None) -> dict[str, Any]:
    if played is None:
        return {"passed": None, "checks": {}, "calls": [], "depth": 0, "first_error": None, "said": ""}
    return {
        "passed": played.passed,
        "checks": dict(played.checks),
        "calls": [call.as_record() for call in played.calls],
        "depth": played.depth,
        "first_error": played.first_error,
        "said": played.said,
    }


def digest_of(suite: Suite) -> str:
    """SHA-256 of all items of a suite."""
    return sha256("".join(item.digest() for item in suite.items()).encode()).hexdigest()


# --- from sides and suites to the record ---


@dataclass(frozen=True, slots=True)
class EvalSettings:
    """How it is run: trials of each item, how answers are drawn, repeats after transport errors, confidence."""

    sampling: Sampling = field(default_factory=Sampling)
    trials: int = 1
    retries: int = 3
    backoff_s: float = 1.0
    confidence: float = 0.95

    def __post_init__(self) -> None:
        wrong = [
            f"{name}: {str(value)[:24]} is {f'less than {least}' if value < least else f'more than {most}'}"
            for name, value, least, most in (
                ("--trials", self.trials, 1, 1000),
                ("--retries", self.retries, 0, 100),
                ("--temperature", self.sampling.temperature, 0, 10),
                ("--top-p", 1.0 if self.sampling.top_p is None else self.sampling.top_p, 0, 1),
                ("--seed", self.sampling.seed, 0, _LARGEST_SEED),
                ("--confidence", self.confidence, 0.5, 0.9999),
            )
            if not least <= value <= most
        ]
        if self.sampling.draft and self.sampling.temperature:
            wrong.append("--draft: at temperature 0 only, where the likeliest token is the answer")
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
            **({"draft": True} if s.draft else {}),
        }


@dataclass
class EvalFiles:
    """Where things go: `partial` keeps what is finished, `fresh` throws an earlier one away; None is nowhere."""

    partial: Path | None = None
    fresh: bool = False
    trace: Path | None = None
    content: bool = False


def _described(sides: Sequence[EvalSide]) -> list[dict[str, Any]]:
    """What the record says of each side, the baseline first; and what of a candidate is the baseline itself."""
    described = [side.describe() for side in sides]
    for side, description in zip(sides[1:], described[1:], strict=True):
        if what := same_as(sides[0].variant, side.variant):
            description["same_as_baseline"] = what
    return described


def evaluate(
    sides: Sequence[EvalSide],
    suites: Sequence[Suite],
    settings: EvalSettings,
    files: EvalFiles | None = None,
    watch: Watch = unwatched,
) -> dict[str, Any]:
    """Play all items of `suites` through `sides`, the baseline first, and make the record.

    Raises OutputError where files cannot be used, MeasurementError where a side is gone, BuildError where it is none.
    """
    files = files or EvalFiles()
    check(sides, suites)
    date = utc_date()
    about = [_suite(suite) for suite in suites]
    described = _described(sides)
    signature = {
        "schema": SCHEMA,
        "sides": described,
        "suites": about,
        "settings": {k: v for k, v in settings.as_dict().items() if k != "retries"},
        "versions": describe_versions(),
    }
    journal = RunJournal(files.partial, signature, fresh=files.fresh) if files.partial else None
    trace = Trace(files.trace, content=files.content) if files.trace else None
    evaluation = Evaluation(
        sides, suites, settings.sampling, settings.trials, settings.retries, settings.backoff_s, journal, trace, watch
    )
    try:
        trials = _run(evaluation)
    finally:
        for file in (journal, trace):
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


def check(sides: Sequence[EvalSide], suites: Sequence[Suite]) -> None:
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
    finished = evaluation.finished()
    if all(key in finished for key in evaluation.all_keys()):
        return evaluation.run()
    opened: list[EvalSide] = []
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
