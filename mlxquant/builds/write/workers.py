"""Threads that work on blocks of tensors side by side, and give their results in the order of the items.

Kernels and reads let go of the interpreter while they run, so threads use all cores and share one process's memory.
Each thread has a buffer that it keeps (`Scratch`) and an mlx stream, since mlx streams belong to the thread that made
them. Order matters because error sums are added up in row order: so every run gives the same figures.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from ...errors import MlxquantError
from ...kernels import Quantized
from ...words.formats import Format

Item = TypeVar("Item")
Result = TypeVar("Result")

# Shapes of output buffers that a thread keeps; a model has few.
_SHAPES = 4


class Scratch:
    """A thread's buffers, kept from block to block so that memory is not asked for anew each time."""

    def __init__(self) -> None:
        self._buffer = np.empty(0, np.uint8)
        self._packed: dict[tuple[int, str, Format], Quantized] = {}

    def take(self, nbytes: int) -> NDArray[np.uint8]:
        """The first `nbytes` of a buffer, which the next call gives out again."""
        if self._buffer.size < nbytes:
            self._buffer = np.empty(nbytes, np.uint8)
        return self._buffer[:nbytes]

    def packed(self, rows: int, columns: int, dtype: str, fmt: Format) -> Quantized:
        """Room for a quantized block; the last of each width, dtype and format is kept."""
        key = (columns, dtype, fmt)
        room = self._packed.get(key)
        if room is None or len(room.packed) != rows:
            if len(self._packed) > _SHAPES:
                self._packed.clear()
            room = self._packed[key] = Quantized.empty(rows, columns, dtype, fmt)
        return room


class _Own(threading.local):
    """What a thread has of its own, made when it first works."""

    def __init__(self) -> None:
        self.scratch = Scratch()
        self.stream = mx.new_stream(mx.cpu)


def ordered_map(
    work: Callable[[Item, Scratch], Result],
    items: Iterable[Item],
    threads: int,
    *,
    cost: Callable[[Item], int] = lambda _: 0,
    at_most: int | None = None,
    stop: Callable[[], None] = lambda: None,
) -> Generator[tuple[Item, Result]]:
    """Do `work` on each item and yield items with results, in order, whichever thread is done first.

    Items are taken from their iterator by the thread that asks for results, a few ahead of what was yielded: two a
    thread, and with `at_most` no more than together `cost` so much, one excepted. Raises the first error once no
    thread is at work any more; `stop` is called before that, and lets go what `work` may be waiting for.
    """
    waiting: deque[tuple[Item, Future[Result]]] = deque()
    own, stopped, held = _Own(), threading.Event(), 0

    def run(item: Item) -> Result:
        if stopped.is_set():
            raise MlxquantError("stopped")
        with mx.stream(own.stream):
            return work(item, own.scratch)

    with ThreadPoolExecutor(threads, thread_name_prefix="worker") as pool:
        try:
            for item in items:
                price = cost(item)
                while waiting and (len(waiting) > 2 * threads or (at_most is not None and held + price > at_most)):
                    first, future = waiting.popleft()
                    held -= cost(first)
                    yield first, future.result()
                waiting.append((item, pool.submit(run, item)))
                held += price
            while waiting:
                first, future = waiting.popleft()
                yield first, future.result()
        finally:
            stopped.set()
            stop()
            pool.shutdown(wait=True, cancel_futures=True)
