"""Streaming from servers: a real mlx_lm.server, and scripted ones that answer as no server should."""

from __future__ import annotations

import json
import socket
import time

import pytest

from mlxquant.bench.prompts import own_text
from mlxquant.bench.run import Bench
from mlxquant.bench.served import Endpoint, check_endpoint, stream_notes
from mlxquant.bench.workload import BenchSettings, Workload
from mlxquant.endpoint.client import StreamError, parse_server, stream
from mlxquant.errors import MeasurementError, UsageError
from tests.checkpoints import Size, write_tiny
from tests.endpoint.servers import DONE, SSE, address, event, mlx_lm_server, server, usage
from tests.support.builds import build


def model(running, **more):
    return Endpoint(address(running), "tiny", own_text(), **more)


def speaking(body):
    """Answer properly: a token for each piece, a prompt token for each word."""
    words = len(body["prompt"].split())
    yield SSE + b": keepalive 1/2\n\n"
    for _ in range(body["max_tokens"]):
        yield 0.001
        yield event("so ")
    yield event("", "length") + usage(words, body["max_tokens"]) + DONE


# --- addresses ---


@pytest.mark.parametrize(
    "url", ["127.0.0.1:1234/v1", "ftp://host/v1", "http://", "http://h:port/v1", "http://u:p@h/v1"]
)
def test_an_address_of_another_form_is_refused(url):
    with pytest.raises(UsageError, match="--endpoint"):
        parse_server(url, 1)


def test_only_this_machine_is_named_in_a_record():
    elsewhere = Endpoint(parse_server("https://studio.example:8443/v1", 1), "m", own_text())
    assert elsewhere.describe(BenchSettings())["endpoint"] == "another machine"
    here = Endpoint(parse_server("http://[::1]:1234/v1", 1), "m", own_text())
    assert here.describe(BenchSettings())["endpoint"] == "http://[::1]:1234/v1"


def test_the_build_that_a_server_has_is_named_by_its_hashes():
    facts = {"kind": "build", "manifest_sha256": "a" * 64, "recipe": {"name": "gates-8bit", "sha256": "b" * 64}}
    served = Endpoint(parse_server("http://127.0.0.1:1/v1", 1), "m", own_text(), facts=facts)
    described = served.describe(BenchSettings())
    assert described["kind"] == "endpoint" and described["manifest_sha256"] == "a" * 64
    assert described["recipe"]["sha256"] == "b" * 64
    with pytest.raises(UsageError, match="in order"):
        check_endpoint(BenchSettings(), (), ("m", "n"), ("build",))


# --- whole answers ---


def test_the_first_token_and_the_rest_are_timed():
    def slow(body):
        yield SSE
        yield 0.15
        yield event("a")
        for _ in range(4):
            yield 0.02
            yield event("b")
        yield event("", "length") + usage(10, 5) + DONE

    with server(slow) as running:
        sample = model(running).measure(Workload(n_gen=5), BenchSettings(), 1)
    assert sample.ttft_s >= 0.15
    assert sample.tokens == 4 and len(sample.token_s) == 4
    assert sample.seconds >= 0.04  # of 0.08: the first piece may be read late, never the last one early
    assert sum(sample.token_s) == pytest.approx(sample.seconds, rel=0.5)


def test_a_chunked_answer_is_read_as_it_arrives():
    def chunked(body):
        yield b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"
        for part in (event("a"), event("b"), event("c", "stop") + usage(3, 3) + DONE):
            yield 0.02
            yield b"%x\r\n%s\r\n" % (len(part), part)
        yield b"0\r\n\r\n"

    with server(chunked) as running:
        answer = stream(address(running), "/completions", {})
    assert [c.text for c in answer.chunks] == ["a", "b", "c"]
    assert answer.chunks[2].at - answer.chunks[0].at >= 0.035
    assert answer.finish_reason == "stop"


def test_reasoning_and_answers_of_chat_both_count():
    deltas = [{"role": "assistant", "content": ""}, {"reasoning_content": "hm"}, {"content": "yes"}]
    parts = [f"data: {json.dumps({'choices': [{'delta': d}]})}\n\n".encode() for d in deltas]
    with server([SSE, *parts, event("", "stop"), DONE]) as running:
        answer = stream(address(running), "/chat/completions", {})
    assert [c.text for c in answer.chunks] == ["hm", "yes"]


