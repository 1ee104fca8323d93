"""Two files' items, paired by question and trial, and what became of each pair.

Hard questions weigh on both sides alike only where both have them, so what one file alone has is left out of every
difference, and counted. Pairing is by the ids that the harness gives, never by position. One id with another prompt or
another right answer in the other file is not one question, and nothing may be concluded from such a pair: an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import RecordError
from ..stats import mcnemar_exact
from ..words.text import printable, some
from .figures import Pair
from .items import Item


@dataclass(frozen=True, slots=True)
class Pairing:
    """The trials that two files share; `unpaired` are those of each that the other has not."""

    pairs: tuple[Pair, ...]
    shared: tuple[str, ...]
    only_baseline: tuple[str, ...]
    only_candidate: tuple[str, ...]
    unpaired: tuple[int, int]

    @property
    def other_seeds(self) -> int:
        """Pairs whose trials were drawn from different seeds."""
        return sum(a.seed != b.seed for a, b in self.pairs)

    def outcomes(self) -> dict[str, Any]:
        """What became of each pair, and the exact McNemar test of it; pairs without a verdict are left out."""
        judged = [(a.success, b.success) for a, b in self.pairs if a.success is not None and b.success is not None]
        both, worse, better, neither = (
            judged.count(outcome) for outcome in ((True, True), (True, False), (False, True), (False, False))
        )
        return {
            "both_passed": both,
            "only_baseline_passed": worse,
            "only_candidate_passed": better,
            "neither_passed": neither,
            "mcnemar_p": mcnemar_exact(worse, better),
        }

    def as_dict(self) -> dict[str, Any]:
        """Its entry in the record."""
        return {
            "pairs": len(self.pairs),
            "questions": len(self.shared),
            "questions_only_baseline": len(self.only_baseline),
            "questions_only_candidate": len(self.only_candidate),
            "unpaired_baseline": self.unpaired[0],
            "unpaired_candidate": self.unpaired[1],
            **(self.outcomes() if any(a.success is not None for a, _ in self.pairs) else {}),
        }


def pair(baseline: Sequence[Item], candidate: Sequence[Item]) -> Pairing:
    """Find the trials that both files have; trials without a number are not paired. Checks nothing: see `check`."""
    mine, theirs = _trials(baseline), _trials(candidate)
    pairs = tuple((item, theirs[key]) for key, item in mine.items() if key in theirs)
    first, second = ({item.id for item in side} for side in (baseline, candidate))
    return Pairing(
        pairs=pairs,
        shared=tuple(sorted(first & second)),
        only_baseline=tuple(sorted(first - second)),
        only_candidate=tuple(sorted(second - first)),
        unpaired=(len(baseline) - len(pairs), len(candidate) - len(pairs)),
    )


def check_same_questions(pairing: Pairing, names: tuple[str, str]) -> None:
    """Refuse pairs whose id stands for two questions. Raises RecordError that names them."""
    for what in ("prompt", "target", "document"):
        others = list(dict.fromkeys(a.id for a, b in pairing.pairs if _differ(getattr(a, what), getattr(b, what))))
        if others:
            ids = some([printable(name)[:60] for name in others])
            raise RecordError(
                f"{names[1]}: another {what} than in {names[0]} under the id {ids} ({len(others):,} of"
                f" {len(pairing.shared):,} shared questions); run both with one version of the task, one chat template"
                " and one setting of few-shot examples"
            )


def _differ(a: str | None, b: str | None) -> bool:
    """Whether two files say that they are different; what one of them does not say is no difference."""
    return a is not None and b is not None and a != b


def _trials(items: Sequence[Item]) -> dict[tuple[str, int], Item]:
    """Items by question and trial; the first of those that stand twice."""
    first: dict[tuple[str, int], Item] = {}
    for item in items:
        if item.trial is not None:
            first.setdefault((item.id, item.trial), item)
    return first
