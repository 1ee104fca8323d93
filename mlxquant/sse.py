"""Ask an OpenAI-compatible server for a streamed completion, and note when each piece of it arrives.

Server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html) over http.client: a line is
handed on as soon as it is there, chunked or not, so an event's time is that at which its last byte was read. An
answer counts only if it is whole: status 200, an event stream, JSON in every event, a finish reason, and [DONE] or
the end of the connection after it. Anything else is a StreamError that says what came instead; no part of a broken
answer becomes a figure. Standard library only.
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Any
from urllib.parse import urlsplit

from .bench_terms import MeasurementError
from .errors import UsageError
from .secrets import redact

_LINE = 4 << 20  # bytes; no event of a completion is near it
LOOPBACK = ("localhost", "127.0.0.1", "::1")


class StreamError(MeasurementError):
    """A request without a whole answer. `kind`: refused, unreachable, timeout, http, malformed, truncated, server.

    `status` is that of HTTP where there was another than 200.
    """

    status: int | None = None


@dataclass(frozen=True, slots=True)
class Chunk:
    """One event that brought text, and when it was read (seconds of `perf_counter`)."""

    at: float
    text: str


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer: when it was asked for, its chunks, why and when it ended, the server's own counts."""

    asked: float
    chunks: tuple[Chunk, ...]
    ended: float
    finish_reason: str
    usage: Mapping[str, int] | None

    @property
    def first(self) -> float:
        """When the first token was there: the first text, or the end of an answer whose only token has none."""
        return self.chunks[0].at if self.chunks else self.ended


