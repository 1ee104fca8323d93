"""Arrays that remember where they come from: what a model class's `sanitize` is run over.

mlx-lm turns the Hub's tensors into MLX's in `Model.sanitize(weights)`: it renames, slices, stacks,
transposes, and here and there computes (norm + 1, FP8 dequantization). Run over `View`s instead of arrays,
the same code tells, for every MLX tensor, which bytes of which file it is made of, so that a block of its
rows can be made from its own source rows alone. A view is one of

- a `Strided` window on one stored tensor (slices, transposes, most reshapes of one),
- a `Joined` list of views along an axis (`mx.stack`, `mx.concatenate`),
- a `Computed` call of a real mlx function on other views, done by mlx when its values are wanted.

Shapes and dtypes of computed views come from mlx too: the function is called on lazy zeros, which are never
evaluated. This module does not know any architecture, and imports mlx but not mlx_lm.
"""

from __future__ import annotations

import operator
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from .headers import Tensor
from .strided import Read, Strided, row_major

# safetensors dtype -> mlx dtype, as mx.load reads them (FP8 bytes as uint8)
MLX_DTYPES: dict[str, mx.Dtype] = {
    "BOOL": mx.bool_, "U8": mx.uint8, "I8": mx.int8, "F8_E4M3": mx.uint8, "F8_E8M0": mx.uint8,
    "U16": mx.uint16, "I16": mx.int16, "F16": mx.float16, "BF16": mx.bfloat16, "U32": mx.uint32,
    "I32": mx.int32, "F32": mx.float32, "U64": mx.uint64, "I64": mx.int64, "C64": mx.complex64,
}  # fmt: skip
SAFETENSORS_DTYPES: dict[mx.Dtype, str] = {
    v: k for k, v in MLX_DTYPES.items() if not k.startswith("F8")
}


@dataclass(frozen=True, slots=True)
class Joined:
    """Views side by side along an axis that all of them have."""

    axis: int
    parts: tuple[View, ...]


