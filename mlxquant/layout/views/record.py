"""Letting mlx's functions record: what `sanitize` calls on views becomes views.

For the time of one `recording`, every function of mlx.core, mlx.core.linalg and mlx.core.fast is replaced by one
that looks at its arguments: with views among them it records, without it is mlx's own. So other threads that
compute meanwhile are not disturbed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import mlx.core as mx

from .view import arrays_among, compute, join, stack, views_among

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
_NOTHING = ("eval", "async_eval")  # what is done to views has no values yet

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
                        setattr(module, name, _recorder(name if module is mx else "", function))
            yield
        finally:
            for module, name, function in originals:
                setattr(module, name, function)


def _recorder(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    move = _MOVES.get(name)

    def call(*args: Any, **kwargs: Any) -> Any:
        if not views_among((args, kwargs)):
            return original(*args, **kwargs)
        if name in _NOTHING:
            return None
        kwargs.pop("stream", None)  # of the thread that records; whoever computes has its own
        if move is not None and not arrays_among((args, kwargs)):
            return move(*args, **kwargs)
        return compute(original, *args, **kwargs)

    return call
