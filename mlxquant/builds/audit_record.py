"""The account of a build: what every module became, why, and what quantizing it cost. No weight is read here.

`convert` keeps this account from the sums that its kernel makes; `audit` draws it up from the bytes on disk. Both
write the same record, `mlxquant.audit/1`, which holds no time and no path of this machine: the same build gives
the same bytes.

With w a source weight and ŵ what the build's bits stand for, over all values of a matrix (or of a role):

- relative RMS error ``sqrt(Σ(w−ŵ)² / Σw²)``. For w = (1, −1), ŵ = (0.99, −1) it is sqrt(0.0001 / 2) = 0.00707.
- SQNR ``10·log10(Σw² / Σ(w−ŵ)²)`` dB, here 10·log10(20000) = 43.0; null where the error is zero (`exact`).
- largest absolute error ``max |w−ŵ|``, here 0.01.
- largest range share ``max |w−ŵ| / (max w − min w)``, each error over the range of its own group, here 0.005. An
  8-bit step is 1/255 = 0.0039 of the range, so rounding alone errs by at most 0.00196.
- worst row: the row with the largest relative RMS error of its own. Rows count through all experts:
  row 700 of a (256, 512, 2048) tensor is row 188 of expert 1.

Sums of role and build are of the squares, so a large tensor weighs more than a small one. A module with NaN or
infinity has errors that are no numbers, null in the record; sums leave it out, and a note counts such modules.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ..plan.plan import Plan, PlannedModule
from ..words.formats import Format
from ..words.modules import ROLES, Module

SCHEMA = "mlxquant.audit/1"
NOT_A_NUMBER = "their error is not a number"


class Sums(Protocol):
    """What a kernel sums over a matrix, `kernels.BlockErrors` for one: `worst_row_error` is a relative RMS."""

    @property
    def sum_sq_error(self) -> float: ...
    @property
    def sum_sq_weight(self) -> float: ...
    @property
    def max_abs_error(self) -> float: ...
    @property
    def max_range_share(self) -> float: ...
    @property
    def worst_row(self) -> int: ...
    @property
    def worst_row_error(self) -> float: ...


@dataclass(frozen=True, slots=True)
class Errors:
    """The sums of a matrix as a record holds them; `read` takes them back out of one."""

    sum_sq_error: float
    sum_sq_weight: float
    max_abs_error: float
    max_range_share: float
    worst_row: int
    worst_row_error: float

    @classmethod
    def read(cls, record: Mapping[str, Any]) -> Errors:
        """Take back what `_errors` wrote; a number that JSON could not hold comes back as NaN."""

        def number(name: str) -> float:
            return math.nan if record[name] is None else float(record[name])

        return cls(
            number("sum_sq_error"),
            number("sum_sq_weight"),
            number("max_abs_error"),
            number("max_range_share"),
            int(record["worst_row"]),
            number("worst_row_relative_rms_error"),
        )


@dataclass(frozen=True, slots=True)
class Entry:
    """One module of a build: `format` None is unquantized, `dtype` is that of its values or of its scales.

    `nbytes` counts all its arrays, `protected` says that mlx could quantize it and someone chose not to.
    `rule` is the label of the recipe's rule that decided, None where none did or none is known. `errors` is None
    where nothing was quantized or nothing was measured.
    """

    module: Module
    format: Format | None
    dtype: str
    nbytes: int
    protected: bool
    reason: str
    rule: str | None = None
    errors: Sums | None = None


def entries_of(plan: Plan, errors: Mapping[str, Sums]) -> list[Entry]:
    """What a plan's modules became, in the build's order; `errors` by module path, empty if not measured."""
    return [
        Entry(
            m.module,
            m.format,
            _dtype(m),
            m.nbytes,
            m.decision.protected,
            m.decision.reason,
            m.decision.rule,
            errors.get(m.module.path),
        )
        for m in plan.modules
    ]


def _dtype(planned: PlannedModule) -> str:
    weight = planned.module.weight
    return planned.format.tensors(weight.shape, weight.dtype)["scales"][0] if planned.format else weight.dtype


def make_record(
    entries: Sequence[Entry],
    *,
    source: Mapping[str, Any] | None,
    recipe: Mapping[str, Any] | None,
    disagreements: Sequence[str] = (),
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """Draw up the record of a build.

    `source` and `recipe` (name, sha256) say what it was made from, None where that is not known.
    """
    from .. import __version__

    kept = [e for e in entries if e.protected]
    return {
        "schema": SCHEMA,
        "mlxquant": __version__,
        "source": dict(source) if source is not None else None,
        "recipe": dict(recipe) if recipe is not None else None,
        "totals": {
            **_size(entries),
            "quantized": _size([e for e in entries if e.format]),
            "unquantized": _size([e for e in entries if not e.format]),
            "errors": _joint_errors(entries),
        },
        "protected": {"modules": len(kept), "by_role": dict(Counter(e.module.role for e in kept))},
        "by_role": [_group(members) for members in _by_role(entries)],
        "modules": [_module(e) for e in entries],
        "disagreements": list(disagreements),
        "notes": [*notes, *_nonfinite_note(entries)],
    }


def _nonfinite_note(entries: Sequence[Entry]) -> list[str]:
    """Say which modules have errors that are no numbers."""
    paths = [e.module.path for e in entries if e.errors and not _finite(e.errors)]
    count = f"{len(paths):,} module{'s' if len(paths) > 1 else ''}"
    return [f"non-finite values in {count} (first: {paths[0]}): {NOT_A_NUMBER}"] if paths else []


def _finite(sums: Sums) -> bool:
    found = (sums.sum_sq_error, sums.sum_sq_weight, sums.max_abs_error, sums.max_range_share)
    return all(math.isfinite(value) for value in found)


def _module(entry: Entry) -> dict[str, Any]:
    m = entry.module
    return {
        "path": m.path,
        "kind": m.kind,
        "role": m.role,
        "layer": m.layer,
        "layer_type": m.layer_type,
        "shape": list(m.shape),
        "parameters": m.parameters,
        "format": entry.format.as_dict() if entry.format else None,
        "dtype": entry.dtype,
        "bytes": entry.nbytes,
        "bpw": _bpw(entry.nbytes, m.parameters),
        "protected": entry.protected,
        "rule": entry.rule,
        "reason": entry.reason,
        "errors": _errors(entry.errors) if entry.errors else None,
    }


def _errors(sums: Sums) -> dict[str, Any]:
    return {
        **_ratios(sums.sum_sq_error, sums.sum_sq_weight),
        "max_abs_error": _full(sums.max_abs_error),
        "max_range_share": _full(sums.max_range_share),
        "worst_row": sums.worst_row,
        "worst_row_relative_rms_error": _full(sums.worst_row_error),
        "sum_sq_error": _full(sums.sum_sq_error),
        "sum_sq_weight": _full(sums.sum_sq_weight),
    }


def _by_role(entries: Sequence[Entry]) -> list[list[Entry]]:
    """Entries of the same role and layer type together, in the order of `ROLES`."""
    groups: dict[tuple[int, str], list[Entry]] = {}
    for e in entries:
        groups.setdefault((ROLES.index(e.module.role), e.module.layer_type or ""), []).append(e)
    return [groups[key] for key in sorted(groups)]


def _group(members: Sequence[Entry]) -> dict[str, Any]:
    return {
        "role": members[0].module.role,
        "layer_type": members[0].module.layer_type,
        **_size(members),
        "formats": dict(Counter(str(e.format or e.dtype) for e in members)),
        "protected": sum(e.protected for e in members),
        "errors": _joint_errors(members),
    }


def _joint_errors(entries: Iterable[Entry]) -> dict[str, Any] | None:
    """The errors of several modules as one, with the module that errs most relative to its weights.

    None where none was measured, or none of them is a number.
    """
    measured = [(e.module, e.errors) for e in entries if e.errors and _finite(e.errors)]
    if not measured:
        return None
    ratios = {m.path: _relative(s.sum_sq_error, s.sum_sq_weight) for m, s in measured}
    worst = max(ratios, key=lambda path: ratios[path])
    sums = [s for _, s in measured]
    return {
        **_ratios(math.fsum(s.sum_sq_error for s in sums), math.fsum(s.sum_sq_weight for s in sums)),
        "max_abs_error": _full(max(s.max_abs_error for s in sums)),
        "max_range_share": _full(max(s.max_range_share for s in sums)),
        "modules": len(sums),
        "worst_module": worst,
        "worst_module_relative_rms_error": _rounded(ratios[worst]),
    }


def _size(entries: Sequence[Entry]) -> dict[str, Any]:
    parameters, total = sum(e.module.parameters for e in entries), sum(e.nbytes for e in entries)
    return {"modules": len(entries), "parameters": parameters, "bytes": total, "bpw": _bpw(total, parameters)}


def _bpw(total: int, parameters: int) -> float | None:
    return 8 * total / parameters if parameters else None


def _ratios(sum_sq_error: float, sum_sq_weight: float) -> dict[str, Any]:
    error, weight = sum_sq_error, sum_sq_weight
    sqnr = 10 * math.log10(weight / error) if 0 < error < math.inf and weight > 0 else math.nan
    return {
        "relative_rms_error": _rounded(_relative(error, weight)),
        "sqnr_db": _rounded(sqnr),
        "exact": error == 0,
    }


def _relative(sum_sq_error: float, sum_sq_weight: float) -> float:
    """Relative RMS error; zero where nothing errs, infinite where zeros became something else."""
    if sum_sq_error == 0:
        return 0.0
    return math.sqrt(sum_sq_error / sum_sq_weight) if sum_sq_weight else math.inf


def _rounded(value: float) -> float | None:
    """Seven significant digits: what logarithms and roots of different machines agree on."""
    return float(f"{value:.7g}") if math.isfinite(value) else None


def _full(value: float) -> float | None:
    """All digits, so that records can be added up again; JSON has no NaN or infinity."""
    return float(value) if math.isfinite(value) else None