@dataclass(frozen=True, slots=True)
class Computed:
    """What a real mlx function gives for these arguments; `pick` chooses among several results."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    pick: int | None = None


class View:
    """Stands in for an mx.array in `sanitize`: has its shape and dtype, records what is done to it."""

    __slots__ = ("dtype", "expr", "shape")

    def __init__(self, expr: Strided | Joined | Computed, shape: tuple[int, ...], dtype: mx.Dtype) -> None:
        self.expr = expr
        self.shape = shape
        self.dtype = dtype

    # --- what code asks an array ---
    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return prod(self.shape)

    @property
    def itemsize(self) -> int:
        return int(self.dtype.size)

    @property
    def nbytes(self) -> int:
        return self.size * self.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"View({self.shape}, {self.dtype}, {type(self.expr).__name__})"

    def __bool__(self) -> bool:
        raise TypeError("the value of a weight decides what sanitize does, which headers cannot tell")

    # --- movements, kept symbolic where strides or parts can express them ---
    @property
    def T(self) -> View:
        return self.transpose()

    def transpose(self, *axes: Any) -> View:
        order = _ints(axes) or tuple(reversed(range(self.ndim)))
        return self._permute(tuple(a % self.ndim for a in order))

    def swapaxes(self, axis1: int, axis2: int) -> View:
        order = list(range(self.ndim))
        order[axis1], order[axis2] = order[axis2], order[axis1]
        return self._permute(tuple(order))

    def moveaxis(self, source: int, destination: int) -> View:
        order = list(range(self.ndim))
        order.insert(destination % self.ndim, order.pop(source))
        return self._permute(tuple(order))

    def reshape(self, *shape: Any) -> View:
        wanted = _ints(shape)
        if -1 in wanted:
            known = -prod(wanted)
            wanted = tuple(self.size // known if n == -1 else n for n in wanted)
        if prod(wanted) != self.size:
            raise ValueError(f"cannot reshape an array of shape {self.shape} into {wanted}")
        if wanted == self.shape:
            return self
        match self.expr:
            case Strided() as s if (moved := s.reshape(wanted)) is not None:
                return View(moved, wanted, self.dtype)
            case Joined(axis, parts) if wanted[:axis] == self.shape[:axis] and _divides(self.shape, wanted, axis):
                return join([p.reshape(*wanted[:axis], -1, *wanted[axis + 1 :]) for p in parts], axis)
        return compute(mx.reshape, self, wanted)

    def flatten(self, start_axis: int = 0, end_axis: int = -1) -> View:
        start, end = start_axis % self.ndim, end_axis % self.ndim
        return self.reshape(*self.shape[:start], prod(self.shape[start : end + 1]), *self.shape[end + 1 :])

    def squeeze(self, axis: Any = None) -> View:
        axes = _ints((axis,)) if axis is not None else tuple(i for i, n in enumerate(self.shape) if n == 1)
        view = self
        for a in sorted((a % self.ndim for a in axes), reverse=True):
            if self.shape[a] != 1:
                raise ValueError(f"cannot squeeze axis {a} of shape {self.shape}")
            view = view._index(a, 0)
        return view

    def expand_dims(self, axis: Any) -> View:
        view = self
        for a in sorted(_ints((axis,))):
            view = view._insert(a % (view.ndim + 1))
        return view

    def split(self, indices_or_sections: Any, axis: int = 0) -> list[View]:
        axis %= self.ndim
        n = self.shape[axis]
        if isinstance(indices_or_sections, int):
            if n % indices_or_sections:
                raise ValueError(f"cannot split axis {axis} of {self.shape} into {indices_or_sections} equal parts")
            step = n // indices_or_sections
            cuts = list(range(0, n + 1, step))
        else:
            cuts = [0, *indices_or_sections, n]
        return [self._slice(axis, a, 1, b - a) for a, b in zip(cuts, cuts[1:], strict=False)]

    def view(self, dtype: mx.Dtype) -> View:
        if isinstance(self.expr, Strided) and (seen := self.expr.reinterpret(int(dtype.size))) is not None:
            return View(seen, seen.shape, dtype)
        if isinstance(self.expr, Joined) and self.expr.axis != self.ndim - 1:
            return join([p.view(dtype) for p in self.expr.parts], self.expr.axis)
        return compute(mx.view, self, dtype)

    def astype(self, dtype: mx.Dtype) -> View:
        return self if dtype == self.dtype else compute(_astype, self, dtype)

    def __getitem__(self, key: Any) -> View:
        keys = key if isinstance(key, tuple) else (key,)
        if not all(k is None or k is Ellipsis or isinstance(k, (int, slice)) for k in keys):
            return compute(operator.getitem, self, key)
        given = sum(k is not None and k is not Ellipsis for k in keys)
        view, axis = self, 0
        for k in keys if Ellipsis in keys else (*keys, Ellipsis):
            if k is Ellipsis:
                axis += self.ndim - given
            elif k is None:
                view, axis = view._insert(axis), axis + 1
            elif isinstance(k, int):
                view = view._index(axis, k)
            else:
                start, stop, step = k.indices(view.shape[axis])
                if step < 0:
                    return compute(operator.getitem, self, key)
                view, axis = view._slice(axis, start, step, len(range(start, stop, step))), axis + 1
        return view

    def _permute(self, axes: tuple[int, ...]) -> View:
        if axes == tuple(range(self.ndim)):
            return self
        shape = tuple(self.shape[a] for a in axes)
        match self.expr:
            case Strided() as s:
                return View(s.permute(axes), shape, self.dtype)
            case Joined(axis, parts):
                return join([p._permute(axes) for p in parts], axes.index(axis))
        return compute(mx.transpose, self, axes)

    def _slice(self, axis: int, start: int, step: int, length: int) -> View:
        if (start, step, length) == (0, 1, self.shape[axis]):
            return self
        shape = (*self.shape[:axis], length, *self.shape[axis + 1 :])
        match self.expr:
            case Strided() as s:
                return View(s.slice(axis, start, step, length), shape, self.dtype)
            case Joined(joined, parts) if joined != axis:
                return join([p._slice(axis, start, step, length) for p in parts], joined)
            case Joined(_, parts) if step == 1:
                chosen, at = [], 0
                for p in parts:
                    first, last = max(start - at, 0), min(start + length - at, p.shape[axis])
                    if first < last:
                        chosen.append(p._slice(axis, first, 1, last - first))
                    at += p.shape[axis]
                if chosen:
                    return join(chosen, axis)
        key = (*(slice(None),) * axis, slice(start, start + step * length, step))
        return compute(operator.getitem, self, key)

    def _index(self, axis: int, i: int) -> View:
        if not -self.shape[axis] <= i < self.shape[axis]:
            raise IndexError(f"index {i} is outside axis {axis} of {self.shape}")
        one = self._slice(axis, i % self.shape[axis], 1, 1)
        shape = (*one.shape[:axis], *one.shape[axis + 1 :])
        match one.expr:
            case Strided() as s:
                return View(s.drop(axis), shape, self.dtype)
            case Joined(joined, parts) if joined == axis:
                return parts[0]._index(axis, 0)
            case Joined(joined, parts):
                return join([p._index(axis, 0) for p in parts], joined - (joined > axis))
        return compute(mx.squeeze, one, axis)

    def _insert(self, axis: int) -> View:
        shape = (*self.shape[:axis], 1, *self.shape[axis:])
        match self.expr:
            case Strided() as s:
                return View(s.insert(axis), shape, self.dtype)
            case Joined(joined, parts):
                return join([p._insert(axis) for p in parts], joined + (joined >= axis))
        return compute(mx.expand_dims, self, axis)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or not hasattr(mx.array, name):
            raise AttributeError(f"mx.array has no {name}, or its value would be needed")
        if name in ("item", "tolist"):
            raise TypeError("the value of a weight decides what sanitize does, which headers cannot tell")
        return lambda *args, **kwargs: compute(getattr(mx.array, name), self, *args, **kwargs)


def _operator(name: str) -> Callable[..., View]:
    function = getattr(operator, name)
    return lambda self, other: compute(function, self, other)


def _reflected(name: str) -> Callable[..., View]:
    function = getattr(operator, name)
    return lambda self, other: compute(function, other, self)


for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "and_", "or_", "lshift", "rshift"):
    _dunder = _name.rstrip("_")
    setattr(View, f"__{_dunder}__", _operator(_name))
    setattr(View, f"__r{_dunder}__", _reflected(_name))
for _name in ("eq", "ne", "lt", "le", "gt", "ge"):
    setattr(View, f"__{_name}__", _operator(_name))
setattr(View, "__neg__", lambda self: compute(operator.neg, self))  # noqa: B010 - beside the loop above


def source_view(tensor: Tensor) -> View:
    """The view of a whole stored tensor, under the dtype that mx.load would give it."""
    dtype = MLX_DTYPES[tensor.dtype]
    return View(Strided.whole(tensor, int(dtype.size)), tensor.shape, dtype)


def join(parts: Sequence[View], axis: int) -> View:
    """Concatenate views along an axis."""
    first = parts[0]
    axis %= first.ndim
    if len({p.dtype for p in parts}) > 1 or any(
        p.shape[:axis] != first.shape[:axis] or p.shape[axis + 1 :] != first.shape[axis + 1 :] for p in parts
    ):
        return compute(mx.concatenate, list(parts), axis)
    if len(parts) == 1:
        return first
    flat: list[View] = []
    for p in parts:
        flat.extend(p.expr.parts if isinstance(p.expr, Joined) and p.expr.axis == axis else [p])
    length = sum(p.shape[axis] for p in parts)
    return View(Joined(axis, tuple(flat)), (*first.shape[:axis], length, *first.shape[axis + 1 :]), first.dtype)


def stack(arrays: Sequence[View], axis: int = 0) -> View:
    """mx.stack for views."""
    at = axis % (arrays[0].ndim + 1)
    return join([a._insert(at) for a in arrays], at)


def compute(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Record a call of a real mlx function. Result shapes come from calling it on lazy zeros.

    Arrays of the model's own among the arguments are evaluated now: a lazy one belongs to this thread's stream.
    """
    mx.eval([a for a in (*args, *kwargs.values()) if isinstance(a, mx.array)])
    shadows = function(*_map(_shadow, args), **_map(_shadow, kwargs))
    if isinstance(shadows, (list, tuple)):
        return type(shadows)(
            View(Computed(function, args, kwargs, i), tuple(s.shape), s.dtype) for i, s in enumerate(shadows)
        )
    return View(Computed(function, args, kwargs), tuple(shadows.shape), shadows.dtype)


