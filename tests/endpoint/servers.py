"""Servers for tests of whoever asks them: scripted ones that answer as told, and a real mlx_lm.server."""

from __future__ import annotations

import json
import socket
import socketserver
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import contextmanager
from typing import Any

from mlxquant.endpoint.client import parse_server

SSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"


def event(text="", reason=None, **more):
    choice = {"index": 0, "text": text, "finish_reason": reason}
    return f"data: {json.dumps({'choices': [choice], **more})}\n\n".encode()


def usage(prompt, completion, cached=0):
    counts = {"prompt_tokens": prompt, "completion_tokens": completion}
    counts["prompt_tokens_details"] = {"cached_tokens": cached}
    return f"data: {json.dumps({'choices': [], 'usage': counts})}\n\n".encode()


DONE = b"data: [DONE]\n\n"


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    answer: Any
    seen: list[Any]


class Script(socketserver.BaseRequestHandler):
    """Read a request, then send what the server's `answer` gives for its body: bytes, or seconds to wait."""

    server: Server

    def handle(self):
        data = b""
        while b"\r\n\r\n" not in data:
            data += self.request.recv(65536)
        head, _, body = data.partition(b"\r\n\r\n")
        lengths = (int(h.split(b":")[1]) for h in head.split(b"\r\n") if h.lower().startswith(b"content-length"))
        length = next(lengths, 0)
        while len(body) < length:
            body += self.request.recv(65536)
        asked = json.loads(body or b"null")
        self.server.seen.append((head.decode(), asked))
        try:
            for part in self.server.answer(asked):
                time.sleep(part) if isinstance(part, float) else self.request.sendall(part)
        except OSError:
            pass  # the client gave up, as some tests want


@contextmanager
def server(answer):
    with Server(("127.0.0.1", 0), Script) as running:
        running.answer = answer if callable(answer) else lambda _: answer
        running.seen = []
        thread = threading.Thread(target=running.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield running
        finally:
            running.shutdown()
            thread.join()


def address(running, timeout=5.0, **more):
    return parse_server(f"http://127.0.0.1:{running.server_address[1]}/v1", timeout, **more)


@contextmanager
def mlx_lm_server(folder):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "mlx_lm.server",
        "--model",
        str(folder),
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(600):
            assert process.poll() is None, "mlx_lm.server ended by itself"
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1).close()
                break
            except OSError:
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(20)
