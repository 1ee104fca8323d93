"""A build compared with the checkpoint it was made from: quantization errors, and whether the rest is the same.

Both sides are read by blocks, cut as `convert` cuts them and cast as the build was, so that the sums come out as
convert's do; memory is threads × block. The source's weights are what mlx-lm's own sanitize makes of them, as in
`layout`. What cannot be measured (the source stores it quantized already) is in `notes`. Nothing is made again here:
see `remake`.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..builds.read.build import Build
from ..builds.read.formats import Stored
from ..builds.write.making import read_block
from ..builds.write.pieces import Output, Piece, pieces
from ..builds.write.workers import Scratch, ordered_map
from ..errors import LayoutError, SourceError, UsageError
from ..kernels import ErrorSums, Quantized, measure_rows, merged_sums
from ..layout.carried import VISION
from ..layout.kept import view_name
from ..layout.layout import Layout, read_layout
from ..layout.views.bytes import SAFETENSORS_DTYPES
from ..layout.views.read import read_rows, rows_in
from ..layout.views.view import View
from ..source.checkpoint import Checkpoint
from ..words.formats import Format, carrier
from ..words.progress import Progress, Watch, unwatched


@dataclass(frozen=True, slots=True)
class Comparison:
    """The result of comparing a build with a source.

    `errors` are by module path; `disagreements` name what should be equal and is not, `notes` what was not measured.
    `equal` counts arrays that are the same byte for byte.
    """

    source: dict[str, Any]
    errors: Mapping[str, ErrorSums]
    equal: int
    disagreements: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Task:
    """One array of the source and what the build has in its place: packed in `format`, or as it is."""

    output: Output
    path: str
    stored: Mapping[str, View]
    format: Format | None


def compare_with_source(
    build: Build, source: Checkpoint, *, threads: int | None = None, watch: Watch = unwatched
) -> Comparison:
    """Read both sides through and sum what quantization cost. Progress is in bytes of the source.

    Raises SourceError where the source cannot be laid out or is of another model.
    """
    options = (build.manifest or {}).get("options")
    dtype = options.get("dtype") if isinstance(options, dict) else None
    layout = _layout(build, source, dtype)
    if not source.tensors:
        raise SourceError(f"{source.name}: a config alone has no weights to hold the build against")
    if layout.model_type != build.config["model_type"]:
        raise SourceError(
            f"{source.name}: a {layout.model_type} model, but {build.name} is a {build.config['model_type']} model;"
            " give the checkpoint that the build was made from"
        )
    disagreements, notes = list[str](), list[str](source.notes)
    tasks = list(_tasks(build, layout, source, disagreements, notes))
    errors: dict[str, ErrorSums] = {}
    differing: dict[str, tuple[int, int]] = {}
    done, total = 0, sum(t.output.view.nbytes for t in tasks)
    for task, piece, result in _read_through(tasks, build.checkpoint, source, threads or os.cpu_count() or 1):
        if isinstance(result, ErrorSums):
            before = errors.get(task.path)
            errors[task.path] = result if before is None else before.merge(result, piece.start)
        elif result[0]:
            rows, first = differing.get(task.output.name, (0, piece.start + result[1]))
            differing[task.output.name] = (rows + result[0], first)
        done += piece.rows * task.output.source_row_bytes
        watch(Progress(done, total, task.path))
    for name, (rows, first) in differing.items():
        disagreements.append(f"{name}: not the source's: {rows:,} rows differ, the first is {first:,}")
    equal = sum(t.format is None for t in tasks) - len(differing)
    described = {"name": source.name, "revision": source.revision}
    return Comparison(described, errors, equal, tuple(disagreements), tuple(notes))


def _layout(build: Build, source: Checkpoint, dtype: str | None) -> Layout:
    """The source as the build was made from it, its vision tower included where the build has one."""
    if any(s.module.role == VISION and not s.placed for s in build.stored.values()):
        with suppress(UsageError, LayoutError):  # a tower whose names are not known is left out of the comparison
            return read_layout(source, dtype=dtype, keep=(VISION,), provider=build.provider.name)
    return read_layout(source, dtype=dtype, provider=build.provider.name)


def _tasks(
    build: Build, layout: Layout, source: Checkpoint, disagreements: list[str], notes: list[str]
) -> Iterator[_Task]:
    """Pair the arrays of both sides; what has no partner of its shape is a disagreement or a note."""
    sources = {m.path: m for m in layout.modules}
    skipped: Counter[str] = Counter()
    for path, stored in build.stored.items():
        module = sources.get(path)
        if not stored.placed and module is None:
            skipped["modules that mlx-lm's class has no place for"] += 1
        elif module is None:
            disagreements.append(f"{path}: in the build, but not in the source")
        elif module.shape != stored.module.shape:
            disagreements.append(
                f"{path}: {list(module.shape)} in the source, {list(stored.module.shape)} in the build"
            )
        elif "global_scale" in stored.views:
            skipped["modules with an nvfp4 global scale"] += 1
        else:
            if stored.format and module.prequantized:
                skipped[f"modules that the source stores as {module.prequantized} already"] += 1
            same = stored.format is not None and module.kept == stored.format
            kept = same and _same_bits(stored, layout, build.checkpoint, source)
            skipped["modules that hold the source's own bits"] += kept
            yield from _kept_tasks(stored, layout) if kept else _module_tasks(stored, layout, module.weight.dtype)
    disagreements += [f"{path}: in the source, but not in the build" for path in sources if path not in build.stored]
    notes += [f"{count:,} {what}: no error was measured" for what, count in skipped.items() if count]


def _kept_tasks(stored: Stored, layout: Layout) -> Iterator[_Task]:
    """A module that holds the source's own bits: its packed arrays, to be equal byte for byte."""
    path = stored.module.path
    for suffix, view in stored.views.items():
        kept = layout.views.get(view_name(path, suffix))
        theirs = layout.views.get(f"{path}.{suffix}") if kept is None else kept
        if theirs is not None and theirs.shape == view.shape:
            output = Output(f"{path}.{suffix}", path, theirs, SAFETENSORS_DTYPES[view.dtype], ())
            yield _Task(output, path, {"": view}, None)


