"""LiteLLM's real proxy on loopback, with a collector for its logs and a client that replays loops of the store."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from mlxquant.evals.store import make_task, openai_tools, transcript

START_S = 240


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def collector(path: Path) -> Iterator[str]:
    """Append every body that is posted to a file, as it came, a line each; gives the address."""

    class Collect(BaseHTTPRequestHandler):
        def log_message(self, *words: object) -> None:
            pass

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            with path.open("ab") as file:
                file.write(body + b"\n")
            self.send_response(200)
            self.end_headers()

    with _running(ThreadingHTTPServer(("127.0.0.1", 0), Collect)) as port:
        yield f"http://127.0.0.1:{port}/"


@contextmanager
def hanging(port: int) -> Iterator[None]:
    """A server that takes requests and never answers."""
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", port))
        listening.listen(128)
        yield


@contextmanager
def _running(server: ThreadingHTTPServer) -> Iterator[int]:
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Gateway:
    """A proxy that runs."""

    def __init__(self, port: int, key: str) -> None:
        self.url, self.key = f"http://127.0.0.1:{port}/v1/chat/completions", key

    def ask(self, messages: list[dict[str, Any]], *tags: str, **more: Any) -> tuple[dict[str, Any], str, bool, float]:
        """A request as a client makes it: (message, deployment's id, whether it fell back, seconds)."""
        body = {"model": "store", "messages": messages, "temperature": 0, "max_tokens": 48, **more}
        if tags:
            body["tags"] = list(tags)
        headers = {"content-type": "application/json", "authorization": f"Bearer {self.key}"}
        begun = time.perf_counter()
        request = urllib.request.Request(self.url, json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=START_S) as response:
            answer, head = json.load(response), response.headers
        seconds = time.perf_counter() - begun
        fell_back = head["x-litellm-attempted-fallbacks"] != "0"
        return answer["choices"][0]["message"], head["x-litellm-model-id"], fell_back, seconds

    def wait_for(self, deployment: str, *tags: str) -> None:
        """Ask until a deployment whose id begins so answers, as it does once the proxy has read a changed file."""
        end = time.monotonic() + START_S
        while time.monotonic() < end:
            try:
                if self.ask([{"role": "user", "content": "hello"}], *tags, max_tokens=1)[1].startswith(deployment):
                    return
            except OSError:
                pass
            time.sleep(0.5)
        raise AssertionError(f"{deployment} does not answer within {START_S} s")


@contextmanager
def gateway(python: Path, config: Path, logs: str) -> Iterator[Gateway]:
    """Run `litellm --config FILE --reload` until it answers."""
    port, key = free_port(), f"sk-{secrets.token_hex(24)}"
    command = [python.with_name("litellm"), "--config", config, "--host", "127.0.0.1", "--port", str(port), "--reload"]
    settings = {
        "LITELLM_MASTER_KEY": key, "GENERIC_LOGGER_ENDPOINT": logs, "DEFAULT_FLUSH_INTERVAL_SECONDS": "1",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_TELEMETRY": "False", "NO_PROXY": "127.0.0.1",
    }  # fmt: skip
    output = config.with_name("proxy.log")
    with output.open("wb") as file:
        process = subprocess.Popen(
            list(map(str, command)),
            cwd=config.parent,
            env=os.environ | settings,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
        try:
            end = time.monotonic() + START_S
            while time.monotonic() < end:
                assert process.poll() is None, output.read_text()[-2000:]
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/health/liveliness", timeout=2).close()
                    break
                except OSError:
                    time.sleep(0.3)
            yield Gateway(port, key)
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(20)


def store_requests(tasks: int, calls: int) -> list[list[dict[str, Any]]]:
    """The messages before each reply of the oracle, over loops of the store."""
    requests = []
    for seed in range(1_000_000, 1_000_000 + tasks):
        messages = transcript(make_task(seed, calls))
        requests += [messages[:i] for i, message in enumerate(messages) if message["role"] == "assistant"]
    return requests


TOOLS = openai_tools()
