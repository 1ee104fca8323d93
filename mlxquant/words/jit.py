"""Compiling loops with numba: released from the interpreter's lock, kept on disk, compiled when first called.

A module of its own, since `layout.views` and `kernels` both compile and neither may import the other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def jit(function: Callable[..., Any]) -> Any:
    """Compile on first use. Without a folder for numba's cache, compile in every process."""
    from numba import njit

    try:
        return njit(nogil=True, cache=True, error_model="numpy")(function)
    except RuntimeError:  # numba's "no locator available"
        return njit(nogil=True, error_model="numpy")(function)