def _astype(array: mx.array, dtype: mx.Dtype) -> mx.array:
    return array.astype(dtype)


# mlx functions with a symbolic form; the rest are recorded as they are
_MOVES: dict[str, Callable[..., Any]] = {
    "stack": stack,
    "concatenate": lambda arrays, axis=0: join(list(arrays), axis),
    "contiguous": lambda a, *_, **__: a,
    "reshape": lambda a, shape: a.reshape(*shape),
    "flatten": lambda a, start_axis=0, end_axis=-1: a.flatten(start_axis, end_axis),
    "transpose": lambda a, axes=(): a.transpose(*axes),
    "swapaxes": lambda a, axis1, axis2: a.swapaxes(axis1, axis2),
    "moveaxis": lambda a, source, destination: a.moveaxis(source, destination),
    "squeeze": lambda a, axis=None: a.squeeze(axis),
    "expand_dims": lambda a, axis: a.expand_dims(axis),
    "split": lambda a, indices_or_sections, axis=0: a.split(indices_or_sections, axis),
    "view": lambda a, dtype: a.view(dtype),
}

_patching = threading.RLock()


@contextmanager
def recording() -> Iterator[None]:
    """While inside, functions of mlx.core called on views record instead of computing.

    They are put back on leaving. Calls without views are passed on, so other threads are not disturbed.
    """
    with _patching:
        originals: list[tuple[Any, str, Any]] = []
        try:
            for module in (mx, mx.linalg, mx.fast):
                for name, function in list(vars(module).items()):
                    if not name.startswith("_") and type(function).__name__ == "nb_func":
                        originals.append((module, name, function))
                        setattr(module, name, _recorder(function, _MOVES.get(name) if module is mx else None))
            yield
        finally:
            for module, name, function in originals:
                setattr(module, name, function)


