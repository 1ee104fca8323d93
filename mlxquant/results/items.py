"""What every harness's result files come to: items, each with what was counted of it, and which file they are from.

A reader for a harness makes these; what is measured of them (`figures`) and how two files are paired (`pairing`) does
not know where they came from. An item is one trial of one question. Several trials of a question share its id, and its
cluster: they are not independent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from .files import ResultFile

# what is counted of an item for a metric: (sum, of how many); a score is (score, 1), three right calls of four (3, 4)
Part = tuple[float, float]
# "score": a mean over items, of a share where all are 0 or 1; "share": sums over sums; "count": a mean without bound
Scale = Literal["score", "share", "count"]


@dataclass(frozen=True, slots=True)
class Item:
    """One trial of one question.

    `cluster` is what items are drawn anew by: the question itself, or the passage, repository or user that several
    questions share. `success` says whether it passed as the harness counts it, None where it has no such word.
    `prompt`, `target` and `document` are hashes (or texts) of what was asked, of the right answer and of the data
    set's row; the same id with others in two files is not the same question.
    """

    id: str
    cluster: str
    trial: int | None = 0
    success: bool | None = None
    parts: Mapping[str, Part] = field(default_factory=dict)
    slices: tuple[str, ...] = ()
    prompt: str | None = None
    target: str | None = None
    document: str | None = None
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class ResultSet:
    """What one run holds: its items, what it says of itself, and what is wrong with it, one line a problem.

    `scales` says how each metric of the items' parts is put together; `judges` names, for each task, the metrics by
    which its items can be said to pass, the first of which `success` is from; empty where the harness itself says.
    `lost` counts trials that never got an answer, which are not among the items. `sources` are the files that it is
    from, where these are not all that were given. A reader leaves `harness`, `files`, their hash and the folder that
    they lie in to who opened the files.
    """

    name: str
    items: tuple[Item, ...]
    scales: Mapping[str, Scale]
    problems: tuple[str, ...] = ()
    judges: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    about: Mapping[str, str | int | None] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    lost: int = 0
    sources: tuple[ResultFile, ...] = ()
    harness: str = ""
    files: tuple[str, ...] = ()
    sha256: str = ""
    folder: str = ""

    @property
    def slices(self) -> tuple[str, ...]:
        """Names of its slices, in the order of their first appearance."""
        return tuple(dict.fromkeys(name for item in self.items for name in item.slices))


def judged(item: Item, metric: str | None) -> Item:
    """The item as one that passed where this metric is 1; with no word of it where the metric says none."""
    score = item.parts.get(metric) if metric is not None else None
    return replace(item, success=None if score is None else score[0] == 1.0)


def by_id(items: Iterable[Item]) -> dict[str, list[Item]]:
    """Group trials by the question that they are of, in the order of their first appearance."""
    groups: dict[str, list[Item]] = {}
    for item in items:
        groups.setdefault(item.id, []).append(item)
    return groups


def trial_counts(items: Sequence[Item]) -> tuple[int, int]:
    """(fewest, most) trials of a question; (0, 0) without items."""
    counts = [len(trials) for trials in by_id(items).values()]
    return (min(counts), max(counts)) if counts else (0, 0)
