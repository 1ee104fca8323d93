"""What an evaluation's trials amount to: shares, paired differences, pairs, survival, serving, text."""

from __future__ import annotations

import copy
import json

import pytest

from mlxquant.errors import RecordError
from mlxquant.evals.figures import of_side
from mlxquant.evals.items import CallMade
from mlxquant.evals.record import read_eval
from mlxquant.records.files import record_text
from mlxquant.records.measurements import depth_range, measurement
from mlxquant.report.eval import eval_text
from mlxquant.stats import mcnemar_exact
from tests.evals.eval_records import RIGHT, WRONG, damaged, loop, record_of, trial


def of(record, metric, **where):
    return found_in(record["candidates"][0], metric, **where)


def found_in(side, metric, **where):
    figure = measurement(side, metric, **where)
    assert figure is not None, (metric, where)
    return figure


def test_damage_shows_with_its_interval_by_depth_and_slice():
    record = damaged()
    for where in ({}, {"depth": "1-20"}, {"depth": "21-50"}, {"slice": "read"}):
        figure = of(record, "right_call_difference", **where)
        assert figure["low"] <= figure["estimate"] <= figure["high"] < 0, where
        assert figure["clusters"] == 20
    shallow, deep = (of(record, "right_call_difference", depth=d)["estimate"] for d in ("1-20", "21-50"))
    assert deep < shallow
    assert of(record, "pass_difference")["high"] < 0
    assert of(record, "policy_kept_difference")["low"] < 0 < of(record, "policy_kept_difference")["high"]


def test_a_baseline_against_itself_shows_nothing_and_no_interval_of_width_0():
    trials = [loop(side, f"t{i}", 30, {5, 9} if i % 3 == 0 else ()) for i in range(20) for side in (0, 1)]
    record = record_of(trials)
    differences = [m for m in record["candidates"][0]["measurements"] if m["metric"].endswith("_difference")]
    assert differences
    for found in differences:
        assert found["estimate"] == 0 and found["low"] < 0 < found["high"], found
    assert all(row["mcnemar_p"] == 1 for row in record["candidates"][0]["paired"])
    change = of(record, "right_call_difference")["high"]
    assert f"None of 600 calls differed: a difference of at most {100 * change:.1f} points" in eval_text(record)


def test_measurements_are_the_contract_s_flat_tables():
    record = damaged()
    for side in (record["baseline"], *record["candidates"]):
        for found in side["measurements"]:
            assert {"metric", "estimate", "low", "high", "se", "n", "clusters"} <= set(found), found
            assert set(found) <= {"metric", "slice", "depth", "depth_first", "depth_last",
                                      "estimate", "low", "high", "se", "n", "clusters",
                                  "confidence", "method", "df", "design_effect", "reason"}  # fmt: skip
            assert (found["low"] is None) == ("reason" in found), found
    names = {m["metric"] for m in record["candidates"][0]["measurements"]}
    assert {"pass", "pass_difference", "state_equal", "valid_call", "valid_json", "valid_schema", "right_tool",
            "right_arguments", "policy_kept", "ttft_s_p50", "ttft_s_p90", "ttft_s_p99", "decode_tok_s_p50",
            "request_s_p99", "timeouts", "infrastructure_errors"} <= names  # fmt: skip


def test_pairs_are_counted_and_tested_as_by_hand():
    outcomes = [(True, True)] * 5 + [(True, False)] * 9 + [(False, True)] * 1 + [(False, False)] * 5
    trials = [trial(side, f"t{i}", passed=pair[side]) for i, pair in enumerate(outcomes) for side in (0, 1)]
    row = record_of(trials)["candidates"][0]["paired"][0]
    assert (row["both_right"], row["only_baseline"], row["only_candidate"], row["both_wrong"]) == (5, 9, 1, 5)
    assert row["mcnemar_p"] == pytest.approx(mcnemar_exact(1, 9), abs=1e-6)


def test_several_trials_of_a_task_count_as_one_in_the_test():
    trials = [trial(side, f"t{i}", passed=side == 0 or k == 0, trial=k)
              for i in range(6) for k in range(3) for side in (0, 1)]  # fmt: skip
    record = record_of(trials, settings={"trials": 3, "temperature": 0.5, "seed": 0})
    row = record["candidates"][0]["paired"][0]
    assert (row["n"], row["units"], row["only_baseline"], row["units_worse"]) == (18, 6, 12, 6)
    assert row["mcnemar_p"] == pytest.approx(mcnemar_exact(0, 6), abs=1e-6)
    chances = [of(record, f"pass_hat_{k}")["estimate"] for k in (1, 2, 3)]
    assert chances == pytest.approx([1 / 3, 0, 0])
    assert of(record, "pass_hat_2_difference")["estimate"] == -1


