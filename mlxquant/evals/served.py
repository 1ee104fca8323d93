"""A side behind an OpenAI-compatible server: streamed chat completions with tools.

A call's name and arguments may come in pieces (OpenAI, vLLM) or whole (mlx_lm.server, which also drops a call that it
cannot parse and then says `tool_calls` with none; that is a broken call whose text nobody has). The time of the first
token is that of the first piece; where that piece is a whole call, the first token was long before and cannot be
seen. The key comes from an environment variable and goes into the request's header alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..bench_terms import MeasurementError
from ..errors import UsageError
from ..sse import Server, StreamError, events, token_counts, unfinished
from .calls import broken_calls
from .items import Reply, Timing, ToolCall, Usage
from .sides import Request, Variant

_PATH = "/chat/completions"
_AT_ONCE = 1e-4  # seconds a token: nobody decodes 10,000 a second for one user, so such a stream was held back


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
        port = self.server.port or (443 if self.server.scheme == "https" else 80)
        return Variant(self.name, "endpoint", self.model, "openai", self.facts, self.server.host, port)

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
        feed = events(self.server, _PATH, self._body(request))
        gathered = _Gathered(asked=next(feed)[0])
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


@dataclass
class _Call:
    id: str = ""
    name: str = ""
    arguments: str = ""


@dataclass
class _Gathered:
    """What has come of an answer so far."""

    asked: float
    text: str = ""
    reasoning: str = ""
    calls: dict[int, _Call] = field(default_factory=dict)
    finish_reason: str | None = None
    ended: float = 0.0
    first: float | None = None
    begun_by: tuple[int, str] | None = None  # place and arguments of a call that came as the first piece
    pieces: int = 0
    usage: dict[str, int] = field(default_factory=dict)
    model: str | None = None

    def take(self, at: float, event: Mapping[str, Any], where: str) -> None:
        """Add an event. Raises StreamError for what is none of a chat's."""
        choices = event.get("choices", [])
        if not isinstance(choices, list) or not all(isinstance(c, dict) for c in choices):
            raise StreamError("malformed", f"{where}: `choices` of an event is no list of tables: {str(event)[:80]!r}")
        if isinstance(event.get("usage"), dict):
            self.usage = token_counts(event["usage"])
        self.model = str(event["model"]) if event.get("model") else self.model
        for choice in choices:
            delta = choice.get("delta") or choice.get("message") or {}
            said, called = self._text(delta), self._calls(delta)
            if said or called:
                self.pieces += 1
                self.first = at if self.first is None else self.first
            if choice.get("finish_reason") is not None:
                self.finish_reason, self.ended = str(choice["finish_reason"]), at

    def _text(self, delta: Mapping[str, Any]) -> bool:
        text, thought = (_text_of(delta, keys) for keys in (("content",), ("reasoning_content", "reasoning")))
        self.text += text
        self.reasoning += thought
        return bool(text or thought)

    def _calls(self, delta: Mapping[str, Any]) -> bool:
        found = [c for c in delta.get("tool_calls") or [] if isinstance(c, dict)]
        for piece in found:
            function = piece.get("function") or {}
            place = piece.get("index")
            if type(place) is not int:
                place = len(self.calls) if piece.get("id") or not self.calls else max(self.calls)
            call = self.calls.setdefault(place, _Call())
            call.id = str(piece.get("id") or call.id)
            call.name += str(function.get("name") or "")
            call.arguments += _arguments(function.get("arguments"))
            if self.first is None and self.begun_by is None and not self.text and not self.reasoning:
                self.begun_by = (place, call.arguments)
        return bool(found)

    def reply(self) -> Reply:
        """The whole answer."""
        calls = tuple(ToolCall(c.name, c.arguments, c.id) for _, c in sorted(self.calls.items()))
        tokens = self.usage.get("completion_tokens")
        broken = broken_calls(self.text)
        shown = bool(calls or broken or self.text.strip() or self.reasoning.strip())
        if (self.finish_reason == "tool_calls" and not calls and not broken) or (
            self.finish_reason == "length" and not shown and tokens
        ):
            broken = ("",)
        usage = Usage(self.usage.get("prompt_tokens"), tokens, self.usage.get("cached_tokens"))
        reason = self.finish_reason or ""
        return Reply(self.text, calls, reason, usage, self._timing(tokens), self.reasoning, broken, self.model)

    def _timing(self, tokens: int | None) -> Timing:
        first = self.first if self.first is not None else (self.ended if tokens == 1 else None)
        if self.begun_by is not None and self.calls[self.begun_by[0]].arguments == self.begun_by[1]:
            first = None  # it came whole: its first token was long before
        seconds = self.ended - self.asked
        if first is None:
            return Timing(seconds)
        took = self.ended - first
        rate = (tokens - 1) / took if tokens and tokens > 1 and took > (tokens - 1) * _AT_ONCE else None
        return Timing(seconds, first - self.asked, rate)


def _text_of(delta: Mapping[str, Any], keys: tuple[str, ...]) -> str:
    return next((delta[key] for key in keys if isinstance(delta.get(key), str) and delta[key]), "")


def _arguments(found: Any) -> str:
    """Arguments as text; a server that sends a table instead of a string has read them already."""
    return found if isinstance(found, str) else "" if found is None else json.dumps(found, ensure_ascii=False)


def the_model(server: Server, option: str) -> str:
    """The name of the one model that a server lists. Raises UsageError where it is not one."""
    try:
        listed = server.get("/models")
        names = [str(m["id"]) for m in listed["data"]]
    except (MeasurementError, KeyError, TypeError) as error:
        raise UsageError(
            f"{server.url}: lists no models ({error}); give {option} NAME (mlx_lm.server takes default_model)"
        ) from None
    if len(names) != 1:
        some = ", ".join(names[:5]) or "none"
        raise UsageError(f"{server.url}: lists {len(names)} models ({some}); give {option} with one of them")
    return names[0]
