"""`mlxquant sweep`, from records: families, frontier, thresholds, the recommendation and its reasons, the text."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from mlxquant.cli import main
from mlxquant.report.sweep import sweep_text
from mlxquant.sweep import split_words, sweep, variations
from mlxquant.sweep.candidates import SweepPoint
from mlxquant.sweep.frontier import dominated, frontier
from mlxquant.sweep.run import best_few, load_trials, needed
from tests.sweep.sweep_records import GATE, comparison, member, walk
from tests.validate.validate_records import evaluation, measure, write

ROOT = Path(__file__).resolve().parents[2]


def judged(folder: Path, *records: dict[str, Any], gate: str = GATE) -> dict[str, Any]:
    """The record of a sweep over these records."""
    (tolerances,) = write(folder, gate=gate)
    return sweep(write(folder, **{f"r{i}": record for i, record in enumerate(records)}), tolerances)


def run(*words: object) -> Result:
    return CliRunner().invoke(main, ["sweep", *map(str, words)])


def line(record: dict[str, Any], family: str, metric: str | None = None, **where: str) -> dict[str, Any]:
    """A family's line of thresholds; that of all tolerances without a metric."""
    found = [
        t
        for t in record["thresholds"]
        if t["family"] == family and t.get("metric") == metric and all(t.get(k) == v for k, v in where.items())
    ]
    assert len(found) >= 1, record["thresholds"]
    return dict(found[0])


# --- what to try ---


def test_commas_part_recipes_but_not_a_recipe_s_changes():
    assert split_words("gates-8bit:bits=4,group_size=32, uniform-8bit,") == [
        "gates-8bit:bits=4,group_size=32",
        "uniform-8bit",
    ]


def test_every_recipe_is_tried_at_every_bits_from_the_most():
    assert variations(["a", "b"], [4, 8, 4]) == ["a:bits=8", "a:bits=4", "b:bits=8", "b:bits=4"]


def test_a_recipe_that_names_its_bits_or_its_mode_is_taken_as_it_is():
    assert variations(["a:bits=3", "b:mode=mxfp4"], [8, 4]) == ["a:bits=3", "b:mode=mxfp4"]


def test_several_group_sizes_multiply_and_one_does_not_stand_in_names():
    assert variations(["a"], [4], [32, 64]) == ["a:bits=4,group_size=32", "a:bits=4,group_size=64"]
    assert variations(["a"], [4], [64]) == ["a:bits=4"]


def test_recipes_that_decide_the_same_are_tried_once_and_that_is_said():
    trials, notes = load_trials(["uniform-8bit:bits=8", "uniform-8bit", "uniform-8bit:bits=4"], group_size=64)
    assert [t.name for t in trials] == ["uniform-8bit:bits=8", "uniform-8bit:bits=4"]
    assert notes == ["uniform-8bit gives the same formats as uniform-8bit:bits=8 and was not tried again"]


# --- families ---


def test_families_are_told_by_rules_and_group_not_by_names(tmp_path):
    other = member("gates", 4, name="own-4bit")
    record = judged(tmp_path, comparison(member("gates", 8), other, member("uniform", 4)))
    assert {c["name"]: (c["family"], c["bits"]) for c in record["candidates"]} == {
        "gates-8bit:bits=8": ("gates-8bit", 8),
        "own-4bit": ("gates-8bit", 4),
        "uniform-8bit:bits=4": ("uniform-8bit", 4),
    }


def test_two_families_of_one_name_are_numbered_apart(tmp_path):
    fine, coarse = member("gates", 4), member("gates", 8)
    fine["recipe"]["quantize"]["group_size"] = 32
    families = {c["family"] for c in judged(tmp_path, comparison(coarse, fine))["candidates"]}
    assert families == {"gates-8bit", "gates-8bit (2)"}


def test_a_build_stands_alone_without_bits_and_the_noise_floor_is_no_candidate(tmp_path):
    build = {"name": "other-4bit", "kind": "build", "bytes": 10, "bpw": 4.0, "measurements": [measure("kl_nats", 0.01)]}
    record = judged(tmp_path, comparison(member("gates", 8), build))
    assert [(c["name"], c["bits"]) for c in record["candidates"]] == [("other-4bit", None), ("gates-8bit:bits=8", 8)]
    assert record["noise_floor_kl_nats"]["estimate"] == 0.0001


# --- frontier ---


