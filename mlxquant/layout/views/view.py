"""Arrays that remember where they come from: what a model class's `sanitize` is run over.

mlx-lm turns the Hub's tensors into MLX's in `Model.sanitize(weights)`: it renames, slices, stacks,
transposes, and here and there computes (norm + 1, FP8 dequantization). Run over `View`s instead of arrays,
the same code tells, for every MLX tensor, which bytes of which file it is made of, so that a block of its
rows can be made from its own source rows alone. A view is one of

- a `Strided` window on one stored tensor (slices, transposes, most reshapes of one),
- a `Joined` list of views along an axis (`mx.stack`, `mx.concatenate`),
- a `Computed` call of a real mlx function on other views, done by mlx when its values are wanted.

`ArrayLike` gives a view the methods and operators of mx.array: it turns transpose, moveaxis, split, indexing and the
rest into six primitives, which `View` keeps symbolic where it can. Methods that mx.array has and `ArrayLike` does not
name are recorded as calls; those that need a value raise TypeError, since headers hold no values.

Shapes and dtypes of computed views come from mlx too: the function is called on lazy zeros, which are never
evaluated. This module does not know any architecture, and imports mlx but not mlx_lm.
"""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Any, Self, TypeVar

import mlx.core as mx

from ...source.headers import Tensor
from .bytes import MLX_DTYPES
from .strided import Strided

# --- array like ---


NO_VALUE = "what sanitize does depends on a weight's value, which headers do not hold"


class ArrayLike(ABC):
    """Shape, dtype, methods and operators of an mx.array, over six primitives."""

    __slots__ = ()

    shape: tuple[int, ...]
    dtype: mx.Dtype

    @abstractmethod
    def reshape(self, *shape: Any) -> Self: ...

    @abstractmethod
    def _permute(self, axes: tuple[int, ...]) -> Self: ...

    @abstractmethod
    def _slice(self, axis: int, start: int, step: int, length: int) -> Self: ...

    @abstractmethod
    def _index(self, axis: int, i: int) -> Self: ...

    @abstractmethod
    def _insert(self, axis: int) -> Self: ...

    @abstractmethod
    def _compute(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Self: ...

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

    def _no_value(self, *_: Any, **__: Any) -> Any:
        raise TypeError(NO_VALUE)

    __bool__ = __int__ = __float__ = __index__ = __array__ = item = tolist = _no_value

    # --- movements, kept symbolic where strides or parts can express them ---
    @property
    def T(self) -> Self:
        return self.transpose()

    def transpose(self, *axes: Any) -> Self:
        order = ints(axes) or tuple(reversed(range(self.ndim)))
        return self._permute(tuple(a % self.ndim for a in order))

    def swapaxes(self, axis1: int, axis2: int) -> Self:
        order = list(range(self.ndim))
        order[axis1], order[axis2] = order[axis2], order[axis1]
        return self._permute(tuple(order))

    def moveaxis(self, source: int, destination: int) -> Self:
        order = list(range(self.ndim))
        order.insert(destination % self.ndim, order.pop(source))
        return self._permute(tuple(order))

    def flatten(self, start_axis: int = 0, end_axis: int = -1) -> Self:
        start, end = start_axis % self.ndim, end_axis % self.ndim
        return self.reshape(*self.shape[:start], prod(self.shape[start : end + 1]), *self.shape[end + 1 :])

    def squeeze(self, axis: Any = None) -> Self:
        axes = ints((axis,)) if axis is not None else tuple(i for i, n in enumerate(self.shape) if n == 1)
        view = self
        for a in sorted((a % self.ndim for a in axes), reverse=True):
            if self.shape[a] != 1:
                raise ValueError(f"cannot squeeze axis {a} of shape {self.shape}")
            view = view._index(a, 0)
        return view

    def expand_dims(self, axis: Any) -> Self:
        view = self
        for a in sorted(ints((axis,))):
            view = view._insert(a % (view.ndim + 1))
        return view

    def split(self, indices_or_sections: Any, axis: int = 0) -> list[Self]:
        axis %= self.ndim
        n = self.shape[axis]
        if isinstance(indices_or_sections, int):
            if n % indices_or_sections:
                raise ValueError(f"cannot split axis {axis} of {self.shape} into {indices_or_sections} equal parts")
            step = n // indices_or_sections
            cuts = list(range(0, n + 1, step))
        else:
            cuts = [0, *indices_or_sections, n]
        return [self._slice(axis, a, 1, b - a) for a, b in pairwise(cuts)]

    def __getitem__(self, key: Any) -> Self:
        keys = key if isinstance(key, tuple) else (key,)
        if not all(k is None or k is Ellipsis or isinstance(k, (int, slice)) for k in keys):
            return self._compute(operator.getitem, self, key)
        consumed = sum(k is not None and k is not Ellipsis for k in keys)
        view, axis = self, 0
        for k in keys if Ellipsis in keys else (*keys, Ellipsis):
            if k is Ellipsis:
                axis += self.ndim - consumed
            elif k is None:
                view, axis = view._insert(axis), axis + 1
            elif isinstance(k, int):
                view = view._index(axis, k)
            else:
                start, stop, step = k.indices(view.shape[axis])
                if step < 0:
                    return self._compute(operator.getitem, self, key)
                view, axis = view._slice(axis, start, step, len(range(start, stop, step))), axis + 1
        return view

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or not hasattr(mx.array, name):
            raise AttributeError(f"mx.array has no {name}, or its value would be needed")
        return lambda *args, **kwargs: self._compute(getattr(mx.array, name), self, *args, **kwargs)


def _unary(name: str) -> Callable[..., Any]:
    function = getattr(operator, name)
    return lambda self: self._compute(function, self)


def _operator(name: str) -> Callable[..., Any]:
    function = getattr(operator, name)
    return lambda self, other: self._compute(function, self, other)


def _reflected(name: str) -> Callable[..., Any]:
    function = getattr(operator, name)
    return lambda self, other: self._compute(function, other, self)


for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "and_", "or_", "lshift", "rshift", "matmul"):
    _dunder = _name.rstrip("_")
    setattr(ArrayLike, f"__{_dunder}__", _operator(_name))
    setattr(ArrayLike, f"__r{_dunder}__", _reflected(_name))
