"""An OpenAI-compatible server that plays the store's tasks as the oracle would, with faults where a test wants them.

It keeps nothing between requests: what to answer follows from the conversation alone, as with a real model. So a
killed client that asks again gets the same answer.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from mlxquant.evals.store import Call, Task, make_task
from mlxquant.evals.store.tasks import compact

# What a call's first attempt may be instead of right, by task id and depth:
# "json" (arguments are no JSON), "schema", "tool", "arguments", "text" (a call as text), "dropped" (as mlx_lm.server
# drops what it cannot parse), "silent" (an answer in place of the call)
Fault = Callable[[Task, int], "str | None"]


@dataclass
class Oracle:
    """What the server knows: tasks by their first request, faults, and what it has been asked."""

    tasks: Mapping[str, Task]
    fault: Fault = lambda task, depth: None
    pieces: int = 1  # in how many pieces a call's arguments are sent
    wait: float = 0.0
    refuse: list[int] = field(default_factory=list)  # statuses to answer with first
    seen: list[dict[str, Any]] = field(default_factory=list)
    heads: list[Any] = field(default_factory=list)

    def answer(self, messages: list[dict[str, Any]]) -> tuple[str, list[tuple[str, str]], str]:
        """Text, calls as (name, arguments), finish reason."""
        users = [i for i, m in enumerate(messages) if m["role"] == "user" and not _complaint(m)]
        task = self.tasks[messages[users[0]]["content"]]
        turn = task.turns[len(users) - 1]
        said = [m for m in messages[users[-1] :] if m["role"] == "assistant"]
        made = [(c["function"]["name"], json.loads(c["function"]["arguments"])) for m in said
                for c in m.get("tool_calls") or []]  # fmt: skip
        due = [call for call in turn.calls if (call.name, call.arguments) not in made]
        if not due:
            return turn.reply, [], "stop"
        before = sum(len(t.calls) for t in task.turns[: len(users) - 1])
        depth = before + len(turn.calls) - len(due) + 1
        faults = [d for d in range(before + 1, depth + 1) if self.fault(task, d)]
        attempts = sum(len(m.get("tool_calls") or [None]) for m in said)
        fault = self.fault(task, depth) if attempts - (len(turn.calls) - len(due)) < len(faults) else None
        return _faulty(due[0], fault) if fault else ("", [(due[0].name, compact(due[0].arguments))], "tool_calls")


def _complaint(message: Mapping[str, Any]) -> bool:
    return str(message["content"]).startswith("That call could not be read")


def _faulty(call: Call, fault: str) -> tuple[str, list[tuple[str, str]], str]:
    right = compact(call.arguments)
    written = f'<tool_call>{{"name": "{call.name}", "arguments": {right[:-2]}'
    return {
        "json": ("", [(call.name, right[:-1])], "tool_calls"),
        "schema": ("", [(call.name, '{"colour":"blue"}')], "tool_calls"),
        "tool": ("", [("list_coupons", "{}")], "tool_calls"),
        "arguments": ("", [("get_order", '{"order_id":"O0000"}')], "tool_calls"),
        "text": (written, [], "stop"),
        "dropped": ("", [], "tool_calls"),
        "silent": ("Done: all of it.", [], "stop"),
    }[fault]


class _Handler(BaseHTTPRequestHandler):
    oracle: Oracle

    def do_GET(self):
        self._send(200, "application/json", json.dumps({"data": [{"id": "models/oracle"}]}).encode())

    def do_POST(self):
        oracle = self.server.oracle  # type: ignore[attr-defined]
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        oracle.seen.append(body)
        oracle.heads.append(dict(self.headers))
        time.sleep(oracle.wait)
        if oracle.refuse:
            self._send(oracle.refuse.pop(0), "application/json", b'{"error": "busy"}')
            return
        text, calls, reason = oracle.answer(body["messages"])
        self._send(200, "text/event-stream", b"".join(_events(text, calls, reason, oracle.pieces, body)))

    def _send(self, status: int, kind: str, data: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        pass


def _events(text: str, calls: Any, reason: str, pieces: int, body: Mapping[str, Any]) -> Iterator[bytes]:
    def event(delta: Any, reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        return f"data: {json.dumps({'model': 'oracle', 'choices': [choice]})}\n\n".encode()

    if text:
        yield event({"content": text})
    for index, (name, arguments) in enumerate(calls):
        step = -(-len(arguments) // pieces)
        parts = [arguments[i : i + step] for i in range(0, len(arguments), step)]
        yield event(
            {"tool_calls": [{"index": index, "id": f"x{index}", "function": {"name": name, "arguments": parts[0]}}]}
        )
        for part in parts[1:]:
            yield event({"tool_calls": [{"index": index, "function": {"arguments": part}}]})
    yield event({}, reason)
    words = sum(len(str(m["content"]).split()) for m in body["messages"])
    usage = {"prompt_tokens": words, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": words // 2}}
    yield f"data: {json.dumps({'choices': [], 'usage': usage})}\n\ndata: [DONE]\n\n".encode()


@contextmanager
def serving(oracle: Oracle) -> Iterator[str]:
    """Serve on a free port of the loopback; give the address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.oracle = oracle  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def tasks_of(lengths: tuple[int, ...], tasks: int, first_seed: int = 1_000_000) -> dict[str, Task]:
    """The tasks that the tool-loop suite makes, by their first request."""
    made = [make_task(seed, n) for seed, n in enumerate((n for n in lengths for _ in range(tasks)), first_seed)]
    found = {task.turns[0].user: task for task in made}
    assert len(found) == len(made), "two tasks begin alike; choose other seeds"
    return found