@dataclass(frozen=True, slots=True)
class Server:
    """Where a server is. `key` goes into the Authorization header and nowhere else."""

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

    def post(self, path: str, body: Mapping[str, Any]) -> Iterator[tuple[float, str]]:
        """POST and yield the lines of the answer with the time at which each was read. Raises StreamError.

        The timeout is for the whole answer.
        """
        connection = self._connection()
        asked = perf_counter()
        headers = {"Content-Type": "application/json", "Accept": "text/event-stream"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        try:
            connection.connect()
            wire = connection.sock
            yield asked, ""
            connection.request("POST", self.path + path, json.dumps(body).encode(), headers)
            response = connection.getresponse()
            _check_status(response, self.url + path)
            while True:
                wire.settimeout(max(0.001, asked + self.timeout - perf_counter()))
                line = response.readline(_LINE)
                if not line:
                    return
                yield perf_counter(), line.decode("utf-8", "replace").rstrip("\r\n")
        except (OSError, http.client.HTTPException) as error:
            raise self._explained(error, path) from error
        finally:
            connection.close()

    def get(self, path: str) -> Any:
        """GET a JSON document. Raises StreamError."""
        connection = self._connection()
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        try:
            connection.request("GET", self.path + path, headers=headers)
            response = connection.getresponse()
            if response.status != 200:
                _check_status(response, self.url + path)
            return json.loads(response.read())
        except ValueError:
            raise StreamError("malformed", f"{self.url}{path}: JSON expected; does it serve the OpenAI API?") from None
        except (OSError, http.client.HTTPException) as error:
            raise self._explained(error, path) from error
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        if self.scheme == "https":
            context = ssl.create_default_context()
            return http.client.HTTPSConnection(self.host, self.port, timeout=self.timeout, context=context)
        return http.client.HTTPConnection(self.host, self.port, timeout=self.timeout)

    def _explained(self, error: Exception, path: str) -> StreamError:
        where = f"{self.url}{path}"
        match error:
            case TimeoutError():
                return StreamError(
                    "timeout", f"{where}: no whole answer within {self.timeout:g} s; --timeout allows more"
                )
            case ConnectionRefusedError():
                return StreamError("refused", f"{where}: connection refused; is the server running there?")
            case socket.gaierror():
                return StreamError("unreachable", f"{where}: no such host; is the address right?")
            case http.client.IncompleteRead() | ConnectionError() | http.client.RemoteDisconnected():
                return StreamError("truncated", f"{where}: the server closed the connection ({type(error).__name__})")
            case http.client.HTTPException():
                return StreamError("malformed", f"{where}: answers no HTTP ({type(error).__name__}: {error})")
        return StreamError("unreachable", f"{where}: {error}")


def parse_server(url: str, timeout: float, key: str | None = None, *, option: str = "--endpoint") -> Server:
    """Read `http://127.0.0.1:1234/v1`. Raises UsageError, naming the option that gave it."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise UsageError(f"{option} {url!r}: {error}; http://127.0.0.1:1234/v1 is of the form expected") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.username:
        raise UsageError(
            f"{option} {url!r}: an address such as http://127.0.0.1:1234/v1 expected, without query or user"
        )
    if timeout <= 0:
        raise UsageError(f"--timeout {timeout:g}: a number of seconds above 0 expected")
    return Server(parts.scheme, parts.hostname, port, parts.path.rstrip("/"), timeout, key)


def stream(server: Server, path: str, body: Mapping[str, Any]) -> Answer:
    """Send a request that asks for a stream, and read its answer to the end. Raises StreamError."""
    feed = events(server, path, body)
    asked, _ = next(feed)
    chunks: list[Chunk] = []
    reason, ended, usage, done = None, asked, None, False
    where = server.url + path
    for at, event in feed:
        if event is None:
            done = True
            break
        text, why, counts = _read_event(event, where)
        if text:
            chunks.append(Chunk(at, text))
        if why is not None:
            reason, ended = why, at
        usage = counts or usage
    if reason is None:
        raise unfinished(where, done, len(chunks))
    return Answer(asked, tuple(chunks), ended, reason, usage)


def events(server: Server, path: str, body: Mapping[str, Any]) -> Iterator[tuple[float, dict[str, Any] | None]]:
    """Ask for a stream and yield its events with the time at which each was read.

    The first is (time of asking, None); (time, None) comes again where the stream says [DONE]. Raises StreamError.
    """
    lines = server.post(path, {**body, "stream": True, "stream_options": {"include_usage": True}})
    asked, _ = next(lines)
    yield asked, None
    for at, data in _events(lines):
        if data == "[DONE]":
            yield at, None
            return
        yield at, _parse(data, server.url + path)


def unfinished(where: str, done: bool, pieces: int) -> StreamError:
    """The error for a stream that ended without saying why it did."""
    state = "[DONE] without a finish reason" if done else "no finish reason and no [DONE]"
    return StreamError("truncated", f"{where}: the stream ended with {state} after {pieces} pieces of text")


def _events(lines: Iterator[tuple[float, str]]) -> Iterator[tuple[float, str]]:
    """Put the `data:` lines of each event together; comments (`: keepalive`) and other fields are passed over."""
    data: list[str] = []
    at = 0.0
    for at, line in lines:
        if not line:
            if data:
                yield at, "\n".join(data)
            data = []
        elif line.startswith("data:"):
            data.append(line[5:].removeprefix(" "))
            if data == ["[DONE]"]:
                yield at, "[DONE]"
                return
    if data:
        yield at, "\n".join(data)


def _parse(data: str, where: str) -> dict[str, Any]:
    try:
        event = json.loads(data)
    except ValueError:
        raise StreamError("malformed", f"{where}: an event of the stream is no JSON: {data[:80]!r}") from None
    if not isinstance(event, dict):
        raise StreamError("malformed", f"{where}: an event of the stream is no table: {data[:80]!r}")
    if "error" in event:
        raise StreamError("server", f"{where}: the server reports an error: {_said(event['error'])}")
    return event


def _read_event(event: Mapping[str, Any], where: str) -> tuple[str, str | None, dict[str, int] | None]:
    """Text (answer or reasoning), finish reason and usage of an event, each if it has any."""
    choices = event.get("choices", [])
    if not isinstance(choices, list) or not all(isinstance(c, dict) for c in choices):
        raise StreamError("malformed", f"{where}: `choices` of an event is no list of tables: {str(event)[:80]!r}")
    text, reason = "", None
    for choice in choices:
        delta = choice.get("delta") or choice
        parts = (delta.get(key) for key in ("reasoning_content", "reasoning", "content", "text"))
        text += "".join(p for p in parts if isinstance(p, str))
        reason = choice.get("finish_reason") or reason
    usage = event.get("usage")
    return text, None if reason is None else str(reason), token_counts(usage) if isinstance(usage, dict) else None


def token_counts(usage: Mapping[str, Any]) -> dict[str, int]:
    """The counts of a `usage` table that are whole numbers, `cached_tokens` lifted up to them."""
    details = usage.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else None
    found = {"prompt_tokens": usage.get("prompt_tokens"), "completion_tokens": usage.get("completion_tokens")}
    return {k: v for k, v in {**found, "cached_tokens": cached}.items() if type(v) is int}


def _check_status(response: http.client.HTTPResponse, where: str) -> None:
    kind = response.headers.get_content_type()
    if response.status != 200:
        said = response.read(2000).decode("utf-8", "replace").strip()
        try:
            said = _said(json.loads(said).get("error", said))
        except (ValueError, AttributeError):
            said = _said(said)
        hint = "; is --model a name that the server knows?" if response.status in (400, 404) else ""
        error = StreamError("http", f"{where}: status {response.status} {response.reason}: {said or 'no text'}{hint}")
        error.status = response.status
        raise error
    if kind != "text/event-stream":
        raise StreamError(
            "malformed", f"{where}: an event stream expected, {kind} found; does it serve the OpenAI API?"
        )


def _said(error: Any) -> str:
    message = error.get("message", error) if isinstance(error, dict) else error
    return " ".join(redact(str(message)).split())[:200]
