"""The audit record of a build: what every module became, why, and what quantizing it cost. No weight is read here.

`convert` draws it up from the sums that its encoder makes, `audit` from the bytes on disk. Both write the same record,
`mlxquant.audit/1`, which holds no time and no path of this machine: the same build gives the same bytes.

With w a source weight and ŵ what the build's bits stand for, over all values of a matrix (or of a role):

- relative RMS error ``sqrt(Σ(w−ŵ)² / Σw²)``. For w = (1, −1), ŵ = (0.99, −1) it is sqrt(0.0001 / 2) = 0.00707.
- SQNR ``10·log10(Σw² / Σ(w−ŵ)²)`` dB, here 10·log10(20000) = 43.0; null where the error is zero (`exact`).
- largest absolute error ``max |w−ŵ|``, here 0.01.
- largest range share ``max |w−ŵ| / (max w − min w)``, each error over the range of its own group, here 0.005. An
  8-bit step is 1/255 = 0.0039 of the range, so rounding alone errs by at most 0.00196.
- worst row: the row with the largest relative RMS error of its own. Rows count through all experts:
  row 700 of a (256, 512, 2048) tensor is row 188 of expert 1.

Sums of role and build are of the squares, so a large module weighs more than a small one. A module with NaN or
infinity has errors that are not numbers, null in the record; sums leave it out, and such modules are listed under
`not_a_number`, a key that the record has only where there are some, and counted in a note.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..kernels import ErrorSums
from ..plan.plan import Plan, PlannedModule
from ..records.head import head
from ..records.modules import grouped, nonfinite_note, not_a_number, pooled_errors, relative_rms
from ..words.formats import RTN, Format
from ..words.modules import ROLES, Module

SCHEMA = "mlxquant.audit/1"

ModuleRecord = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Entry:
    """One module of a build: `format` None is unquantized, `dtype` is that of its values or of its scales.

    `nbytes` counts all its arrays, `protected` says that mlx could quantize it and someone chose not to.
    `rule` is the label of the recipe's rule that decided, None where none did or none is known. `errors` is None
    where nothing was quantized or nothing was measured. `unaligned` is the group size that does not divide the
    module's input dimension, where that is why it is unquantized. `preferred` is the one that the recipe names first,
    where that does not divide it and a smaller one was taken. `method` is how values became integers, `inputs`
    what it was fitted to on documents, None where it needs none.
    """

    module: Module
    format: Format | None
    dtype: str
    nbytes: int
    protected: bool
    reason: str
    rule: str | None = None
    errors: ErrorSums | None = None
    unaligned: int | None = None
    preferred: int | None = None
    method: str = RTN
    inputs: Mapping[str, Any] | None = None


def entries_of(
    plan: Plan,
    errors: Mapping[str, ErrorSums],
    inputs: Callable[[str], Mapping[str, Any] | None] = lambda _: None,
) -> list[Entry]:
    """What a plan's modules became, in the build's order.

    `errors` by module path, empty if not measured; `inputs` gives what a module was fitted to, by path.
    """
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
            m.decision.unaligned,
            m.decision.preferred,
            m.decision.method,
            inputs(m.module.path) if m.format else None,
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
    modules = [_module(e) for e in entries]
    protected = [m for m in modules if m["protected"]]
    missing = not_a_number(modules)
    return {
        **head(SCHEMA),
        "source": dict(source) if source is not None else None,
        "recipe": dict(recipe) if recipe is not None else None,
        "totals": {
            **_size(modules),
            "quantized": _size([m for m in modules if m["format"]]),
            "unquantized": _size([m for m in modules if not m["format"]]),
            "errors": _pooled(modules),
        },
        "protected": {"modules": len(protected), "by_role": dict(Counter(m["role"] for m in protected))},
        "by_role": _by_role(modules),
        "modules": modules,
        **({"not_a_number": missing} if missing else {}),
        "disagreements": list(disagreements),
        "notes": [*notes, *([nonfinite_note(missing)] if missing else [])],
    }


def _module(entry: Entry) -> dict[str, Any]:
    m = entry.module
    return {
        **m.facts(),
        "format": entry.format.as_dict() if entry.format else None,
        "dtype": entry.dtype,
        "bytes": entry.nbytes,
        "bpw": _bpw(entry.nbytes, m.parameters),
        "protected": entry.protected,
        "rule": entry.rule,
        "reason": entry.reason,
        **({"unaligned": entry.unaligned} if entry.unaligned else {}),
        **({"preferred_group_size": entry.preferred} if entry.preferred else {}),
        **({"method": entry.method} if entry.method != RTN else {}),
        **({"inputs": dict(entry.inputs)} if entry.inputs is not None else {}),
        "errors": _errors(entry.errors) if entry.errors else None,
    }


def _errors(sums: ErrorSums) -> dict[str, Any]:
    return {
        **_ratios(sums.sum_sq_error, sums.sum_sq_weight),
        "max_abs_error": _full(sums.max_abs_error),
        "max_range_share": _full(sums.max_range_share),
        "worst_row": sums.worst_row,
        "worst_row_relative_rms_error": _full(sums.worst_row_relative_rms_error),
        "sum_sq_error": _full(sums.sum_sq_error),
        "sum_sq_weight": _full(sums.sum_sq_weight),
    }


def _by_role(modules: Sequence[ModuleRecord]) -> list[dict[str, Any]]:
    """One entry for each role and layer type, in the order of `ROLES`."""

    def order(module: ModuleRecord) -> tuple[int, str]:
        return ROLES.index(module["role"]), module["layer_type"] or ""

    groups = sorted(grouped(modules, order), key=lambda group: order(group.first))
    return [
        {
            "role": group.first["role"],
            "layer_type": group.first["layer_type"],
            **_size(group.members),
            "formats": dict(Counter(_format(m) for m in group.members)),
            "protected": sum(m["protected"] for m in group.members),
            "errors": _pooled(group.members),
        }
        for group in groups
    ]


def _format(module: ModuleRecord) -> str:
    return str(Format.from_dict(module["format"])) if module["format"] else str(module["dtype"])


def _pooled(modules: Sequence[ModuleRecord]) -> dict[str, Any] | None:
    """The errors of several modules as one, with the module that errs most relative to its weights.

    None where none was measured, or none of them is a number.
    """
    pool = pooled_errors(modules)
    if pool is None:
        return None
    return {
        **_ratios(pool.sum_sq_error, pool.sum_sq_weight),
        "max_abs_error": pool.max_abs_error,
        "max_range_share": pool.max_range_share,
        "modules": pool.modules,
        "worst_module": pool.worst,
        "worst_module_relative_rms_error": _rounded(pool.highest),
    }


def _size(modules: Sequence[ModuleRecord]) -> dict[str, Any]:
    parameters, total = sum(m["parameters"] for m in modules), sum(m["bytes"] for m in modules)
    counted = sum(m["bytes"] for m in modules if m["parameters"])  # others' values are not known
    return {"modules": len(modules), "parameters": parameters, "bytes": total, "bpw": _bpw(counted, parameters)}


def _bpw(total: int, parameters: int) -> float | None:
    return 8 * total / parameters if parameters else None


def _ratios(sum_sq_error: float, sum_sq_weight: float) -> dict[str, Any]:
    error, weight = sum_sq_error, sum_sq_weight
    sqnr = 10 * math.log10(weight / error) if 0 < error < math.inf and weight > 0 else math.nan
    return {
        "relative_rms_error": _rounded(relative_rms(error, weight)),
        "sqnr_db": _rounded(sqnr),
        "exact": error == 0,
    }


def _rounded(value: float) -> float | None:
    """Seven significant digits: what logarithms and roots of different machines agree on."""
    return float(f"{value:.7g}") if math.isfinite(value) else None


def _full(value: float) -> float | None:
    """All digits, so that records can be added up again; JSON has no NaN or infinity."""
    return float(value) if math.isfinite(value) else None