for _name in ("eq", "ne", "lt", "le", "gt", "ge"):
    setattr(ArrayLike, f"__{_name}__", _operator(_name))
for _name in ("neg", "abs", "invert"):
    setattr(ArrayLike, f"__{_name}__", _unary(_name))


def ints(values: Sequence[Any]) -> tuple[int, ...]:
    """Integers given one by one or as one sequence. ``ints(([2, 3],)) == (2, 3)``."""
    if len(values) == 1 and isinstance(values[0], (list, tuple)):
        return tuple(values[0])
    return tuple(values)


# --- view ---


T = TypeVar("T")


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


class View(ArrayLike):
    """Stands in for an mx.array in `sanitize`: has its shape and dtype, records what is done to it."""

    __slots__ = ("dtype", "expr", "shape")

    def __init__(self, expr: Strided | Joined | Computed, shape: tuple[int, ...], dtype: mx.Dtype) -> None:
        self.expr = expr
        self.shape = shape
        self.dtype = dtype

    def __repr__(self) -> str:
        return f"View({self.shape}, {self.dtype}, {type(self.expr).__name__})"

    def reshape(self, *shape: Any) -> View:
        wanted = ints(shape)
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
            case Joined(axis, parts) if (at := _joined_axis(self, axis, parts, wanted)) is not None:
                inner = prod(wanted[at + 1 :])
                lengths = [prod(p.shape[axis:]) // inner for p in parts]
                shapes = [(*wanted[:at], n, *wanted[at + 1 :]) for n in lengths]
                return join([p.reshape(*shape) for p, shape in zip(parts, shapes, strict=True)], at)
        return self._compute(mx.reshape, self, wanted)

    def view(self, dtype: mx.Dtype) -> View:
        if isinstance(self.expr, Strided) and (seen := self.expr.reinterpret(int(dtype.size))) is not None:
            return View(seen, seen.shape, dtype)
        if isinstance(self.expr, Joined) and self.expr.axis != self.ndim - 1:
            return join([p.view(dtype) for p in self.expr.parts], self.expr.axis)
        return self._compute(mx.view, self, dtype)

    def astype(self, dtype: mx.Dtype) -> View:
        return self if dtype == self.dtype else self._compute(astype, self, dtype)

    def _permute(self, axes: tuple[int, ...]) -> View:
        if axes == tuple(range(self.ndim)):
            return self
        shape = tuple(self.shape[a] for a in axes)
        match self.expr:
            case Strided() as s:
                return View(s.permute(axes), shape, self.dtype)
            case Joined(axis, parts):
                return join([p._permute(axes) for p in parts], axes.index(axis))
        return self._compute(mx.transpose, self, axes)

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
        return self._compute(operator.getitem, self, key)

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
        return self._compute(mx.squeeze, one, axis)

    def _insert(self, axis: int) -> View:
        shape = (*self.shape[:axis], 1, *self.shape[axis:])
        match self.expr:
            case Strided() as s:
                return View(s.insert(axis), shape, self.dtype)
            case Joined(joined, parts):
                return join([p._insert(axis) for p in parts], joined + (joined >= axis))
        return self._compute(mx.expand_dims, self, axis)

    def _compute(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> View:
        view: View = compute(function, *args, **kwargs)
        return view


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
        return first._compute(mx.concatenate, list(parts), axis)
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
    mx.eval(arrays_among((args, kwargs)))
    shadows = function(*map_views(_shadow, args), **map_views(_shadow, kwargs))
    if isinstance(shadows, (list, tuple)):
        return type(shadows)(
            View(Computed(function, args, kwargs, i), tuple(s.shape), s.dtype) for i, s in enumerate(shadows)
        )
    return View(Computed(function, args, kwargs), tuple(shadows.shape), shadows.dtype)


def constant(array: mx.array) -> View:
    """The view of an array that is made of no tensor, such as the zeros that a class adds where a bias is missing."""
    view: View = compute(_same, array)
    return view


def _same(array: mx.array) -> mx.array:
    return array


def astype(array: mx.array, dtype: mx.Dtype) -> mx.array:
    """Cast an array; a function of this module, so that `gather` knows it as one that works row by row."""
    return array.astype(dtype)


def _shadow(view: View) -> mx.array:
    return mx.zeros(view.shape, view.dtype)


def map_views(function: Callable[[View], Any], value: Any) -> Any:
    """Put `function` of it in the place of every view within lists, tuples and tables."""
    if isinstance(value, View):
        return function(value)
    if isinstance(value, (list, tuple)):
        return type(value)(map_views(function, v) for v in value)
    if isinstance(value, dict):
        return {k: map_views(function, v) for k, v in value.items()}
    return value


def views_among(values: Any) -> list[View]:
    """The views within lists, tuples and tables."""
    return list(_among(values, View))


def arrays_among(values: Any) -> list[mx.array]:
    """The arrays of mlx's own within lists, tuples and tables."""
    return list(_among(values, mx.array))


def _among(values: Any, kind: type[T]) -> Iterator[T]:
    if isinstance(values, kind):
        yield values
    elif isinstance(values, dict):
        yield from _among(list(values.values()), kind)
    elif isinstance(values, (list, tuple)):
        for value in values:
            yield from _among(value, kind)


def _joined_axis(view: View, axis: int, parts: Sequence[View], wanted: tuple[int, ...]) -> int | None:
    """The axis of a reshaped join along which its parts, reshaped, lie side by side, if there is one.

    Parts (64, H) joined along 0 and reshaped to (E, 32, H) are parts (2, 32, H) joined along 0.
    """
    if not view.size:
        return None
    for at in range(len(wanted)):
        inner = prod(wanted[at + 1 :])
        if prod(wanted[:at]) == prod(view.shape[:axis]) and all(prod(p.shape[axis:]) % inner == 0 for p in parts):
            return at
    return None
