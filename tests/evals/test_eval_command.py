"""`mlxquant eval` from the command line: records, tables, refusals."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from urllib.parse import quote

import pytest
from click.testing import CliRunner

from mlxquant.cli import main
from tests.endpoint.servers import DONE, SSE, server
from tests.evals.oracle_server import Oracle, serving, tasks_of
from tests.support.builds import build

TASKS = tasks_of((5,), 1)
LOOP = ("--calls", "5", "--tasks", "1")


def run(*words, code=0, **environment):
    result = CliRunner().invoke(main, ["eval", *map(str, words)], env=environment)
    assert result.exit_code == code, result.output + result.stderr
    return result


@pytest.fixture
def url():
    with serving(Oracle(TASKS)) as address:
        yield address


def test_the_record_is_printed_alone_and_written_and_the_table_without_json(url, tmp_path):
    printed = run("--baseline", url, "--candidate", url, *LOOP, "--json", "-o", tmp_path / "e.json").stdout
    record = json.loads(printed)
    assert record["schema"] == "mlxquant.eval/1" and json.loads((tmp_path / "e.json").read_text()) == record
    assert [record["baseline"]["name"], record["candidates"][0]["name"]] == ["oracle", "oracle#2"]
    assert record["baseline"]["model"] == "models/oracle" and record["baseline"]["endpoint"] == url
    assert sorted(p.name for p in tmp_path.iterdir()) == ["e.json"]
    text = run("--baseline", url, "--candidate", url, *LOOP).stdout
    assert "oracle#2 beside oracle" in text and max(map(len, text.splitlines())) <= 80


def test_several_candidates_are_each_compared_with_the_baseline(url):
    record = json.loads(run("--baseline", url, "--candidate", url, "--candidate", url, *LOOP, "--json").stdout)
    assert [c["name"] for c in record["candidates"]] == ["oracle#2", "oracle#3"]
    assert all(c["paired"][0]["both_right"] == 1 for c in record["candidates"])


def test_a_server_s_build_names_recipe_and_format_in_record_and_trace(url, tiny, tmp_path):
    build(tiny("mixtral"), tmp_path / "eight", "gates-8bit", audit=False)
    words = ("--baseline", url, "--candidate", url, "--candidate-build", tmp_path / "eight", *LOOP)
    record = json.loads(run(*words, "--json", "--trace", tmp_path / "t.jsonl").stdout)
    candidate = record["candidates"][0]
    assert candidate["name"] == "eight" and candidate["recipe"]["name"] == "gates-8bit" and candidate["bytes"] > 0
    lines = [json.loads(line)["attributes"] for line in (tmp_path / "t.jsonl").read_text().splitlines()]
    recipes = {(a["model_variant"], a.get("recipe"), a.get("quantization_format")) for a in lines}
    assert recipes == {("oracle", None, None), ("eight", "gates-8bit", candidate["format"])}


def test_keys_come_from_the_environment_and_reach_their_side_alone(tmp_path):
    oracle = Oracle(TASKS)
    with serving(oracle) as url:
        words = (
            "--baseline",
            url,
            "--candidate",
            url,
            *LOOP,
            "--trace",
            tmp_path / "t.jsonl",
            "-o",
            tmp_path / "e.json",
        )
        run(*words, "--candidate-key-env", "EVAL_KEY", EVAL_KEY="s3cret")
    keys = [head.get("Authorization") for head in oracle.heads]
    assert keys.count("Bearer s3cret") == keys.count(None) > 0
    assert "s3cret" not in (tmp_path / "t.jsonl").read_text() + (tmp_path / "e.json").read_text()


def test_a_confidence_is_that_of_all_intervals(url):
    record = json.loads(run("--baseline", url, "--candidate", url, *LOOP, "--json", "--confidence", "0.9").stdout)
    assert record["confidence"] == 0.9
    assert {m["confidence"] for m in record["candidates"][0]["measurements"] if "confidence" in m} == {0.9}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--calls", "5,x"), "--calls '5,x': whole numbers"),
        (("--tasks", "0"), "--tasks: 0: a number above 0"),
        (("--suite", "nonsense"), "--suite nonsense"),
        (("--suite", "tool-loop", "--suite", "tool-loop"), "given twice"),
        (("--chat-template-args", "[1]"), "a JSON object expected"),
        (("--trials", "0"), "--trials: 0 is less than 1"),
        (("--candidate-key-env", "NOT_SET_ANYWHERE"), "that variable is not set"),
        (("--candidate-model", "a", "--candidate-model", "b"), "more of these than candidates that are servers"),
        (("--baseline-build", "nowhere"), "nowhere: no such folder"),
    ],
)
def test_what_cannot_be_meant_is_refused(url, words, message):
    result = run("--baseline", url, "--candidate", url, *words, code=3 if "nowhere" in words else 2)
    assert message in result.stderr, result.stderr


def test_an_address_that_is_none_is_told_with_its_option(url):
    assert (
        "--candidate 'http://[redacted]@h/v1'"
        in run("--baseline", url, "--candidate", "http://u:p@h/v1", code=2).stderr
    )


def test_a_folder_takes_no_model_name(url, tmp_path):
    result = run("--baseline", tmp_path, "--baseline-model", "x", "--candidate", url, code=2)
    assert "a folder; --baseline-model and the like go with servers" in result.stderr


def test_a_record_is_not_overwritten(url, tmp_path):
    (tmp_path / "e.json").write_text("mine")
    result = run("--baseline", url, "--candidate", url, "-o", tmp_path / "e.json", code=3)
    assert "already exists" in result.stderr and (tmp_path / "e.json").read_text() == "mine"


def test_a_trace_in_the_place_of_the_unfinished_run_is_refused_before_anything_is_written(url, tmp_path):
    words = ("--baseline", url, "--candidate", url, *LOOP, "-o", tmp_path / "e.json")
    stderr = run(*words, "--trace", tmp_path / "e.json.partial", code=2).stderr
    assert "the unfinished run" in stderr and not list(tmp_path.iterdir())


def test_where_nothing_was_answered_there_is_no_record_but_a_reason(tmp_path):
    with serving(Oracle(TASKS)) as good, serving(Oracle(TASKS, refuse=[400] * 9)) as bad:
        words = ("--baseline", good, "--candidate", bad, *LOOP, "-o", tmp_path / "e.json")
        result = run(*words, code=3)
        assert "no item was answered on both sides" in result.stderr and "status 400" in result.stderr
        assert [p.name for p in tmp_path.iterdir()] == ["e.json.partial"]


SECRET = "sk-SECRET/KEY+1"


@pytest.mark.parametrize("status", ["401 {}", "401 Unauthorized"])
def test_a_key_that_the_server_repeats_is_nowhere(tmp_path, status):
    coded = base64.b64encode(SECRET.encode()).decode()
    body = json.dumps({"error": {"message": f"{'x' * 190} {SECRET} {coded} {quote(SECRET, safe='')}"}}).encode()
    head = f"HTTP/1.1 {status.format(SECRET)}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with server([head, body]) as running:
        url = f"http://127.0.0.1:{running.server_address[1]}/v1"
        words = ["--baseline", url, "--candidate", url, "--baseline-model", SECRET, "--candidate-model", "m"]
        words += ["--baseline-key-env", "EVAL_KEY", "--candidate-key-env", "EVAL_KEY", "--retries", "0", *LOOP]
        words += ["-o", tmp_path / "e.json", "--trace", tmp_path / "t.jsonl", "--trace-content"]
        result = run(*words, code=3, EVAL_KEY=f"{SECRET}\n")
        assert all(f"Bearer {SECRET}" in head for head, _ in running.seen)
    texts = [result.output, *(p.read_text() for p in tmp_path.iterdir())]
    assert len(texts) == 3
    for text in texts:
        assert "SECRET" not in text and "KEY+1" not in text and coded not in text and "[redacted" in text


def test_a_traceback_has_no_key_in_it(tmp_path):
    script = (
        "from mlxquant.words import secrets; from mlxquant.cli import COMMANDS, main\n"
        "import mlxquant.cli.recipes as r\n"
        "secrets.register('sk-SECRET-KEY')\n"
        "def fail(**_): raise RuntimeError('you sent sk-SECRET-KEY') from ValueError(b'sk-SECRET-KEY')\n"
        "r.command.callback = fail\n"
        "main(['recipes'])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert "RuntimeError: you sent [redacted]" in done.stderr and "SECRET-KEY" not in done.stderr.replace(
        "secrets.register('sk-SECRET-KEY')", ""
    )


def test_a_candidate_that_is_the_baseline_is_told_in_the_record_and_on_stderr(url, tiny, tmp_path):
    result = run("--baseline", url, "--candidate", url, *LOOP, "--json")
    record = json.loads(result.stdout)
    assert record["candidates"][0]["same_as_baseline"] == "place"
    assert result.stderr.count("the same server and model, as the baseline oracle: all that differs is noise") == 1
    assert any("the same server and model, as the baseline oracle" in note for note in record["notes"])
    with serving(Oracle(TASKS)) as other:
        result = run("--baseline", url, "--candidate", other, *LOOP, "--json")
        assert "same" not in result.stderr and "same_as_baseline" not in result.stdout
        build(tiny("mixtral"), tmp_path / "eight", "gates-8bit", audit=False)
        builds = ("--baseline-build", tmp_path / "eight", "--candidate-build", tmp_path / "eight")
        result = run("--baseline", url, "--candidate", other, *builds, *LOOP, "--json")
    assert json.loads(result.stdout)["candidates"][0]["same_as_baseline"] == "build"
    assert "the same build, by its manifest, as the baseline eight" in result.stderr


def test_a_server_that_answers_as_another_model_is_told_in_the_record_and_on_stderr(url, tmp_path):
    words = ("--baseline", url, "--candidate", url, "--candidate-model", "totally-other", *LOOP)
    result = run(*words, "--json", "-o", tmp_path / "e.json")
    record = json.loads((tmp_path / "e.json").read_text())
    assert record["candidates"][0]["answers_as"] == ["oracle"] and "answers_as" not in record["baseline"]
    warning = "totally-other: asked for totally-other, the server answers as oracle; the figures are those of the model"
    assert warning in result.stderr and any(note.startswith(warning) for note in record["notes"])


def test_what_a_server_does_otherwise_is_counted_in_the_record(tmp_path):
    suite = tmp_path / "s.jsonl"
    suite.write_text('{"messages":[{"role":"user","content":"x"}],"score":{"kind":"exact","answer":"42"}}\n')
    choice = {"delta": {"content": ["<think>so</think>", {"text": "42"}]}, "finish_reason": "stop"}
    answer = [SSE, f"data: {json.dumps({'choices': [choice]})}\n\n".encode(), b'data: {"choices": null}\n\n', DONE]
    with server(answer) as running:
        url = f"http://127.0.0.1:{running.server_address[1]}/v1"
        words = ("--baseline", url, "--candidate", url, "--baseline-model", "a", "--candidate-model", "b")
        record = json.loads(run(*words, "--suite", suite, "--json").stdout)
    ways = record["candidates"][0]["ways"]
    assert set(ways.values()) == {1} and len(ways) == 3
    assert all(f"b: in 1 of 1 answers the server {way}" in record["notes"] for way in ways)
    assert [t["passed"] for t in record["trials"]] == [True, True]


@pytest.mark.parametrize("key", ["sk-SECRET-KEY\n", "sk-SECRET-\u20ac", "", "  ", "sk-SECRET-KEY"])
def test_no_key_is_in_a_traceback_even_with_debug(tmp_path, key):
    head = b"HTTP/1.1 401 sk-SECRET-KEY\r\nContent-Type: text/plain\r\n\r\n"
    answer = [head, b"you sent sk-SECRET-KEY, c2stU0VDUkVULUtFWQ=="]
    with server(answer) as running:
        url = f"http://127.0.0.1:{running.server_address[1]}/v1"
        words = ["eval", "--baseline", url, "--candidate", url, "--baseline-key-env", "SKEY", "--debug"]
        done = subprocess.run(
            [sys.executable, "-m", "mlxquant", *words], env={**os.environ, "SKEY": key}, capture_output=True, timeout=60
        )
    assert b"Traceback" in done.stderr and b"SECRET" not in done.stderr + done.stdout
    assert b"c2stU0VDUk" not in done.stderr


SPEAKING = """
import logging, threading, warnings
from mlxquant.cli import main
from mlxquant.words import secrets
import mlxquant.cli.recipes as recipes

