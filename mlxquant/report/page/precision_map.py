"""The precision map: layers down, module names across by role, one cell a module, one map a build.

All maps of a model share rows and columns, so that the same place means the same module. Only matrices are drawn:
norms and other vectors are never quantized, and are counted below the map. What lies outside the layers (embedding,
output head) takes a line of its own; a model with several stacks of layers (a vision tower) has a map of each.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from ...records.modules import relative_error, stored_as
from ...words.text import percent_digits
from .builds import MapSide, Model, Module

# Left to right: what mixes tokens, what routes, what computes
_ORDER = (
    "attention", "linear_attention", "router", "shared_expert_gate", "expert", "shared_expert", "mlp",
    "other", "norm", "vision", "mtp",
)  # fmt: skip
# Wider maps draw modules whose names differ by a number alone as one: experts that are not stacked
_COLUMNS = 40
_OUTSIDE = 8
_BINS = 7


@dataclass(frozen=True, slots=True)
class Cell:
    """One place of a map: the lines of the table that it stands for, its class, its text, its bin of error."""

    rows: tuple[int, ...]
    css: str
    text: str
    error: int | None = None


@dataclass(frozen=True, slots=True)
class Column:
    """A column: role and name; `first` says that a new role begins here."""

    role: str
    name: str
    first: bool


@dataclass(frozen=True, slots=True)
class MapRow:
    """A row of a map: a layer's cells, or one cell across for what lies outside the layers."""

    label: str
    note: str
    cells: tuple[Cell | None, ...]
    wide: bool = False


@dataclass(frozen=True)
class Stack:
    """The maps of one stack of layers, one for each side."""

    title: str
    columns: tuple[Column, ...]
    maps: tuple[tuple[MapSide, tuple[MapRow, ...]], ...]


@dataclass(frozen=True)
class Maps:
    """All maps of a model, what the legend explains, and what is not drawn."""

    stacks: tuple[Stack, ...]
    bits: tuple[tuple[str, str, str], ...]
    errors: tuple[str, ...]
    left_out: str | None


def draw_maps(model: Model) -> Maps:
    """Lay the maps of a model out."""
    numbers = {path: number for number, path in enumerate(model.paths)}
    drawn = [path for path in numbers if len(model.any_module(path)["shape"]) > 1]
    bins = _Bins(e for s in model.sides for m in s.modules.values() if (e := relative_error(m)))
    stacks: dict[str, dict[str, tuple[int, str]]] = {}
    outside: list[str] = []
    for path in drawn:
        place = _place(path, model.any_module(path)["layer"])
        if place is None:
            outside.append(path)
        else:
            stacks.setdefault(place[0], {})[path] = (place[1], place[2])
    shown, many = (outside, []) if len(outside) <= _OUTSIDE else ([], outside)
    main = max(stacks, key=lambda name: len(stacks[name]), default=None)
    stacked = [
        _stack(model, name, places, shown if name == main else [], numbers, bins) for name, places in stacks.items()
    ]
    if main is None and shown:
        stacked = [_stack(model, "", {}, shown, numbers, bins)]
    left = [path for path in numbers if path not in set(drawn)] + many
    return Maps(tuple(stacked), tuple(_legend(model, set(drawn) - set(many))), bins.legend, _left_out(model, left))


def _place(path: str, layer: int | None) -> tuple[str, int, str] | None:
    """Where a module stands: stack, layer, name within it. None outside the layers.

    >>> _place("model.layers.3.self_attn.q_proj", 3)
    ('model.layers', 3, 'self_attn.q_proj')
    """
    if layer is None:
        return None
    before, number, after = f".{path}".partition(f".{layer}.")
    return (before.lstrip("."), layer, after) if number else None


def _stack(
    model: Model,
    title: str,
    places: Mapping[str, tuple[int, str]],
    outside: Sequence[str],
    numbers: Mapping[str, int],
    bins: _Bins,
) -> Stack:
    names = {path: name for path, (_, name) in places.items()}
    if len({(model.any_module(p)["role"], n) for p, n in names.items()}) > _COLUMNS:
        names = {path: re.sub(r"(^|\.)\d+(?=\.|$)", r"\1*", name) for path, name in names.items()}
    keys = dict.fromkeys((str(model.any_module(p)["role"]), n) for p, n in names.items())
    ordered = sorted(keys, key=lambda k: _ORDER.index(k[0]) if k[0] in _ORDER else len(_ORDER))
    grid: dict[int, dict[tuple[str, str], list[str]]] = {}
    for path, (layer, _) in places.items():
        key = (str(model.any_module(path)["role"]), names[path])
        grid.setdefault(layer, {}).setdefault(key, []).append(path)
    types = {places[p][0]: model.any_module(p)["layer_type"] for p in places}
    usual = Counter(types.values()).most_common(1)[0][0] if types else None
    before = [p for p in outside if model.any_module(p)["role"] == "embedding"]
    after = [p for p in outside if p not in before]

    def wide(side: MapSide, path: str) -> MapRow:
        return MapRow(path.rpartition(".")[2] or path, "", (_cell(side, [path], numbers, bins),), wide=True)

    def lines(side: MapSide) -> list[MapRow]:
        rows = [
            MapRow(
                str(layer),
                str(types[layer] or "").removesuffix("_attention") if types[layer] != usual else "",
                tuple(_cell(side, grid[layer].get(key, []), numbers, bins) for key in ordered),
            )
            for layer in sorted(grid)
        ]
        return [*(wide(side, p) for p in before), *rows, *(wide(side, p) for p in after)]

    maps = tuple((side, tuple(lines(side))) for side in model.sides)
    return Stack(title, tuple(_columns(ordered)), maps)


