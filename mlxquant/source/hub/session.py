"""huggingface_hub's own functions in bounds, for what is not asked by `client`: making repositories, uploading.

Its HTTP client gets hooks for that time: no operation of the network waits longer than `OPERATION_S`, an answer is
not compressed, not longer than `ANSWER_BYTES`, and complete within `ANSWER_S`; a wait that the Hub asks for is cut, or
refused where it is longer than anybody would wait. What runs here runs on a thread that the process does not wait for
when it ends, since that library's own threads know of no Ctrl-C. Transfers by hf_xet, which is not Python, are not
bounded here.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from ...words.interrupts import asked_to_end
from ..headers import shown
from .client import Stopped
from .errors import HubError, endpoint, from_status, http_library
from .repository import LONGEST_ASKED, LONGEST_WAIT

T = TypeVar("T")

ANSWER_BYTES, ANSWER_S = 16 << 20, 600.0
OPERATION_S = 300.0
_POLL = 0.1


def apart(act: Callable[[], T], repository: str) -> T:
    """Do something with huggingface_hub, in bounds, and wait for it. Raises `Stopped`, and what it raises."""
    results: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue()

    def run() -> None:
        try:
            results.put((act(), None))
        except BaseException as error:  # noqa: BLE001 - whoever waits raises it
            results.put((None, error))

    with _bounded(repository):
        threading.Thread(target=run, name="hub-upload", daemon=True).start()
        while True:
            try:
                value, error = results.get(timeout=_POLL)
            except queue.Empty:
                if asked_to_end():
                    raise Stopped(f"{repository}: stopped") from None
                continue
            if error is not None:
                raise error
            return value  # type: ignore[return-value]


@contextmanager
def _bounded(repository: str) -> Iterator[None]:
    """Let huggingface_hub's client have hooks that bound what it asks and gets."""
    from huggingface_hub import HfApi, set_client_factory
    from huggingface_hub.utils import _http

    before = getattr(_http, "_GLOBAL_CLIENT_FACTORY", _http.default_client_factory)
    # its loops for large folders, before 2.0, try everything again at once, also what is refused here
    patient = hasattr(HfApi, "upload_large_folder")

    def check(response: Any) -> None:
        _bound(response, repository, patient=patient)

    def factory() -> Any:
        client = before()
        hooks = client.event_hooks
        client.event_hooks = {"request": [*hooks["request"], _plain], "response": [*hooks["response"], check]}
        return client

    set_client_factory(factory)
    try:
        yield
    finally:
        set_client_factory(before)


def _plain(request: Any) -> None:
    """Ask for an answer that is not compressed, and for no operation that takes for ever."""
    if asked_to_end():
        raise Stopped("stopped")
    request.headers["Accept-Encoding"] = "identity"
    limits = request.extensions.get("timeout") or {}
    request.extensions["timeout"] = {k: limits.get(k) or OPERATION_S for k in ("connect", "read", "write", "pool")}


def _bound(response: Any, repository: str, *, patient: bool) -> None:
    """Look at an answer's headers, and limit what is read of it."""
    headers = {k.lower(): v for k, v in response.headers.items()}
    coding = headers.get("content-encoding", "identity").strip().lower()
    if coding not in ("", "identity"):
        raise HubError(f"{repository}: {endpoint()} sends its answer compressed ({shown(coding, 20)}), unasked")
    error = from_status(repository, None, response.status_code, headers)
    if (error.wait or 0) > LONGEST_ASKED and not patient:
        raise error
    if (error.wait or 0) > LONGEST_WAIT:
        response.headers["retry-after"] = str(int(LONGEST_WAIT))
        response.headers.pop("ratelimit", None)
    response.stream = _limited(response.stream, repository)


def _limited(stream: Any, repository: str) -> Any:
    """Wrap the bytes of an answer so that they come to an end."""

    class Limited(http_library().SyncByteStream):  # type: ignore[misc]
        def __iter__(self) -> Iterator[bytes]:
            total, until = 0, time.monotonic() + ANSWER_S
            for piece in stream:
                total += len(piece)
                if total > ANSWER_BYTES or time.monotonic() > until:
                    raise HubError(f"{repository}: {endpoint()} answers without end; try again later")
                yield piece

        def close(self) -> None:
            stream.close()

    return Limited()