def test_what_is_no_smaller_and_no_better_is_dominated(tmp_path):
    record = judged(tmp_path, comparison(member("gates", 4, size=100), member("uniform", 4, kl=0.04, size=110)))
    assert record["frontier"]["bytes"] == ["gates-8bit:bits=4"]
    (beaten,) = (c for c in record["candidates"] if c["dominated"])
    assert beaten["dominated"]["bytes"] == {"by": "gates-8bit:bits=4", "resolved": False}


@pytest.mark.parametrize(("low", "resolved"), [(0.001, True), (-0.001, False)])
def test_a_dominated_one_is_resolved_where_the_paired_interval_lies_above_0(tmp_path, low, resolved):
    paired = measure("kl_nats_difference", 0.01, 0.01 - low, against="gates-8bit:bits=4")
    worse = member("uniform", 4, paired, kl=0.04, size=110)
    record = judged(tmp_path, comparison(member("gates", 4, size=100), worse))
    assert record["candidates"][1]["dominated"]["bytes"]["resolved"] is resolved
    lines = sweep_text(record).splitlines()
    assert sum(text.startswith("-  " if resolved else "~  ") and "uniform" in text for text in lines) == 1


def test_two_alike_in_size_and_damage_are_both_on_the_frontier(tmp_path):
    record = judged(tmp_path, comparison(member("gates", 4, size=100), member("uniform", 4, size=100)))
    assert sorted(record["frontier"]["bytes"]) == ["gates-8bit:bits=4", "uniform-8bit:bits=4"]


def test_size_may_be_what_a_token_reads(tmp_path):
    heavy = member("gates", 4, size=120, kl=0.01, active_bytes_per_token=9)
    light = member("uniform", 4, size=100, kl=0.01, active_bytes_per_token=10)
    record = judged(tmp_path, comparison(heavy, light))
    assert record["frontier"] == {"bytes": ["uniform-8bit:bits=4"], "active_bytes_per_token": ["gates-8bit:bits=4"]}


@given(st.lists(st.tuples(st.integers(1, 6), st.integers(0, 6)), min_size=1, max_size=8))
def test_the_frontier_is_what_no_other_beats(points):
    found = [
        SweepPoint(str(i), "f", None, size, None, None, {"estimate": kl / 10}, None, {"measurements": []})
        for i, (size, kl) in enumerate(points)
    ]
    kept, beaten = frontier(found), dominated(found)
    assert sorted([*kept, *beaten]) == sorted(c.name for c in found)
    for name, by in beaten.items():
        worse, better = points[int(name)], points[int(by.by)]
        assert better != worse
        assert better[0] <= worse[0] and better[1] <= worse[1]
    for a in kept:
        for b in points:
            assert not (b[0] <= points[int(a)][0] and b[1] <= points[int(a)][1] and b != points[int(a)])


# --- thresholds ---


def test_a_family_leaves_each_tolerance_at_bits_of_its_own(tmp_path):
    record = judged(tmp_path, comparison(*walk()))
    overall, json_ = line(record, "gates-8bit", "kl_nats"), line(record, "gates-8bit", "kl_nats", slice="json")
    assert (overall["holds_to"], overall["leaves_at"], overall["fails_at"]) == (5, 4, 4)
    assert (json_["holds_to"], json_["leaves_at"], json_["leaves_as"], json_["fails_at"]) == (4, 3, "FAIL", 3)
    assert line(record, "gates-8bit")["holds_to"] == 5
    assert list(overall["statuses"]) == ["8", "6", "5", "4", "3", "2"]


def test_an_interval_on_the_edge_leaves_before_it_fails(tmp_path):
    edge = member("gates", 5, kl=0.019, half=0.002)
    record = judged(tmp_path, comparison(member("gates", 8), edge, member("gates", 4)), gate=GATE.partition("[[")[0] + (
        '[[tolerance]]\nmetric = "kl_nats"\nmax = 0.02\n'))  # fmt: skip
    figure = line(record, "gates-8bit", "kl_nats")
    assert (figure["leaves_at"], figure["leaves_as"], figure["fails_at"]) == (5, "INCONCLUSIVE", 4)


def test_bits_that_pass_below_one_that_does_not_are_told(tmp_path):
    members = [member("gates", 8), member("gates", 6, kl=0.5), member("gates", 5)]
    gate = '[[tolerance]]\nmetric = "kl_nats"\nmax = 0.02\n'
    record = judged(tmp_path, comparison(*members), gate=gate)
    figure = line(record, "gates-8bit", "kl_nats")
    assert (figure["holds_to"], figure["leaves_at"], figure["regained"]) == (8, 6, [5])
    assert record["recommendation"]["name"] == "gates-8bit:bits=5"
    (remark,) = record["recommendation"]["remarks"]
    assert remark.startswith("gates-8bit:bits=6 has more bits and is not inside (FAIL: kl_nats, overall)")