def test_requests_ask_for_a_stream_with_usage_and_carry_the_key():
    with server(speaking) as running:
        subject = Endpoint(address(running, key="secret"), "tiny", own_text())
        subject.measure(Workload(n_gen=4), BenchSettings(), 1)
        head, body = running.seen[0]
    assert "Authorization: Bearer secret" in head
    assert body["stream"] is True and body["stream_options"] == {"include_usage": True}
    assert (body["model"], body["max_tokens"], body["temperature"]) == ("tiny", 4, 0)


def test_chat_sends_a_message():
    with server([SSE, event("a"), 0.01, event("b", "stop"), usage(1, 2), DONE]) as running:
        model(running, chat=True).measure(Workload(n_gen=2), BenchSettings(), 1)
        head, body = running.seen[0]
    assert head.startswith("POST /v1/chat/completions")
    assert body["messages"][0]["role"] == "user"


def test_prompts_reach_their_length_by_the_servers_count_and_never_repeat():
    def two_a_word(body):
        words = 2 * len(body["prompt"].split()) + 7
        yield SSE + event("a", "length") + usage(words, 1) + DONE

    with server(two_a_word) as running:
        subject = model(running)
        subject.open()
        samples = [subject.measure(Workload(n_prompt=301), BenchSettings(), 1) for _ in range(3)]
        prompts = [body["prompt"][:9] for _, body in running.seen]
    assert [s.tokens for s in samples] == [301] * 3
    assert len(set(prompts)) == len(prompts) == 5


def test_a_run_through_a_server_makes_a_record():
    with server(speaking) as running:
        settings = BenchSettings(prompts=(32,), generate=(6,), depths=(0, 16), repetitions=2)
        record = Bench([model(running)], settings, served=True).run()
    rates = {r["test"]: r["tok_s"] for r in record["results"]}
    assert rates["pp32"]["n"] == rates["tg6"]["n"] == rates["tg6 @ d16"]["n"] == 2
    assert rates["pp32 @ d16"] is None
    skipped = next(r for r in record["results"] if r["test"] == "pp32 @ d16")
    assert skipped["failures"] == ["2 × skipped: prefill at a depth cannot be told apart through a server"]
    assert record["builds"][0]["kind"] == "endpoint"
    assert all(s["others_cores"] is None for s in record["samples"])


def test_a_server_that_answers_as_another_model_is_told_in_the_record():
    def other(body):
        yield (
            SSE + event("a") + event("b", "stop", model="totally-other") + usage(len(body["prompt"].split()), 2) + DONE
        )

    with server(other) as running:
        record = Bench([model(running)], BenchSettings(prompts=(), generate=(2,), repetitions=1), served=True).run()
    assert record["builds"][0]["answers_as"] == ["totally-other"]
    assert any(n.startswith("tiny: the server answers as totally-other; the figures") for n in record["notes"])


# --- answers that are none ---


