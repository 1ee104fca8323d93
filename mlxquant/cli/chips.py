"""Which chips a command predicts for, and the points of the user's own machine: for `bench --predict` and `plan`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import RecordError, UsageError

if TYPE_CHECKING:
    from ..bench.calibration import Point
    from ..bench.chips import Chip


def chips_named_by(names: Sequence[str], bandwidth: float | None = None, own: Sequence[Point] = ()) -> list[Chip]:
    """The chips of these names in all their sizes, or one of this bandwidth; else those of `own` points, else all.

    Raises UsageError for a name that is not in the table.
    """
    from ..bench.chips import CHIPS, Chip, chips_named

    if bandwidth is not None:
        return [Chip("given", 0, bandwidth, "given with --bandwidth", "-", None)]
    chips = [chip for name in names for chip in chips_named(name)]
    unknown = [name for name in names if not chips_named(name)]
    if unknown:
        known = ", ".join(dict.fromkeys(chip.name for chip in CHIPS))
        raise UsageError(f"--chip {unknown[0]!r}: not in the table; it has {known}. bench --bandwidth takes any other")
    return chips or [*dict.fromkeys(size for point in own for size in sizes_of(point))] or list(CHIPS)


def sizes_of(point: Point) -> list[Chip]:
    """The chip of a point: the one of its GPU cores where these are known, else every size of its name."""
    from ..bench.chips import chips_named

    sizes = chips_named(point.chip)
    return [chip for chip in sizes if chip.gpu_cores == point.gpu_cores] or sizes


def this_chip() -> Chip | None:
    """The chip of this machine, None where it is not in the table."""
    from ..bench.chips import find_chip
    from ..bench.conditions import gpu_cores
    from ..records.head import describe_machine

    return find_chip(describe_machine()["chip"], gpu_cores())


def own_points(records: Sequence[Path]) -> list[Point]:
    """Decode speeds of `bench` records of Apple chips. Raises RecordError for a record that has none."""
    from ..bench.calibration import points_of_record
    from ..bench.record import read_bench

    points = []
    for path in records:
        measured = [point for point in points_of_record(read_bench(path), path.name) if sizes_of(point)]
        if not measured:
            raise RecordError(
                f"{path}: a decode speed of a build on an Apple chip expected (bench BUILD -n 128 -b 1, mlxquant of"
                " 2026-11-28 or later), none found; measure it anew"
            )
        points += measured
    return points