def test_a_family_that_fails_everywhere_holds_to_nothing(tmp_path):
    figure = line(judged(tmp_path, comparison(*walk(factor=100.0))), "gates-8bit", "kl_nats")
    assert (figure["holds_to"], figure["leaves_at"], figure["fails_at"]) == (None, 8, 8)


def test_a_family_that_never_leaves_says_so(tmp_path):
    figure = line(judged(tmp_path, comparison(*walk(bits=(8, 6)))), "gates-8bit")
    assert (figure["holds_to"], figure["leaves_at"], figure["fails_at"]) == (6, None, None)


# --- the recommendation ---


def test_the_smallest_inside_every_tolerance_is_recommended_with_reasons_against_the_next(tmp_path):
    recommendation = judged(tmp_path, comparison(*walk()))["recommendation"]
    assert (recommendation["name"], recommendation["bytes"], recommendation["inside"]) == (
        "gates-8bit:bits=5",
        5_050_000,
        2,
    )
    assert [s["name"] for s in recommendation["smaller"]] == [f"gates-8bit:bits={b}" for b in (4, 3, 2)]
    assert recommendation["smaller"][0]["reasons"] == ["FAIL: kl_nats ≤ 0.02: 0.03 [0.027, 0.033]"]
    assert recommendation["remarks"] == []


def test_choosing_among_families_asks_for_more_confidence_and_says_what_was_passed_over(tmp_path):
    gate = '[[tolerance]]\nmetric = "kl_nats"\nmax = 0.02\n'
    clear = [member("gates", 5, kl=0.005), member("uniform", 6, kl=0.005)]
    first, second = judged(tmp_path, comparison(*clear), gate=gate)["recommendation"]["remarks"]
    assert "inside also at the confidence that this asks for (Holm)" in first
    assert second.startswith("passed over: uniform-8bit:bits=6, the smallest inside of its family")
    near = [member("gates", 5, kl=0.0189, half=0.001), member("uniform", 6, kl=0.0189, half=0.001)]
    first, _ = judged(tmp_path, comparison(*near), gate=gate)["recommendation"]["remarks"]
    assert "not inside at the confidence that this asks for" in first


def test_inconclusive_is_not_inside_however_near(tmp_path):
    record = judged(tmp_path, comparison(member("gates", 8), member("gates", 5, kl=0.0199, half=0.002)),
                    gate='[[tolerance]]\nmetric = "kl_nats"\nmax = 0.02\n')  # fmt: skip
    assert record["recommendation"]["name"] == "gates-8bit:bits=8"
    (reason,) = record["recommendation"]["smaller"][0]["reasons"]
    assert reason.startswith("INCONCLUSIVE: kl_nats ≤ 0.02: 0.0199 [0.0179, 0.0219] (")
    assert "four of five runs settle it with" in reason and "given a true figure of 0.01" in reason


def test_a_slice_that_nobody_measured_lets_none_pass(tmp_path):
    gate = GATE.replace('["json"]', '["json", "numeric"]')
    recommendation = judged(tmp_path, comparison(*walk()), gate=gate)["recommendation"]
    assert recommendation["name"] is None
    assert recommendation["why"] == "3 of 6 candidates are outside a tolerance, 3 not settled or not measured"
    assert recommendation["nearest"]["name"] == "gates-8bit:bits=8"
    assert recommendation["nearest"]["reasons"] == [
        "MISSING: kl_nats, slice numeric ≤ 0.1: kl_nats was not measured there; measured at slice: json"
    ]


def test_where_all_fail_the_nearest_is_the_one_with_the_fewest_failures_and_it_is_no_recommendation(tmp_path):
    recommendation = judged(tmp_path, comparison(*walk(factor=100.0)))["recommendation"]
    assert recommendation["name"] is None and recommendation["why"] == "all 6 candidates are outside a tolerance"
    assert recommendation["nearest"]["name"] == "gates-8bit:bits=8"
    assert recommendation["nearest"]["verdict"] == "FAIL"


