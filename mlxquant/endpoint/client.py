"""Ask an OpenAI-compatible server for a streamed completion, and note when each piece of it arrives.

Server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html): a line is handed on as soon as it
is there, chunked or not, so an event's time is that at which its last byte was read. An answer counts only if it is
whole: status 200, an event stream, events that can be read, a finish reason, and [DONE] or the end of the connection
after it. Anything else is a StreamError that says what came instead; no part of a broken answer becomes a figure.
Time and bytes are bounded by `wire`, the fields of an event are checked by `events`.
"""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from email.utils import parsedate_to_datetime
from time import perf_counter
from typing import Any
from urllib.parse import SplitResult, urlsplit

from ..errors import UsageError
from ..words.secrets import register, register_url
from ..words.strict_json import read_json, whole
from .events import Event, error_text, read_event
from .wire import ANSWER, DOCUMENT, LINE, Connection, StreamError, exchange, shown

__all__ = [
    "Chunk", "Event", "Server", "StreamError", "StreamedAnswer", "events", "parse_server", "stream", "unfinished",
]  # fmt: skip

LOOPBACK = ("localhost", "127.0.0.1", "::1")
_LONGEST = 30 * 86400  # seconds; a timeout above it was meant otherwise
_NO_GAP = "leaves out the empty line between events"
_LONGEST_NAME = 2000  # characters; a path may be long
_ANY_MODEL = ("default_model", "default")  # what asks for the model that the server was started with
_ADDED = re.compile(r"(?:[-:@](?:[\d-]+|latest))?")
_SECONDS = re.compile(r"\d{1,9}", re.ASCII)
_HOST = re.compile(r"[A-Za-z0-9._-]+")
_EXAMPLE = "an address such as http://127.0.0.1:1234/v1 expected"


@dataclass(frozen=True, slots=True)
class Chunk:
    """One event that brought text, and when it was read (seconds of `perf_counter`)."""

    at: float
    text: str


@dataclass(frozen=True, slots=True)
class StreamedAnswer:
    """A whole answer: when it was asked for, its chunks, why and when it ended, the server's own counts."""

    asked: float
    chunks: tuple[Chunk, ...]
    ended: float
    finish_reason: str
    usage: Mapping[str, int] | None
    model: str | None = None

    @property
    def first(self) -> float:
        """When the first token was there: the first text, or the end of an answer whose only token has none."""
        return self.chunks[0].at if self.chunks else self.ended