def test_only_items_that_both_sides_answered_are_compared():
    gone = {"kind": "truncated", "message": "the server closed the connection", "repeated": True}
    trials = [t for i in range(6) for t in (loop(0, f"t{i}", 3), loop(1, f"t{i}", 3, failure=gone if i < 2 else None))]
    record = record_of(trials)
    assert of(record, "pass_difference")["n"] == 4 and of(record, "pass")["n"] == 4
    assert found_in(record["baseline"], "pass")["n"] == 6
    assert of(record, "infrastructure_errors")["estimate"] == 2
    assert any("broke off the same answer" in note for note in record["notes"])


def test_loops_that_never_went_wrong_are_censored_where_they_ended():
    trials = [loop(0, f"t{i}", 20) for i in range(8)]
    trials += [loop(1, f"t{i}", 20, {4} if i < 6 else ()) for i in range(8)]
    base, candidate = record_of(trials)["survival"]
    assert (base["median"], sum(base["failed"])) == (None, 0)
    assert (candidate["median"], candidate["times"], candidate["failed"]) == (4, [4], [6])
    assert candidate["survival"] == [pytest.approx(0.25)]


def test_slices_stand_worst_first():
    trials = []
    for i in range(10):
        for side in (0, 1):
            calls = [[d, WRONG if side and d in (2, 3, 5) else RIGHT, "t", [("bad", "worse", "fine")[d % 3]]]
                     for d in range(1, 7)]  # fmt: skip
            trials.append(trial(side, f"t{i}", calls=calls))
    rows = [
        r["slice"] for r in record_of(trials)["candidates"][0]["paired"] if r["metric"] == "right_call" and "slice" in r
    ]
    assert rows == ["fine", "bad", "worse"], "of fine, both calls are wrong; of bad, one; of worse, none"


def test_the_text_fits_80_columns_and_names_what_changed():
    trials = damaged()["trials"]
    long_names = record_of(
        trials,
        baseline={"name": "a-baseline-of-a-rather-long-name-bf16", "kind": "build"},
        candidates=[{"name": "a-candidate-of-a-rather-long-name-2bit", "kind": "build", "format": "2-bit g32",
                     "bytes": 10**9, "bpw": 2.5, "recipe": {"name": "uniform"}}],
    )  # fmt: skip
    text = eval_text(long_names)
    assert max(map(len, text.splitlines())) <= 80
    for words in ("whole items right", "… the right tool", "1-20", "21-50", "nothing wrong, worst slice first",
                  "How far loops get", "Serving", "requests:", "recipe uniform"):  # fmt: skip
        assert words in text, words


def test_times_of_builds_that_read_drafts_are_left_out_of_the_text_and_those_of_servers_are_not():
    drafted = {"trials": 1, "temperature": 0.0, "seed": 0, "draft": True}
    trials = damaged()["trials"]
    text = eval_text(record_of(trials, settings=drafted))
    assert "Serving" not in text and "requests:" in text
    assert "times of answers are no times of decoding" in " ".join(text.split())
    server = [{"name": "candidate", "kind": "endpoint"}]
    assert "Serving" in eval_text(record_of(trials, settings=drafted, candidates=server))


def test_a_record_is_read_back_and_a_broken_one_told(tmp_path):
    record = damaged(6, 5)
    path = tmp_path / "e.json"
    path.write_text(record_text(record))
    assert eval_text(read_eval(path)) == eval_text(json.loads(json.dumps(record)))
    broken = copy.deepcopy(record)
    del broken["candidates"][0]["measurements"], broken["baseline"]["name"]
    path.write_text(record_text(broken))
    with pytest.raises(RecordError) as error:
        read_eval(path)
    assert "baseline.name: a text expected, nothing found" in str(error.value)
    assert "candidates[0].measurements: a list expected, nothing found" in str(error.value)
    path.write_text('{"schema": "mlxquant.bench/1"}')
    with pytest.raises(RecordError, match="a record of eval expected"):
        read_eval(path)


def test_a_measurement_at_a_depth_has_its_first_and_last_call_as_numbers():
    calls: list[object] = [[n, RIGHT, "find", []] for n in (20, 160)]
    trials = [trial(0, str(i), calls=calls) for i in range(6)]
    measurements = [m for m in of_side(trials, suites=False, confidence=0.95) if "depth" in m]
    assert {m["depth"]: (m["depth_first"], m["depth_last"]) for m in measurements} == {
        "1-20": (1, 20),
        "151+": (151, None),
    }


@pytest.mark.parametrize(
    ("entry", "ends"),
    [
        ({"depth": "51-150"}, (51, 150)),
        ({"depth": "calls 151+"}, (151, None)),
        ({"depth": "turns 0"}, (0, 0)),
        ({"depth": "deep", "depth_first": 7, "depth_last": None}, (7, None)),
        ({}, None),
    ],
)
def test_the_depth_of_a_measurement_is_read_from_its_fields_and_of_earlier_versions_from_its_label(entry, ends):
    assert depth_range(entry) == ends


def test_a_call_is_read_back_from_the_record_as_it_was():
    call = CallMade(3, {"valid_call": True, "right_tool": False}, "find", "no such town", ("town",))
    assert CallMade.from_record(call.as_record()) == call
    assert call.as_record() == [3, "1--0----", "find", ["town"], "no such town"]
