"""`mlxquant tau2`: what result files say, one against another, and what is wrong with them."""

from __future__ import annotations

import gzip
import json
import random
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from mlxquant.cli import main
from mlxquant.errors import RecordError
from mlxquant.results.tau2 import make_record, read_results
from mlxquant.stats import pass_hat_k
from tests.results.tau2.tau2_files import dialogue, entry, lost, results, simulation, write


def run(*words: object) -> Result:
    return CliRunner().invoke(main, ["tau2", *map(str, words)])


def record_of(*paths: Path, **options: Any) -> dict[str, Any]:
    return make_record([read_results(path) for path in paths], **options)


def figure(side: dict[str, Any], metric: str, **keys: Any) -> dict[str, Any]:
    """The one measurement of this name and these keys."""
    plain = {"depth", "slice"} - keys.keys()
    found = [
        m
        for m in side["measurements"]
        if m["metric"] == metric and not plain & m.keys() and all(m.get(k) == v for k, v in keys.items())
    ]
    assert len(found) == 1, (metric, keys, found)
    return dict(found[0])


def metrics(side: dict[str, Any]) -> set[str]:
    return {m["metric"] for m in side["measurements"]}


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Two files of 12 tasks, 2 trials each; the second fails one trial of each of the first four tasks."""
    tasks = [f"t{i}" for i in range(12)]
    base = [simulation(t, k, reads=(2, 2), writes=(1, 1)) for t in tasks for k in range(2)]
    worse = [
        simulation(t, k, float(not (i < 4 and k == 0)), reads=(1, 2), writes=(1, 1))
        for i, t in enumerate(tasks)
        for k in range(2)
    ]
    made = results(base, num_trials=2), results(worse, num_trials=2, llm="agentic")
    return write(tmp_path / "base.json", made[0]), write(tmp_path / "agentic.json", made[1])


# --- formulas ---


@given(st.lists(st.booleans(), min_size=1, max_size=7), st.integers(1, 7))
def test_pass_hat_k_is_the_share_of_subsets_of_k_trials_that_all_pass(trials: list[bool], k: int) -> None:
    if k > len(trials):
        return
    subsets = list(combinations(trials, k))
    by_hand = sum(all(subset) for subset in subsets) / len(subsets)
    assert pass_hat_k([sum(trials)], [len(trials)], k).estimate == pytest.approx(by_hand)


def test_a_reward_within_a_millionth_of_one_is_a_success_and_nothing_else(tmp_path: Path) -> None:
    rewards = [1.0, 1 - 9e-7, 1 + 9e-7, 1 - 2e-6, 0.999, 0.0]
    path = write(tmp_path / "a.json", results([simulation(f"t{i}", 0, r) for i, r in enumerate(rewards)]))
    assert figure(record_of(path)["candidates"][0], "pass_hat_1")["estimate"] == 0.5


def test_infrastructure_errors_are_dropped_first_and_counted(tmp_path: Path) -> None:
    sims = [simulation("a", 0), simulation("a", 1, 0.0), lost("a", 2), lost("b", 0)]
    side = record_of(write(tmp_path / "a.json", results(sims)))["candidates"][0]
    assert figure(side, "pass_hat_1")["estimate"] == 0.5
    assert side["counts"]["infrastructure_errors"] == 2
    assert (side["counts"]["evaluated"], side["counts"]["tasks"]) == (2, 1)
    assert side["terminations"] == {"user_stop": 2, "infrastructure_error": 2}


def test_k_goes_to_the_fewest_trials_and_beyond_that_is_marked_as_not_tau2_s(tmp_path: Path) -> None:
    sims = [simulation("a", k, float(k < 3)) for k in range(4)] + [simulation("b", k) for k in range(2)]
    side = record_of(write(tmp_path / "a.json", results(sims)))["candidates"][0]
    assert side["counts"]["tau2_k"] == 2
    assert "note" not in figure(side, "pass_hat_2")
    assert figure(side, "pass_hat_2")["estimate"] == (0.5 + 1) / 2
    third = figure(side, "pass_hat_3")
    assert third["estimate"] == 0.25 and third["clusters"] == 1
    assert "not τ²'s" in third["note"] and "1 of 2 tasks" in third["note"]


def test_k_goes_no_further_than_the_trials_that_the_run_was_asked_for(tmp_path: Path) -> None:
    sims = [simulation(t, k) for t in "ab" for k in range(3)]
    side = record_of(write(tmp_path / "a.json", results(sims, num_trials=1)))["candidates"][0]
    assert side["counts"]["tau2_k"] == 1


def test_actions_without_tool_type_are_absent_not_zero(tmp_path: Path) -> None:
    untyped = simulation("a", reads=(1, 2))
    for check in untyped["reward_info"]["action_checks"]:
        del check["tool_type"]
    record = record_of(write(tmp_path / "a.json", results([untyped, simulation("b")])))
    assert not {"read_action_accuracy", "write_action_accuracy"} & metrics(record["candidates"][0])
    assert any("no tool_type" in note for note in record["notes"])


def test_action_accuracy_is_over_all_actions_not_a_mean_of_means(tmp_path: Path) -> None:
    sims = [simulation("a", reads=(9, 9)), simulation("b", reads=(0, 1))]
    side = record_of(write(tmp_path / "a.json", results(sims)))["candidates"][0]
    assert figure(side, "read_action_accuracy")["estimate"] == pytest.approx(0.9)
    assert "write_action_accuracy" not in metrics(side)


def test_a_database_that_was_not_checked_is_no_mismatch_and_a_match_is_no_success(tmp_path: Path) -> None:
    sims = [simulation("a", reward=0.0, db_match=True), simulation("b", db_match=None)]
    side = record_of(write(tmp_path / "a.json", results(sims)))["candidates"][0]
    assert figure(side, "db_match")["estimate"] == 1.0 and side["counts"]["db_checked"] == 1
    assert figure(side, "pass_hat_1")["estimate"] == 0.5


def test_depth_counts_the_agent_s_calls_and_what_the_task_asks_of_it(tmp_path: Path) -> None:
    users_tool = {"role": "user", "content": None, "tool_calls": [{"name": "restart_phone"}]}
    sims = [
        simulation("a", messages=[*dialogue(1, 5), users_tool]),
        simulation("b", reward=0.0, messages=dialogue(3, 6, failed=2)),
    ]
    side = record_of(write(tmp_path / "a.json", results(sims)))["candidates"][0]
    assert figure(side, "pass", depth="calls 1-5")["estimate"] == 1.0
    assert figure(side, "pass", depth="calls 6-10")["estimate"] == 0.0
    assert figure(side, "pass", depth="turns 1-2")["n"] == figure(side, "pass", depth="turns 3-5")["n"] == 1
    assert figure(side, "pass", depth="actions 1-2")["n"] == 2
    assert figure(side, "tool_call_errors")["estimate"] == pytest.approx(2 / 11)


# --- intervals and pairs ---


def test_an_interval_is_as_wide_as_the_tasks_allow_however_many_trials_they_have(tmp_path: Path) -> None:
    def width(trials: int) -> float:
        sims = [simulation(f"t{i}", k, float(i % 2)) for i in range(10) for k in range(trials)]
        found = figure(
            record_of(write(tmp_path / "a.json", results(sims, num_trials=trials)))["candidates"][0], "reward"
        )
        return float(found["high"] - found["low"])

    assert width(1) <= width(8) <= 1.2 * width(1)


def test_nothing_but_successes_is_no_interval_of_width_nought(tmp_path: Path) -> None:
    side = record_of(write(tmp_path / "a.json", results([simulation(f"t{i}") for i in range(10)])))["candidates"][0]
    found = figure(side, "pass_hat_1")
    assert found["high"] == 1.0 and found["low"] == pytest.approx(0.025 ** (1 / 10))


def test_a_file_against_itself_differs_by_nothing_and_says_how_sure_that_is(pair: tuple[Path, Path]) -> None:
    side = record_of(pair[1], pair[1])["candidates"][0]
    for metric in ("pass_hat_1", "pass_hat_2", "reward", "read_action_accuracy", "db_match"):
        found = figure(side, f"{metric}_difference")
        assert found["estimate"] == 0 and found["low"] < 0 < found["high"], metric
    assert side["pairing"]["mcnemar_p"] == 1.0


def test_a_later_file_is_paired_with_the_first_by_task_and_trial(pair: tuple[Path, Path]) -> None:
    record = record_of(*pair)
    assert record["baseline"]["name"] == "base"
    side = record["candidates"][0]
    assert side["name"] == "agentic"
    assert figure(side, "pass_hat_1_difference")["estimate"] == pytest.approx(-4 / 24)
    assert figure(side, "pass_hat_2_difference")["estimate"] == pytest.approx(-4 / 12, abs=1e-6)
    assert figure(side, "read_action_accuracy_difference")["estimate"] == pytest.approx(-0.5)
    assert figure(side, "write_action_accuracy_difference")["estimate"] == 0
    p = side["pairing"]
    assert (p["both_passed"], p["only_baseline_passed"], p["only_candidate_passed"], p["neither_passed"]) == (
        20,
        4,
        0,
        0,
    )
    assert p["mcnemar_p"] == 0.125
    assert figure(side, "pass_difference", depth="actions 1-2")["n"] == 24


def test_a_trial_that_one_side_lost_counts_on_neither(tmp_path: Path) -> None:
    hard = [f"t{i}" for i in range(6)]
    base = [simulation(t, 0) for t in hard] + [simulation(t, 1, 0.0) for t in hard]
    survivors = [simulation(t, 0) for t in hard] + [lost(t, 1) for t in hard]
    paths = write(tmp_path / "a.json", results(base)), write(tmp_path / "b.json", results(survivors))
    side = record_of(*paths)["candidates"][0]
    assert figure(side, "reward_difference")["estimate"] == 0
    assert side["pairing"]["pairs"] == 6 and side["pairing"]["unpaired_baseline"] == 6


def test_tasks_that_one_side_lacks_are_counted_and_not_compared(tmp_path: Path) -> None:
    a = write(tmp_path / "a.json", results([simulation(t, 0) for t in "abcdefg"]))
    b = write(tmp_path / "b.json", results([simulation(t, 0, 0.0) for t in "fghijkl"]))
    p = record_of(a, b)["candidates"][0]["pairing"]
    assert (p["tasks"], p["tasks_only_baseline"], p["tasks_only_candidate"]) == (2, 5, 5)
    c = write(tmp_path / "c.json", results([simulation(t, 0) for t in "xyz"]))
    record = record_of(a, c)
    assert any("share no task" in note for note in record["notes"])
    assert not any(m["metric"].endswith("_difference") for m in record["candidates"][0]["measurements"])


def test_runs_of_different_benchmarks_are_told_apart(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    other = json.loads(pair[1].read_text())
    other["info"]["user_info"]["llm"] = "another"
    notes = record_of(pair[0], write(tmp_path / "c.json", other))["notes"]
    assert any("differ in user_llm: gpt and another" in note for note in notes)


@pytest.mark.slow
def test_differences_hold_the_truth_as_often_as_they_say(tmp_path: Path) -> None:
    """60 pairs of runs whose tasks differ in difficulty; the second passes 10 points less often."""
    draw, held = random.Random(3), 0
    for _ in range(60):
        ease = [draw.uniform(0.3, 0.9) for _ in range(30)]
        sides = [
            [simulation(f"t{i}", k, float(draw.random() < p - shift)) for i, p in enumerate(ease) for k in range(3)]
            for shift in (0.0, 0.1)
        ]
        paths = [write(tmp_path / f"{n}.json", results(sims, num_trials=3)) for n, sims in enumerate(sides)]
        found = figure(record_of(*paths)["candidates"][0], "pass_hat_1_difference")
        held += found["low"] <= -0.1 <= found["high"]
    assert 52 <= held <= 60


# --- forms and faults ---


def test_a_folder_with_results_and_simulations_reads_as_the_one_file_does(tmp_path: Path) -> None:
    sims = [simulation("a", 0), simulation("b", 0, 0.0)]
    whole = write(tmp_path / "whole.json", results(sims))
    index = [{"id": s["id"], "task_id": s["task_id"], "trial": 0} for s in sims]
    folder = tmp_path / "run"
    write(folder / "results.json", results([], simulation_index=index) | {"tasks": results(sims)["tasks"]})
    for s in sims:
        write(folder / "simulations" / f"{s['id']}.json", s)
    read = [read_results(path) for path in (whole, folder, folder / "results.json")]
    assert read[0].simulations == read[1].simulations == read[2].simulations
    assert [r.name for r in read] == ["whole", "run", "run"] and not read[1].problems


def test_a_folder_and_its_index_that_disagree_are_told_and_read(tmp_path: Path) -> None:
    index = [{"id": "gone", "task_id": "a", "trial": 0}]
    write(tmp_path / "results.json", results([], simulation_index=index))
    write(tmp_path / "simulations" / "extra.json", simulation("b"))
    (tmp_path / "simulations" / "torn.json").write_text('{"id": "torn", "task')
    read = read_results(tmp_path)
    assert len(read.simulations) == 1
    told = "\n".join(read.problems)
    assert "gone.json: in the index, but not there" in told
    assert "extra.json: not in the index" in told
    assert "torn.json: cannot be read as JSON" in told


def test_gzip_reads_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a.json.gz"
    path.write_bytes(gzip.compress(json.dumps(results([simulation("a")])).encode()))
    read = read_results(path)
    assert read.name == "a" and len(read.simulations) == 1 and not read.problems


def test_tau_bench_s_own_list_is_read(tmp_path: Path) -> None:
    outputs = {"reward_info": {"reward": 0.0, "info": {"r_outputs": 0.0, "outputs": {}}}}
    broken = {"error": "connection reset", "traceback": "…"}
    value = [entry(0), entry(1, 0, 0.0), entry(2, info=outputs), entry(3, 0, 0.0, info=broken, traj=[])]
    record = record_of(write(tmp_path / "v1.json", value))
    side = record["candidates"][0]
    assert side["form"] == "tau-bench list"
    assert (side["counts"]["evaluated"], side["counts"]["infrastructure_errors"]) == (3, 1)
    assert figure(side, "db_match")["n"] == 2
    assert figure(side, "pass", depth="calls 1-5")["n"] == 3
    assert any("τ-bench itself counts them as failed" in note for note in record["notes"])


def test_what_is_wrong_with_a_record_is_told_with_its_place_and_the_others_count(tmp_path: Path) -> None:
    bad_check = simulation("d")
    bad_check["reward_info"]["db_check"] = {"db_match": "yes"}
    sims: list[Any] = [
        simulation("a"),
        None,
        {"trial": 0},
        simulation("b", reward_info={"reward": "1.0"}),
        simulation("c", reward_info=None),
        bad_check,
        simulation("e") | {"trial": "first"},
        simulation("f", messages="hello"),
        simulation("a"),
        simulation("a", id="again"),
        simulation("g", 0, 3.5),
    ]
    read = read_results(write(tmp_path / "a.json", results(sims)))
    told = read.problems
    for number, word in (
        (1, "null found"),
        (2, "task_id is missing"),
        (3, "reward is '1.0'"),
        (4, "no reward_info"),
        (5, "db_check says 'yes'"),
        (6, "trial is 'first'"),
        (7, "no list of messages"),
        (10, "reward is 3.5"),
    ):
        assert any(p.startswith(f"a.json: simulation {number}") and word in p for p in told), (number, told)
    assert any("simulation a-0" in p and "left out" in p for p in told)
    assert any("task a, trial 0 stands twice" in p for p in told)
    assert [s.task for s in read.simulations] == ["a", "b", "c", "d", "e", "f", "a", "g"]
    assert sum(s.success for s in read.simulations) == 5


@pytest.mark.parametrize("form", ["tau2", "v1"])
def test_of_a_file_that_was_cut_off_what_stands_before_the_cut_is_read(tmp_path: Path, form: str) -> None:
    value: Any = results([simulation(f"t{i}") for i in range(5)]) if form == "tau2" else [entry(i) for i in range(5)]
    path = write(tmp_path / "a.json", value)
    text = path.read_text()
    path.write_text(text[: text.rindex('"trial"')])
    read = read_results(path)
    assert len(read.simulations) == 4 and "the 4 records before that are read" in read.problems[0]


@pytest.mark.parametrize(
    ("text", "word"),
    [("", "empty"), ("   ", "empty"), ("{", "JSON"), ("no", "JSON"), ("3", "neither"), ('{"a": 1}', "neither")],
)
def test_a_file_of_which_nothing_can_be_read_is_an_error(tmp_path: Path, text: str, word: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(RecordError, match=word):
        read_results(path)


@given(st.recursive(st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=3),
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
                    max_leaves=8), st.sampled_from([None, *simulation("a")]))  # fmt: skip
def test_no_value_in_any_field_makes_it_fail(tmp_path_factory: pytest.TempPathFactory, value: Any, key: str) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.json"
    broken = value if key is None else simulation("a") | {key: value}
    record = record_of(write(path, results([broken, simulation("b")])), path)
    assert record["baseline"]["counts"]["simulations"] >= 1


@pytest.mark.parametrize("entries", [[], [simulation("a") | {"task_id": None}], [{}, {}]])
def test_a_file_without_a_simulation_that_can_be_read_is_refused(tmp_path: Path, entries: list[Any]) -> None:
    with pytest.raises(RecordError, match="no simulation in it can be read"):
        record_of(write(tmp_path / "a.json", results(entries)))


def test_a_voice_run_is_told_to_have_no_depth(tmp_path: Path) -> None:
    spoken = [simulation(task, messages=None) | {"ticks": [{"tick_id": 0}]} for task in "abc"]
    record = record_of(write(tmp_path / "a.json", results([*spoken, simulation("d")])))
    assert any("3 simulations are of voice" in note and "`ticks`" in note for note in record["notes"])


def test_rewards_between_0_and_1_are_told(tmp_path: Path) -> None:
    record = record_of(write(tmp_path / "a.json", results([simulation("a", reward=0.5), simulation("b", reward=1.0)])))
    assert any("1 simulations have a reward between 0 and 1" in note for note in record["notes"])


def test_no_simulation_at_all_is_told_and_no_figure_is_made_up(tmp_path: Path) -> None:
    only_lost = record_of(write(tmp_path / "b.json", results([lost("a")])))
    assert metrics(only_lost["candidates"][0]) == {"infrastructure_errors"}
    assert any("every simulation was dropped" in note for note in only_lost["notes"])


# --- command ---


def test_the_table_fits_80_columns_and_has_the_paper_s_rows(pair: tuple[Path, Path]) -> None:
    done = run(*pair)
    assert done.exit_code == 0, done.output
    assert max(map(len, done.stdout.splitlines())) <= 80
    for word in ("pass^1", "pass^2", "average reward", "read actions", "write actions", "DB match", "infrastructure"):
        assert word in done.stdout
    assert "−16.7 [" in done.stdout and "exact McNemar" in done.stdout


def test_json_is_the_record_and_o_writes_it(pair: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "record.json"
    done = run(*pair, "--json", "-o", out)
    assert json.loads(done.stdout) == json.loads(out.read_text())
    record = json.loads(done.stdout)
    assert record["schema"] == "mlxquant.tau2/1"
    assert {"mlxquant", "machine", "versions", "date", "confidence", "baseline", "candidates"} <= record.keys()


def test_a_later_file_that_cannot_be_read_is_left_out_and_told_by_the_exit_code(pair: tuple[Path, Path]) -> None:
    pair[1].write_text("")
    done = run(pair[0], pair[1], pair[0])
    assert done.exit_code == 3
    assert "left out" in done.stderr and "agentic.json: the file is empty" in done.stderr
    assert "base (2)" in done.stdout


def test_names_are_given_one_for_each_file(pair: tuple[Path, Path]) -> None:
    assert "8-bit" in run(*pair, "--name", "bf16", "--name", "8-bit").stdout
    assert run(*pair, "--name", "one").exit_code == 2
    assert run(*pair, "--name", "one", "--name", "one").exit_code == 2


def test_runs_out_of_context_fail_unless_they_are_dropped(tmp_path: Path) -> None:
    sims = [simulation("a"), simulation("b", reward=0.0, termination_reason="context_window_exceeded")]
    path = write(tmp_path / "a.json", results(sims))
    assert "50.0" in run(path).stdout and "--drop context_window_exceeded" in " ".join(run(path).stdout.split())
    assert "100.0" in run(path, "--drop", "context_window_exceeded").stdout


# --- the real files ---


def test_the_retail_run_passes_85_of_a_hundred(shared: Path) -> None:
    side = record_of(shared / "reference/tau2/raw_retail_gpt-4.1_40tasks_1trial.json.gz")["candidates"][0]
    assert figure(side, "pass_hat_1")["estimate"] == 0.85
    assert (side["counts"]["tasks"], side["counts"]["tau2_k"]) == (40, 1)
    assert not side["problems"] and "read_action_accuracy" not in metrics(side)


def test_the_telecom_run_passes_four_tasks_of_five_whatever_k_while_few_databases_match(shared: Path) -> None:
    side = record_of(shared / "reference/tau2/raw_telecom-nouser_gpt-4.1_5tasks_4trials.json.gz")["candidates"][0]
    assert [figure(side, f"pass_hat_{k}")["estimate"] for k in range(1, 5)] == [0.8] * 4
    counts = side["counts"]
    assert (counts["passed"], counts["simulations"], counts["db_matched"], counts["db_checked"]) == (16, 20, 8, 20)
