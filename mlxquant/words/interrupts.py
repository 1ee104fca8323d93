"""Whether the process was asked to end; every wait outside the main thread checks it now and then.

Python delivers Ctrl-C to the main thread alone. A thread that waits for a server learns of it here, so that the command
ends without waiting for it. Only the command line sets it; a program that uses the library keeps its own signals.
"""

from __future__ import annotations

import threading

_asked_to_end = threading.Event()


def ask_to_end() -> None:
    """Make all waits that check here end."""
    _asked_to_end.set()


def begin() -> None:
    """Reset, at the beginning of a command."""
    _asked_to_end.clear()


def asked_to_end() -> bool:
    """Whether waits are to end."""
    return _asked_to_end.is_set()