def _recorder(original: Callable[..., Any], move: Callable[..., Any] | None) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        if not _has_view(args) and not _has_view(tuple(kwargs.values())):
            return original(*args, **kwargs)
        if move is not None:
            return move(*args, **kwargs)
        return compute(original, *args, **kwargs)

    return call


# --- values ---

# Functions of one array and scalars whose rows depend on the same rows alone
_ROW_WISE = {operator.add, operator.sub, operator.mul, operator.truediv, operator.neg, _astype}


def row_wise(view: View) -> View | None:
    """The one argument whose same rows suffice to compute a row of `view`, or None."""
    if not isinstance(view.expr, Computed) or view.expr.function not in _ROW_WISE:
        return None
    views = [a for a in view.expr.args if isinstance(a, View)]
    scalars = [a for a in view.expr.args if not isinstance(a, View)]
    if len(views) == 1 and views[0].shape == view.shape and all(isinstance(a, (int, float, mx.Dtype)) for a in scalars):
        return views[0]
    return None


@dataclass(frozen=True, slots=True)
class Segment:
    """Rows ``start … start+rows`` of a flattened view; made at once unless `divisible`."""

    start: int
    rows: int
    divisible: bool


def segments(view: View) -> list[Segment]:
    """Cut the rows of a view where it must not, or need not, be read across.

    Rows of a plain window can be cut anywhere; one transposed matrix, or one result that mlx computes as a
    whole, is a piece; joined views are cut between their parts.
    """
    rows = view.size // view.shape[-1] if view.ndim and view.shape[-1] else 1
    match view.expr:
        case Strided() as s:
            window = s.rows()
            if not window.transposed:
                return [Segment(0, rows, True)]
            inner = window.shape[-2]
            return [Segment(i, inner, False) for i in range(0, rows, inner)]
        case Joined(axis, parts) if axis < view.ndim - 1:
            outer = prod(view.shape[:axis])
            found, at = [], 0
            cut = [segments(p) for p in parts] if outer == 1 else []
            for piece, p in zip(cut, parts, strict=False):
                found += [Segment(at + s.start, s.rows, s.divisible) for s in piece]
                at += p.size // p.shape[-1]
            return found or [Segment(0, rows, all(_all_divisible(p) for p in parts))]
        case Joined(_, parts):
            return [Segment(0, rows, all(_all_divisible(p) for p in parts))]
    inside = row_wise(view)
    return segments(inside) if inside is not None else [Segment(0, rows, False)]


def _all_divisible(view: View) -> bool:
    return all(s.divisible for s in segments(view))


