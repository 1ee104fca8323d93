"""The progress bar of every command: on stderr, and silent where nobody watches.

It shows what is done of the whole, the rate, the time left, and what is at hand. The library reports `Progress` to a
`Watch`; the commands alone draw it.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from ..words.jit import when_compiling
from ..words.progress import Progress, Watch, unwatched, when_waiting
from ..words.secrets import redact
from ..words.text import cut
from .printing import echo

_SUBJECT, _ITEM = 24, 36  # columns; both are paths or names, which differ at their ends
_BYTES = "B"


@contextmanager
def progress_bar(unit: str = _BYTES) -> Iterator[Watch]:
    """Show progress in units of one kind, bytes by default; silent when stderr is not a terminal."""
    if not sys.stderr.isatty():
        yield unwatched
        return
    from tqdm import tqdm

    scale = {"unit_scale": True, "unit_divisor": 1024} if unit == _BYTES else {}
    bars: list[tqdm[NoReturn]] = []  # drawn from the first event on: what is said before stands above it
    lock = threading.Lock()  # downloads are waited for in threads

    def drawn() -> tqdm[NoReturn]:
        if not bars:
            bars.append(tqdm(unit=unit, **scale, file=sys.stderr, dynamic_ncols=True, leave=False))
        return bars[0]

    def watch(progress: Progress) -> None:
        with lock:
            bar = drawn()
            bar.total = progress.total
            bar.set_postfix_str(_at_hand(progress), refresh=False)
            bar.update((round(progress.done + progress.part, 2) if progress.part else progress.done) - bar.n)
            if unit != _BYTES:  # bytes come many times a second; a step may take minutes and is shown at once
                bar.refresh()

    def wait_for(name: str, share: float) -> None:
        with lock:
            drawn().set_postfix_str(f"downloads {share:.0%} of {redact(name)}")

    when_waiting(wait_for)
    when_compiling(lambda: tqdm.write("mlxquant: compiling kernels, once on this machine", file=sys.stderr))
    try:
        yield watch
    finally:
        when_waiting(None)
        for bar in bars:
            bar.close()


@contextmanager
def pass_bar() -> Iterator[Watch]:
    """Show the steps of a streamed pass; where stderr is no terminal, one line for what an earlier run did."""
    if sys.stderr.isatty():
        with progress_bar("step") as watch:
            yield watch
        return

    def report_resumed(progress: Progress) -> None:
        if progress.resumed:
            echo(f"mlxquant: {progress.item}", err=True)

    yield report_resumed


def _at_hand(progress: Progress) -> str:
    subject, item = redact(progress.subject), redact(progress.item)  # whole: half a key is not known as one
    return f"{cut(subject, _SUBJECT, at='start')} {cut(item, _ITEM, at='start')}".lstrip()
