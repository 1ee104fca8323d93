"""LiteLLM's logs: 46 payloads that its proxy wrote for two mlx_lm.servers with the store model, whole and at 2 bits.

`test_gateway` made them; prices and headers were taken out since.
"""

from __future__ import annotations

import copy
import gzip
import json
import subprocess
import sys
import textwrap
import time
import urllib.request
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxquant.cli import main
from mlxquant.records.loading import Loaded
from mlxquant.records.measurements import measurement
from mlxquant.records.schemas import check
from mlxquant.report.page.page import make_report
from mlxquant.report.rollout import rollout_text
from mlxquant.rollout.calls import read_call
from mlxquant.rollout.configuration import configuration_text
from mlxquant.rollout.pairing import Recent, Sample, gather
from mlxquant.rollout.payloads import Faults, read_payloads
from mlxquant.rollout.record import read_rollout
from tests.rollout.gateway import free_port
from tests.rollout.plans import plan, side

LOGS = Path(__file__).with_name("litellm-1.108.7.ndjson.gz")
SIDES = side("baseline"), side("candidate")


@cache
def _payloads():
    return tuple(read_payloads([LOGS], Faults()))


def payloads():
    return copy.deepcopy(list(_payloads()))


def read(tmp_path, entries, sides=SIDES):
    path = tmp_path / "logs.ndjson"
    path.write_text("".join(json.dumps(e) + "\n" for e in entries))
    return read_rollout([path], *sides)


def gathered(entries, addresses=None, manifests=None):
    faults = Faults()
    return gather(iter(entries), addresses or {}, manifests or {}, faults), faults


def estimate(of, metric, **where):
    figure = measurement(of, metric, **where)
    return None if figure is None else round(figure["estimate"], 4)


def run(*words):
    return CliRunner().invoke(main, ["rollout", *map(str, words)])


def test_mirrors_are_paired_and_scored_and_what_users_waited_for_is_apart():
    record = read_rollout([LOGS], *SIDES)
    check(record, "r", kinds=("rollout",), whole=True)
    counts = record["counts"]
    assert (counts["pairs"], counts["mirrors"], counts["unpaired_mirrors"]) == (15, 15, 0)
    assert (counts["served_candidate"], counts["answered_by_fallback"], counts["served_baseline"]) == (7, 3, 24)
    baseline, (candidate,) = record["baseline"], record["candidates"]
    assert estimate(candidate, "infrastructure_errors") == 0.2 and estimate(baseline, "infrastructure_errors") == 0
    assert estimate(candidate, "same_tool") == 1 and estimate(candidate, "same_arguments") == 0.2857
    assert estimate(candidate, "valid_schema_difference") == -0.4286
    assert estimate(candidate, "infrastructure_errors", slice="served cohort:batch") == 0.4286
    assert estimate(baseline, "request_s_p50") < estimate(baseline, "request_s_p90")
    assert estimate(candidate, "same_arguments", slice="tool:get_order") is not None


@pytest.mark.parametrize("form", ["lines", "array", "arrays", "one", "many lines", "folder", "gzip"])
def test_whatever_logs_are_collected_in_they_say_the_same(tmp_path, form):
    mirrors = {entry["trace_id"] for entry in payloads()[-20:]}
    entries, path = [entry for entry in payloads() if entry["trace_id"] in mirrors], tmp_path / "logs.json"
    if form == "lines":
        path.write_text("\n".join(map(json.dumps, entries)))
    elif form in ("array", "many lines"):
        path.write_text(json.dumps(entries, indent=2 if form == "many lines" else None))
    elif form == "arrays":
        path.write_text("\n\n".join(json.dumps(entries[i : i + 7]) for i in range(0, len(entries), 7)))
    elif form == "gzip":
        path = path.with_suffix(".json.gz")
        path.write_bytes(gzip.compress(json.dumps(entries).encode()))
    else:
        path = tmp_path / "folder"
        (path / "day").mkdir(parents=True)
        for number, entry in enumerate(entries):
            (path / "day" / f"{number}.json").write_text(json.dumps(entry, indent=1 if form == "one" else None))
    faults = Faults()
    traffic = gather(read_payloads([path], faults), {}, {}, faults)
    expected, _ = gathered(entries)
    assert not faults.count and traffic.counts == expected.counts and expected.counts["pairs"] > 0
    assert sorted(traffic.pairs.items, key=str) == sorted(expected.pairs.items, key=str)


def test_neither_order_nor_a_second_copy_changes_a_figure(tmp_path):
    entries = payloads()
    expected = read(tmp_path, entries)
    Random(1).shuffle(entries)
    again = read(tmp_path, [*entries, *entries])
    assert again["counts"]["twice"] == len(entries) and again["counts"]["pairs"] == 15

    def figures(of):
        return {(m["metric"], m.get("slice")): m["estimate"] for m in of["measurements"]}

    assert figures(again["candidates"][0]) == figures(expected["candidates"][0])


def pair_of(entries):
    mirror = next(e for e in entries if ".mirror@" in e["model_id"] and e["status"] == "success")
    return next(e for e in entries if e["trace_id"] == mirror["trace_id"] and e is not mirror), mirror