def test_of_two_of_one_size_the_one_that_reads_less_a_token_then_the_one_with_less_damage_is_taken(tmp_path):
    gate = '[[tolerance]]\nmetric = "kl_nats"\nmax = 0.02\n'
    more = member("gates", 5, size=100, active_bytes_per_token=20, kl=0.001)
    less = member("uniform", 5, size=100, active_bytes_per_token=10, kl=0.002)
    assert judged(tmp_path, comparison(more, less), gate=gate)["recommendation"]["name"] == "uniform-8bit:bits=5"
    same = member("uniform", 5, size=100, active_bytes_per_token=20, kl=0.002)
    assert judged(tmp_path, comparison(more, same), gate=gate)["recommendation"]["name"] == "gates-8bit:bits=5"


def test_too_few_documents_recommend_nothing(tmp_path):
    few = [member("gates", 8)]
    few[0]["measurements"] = [measure("kl_nats", 0.0001, 0.00001, clusters=5)]
    found = judged(tmp_path, comparison(*few), gate='[[tolerance]]\nmetric = "kl_nats"\nmax = 0.02\n')
    assert found["recommendation"]["name"] is None
    assert found["candidates"][0]["first_missed"]["status"] == "TOO FEW"


# --- other records of the same candidates ---

CALLS = """
[[tolerance]]
metric = "kl_nats"
max = 0.02
[[tolerance]]
metric = "right_call"
record = "eval"
min_difference = -0.02
"""


def played(name: str, difference: float, sha: str | None = None) -> dict[str, Any]:
    side = {"name": name, "recipe": {"name": "gates-8bit", "sha256": sha or name}}
    return evaluation(measure("right_call_difference", difference, 0.005), side=side)


def test_an_evaluation_counts_for_the_candidate_of_its_name_or_of_its_recipe_s_hash(tmp_path):
    five, four = member("gates", 5), member("gates", 4, kl=0.01)
    by_hash = played("build-4", -0.1, sha=four["recipe"]["sha256"])
    record = judged(tmp_path, comparison(five, four), by_hash, gate=CALLS)
    statuses = {(c["candidate"], c["metric"]): c["status"] for c in record["checks"]}
    assert statuses["gates-8bit:bits=4", "right_call"] == "FAIL"
    assert statuses["gates-8bit:bits=5", "right_call"] == "MISSING"
    reasons = [c["reason"] for c in record["checks"] if c["status"] == "MISSING"]
    assert reasons == ["measured in r1.json, but not for this candidate"]
    assert record["recommendation"]["name"] is None
    by_name = played(five["name"], 0.0, sha=five["recipe"]["sha256"])
    assert judged(tmp_path, comparison(five, four), by_name, gate=CALLS)["recommendation"]["name"] == five["name"]


def test_an_evaluation_of_none_of_the_candidates_is_left_out_with_a_warning(tmp_path):
    record = judged(tmp_path, comparison(member("gates", 8)), played("stranger", 0.0, "f" * 64), gate=CALLS)
    assert any("'stranger' is no candidate of r0.json" in w for w in record["warnings"])
    assert record["candidates"][0]["measured_in"] == ["r0.json"]


def test_records_of_one_name_but_other_builds_are_refused(tmp_path):
    eight = member("gates", 8)
    paths = write(tmp_path, c=comparison(eight), e=played(eight["name"], 0.0, "f" * 64), t=CALLS)
    done = run("--from", paths[0], "--from", paths[1], "-t", paths[2])
    assert done.exit_code == 2
    assert "recipe_sha256 differs" in done.stderr


def test_the_best_few_are_inside_first_then_open_and_the_smallest_of_each_but_none_that_is_outside(tmp_path):
    members = [*walk(), member("uniform", 5, kl=0.0195, half=0.002)]
    record = judged(tmp_path, comparison(*members), gate='[[tolerance]]\nmetric = "kl_nats"\nmax = 0.02\n')
    inside = [f"gates-8bit:bits={b}" for b in (5, 6, 8)]
    assert best_few(record, 2) == inside[:2]
    assert best_few(record, 9) == [*inside, "uniform-8bit:bits=5"]


# --- what is measured ---


@pytest.mark.parametrize(
    ("tolerance", "own", "forced"),
    [
        ('metric = "kl_nats"\nmax = 1.0', False, False),
        ('metric = "expert_set_changed"\nlayer = "*"\ncase = "router"\nmax = 0.1', True, False),
        ('metric = "kl_nats"\ncase = "teacher-forced"\nmax = 0.1', False, True),
        ('metric = "kl_through_routing_nats"\nmax = 0.1', False, True),
    ],
)
def test_the_pass_measures_what_the_tolerances_ask_for(tmp_path, tolerance, own, forced):
    from mlxquant.stream.options import CompareOptions
    from mlxquant.validate import read_tolerances

    (path,) = write(tmp_path, t=f"[[tolerance]]\n{tolerance}\n")
    found = needed(CompareOptions(), read_tolerances(path))
    assert (found.own, found.teacher_forced_routing) == (own, forced)


