"""Plan and audit records put together by model, so that builds of one model stand side by side."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ...records.candidates import recipe_name
from ...records.loading import Loaded
from ...records.modules import relative_error, stored_as
from ...words.layers import layers_text
from ...words.modules import ROLES
from ...words.text import percent_digits
from ...words.units import show_bytes, show_count
from ..common import recipe_text, short_layer

Module = Mapping[str, Any]

# Records with this share of modules in common, path and parameters, are builds of one model.
_ALIKE = 0.5
_REASONS = 40


@dataclass(frozen=True)
class MapSide:
    """One plan or build of a model: its letter on the page, its name there, its record, its modules by path."""

    letter: str
    name: str
    loaded: Loaded
    modules: Mapping[str, Module]

    @property
    def kind(self) -> str:
        """``plan`` or ``audit``."""
        return self.loaded.schema.partition(".")[2].partition("/")[0]

    @property
    def record(self) -> Mapping[str, Any]:
        """Its record."""
        return self.loaded.record


@dataclass
class Model:
    """A model and the records of it; `paths` are the modules of all, in the model's order."""

    number: int
    sides: list[MapSide] = field(default_factory=list)

    @property
    def paths(self) -> list[str]:
        """Module paths, each once."""
        return list(dict.fromkeys(path for side in self.sides for path in side.modules))

    def any_module(self, path: str) -> Module:
        """What the first record that has it says of a module."""
        return next(side.modules[path] for side in self.sides if path in side.modules)

    def add(self, loaded: Loaded) -> None:
        """Take another record of this model."""
        modules = {m["path"]: m for m in loaded.record["modules"]}
        letter = chr(ord("A") + len(self.sides)) if len(self.sides) < 26 else str(len(self.sides) + 1)
        self.sides.append(MapSide(letter, _called(loaded), loaded, modules))

    def tell_apart(self) -> None:
        """Add the file's name to sides that have the same recipe."""
        counts = Counter(side.name for side in self.sides)
        self.sides = [
            replace(side, name=f"{side.name} ({side.loaded.name})")
            if counts[side.name] > 1 and side.name != side.loaded.name
            else side
            for side in self.sides
        ]

    @property
    def title(self) -> str:
        """What the model is called: its source's name where a record has one."""
        names = [(side.record["source"] or {}).get("name") for side in self.sides]
        return next((str(name) for name in names if name), self.sides[0].name)

    @property
    def facts(self) -> list[str]:
        """Model type, depth, number of parameters: as far as records tell."""
        source: Mapping[str, Any] = next((s.record["source"] for s in self.sides if s.record["source"]), {})
        layers = source.get("layers") or len({m["layer"] for m in self.sides[0].modules.values()} - {None})
        parameters = self.sides[0].record["totals"]["parameters"]
        entries = [source.get("model_type"), f"{layers} layers", f"{show_count(parameters)} parameters"]
        return [str(fact) for fact in entries if fact]


def find_models(records: Iterable[Loaded]) -> list[Model]:
    """Put records of the same model together, in the order in which they come."""
    models: list[Model] = []
    keys: list[set[tuple[str, int]]] = []
    for loaded in records:
        key = {(m["path"], m["parameters"]) for m in loaded.record["modules"]}
        for model, known in zip(models, keys, strict=True):
            if key and len(key & known) >= _ALIKE * len(key | known):
                model.add(loaded)
                break
        else:
            models.append(Model(len(models) + 1))
            models[-1].add(loaded)
            keys.append(key)
    for model in models:
        model.tell_apart()
    return models


def _called(loaded: Loaded) -> str:
    """What the page calls a plan or a build: its recipe, or the file's name where the record knows none."""
    recipe = loaded.record["recipe"]
    return (recipe_name(recipe) or recipe_text(recipe)) if recipe and recipe.get("name") else loaded.name


# --- headline figures ---


def figures(model: Model) -> list[dict[str, Any]]:
    """A card for each side: its figures, and what they are beside the first side's."""
    return [
        {
            "letter": side.letter,
            "name": side.name,
            "kind": side.kind,
            "file": side.loaded.file,
            "figures": list(_figures(side, model.sides[0] if number else None)),
            "disagreements": _texts(side.record.get("disagreements")),
            "warnings": _texts(side.record.get("warnings")),
            "notes": _texts(side.record.get("notes")),
        }
        for number, side in enumerate(model.sides)
    ]


def _figures(side: MapSide, first: MapSide | None) -> Iterator[dict[str, str | None]]:
    totals = side.record["totals"]
    before = first.record["totals"] if first else {}
    yield _figure("size", show_bytes(totals["bytes"]), _more(totals["bytes"], before.get("bytes")))
    if totals["bpw"] is not None:
        yield _figure("bits per weight", f"{totals['bpw']:.4f}", _plus(totals["bpw"], before.get("bpw"), "+.4f"))
    protected = side.record["protected"]["modules"]
    then = first.record["protected"]["modules"] if first else None
    yield _figure("protected", f"{protected:,}", _plus(protected, then, "+,"))
    if (active := totals.get("active_bytes_per_token")) is not None:
        yield _figure("read for a token", show_bytes(active), _more(active, before.get("active_bytes_per_token")))
    if (error := pooled_error(side.modules.values())) is not None:
        yield _figure("relative RMS error", percent_digits(error), None)


