"""One request over HTTP/1.1 to a server that is not trusted: bounded in time and in bytes, whatever it sends.

A deadline holds for everything together: finding the host, connecting, TLS, the head and every byte of the answer. So
no server keeps a client by sending a byte now and then. Heads, lines and answers have stated greatest lengths; what is
longer is an error, and nothing is ever read further ahead than that. Redirects are not followed, so a key goes to the
address that the user gave and to no other. Every way of failing is a `StreamError` of one line, in which what the
server said is cut, redacted and free of control characters. Knows nothing of what is asked (`client`). Standard library
only.
"""

from __future__ import annotations

import http.client
import io
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from time import perf_counter
from typing import Any

from ..errors import MeasurementError
from ..words.secrets import redact

HEAD = 256 << 10  # bytes of a head; http.client adds 64 KiB a line and 100 lines
LINE = 4 << 20  # bytes of a line, and of an event; none of a completion is near it
ANSWER = 64 << 20  # bytes of a streamed answer: some 200,000 tokens
DOCUMENT = 16 << 20  # bytes of a JSON document, such as the list of models
SHOWN = 200  # characters of a server's text in a message
_PART = 16 << 10  # bytes that are sent at a time


class StreamError(MeasurementError):
    """A request without a whole answer.

    `kind`: refused, unreachable, timeout, http, malformed, truncated, endless, server. `status` is that of HTTP where
    there was another than 200, `wait_s` the seconds after which it may be tried again, where the server gave them.
    """

    status: int | None = None
    wait_s: float | None = None


def shown(text: object, most: int = SHOWN) -> str:
    """Give what a server said as one short line: redacted before it is cut, without control characters."""
    line = " ".join(redact(str(text)[: 64 * SHOWN]).split())
    return "".join(c if c.isprintable() else "\ufffd" for c in line[:most])


@contextmanager
def exchange(
    address: tuple[str, str, int],
    timeout: float,
    where: str,
    request: tuple[str, str, bytes | None, Mapping[str, str]],
) -> Iterator[Connection]:
    """Connect to (scheme, host, port), send (method, path, body, headers), and give what reads the answer.

    `where` is the address in messages. Raises StreamError for all that can go wrong, while the answer is read too.
    """
    connection: Connection | None = None
    try:
        deadline = perf_counter() + timeout
        connection = Connection(_connected(address, deadline), deadline, address, where)
        connection.send(*request)
        yield connection
    except (OSError, http.client.HTTPException, ValueError, EOFError) as error:
        raise _explained(error, where, timeout) from error
    finally:
        if connection is not None:
            connection.close()


