"""Who is who on the page: one number, and with it one colour and one mark, for a candidate in all sections.

Records name a candidate in words of their own. Two sides are one where they are the same build (by the hash of its
manifest), the same recipe where one of them is no build (see `records.candidates`), or, where one does not say what
it is, have the same name. Sides of one record are never one. Which candidates charts show at first is chosen here
too; a reader changes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...records.candidates import hashes_of
from ...records.loading import ALLOCATE, BENCH, COMPARE, EVAL, PREDICTIONS, RESULTS, SWEEP, TAU2, Loaded
from ...records.measurements import measurement
from ...records.schemas import is_known
from .builds import Model

COLOURS = 16
# so many are drawn at first where there are more
SHOWN = 6
_MARKS = 6
# what a side is told by: configurations are shared
_TELLING = ("manifest_sha256", "recipe_sha256")

Side = Mapping[str, Any]


@dataclass
class Candidate:
    """A candidate of the page: its number, the name that a reader meets first, its other names, what it is known by."""

    number: int
    name: str
    names: list[str] = field(default_factory=list)
    hashes: dict[str, set[str]] = field(default_factory=dict)
    baseline: bool = False
    floor: bool = False

    def told_by(self, hashes: Mapping[str, str]) -> str | None:
        """The strongest hash that both have and that tells whether they are one: two builds of one recipe are two."""
        return next((key for key in _TELLING if key in hashes and key in self.hashes), None)

    def is_told(self, hashes: Mapping[str, str]) -> bool:
        """Whether that hash is the same."""
        key = self.told_by(hashes)
        return key is not None and hashes[key] in self.hashes[key]

    @property
    def css(self) -> str:
        """The class that gives what is drawn of it its colour."""
        colour = "kb" if self.baseline else "kf" if self.floor else f"k{self.number % COLOURS}"
        return f"{colour} n{self.number}"

    @property
    def mark(self) -> int:
        """The shape of its marks, told apart without colour; those that share a colour differ."""
        return (self.number + self.number // COLOURS) % _MARKS


class Cast:
    """All candidates of the page, found again by the sides of its records."""

    def __init__(self, records: Sequence[Loaded], models: Sequence[Model]) -> None:
        """Number every side of the records, those of comparisons and sweeps first: they name recipes."""
        self.all: list[Candidate] = []
        self._by_side: dict[int, Candidate] = {}
        for loaded in sorted(records, key=lambda loaded: _ORDER.get(loaded.schema, len(_ORDER))):
            for sides in _sides(loaded):
                self._take(sides)
        for model in models:
            self._take((side.record, side.name, False) for side in model.sides)

    def of(self, side: Side) -> Candidate:
        """The candidate that a side of a record is."""
        return self._by_side[id(side)]

    def knows(self, side: Any) -> bool:
        """Whether a side of a record is one of the page's candidates."""
        return id(side) in self._by_side

    def like(self, side: Side) -> Candidate | None:
        """The candidate that a side without figures is (a verdict's): by a hash, else by name."""
        identity = side.get("identity") or {}
        known = {**identity, "recipe": {"sha256": identity.get("recipe_sha256")}}
        return self._known(hashes_of(known), str(side["name"]), set())

    def named(self, sides: Iterable[Side]) -> Iterator[tuple[str, Candidate]]:
        """Sides by the names that their record gives them."""
        for side in sides:
            yield str(side["name"]), self.of(side)

    def _take(self, sides: Iterable[tuple[Side, str, bool]]) -> None:
        taken: set[int] = set()
        for side, name, baseline in sides:
            hashes = _hashes(side)
            candidate = self._known(hashes, name, taken) or self._new(name)
            taken.add(candidate.number)
            for key, value in hashes.items():
                candidate.hashes.setdefault(key, set()).add(value)
            candidate.names += [name] if name not in candidate.names else []
            candidate.baseline |= baseline
            candidate.floor |= str(side.get("kind")) == "noise floor"
            self._by_side[id(side)] = candidate

    def _known(self, hashes: Mapping[str, str], name: str, taken: set[int]) -> Candidate | None:
        free = [c for c in self.all if c.number not in taken]
        alike = (c for c in free if c.is_told(hashes))
        named = (c for c in free if name in c.names and not c.told_by(hashes))
        return next(alike, None) or next(named, None)

    def _new(self, name: str) -> Candidate:
        self.all.append(Candidate(len(self.all), name))
        return self.all[-1]


