"""The noise floor of a pass: the reference again, computed in bf16 as it would be served.

Serving in bf16 costs something whatever the weights are: every product, norm and sum is rounded to 8 bits of mantissa.
The floor is a model of its own with the reference's arrays as a build keeps them (floats in bf16, `A_log` and its like
in float32), whose hidden states and logits are in bf16. Products are added up in float32 (see `widened`).

A pass that computes in bf16 itself has that noise in its reference. Its floor is the model in float32: what lies
between the two is the same rounding, seen from the other side.

Alone in its module because it is neither the reference nor a candidate.
"""

from __future__ import annotations

import mlx.core as mx

from ..layout.views.bytes import MLX_DTYPES
from ..plan.decide import Decision
from ..plan.plan import PlannedModule
from ..words.formats import FLOATS
from .candidates import Source, Step, new_model
from .model import Streamed
from .options import NOISE_FLOOR
from .weights import Arrays


class Floor:
    """The model of the noise floor, and its arrays of one step at a time."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.dtype = "F32" if source.dtype == mx.bfloat16 else "BF16"
        layout = source.layout
        stored = {m.path: m.prequantized for m in layout.modules if m.prequantized}
        self._planned = [PlannedModule(m, Decision(m.prequantized, False, ""), (1, 1)) for m in layout.modules]
        self.streamed = Streamed(
            new_model(source.checkpoint, layout), source.paths, stored, MLX_DTYPES[self.dtype], NOISE_FLOOR,
            layout.provider,
        )  # fmt: skip

    def put(self, step: Step) -> list[str]:
        """Put a step's arrays in place, made of those that the source has read. Gives their names."""
        arrays: Arrays = {}
        for out in (out for module in self._source.of_step(self._planned, step) for out in module.arrays()):
            raw = self._source.raws[out.source]
            arrays[out.name] = raw.array(self._computed(raw.dtype, out.values))
        self.streamed.put(arrays)
        return list(arrays)

    def _computed(self, stored: str, written: str) -> str:
        """The dtype in which values of a stored dtype take part, which a build would write as `written`."""
        if stored not in FLOATS:
            return stored
        wide = written == "F32" and self._source.layout.dtype != "F32"  # a build keeps these in float32
        return "F32" if wide else self.dtype