def _figure(label: str, value: str, change: str | None) -> dict[str, str | None]:
    return {"label": label, "value": value, "change": change}


def _more(value: int, before: int | None) -> str | None:
    """A change in bytes, and as a share. ``"+2.23 GiB, +1.9 %"``."""
    if before is None:
        return None
    sign = "+" if value >= before else "−"
    share = f", {sign}{100 * abs(value - before) / before:.1f} %" if before else ""
    return f"{sign}{show_bytes(abs(value - before))}{share}"


def _plus(value: float, before: float | None, form: str) -> str | None:
    return None if before is None else f"{value - before:{form}}".replace("-", "−")


def _texts(value: Any) -> list[str]:
    return [str(text) for text in value] if isinstance(value, list) else []


# --- errors ---


def pooled_error(modules: Iterable[Module]) -> float | None:
    """Relative RMS error over the values of several modules, sqrt(Σ Σe² / Σ Σw²); None where none was measured.

    Modules whose errors are no numbers are left out, as in the record's totals.
    """
    errors = [m["errors"] for m in modules if m.get("errors")]
    sums = [(e.get("sum_sq_error"), e.get("sum_sq_weight")) for e in errors]
    pairs = [(e, w) for e, w in sums if isinstance(e, int | float) and isinstance(w, int | float)]
    weight = math.fsum(pair[1] for pair in pairs)
    return math.sqrt(math.fsum(pair[0] for pair in pairs) / weight) if weight > 0 else None


# --- by role, by reason ---


def by_role(model: Model) -> list[dict[str, Any]]:
    """A line for each role: how many modules and parameters, and for each side bytes, formats, errors."""
    lines = []
    known = {role: number for number, role in enumerate(ROLES)}
    roles = dict.fromkeys(model.any_module(path)["role"] for path in model.paths)
    for role in sorted(roles, key=lambda r: known.get(r, len(known))):
        members = [m for path in model.paths if (m := model.any_module(path))["role"] == role]
        lines.append(
            {
                "role": role,
                "modules": len(members),
                "parameters": sum(m["parameters"] for m in members),
                "sides": [_role_of_side(side, role) for side in model.sides],
            }
        )
    return lines


def _role_of_side(side: MapSide, role: str) -> dict[str, Any]:
    members = [m for m in side.modules.values() if m["role"] == role]
    size, whole = sum(m["bytes"] for m in members), side.record["totals"]["bytes"]
    forms = Counter(stored_as(m) for m in members)
    return {
        "bytes": size,
        "size": show_bytes(size, 1) if members else "-",
        "share": 100 * size / whole if whole else 0.0,
        "formats": ", ".join(form if len(forms) == 1 else f"{n:,} × {form}" for form, n in forms.most_common()),
        "error": pooled_error(members),
        "errors": [e for m in members if (e := relative_error(m)) is not None],
    }


def by_reason(model: Model) -> list[dict[str, Any]]:
    """Why modules are as they are: every reason once, those that protect first, then by bytes."""
    reasons: dict[tuple[bool, str], dict[str, list[Module]]] = {}
    for side in model.sides:
        for module in side.modules.values():
            sides = reasons.setdefault((not module["protected"], module["reason"]), {})
            sides.setdefault(side.letter, []).append(module)
    types = _layers_of_types(model)
    lettered = len(model.sides) > 1
    lines = [_reason_line(not key[0], key[1], sides, types, lettered=lettered) for key, sides in reasons.items()]
    return sorted(lines, key=lambda line: (not line["protected"], -line["bytes"]))[:_REASONS]


def _layers_of_types(model: Model) -> dict[frozenset[int], str]:
    """The layers of each type, as what a reader would call them; all of them first."""
    by_type: dict[str, set[int]] = {"": set()}
    for path in model.paths:
        module = model.any_module(path)
        if module["layer"] is not None and module["layer_type"]:
            by_type.setdefault(short_layer(module["layer_type"]), set()).add(module["layer"])
            by_type[""].add(module["layer"])
    return {frozenset(layers): f"every {name}".rstrip() for name, layers in reversed(by_type.items())}


def _reason_line(
    protected: bool,
    reason: str,
    sides: Mapping[str, Sequence[Module]],
    types: Mapping[frozenset[int], str],
    *,
    lettered: bool,
) -> dict[str, Any]:
    """One reason; modules and bytes are those of the side that has the most of it."""
    members = max(sides.values(), key=len)
    layers = sorted({m["layer"] for m in members if m["layer"] is not None})
    parts = layers_text(layers) if layers else []
    every = types.get(frozenset(layers)) if len(parts) > 2 else None
    size = sum(m["bytes"] for m in members)
    return {
        "reason": reason,
        "protected": protected,
        "modules": ", ".join(
            f"{letter} {len(modules):,}" if lettered else f"{len(modules):,}" for letter, modules in sides.items()
        ),
        "roles": ", ".join(dict.fromkeys(m["role"] for m in members)),
        "layers": every or ", ".join(str(part) for part in parts) or "-",
        "bytes": size,
        "size": show_bytes(size, 1),
    }