@dataclass(frozen=True, slots=True)
class Server:
    """Where a server is. `key` goes into the Authorization header of requests to it and nowhere else."""

    scheme: str
    host: str
    port: int | None
    path: str
    timeout: float
    key: str | None = None

    @property
    def url(self) -> str:
        """The address, as the user gave it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}{f':{self.port}' if self.port else ''}{self.path}"

    @property
    def here(self) -> bool:
        """Whether it runs on this machine."""
        return self.host in LOOPBACK or self.host.startswith("127.")

    def post(self, path: str, body: Mapping[str, Any], *, unstreamed: bool = False) -> Iterator[tuple[float, str]]:
        """POST and yield the lines of the answer with the time at which each was read. Raises StreamError.

        The timeout is for the whole answer. With `unstreamed`, an answer that is one JSON document is given as a
        stream of one event.
        """
        begin = perf_counter()
        data = json.dumps(body).encode()
        headers = {"Content-Type": "application/json", "Accept": "text/event-stream", **self._authorization}
        with self._exchange("POST", path, data, headers) as connection:
            yield begin, ""
            response = connection.open(ANSWER)
            _check_status(response, connection)
            kind = response.headers.get_content_type()
            if kind == "application/json":
                yield from _whole_answer(connection, unstreamed=unstreamed)
                return
            if kind != "text/event-stream":
                raise StreamError(
                    "malformed",
                    f"{connection.where}: an event stream expected, {shown(kind, 80)} found; does it serve the OpenAI"
                    " API?",
                )
            for at, line in connection.lines():
                yield at, line.decode("utf-8", "replace").rstrip("\r\n")

    def get(self, path: str) -> Any:
        """GET a JSON document. Raises StreamError."""
        with self._exchange("GET", path, None, self._authorization) as connection:
            _check_status(connection.open(DOCUMENT), connection)
            data = connection.rest(DOCUMENT)
        try:
            return read_json(data)
        except ValueError as error:
            raise StreamError(
                "malformed", f"{self.url}{path}: JSON expected ({shown(error)}); does it serve the OpenAI API?"
            ) from None

    @property
    def _authorization(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"} if self.key else {}

    def _exchange(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> Any:
        port = self.port or (443 if self.scheme == "https" else 80)
        request = (method, self.path + path, body, headers)
        return exchange((self.scheme, self.host, port), self.timeout, self.url + path, request)


def parse_server(url: str, timeout: float, key: str | None = None, *, option: str = "--endpoint") -> Server:
    """Read `http://127.0.0.1:1234/v1`. Raises UsageError, naming the option that gave it."""
    register(key)
    register_url(url)
    faults = list(_address_faults(url))
    if faults:
        raise UsageError(f"{option} {url!r}: {faults[0]}; {_EXAMPLE}")
    if not 0 < timeout <= _LONGEST:
        raise UsageError(f"--timeout {timeout:g}: a number of seconds above 0 expected, {_LONGEST} at most")
    if key is not None and not (key.isascii() and key.isprintable()):
        raise UsageError(
            f"{option} {url}: its key has characters that no header can carry; is it set to the key alone?"
        )
    parts = urlsplit(url)
    return Server(parts.scheme, parts.hostname or "", parts.port, parts.path.rstrip("/"), timeout, key)


def _address_faults(url: str) -> Iterator[str]:
    """What an address lacks to be one, the first fault that there is."""
    if not url.isprintable() or " " in url:
        yield "a space or control character stands in it"
        return
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError as error:
        yield str(error)
        return
    if parts.scheme not in ("http", "https"):
        yield "it begins with neither http:// nor https://"
    elif parts.username is not None or parts.password is not None:
        yield "a user or password stands in it; a key goes into an environment variable"
    elif not host:
        yield "it names no host"
    elif not _is_host(host):
        yield f"{host!r} is no host's name"
    elif not _is_port(parts):
        yield "it names no port from 1 to 65535"
    elif parts.query or parts.fragment or "?" in url or "#" in url:
        yield "a query or fragment stands in it"
    elif not parts.path.isascii():
        yield "letters outside ASCII stand in its path; write them as %XX"


def _is_port(parts: SplitResult) -> bool:
    try:
        return parts.port is None or parts.port > 0
    except ValueError:
        return False


def _is_host(host: str) -> bool:
    try:
        return ":" in host or _HOST.fullmatch(host.encode("idna").decode()) is not None
    except UnicodeError:
        return False


def stream(server: Server, path: str, body: Mapping[str, Any]) -> StreamedAnswer:
    """Send a request that asks for a stream, and read its answer to the end. Raises StreamError."""
    feed = events(server, path, body)
    begin, _ = next(feed)
    chunks: list[Chunk] = []
    reason, ended, done = None, begin, False
    usage: Mapping[str, int] | None = None
    model: str | None = None
    for at, event in feed:
        if event is None:
            done = True
            break
        if text := event.reasoning + event.text:
            chunks.append(Chunk(at, text))
        if event.finish_reason is not None:
            reason, ended = event.finish_reason, at
        usage, model = event.usage or usage, event.model or model
    if reason is None:
        raise unfinished(server.url + path, done, len(chunks))
    return StreamedAnswer(begin, tuple(chunks), ended, reason, usage, model)


def events(
    server: Server, path: str, body: Mapping[str, Any], *, unstreamed: bool = False
) -> Iterator[tuple[float, Event | None]]:
    """Ask for a stream and yield its events with the time at which each was read.

    The first is (time of asking, None); (time, None) comes again where the stream says [DONE]. With `unstreamed`, a
    whole answer in one document is one event, which says so. Raises StreamError.
    """
    where = server.url + path
    request = {**body, "stream": True, "stream_options": {"include_usage": True}}
    lines = server.post(path, request, unstreamed=unstreamed)
    begin, _ = next(lines)
    yield begin, None
    for at, data in _data(lines, where):
        parts = _parts(data)
        for part in parts:
            if part == "[DONE]":
                yield at, None
                return
            event = read_event(part, where)
            yield at, event if len(parts) == 1 else replace(event, ways=(*event.ways, _NO_GAP))


def _parts(data: str) -> list[str]:
    """The events within the data of one: several where each line is a table of its own (`_NO_GAP`)."""
    lines = [line for line in data.split("\n") if line.strip()]
    whole_lines = all((line.startswith("{") and line.endswith("}")) or line == "[DONE]" for line in lines)
    return lines if lines and whole_lines else [data]


def checked_model(name: str | None, option: str) -> str | None:
    """Give a model's name as it was typed. Raises UsageError where that is no text or has no end."""
    if name is not None and (name != whole(name) or len(name) > _LONGEST_NAME):
        raise UsageError(f"{option} {name[:80]!r}: a name as the server lists it expected, in UTF-8")
    return name


