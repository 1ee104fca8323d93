"""One question to the Hub, bounded: no more bytes than asked for, no slower than stated, from nowhere but http(s).

huggingface_hub's own functions sleep for as long as a server says, unpack what it compressed, read answers of any
length and log addresses with their passwords. So only its HTTP client is used here (its proxies and certificates
hold, and its offline switch), one request at a time: redirects are followed here, at most `REDIRECTS`, without the
token once they leave the Hub's host; compressed answers are refused.

A request runs on a thread of its own that the process does not wait for when it ends. Whoever asked waits for its
pieces, and stops waiting when told to (`stopped`, Ctrl-C), when the answer's beginning takes longer than three times
HF_HUB_DOWNLOAD_TIMEOUT, or when less than `SLOWEST` bytes a second come for `WINDOW` seconds.
"""

from __future__ import annotations

import base64
import os
import queue
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import unquote, urljoin, urlsplit, urlunsplit

from ...errors import MlxquantError
from ...words.interrupts import asked_to_end
from ...words.secrets import register
from ..headers import shown
from .errors import HubError, endpoint, explained, from_status, hub_constants

REDIRECTS = 5
# Bytes a second that have to come on average over so many seconds of waiting.
SLOWEST, WINDOW = 1000, 30.0
# An answer's beginning may take this many times the limit on one operation of the network.
BEGINNING = 3
# Bytes of an answer nobody wants (a redirect's) that are read, so that its connection can be used again.
UNWANTED = 1 << 16
_POLL = 0.1
_QUEUE = 64
_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19}|\*)", re.ASCII)
_REDIRECTS = (301, 302, 303, 307, 308)


class Stopped(MlxquantError):
    """The work ended while something was on its way."""


@dataclass(frozen=True, slots=True)
class About:
    """What is asked for, as messages name it: the repository and its revision, and the file of it if it is one."""

    repository: str
    revision: str | None
    file: str | None = None

    def __str__(self) -> str:
        return self.file or self.repository


class Answer:
    """A server's answer that has begun: its status, its headers (names in lower case), and the bytes to come."""

    def __init__(self, request: _Request, about: About, stopped: threading.Event) -> None:
        self._request, self._about, self._stopped = request, about, stopped
        head, _ = self._next(BEGINNING * request.timeout)
        assert isinstance(head, _Head)
        self.status, self.headers = head.status, head.headers

    def pieces(self, most: int) -> Iterator[bytes]:
        """Give the bytes as they come. Raises HubError where more come than `most`, or hardly any."""
        if (coding := self.headers.get("content-encoding", "identity").strip().lower()) not in ("", "identity"):
            raise HubError(
                f"{self._about}: {endpoint()} sends it compressed ({shown(coding, 20)}), which was not asked for;"
                " is a proxy in between?"
            )
        window, came, waited, total = max(WINDOW, self._request.timeout), 0, 0.0, 0
        while True:
            piece, seconds = self._next(window)
            if piece is None:
                return
            assert isinstance(piece, bytes)
            total += len(piece)
            if total > most:
                raise HubError(f"{self._about}: {endpoint()} sends more than {most:,} bytes; try again later")
            yield piece
            came, waited = came + len(piece), waited + seconds
            if waited >= window:
                if came < SLOWEST * waited:
                    raise self._too_slow()
                came, waited = 0, 0.0

    def read(self, most: int) -> bytes:
        """Give all bytes, `most` of them at most."""
        return b"".join(self.pieces(most))

    def check_range(self, start: int, stop: int, size: int) -> None:
        """Raise HubError unless the answer says that it is bytes `start` to `stop` of a file of `size` bytes."""
        content_range = self.headers.get("content-range", "")
        span = _RANGE.fullmatch(content_range.strip())
        if span is None or (int(span[1]), int(span[2]) + 1) != (start, stop) or span[3] not in ("*", str(size)):
            raise HubError(
                f"{self._about}: bytes {start:,} to {stop:,} of {size:,} asked for,"
                f" {shown(content_range or 'no range', 60)} came; try again later"
            )

    def _next(self, limit: float) -> tuple[object, float]:
        """What comes next, and the seconds that it was waited for."""
        began = time.monotonic()
        while True:
            try:
                item = self._request.items.get(timeout=_POLL)
            except queue.Empty:
                if self._stopped.is_set() or asked_to_end():
                    raise Stopped(f"{self._about}: stopped") from None
                if time.monotonic() - began > limit:
                    raise self._too_slow() from None
                continue
            if isinstance(item, BaseException):
                with explained(self._about.repository, self._about.revision):
                    raise item
            return item, time.monotonic() - began

    def _too_slow(self) -> HubError:
        return HubError(
            f"{self._about}: {endpoint()} sends less than {SLOWEST:,} bytes a second; try again later, or set"
            " HF_HUB_DOWNLOAD_TIMEOUT=60",
            unreachable=f"no answer from {endpoint()} in time",
        )


@contextmanager
def asked(
    url: str,
    about: About,
    *,
    span: tuple[int, int | None] | None = None,
    stopped: threading.Event | None = None,
) -> Iterator[Answer]:
    """Ask for an address, or for bytes `span` of it (from, and up to but not with), and follow its redirects.

    Raises HubError for every status but 200 and 206, and `Stopped`.
    """
    stopped = stopped or threading.Event()
    endpoint()  # an address that is none is told before anything is asked
    url, login = _without_user(url)
    headers = {"Accept-Encoding": "identity"}
    if span is not None:
        headers["Range"] = f"bytes={span[0]}-{'' if span[1] is None else span[1] - 1}"
    first = _origin(url)
    for _ in range(REDIRECTS + 1):
        request = _Request(url, headers, login, with_token=_origin(url) == first)
        try:
            answer = Answer(request, about, stopped)
            if answer.status in (200, 206):
                yield answer
                return
            if answer.status not in _REDIRECTS:
                raise from_status(about.repository, about.revision, answer.status, answer.headers)
        finally:
            request.abandon()
        url = _redirected(url, answer.headers.get("location", ""), about)
    raise HubError(f"{about}: {endpoint()} redirects more than {REDIRECTS} times; is it a Hub? (HF_ENDPOINT)")


