"""What quantization cost a run of rows, as six numbers that can be joined: the kernels sum them, records hold them.

With w a weight and ŵ what its stored bits stand for, e = w - ŵ. Sums are of squares, so that the relative RMS error of
any union of rows, sqrt(Σe² / Σw²), comes out of theirs; see `builds.audit_record` for what the figures mean.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class ErrorSums:
    """Errors of the rows of a matrix. A row with NaN or infinity makes the sums NaN, and is itself the worst.

    `max_range_share` is the largest |e| / (max(w) - min(w)) of a group; a group of equal values counts 0 without
    and 1 with an error. `worst_row` has the largest sqrt(Σe² / Σw²), the lowest of equals; a row of zeros counts 0.
    """

    sum_sq_error: float
    sum_sq_weight: float
    max_abs_error: float
    max_range_share: float
    worst_row: int
    worst_row_relative_rms_error: float

    @property
    def relative_rms_error(self) -> float:
        """sqrt(Σe² / Σw²), 0 for all zeros."""
        return math.sqrt(self.sum_sq_error / self.sum_sq_weight) if self.sum_sq_weight else 0.0

    def merge(self, other: ErrorSums, row_offset: int) -> ErrorSums:
        """Join with the rows whose first is row `row_offset` here. In row order, every run gives the same sums."""
        worse = other.worst_row_relative_rms_error > self.worst_row_relative_rms_error
        return ErrorSums(
            sum_sq_error=self.sum_sq_error + other.sum_sq_error,
            sum_sq_weight=self.sum_sq_weight + other.sum_sq_weight,
            max_abs_error=_larger(self.max_abs_error, other.max_abs_error),
            max_range_share=_larger(self.max_range_share, other.max_range_share),
            worst_row=row_offset + other.worst_row if worse else self.worst_row,
            worst_row_relative_rms_error=(other if worse else self).worst_row_relative_rms_error,
        )

    def as_dict(self) -> dict[str, Any]:
        """The six numbers by name, as a journal and an audit record have them."""
        return asdict(self)

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> ErrorSums:
        """Read what `as_dict` gave, among other keys; null, for which JSON has no number, comes back as NaN.

        Raises KeyError, TypeError or ValueError for a table that lacks a number or has something else in its place.
        """

        def number(name: str) -> float:
            return math.nan if table[name] is None else float(table[name])

        return cls(
            sum_sq_error=number("sum_sq_error"),
            sum_sq_weight=number("sum_sq_weight"),
            max_abs_error=number("max_abs_error"),
            max_range_share=number("max_range_share"),
            worst_row=int(table["worst_row"]),
            worst_row_relative_rms_error=number("worst_row_relative_rms_error"),
        )


def merged_sums(sums: ErrorSums | None, others: ErrorSums | None, row_offset: int) -> ErrorSums | None:
    """Join sums with those of later rows, where None stands for no rows yet or none measured."""
    if sums is None or others is None:
        return others if sums is None else sums
    return sums.merge(others, row_offset)


def _larger(x: float, y: float) -> float:
    """The larger of two; NaN if either is, where `max` would drop one of them."""
    return x + y if math.isnan(x) or math.isnan(y) else max(x, y)