def is_other_model(requested: str, answered: str | None) -> bool:
    """Whether a server that was asked for one model answers as another.

    Folders before a name, capitals, and a date, number or tag that a server adds to it make no other model; nor does a
    request for whatever the server has.

    >>> is_other_model("org/Qwen3-4B", "qwen3-4b:latest"), is_other_model("m", "m-4bit"), is_other_model("default", "m")
    (False, True, False)
    """
    if not answered:
        return False
    wanted, answering = (name.casefold().rstrip("/").rpartition("/")[2] for name in (requested, answered))
    if wanted in _ANY_MODEL:
        return False
    return not (answering.startswith(wanted) and _ADDED.fullmatch(answering[len(wanted) :]))


def unfinished(where: str, done: bool, pieces: int) -> StreamError:
    """The error for a stream that ended without saying why it did."""
    state = "[DONE] without a finish reason" if done else "no finish reason and no [DONE]"
    return StreamError("truncated", f"{where}: the stream ended with {state} after {pieces} pieces of text")


def _data(lines: Iterator[tuple[float, str]], where: str) -> Iterator[tuple[float, str]]:
    """Put the `data:` lines of each event together; comments (`: keepalive`) and other fields are passed over."""
    data: list[str] = []
    at, size = 0.0, 0
    for at, line in lines:
        if not line:
            if data:
                yield at, "\n".join(data)
            data, size = [], 0
        elif line.startswith("data:"):
            data.append(line[5:].removeprefix(" "))
            size += len(line)
            if data == ["[DONE]"]:
                yield at, "[DONE]"
                return
            if size > LINE:
                raise StreamError("endless", f"{where}: an event of more than {LINE >> 20} MiB; none was read")
    if data:
        yield at, "\n".join(data)


def _whole_answer(connection: Connection, *, unstreamed: bool) -> Iterator[tuple[float, str]]:
    """An answer that is one JSON document in place of a stream: an error told as such, or a completion."""
    where, document = connection.where, connection.rest(DOCUMENT)
    try:
        answer = read_json(document, halves=True)
    except ValueError as error:
        raise StreamError("malformed", f"{where}: JSON that cannot be read ({shown(error, 80)})") from None
    one_line = json.dumps(answer)
    if not unstreamed or not isinstance(answer, dict):
        read_event(one_line, where)  # an error of the server's is told before that it is no stream
        raise StreamError(
            "malformed",
            f"{where}: an event stream expected, application/json found; does it serve the OpenAI API, and stream?",
        )
    at = perf_counter()
    yield at, f"data: {one_line}"
    yield at, ""
    yield at, "data: [DONE]"


def _check_status(response: http.client.HTTPResponse, connection: Connection) -> None:
    """Raise StreamError for any status but 200, with what the server says of it."""
    status, where = response.status, connection.where
    if status == 200:
        return
    if 300 <= status < 400:
        target = shown(response.headers.get("Location", "nowhere"))
        text, hint = f"it redirects to {target}", "; redirects are not followed, give the address itself"
    else:
        text = ""
        with suppress(OSError, http.client.HTTPException):  # the status is known, whatever happens to its text
            text = _text_of(response.read(1 << 14))
        hint = "; is --model a name that the server knows?" if status in (400, 404) else ""
    error = StreamError("http", f"{where}: status {status} {shown(response.reason, 40)}: {text or 'no text'}{hint}")
    error.status, error.wait_s = status, _retry_after(response.headers.get("Retry-After", ""))
    raise error


def _retry_after(text: str) -> float | None:
    """Seconds that a server asks to wait for, given as such or as a date; None where it does not."""
    if _SECONDS.fullmatch(text.strip()):
        return float(text)
    try:
        until = parsedate_to_datetime(text)
        return max(0.0, (until - datetime.now(until.tzinfo)).total_seconds())
    except (ValueError, TypeError, OverflowError):
        return None


def _text_of(body: bytes) -> str:
    """What an error's body says: its message, or the beginning of it."""
    text = body.decode("utf-8", "replace")
    try:
        error = read_json(text)["error"]
    except (ValueError, LookupError, TypeError):
        return shown(text)
    return error_text(error)