def test_requests_of_one_session_share_a_trace_and_are_paired_by_their_prompts():
    first, mirror = pair_of(payloads())
    entries = []
    for number in range(4):
        for entry in (first, mirror):
            own = {**entry, "trace_id": "session", "litellm_call_id": f"{number}{entry['model_id']}"}
            entries.append(own | {"messages": [{"role": "user", "content": f"question {number}"}]})
    Random(2).shuffle(entries)
    traffic, _ = gathered(entries)
    assert traffic.counts["pairs"] == 4
    assert all(a.prompt == b.prompt and a.role == "baseline" and b.mirror for a, b in traffic.pairs.items)


def test_thumbs_and_repetitions_are_those_of_the_request_before(tmp_path):
    served, _ = pair_of(payloads())
    later = {key: served[key] + 5 for key in ("startTime", "endTime")}
    again = {**served, "litellm_call_id": "again", **later}
    rated = {**served, "litellm_call_id": "x", "trace_id": "x", "metadata": {"requester_metadata": {"feedback": "up"}}}
    lines = [
        {"litellm_call_id": served["litellm_call_id"], "feedback": "thumbs_down"},
        {"trace_id": "unheard of", "rating": 1},
        {"trace_id": "nothing said"},
    ]
    traffic, faults = gathered([served, again, rated, *lines])
    counts = traffic.counts
    assert (counts["ratings"], counts["ratings_of_nothing"], faults.count) == (2, 1, 1)
    calls = {call.call_id: call for call in traffic.served["baseline"].items}
    assert [calls[i].retried for i in (served["litellm_call_id"], "again", "x")] == [True, False, False]
    assert calls[served["litellm_call_id"]].rating is False and calls["x"].rating is True


def test_another_build_is_left_out_and_other_servers_are_no_side(tmp_path):
    entries = payloads()
    known = entries[0]["model_id"].partition("@")[2]
    other = side("baseline", manifest_sha256="f" * 64), side("candidate")
    record = read(tmp_path, [*entries, {**entries[0], "model_id": "gpt", "api_base": "https://api"}], other)
    assert record["counts"]["other_builds"] == 24 and record["counts"]["others"] == 1
    assert any("another manifest" in note for note in record["notes"])
    same = side("baseline", manifest_sha256=known + "0" * 52), side("candidate")
    assert read(tmp_path, entries, same)["counts"]["pairs"] == 15


def test_addresses_name_the_sides_of_a_configuration_that_rollout_did_not_write():
    first, mirror = ({**e, "model_id": "a hash"} for e in pair_of(payloads()))
    first["api_base"], mirror["api_base"] = "http://b/v1/", "http://c/v1"
    mirror["metadata"] = {"is_silent_experiment": True}
    traffic, _ = gathered([first, mirror], {"http://b/v1": "baseline", "http://c/v1": "candidate"})
    assert traffic.counts["pairs"] == 1


def test_answers_that_were_not_logged_are_said_to_be_missing(tmp_path):
    entries = payloads()
    for entry in entries:
        for choice in (entry["response"] or {}).get("choices", []):
            choice["message"] = {"role": "assistant", "content": "redacted-by-litellm"}
    record = read(tmp_path, entries)
    assert any("not in the logs" in note for note in record["notes"])
    assert not any(m["metric"].startswith(("same_", "valid_")) for m in record["candidates"][0]["measurements"])


JUNK = st.one_of(
    st.none(), st.booleans(), st.integers(-(10**20), 10**20), st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=5), st.lists(st.one_of(st.none(), st.text(max_size=3), st.just({"function": []}))),
    st.dictionaries(st.sampled_from(["choices", "tools", "role", "function", "status"]), st.lists(st.integers())),
)  # fmt: skip


@settings(max_examples=25)
@given(st.data())
def test_a_payload_with_anything_in_any_place_is_a_request_or_a_fault(data):
    entry = copy.deepcopy(pair_of(list(_payloads()))[data.draw(st.integers(0, 1))])
    place: Any = entry
    while True:  # walk down to some place
        key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        if not (isinstance(place[key], dict | list) and place[key]) or data.draw(st.booleans()):
            break
        place = place[key]
    place[key] = data.draw(JUNK)
    try:
        read_call(entry, {})
    except ValueError as error:
        assert str(error)


@pytest.mark.parametrize("text", ["", "{}", "[]", "not json", "[1, 2]", '{"status": "success"}', "\xff\xfe"])
def test_logs_without_a_request_of_the_candidate_are_one_error(tmp_path, text):
    path = tmp_path / "logs"
    path.write_text(text, encoding="latin-1")
    result = run("--logs", path)
    assert result.exit_code == 3 and result.stderr.count("\n") == 1, result.output
    assert "no request to the candidate" in result.stderr


