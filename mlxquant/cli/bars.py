"""A bar on stderr for commands that take steps: done, time left, what is at hand. Silent where nobody watches."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from ..words.progress import Progress, Watch, unwatched
from ..words.secrets import redact


@contextmanager
def subject_bar(unit: str) -> Iterator[Watch]:
    """Show steps of so many `unit`s, with subject and item of each; silent when stderr is not a terminal."""
    if not sys.stderr.isatty():
        yield unwatched
        return
    from tqdm import tqdm

    with tqdm(unit=unit, file=sys.stderr, dynamic_ncols=True, leave=False) as bar:

        def watch(progress: Progress) -> None:
            bar.total = progress.total
            bar.set_postfix_str(redact(f"{progress.subject[-24:]} {progress.item}".lstrip()), refresh=False)
            bar.update(progress.done - bar.n)
            bar.refresh()

        yield watch
