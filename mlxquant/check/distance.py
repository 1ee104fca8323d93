"""How far the weights of two builds are apart: equal bytes where formats agree, and the distance where they do not.

With a and b the values that the bits of the two stand for, over a whole matrix,

    relative RMS distance = sqrt(Σ(b−a)² / Σa²)

in float64 over float32 values, added up in row order. For a = (1, −1), b = (0.99, −1) it is sqrt(0.0001 / 2) =
0.00707. Where both keep the source's values it is 0; an 8-bit build is about 0.005 from one that keeps them, a
4-bit build about 0.1. Both sides are read by blocks of about `BLOCK` values, so memory is threads × a few blocks,
whatever the model.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..builds.read.build import Build
from ..builds.read.formats import Stored
from ..builds.write.workers import ordered_map
from ..kernels import Quantized, dequantize_rows
from ..layout.views.read import read_rows
from ..layout.views.view import View
from ..source.checkpoint import Checkpoint
from ..words.formats import FLOATS, carrier, widen
from ..words.modules import stored_as
from ..words.progress import Progress, Watch, unwatched

# Values of one block: 4 MB as float32
BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class Compared:
    """One module of both builds. `equal` is None where formats differ, `distance` where none was measured."""

    path: str
    role: str
    a: str
    b: str
    equal: bool | None
    distance: float | None
    unmeasured: str | None = None


def compare_builds(
    a: Build, b: Build, *, threads: int | None = None, watch: Watch = unwatched, block: int = BLOCK
) -> dict[str, Any]:
    """Compare the bytes and values of all modules that both builds have; the `tensors` of a diff record.

    Values are read `block` at a time; progress is in bytes of both. Raises SourceError where a file cannot be read.
    """
    paths = [path for path in a.stored if path in b.stored]
    total = sum(a.stored[p].nbytes + b.stored[p].nbytes for p in paths)
    compared: list[Compared] = []
    done = 0
    for path, result in ordered_map(lambda path, _: _compare(path, a, b, block), paths, threads or os.cpu_count() or 1):
        compared.append(result)
        done += a.stored[path].nbytes + b.stored[path].nbytes
        watch(Progress(done, total, path))
    same = [c for c in compared if c.equal is not None]
    return {
        "same_format": {
            "modules": len(same),
            "equal": sum(c.equal is True for c in same),
            "different": [c.path for c in same if not c.equal],
            "distances": [_entry(c) for c in same if c.distance is not None],
        },
        "other_format": [_entry(c) for c in compared if c.equal is None and c.distance is not None],
        "unmeasured": [{"path": c.path, "reason": c.unmeasured} for c in compared if c.unmeasured],
    }


def _entry(module: Compared) -> dict[str, Any]:
    assert module.distance is not None, "only what was measured is listed"
    distance = float(f"{module.distance:.7g}")  # what roots of different machines agree on
    return {"path": module.path, "role": module.role, "a": module.a, "b": module.b, "relative_rms_distance": distance}


def _compare(path: str, a: Build, b: Build, block: int) -> Compared:
    left, right = a.stored[path], b.stored[path]
    what = (path, left.module.role, stored_as(left.format, left.dtype), stored_as(right.format, right.dtype))
    same = left.format == right.format and left.dtype == right.dtype and _alike(left, right)
    if same and all(_equal(v, a.checkpoint, right.views[s], b.checkpoint, block) for s, v in left.views.items()):
        return Compared(*what, True, None)
    equal = False if same else None
    reason = _incomparable(left, right)
    if reason is None:
        distance = _distance(left, a.checkpoint, right, b.checkpoint, block)
        if math.isfinite(distance):
            return Compared(*what, equal, distance)
        reason = "NaN or infinity among the values, or all of a's are zero"
    return Compared(*what, equal, None, reason)


def _alike(left: Stored, right: Stored) -> bool:
    """Whether both have the same arrays, of the same dtypes and shapes."""
    return left.views.keys() == right.views.keys() and all(
        (v.dtype, v.shape) == (right.views[s].dtype, right.views[s].shape) for s, v in left.views.items()
    )


def _incomparable(left: Stored, right: Stored) -> str | None:
    """Why there is no distance between two modules, or None if there is."""
    for stored, which in ((left, "a"), (right, "b")):
        if stored.trouble:
            return f"its format in {which} cannot be told: {stored.trouble}"
        if "global_scale" in stored.views:
            return f"{which} has an nvfp4 global scale, which is not read here"
        if stored.format is None and (stored.dtype not in FLOATS or _values(stored) is None):
            return f"{which} stores {stored.dtype}, not floats"
    if left.module.shape != right.module.shape:
        return f"shapes differ: {list(left.module.shape)} and {list(right.module.shape)}"
    return None


def _values(stored: Stored) -> View | None:
    """The array that holds an unquantized module's values."""
    return stored.views.get(stored.module.weight.name)


def _equal(one: View, a: Checkpoint, other: View, b: Checkpoint, block: int) -> bool:
    width = _columns(one) * one.itemsize
    for start, rows in _blocks(one, max(1, block * 4 // max(width, 1))):
        left, right = (_read(v, c, start, rows) for v, c in ((one, a), (other, b)))
        if not np.array_equal(left, right):
            return False
    return True


def _distance(left: Stored, a: Checkpoint, right: Stored, b: Checkpoint, block: int) -> float:
    """sqrt(Σ(b−a)² / Σa²) over a module's weight; 0 where nothing differs, infinite where all of a's are 0."""
    shape = left.module.shape
    columns = shape[-1] if shape else 1
    count = math.prod(shape) // columns if columns else 0
    apart, size = [0.0], [0.0]
    for start in range(0, count, rows := max(1, block // max(columns, 1))):
        taken = min(rows, count - start)
        ours = _dequantized(left, a, start, taken).astype(np.float64)
        theirs = _dequantized(right, b, start, taken)
        size.append(float(np.vdot(ours, ours)))
        ours -= theirs
        apart.append(float(np.vdot(ours, ours)))
    if math.fsum(apart) == 0:
        return 0.0
    return math.sqrt(math.fsum(apart) / math.fsum(size)) if math.fsum(size) else math.inf


def _dequantized(stored: Stored, checkpoint: Checkpoint, start: int, rows: int) -> NDArray[np.float32]:
    """Rows of a module's weight as float32, (rows, columns)."""
    if stored.format is None:
        view = _values(stored)
        assert view is not None, "checked by _incomparable"
        return widen(_read(view, checkpoint, start, rows).view(carrier(stored.dtype)), stored.dtype)
    parts = {
        s: _read(stored.views[s], checkpoint, start, rows) for s in ("weight", "scales", "biases") if s in stored.views
    }
    scales = carrier(stored.dtype)
    packed = Quantized(
        parts["weight"].view(np.uint32),
        parts["scales"].view(scales),
        parts["biases"].view(scales) if "biases" in parts else None,
    )
    return dequantize_rows(packed, stored.dtype, stored.format)


def _read(view: View, checkpoint: Checkpoint, start: int, rows: int) -> NDArray[np.uint8]:
    """Rows of an array's bytes, (rows, columns * itemsize)."""
    out = np.empty((rows, _columns(view) * view.itemsize), np.uint8)
    read_rows(view, checkpoint.read_into, start, out)
    return out


def _columns(view: View) -> int:
    return int(view.shape[-1]) if view.ndim else 1


def _blocks(view: View, rows: int) -> Iterator[tuple[int, int]]:
    count = view.size // _columns(view) if view.size else 0
    for start in range(0, count, rows):
        yield start, min(rows, count - start)
