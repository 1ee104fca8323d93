"""Every request as one line of JSON, in OpenTelemetry's words for generative AI, so that any tool can group them.

Attribute names are those of the semantic conventions for generative client AI spans
(open-telemetry/semantic-conventions, docs/gen-ai/gen-ai-spans.md@01d9450), plus what maps a regression to a build:
`model_variant`, `quantization_format`, `recipe`, `suite`, `slice`, `depth`. A line has a span's name, kind, ids,
times, status and attributes. One trace is one item played by one side once. What was said is left out unless asked
for (`content`), and no key is ever in it, whoever repeated it. Nothing is sent anywhere.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from ..disk import files as disk
from ..errors import OutputError
from ..words.secrets import redacted
from ..words.strict_json import read_json
from .items import Item, Message, Reply
from .sides import Request, Variant


@dataclass(frozen=True, slots=True)
class TraceSpan:
    """One attempt at a request: when it began and ended (ns since 1970), and what came of it."""

    item: Item
    trial: int
    number: int
    attempt: int
    depth: int | None
    began: int
    ended: int
    request: Request
    reply: Reply | None = None
    error: str | None = None


# How a trace begins, also one that a killed run tore.
BEGINNING = rb'\{"name": "chat '


class Trace:
    """A JSONL file that spans are appended to: a new one, or one that such a trace began. Raises OutputError."""

    def __init__(self, path: Path, *, content: bool = False) -> None:
        self.path, self.content = path, content
        self._end = check_trace(path)
        self._handle = disk.open_to_write(path, self._end)

    def write(self, span: TraceSpan, variant: Variant) -> None:
        """Append one line."""
        line = redacted(as_line(span, variant, content=self.content))
        data = (json.dumps(line, ensure_ascii=False) + "\n").encode("utf-8", "replace")
        disk.write_at(self._handle, memoryview(data), self._end, self.path)
        self._end += len(data)

    def close(self) -> None:
        """Close the file."""
        os.close(self._handle)


def check_trace(path: Path) -> int:
    """How many bytes of a file are whole lines of a trace, 0 where none is there.

    Raises OutputError for a file that no trace of ours was written to, for links and for all else that is no file.
    """
    if not os.path.lexists(path):
        return 0
    if not disk.is_own(path):
        raise OutputError(f"{path}: no regular file of its own (a link, folder or device); --trace takes a file's name")
    try:
        data = disk.read_regular(path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be read ({error.strerror}); --trace takes a file's name") from None
    if data and not _is_trace(data):
        raise OutputError(f"{path}: is no trace, so nothing is added to it; choose another --trace, or move it away")
    return data.rfind(b"\n") + 1


def _is_trace(data: bytes) -> bool:
    """Whether a file begins with a span of ours, or with what a killed run left of one."""
    line, end, _ = data.partition(b"\n")
    if not end:
        return re.match(BEGINNING, line) is not None
    try:
        attributes = json.loads(line)["attributes"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return False
    return isinstance(attributes, dict) and {"gen_ai.operation.name", "model_variant", "suite"} <= attributes.keys()


def as_line(span: TraceSpan, variant: Variant, *, content: bool = False) -> dict[str, Any]:
    """Make a span's line. Trace and span ids depend on what was asked alone, so a repeated run has the same."""
    played = f"{variant.name}/{span.item.suite}/{span.item.id}/{span.trial}"
    return {
        "name": f"chat {variant.model}",
        "kind": "INTERNAL" if variant.address is None else "CLIENT",
        "trace_id": sha256(played.encode()).hexdigest()[:32],
        "span_id": sha256(f"{played}/{span.number}/{span.attempt}".encode()).hexdigest()[:16],
        "start_time_unix_nano": span.began,
        "end_time_unix_nano": span.ended,
        "status": {"code": "ERROR" if span.error else "OK"},
        "attributes": {k: v for k, v in _attributes(span, variant, content=content).items() if v is not None},
    }


def _attributes(span: TraceSpan, variant: Variant, *, content: bool) -> dict[str, Any]:
    request, reply, item = span.request, span.reply, span.item
    attributes: dict[str, Any] = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": variant.provider,
        "gen_ai.conversation.id": request.conversation or None,
        "gen_ai.request.model": variant.model,
        "gen_ai.request.max_tokens": request.max_tokens,
        "gen_ai.request.temperature": request.temperature,
        "gen_ai.request.top_p": request.top_p,
        "gen_ai.request.seed": request.seed,
        "gen_ai.request.stream": True,
        "server.address": variant.address,
        "server.port": variant.port,
        "error.type": span.error,
        "model_variant": variant.name,
        "quantization_format": variant.format,
        "recipe": variant.recipe,
        "suite": item.suite,
        "item": item.id,
        "slice": list(item.slices),
        "depth": span.depth,
        "trial": span.trial,
        "attempt": span.attempt,
    }
    if reply is not None:
        attributes |= {
            "gen_ai.response.model": reply.model,
            "gen_ai.response.finish_reasons": [reply.finish_reason],
            "gen_ai.response.time_to_first_chunk": reply.timing.ttft_s,
            "gen_ai.usage.input_tokens": reply.usage.input_tokens,
            "gen_ai.usage.output_tokens": reply.usage.output_tokens,
            "gen_ai.usage.cache_read.input_tokens": reply.usage.cached_tokens,
        }
    if content:
        attributes["gen_ai.input.messages"] = [_said(m) for m in request.messages]
        attributes["gen_ai.output.messages"] = [_answered(reply)] if reply is not None else None
        attributes["gen_ai.tool.definitions"] = [t.get("function", t) for t in request.tools] or None
    return attributes


def _said(message: Message) -> dict[str, Any]:
    """A message with its parts, as the conventions have it."""
    if message["role"] == "tool":
        part = {"type": "tool_call_response", "id": message.get("tool_call_id"), "response": message["content"]}
        return {"role": "tool", "parts": [part]}
    parts = [{"type": "text", "content": message["content"]}] if message.get("content") else []
    for call in message.get("tool_calls") or []:
        parts.append(_call(call.get("id"), call["function"]["name"], call["function"]["arguments"]))
    return {"role": message["role"], "parts": parts}


def _answered(reply: Reply) -> dict[str, Any]:
    parts: list[dict[str, Any]] = [{"type": "reasoning", "content": reply.reasoning}] if reply.reasoning else []
    texts: Sequence[str] = [reply.text, *(b for b in reply.broken_calls if b not in reply.text)]
    parts += [{"type": "text", "content": text} for text in texts if text]
    parts += [_call(c.id, c.name, c.arguments) for c in reply.tool_calls]
    return {"role": "assistant", "parts": parts, "finish_reason": reply.finish_reason}


def _call(id_: str | None, name: str, arguments: str) -> dict[str, Any]:
    parsed: Any = arguments
    with contextlib.suppress(ValueError):
        parsed = read_json(arguments)
    return {"type": "tool_call", "id": id_, "name": name, "arguments": parsed}


def read_lines(path: Path) -> list[Mapping[str, Any]]:
    """The lines of a trace."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