_ORDER = {schema: i for i, schema in enumerate((SWEEP, COMPARE, ALLOCATE, EVAL, TAU2, RESULTS, BENCH, *PREDICTIONS))}


def measured(loaded: Loaded) -> bool:
    """Whether a record has candidates with measurements, and a schema that vouches for their form."""
    candidates = loaded.record.get("candidates") if is_known(loaded.schema) else None
    return bool(candidates) and all(isinstance(c, Mapping) and "measurements" in c for c in candidates or ())


def _hashes(side: Side) -> dict[str, str]:
    """What a side is known by; that of an allocation is a recipe, with its hash beside its name."""
    return hashes_of(side if "recipe" in side else {**side, "recipe": {"sha256": side.get("sha256")}})


def _sides(loaded: Loaded) -> Iterator[Iterable[tuple[Side, str, bool]]]:
    """The sides of a record that are candidates, in sets of which no two are one.

    Each comes with its name and whether it is what others stand beside. An allocation has a set for each budget: one
    recipe may fit several.
    """
    if loaded.schema == ALLOCATE:
        for budget in loaded.record["budgets"]:
            yield [(side, str(side["name"]), False) for side in (budget["allocated"], *budget["contestants"])]
    else:
        yield _measured_sides(loaded)


def _measured_sides(loaded: Loaded) -> Iterator[tuple[Side, str, bool]]:
    record = loaded.record
    if measured(loaded):
        baseline = record.get("baseline")
        if isinstance(baseline, Mapping) and isinstance(baseline.get("name"), str):
            yield baseline, str(baseline["name"]), True
        yield from ((c, str(c["name"]), False) for c in record["candidates"])
    elif loaded.schema == BENCH or loaded.schema in PREDICTIONS:
        yield from ((b, str(b["name"]), False) for b in record["builds"])


# --- which are drawn at first ---


def shown_first(sides: Sequence[Side], cast: Cast, metric: str, *, chosen: str | None = None) -> set[int]:
    """Numbers of the candidates that charts show until a reader chooses.

    All where they are few; else what others stand beside (a baseline, the noise floor), the recommended one, and of the
    others from the least damaged to the most, both ends among them. `metric` is a damage: the larger the worse.
    """
    if len(sides) <= SHOWN:
        return {cast.of(side).number for side in sides}
    fixed = [s for s in sides if cast.of(s).baseline or cast.of(s).floor or (chosen and s["name"] == chosen)]
    others = [s for s in sides if s not in fixed]
    damages = [(m["estimate"] if (m := measurement(side, metric)) else None) for side in others]
    telling = most_telling(damages, max(SHOWN - len(fixed), 2))
    return {cast.of(side).number for side in (*fixed, *(others[i] for i in telling))}


def most_telling(damages: Sequence[float | None], most: int = SHOWN) -> list[int]:
    """Return the indices, in their order, of at most `most` candidates from the least damaged to the most.

    Both ends are in, the others as evenly between them as ranks allow; what has no figure counts as undamaged.

    >>> most_telling([0.1, 0.2, 0.3, 9.0], 3)
    [0, 2, 3]
    """
    if len(damages) <= most:
        return list(range(len(damages)))
    ranked = sorted(range(len(damages)), key=lambda i: damages[i] or 0.0)
    step = (len(ranked) - 1) / (most - 1)
    return sorted(ranked[round(i * step)] for i in range(most))


def legend(named: Iterable[tuple[str, Candidate]], shown: set[int]) -> list[dict[str, Any]]:
    """A line for each candidate of some charts, by the name it has there: what the reader ticks to have it drawn."""
    return [
        {
            "number": candidate.number,
            "css": candidate.css,
            "name": name,
            "mark": candidate.mark,
            "shown": candidate.number in shown,
        }
        for name, candidate in named
    ]
