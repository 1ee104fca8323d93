"""A side behind an OpenAI-compatible server: streamed chat completions with tools.

`streamed` puts an answer together. The key comes from an environment variable and goes into the request's header alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..endpoint.client import LOOPBACK, Server, StreamError, events, unfinished
from ..endpoint.wire import shown
from ..errors import UsageError
from .items import Reply
from .sides import Request, Variant
from .streamed import Gathered

_PATH = "/chat/completions"
_NO_LIST = (404, 405, 501)  # statuses of servers that list no models


@dataclass(frozen=True)
class Served:
    """One model of a server. `facts` are those of the build that it serves, where the user named it."""

    server: Server
    model: str
    name: str
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def variant(self) -> Variant:
        """What it is."""
        server = self.server
        port = server.port or (443 if server.scheme == "https" else 80)
        host = "localhost" if server.host in LOOPBACK else server.host
        place = f"{server.scheme}://{host}:{port}{server.path} {self.model}"
        return Variant(self.name, "endpoint", self.model, "openai", self.facts, server.host, port, place)

    def open(self) -> None:
        """Nothing: a server loads its model with the first request."""

    def close(self) -> None:
        """Nothing is held."""

    def describe(self) -> dict[str, Any]:
        """The side in the record. An address on another machine is not published."""
        where = self.server.url if self.server.here else "another machine"
        return {"name": self.name, **self.facts, "kind": "endpoint", "endpoint": where, "model": self.model}

    def ask(self, request: Request) -> Reply:
        """Send one request and read its answer to the end. Raises StreamError."""
        where = self.server.url + _PATH
        feed = events(self.server, _PATH, self._body(request), unstreamed=True)
        gathered = Gathered(asked=next(feed)[0])
        done = False
        for at, event in feed:
            if event is None:
                done = True
            else:
                gathered.take(at, event, where)
        if gathered.finish_reason is None:
            raise unfinished(where, done, gathered.pieces)
        return gathered.reply()

    def _body(self, request: Request) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.model,
            "messages": list(request.messages),
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "seed": request.seed,
            "tools": list(request.tools) or None,
            "chat_template_kwargs": dict(request.template) if request.template else None,
        }
        return {k: v for k, v in body.items() if v is not None}


def the_model(server: Server, option: str) -> str:
    """The name of the one model that a server lists.

    Raises UsageError where it lists none or several, StreamError where it cannot be asked.
    """
    where = f"{server.url}/models"
    try:
        listed = server.get("/models")
    except StreamError as error:
        if error.status in _NO_LIST:
            raise UsageError(
                f"{where}: lists no models ({error.status}); give {option} NAME (mlx_lm.server takes default_model)"
            ) from None
        raise
    models = listed.get("data") if isinstance(listed, dict) else None
    if not isinstance(models, list) or not all(isinstance(m, dict) and isinstance(m.get("id"), str) for m in models):
        raise StreamError("malformed", f"{where}: a list of models with ids expected; {option} NAME needs no list")
    names: list[str] = [model["id"] for model in models]
    if any("\ufffd" in name for name in names):
        raise StreamError("malformed", f"{where}: lists a model whose name is no text; {option} NAME needs no list")
    if len(names) != 1:
        some = ", ".join(shown(name, 60) for name in names[:5]) or "none"
        raise UsageError(f"{server.url}: lists {len(names)} models ({some}); give {option} with one of them")
    return names[0]