@pytest.mark.parametrize(
    ("answer", "kind", "message"),
    [
        ([b"HTTP/1.1 404 Not Found\r\nContent-Length: 36\r\n\r\n" + b'{"error": {"message": "no such one"}}'[:36]],
         "http", "status 404 Not Found"),
        ([b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n"], "http", "status 500 Oh: no text"),
        ([b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<html>"], "malformed", "text/html found"),
        ([b"220 smtp.example ready\r\n"], "malformed", "answers no HTTP"),
        ([SSE, event("a"), b"data: {broken\n\n"], "malformed", "no JSON: '{broken'"),
        ([SSE, b"data: [1]\n\n"], "malformed", "no table"),
        ([SSE, b'data: {"choices": 3}\n\n'], "malformed", "no list of tables"),
        ([SSE, event("a"), event("b")], "truncated", "no finish reason and no [DONE] after 2 pieces"),
        ([SSE, event("a"), DONE], "truncated", "[DONE] without a finish reason"),
        ([SSE, b'data: {"error": {"message": "out of memory"}}\n\n'], "server", "out of memory"),
        ([], "truncated", "closed the connection"),
    ],
)  # fmt: skip
def test_what_is_no_answer_is_told_and_gives_no_figure(answer, kind, message):
    with server(answer) as running, pytest.raises(StreamError) as error:
        stream(address(running), "/completions", {})
    assert error.value.kind == kind
    assert message in str(error.value)


def test_a_refused_connection_is_told():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(StreamError, match="connection refused; is the server running") as error:
        stream(parse_server(f"http://127.0.0.1:{port}/v1", 2), "/completions", {})
    assert error.value.kind == "refused"


def test_silence_and_endless_keepalives_both_time_out():
    def endless(body):
        yield SSE
        for _ in range(100):
            yield b": keepalive\n\n"
            yield 0.05

    for answer in ([SSE, 3.0], endless):
        with server(answer) as running:
            start = time.perf_counter()
            with pytest.raises(StreamError, match=r"no whole answer within 0\.3 s") as error:
                stream(address(running, timeout=0.3), "/completions", {})
            assert error.value.kind == "timeout"
            assert time.perf_counter() - start < 2.5


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ([SSE, event("a"), 0.01, event("b"), event("c", "stop"), usage(5, 1), DONE], "contradiction"),
        ([SSE, event("a", "stop"), usage(5, 1), DONE], "short"),
        ([SSE + b"".join(event("a") for _ in range(300)) + event("", "stop") + usage(5, 300) + DONE], "buffered"),
    ],
)
def test_counts_that_contradict_the_stream_are_failures(answer, kind):
    with server(answer) as running, pytest.raises(MeasurementError) as error:
        model(running).measure(Workload(n_gen=300), BenchSettings(), 1)
    assert error.value.kind == kind


@pytest.mark.parametrize(("cached", "kind"), [(0, None), (5, None), (60, "cached")])
def test_a_prompt_from_the_servers_cache_is_no_prefill(cached, kind):
    with server([SSE, event("a", "length"), usage(100, 1, cached), DONE]) as running:
        if kind is None:
            assert model(running).measure(Workload(n_prompt=100), BenchSettings(), 1).tokens == 100 - cached
            return
        with pytest.raises(MeasurementError, match="took part of the prompt from its cache"):
            model(running).measure(Workload(n_prompt=100), BenchSettings(), 1)


def test_without_usage_pieces_are_counted_and_prefill_is_not_measured():
    with server([SSE, event("a"), 0.02, event("b"), 0.02, event("c", "stop"), DONE]) as running:
        sample = model(running).measure(Workload(n_gen=3), BenchSettings(), 1)
        assert sample.tokens == 2
        with pytest.raises(MeasurementError, match="sends no usage") as error:
            model(running).measure(Workload(n_prompt=9), BenchSettings(), 1)
    assert error.value.kind == "uncounted"


def test_notes_tell_of_short_answers_merged_pieces_and_odd_prompts():
    rows = [
        {"test": "tg8", "pieces": 5, "completion_tokens": 8, "prompt_tokens": 3},
        {"test": "tg8", "pieces": 4, "completion_tokens": 4, "prompt_tokens": 3},
        {"test": "pp64", "pieces": 1, "completion_tokens": 1, "prompt_tokens": 80},
        {"test": "tg8", "pieces": 8},
    ]
    early, merged, prompts, uncounted = stream_notes(rows)
    assert early.startswith("1 of 2 answers ended before all tokens")
    assert "(5 for 8)" in merged
    assert prompts.startswith("1 prompts had 80 to 80 tokens where 64 were wanted")
    assert uncounted.startswith("1 answers came without usage")


@pytest.mark.parametrize(
    ("settings", "builds", "models", "message"),
    [
        (BenchSettings(), ("a",), ("m",), "measured apart"),
        (BenchSettings(), (), (), "--model NAME"),
        (BenchSettings(batch=2), (), ("m",), "-b: several"),
    ],
)
def test_what_a_server_cannot_be_asked_is_refused(settings, builds, models, message):
    with pytest.raises(UsageError, match=message):
        check_endpoint(settings, builds, models)


# --- mlx_lm.server itself ---


@pytest.mark.slow
def test_mlx_lms_own_server_is_measured(tmp_path):
    write_tiny(tmp_path / "source", "qwen3_moe", Size(layers=1))
    build(tmp_path / "source", tmp_path / "tiny-build", audit=False)
    settings = BenchSettings(prompts=(200,), generate=(12,), repetitions=2)
    with mlx_lm_server(tmp_path / "tiny-build") as url:
        for chat in (False, True):
            subject = Endpoint(parse_server(url, 60), str(tmp_path / "tiny-build"), own_text(), chat)
            record = Bench([subject], settings, served=True).run()
            prefill, decode = record["results"]
            assert prefill["tok_s"]["n"] == 2, record["results"]
            assert prefill["ttft_s"]["min"] > 0
            # random weights may end an answer after one token, which is told as such
            assert decode["inter_token_ms"] and all("× short:" in why for why in decode["failures"])
            counted = [s for s in record["samples"] if s["test"] == "tg12" and "failure" not in s]
            assert all(s["completion_tokens"] <= 12 and s["prompt_tokens"] > 0 for s in counted)
            lengths = [s["prompt_tokens"] for s in record["samples"] if s["test"] == "pp200"]
            assert all(abs(n - 200) < 30 for n in lengths)
    assert record["builds"][0]["name"] == "tiny-build"
