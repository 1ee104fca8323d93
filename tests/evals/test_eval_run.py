"""Running an evaluation: turns, repeats, what is no failure of the model, traces, and going on after a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from mlxquant.disk.journal import RunJournal, read_entries
from mlxquant.endpoint.client import parse_server
from mlxquant.errors import MeasurementError, OutputError, UsageError
from mlxquant.evals.asking import Sampling
from mlxquant.evals.items import Item, Questions, Score
from mlxquant.evals.run import EvalFiles, EvalSettings, evaluate, key_of
from mlxquant.evals.served import Served
from mlxquant.evals.suites.tool_loop import ToolLoop
from mlxquant.evals.trace import Trace, read_lines
from tests.evals.oracle_server import Oracle, serving, tasks_of

SUITE = ToolLoop((5,), 3)
TASKS = tasks_of((5,), 3)
QUICK = EvalSettings(backoff_s=0.01)


def side(url, name, timeout=20.0, **more):
    return Served(parse_server(url, timeout, **more), "oracle", name)


def two(url, other=None):
    return [side(url, "base"), side(other or url, "candidate")]


def test_sides_take_turns_in_an_order_drawn_for_each_item():
    oracle = Oracle(TASKS)
    with serving(oracle) as url:
        record = evaluate(two(url), [ToolLoop((5,), 3)], QUICK)
        again = evaluate(two(url), [ToolLoop((5,), 3)], QUICK)
    assert [(t["item"], t["side"]) for t in record["trials"]] == [(i.id, s) for i in SUITE.items() for s in (0, 1)]
    asked = [b["messages"][1]["content"] for b in oracle.seen]
    order = list(dict.fromkeys(asked))
    assert order == [TASKS[k].turns[0].user for k in TASKS], "an item is over before the next begins"
    assert [t["calls"] for t in record["trials"]] == [t["calls"] for t in again["trials"]]


def test_a_busy_server_is_asked_again_and_its_answer_counts():
    oracle = Oracle(TASKS, refuse=[503, 429])
    with serving(oracle) as url:
        record = evaluate(two(url), [SUITE], QUICK)
    assert all(t["passed"] for t in record["trials"])
    assert sum(side["serving"]["repeats"] for side in (record["baseline"], *record["candidates"])) == 2


def test_what_the_server_refuses_is_no_failure_of_the_model_and_is_counted_apart():
    with serving(Oracle(TASKS)) as good, serving(Oracle(TASKS, refuse=[400])) as bad:
        record = evaluate(two(good, bad), [SUITE], QUICK)
    candidate = record["candidates"][0]
    failed = [t for t in record["trials"] if t["failure"]]
    assert len(failed) == 1 and failed[0]["passed"] is None and failed[0]["failure"]["kind"] == "http"
    assert candidate["serving"]["failures"] == {"http": 1} and candidate["serving"]["repeats"] == 0
    overall = {m["metric"]: m for m in candidate["measurements"] if "slice" not in m and "depth" not in m}
    assert (overall["pass"]["estimate"], overall["pass"]["n"]) == (1.0, 2)
    assert overall["infrastructure_errors"]["estimate"] == 1 and overall["timeouts"]["estimate"] == 0
    assert candidate["paired"][0]["n"] == 2
    assert any("1 of 3 trials had no answer (1 × http)" in note for note in record["notes"])


def test_a_timeout_is_told_as_one_and_not_asked_again():
    slow = Oracle(TASKS, wait=0.4)
    with serving(Oracle(TASKS)) as good, serving(slow) as bad:
        sides = [side(good, "base"), side(bad, "candidate", timeout=0.1)]
        record = evaluate(sides, [ToolLoop((5,), 1)], QUICK)
        time.sleep(0.4)
    assert record["candidates"][0]["serving"]["failures"] == {"timeout": 1}
    assert len(slow.seen) == 1


def test_a_side_that_is_gone_stops_the_run(tmp_path):
    with serving(Oracle(TASKS)) as gone:
        pass
    with serving(Oracle(tasks_of((5,), 6))) as url, pytest.raises(MeasurementError, match="5 items in a row") as error:
        evaluate(two(url, gone), [ToolLoop((5,), 6)], EvalSettings(retries=0), EvalFiles(tmp_path / "e.partial"))
    assert "refused" in str(error.value) and "the same command goes on" in str(error.value)
    trials = read_entries(tmp_path / "e.partial")[0][1:]
    assert sum(trial is not None and trial["side"] == 0 for trial in trials) >= 4


def test_failed_trials_are_tried_anew_and_finished_ones_are_not(tmp_path):
    with serving(Oracle(TASKS)) as good, serving(Oracle(TASKS, refuse=[400])) as bad:
        sides = two(good, bad)
        evaluate(sides, [SUITE], QUICK, EvalFiles(tmp_path / "e.partial"))
        second = evaluate(sides, [SUITE], QUICK, EvalFiles(tmp_path / "e.partial"))
    assert not any(t["failure"] for t in second["trials"])
    assert len((tmp_path / "e.partial").read_text().splitlines()) == 1 + 6 + 1


def test_a_torn_last_line_is_dropped_and_its_item_played_again(tmp_path):
    path, oracle = tmp_path / "e.partial", Oracle(TASKS)
    with serving(oracle) as url:
        whole = evaluate(two(url), [SUITE], QUICK, EvalFiles(path))
        data = path.read_bytes()
        path.write_bytes(data[:-40])
        before = len(oracle.seen)
        again = evaluate(two(url), [SUITE], QUICK, EvalFiles(path))
    assert len(oracle.seen) - before == len(whole["trials"][-1]["requests"])
    assert [t["calls"] for t in again["trials"]] == [t["calls"] for t in whole["trials"]]
    assert len(path.read_bytes().splitlines()) == len(data.splitlines())


def test_a_damaged_line_is_not_believed_and_its_item_played_again(tmp_path):
    path, oracle = tmp_path / "e.partial", Oracle(TASKS)
    with serving(oracle) as url:
        whole = evaluate(two(url), [SUITE], QUICK, EvalFiles(path))
        lines = path.read_bytes().splitlines(keepends=True)
        assert b'"passed":true' in lines[2]
        lines[2] = lines[2].replace(b'"passed":true', b'"passed":false')
        path.write_bytes(b"".join(lines))
        again = evaluate(two(url), [SUITE], QUICK, EvalFiles(path))
    assert [t["passed"] for t in again["trials"]] == [t["passed"] for t in whole["trials"]]
    assert len(path.read_bytes().splitlines()) == len(lines) + 1


def test_a_run_that_an_earlier_version_began_is_gone_on_with(tmp_path):
    path, oracle = tmp_path / "e.partial", Oracle(TASKS)
    with serving(oracle) as url:
        whole = evaluate(two(url), [SUITE], QUICK, EvalFiles(path))
        entries = read_entries(path)[0]
        path.write_text("".join(json.dumps(entry, separators=(",", ":")) + "\n" for entry in entries))
        before = len(oracle.seen)
        assert evaluate(two(url), [SUITE], QUICK, EvalFiles(path))["trials"] == whole["trials"]
    assert len(oracle.seen) == before


@pytest.mark.parametrize(
    ("settings", "suite", "message"),
    [
        (EvalSettings(Sampling(seed=1)), SUITE, "settings.seed: 0 then, 1 now"),
        (EvalSettings(Sampling(temperature=0.5)), SUITE, "settings.temperature"),
        (QUICK, ToolLoop((5,), 2), "suites"),
    ],
)
def test_unfinished_work_of_other_settings_is_not_gone_on_with(tmp_path, settings, suite, message):
    with serving(Oracle(TASKS)) as url:
        evaluate(two(url), [SUITE], QUICK, EvalFiles(tmp_path / "e.partial"))
        with pytest.raises(OutputError, match=message) as error:
            evaluate(two(url), [suite], settings, EvalFiles(tmp_path / "e.partial"))
        assert "--fresh" in str(error.value)
        evaluate(two(url), [suite], settings, EvalFiles(tmp_path / "e.partial", fresh=True))


def test_a_file_of_another_kind_is_left_alone(tmp_path):
    (tmp_path / "e.partial").write_text("my notes\n")
    with pytest.raises(OutputError, match="no unfinished evaluation"):
        RunJournal(tmp_path / "e.partial", {})
    assert (tmp_path / "e.partial").read_text() == "my notes\n"


def test_two_runs_towards_one_record_are_told_apart(tmp_path):
    first = RunJournal(tmp_path / "e.partial", {"schema": "mlxquant.eval/1"})
    with pytest.raises(OutputError, match="another mlxquant is writing it right now"):
        RunJournal(tmp_path / "e.partial", {"schema": "mlxquant.eval/1"})
    first.close()
    RunJournal(tmp_path / "e.partial", {"schema": "mlxquant.eval/1"}).close()


@pytest.mark.parametrize("text", ["", "my notes", '{"kept": "hours"}\n', '{"schema": "mine/1"}\n'])
@pytest.mark.parametrize("fresh", [False, True])
def test_a_file_that_no_evaluation_began_is_neither_written_nor_deleted(tmp_path, text, fresh):
    (tmp_path / "e.partial").write_text(text)
    with pytest.raises(OutputError, match="no unfinished evaluation"):
        RunJournal(tmp_path / "e.partial", {"schema": "mlxquant.eval/1"}, fresh=fresh)
    assert (tmp_path / "e.partial").read_text() == text


def by_link(path, theirs):
    path.symlink_to(theirs)


def by_hard_link(path, theirs):
    path.hardlink_to(theirs)


@pytest.mark.parametrize("link", [by_link, by_hard_link])
def test_the_file_of_a_run_is_not_written_through_a_link(tmp_path, link):
    RunJournal(tmp_path / "theirs", {"schema": "mlxquant.eval/1"}).close()
    link(tmp_path / "e.partial", tmp_path / "theirs")
    with pytest.raises(OutputError, match="no unfinished evaluation"):
        RunJournal(tmp_path / "e.partial", {"schema": "mlxquant.eval/1"}, fresh=True)
    assert read_entries(tmp_path / "theirs")[0] == [{"schema": "mlxquant.eval/1"}]


@pytest.mark.parametrize("text", ["my notes", "my notes\n", '{"a": 1}\n{"b": 2}', "[]\n", '{"attributes": {}}\n'])
def test_nothing_is_added_to_a_file_that_is_no_trace(tmp_path, text):
    (tmp_path / "t.jsonl").write_text(text)
    with pytest.raises(OutputError, match="is no trace"):
        Trace(tmp_path / "t.jsonl")
    assert (tmp_path / "t.jsonl").read_text() == text


def test_a_trace_is_not_written_through_a_link(tmp_path):
    (tmp_path / "theirs").write_text("")
    (tmp_path / "t.jsonl").symlink_to(tmp_path / "theirs")
    with pytest.raises(OutputError, match="a link"):
        Trace(tmp_path / "t.jsonl")


@pytest.mark.slow
def test_a_killed_run_goes_on_without_asking_twice(tmp_path):
    oracle = Oracle(TASKS, wait=0.05)
    with serving(oracle) as url:
        command = [sys.executable, "-m", "mlxquant", "eval", "--baseline", url, "--candidate", url, "--calls", "5",
                   "--tasks", "3", "-o", str(tmp_path / "e.json"), "--trace", str(tmp_path / "t.jsonl")]  # fmt: skip
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        partial = tmp_path / "e.json.partial"
        while not partial.exists() or len(partial.read_bytes().splitlines()) < 3:
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        finished = {key_of(trial) for trial in read_entries(partial)[0][1:-1] if trial is not None}
        assert 0 < len(finished) < 6 and not (tmp_path / "e.json").exists()
        oracle.wait, before = 0.0, len(oracle.seen)
        subprocess.run(command, check=True, capture_output=True)
        asked_again = len(oracle.seen) - before
        reference = evaluate(two(url), [SUITE], QUICK)
    trials = json.loads((tmp_path / "e.json").read_text())["trials"]
    assert not partial.exists()
    assert asked_again <= sum(len(t["requests"]) for t in trials if key_of(t) not in finished)
    assert [(key_of(t), t["calls"]) for t in trials] == [(key_of(t), t["calls"]) for t in reference["trials"]]
    spans = {line["span_id"] for line in read_lines(tmp_path / "t.jsonl")}
    assert len(spans) == sum(len(t["requests"]) for t in trials), "the trace has every request"


def test_every_request_is_a_line_of_the_trace_without_keys(tmp_path):
    with serving(Oracle(TASKS, refuse=[503])) as url:
        sides = [side(url, "base", key="s3cret-key"), side(url, "candidate")]
        record = evaluate(sides, [ToolLoop((5,), 1)], QUICK, EvalFiles(trace=tmp_path / "t.jsonl", content=True))
    lines = read_lines(tmp_path / "t.jsonl")
    assert len(lines) == 1 + sum(len(t["requests"]) for t in record["trials"])
    failed = [line for line in lines if line["status"]["code"] == "ERROR"]
    assert [line["attributes"]["error.type"] for line in failed] == ["http"]
    names = lines[-1]["attributes"]
    assert names["gen_ai.operation.name"] == "chat" and names["gen_ai.request.model"] == "oracle"
    assert names["gen_ai.response.finish_reasons"] == ["stop"] and names["gen_ai.usage.output_tokens"] == 5
    assert names["gen_ai.usage.input_tokens"] > names["gen_ai.usage.cache_read.input_tokens"] > 0
    assert names["server.address"] == "127.0.0.1" and names["server.port"] == int(url.split(":")[2].split("/")[0])
    assert names["suite"] == "tool-loop" and names["slice"] == ["calls:5"] and names["depth"] == 5
    assert {line["attributes"]["model_variant"] for line in lines} == {"base", "candidate"}
    assert len({line["trace_id"] for line in lines}) == 2 and len({line["span_id"] for line in lines}) == len(lines)
    assert lines[-1]["start_time_unix_nano"] <= lines[-1]["end_time_unix_nano"]
    assert names["gen_ai.output.messages"][0]["parts"][0]["type"] == "text"
    assert "s3cret" not in (tmp_path / "t.jsonl").read_text()
    assert "gen_ai.input.messages" in names


def test_a_trace_says_nothing_of_what_was_said_unless_asked(tmp_path):
    with serving(Oracle(TASKS)) as url:
        evaluate(two(url), [ToolLoop((5,), 1)], QUICK, EvalFiles(trace=tmp_path / "t.jsonl"))
    assert "messages" not in (tmp_path / "t.jsonl").read_text()


def test_trials_have_seeds_of_their_own_the_same_on_both_sides():
    oracle = Oracle(TASKS)
    with serving(oracle) as url:
        evaluate(two(url), [ToolLoop((5,), 1)], EvalSettings(Sampling(0.5, seed=7), trials=2))
    assert {b["seed"] for b in oracle.seen} == {7, 8}
    assert sum(b["seed"] == 7 for b in oracle.seen) * 2 == len(oracle.seen)


def test_sides_of_one_name_and_suites_without_items_are_refused():
    first = side("http://127.0.0.1:1/v1", "a")
    with pytest.raises(UsageError, match="two sides of one name: a, a"):
        evaluate([first, first], [SUITE], QUICK)
    empty = Questions("empty", (), lambda item, reply: Score(True))
    with pytest.raises(UsageError, match="empty: has no items"):
        evaluate([first, side("http://127.0.0.1:1/v1", "b")], [empty], QUICK)
    with pytest.raises(UsageError, match="give --baseline and at least one --candidate"):
        evaluate([first], [SUITE], QUICK)
    with pytest.raises(UsageError, match="--trials: 0 is less than 1"):
        EvalSettings(trials=0)


def test_single_questions_are_asked_once_and_scored_by_their_suite():
    items = tuple(
        Item(t.turns[0].user, "first", ({"role": "user", "content": t.turns[0].user},)) for t in TASKS.values()
    )
    suite = Questions("first", items, lambda item, reply: Score(bool(reply.tool_calls), {"calls": True}))
    oracle = Oracle(TASKS)
    with serving(oracle) as url:
        record = evaluate(two(url), [suite, SUITE], QUICK)
    assert all(t["passed"] for t in record["trials"])
    slices = {m["slice"] for m in record["baseline"]["measurements"] if m["metric"] == "pass" and "slice" in m}
    assert slices == {"first", "tool-loop", "calls:5"}, "with several suites, each is a slice"