class Connection:
    """A connection on which a request goes out once and its answer comes in, both before the deadline."""

    def __init__(self, connected: socket.socket, deadline: float, address: tuple[str, str, int], where: str) -> None:
        self._socket = _Bounded(connected, deadline, where)
        self._address, self.where, self._method = address, where, "GET"
        self._response: http.client.HTTPResponse | None = None

    def send(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> None:
        """Send the request."""
        self._method = method
        client = http.client.HTTPConnection(self._address[1], self._address[2])
        client.sock = self._socket  # all that http.client uses of one
        client.request(method, path, body, {"Connection": "close", **headers})

    def open(self, most: int) -> http.client.HTTPResponse:
        """Read the head of the answer, whose body may have `most` bytes."""
        self._socket.allow(HEAD, "a head")
        response = http.client.HTTPResponse(self._socket, method=self._method)  # type: ignore[arg-type]
        self._response = response
        response.begin()
        coding = response.headers.get("Content-Encoding", "identity").strip().lower()
        if coding not in ("", "identity"):
            raise StreamError("malformed", f"{self.where}: answers in {shown(coding, 40)}, which was not asked for")
        self._socket.allow(most, "an answer")
        return response

    def lines(self) -> Iterator[tuple[float, bytes]]:
        """The lines of the answer, each with the time at which it was read."""
        assert self._response is not None
        while line := self._response.readline(LINE + 1):
            if len(line) > LINE:
                raise StreamError("endless", f"{self.where}: a line of more than {LINE >> 20} MiB; none was read")
            yield perf_counter(), line

    def rest(self, most: int) -> bytes:
        """The body of the answer, up to `most` bytes; StreamError where it goes on."""
        assert self._response is not None
        parts, size = [], 0
        while part := self._response.read(min(_PART, most + 1 - size)):
            parts.append(part)
            if (size := size + len(part)) > most:
                raise self._socket.endless(most, "an answer")
        return b"".join(parts)

    def close(self) -> None:
        """Let go of the connection."""
        if self._response is not None:
            self._response.close()
        self._socket.shut()


class _Bounded(io.RawIOBase):
    """A socket as `http.client` uses one, with a deadline for every call and a greatest number of bytes to read."""

    def __init__(self, connected: socket.socket, deadline: float, where: str) -> None:
        self._connected, self._deadline, self._where = connected, deadline, where
        self._left, self._most, self._what = HEAD, HEAD, "a head"

    def allow(self, most: int, what: str) -> None:
        """Let so many bytes more be read, of a thing that messages call so."""
        self._left, self._most, self._what = most + io.DEFAULT_BUFFER_SIZE, most, what

    def endless(self, most: int, what: str) -> StreamError:
        """The error for more than was allowed."""
        size = f"{most >> 20} MiB" if most >> 20 else f"{most >> 10} KiB"
        return StreamError("endless", f"{self._where}: {what} of more than {size}; is it a server of models?")

    def sendall(self, data: bytes) -> None:
        """Send all of it. Raises TimeoutError."""
        view = memoryview(data)
        for at in range(0, len(view), _PART):
            self._wait()
            self._connected.sendall(view[at : at + _PART])

    def makefile(self, _mode: str) -> io.BufferedReader:
        """What `http.client` reads the answer from."""
        return io.BufferedReader(self)

    def readable(self) -> bool:
        """Yes."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read what has come. Raises TimeoutError at the deadline, StreamError beyond the bound."""
        self._wait()
        count = self._connected.recv_into(buffer)
        self._left -= count
        if self._left < 0:
            raise self.endless(self._most, self._what)
        return count

    def close(self) -> None:
        """Nothing: `http.client` closes before the answer is read; `shut` ends the connection."""

    def shut(self) -> None:
        """End the connection."""
        self._connected.close()

    def _wait(self) -> None:
        left = self._deadline - perf_counter()
        if left <= 0:
            raise TimeoutError
        self._connected.settimeout(left)


def _connected(address: tuple[str, str, int], deadline: float) -> socket.socket:
    """Connect to the first of the host's addresses that lets us; the time that is left is shared among them."""
    scheme, host, port = address
    addresses = _addresses(host, port, deadline)
    problem: OSError = OSError(f"no address of {host} can be used")
    for number, (family, kind, protocol, _, at) in enumerate(addresses):
        connected = socket.socket(family, kind, protocol)
        try:
            connected.settimeout(max(0.001, (deadline - perf_counter()) / (len(addresses) - number)))
            connected.connect(at)
            if scheme == "https":
                connected.settimeout(max(0.001, deadline - perf_counter()))
                return ssl.create_default_context().wrap_socket(connected, server_hostname=host)
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as error:
            connected.close()
            problem = error
        else:
            return connected
    raise problem


def _addresses(host: str, port: int, deadline: float) -> list[Any]:
    """Look a host's addresses up in a thread, for the system's resolver knows no deadline and heeds no Ctrl-C."""
    result: list[Any] = []
    over = threading.Event()

    def look_up() -> None:
        try:
            result.append(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            result.append(error)
        over.set()

    threading.Thread(target=look_up, daemon=True).start()
    if not over.wait(max(0.0, deadline - perf_counter())):
        raise TimeoutError
    if isinstance(result[0], Exception):
        raise result[0]
    return list(result[0])


def _explained(error: Exception, where: str, timeout: float) -> StreamError:
    match error:
        case TimeoutError():
            return StreamError("timeout", f"{where}: no whole answer within {timeout:g} s; --timeout allows more")
        case ConnectionRefusedError():
            return StreamError("refused", f"{where}: connection refused; is the server running there?")
        case socket.gaierror():
            return StreamError("unreachable", f"{where}: no such host; is the address right?")
        case http.client.IncompleteRead() | ConnectionError() | http.client.RemoteDisconnected():
            return StreamError("truncated", f"{where}: the server closed the connection ({type(error).__name__})")
        case http.client.HTTPException() | ValueError() | EOFError():
            return StreamError("malformed", f"{where}: answers no HTTP ({type(error).__name__}: {shown(error, 80)})")
    return StreamError("unreachable", f"{where}: {shown(error)}")
