"""Finding figures in a comparison's record, by metric and what it is over; and which slice is worst. Without mlx."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .files import read_checked

SCHEMA = "mlxquant.compare/1"
_NUMBERS = (int, float)
# what a reader shows of the pass and of the data
_COUNTED = {
    "pass": ("layers", "source_bytes", "bytes_read", "seconds", "peak_memory_bytes", "ranks"),
    "data": ("documents", "scored_tokens"),
}
OVER = ("slice", "depth", "turn", "layer", "against", "case")

Measured = Mapping[str, Any]


def read_comparison(path: Path) -> dict[str, Any]:
    """Read a comparison's record and check what readers count on. Raises RecordError with all that is wrong."""
    return read_checked(path, SCHEMA, "compare", comparison_problems)


def comparison_problems(record: Mapping[str, Any]) -> Iterator[str]:
    """What a record of a comparison lacks that readers count on."""
    for key in ("source", "data", "pass", "machine", "versions"):
        if not isinstance(record.get(key), dict):
            yield f"{key}: a table expected"
    if not all(type(record.get(key)) in _NUMBERS for key in ("margin_nats", "confidence")):
        yield "margin_nats, confidence: numbers expected"
    for key, wanted in _COUNTED.items():
        table = record.get(key)
        if isinstance(table, dict) and (wrong := [k for k in wanted if type(table.get(k)) not in _NUMBERS]):
            yield f"{key}: {', '.join(wrong)}: numbers expected"
    candidates, baseline = record.get("candidates"), record.get("baseline")
    if not isinstance(candidates, list) or not candidates:
        yield "candidates: a list of at least one expected"
        return
    for place, table in [("baseline", baseline), *((f"candidates[{i}]", c) for i, c in enumerate(candidates))]:
        if not isinstance(table, dict) or not isinstance(table.get("name"), str):
            yield f"{place}: a table with a name expected"
        elif not isinstance(table.get("measurements"), list):
            yield f"{place}: measurements: a list expected"
        elif faults := [m for m in table["measurements"] if not _is_measurement(m)]:
            yield f"{place}: {str(faults[0])[:60]}: metric, estimate, low, high, n and clusters expected"
        elif not all(_is_verdict(v) for v in _verdicts(table)):
            yield f"{place}: verdict, beside: tables with verdict, against and kl_nats_difference expected"


def _verdicts(candidate: Mapping[str, Any]) -> Iterator[Any]:
    beside = candidate.get("beside", [])
    yield from beside if isinstance(beside, list) else [beside]
    yield from [candidate["verdict"]] if "verdict" in candidate else []


def _is_verdict(value: Any) -> bool:
    found = value.get("kl_nats_difference") if isinstance(value, dict) else None
    return (
        isinstance(found, dict)
        and _is_measurement({"metric": "kl_nats_difference", **found})
        and all(isinstance(value.get(key), str) for key in ("verdict", "against"))
        and type(value.get("margin_nats")) in _NUMBERS
        and type(value.get("documents_needed")) in (int, type(None))
    )


def _is_measurement(value: Any) -> bool:
    """Whether a figure has what a reader counts on; ends come together or not at all."""
    return (
        isinstance(value, dict)
        and isinstance(value.get("metric"), str)
        and all(key in value and type(value[key]) in (*_NUMBERS, type(None)) for key in ("estimate", "low", "high"))
        and (value["low"] is None) == (value["high"] is None)
        and all(type(value.get(key)) is int for key in ("n", "clusters"))
        and all(isinstance(value.get(key), str | None) for key in ("slice", "depth", "turn", "against", "case"))
        and type(value.get("layer")) in (int, type(None))
    )


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
