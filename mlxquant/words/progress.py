"""How far a long operation is: one event for convert, check, compare, eval and bench, and who receives it.

The library reports, `cli` draws the bar. What a unit is (bytes, layers, trials, tests) the operation's docstring says;
whoever watches gets the counts and the names of what is at hand. Alone in its module because every layer reports.

A download is waited for below whatever operation needs the file, so it goes to whoever shows progress by a way of its
own: `waiting`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Progress:
    """`done` of `total` units, and the `item` at hand or just finished: a module, a layer, a test, a question.

    `subject` is what the item is done for, where an operation has several: a build, a side of an evaluation.
    `seconds` is how long the item took, where that was measured; `resumed` says that an earlier run did the work.
    `part` is the share of the unit at hand that is done already, where a unit takes long.
    """

    done: int
    total: int
    item: str
    subject: str = ""
    seconds: float | None = None
    resumed: bool = False
    part: float = 0.0


Watch = Callable[[Progress], None]


class Within:
    """Reports how far one long unit is: `advance` by whatever it is made of, `EVERY_S` seconds apart at most often.

    `total` is how much of that there is, `noun` what it is called: layer 3, 4,096 of 40,960 tokens.
    """

    EVERY_S = 0.5

    def __init__(self, watch: Watch, done: int, units: int, item: str, total: int, noun: str) -> None:
        self._watch, self._done, self._units, self._item = watch, done, units, item
        self._total, self._noun, self._count = max(1, total), noun, 0
        self._shown_at = time.monotonic()

    def advance(self, count: int) -> None:
        """Say that `count` more are done."""
        self._count += count
        now = time.monotonic()
        if now - self._shown_at < self.EVERY_S or self._count >= self._total:
            return
        self._shown_at = now
        item = f"{self._item}, {self._count:,} of {self._total:,} {self._noun}"
        self._watch(Progress(self._done, self._units, item, part=self._count / self._total))


_showing: list[Callable[[str, float], None]] = []


def when_waiting(show: Callable[[str, float], None] | None) -> None:
    """Call `show` with the name of a file that is waited for and the share of it that is there; None ends that.

    It is called from any thread, a few times a second.
    """
    _showing[:] = [] if show is None else [show]


def waiting(name: str, share: float) -> None:
    """Say that work waits for a file, of which `share` is there."""
    for show in _showing[:]:
        show(name, share)


def unwatched(_: Progress) -> None:
    """Ignore progress: what operations call when nobody watches."""