def _same_bits(stored: Stored, layout: Layout, build: Checkpoint, source: Checkpoint) -> bool:
    """Whether some rows of a module's packed arrays are the source's: then all of them are meant to be."""
    for suffix, view in stored.views.items():
        theirs = layout.views.get(view_name(stored.module.path, suffix))
        if theirs is None:
            continue
        if theirs.shape != view.shape or theirs.dtype != view.dtype:
            return False
        for row in sorted({0, rows_in(view) // 2, rows_in(view) - 1}):
            ours, other = (np.empty((1, view.shape[-1] * view.itemsize), np.uint8) for _ in range(2))
            read_rows(view, build.read_into, row, ours)
            read_rows(theirs, source.read_into, row, other)
            if not np.array_equal(ours, other):
                return False
    return True


def _module_tasks(stored: Stored, layout: Layout, dtype: str) -> Iterator[_Task]:
    path, fmt = stored.module.path, stored.format
    packed = {s: stored.views[s] for s in ("weight", "scales", "biases") if fmt and s in stored.views}
    weight = layout.views.get(f"{path}.weight")
    if fmt and weight is not None and f"{path}.scales" not in layout.views:
        values = SAFETENSORS_DTYPES[packed["scales"].dtype] if fmt.mode == "affine" else dtype
        yield _Task(Output(f"{path}.weight", path, weight, values, ()), path, packed, fmt)
    for suffix, view in stored.views.items():
        name = f"{path}.{suffix}" if suffix else path
        theirs = layout.views.get(name)
        if theirs is not None and theirs.shape == view.shape:
            yield _Task(Output(name, path, theirs, SAFETENSORS_DTYPES[view.dtype], ()), path, {"": view}, None)


# --- reading both sides ---


_Result = ErrorSums | tuple[int, int]


def _read_through(
    tasks: Iterable[_Task], build: Checkpoint, source: Checkpoint, threads: int
) -> Iterator[tuple[_Task, Piece, _Result]]:
    """Compare piece by piece on threads, and yield the results in order: error sums, or rows that differ."""

    def compare(item: tuple[_Task, Piece], scratch: Scratch) -> _Result:
        task, piece = item
        if task.format is None:
            return _rows_that_differ(task, piece, build, source, scratch)
        return _measured(task, task.format, piece, build, source, scratch)

    work = ((task, piece) for task in tasks for piece in pieces(task.output))
    stop = source.reader.stop if source.reader is not None else lambda: None
    for (task, piece), result in ordered_map(compare, work, threads, stop=stop):
        yield task, piece, result


def _measured(
    task: _Task, fmt: Format, piece: Piece, build: Checkpoint, source: Checkpoint, scratch: Scratch
) -> ErrorSums:
    """The errors of one piece of a packed matrix."""
    total: ErrorSums | None = None
    dtype = task.output.dtype
    for start, rows in piece.blocks:
        values = read_block(task.output, source.read_into, start, rows, scratch).view(carrier(dtype))
        packed = {s: _block(v, build, start, rows) for s, v in task.stored.items()}
        errors = measure_rows(values, dtype, Quantized(packed["weight"], packed["scales"], packed.get("biases")), fmt)
        total = merged_sums(total, errors, start - piece.start)
    assert total is not None, "a piece has blocks"
    return total


def _block(view: View, build: Checkpoint, start: int, rows: int) -> NDArray[Any]:
    """Rows of a stored array, (rows, columns) of the numpy dtype that the kernels take."""
    block = np.empty((rows, view.shape[-1] * view.itemsize), np.uint8)
    read_rows(view, build.read_into, start, block)
    return block.view(carrier(SAFETENSORS_DTYPES[view.dtype]))


def _rows_that_differ(
    task: _Task, piece: Piece, build: Checkpoint, source: Checkpoint, scratch: Scratch
) -> tuple[int, int]:
    """How many rows of a piece differ, and the first of them, counted within the piece."""
    count, first, view = 0, 0, task.stored[""]
    for start, rows in piece.blocks:
        theirs = read_block(task.output, source.read_into, start, rows, scratch)
        ours = np.empty_like(theirs)
        read_rows(view, build.read_into, start, ours)
        differs = (ours != theirs).any(axis=1)
        if differs.any() and not count:
            first = start - piece.start + int(np.argmax(differs))
        count += int(differs.sum())
    return count, first
