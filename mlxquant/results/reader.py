"""What a reader of a harness's files is, and what all of them share: fields of items, scores, what is odd.

Adding a harness is adding one: a module with a `Reader`, named in `reading.READERS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import UsageError
from ..records.metrics import metric_named
from ..words.text import counted, printable, some
from .files import ResultFile
from .items import Item, Part, ResultSet, Scale

# fields of an item's metadata that name what it shares with others, where nobody says which does
CLUSTERS = ("cluster", "cluster_id", "group", "group_id")
_LARGEST_SCORE = 1e100
_KNOWN = 100


@dataclass(frozen=True, slots=True)
class Fields:
    """Fields of an item's metadata (or of its row of the data set) that a person names for clusters and slices."""

    cluster: str | None = None
    slices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Reader:
    """How one harness's files are known, and read.

    `hint` says which files it takes. `recognises` decides by what is in a file; `read` makes one result set of each
    model that the files hold, or raises RecordError. Files that it recognises and that hold no results of items are
    its to explain.
    """

    harness: str
    hint: str
    recognises: Callable[[ResultFile], bool]
    read: Callable[[Sequence[ResultFile], Fields], list[ResultSet]]


@dataclass(slots=True)
class Gathering:
    """Items as they are read, with what is odd about them; each question and trial once."""

    fields: Fields
    items: dict[tuple[str, int], Item] = field(default_factory=dict)
    scales: dict[str, Scale] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    about: dict[str, str | int | None] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    lost: int = 0
    twice: list[str] = field(default_factory=list)
    spans: dict[str, tuple[float, float]] = field(default_factory=dict)
    judges: dict[str, tuple[str, ...]] = field(default_factory=dict)
    known: dict[str, None] = field(default_factory=dict)
    sources: list[ResultFile] = field(default_factory=list)

    def add(self, item: Item) -> None:
        """Keep an item; the second of the same question and trial is left out, and said."""
        key = (item.id, item.trial or 0)
        if key in self.items:
            self.twice.append(item.id)
        else:
            self.items[key] = item

    def metric(self, name: str, part: Part, *, share: bool = False) -> None:
        """Note how a metric is put together: a score in [0, 1] until one lies outside."""
        low, high = self.spans.get(name, (math.inf, -math.inf))
        self.spans[name] = (min(low, part[0]), max(high, part[0]))
        scale: Scale = "share" if share else "score"
        if not share and not 0 <= part[0] <= 1:
            scale = "count"
        if self.scales.get(name) != "count":
            self.scales[name] = scale

    def cluster_of(self, identity: str, metadata: Any, named: Iterable[str | None] = ()) -> str:
        """What an item is drawn anew with: the field that a person or the harness names, or the item itself."""
        table = metadata if isinstance(metadata, Mapping) else {}
        if len(self.known) < _KNOWN:
            self.known |= dict.fromkeys(str(name) for name, value in table.items() if type(value) in (str, int))
        for name in (self.fields.cluster, *named, *(CLUSTERS if self.fields.cluster is None else ())):
            if name is not None and type(value := table.get(name)) in (str, int):
                return f"{name}:{value}"
        return identity

    def slices_of(self, metadata: Any, named: Iterable[str] = ()) -> tuple[str, ...]:
        """Slices by the fields that a person or the harness names: ``("subject:law",)``."""
        table = metadata if isinstance(metadata, Mapping) else {}
        fields = dict.fromkeys((*self.fields.slices, *named))
        return tuple(f"{name}:{table[name]}" for name in fields if type(table.get(name)) in (str, int, bool))

    def result_set(self, name: str) -> ResultSet:
        """All of it, with names that can be shown."""
        if self.twice:
            self.problems.append(
                f"{counted(len(self.twice), 'repeated item')} ({some([printable(i)[:60] for i in self.twice])}):"
                " the first of each counts"
            )
        for asked in (self.fields.cluster, *self.fields.slices):
            if asked is not None and not any(self._has(item, asked) for item in self.items.values()):
                fields = some([printable(name) for name in self.known], 8) if self.known else "none"
                raise UsageError(
                    f"{printable(name or 'results')}: no item has a field {printable(asked)!r}; fields: {fields}"
                )
        names = {metric: self._name(metric) for metric in self.scales}
        return ResultSet(
            name=printable(name),
            items=tuple(_shown(item, names) for item in self.items.values()),
            scales={names[metric]: scale for metric, scale in self.scales.items()},
            problems=tuple(printable(problem) for problem in self.problems),
            judges={printable(task): tuple(names[m] for m in metrics) for task, metrics in self.judges.items()},
            about={key: printable(value) if isinstance(value, str) else value for key, value in self.about.items()},
            notes=tuple(printable(note) for note in self.notes),
            lost=self.lost,
            sources=tuple(self.sources),
        )

    def _name(self, metric: str) -> str:
        """A metric's name; another one where its values are none that ours of that name can have."""
        known, (low, high) = metric_named(metric), self.spans[metric]
        share = self.scales[metric] == "share"
        fits = known is None or share or (known.low <= low and high <= known.high)
        return printable(metric if fits else f"{metric} (unbounded)")

    def _has(self, item: Item, field_name: str) -> bool:
        begin = f"{field_name}:"
        return item.cluster.startswith(begin) or any(name.startswith(begin) for name in item.slices)


def _shown(item: Item, names: Mapping[str, str]) -> Item:
    """An item whose names steer no terminal."""
    from dataclasses import replace

    return replace(
        item,
        id=printable(item.id),
        cluster=printable(item.cluster),
        slices=tuple(printable(name) for name in item.slices),
        parts={names[metric]: part for metric, part in item.parts.items()},
    )


def score_of(value: Any) -> float | None:
    """A number that a file gives as a score, or a truth; None for what is neither, or too large to be squared."""
    if isinstance(value, bool):
        return float(value)
    return float(value) if isinstance(value, int | float) and abs(value) <= _LARGEST_SCORE else None


def facts(table: Mapping[str, Any], keys: Mapping[str, str]) -> dict[str, str | int | None]:
    """What a run says of itself, as far as it is text or a whole number: our name of each, by theirs."""
    return {ours: table[theirs] for ours, theirs in keys.items() if type(table.get(theirs)) in (str, int)}


def kinds(files: Sequence[ResultFile], recognises: Callable[[ResultFile], bool]) -> list[ResultFile]:
    """Those of the files that are of a kind."""
    return [file for file in files if recognises(file)]


def names(files: Collection[ResultFile]) -> str:
    """Names of files for a message."""
    return some([file.name for file in files])
