"""The encoder of a plan: each module by the method that its recipe gives it.

Modules of the method `rtn` are rounded; those of `mse` are searched; those of `imatrix` are searched under column
weights, which the caller brings. For `gptq` and `distill` the caller brings the encoder itself (all are `calibrate`'s).
Alone in its module because writing a build, remaking it and the streamed pass must encode a module alike.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..errors import UsageError
from ..kernels import ByModule, ColumnWeights, Encoder, Searching
from ..plan.plan import Plan, PlannedModule
from ..words.formats import BY_LAYER, IMATRIX, MSE, RTN


def encoder_of(
    plan: Plan,
    rounding: Encoder,
    columns: ColumnWeights | None,
    *,
    allow_nonfinite: bool = False,
    compensated: Encoder | None = None,
) -> Encoder:
    """The encoder of a plan; `rounding` itself where every module is rounded.

    `compensated` is that of the methods gptq and distill. Raises UsageError for a module of `imatrix` without
    `columns`, and for one of those two without `compensated`.
    """
    methods = methods_of(plan.modules)
    if not methods:
        return rounding
    wanting = [path for path, method in methods.items() if method in BY_LAYER]
    if wanting and compensated is None:
        raise UsageError(
            f"recipe {plan.recipe}: method {methods[wanting[0]]} ({wanting[0]} and {len(wanting) - 1:,} others) is"
            " encoded on documents in a pass of its own; write the build with `mlxquant convert --data FILE`"
        )
    weighed = [path for path, method in methods.items() if method == IMATRIX]
    if weighed and columns is None:
        raise UsageError(
            f"recipe {plan.recipe}: method {IMATRIX} ({weighed[0]} and {len(weighed) - 1:,} others) needs a"
            " calibration; give --calibration CAL, a file written by `mlxquant calibrate`"
        )
    encoders: dict[str, Encoder] = {
        MSE: Searching(None, allow_nonfinite),
        IMATRIX: Searching(columns, allow_nonfinite),
    }
    if compensated is not None:
        encoders |= dict.fromkeys(BY_LAYER, compensated)
    return ByModule({path: encoders[method] for path, method in methods.items()}, rounding)


def methods_of(modules: Iterable[PlannedModule]) -> dict[str, str]:
    """The method of each module that is quantized otherwise than rounded, by path."""
    return {m.module.path: m.decision.method for m in modules if m.format and m.decision.method != RTN}


def needs_documents(plan: Plan) -> bool:
    """Whether a module's method encodes layer by layer on documents, which takes a pass of its own."""
    return not set(BY_LAYER).isdisjoint(methods_of(plan.modules).values())


def needs_columns(plan: Plan) -> bool:
    """Whether a module's method weighs errors by column."""
    return IMATRIX in methods_of(plan.modules).values()