@pytest.mark.parametrize(
    "values",
    [
        {"startTime": 1e300, "endTime": 1e300}, {"startTime": -1e15, "endTime": -1e15}, {"endTime": 10**30},
        {"startTime": "2026-11-29T00:00:00Z"}, {"prompt_tokens": 10**30, "completion_tokens": 10**30},
    ],
)  # fmt: skip
def test_numbers_that_no_date_or_float_can_hold_cost_no_other_payload(tmp_path, values):
    entries = [entry for entry in payloads() if entry["status"] == "success"][-12:]
    record = read(tmp_path, [*entries, {**entries[0], "litellm_call_id": "odd", "model_id": "candidate-1", **values}])
    assert record["counts"]["payloads"] == 13
    assert len(record["problems"]) == (0 if "prompt_tokens" in values else 1)


def test_a_damaged_line_is_named_and_costs_no_other(tmp_path):
    lines = [json.dumps(entry) for entry in payloads()]
    path = tmp_path / "logs.ndjson"
    path.write_text("\n".join([*lines[:5], lines[5][:100], *lines[5:]]))
    record = read_rollout([path], *SIDES)
    assert record["counts"]["pairs"] == 15
    assert len(record["problems"]) == 1 and "logs.ndjson:6" in record["problems"][0]


def test_the_command_names_builds_by_the_configuration_and_replaces_its_own_record_alone(tmp_path):
    config, out = tmp_path / "litellm.yaml", tmp_path / "rollout.json"
    hashes = {
        role: next(e["model_id"] for e in _payloads() if e["model_id"].startswith(role)).partition("@")[2] + "0" * 52
        for role in ("baseline", "candidate")
    }
    sides = {role: side(role, manifest_sha256=sha, recipe=f"{role}-recipe") for role, sha in hashes.items()}
    config.write_text(configuration_text(plan(**sides), "back"))
    for _ in range(2):
        result = run("--logs", LOGS, "--config", config, "-o", out)
        assert result.exit_code == 0, result.output
    record = json.loads(out.read_text())
    assert record["candidates"][0]["manifest_sha256"] == hashes["candidate"]
    assert record["candidates"][0]["recipe"]["name"] == "candidate-recipe"
    assert result.stdout.rstrip("\n") == rollout_text(record)
    assert max(map(len, result.stdout.splitlines())) <= 80
    for words in (("--logs", LOGS, "--mirror", "5%"), ("--logs", LOGS, "--config", config, "--baseline", "http://b/v1"),
                  ("--config", config), ("--status", config, "--logs", LOGS)):  # fmt: skip
        assert run(*words).exit_code == 2, words


def test_a_gate_takes_the_record(tmp_path):
    record, gate = tmp_path / "rollout.json", tmp_path / "gate.toml"
    assert run("--logs", LOGS, "-o", record).exit_code == 0
    gate.write_text(
        'min_clusters = 5\n[[tolerance]]\nmetric = "same_tool"\nmin = 0.4\n'
        '[[tolerance]]\nmetric = "infrastructure_errors"\nmax_difference = 0.5\nrecord = "rollout"\n'
    )
    result = CliRunner().invoke(main, ["validate", str(record), "-t", str(gate)])
    assert result.exit_code == 0, result.output
    assert "conversations" in CliRunner().invoke(main, ["validate", str(record), "-t", str(gate), "--json"]).stdout


def test_the_collector_that_the_page_shows_keeps_what_is_posted(tmp_path):
    page = (Path(__file__).parents[2] / "docs/commands/rollout.md").read_text()
    code = textwrap.dedent(page.split("```python\n")[1].split("    ```")[0])
    port = free_port()
    (tmp_path / "collect.py").write_text(code.replace("4001", str(port)))
    process = subprocess.Popen([sys.executable, "-S", "collect.py"], cwd=tmp_path)
    try:
        entries = payloads()
        for batch in (entries[:20], entries[20:]):
            request = urllib.request.Request(f"http://127.0.0.1:{port}/", json.dumps(batch).encode())
            for _ in range(200):
                try:
                    urllib.request.urlopen(request, timeout=5).close()
                    break
                except OSError:
                    time.sleep(0.05)
    finally:
        process.kill()
        process.wait()
    traffic, faults = gathered(read_payloads([tmp_path / "logs.ndjson"], Faults()))
    assert not faults.count and traffic.counts["pairs"] == 15


def test_a_page_has_a_section_for_the_record_that_cannot_become_markup(tmp_path):
    record = read(tmp_path, payloads())
    record["candidates"][0]["name"] = "<img src=x>"
    page = make_report([Loaded("x", "x.json", "0" * 64, record)])
    section = page.partition('<section id="rollout">')[2].partition("</section>")[0]
    assert "same tool" in section and "what users waited for: errors" in section and "same arguments, tool:" in section
    assert "<img" not in page and "no section for" not in page


def test_memory_has_a_bound_whatever_comes():
    sample, recent = Sample[int](10), Recent[int](10)
    for number in range(1000):
        sample.add(number)
        recent.put(number, number)
    assert len(sample.items) == 10 and sample.seen == 1000 and max(sample.items) > 100
    assert len(recent) == 10 and recent.forgotten == 990 and recent.get(999) == 999 and recent.get(1) is None
