"""How a command ends: one exit code for everything that can happen, and one line for everything that went wrong.

What a command raises is caught in one place, `ending`, around parsing too. An error of mlxquant's has its code with it;
what click refuses is the request's fault; Ctrl-C and SIGTERM are one; whatever else comes is a fault of the machine or
a bug, which is a line and exit code 3. Code 1 is left to gates alone. --debug shows the traceback first and changes no
code.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

import click

from ..errors import MlxquantError
from ..words.interrupts import ask_to_end, asked_to_end, begin
from .printing import echo, redact_complaint

# A gate that failed, one that is not settled, and what a shell reports of a command that Ctrl-C ended. What else goes
# wrong has a code of its own (`MlxquantError.exit_code`), so that 1 never means anything but a gate's no.
FAILED, OPEN, INTERRUPTED = 1, 4, 130
_USAGE = click.UsageError.exit_code
_LEAST_ADDRESS_SPACE, _ADDRESS_SPACE_OF_CORE = 192 << 20, 32 << 20
_PACKAGE = Path(__file__).parent.parent


@contextmanager
def ending(*, debug: bool) -> Iterator[None]:
    """Parse and run a command; what it raises becomes a line, after its traceback with --debug, and an exit code.

    Raises SystemExit in place of any error.
    """
    try:
        yield
    except click.ClickException as error:
        _show_trace(debug)
        redact_complaint(error)
        error.show()
        sys.exit(_USAGE)
    except (KeyboardInterrupt, click.Abort):
        _show_trace(debug)
        tell("stopped")
        sys.exit(INTERRUPTED)
    except Exception as error:  # noqa: BLE001 - a bug is a line, too, and never looks like a gate's no
        _show_trace(debug)
        if asked_to_end():  # what a wait or a library ended with that learned of Ctrl-C first
            tell("stopped")
            sys.exit(INTERRUPTED)
        tell(_complaint(error))
        sys.exit(error.exit_code if isinstance(error, MlxquantError) else MlxquantError.exit_code)


def check_address_space() -> None:
    """Raise MlxquantError where `ulimit -v` leaves too little to load numpy.

    OpenBLAS within it reserves memory for each core, and ends the process with exit code 1 where it gets none.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    least = _LEAST_ADDRESS_SPACE + (os.cpu_count() or 1) * _ADDRESS_SPACE_OF_CORE
    if limit != resource.RLIM_INFINITY and limit < least:
        raise MlxquantError(f"the limit on address space is {limit:,} bytes; at least {least:,} are needed (ulimit -v)")


def tell(text: str) -> None:
    """Print one message on stderr; where nothing can be written to it (a full disk), the exit code alone says it."""
    echo(f"mlxquant: {text}", err=True)


def _show_trace(debug: bool) -> None:
    if debug:
        echo(traceback.format_exc(), err=True, nl=False)


def _complaint(error: Exception) -> str:
    """The line for an exception. What no check foresaw is the machine's (a name that is too long, memory) or a bug."""
    if isinstance(error, MlxquantError):
        return str(error)
    text = " ".join(str(error).split())[:200]
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror or text}; --debug shows where this came from"
    if isinstance(error, MemoryError) or text.startswith("[malloc"):  # the latter is mlx
        return f"not enough memory{f' ({text})' if text else ''}; give it less to do at once, or a larger machine"
    if isinstance(error, RuntimeError) and text.startswith("can't start new thread"):
        return "this machine allows no more threads; give --jobs 1 where the command has it, or raise the limit"
    if isinstance(error, ImportError):
        return f"a part of the installation cannot be loaded ({text}); install mlxquant again"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if _PACKAGE in Path(frame.filename).parents] or frames
    place = f"{Path(own[-1].filename).name}:{own[-1].lineno}"
    return f"internal error: {type(error).__name__}: {text} ({place}); please report it with what --debug shows"


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Let SIGTERM end a command as Ctrl-C does, and every thread's wait with it; a second one ends it on the spot."""
    if threading.current_thread() is not threading.main_thread():  # no thread but this may handle signals
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        if asked_to_end():
            os._exit(INTERRUPTED)
        ask_to_end()
        raise KeyboardInterrupt

    begin()
    ignored = signal.SIG_IGN, None  # by nohup, or by a shell that starts it in the background
    numbers = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) not in ignored]
    before = {number: signal.signal(number, end) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if asked_to_end() and isinstance(sys.exception(), SystemExit):
            _leave()


def _leave() -> None:
    """End the process now if a thread is left that Python would wait for, such as one of a library's that waits too."""
    if any(not thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread()):
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(INTERRUPTED)
