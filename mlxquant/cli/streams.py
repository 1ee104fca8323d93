"""Standard streams that a command can rely on: open, and no reason for it to fail or to end early.

A shell may start a command without stdin, stdout or stderr (`>&-`). The next file that is opened would then get its
number, and what a library writes to stderr would land in a shard; so each of the three that is closed is opened on
/dev/null first. A reader of stdout that has seen enough (`| head`) does not change how a command ends: what is left is
dropped, and the exit code is that of the work. What stderr does not take, on a full disk say, is dropped too. Only
stdout that cannot be written for another reason is an error, for then the answer is lost.
"""

from __future__ import annotations

import errno
import io
import os
import select
import sys
from typing import Any


class _Raw(io.FileIO):
    """The file behind a stream: writes all that it is handed, and drops what is left after it has failed once."""

    def __init__(self, number: int, forgiven: frozenset[int] | None) -> None:
        super().__init__(number, "w", closefd=False)
        self._forgiven = forgiven  # error numbers that are no failure; None for every one
        self._broken = False

    def write(self, data: Any) -> int:
        """Write, and wait where the other end takes no more for now (a stream may be set not to block)."""
        view = memoryview(data)
        if self._broken:
            return len(view)
        try:
            while (count := super().write(view)) is None:
                select.select([], [self], [])
        except OSError as error:
            self._broken = True
            if self._forgiven is not None and error.errno not in self._forgiven:
                raise OSError(error.errno, error.strerror, "stdout") from error
            return len(view)
        return count


def set_up_streams() -> None:
    """Open what is closed, and replace the interpreter's own stdout and stderr; those of others (a test's) stay.

    A terminal that lacks a sign of ours (−, →, or one of a file's name) shows "?" in its place.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)
    os.close(number)
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115 - it stays open
    if sys.stdout in (None, sys.__stdout__):
        sys.stdout = _stream(1, sys.stdout, "replace", frozenset({errno.EPIPE}))
    if sys.stderr in (None, sys.__stderr__):
        sys.stderr = _stream(2, sys.stderr, "backslashreplace", None)


def _stream(number: int, before: Any, errors: str, forgiven: frozenset[int] | None) -> io.TextIOWrapper:
    if before is not None:
        before.flush()
    raw = _Raw(number, forgiven)
    encoding = getattr(before, "encoding", None) or "utf-8"
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding, errors, line_buffering=number == 2 or raw.isatty())
