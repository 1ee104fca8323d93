"""Whether the process was asked to end: what every wait on another thread than the first looks at now and then.

Python tells Ctrl-C to the first thread alone. A thread that waits for a server learns of it here, so that nothing has
to be waited for when the command ends. Only the command line sets it; a program that uses the library as a part keeps
its own signals.
"""

from __future__ import annotations

import threading

_asked_to_end = threading.Event()


def ask_to_end() -> None:
    """Let all waits that look here end."""
    _asked_to_end.set()


def begin() -> None:
    """Start anew: a command begins."""
    _asked_to_end.clear()


def asked_to_end() -> bool:
    """Whether waits are to end."""
    return _asked_to_end.is_set()