KEY = "sk-SECRET" + "-KEY"

class Unraisable:
    def __del__(self):
        raise ValueError(KEY)

def speak(**_):
    secrets.register(KEY)
    logging.basicConfig()
    logging.getLogger("a").warning("retrying %s", f"http://me:{KEY}@h/")
    logging.getLogger("a").warning("%d", KEY)
    try:
        raise KeyError(KEY)
    except KeyError:
        logging.exception("failed")
    warnings.warn(f"old {KEY}")
    thread = threading.Thread(target=lambda: int(KEY))
    thread.start()
    thread.join()
    Unraisable()

recipes.command.callback = speak
main(["recipes"], standalone_mode=False)
main(["http://me:pass@host/v1"])
"""


def test_log_lines_warnings_threads_and_complaints_have_no_key_in_them():
    done = subprocess.run([sys.executable, "-c", SPEAKING], capture_output=True, text=True, timeout=60)
    assert "SECRET" not in done.stderr + done.stdout and "me:pass" not in done.stderr
    for told in ("retrying http://[redacted]@h/", "KeyError: '[redacted]'", "UserWarning: old [redacted]",
                 "invalid literal for int() with base 10: '[redacted]'", "ValueError: [redacted]",
                 "No such command 'http://[redacted]@host/v1'"):  # fmt: skip
        assert told in done.stderr, (told, done.stderr)
