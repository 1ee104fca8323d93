"""The half of the Hub on 127.0.0.1 that takes uploads: repositories made, LFS objects put, commits written to a folder.

Shards and what else is LARGE go through LFS (Xet is off in tests), all else comes within the commit.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from tests.source.hub.hub_server import HubServer, Repository

LARGE = ".safetensors"


class Uploads(BaseHTTPRequestHandler):
    """Answers what a client posts and puts; `_send` and `_error` are the other half's."""

    hub: HubServer

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = self._seen()
        if path is None:
            return
        if path == "/api/validate-yaml":
            self._reply({"errors": [], "warnings": []})
        elif self.headers.get("Authorization", "").removeprefix("Bearer ") not in self.hub.tokens:
            self._refuse(401, None, "Invalid credentials in Authorization header")
        elif path == "/api/repos/create":
            self._create(json.loads(body))
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/preupload/main", path):
            modes = [(f["path"], "lfs" if f["path"].endswith(LARGE) else "regular") for f in json.loads(body)["files"]]
            self._reply({"files": [{"path": p, "uploadMode": m, "shouldIgnore": False} for p, m in modes]})
        elif match := re.fullmatch(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
            self._reply({"transfer": "basic", "objects": [self._object(o) for o in json.loads(body)["objects"]]})
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/main", path):
            self._commit(match[1], self.hub.repositories[match[1]], body)
        else:
            self._refuse(404, "EntryNotFound", "no such page")

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = self._seen()
        if path is not None:
            self.hub.objects[path.rpartition("/")[2]] = body
            self._reply({})

    def _create(self, wanted: dict[str, Any]) -> None:
        name = f"{wanted['organization']}/{wanted['name']}" if wanted.get("organization") else wanted["name"]
        if name in self.hub.repositories:
            there = {"error": "You already created this model repo", "url": f"{self.hub.url}/{name}"}
            self._answer_with(409, json.dumps(there).encode(), {"Content-Type": "application/json"})
            return
        folder = self.hub.uploads / name
        folder.mkdir(parents=True)
        private = wanted.get("private", wanted.get("visibility") == "private")
        self.hub.add(name, folder, private=bool(private))
        self._reply({"url": f"{self.hub.url}/{name}", "name": name})

    def _object(self, wanted: dict[str, Any]) -> dict[str, Any]:
        if wanted["oid"] in self.hub.objects:
            return wanted
        return {**wanted, "actions": {"upload": {"href": f"{self.hub.url}/lfs/{wanted['oid']}"}}}

    def _commit(self, name: str, repository: Repository, body: bytes) -> None:
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                (repository.folder / value["path"]).write_bytes(base64.b64decode(value["content"]))
            elif entry["key"] == "lfsFile":
                (repository.folder / value["path"]).write_bytes(self.hub.objects[value["oid"]])
        repository.commit = hashlib.sha1(body).hexdigest()
        url = f"{self.hub.url}/{name}/commit/{repository.commit}"
        self._reply({"commitUrl": url, "commitOid": repository.commit})

    def _reply(self, record: dict[str, Any]) -> None:
        self._answer_with(200, json.dumps(record).encode(), {"Content-Type": "application/json"})

    def _refuse(self, status: int, code: str | None, message: str) -> None:
        headers = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {})}
        self._answer_with(status, json.dumps({"error": message}).encode(), headers)

    def _seen(self) -> str | None:
        """Note a request and let its fault happen; its path, or None where that was the answer."""
        raise NotImplementedError

    def _answer_with(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        raise NotImplementedError

    @staticmethod
    def path_of(target: str) -> str:
        return unquote(urlsplit(target).path)


def sibling(path: Path, *, hashed: bool = True) -> dict[str, Any]:
    """A file in the listing with its hash, unless taking it would take long: git's, or SHA-256 of those outside git."""
    size = path.stat().st_size
    entry: dict[str, Any] = {"rfilename": path.name, "size": size}
    if not hashed:
        return entry
    if not path.name.endswith(LARGE):
        entry["blobId"] = hashlib.sha1(b"blob %d\0" % size + path.read_bytes()).hexdigest()
    elif size < 64 << 20:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        entry["lfs"] = {"sha256": digest, "size": size, "pointerSize": 134}
    return entry
