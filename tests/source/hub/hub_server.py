"""A Hub on 127.0.0.1: as much of it as huggingface_hub's own client uses to look at and download a model.

Folders become repositories. Large files are redirected to another host name, as the Hub redirects to its CDN, so that
a token sent there would be seen. Faults are asked for by path: a status, a connection cut after some bytes, a stall,
ranges ignored; each so many times, then the server behaves. What was asked is kept in `requests`.

    with HubServer() as hub:
        hub.add("org/name", folder)
        hub.fail("resolve/.*safetensors", status=429, headers={"Retry-After": "1"}, times=1)
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

import pytest

from tests.publish.hub_uploads import LARGE, Uploads, sibling

PATIENCE = 60  # seconds that a client waits: a busy machine is no fault
INVALID = "Invalid credentials in Authorization header"


@dataclass
class Repository:
    """A folder under an id, at one commit that `revisions` name."""

    folder: Path
    commit: str
    revisions: tuple[str, ...] = ("main",)
    gated: bool = False
    private: bool = False
    hashed: bool = True

    def at(self, revision: str) -> str:
        """The commit that a revision names; an older one names itself."""
        return revision if re.fullmatch("[0-9a-f]{40}", revision) else self.commit

    def files(self) -> list[Path]:
        return sorted(p for p in self.folder.rglob("*") if p.is_file())


@dataclass
class Fault:
    """What goes wrong with paths that match, `times` times.

    `cut` counts bytes of the body, `drip` seconds before each byte of it; `instead` makes another body of it, with
    `headers` beside the usual ones; `endless` sends spaces for ever, `gzip` says that they are packed.
    """

    pattern: re.Pattern[str]
    times: int
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b"{}"
    cut: int | None = None
    stall: float = 0
    whole: bool = False
    drip: float = 0
    endless: bool = False
    gzip: bool = False
    instead: Callable[[bytes], bytes] | None = None


@dataclass(frozen=True)
class Request:
    method: str
    host: str
    path: str
    headers: Mapping[str, str]


class HubServer:
    """The server; a context manager. `url` is its endpoint, `sent` counts the bytes of bodies."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.tokens: set[str] = set()
        self.faults: list[Fault] = []
        self.requests: list[Request] = []
        self.sent = 0
        self.objects: dict[str, bytes] = {}
        self.uploads = Path()  # where repositories that a client makes lie
        self.lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = _Server(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def add(self, name: str, folder: Path, **settings: Any) -> Repository:
        """Serve a folder as a repository; returns it, with the commit that stands for it."""
        commit = hashlib.sha1(f"{name} {len(self.repositories)}".encode()).hexdigest()
        self.repositories[name] = Repository(folder, commit, **settings)
        return self.repositories[name]

    def fail(self, pattern: str, *, times: int = 1, **fault: Any) -> None:
        """Let something go wrong with paths that match; see `Fault`."""
        self.faults.append(Fault(re.compile(pattern), times, **fault))

    def take_fault(self, path: str) -> Fault | None:
        """The fault that a request to this path meets now, used up by one."""
        with self.lock:
            for fault in self.faults:
                if fault.times > 0 and fault.pattern.search(path):
                    fault.times -= 1
                    return fault
        return None


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Let a client hang up, which is no error of the server's; show all else."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(Uploads):
    """Answers one request after another of one connection."""

    hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: what was asked is in `requests`."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _seen(self) -> str | None:
        path = self.path_of(self.path)
        seen = Request(self.command, self.headers["Host"], path, {k.lower(): v for k, v in self.headers.items()})
        with self.hub.lock:
            self.hub.requests.append(seen)
        self.fault = self.hub.take_fault(path)
        if self.fault and self.fault.stall:
            time.sleep(self.fault.stall)
        if self.fault and self.fault.status:
            self._send(self.fault.status, self.fault.body, self.fault.headers)
            return None
        return path

    def _answer(self) -> None:
        path = self._seen()
        if path is None:
            return
        if path.startswith("/cdn/"):
            self._cdn(path)
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
            self._info(match[1], match[2] or "main")
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._resolve(match[1], match[2], match[3])
        else:
            self._error(404, "EntryNotFound", "no such page")

    # --- who may see what ---

    def _repository(self, name: str, revision: str) -> Repository | None:
        """The repository, or None after an error was sent, with the codes that the Hub has for it."""
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        repository = self.hub.repositories.get(name)
        if token and token not in self.hub.tokens:
            self._error(401, None, INVALID)
        elif repository is None or (repository.private and not token):
            self._error(404 if token else 401, "RepoNotFound", "Repository not found")
        elif repository.gated and not token:
            self._error(401, "GatedRepo", f"Access to model {name} is restricted. Please log in.")
        elif revision not in (*repository.revisions, repository.commit):
            self._error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        else:
            return repository
        return None

    def _error(self, status: int, code: str | None, message: str) -> None:
        self._refuse(status, code, message)

    def _answer_with(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self._send(status, body, headers)

    # --- what there is ---

    def _info(self, name: str, revision: str) -> None:
        if repository := self._repository(name, revision):
            siblings = [
                {**sibling(p, hashed=repository.hashed), "rfilename": p.relative_to(repository.folder).as_posix()}
                for p in repository.files()
            ]
            commit = repository.at(revision)
            record = {"id": name, "sha": commit, "siblings": siblings, "gated": repository.gated}
            record["private"] = repository.private
            self._send(200, json.dumps(record).encode(), {"Content-Type": "application/json"})

    def _resolve(self, name: str, revision: str, file: str) -> None:
        repository = self._repository(name, revision)
        if repository is None:
            return
        path = repository.folder / file
        if not path.is_file():
            self._error(404, "EntryNotFound", f"{file} does not exist")
            return
        etag = hashlib.sha256(f"{name} {file} {path.stat().st_size}".encode()).hexdigest()
        headers = {"X-Repo-Commit": repository.at(revision), "ETag": f'"{etag}"', "Accept-Ranges": "bytes"}
        if file.endswith(LARGE):
            size = str(path.stat().st_size)
            target = f"http://localhost:{self.hub.port}/cdn/{name}/{file}"
            linked = {"X-Linked-Size": size, "X-Linked-ETag": f'"{etag}"', "Location": target}
            self._send(302, b"", {**headers, **linked})
        else:
            self._file(path, headers)

    def _cdn(self, path: str) -> None:
        name, _, file = path.removeprefix("/cdn/").rpartition("/")
        self._file(self.hub.repositories[name].folder / file, {"Accept-Ranges": "bytes"})

    # --- sending ---

    def _file(self, path: Path, headers: Mapping[str, str]) -> None:
        """Send a file or the range of it that was asked for."""
        size = path.stat().st_size
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked is None or (self.fault and self.fault.whole):
            self._send(200, path, headers, 0, size)
        elif (start := int(asked[1])) >= size:
            self._send(416, b"", {**headers, "Content-Range": f"bytes */{size}"})
        else:
            end = min(int(asked[2] or size), size - 1)
            span = {"Content-Range": f"bytes {start}-{end}/{size}"}
            self._send(206, path, {**headers, **span}, start, end + 1 - start)

    def _send(
        self, status: int, body: bytes | Path, headers: Mapping[str, str], start: int = 0, length: int | None = None
    ) -> None:
        if self.fault and (self.fault.endless or self.fault.gzip):
            self._never_end(status, headers)
            return
        if self.fault and self.fault.instead:
            whole = body if isinstance(body, bytes) else b"".join(_pieces(body, start, length or 0))
            body, length, start = self.fault.instead(whole), None, 0
            headers = {**headers, **self.fault.headers}
        length = len(body) if isinstance(body, bytes) else length or 0
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(length)}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        left = length if self.fault is None or self.fault.cut is None else min(length, self.fault.cut)
        try:
            for piece in _pieces(body, start, left, 1 if self.fault and self.fault.drip else 1 << 16):
                time.sleep(self.fault.drip if self.fault else 0)
                self.wfile.write(piece)
                self.hub.sent += len(piece)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # the client has had enough
        if left < length:
            self.close_connection = True  # the cut

    def _never_end(self, status: int, headers: Mapping[str, str]) -> None:
        assert self.fault is not None
        self.send_response(status)
        for key, value in {**headers, "Transfer-Encoding": "chunked"}.items():
            self.send_header(key, value)
        if self.fault.gzip:
            self.send_header("Content-Encoding", "gzip")
        self.end_headers()
        self.close_connection = True
        packed, spaces = gzip.compress(b" " * (1 << 20)), b" " * (1 << 16)
        with suppress(OSError):
            while self.fault.endless or self.hub.sent == 0:
                piece = packed if self.fault.gzip else spaces
                self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
                self.hub.sent += len(piece)


def _pieces(body: bytes | Path, start: int, length: int, most: int = 1 << 16) -> Iterator[bytes]:
    if isinstance(body, bytes):
        for at in range(0, length, most):
            yield body[at : min(at + most, length)]
        return
    with body.open("rb") as file:
        file.seek(start)
        while length > 0 and (piece := file.read(min(length, most))):
            yield piece
            length -= len(piece)


def use_hub(server: HubServer, patch: pytest.MonkeyPatch, cache: Path) -> None:
    """Point huggingface_hub, already imported, at a server and an empty cache, without a token."""
    from huggingface_hub import constants
    from huggingface_hub.utils import close_session

    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        patch.delenv(name, raising=False)
        patch.delenv(name.lower(), raising=False)
    patch.setattr(constants, "ENDPOINT", server.url)
    template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
    patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    patch.setattr(constants, "HF_HUB_CACHE", str(cache))
    patch.setattr(constants, "HF_TOKEN_PATH", str(cache / "no-token"))
    patch.setattr(constants, "HF_HUB_OFFLINE", False)
    patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    patch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", PATIENCE)
    patch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", PATIENCE)
    close_session()


@contextmanager
def hub_with(name: str, folder: Path, patch: pytest.MonkeyPatch, cache: Path, **how: Any) -> Iterator[HubServer]:
    """Serve a checkpoint as repository `name` to huggingface_hub; waits before another try are short."""
    patch.setattr("mlxquant.source.hub.repository.LONGEST_WAIT", 0.01)
    with HubServer() as server:
        server.add(name, folder, **how)
        use_hub(server, patch, cache)
        yield server
