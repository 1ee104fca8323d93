"""What model code asks of an array, said in terms of a few movements: the methods and operators of mx.array.

`ArrayLike` turns transpose, moveaxis, split, indexing and the rest into six primitives, which `views.View` keeps
symbolic where it can. Methods that mx.array has and this class does not name are recorded as calls; those that
need a value raise, since headers tell no values.
"""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import pairwise
from math import prod
from typing import Any, Self

import mlx.core as mx

NO_VALUE = "the value of a weight decides what sanitize does, which headers cannot tell"


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
