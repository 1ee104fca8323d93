"""Compiling loops with numba: released from the interpreter's lock, kept on disk, compiled when first called.

A module of its own, since `layout.views` and `kernels` both compile and neither may import the other. Compiling takes
seconds, once a machine: whoever shows progress can be told when it begins.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

_announcements: list[Callable[[], None]] = []
_listening = threading.Event()


def when_compiling(announce: Callable[[], None]) -> None:
    """Call `announce` when a loop is compiled that no cache has: once, at the first of them."""
    _announcements[:] = [announce]


def _listen() -> None:
    """Have numba tell when it compiles."""
    from numba.core import event

    class _Compiling(event.Listener):  # type: ignore[misc,unused-ignore]
        def on_start(self, _: Any) -> None:
            if _announcements:
                _announcements.pop()()

        def on_end(self, _: Any) -> None:
            pass

    if not _listening.is_set():
        _listening.set()
        event.register("numba:compile", _Compiling())


def jit(function: Callable[..., Any] | None = None, signature: Any = None, **options: Any) -> Any:
    """Compile on first use, or at once for a `signature`. Without a folder for numba's cache, do so in every process.

    Without a function this is a decorator; `options` are numba's, such as ``fastmath={"contract"}``.
    """
    if function is None:
        return lambda function: jit(function, signature, **options)
    from numba import njit

    _listen()
    options = {"nogil": True, "error_model": "numpy", **options}
    try:
        return njit(signature, cache=True, **options)(function)
    except RuntimeError as error:
        if "no locator available" not in str(error):
            raise
        return njit(signature, **options)(function)
