"""What a server may send is bounded, in time and in bytes, and every way of failing is one line."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
from click.testing import CliRunner

from mlxquant.cli import main
from mlxquant.endpoint import wire
from mlxquant.endpoint.client import StreamError, parse_server, stream
from mlxquant.endpoint.events import CallPiece, read_event
from mlxquant.errors import UsageError
from mlxquant.evals.served import the_model
from mlxquant.words.secrets import register
from mlxquant.words.strict_json import whole
from tests.endpoint.servers import DONE, SSE, address, event, server, usage

OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
JSON = OK + b"Connection: close\r\n\r\n"


def forever(part, pause=0.02, before=SSE):
    def answer(_):
        yield before
        while True:
            yield part
            if pause:
                yield pause

    return answer


def failure(answer, timeout=0.4, ask=lambda to: stream(to, "/completions", {})):
    """Ask, and give the error and the seconds that it took."""
    with server(answer) as running:
        begun = time.perf_counter()
        with pytest.raises(StreamError) as error:
            ask(address(running, timeout=timeout))
        seconds = time.perf_counter() - begun
    assert "\n" not in str(error.value) and len(str(error.value)) < 500
    return error.value, seconds


# --- time ---

DRIPS = {
    "header": forever(b"b", before=b"HTTP/1.1 200 OK\r\nX: "),
    "headers": forever(b"X: b\r\n", before=b"HTTP/1.1 200 OK\r\n"),
    "status": forever(b"H", before=b""),
    "continues": forever(b"HTTP/1.1 100 Continue\r\n\r\n", before=b""),
    "line": forever(b"x", before=SSE + b"data: "),
    "comments": forever(b": c\n"),
    "events": forever(event("tok ")),
    "chunk": forever(b"0", before=SSE.replace(b"Connection: close", b"Transfer-Encoding: chunked")),
    "nothing": forever(b"", before=b""),
}


@pytest.mark.parametrize("what", DRIPS)
def test_the_timeout_is_for_the_whole_answer_whatever_drips(what):
    error, seconds = failure(DRIPS[what])
    assert error.kind == "timeout" and "within 0.4 s" in str(error), error
    assert 0.3 < seconds < 2


def test_the_timeout_is_for_a_list_of_models_too():
    error, seconds = failure(forever(b" ", before=JSON), ask=lambda to: the_model(to, "--model"))
    assert error.kind == "timeout" and seconds < 2


def test_the_timeout_is_for_a_server_that_reads_nothing():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        to = parse_server(f"http://127.0.0.1:{listening.getsockname()[1]}/v1", 0.4)
        begun = time.perf_counter()
        with pytest.raises(StreamError) as error:
            stream(to, "/completions", {"prompt": "x" * (64 << 20)})
    assert error.value.kind == "timeout" and time.perf_counter() - begun < 3


def test_the_timeout_is_for_finding_the_host_too(monkeypatch):
    released = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: released.wait(20) and [])
    begun = time.perf_counter()
    with pytest.raises(StreamError) as error:
        stream(parse_server("http://models.example/v1", 0.3), "/completions", {})
    released.set()
    assert error.value.kind == "timeout" and time.perf_counter() - begun < 2


def test_the_timeout_is_for_tls_too():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        begun = time.perf_counter()
        with pytest.raises(StreamError) as error:
            stream(parse_server(f"https://127.0.0.1:{listening.getsockname()[1]}/v1", 0.3), "/completions", {})
    assert error.value.kind == "timeout" and time.perf_counter() - begun < 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("what", ["nothing", "events", "models"])
def test_ctrl_c_and_sigterm_end_any_wait(tmp_path, what, number):
    suite = tmp_path / "q.jsonl"
    suite.write_text('{"messages":[{"role":"user","content":"hi"}],"score":{"kind":"complete"}}\n')
    with server(DRIPS["nothing" if what == "models" else what]) as running:
        url = f"http://127.0.0.1:{running.server_address[1]}/v1"
        words = ["eval", "--baseline", url, "--candidate", url, "--suite", str(suite)]
        words += [] if what == "models" else ["--baseline-model", "m", "--candidate-model", "m"]
        command = [sys.executable, "-m", "mlxquant", *words]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            while not running.seen:
                time.sleep(0.02)
            os.kill(process.pid, number)
            _, told = process.communicate(timeout=20)
    assert process.returncode == 130 and told == "mlxquant: stopped\n"


# --- bytes ---

FLOODS = {
    "header": (forever(b"b" * 60000, 0, b"HTTP/1.1 200 OK\r\nX: "), "malformed"),
    "headers": (forever(b"X: " + b"b" * 60000 + b"\r\n", 0, b"HTTP/1.1 200 OK\r\n"), "endless"),
    "line": (forever(b"c" * 65000, 0), "endless"),
    "event": (forever(b"data: " + b"c" * 65000 + b"\n", 0), "endless"),
    "comments": (forever(b": " + b"c" * 65000 + b"\n", 0), "endless"),
    "answer": (forever(event("A" * 100_000), 0), "endless"),
    "chunk": (forever(b"0" * 65000, 0, SSE.replace(b"Connection: close", b"Transfer-Encoding: chunked")), "malformed"),
}


@pytest.mark.parametrize("what", FLOODS)
def test_a_flood_is_an_error_long_before_memory_is_full(what, monkeypatch):
    monkeypatch.setattr(wire, "ANSWER", 8 << 20)
    monkeypatch.setattr("mlxquant.endpoint.client.ANSWER", 8 << 20)
    answer, kind = FLOODS[what]
    error, _ = failure(answer, timeout=20)
    assert error.kind == kind, error


def test_an_endless_list_of_models_is_an_error():
    error, _ = failure(forever(b" " * 65536, 0, JSON), timeout=20, ask=lambda to: the_model(to, "--model"))
    assert error.kind == "endless" and "more than 16 MiB" in str(error)


# --- heads ---


@pytest.mark.parametrize(
    ("head", "kind", "message"),
    [
        (b"HTTP/1.1 OK\r\n\r\n", "malformed", "answers no HTTP"),
        (b"HTTP/1.1 2000 OK\r\n\r\n", "malformed", "answers no HTTP"),
        (b"HTTP/9.9 200 OK\r\n\r\n", "malformed", "answers no HTTP"),
        (b"\x00\xff" * 1000, "malformed", "answers no HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Encoding: gzip\r\n\r\n", "malformed", "gzip"),
        (SSE.replace(b"close", b"close\r\nContent-Length: 5") + event("a", "stop"), "malformed", "no JSON"),
        (SSE.replace(b"close", b"close\r\nContent-Length: 9999") + event("a"), "truncated", "no finish reason"),
        (SSE.replace(b"Connection: close", b"Transfer-Encoding: chunked") + b"zz\r\n", "truncated", "ended with no"),
        (SSE.replace(b"Connection: close", b"Transfer-Encoding: chunked") + b"ff\r\nab", "truncated", ""),
    ],
)
def test_a_head_that_is_none_is_told_in_one_line(head, kind, message):
    error, _ = failure([head], timeout=5)
    assert error.kind == kind and message in str(error), error


def test_wrong_lengths_do_not_matter_where_the_answer_is_whole():
    with server([SSE.replace(b"close", b"close\r\nContent-Length: 99999"), event("a", "stop"), DONE]) as running:
        assert stream(address(running), "/completions", {}).finish_reason == "stop"


def test_a_redirect_is_told_and_the_key_goes_nowhere_else():
    with server([SSE, event("a", "stop"), DONE]) as other:
        to = f"http://localhost:{other.server_address[1]}/v1/completions"
        head = f"HTTP/1.1 307 Elsewhere\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n".encode()
        error, _ = failure([head], timeout=5)
        assert other.seen == []
    assert error.kind == "http" and error.status == 307
    assert f"it redirects to {to}; redirects are not followed" in str(error)


def test_what_a_server_says_is_cut_without_control_characters_and_without_keys():
    register("sk-SECRETKEY-0123456789")
    body = json.dumps(
        {"error": {"message": "x" * 190 + " \x1b[31m\u202e sk-SECRETKEY-0123456789" + "y" * 10_000}}
    ).encode()
    head = b"HTTP/1.1 400 No\x1b[0m sk-SECRETKEY-0123456789\r\nContent-Length: %d\r\n\r\n" % len(body)
    error, _ = failure([head, body], timeout=5)
    assert str(error).isprintable() and "SECRET" not in str(error)


# --- addresses ---


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://a b/v1", "a space or control character"),
        ("http://a/v 1", "a space or control character"),
        ("http://a\n/v1", "a space or control character"),
        ("http:///v1", "no host"),
        ("http://:80/v1", "no host"),
        ("http://h:99999/v1", "no port"),
        ("http://h:0/v1", "no port"),
        ("http://h:x/v1", "no port"),
        ("http://me:pw@h/v1", "a user or password stands in it"),
        ("http://me@h/v1", "a user or password stands in it"),
        ("http://@h/v1", "a user or password stands in it"),
        ("http://[::1/v1", "Invalid IPv6"),
        ("http://h/v1?key=1", "a query or fragment"),
        ("http://h/v1#x", "a query or fragment"),
        ("http://h/é", "outside ASCII"),
        ("http://h,i/v1", "no host's name"),
        (f"http://{'a' * 70}.example/v1", "no host's name"),
        ("http://\udcff/v1", "control character"),
        ("file:///etc/passwd", "begins with neither"),
    ],
)
def test_an_address_that_is_none_is_told_before_anything_is_sent(url, message):
    with pytest.raises(UsageError, match="--endpoint") as error:
        parse_server(url, 5)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf"), 1e300])
def test_a_timeout_that_is_no_time_is_refused(seconds):
    with pytest.raises(UsageError, match="--timeout"):
        parse_server("http://127.0.0.1:1/v1", seconds)


# --- events ---


def chat(delta, reason=None, **more):
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": reason}], **more}


def called(*pieces):
    return chat({"tool_calls": list(pieces)})


OTHER_SHAPES = [
    5, [], "x", {"choices": 5}, {"choices": {"a": 1}}, {"choices": ["x"]}, chat("x"), chat(["x"]), chat(5),
    chat({"content": 5}), chat({"content": {"a": 1}}), chat({"content": [5]}), chat({"content": [{"text": 5}]}),
    chat({"reasoning_content": 5}), chat({"tool_calls": 5}), chat({"tool_calls": "x"}), chat({"tool_calls": ["x"]}),
    called({"index": 0, "function": "x"}), called({"index": 0, "function": ["x"]}),
    called({"index": "0", "function": {}}), called({"index": 1.5, "function": {}}),
    called({"id": {"a": 1}, "function": {}}), called({"function": {"name": {"x": 1}}}),
    called({"function": {"name": "f", "arguments": [1]}}), called({"function": {"name": "f", "arguments": 5}}),
    chat({}, {"a": 1}), chat({}, 5), chat({}, "x" * 10_000), chat({}, "stop", model={"a": 1}),
    chat({}, "stop", model="m" * 10_000), chat({}, usage=5), chat({}, usage=[1]),
    chat({}, usage={"prompt_tokens": -5}), chat({}, usage={"completion_tokens": 1.5}),
    chat({}, usage={"completion_tokens": "x"}), chat({}, usage={"completion_tokens": True}),
    chat({}, usage={"prompt_tokens": 10**400}), chat({}, usage={"prompt_tokens": 10**100}),
    chat({}, usage={"prompt_tokens_details": 5}), chat({}, usage={"prompt_tokens_details": {"cached_tokens": -1}}),
    {"error": "boom"}, {"error": {"message": {"a": 1}}}, {"error": 5}, {"error": []},
    {"choices": [{"delta": {}}, {"delta": {}}]},
]  # fmt: skip


@pytest.mark.parametrize("shape", OTHER_SHAPES, ids=lambda shape: json.dumps(shape)[:60])
def test_an_event_of_another_shape_is_one_line(shape):
    with pytest.raises(StreamError) as error:
        read_event(json.dumps(shape), "http://h")
    assert error.value.kind in ("malformed", "server")
    assert str(error.value).isprintable() and len(str(error.value)) < 300


@pytest.mark.parametrize(
    "data",
    ["", "{nope", "[" * 200_000, '{"choices": ' + "[" * 200 + "]" * 200 + "}", '{"a": ' + "9" * 5000 + "}", "\0"],
)
def test_an_event_that_is_no_json_or_nested_without_end_is_one_line(data):
    with pytest.raises(StreamError) as error:
        read_event(data, "http://h")
    assert error.value.kind == "malformed" and len(str(error.value)) < 300


def test_what_servers_send_otherwise_and_not_wrongly_is_read_and_named():
    read = read_event(json.dumps({"choices": None, "usage": {"prompt_tokens": 3, "completion_tokens": None}}), "h")
    assert read.usage == {"prompt_tokens": 3} and read.ways == ("sends `choices` as null",)
    read = read_event(json.dumps(chat({"content": ["4", {"type": "text", "text": "2"}]}, "stop", model=None)), "h")
    assert (read.text, read.finish_reason, read.ways) == ("42", "stop", ("sends `content` as a list of parts",))
    read = read_event(json.dumps(called({"index": 0, "function": {"name": "f", "arguments": {"a": "é"}}})), "h")
    assert read.calls == (CallPiece(0, "", "f", '{"a": "é"}'),) and "as a table" in read.ways[0]
    second = {"index": 1, "delta": {"content": "no"}}
    read = read_event(json.dumps({"choices": [{"index": 0, "delta": {"content": "yes"}}, second]}), "h")
    assert read.text == "yes" and "several answers" in read.ways[0]
    assert read_event(json.dumps(chat({"role": "assistant", "content": None}, error=None)), "h").ways == ()


def test_halves_of_a_pair_meet_again_and_single_ones_become_a_sign():
    assert whole("\ud83d" + "\ude00!") == "\U0001f600!" and whole("a\udc00b") == "a\ufffdb"


@pytest.mark.parametrize(
    "listed", ["5", "null", "[]", '"x"', '{"data":null}', '{"data":"abc"}', '{"data":{"id":1}}', '{"data":[5]}',
               '{"data":[{"id":5}]}', '{"data":[{"id":"\\ud800"}]}', "[" * 100_000, "{nope", ""]
)  # fmt: skip
def test_a_list_of_models_of_another_shape_is_one_line(listed):
    error, _ = failure([JSON + listed.encode()], timeout=5, ask=lambda to: the_model(to, "--model"))
    assert error.kind == "malformed"


def test_the_model_that_answers_is_known():
    with server([SSE, event("a", "stop", model="other"), usage(3, 1), DONE]) as running:
        assert stream(address(running), "/completions", {}).model == "other"


@pytest.mark.parametrize("shape", OTHER_SHAPES[::4], ids=lambda shape: json.dumps(shape)[:60])
def test_eval_and_bench_end_with_one_line_and_exit_3_at_an_event_of_another_shape(tmp_path, shape):
    suite = tmp_path / "q.jsonl"
    suite.write_text('{"messages":[{"role":"user","content":"hi"}],"score":{"kind":"complete"}}\n')
    with server([SSE, f"data: {json.dumps(shape)}\n\n".encode(), DONE]) as running:
        url = f"http://127.0.0.1:{running.server_address[1]}/v1"
        models = ("--baseline-model", "m", "--candidate-model", "n")
        for words in (
            ("eval", "--baseline", url, "--candidate", url, *models, "--suite", str(suite), "--retries", "0"),
            ("bench", "--endpoint", url, "--model", "m", "--chat", "-p", "8", "-n", "2", "-r", "1"),
        ):
            result = CliRunner().invoke(main, words)
            assert result.exit_code == 3, result.output
            assert result.stderr.startswith("mlxquant: ") and result.stderr.count("\n") == 1


def test_one_item_that_a_server_spoils_does_not_end_the_run(tmp_path):
    suite = tmp_path / "q.jsonl"
    row = '{"id":"%s","messages":[{"role":"user","content":"%s"}],"score":{"kind":"complete"}}\n'
    suite.write_text("".join(row % (name, name) for name in ("a", "bad", "c")))

    def answer(body):
        yield SSE
        yield event("x", "stop") if body["messages"][-1]["content"] != "bad" else b'data: {"choices": 5}\n\n'
        yield DONE

    with server(answer) as running:
        url = f"http://127.0.0.1:{running.server_address[1]}/v1"
        words = ("--baseline", url, "--candidate", url, "--baseline-model", "m", "--candidate-model", "n")
        result = CliRunner().invoke(main, ["eval", *words, "--suite", str(suite), "--json"])
    assert result.exit_code == 0, result.output
    trials = json.loads(result.stdout)["trials"]
    assert [t["failure"] and t["failure"]["kind"] for t in trials if t["side"] == 1] == [None, "malformed", None]


def test_a_bench_that_is_stopped_shows_what_it_has_and_exits_with_130(tmp_path):
    asked = []

    def answer(body):
        asked.append(body)
        yield SSE + event("a") + event("b", "stop") + usage(len(str(body["messages"]).split()), 2) + DONE
        if len(asked) > 40:
            yield 60.0

    with server(answer) as running:
        url = f"http://127.0.0.1:{running.server_address[1]}/v1"
        words = ["bench", "--endpoint", url, "--model", "m", "--chat", "-p", "8", "-n", "2", "-r", "1000"]
        command = [sys.executable, "-m", "mlxquant", *words, "-o", str(tmp_path / "b.json")]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            while len(asked) <= 40:  # then the next one hangs: it is stopped within a round
                time.sleep(0.02)
            os.kill(process.pid, signal.SIGTERM)
            shown, told = process.communicate(timeout=20)
    assert process.returncode == 130 and told == "mlxquant: stopped\n", told
    assert "stopped by hand in round" in " ".join(shown.split()) and (tmp_path / "b.json").exists()
