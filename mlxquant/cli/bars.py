"""A bar on stderr for commands that take steps: done, time left, what is at hand. Silent where nobody watches."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

from ..words.secrets import redact


class Counted(Protocol):
    """A step that knows how many there are."""

    @property
    def done(self) -> int:
        """Steps that are over."""

    @property
    def total(self) -> int:
        """All steps."""


_Step = TypeVar("_Step", bound=Counted)


@contextmanager
def step_bar(unit: str, say: Callable[[_Step], str]) -> Iterator[Callable[[_Step], None]]:
    """Show steps of so many `unit`s, with what `say` tells of each; silent when stderr is not a terminal."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from tqdm import tqdm

    with tqdm(unit=unit, file=sys.stderr, dynamic_ncols=True, leave=False) as bar:

        def watch(step: _Step) -> None:
            bar.total = step.total
            bar.set_postfix_str(redact(say(step)), refresh=False)
            bar.update(step.done - bar.n)
            bar.refresh()

        yield watch