def read_rows(view: View, read: Read, start: int, out: NDArray[np.uint8]) -> None:
    """Make rows ``start … start+len(out)`` of the flattened view; `out` is (rows, bytes a row)."""
    match view.expr:
        case Strided() as s:
            s.read_rows(read, start, out)
        case Joined(axis, parts) if axis < view.ndim - 1:
            _read_joined_rows(view, axis, parts, read, start, out)
        case Joined(_, parts):
            at = 0
            for p in parts:
                width = (p.shape[-1] if p.ndim else 1) * p.itemsize
                piece = np.empty((len(out), width), np.uint8)
                read_rows(p, read, start, piece)
                out[:, at : at + width] = piece
                at += width
        case _:
            inside = row_wise(view)
            if inside is None:
                whole = to_numpy(evaluate(view, read)).reshape(-1, out.shape[1])
                out[:] = whole[start : start + len(out)]
                return
            cols = view.shape[-1] if view.ndim else 1
            rows = np.empty((len(out), cols * inside.itemsize), np.uint8)
            read_rows(inside, read, start, rows)
            block = to_mlx(rows, (len(out), cols), inside.dtype)
            out[:] = to_numpy(_call(view.expr, lambda a: block if a is inside else a)).reshape(out.shape)


def _read_joined_rows(
    view: View, axis: int, parts: tuple[View, ...], read: Read, start: int, out: NDArray[np.uint8]
) -> None:
    below = prod(view.shape[axis + 1 : -1])
    spans = [p.shape[axis] * below for p in parts]
    period = sum(spans)
    done = 0
    while done < len(out):
        outer, at = divmod(start + done, period)
        for p, span in zip(parts, spans, strict=True):
            if at < span:
                count = min(span - at, len(out) - done)
                read_rows(p, read, outer * span + at, out[done : done + count])
                done += count
                break
            at -= span


def evaluate(view: View, read: Read) -> mx.array:
    """The whole view as an mx.array, computed by mlx on the calling thread's default stream."""
    match view.expr:
        case Computed():
            return _call(view.expr, lambda a: evaluate(a, read))
        case _:
            cols = view.shape[-1] if view.ndim else 1
            out = np.empty((view.size // max(cols, 1), cols * view.itemsize), np.uint8)
            if out.size:
                read_rows(view, read, 0, out)
            return to_mlx(out, view.shape, view.dtype)


def _call(expr: Computed, values: Callable[[View], Any]) -> mx.array:
    result = expr.function(*_map(values, expr.args), **_map(values, expr.kwargs))
    return result if expr.pick is None else result[expr.pick]


def to_mlx(block: NDArray[np.uint8], shape: tuple[int, ...], dtype: mx.Dtype) -> mx.array:
    """Bytes as an mx.array of a shape and dtype. numpy has no bfloat16: integers of its size carry it."""
    carrier = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}[int(dtype.size)]
    return mx.array(block.view(carrier).reshape(shape)).view(dtype)


def to_numpy(array: mx.array) -> NDArray[np.uint8]:
    """An mx.array's bytes, row-major."""
    carrier = {1: mx.uint8, 2: mx.uint16, 4: mx.uint32, 8: mx.uint64}[int(array.dtype.size)]
    return np.array(mx.contiguous(array).view(carrier)).reshape(-1).view(np.uint8)


def _shadow(view: View) -> mx.array:
    return mx.zeros(view.shape, view.dtype)


def _map(function: Callable[[View], Any], value: Any) -> Any:
    if isinstance(value, View):
        return function(value)
    if isinstance(value, (list, tuple)):
        return type(value)(_map(function, v) for v in value)
    if isinstance(value, dict):
        return {k: _map(function, v) for k, v in value.items()}
    return value


def _has_view(values: Sequence[Any]) -> bool:
    return any(isinstance(v, View) or (isinstance(v, (list, tuple)) and _has_view(v)) for v in values)


def _ints(values: Sequence[Any]) -> tuple[int, ...]:
    if len(values) == 1 and isinstance(values[0], (list, tuple)):
        return tuple(values[0])
    return tuple(values)


def _divides(old: tuple[int, ...], new: tuple[int, ...], axis: int) -> bool:
    """Whether a reshape leaves everything up to the joined axis alone: the joined axis keeps its length."""
    return len(new) > axis and new[axis] == old[axis]


__all__ = [
    "MLX_DTYPES", "SAFETENSORS_DTYPES", "Computed", "Joined", "Segment", "View", "compute", "evaluate", "join",
    "read_rows", "recording", "row_major", "row_wise", "segments", "source_view", "stack", "to_mlx", "to_numpy",
]  # fmt: skip
