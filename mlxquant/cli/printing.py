"""The one way to the terminal: what a command prints, and what Python and libraries print of their own accord.

Commands print by `echo` alone: keys are redacted (`words.secrets`), and what would steer a terminal (in a name from a
stranger's file, say) is shown as "?". An exception repeats what it met, a library logs the address that it asks, and
click repeats a word that it does not know: those pass hooks of Python's, which are set here once for the process. Text
that a library writes to a stream itself passes none of them.
"""

from __future__ import annotations

import logging
import sys
import threading
import traceback
import warnings
from types import TracebackType
from typing import Any

import click

from ..words.secrets import redact
from ..words.text import for_terminal

_before: dict[str, Any] = {}


def echo(text: str, *, err: bool = False, nl: bool = True) -> None:
    """Print a text on stdout, or with `err` on stderr: without keys, and with nothing in it that steers a terminal."""
    click.echo(for_terminal(redact(text)), err=err, nl=nl)


def warn(text: str) -> None:
    """Print a warning on stderr."""
    echo(f"mlxquant: warning: {text}", err=True)


def redact_all_output() -> None:
    """Set the hooks, once a process."""
    sys.excepthook = _show
    sys.unraisablehook = lambda args: _show(args.exc_type, args.exc_value, args.exc_traceback)
    threading.excepthook = lambda args: _show(args.exc_type, args.exc_value, args.exc_traceback)
    if not _before:
        _before["record"] = logging.getLogRecordFactory()
        _before["warning"] = warnings.formatwarning
        logging.setLogRecordFactory(_log_record)
        warnings.formatwarning = _warning


def redact_complaint(error: click.ClickException) -> None:
    """Redact what click is about to show: it repeats words of the command line."""
    error.message = for_terminal(redact(error.message))  # type: ignore[misc]  # final by its stub; click has no other way


def _show(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    echo("".join(traceback.format_exception(kind, error, trace)), err=True, nl=False)


def _log_record(*args: Any, **more: Any) -> logging.LogRecord:
    record: logging.LogRecord = _before["record"](*args, **more)
    try:
        record.msg, record.args = redact(record.getMessage()), None
    except (TypeError, ValueError):  # a message that does not fit its arguments; logging says so itself
        record.msg, record.args = redact(str(record.msg)), None
    if record.exc_info and record.exc_info[0] is not None:
        record.exc_text = redact("".join(traceback.format_exception(*record.exc_info)).rstrip("\n"))
    return record


def _warning(*args: Any, **more: Any) -> str:
    return redact(str(_before["warning"](*args, **more)))
