"""Compiling loops with numba: released from the interpreter's lock, kept on disk, compiled when first called.

A module of its own, since `layout.views` and `kernels` both compile and neither may import the other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def jit(function: Callable[..., Any] | None = None, signature: Any = None, **options: Any) -> Any:
    """Compile on first use, or at once for a `signature`. Without a folder for numba's cache, do so in every process.

    Without a function this is a decorator; `options` are numba's, such as ``fastmath={"contract"}``.
    """
    if function is None:
        return lambda function: jit(function, signature, **options)
    from numba import njit

    options = {"nogil": True, "error_model": "numpy", **options}
    try:
        return njit(signature, cache=True, **options)(function)
    except RuntimeError as error:
        if "no locator available" not in str(error):
            raise
        return njit(signature, **options)(function)