@dataclass(frozen=True, slots=True)
class _Head:
    status: int
    headers: Mapping[str, str]


class _Request(threading.Thread):
    """One GET on a thread of its own: puts a `_Head` into `items`, then bytes, then None; or an exception."""

    def __init__(self, url: str, headers: Mapping[str, str], login: str | None, *, with_token: bool) -> None:
        super().__init__(name="hub-request", daemon=True)
        self.items: queue.Queue[object] = queue.Queue(_QUEUE)
        self.timeout = float(hub_constants().HF_HUB_DOWNLOAD_TIMEOUT)
        self._url, self._headers, self._login, self._with_token = url, dict(headers), login, with_token
        self._abandoned = threading.Event()
        self.start()

    def abandon(self) -> None:
        """Let the thread end when it next has something: nothing waits for it any more."""
        self._abandoned.set()

    def run(self) -> None:
        """Ask, and hand on what comes; the thread's body."""
        try:
            self._ask()
        except BaseException as error:  # noqa: BLE001 - whoever waits for the answer raises it
            self._put(error)

    def _ask(self) -> None:
        from huggingface_hub.utils import get_session

        if hub_constants().HF_HUB_OFFLINE:
            from huggingface_hub.errors import OfflineModeIsEnabled

            raise OfflineModeIsEnabled("offline")
        try:
            client = get_session()
        except (ImportError, ValueError):  # what it may say holds the proxy's password
            raise HubError(
                "HTTP_PROXY, HTTPS_PROXY or ALL_PROXY: no proxy that can be used; an address such as http://host:3128"
                " expected"
            ) from None
        headers = {**own_headers(self._login, with_token=self._with_token), **self._headers}
        request = client.build_request("GET", self._url, headers=headers, timeout=self.timeout)
        response = client.send(request, stream=True, follow_redirects=False)
        try:
            head = _Head(response.status_code, {k.lower(): v for k, v in response.headers.items()})
            if not self._put(head):
                return
            unwanted = 0
            for piece in response.iter_raw():
                unwanted += 0 if head.status in (200, 206) else len(piece)
                if unwanted > UNWANTED or (not unwanted and not self._put(piece)):
                    return
        finally:
            response.close()
        self._put(None)

    def _put(self, item: object) -> bool:
        """Hand something on. Says whether anybody is there to take it."""
        while not self._abandoned.is_set():
            try:
                self.items.put(item, timeout=_POLL)
            except queue.Full:
                continue
            return True
        return False


def own_headers(login: str | None = None, *, with_token: bool = True) -> dict[str, str]:
    """What huggingface_hub sends of itself, with the token that is set where that may go. Raises HubError."""
    from huggingface_hub import errors
    from huggingface_hub.utils import build_hf_headers

    try:
        headers = {k.lower(): v for k, v in build_hf_headers(token=None if with_token else False).items()}
    except UnicodeError:
        raise HubError("the file of the Hub's token is no text; hf auth login writes it anew") from None
    except OSError as error:
        raise HubError(f"the Hub's token cannot be read ({error.strerror or 'no access'}); set HF_TOKEN") from None
    except getattr(errors, "OIDCError", UnicodeError):
        raise HubError("HF_OIDC_RESOURCE: no token could be had that way; unset it, or set HF_TOKEN") from None
    if "authorization" in headers:
        check_token(headers["authorization"].removeprefix("Bearer "))
    if login is not None and with_token:
        headers["authorization"] = f"Basic {login}"
    return headers


def check_token(token: str) -> None:
    """Raise HubError for a token that no header can carry; keep it out of all messages from here on."""
    environment_token = next((v for n in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN") if (v := os.environ.get(n))), token)
    for text in (environment_token, token):
        register(text)
        if not (text.strip().isascii() and text.strip().isprintable()) or len(text.split()) != 1:
            raise HubError(
                "HF_TOKEN: holds characters that no token has (white space, control characters or letters outside"
                " ASCII); set it to the token alone, or log in with hf auth login"
            )


def _without_user(url: str) -> tuple[str, str | None]:
    """An address without its user and password, and these as HTTP's basic scheme has them."""
    parts = urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    if not at:
        return url, None
    login = base64.b64encode(unquote(user).encode()).decode()
    register(login)
    return urlunsplit(parts._replace(netloc=host)), login


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc


def _redirected(url: str, location: str, about: About) -> str:
    """Where a redirect leads. Raises HubError where that is no place to read from."""
    try:
        there = urljoin(url, location)
        scheme, host = urlsplit(there).scheme, urlsplit(there).hostname
    except ValueError:
        scheme, host = "", None
    allowed = ("https",) if url.startswith("https:") else ("http", "https")
    if not location or not host or scheme not in allowed:
        raise HubError(
            f"{about}: {endpoint()} redirects to {shown(location, 60) or 'nowhere'};"
            f" an address of {' or '.join(allowed)} expected; is it a Hub? (HF_ENDPOINT)"
        )
    return _without_user(there)[0]