# --- the record, the text, the command ---


def test_the_record_names_what_it_rests_on(tmp_path):
    record = judged(tmp_path, comparison(*walk()))
    assert record["schema"] == "mlxquant.sweep/1"
    assert len(record["tolerances"]["sha256"]) == 64
    assert [e["file"] for e in record["evidence"]] == ["r0.json"]
    assert record["baseline"]["bytes"] == 16_000_000
    assert record["tolerances"]["newer_than"] == ["r0.json"]
    assert any("set after the fact" in w for w in record["warnings"])


@pytest.mark.parametrize("factor", [1.0, 100.0])
def test_the_text_fits_80_columns_and_begins_with_the_answer(tmp_path, factor):
    members = [*walk(factor=factor), *walk("uniform", factor=2 * factor)]
    for c in members:
        c["name"] = c["name"].replace(":", "-of-a-recipe-with-a-long-name:").replace("bits", "group_size=128,bits")
    text = sweep_text(judged(tmp_path, comparison(*members)))
    assert max(map(len, text.splitlines())) <= 80
    assert text.startswith("recommended  nothing: " if factor > 1 else "recommended  uniform-8bit-of-a-recipe")
    assert "not smaller" in text or "nearest" in text


def test_the_text_says_what_is_open_and_what_the_next_smaller_one_misses(tmp_path):
    lines = sweep_text(judged(tmp_path, comparison(*walk()))).splitlines()
    chosen = next(text for text in lines if text.startswith("*"))
    assert chosen.split()[1:3] == ["gates-8bit:bits=5", "4.82"]
    assert chosen.split()[-1] == "-"
    at = next(i for i, text in enumerate(lines) if text.startswith("not smaller"))
    assert "gates-8bit:bits=4" in lines[at]
    assert "FAIL: kl_nats ≤ 0.02: 0.03 [0.027, 0.033]" in lines[at + 1]


def test_the_exit_code_is_0_with_a_recommendation_1_where_all_fail_and_4_where_some_stay_open(tmp_path):
    good, bad = write(tmp_path, good=comparison(*walk()), bad=comparison(*walk(factor=100.0)))
    (gate,) = write(tmp_path, gate=GATE)
    done = run("--from", good, "-t", gate, "--json", "-o", tmp_path / "sweep.json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == json.loads((tmp_path / "sweep.json").read_text())
    assert run("--from", bad, "-t", gate).exit_code == 1
    (gate,) = write(tmp_path, more=GATE + '[[tolerance]]\nmetric = "pass"\nmin_difference = -0.05\n')
    assert run("--from", good, "-t", gate).exit_code == 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-t", "{gate}"], "SOURCE is missing"),
        (["-t", "{gate}", "--from", "{good}", "--recipes", "gates-8bit"], "it measures nothing"),
        (["-t", "{gate}", "--from", "{other}"], "a sweep is of one comparison: 0"),
        (["-t", "{gate}", "--from", "{good}", "--from", "{good}"], "given twice"),
        (["-t", "{wrong}", "{tmp}"], "unknown metric 'kl_nat'"),
        (["-t", "{gate}", "{tmp}"], "nothing to sweep"),
        (["-t", "{gate}", "{tmp}", "--recipes", "gates-8bit", "--bits", "7"], "bits"),
    ],
)
def test_what_cannot_be_swept_is_refused_before_anything_is_measured(tmp_path, words, message):
    paths = write(tmp_path, good=comparison(*walk()), other=played("b", 0.0), gate=GATE,
                  wrong=GATE.replace("kl_nats", "kl_nat"))  # fmt: skip
    names = {p.stem: str(p) for p in paths} | {"tmp": str(tmp_path)}
    done = run(*(word.format(**names) for word in words))
    assert done.exit_code in (2, 3)
    assert message in done.stderr


def test_kept_records_are_judged_where_there_is_no_mlx(tmp_path):
    compared, gate = write(tmp_path, compared=comparison(*walk()), gate=GATE)
    names = ("mlx", "mlx.core", "mlx_lm", "numba", "safetensors", "huggingface_hub", "transformers")
    script = f"import sys\nfor n in {names}: sys.modules[n] = None\nfrom mlxquant.cli import main; main()"
    words = ["sweep", "--from", str(compared), "-t", str(gate)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("recommended  gates-8bit:bits=5")
