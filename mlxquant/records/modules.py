"""What plan and audit records say of their modules: how each is stored, its error, and the errors of several as one.

With w a weight of the source and ŵ what the stored bits stand for, the relative RMS error of a module is
sqrt(Σ(w-ŵ)² / Σw²). That of several modules is taken over all their values, so from their sums: a large module weighs
more than a small one. Of (Σe², Σw²) = (1, 100) and (1, 300) it is sqrt(2/400) = 0.0707, not the mean of 0.1 and 0.0577.

Modules are the entries of a record's `modules`, tables as JSON has them. Nothing is checked here, nothing written: see
`records.files` for the first, `report` for texts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..words.formats import Format
from ..words.modules import stored_as as stored_in

Module = Mapping[str, Any]

_SUMS = ("sum_sq_error", "sum_sq_weight", "max_abs_error", "max_range_share")


def format_of(module: Module) -> str:
    """How a module is stored: its format, or the dtype of its values. ``"8-bit g64"`` or ``"bf16"``."""
    return stored_in(Format.from_dict(module["format"]) if module["format"] else None, str(module["dtype"]))


def stored_as(module: Module) -> str:
    """The same with the method by which values became integers, unless they were rounded. ``"4-bit g64, mse"``."""
    return f"{format_of(module)}, {module['method']}" if module.get("method") else format_of(module)


# How records said it before they had the field `unaligned` (builds of mlxquant 0.1.0 before 2026-11-28)
_UNALIGNED = "left unquantized: group size "


def is_unaligned(module: Module) -> bool:
    """Whether a module stays unquantized because the group size does not divide its input dimension.

    The field `unaligned` has that group size. Records without the field are recognized by their reason, only here.
    """
    return bool(module.get("unaligned")) or str(module["reason"]).startswith(_UNALIGNED)


def relative_error(module: Module) -> float | None:
    """A module's relative RMS error, None where none was measured or it is not a number."""
    value = (module.get("errors") or {}).get("relative_rms_error")
    return None if value is None else float(value)


@dataclass(frozen=True, slots=True)
class PooledErrors:
    """The errors of several modules taken together; `modules` says of how many.

    `relative` is sqrt(Σe² / Σw²) over all their values, `lowest` and `highest` are those of single modules, and `worst`
    is the path of the module that has the highest (the first of equals). A ratio is 0 where nothing differs and
    infinite where zeros became something else. `max_abs_error` and `max_range_share` are the largest of any module.
    """

    modules: int
    sum_sq_error: float
    sum_sq_weight: float
    max_abs_error: float
    max_range_share: float
    lowest: float
    highest: float
    worst: str

    @property
    def relative(self) -> float:
        """Relative RMS error over the values of all modules."""
        return relative_rms(self.sum_sq_error, self.sum_sq_weight)


def relative_rms(sum_sq_error: float, sum_sq_weight: float) -> float:
    """sqrt(Σe² / Σw²): 0 where nothing differs, infinite where zeros became something else."""
    if sum_sq_error == 0:
        return 0.0
    return math.sqrt(sum_sq_error / sum_sq_weight) if sum_sq_weight else math.inf


def pooled_errors(modules: Iterable[Module]) -> PooledErrors | None:
    """Pool the errors of several modules; None where none was measured.

    Modules whose errors are not numbers are left out, as in the totals of an audit record.
    """
    measured = [(m["path"], m["errors"]) for m in modules if m.get("errors") and _is_measured(m["errors"])]
    if not measured:
        return None
    ratios = {path: relative_rms(e["sum_sq_error"], e["sum_sq_weight"]) for path, e in measured}
    worst = max(ratios, key=lambda path: ratios[path])
    return PooledErrors(
        modules=len(measured),
        sum_sq_error=math.fsum(e["sum_sq_error"] for _, e in measured),
        sum_sq_weight=math.fsum(e["sum_sq_weight"] for _, e in measured),
        max_abs_error=max(e["max_abs_error"] for _, e in measured),
        max_range_share=max(e["max_range_share"] for _, e in measured),
        lowest=min(ratios.values()),
        highest=ratios[worst],
        worst=worst,
    )


def not_a_number(modules: Iterable[Module]) -> list[str]:
    """The paths of modules whose errors were measured and are not numbers: NaN or infinity stands in their weights.

    An audit record lists them under `not_a_number`; those written before 2026-11-28 do not, so modules are asked.
    """
    return [m["path"] for m in modules if isinstance(m.get("errors"), dict) and not _is_measured(m["errors"])]


def nonfinite_note(paths: Sequence[str]) -> str:
    """The note of an audit record on modules that `not_a_number` lists."""
    count = f"{len(paths):,} module{'s' if len(paths) > 1 else ''}"
    return f"non-finite values in {count} (first: {paths[0]}): their error is not a number"


def _is_measured(errors: Mapping[str, Any]) -> bool:
    """Whether all sums are numbers; JSON has no NaN, so null stands for it."""
    return all(isinstance(errors.get(name), int | float) for name in _SUMS)


@dataclass(frozen=True, slots=True)
class Group:
    """Modules described as one: what they share, how many there are, and their errors taken together."""

    members: tuple[Module, ...]
    errors: PooledErrors | None

    @property
    def first(self) -> Module:
        """The member that stands for what they share."""
        return self.members[0]

    def sum(self, key: str) -> int:
        """A whole number added up over the members, such as `bytes`."""
        return sum(int(m[key]) for m in self.members)


def grouped(modules: Iterable[Module], key: Callable[[Module], Any]) -> list[Group]:
    """Group modules by what `key` gives, in the order in which groups first come."""
    groups: dict[Any, list[Module]] = {}
    for module in modules:
        groups.setdefault(key(module), []).append(module)
    return [Group(tuple(members), pooled_errors(members)) for members in groups.values()]
