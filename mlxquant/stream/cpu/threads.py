"""Cores for products: one BLAS thread each, and our own threads over experts, heads and rows.

While forms compute, OpenBLAS has one thread (see `words.blas`), and what is large enough is spread over a pool here,
whose threads sleep while they wait. Another BLAS keeps the threads that it has.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from itertools import pairwise
from typing import Any

from ...words import blas

# Operations from which on a second thread pays: some 0.4 ms of one core.
WORTH = 2e7
_limits = 0


@cache
def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Let every product be computed by the thread that asks for it."""
    global _limits
    with blas.one_blas_thread():
        _limits += blas.can_limit()
        try:
            yield
        finally:
            _limits -= blas.can_limit()


def spread(work: Callable[[Any], object], items: Sequence[Any], operations: float) -> None:
    """Call `work` on every item, on several threads where there are so many `operations` in all that this pays."""
    parts = min(len(items), 4 * cores(), int(operations / WORTH)) if _limits and cores() > 1 else 1
    if parts < 2:
        for item in items:
            work(item)
        return

    def do(part: Sequence[Any]) -> None:
        for item in part:
            work(item)

    size, rest = divmod(len(items), parts)
    bounds = [i * size + min(i, rest) for i in range(parts + 1)]
    for _ in _pool().map(do, [items[a:b] for a, b in pairwise(bounds)]):
        pass


def cut_rows(rows: int, operations: float) -> list[slice]:
    """Rows cut into parts for `spread`, two a core at most, of 64 rows at least; whole where threads do not pay."""
    parts = max(1, min(2 * cores(), int(operations / WORTH), rows // 64))
    step = max(1, -(-rows // parts))
    return [slice(at, min(at + step, rows)) for at in range(0, rows, step)]


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(cores(), thread_name_prefix="product")