def _columns(keys: Sequence[tuple[str, str]]) -> Iterable[Column]:
    """Columns under the last part of their names, or the whole name where that is not enough within a role."""
    last = Counter((role, name.rpartition(".")[2]) for role, name in keys)
    before = None
    for role, name in keys:
        short = name.rpartition(".")[2]
        yield Column(role, short if last[role, short] == 1 else name, role != before)
        before = role


def _cell(side: MapSide, paths: Sequence[str], numbers: Mapping[str, int], bins: _Bins) -> Cell | None:
    """The cell of one module, or of several of one name; None where this side has none."""
    members = [side.modules[path] for path in paths if path in side.modules]
    if not members:
        return None
    kinds = {kind_of(m) for m in members}
    css, text = kinds.pop() if len(kinds) == 1 else ("mixed", "…")
    errors = [e for m in members if (e := relative_error(m)) is not None]
    rows = tuple(numbers[m["path"]] for m in members)
    return Cell(rows, css, text, bins.of(max(errors)) if errors else None)


def kind_of(module: Module) -> tuple[str, str]:
    """The class and text of a module's cell. ``("q8", "8")`` at 8 bits, ``("keep", "16")`` where bf16 is kept."""
    fmt = module["format"]
    if fmt is None:
        digits = re.sub(r"\D.*$", "", str(module["dtype"]).upper().removeprefix("BF").lstrip("FIU"))
        return "keep" if module["protected"] else "raw", digits or "?"
    bits = int(fmt["bits"])
    mode = str(fmt.get("mode", "affine"))
    text = str(bits) if mode == "affine" else mode.replace("fp", "")
    return f"q{bits}" if bits in (1, 2, 3, 4, 5, 6, 8) else "mixed", text[:4]


def _legend(model: Model, drawn: set[str]) -> Iterable[tuple[str, str, str]]:
    """What stands in the maps: class, cell's text, and what it means."""
    meanings: dict[tuple[str, str], set[str]] = {}
    for side in model.sides:
        for path in drawn & side.modules.keys():
            meanings.setdefault(kind_of(side.modules[path]), set()).add(stored_as(side.modules[path]))
    for (css, text), words in sorted(meanings.items(), key=lambda item: (item[0][0] in ("keep", "raw"), item[0])):
        meaning = {"keep": "kept: protected by a rule", "raw": "as it is: mlx has no quantized form"}.get(css)
        yield css, text, ", ".join(sorted(words)) + (f", {meaning}" if meaning else "")


def _left_out(model: Model, paths: Sequence[str]) -> str | None:
    if not paths:
        return None
    roles = Counter(str(model.any_module(path)["role"]) for path in paths)
    counts = ", ".join(f"{n:,} {role}" for role, n in roles.most_common())
    return f"Not drawn: {counts} (vectors, and what has no place in a layer); the table below lists them."


class _Bins:
    """Errors in even steps of their logarithm, from the least to the largest that was measured."""

    def __init__(self, errors: Iterable[float]) -> None:
        positive = [error for error in errors if error > 0]
        self.low, self.high = (min(positive), max(positive)) if positive else (0.0, 0.0)
        self.count = _BINS if self.high > self.low else min(1, len(positive))

    def of(self, error: float) -> int:
        """The bin of an error, from 1; 0 where there is none."""
        if error <= 0 or not self.count:
            return 0
        if self.count == 1:
            return 1
        share = (math.log(error) - math.log(self.low)) / (math.log(self.high) - math.log(self.low))
        return 1 + min(self.count - 1, int(share * self.count))

    @property
    def legend(self) -> tuple[str, ...]:
        """What each bin holds, from the least."""
        if self.count < 2:
            return (percent_digits(self.low),) * self.count
        low, span = math.log(self.low), math.log(self.high) - math.log(self.low)
        edges = [percent_digits(math.exp(low + span * i / self.count)) for i in range(self.count + 1)]
        return tuple(f"{a.removesuffix(' %')} – {b}" for a, b in pairwise(edges))


def table_of(model: Model) -> list[dict[str, Any]]:
    """The lines of the tensor table: what all sides share, and what each side does with it."""
    lines = []
    for number, path in enumerate(model.paths):
        module = model.any_module(path)
        sides = [side.modules.get(path) for side in model.sides]
        forms = {(stored_as(m), m["protected"]) for m in sides if m}
        reasons: dict[str, list[int]] = {}
        for place, m in enumerate(sides):
            if m:
                reasons.setdefault(m["reason"], []).append(place)
        lines.append(
            {
                "number": number,
                "path": path,
                "role": module["role"],
                "layer": module["layer"],
                "shape": module["shape"],
                "parameters": module["parameters"],
                "sides": [_side_cells(m) if m else None for m in sides],
                "reasons": list(reasons.items()),
                "differs": len(forms) > 1 or None in sides,
            }
        )
    return lines


def _side_cells(module: Module) -> dict[str, Any]:
    css, _ = kind_of(module)
    return {
        "stored": stored_as(module),
        "css": css,
        "protected": module["protected"],
        "bytes": module["bytes"],
        "bpw": module["bytes"] * 8 / module["parameters"] if module["parameters"] else 0,
        "error": relative_error(module),
        "rule": module.get("rule"),
    }
