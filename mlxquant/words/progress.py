"""How far a long operation is: one event for convert, check, compare, eval and bench, and who receives it.

The library reports, `cli` draws the bar. What a unit is (bytes, layers, trials, tests) the operation's docstring says;
whoever watches gets the counts and the names of what is at hand. Alone in its module because every layer reports.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Progress:
    """`done` of `total` units, and the `item` at hand or just finished: a module, a layer, a test, a question.

    `subject` is what the item is done for, where an operation has several: a build, a side of an evaluation.
    `seconds` is how long the item took, where that was measured; `resumed` says that an earlier run did the work.
    """

    done: int
    total: int
    item: str
    subject: str = ""
    seconds: float | None = None
    resumed: bool = False


Watch = Callable[[Progress], None]


def unwatched(_: Progress) -> None:
    """Ignore progress: what operations call when nobody watches."""
