"""Compiling is announced where it happens, and only there."""

from __future__ import annotations

from mlxquant.words.jit import jit, when_compiling


def test_compiling_is_announced_once_and_what_is_compiled_is_not():
    calls: list[str] = []

    def add(a, b):
        return a + b

    function = jit(add)
    when_compiling(lambda: calls.append("compiling"))
    assert function(1, 2) == 3
    count = len(calls)  # none where numba's cache has it
    assert count <= 1
    assert function(2, 3) == 5
    assert function(2.5, 3.5) == 6.0
    assert len(calls) <= 1
