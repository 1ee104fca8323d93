"""Finding figures in a comparison's record, by metric and what it is over; and which slice is worst. Without mlx."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .files import read_checked

OVER = ("slice", "depth", "turn", "layer", "against", "case")

Measured = Mapping[str, Any]


def read_comparison(path: Path) -> dict[str, Any]:
    """Read a comparison's record and check what readers count on. Raises RecordError with all that is wrong."""
    return read_checked(path, "compare")


class Figures:
    """The measurements of one candidate, by metric and keys."""

    def __init__(self, candidate: Mapping[str, Any]) -> None:
        """Index a candidate, or the baseline, of a record."""
        self.name = str(candidate["name"])
        self._found: dict[tuple[Any, ...], Measured] = {
            (m["metric"], *(m.get(key) for key in OVER)): m for m in candidate["measurements"]
        }

    def get(self, metric: str, **over: Any) -> Measured | None:
        """One figure; of everything, as served, unless `over` says otherwise."""
        return self._found.get((metric, *(over.get(key) for key in OVER)))

    def names(self, kind: str, metric: str = "kl_nats", case: str | None = None) -> list[Any]:
        """The slices, depths, turns or layers that a metric was measured over, in order."""
        place = OVER.index(kind) + 1
        wanted = (metric, *(None for _ in OVER[:-1]), case)
        found = [
            key[place]
            for key in self._found
            if key[place] is not None and (*key[:place], None, *key[place + 1 :]) == wanted
        ]
        return sorted(found, key=_order)

    def slices_worst_first(self) -> list[Measured]:
        """KL by slice, the largest first; those without an interval, too small to tell, come last."""
        found = [m for name in self.names("slice") if (m := self.get("kl_nats", slice=name)) is not None]
        return sorted(found, key=lambda m: (m["low"] is None, -(m["estimate"] or 0.0)))

    def worst_slice(self) -> Measured | None:
        """The slice with the largest KL of those that have an interval; None where there is none."""
        first = next(iter(self.slices_worst_first()), None)
        return first if first is not None and first["low"] is not None else None


def figures_of(record: Mapping[str, Any]) -> Iterator[Figures]:
    """Each candidate's figures, in the record's order."""
    for candidate in record["candidates"]:
        yield Figures(candidate)


def _order(name: Any) -> tuple[int, str]:
    """Layers and buckets by their first number, words by the alphabet."""
    number = re.match(r"\d+", str(name))
    return (int(number[0]), "") if number else (0, str(name))
