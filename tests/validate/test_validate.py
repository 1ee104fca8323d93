"""`mlxquant validate`: verdicts from records, and what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from mlxquant.cli import main
from mlxquant.report.verdict import verdict_text, what_now
from mlxquant.stats import Interval
from mlxquant.validate import read_evidence, validate
from mlxquant.validate.evidence import UNITS
from mlxquant.validate.judge import judge
from mlxquant.validate.tolerances import Tolerance
from tests.report.report_records import audit as audit_record
from tests.validate.validate_records import MACHINE, RECIPE, bench, compare, evaluation, measure, tau2, write

ROOT = Path(__file__).resolve().parents[2]


def run(*words: object) -> Result:
    return CliRunner().invoke(main, ["validate", *map(str, words)])


def tolerance(text: str, head: str = "") -> str:
    return f"{head}\n[[tolerance]]\n{text}\n"


def verdict(folder: Path, text: str, *records: dict[str, Any], **options: Any) -> dict[str, Any]:
    """The record of judging these records by a file of one or several tolerances."""
    paths = write(folder, **{f"r{i}": record for i, record in enumerate(records)})
    (file,) = write(folder, tolerances=text)
    return validate([read_evidence(path) for path in paths], file, **options)


def only(record: dict[str, Any]) -> dict[str, Any]:
    assert len(record["checks"]) == 1, record["checks"]
    return dict(record["checks"][0])


# --- statuses ---


@pytest.mark.parametrize(
    ("limit", "status"),
    [
        ("max = 0.013", "PASS"),
        ("max = 0.012", "PASS"),
        ("max = 0.0119", "INCONCLUSIVE"),
        ("max = 0.0081", "INCONCLUSIVE"),
        ("max = 0.0079", "FAIL"),
        ("min = 0.007\nmax = 0.013", "PASS"),
        ("min = 0.009\nmax = 0.013", "INCONCLUSIVE"),
        ("min = 0.0\nmax = 0.001", "FAIL"),
    ],
)
def test_a_figure_passes_only_where_its_whole_interval_lies_within(tmp_path: Path, limit: str, status: str) -> None:
    record = verdict(tmp_path, tolerance(f'metric = "kl_nats"\n{limit}'), compare(measure("kl_nats", 0.01, 0.002)))
    assert only(record)["status"] == status
    assert record["verdict"] == (status if status in ("PASS", "FAIL") else "INCONCLUSIVE")


@given(st.floats(-1, 1), st.floats(0, 1), st.floats(-1, 1), st.booleans(), st.integers(1, 100))
def test_a_pass_is_never_given_to_an_interval_that_reaches_out_or_rests_on_too_little(
    estimate: float, half: float, limit: float, upper: bool, clusters: int
) -> None:
    from mlxquant.validate.evidence import Evidence, Figure, MeasuredSide

    found = Interval(estimate, estimate - half, estimate + half, half / 2, 10 * clusters, clusters, df=clusters - 1)
    side = MeasuredSide("x", {}, {}, (Figure("pass", (), found),))
    evidence = Evidence("f", "mlxquant.eval/1", "0", None, {}, {}, {}, None, (side,))
    low, high = (None, limit) if upper else (limit, None)
    (check,) = judge([Tolerance(1, "pass", "itself", low, high, min_clusters=20)], [(evidence, side)])
    within = found.high <= limit if upper else found.low >= limit  # type: ignore[operator]
    assert (check.status == "PASS") == (within and clusters >= 20)
    if check.status == "FAIL":
        assert not within


@pytest.mark.parametrize(
    ("limit", "status"), [("min = 0.989", "PASS"), ("min = 0.991", "INCONCLUSIVE"), ("min = 0.9921", "FAIL")]
)
def test_a_figure_of_which_more_is_better_has_its_limit_below(tmp_path: Path, limit: str, status: str) -> None:
    record = verdict(tmp_path, tolerance(f'metric = "same_top"\n{limit}'), compare(measure("same_top", 0.99, 0.001)))
    assert only(record)["status"] == status


def test_what_was_not_measured_is_missing_and_says_what_there_is(tmp_path: Path) -> None:
    record = verdict(
        tmp_path,
        tolerance('metric = "kl_nats"\nslice = "jsno"\nmax = 1'),
        compare(measure("kl_nats", 0.01), measure("kl_nats", 0.01, slice="json")),
    )
    check = only(record)
    assert (check["status"], record["verdict"]) == ("MISSING", "INCONCLUSIVE")
    assert "slice: json" in check["reason"]


def test_a_slice_of_tokens_that_is_named_as_one_of_documents_is_pointed_out(tmp_path: Path) -> None:
    record = verdict(
        tmp_path,
        tolerance('metric = "kl_nats"\nslice = "json"\nmax = 1'),
        compare(measure("kl_nats", 0.01, slice="in:json")),
    )
    assert "'in:json'" in only(record)["reason"]


def test_a_slice_that_is_too_small_is_no_pass_but_can_fail(tmp_path: Path) -> None:
    small = measure("kl_nats", 0.01, 0.001, slice="json", clusters=7)
    text = 'metric = "kl_nats"\nslice = "json"\nmax = {}'
    check = only(verdict(tmp_path, tolerance(text.format(0.02)), compare(small)))
    assert (check["status"], check["needed"], check["reason"]) == ("TOO FEW", 13, "7 of at least 20")
    assert only(verdict(tmp_path, tolerance(text.format(0.005)), compare(small)))["status"] == "FAIL"
    enough = tolerance(text.format(0.02) + "\nmin_clusters = 5")
    assert only(verdict(tmp_path, enough, compare(small)))["status"] == "PASS"


def test_too_few_observations_are_no_pass_either(tmp_path: Path) -> None:
    text = tolerance('metric = "same_top"\nmin = 0.9\nmin_samples = 10_000')
    assert only(verdict(tmp_path, text, compare(measure("same_top", 0.99, 0.001))))["status"] == "TOO FEW"


def test_a_figure_without_an_interval_is_not_settled(tmp_path: Path) -> None:
    figure = measure("kl_max_nats", 0.5, None, reason="an extreme; it has no interval")
    check = only(verdict(tmp_path, tolerance('metric = "kl_max_nats"\nmax = 1'), compare(figure)))
    assert (check["status"], check["reason"]) == ("INCONCLUSIVE", "an extreme; it has no interval")


def test_an_open_question_says_how_many_would_settle_it_if_the_figure_were_well_within(tmp_path: Path) -> None:
    text = tolerance('metric = "kl_nats"\nmax = 0.011')
    check = only(verdict(tmp_path, text, compare(measure("kl_nats", 0.01, 0.002))))
    assert check["status"] == "INCONCLUSIVE" and check["unit"] == "documents" and check["needed"] is None
    plan = check["plan"]
    assert plan["assumed"] == pytest.approx(0.0055) and 20 <= plan["least"] <= plan["most"]
    total = plan["most"]
    settled = measure("kl_nats", plan["assumed"], 0.002 * (50 / total) ** 0.5, clusters=total)
    assert only(verdict(tmp_path, text, compare(settled)))["status"] == "PASS"


def test_what_would_settle_it_does_not_depend_on_how_near_the_estimate_came(tmp_path: Path) -> None:
    text = tolerance('metric = "kl_nats"\nmax = 0.011')
    plans = [only(verdict(tmp_path, text, compare(measure("kl_nats", x, 0.01))))["plan"] for x in (0.008, 0.0109)]
    assert plans[0] == plans[1] and plans[0]["least"] > 20


def test_a_higher_confidence_asks_for_more(tmp_path: Path) -> None:
    text = 'metric = "kl_nats"\nmax = 0.0125\nconfidence = {}'
    records = compare(measure("kl_nats", 0.01, 0.002))
    assert only(verdict(tmp_path, tolerance(text.format(0.95)), records))["status"] == "PASS"
    check = only(verdict(tmp_path, tolerance(text.format(0.99)), records))
    assert check["status"] == "INCONCLUSIVE" and check["high"] == pytest.approx(0.01 + 0.002 * 2.680 / 2.0096, rel=1e-3)


def test_how_often_an_interval_of_few_documents_holds_is_said_until_more_confidence_is_asked_for(
    tmp_path: Path,
) -> None:
    text, records = 'metric = "kl_nats"\nmax = 1\nconfidence = {}', compare(measure("kl_nats", 0.01, 0.002))
    for confidence, times in ((0.95, 1), (0.99, 0)):
        caveats = verdict(tmp_path, tolerance(text.format(confidence)), records)["caveats"]
        assert sum("KL is skewed" in caveat for caveat in caveats) == times


def test_that_no_number_settles_it_gives_the_reason_that_there_is() -> None:
    check = {"status": "INCONCLUSIVE", "unit": "tasks", "of": "itself", "low_limit": None, "high_limit": 0.5}
    assert "alike" not in what_now(check) and "near" in what_now(check)
    assert "alike" in what_now(check | {"of": "difference", "high_limit": 0.0})
    assert "alike" in what_now(check | {"of": "ratio", "low_limit": 1.0})


def test_an_interval_that_cannot_be_stated_again_serves_lower_confidences_only(tmp_path: Path) -> None:
    figure = measure("kl_p99_nats", 0.1, 0.01, method="Woodruff on clusters")
    text = 'metric = "kl_p99_nats"\nmax = 0.2\nconfidence = {}'
    assert only(verdict(tmp_path, tolerance(text.format(0.9)), compare(figure)))["status"] == "PASS"
    check = only(verdict(tmp_path, tolerance(text.format(0.99)), compare(figure)))
    assert check["status"] == "INCONCLUSIVE" and "cannot be restated" in check["reason"]


# --- where, and relative to what ---


def test_no_place_means_overall_and_a_star_means_every_one(tmp_path: Path) -> None:
    records = compare(
        measure("kl_nats", 0.01), measure("kl_nats", 0.02, slice="json"), measure("kl_nats", 0.9, slice="de"),
        measure("kl_nats", 0.9, slice="de", depth="1-256"), measure("kl_nats", 0.9, case="own"),
    )  # fmt: skip
    assert [c["estimate"] for c in verdict(tmp_path, tolerance('metric = "kl_nats"\nmax = 1'), records)["checks"]] == [
        0.01
    ]
    every = verdict(tmp_path, tolerance('metric = "kl_nats"\nslice = "*"\nmax = 0.1'), records)
    assert [(c["slice"], c["status"]) for c in every["checks"]] == [("json", "PASS"), ("de", "FAIL")]
    listed = verdict(tmp_path, tolerance('metric = "kl_nats"\nslice = ["json", "fr"]\nmax = 0.1'), records)
    assert [(c["slice"], c["status"]) for c in listed["checks"]] == [("json", "PASS"), ("fr", "MISSING")]


def test_layers_are_named_by_number(tmp_path: Path) -> None:
    records = compare(*(measure("expert_set_changed", 0.01 * i, layer=i) for i in range(1, 4)))
    text = tolerance('metric = "expert_set_changed"\nlayer = [1, 3]\nmax = 0.02')
    assert [c["status"] for c in verdict(tmp_path, text, records)["checks"]] == ["PASS", "FAIL"]


def test_a_measured_difference_is_taken_before_one_that_is_worked_out(tmp_path: Path) -> None:
    before = (measure("pass", 0.8, 0.1),)
    records = evaluation(measure("pass", 0.79, 0.1), measure("pass_difference", -0.01, 0.005), before=before)
    check = only(verdict(tmp_path, tolerance('metric = "pass"\nmin_difference = -0.02'), records))
    assert (check["status"], check["estimate"], check["high"]) == ("PASS", -0.01, pytest.approx(-0.005))


def test_an_unpaired_difference_is_worked_out_from_both_intervals(tmp_path: Path) -> None:
    before = (measure("ttft_s_p50", 1.0, 0.3),)
    text = tolerance('metric = "ttft_s_p50"\nmax_difference = 1.6')
    check = only(verdict(tmp_path, text, evaluation(measure("ttft_s_p50", 2.0, 0.4), before=before)))
    assert (check["estimate"], check["low"], check["high"]) == (1.0, pytest.approx(0.5), pytest.approx(1.5))
    assert check["status"] == "PASS" and check["method"] == "MOVER, unpaired"


def test_an_unpaired_ratio_is_worked_out_on_logarithms(tmp_path: Path) -> None:
    before = (measure("decode_tok_s_p50", 40.0, 2.0),)
    text = tolerance('metric = "decode_tok_s_p50"\nmin_ratio = 0.8')
    check = only(verdict(tmp_path, text, evaluation(measure("decode_tok_s_p50", 36.0, 2.0), before=before)))
    assert check["estimate"] == pytest.approx(0.9) and check["status"] == "PASS"
    assert 0.83 < check["low"] < 0.85 and 0.95 < check["high"] < 0.98


def test_a_figure_is_held_against_the_noise_floor_of_its_own_run(tmp_path: Path) -> None:
    figure = measure("kl_nats_difference", 0.0005, 0.0001, against="bf16 noise floor")
    text = tolerance('metric = "kl_nats"\nagainst = "bf16 noise floor"\nmax_difference = 0.001')
    assert only(verdict(tmp_path, text, compare(measure("kl_nats", 0.1), figure)))["status"] == "PASS"


def test_without_a_baseline_a_difference_is_missing_and_says_so(tmp_path: Path) -> None:
    record = evaluation(measure("pass", 0.8))
    record["baseline"] = None
    check = only(verdict(tmp_path, tolerance('metric = "pass"\nmin_difference = -0.1'), record))
    assert check["status"] == "MISSING" and "no baseline" in check["reason"]


def test_speeds_are_ratios_round_by_round(tmp_path: Path) -> None:
    text = tolerance('metric = "decode_tok_s"\nmin_ratio = 0.95\nmin_clusters = 5')
    check = only(verdict(tmp_path, text, bench(0.97)))
    assert (check["status"], check["test"], check["unit"]) == ("PASS", "tg16", "rounds")
    assert check["estimate"] == pytest.approx(0.97, rel=1e-3)
    assert only(verdict(tmp_path, text, bench(0.90)))["status"] == "FAIL"
    noisy = only(verdict(tmp_path, text, bench(0.955, noise=0.05)))
    assert noisy["status"] == "INCONCLUSIVE" and noisy["plan"]["assumed"] == 0
    assert only(verdict(tmp_path, text, bench(0.97, rounds=3)))["status"] == "TOO FEW"


def test_prefill_latency_and_memory_are_figures_too(tmp_path: Path) -> None:
    text = (
        tolerance('metric = "prefill_tok_s"\ntest = "pp64"\nmin_ratio = 0.9\nmin_clusters = 5')
        + tolerance('metric = "ttft_s"\nmax_ratio = 1.1\nmin_clusters = 5')
        + tolerance('metric = "peak_memory_bytes"\nmax = 1001')
    )
    statuses = [c["status"] for c in verdict(tmp_path, text, bench())["checks"]]
    assert statuses == ["PASS"] * 4


def test_sizes_are_counted_and_need_no_sample(tmp_path: Path) -> None:
    text = tolerance('metric = "bytes"\nmax = 1000') + tolerance('metric = "bytes"\nmax_ratio = 0.6')
    record = verdict(tmp_path, text, evaluation(side={"bytes": 1000}), bench())
    assert [c["status"] for c in record["checks"]] == ["PASS", "PASS"]
    assert record["checks"][1]["estimate"] == pytest.approx(0.5)
    assert "exact" in verdict_text(record)


def test_an_audit_s_sizes_are_judged(tmp_path: Path) -> None:
    check = only(verdict(tmp_path, tolerance('metric = "bpw"\nmax = 1'), audit_record()))
    assert check["status"] == "FAIL"


def test_trials_without_an_answer_are_a_share_with_an_interval(tmp_path: Path) -> None:
    lost = measure("timeouts", 0, None, n=100, reason="a count of trials, not a sample")
    text = 'metric = "timeouts"\nmax = {}'
    check = only(verdict(tmp_path, tolerance(text.format(0.08)), evaluation(lost)))
    assert check["status"] == "PASS" and check["high"] == pytest.approx(1 - 0.025 ** (1 / 50), rel=1e-4)
    some = measure("timeouts", 2, None, n=100, reason="a count")
    check = only(verdict(tmp_path, tolerance(text.format(0.1)), evaluation(some)))
    assert check["status"] == "INCONCLUSIVE" and check["plan"]["assumed"] == 0.05


def test_a_record_s_kind_can_be_asked_for(tmp_path: Path) -> None:
    records = (evaluation(measure("pass_hat_1", 0.9, 0.01)), tau2(measure("pass_hat_1", 0.5, 0.01)))
    text = 'metric = "pass_hat_1"\nmin = 0.8\n'
    assert [c["status"] for c in verdict(tmp_path, tolerance(text), *records)["checks"]] == ["PASS", "FAIL"]
    assert only(verdict(tmp_path, tolerance(text + 'record = "eval"'), *records))["status"] == "PASS"
    assert only(verdict(tmp_path, tolerance(text + 'record = "bench"'), *records))["status"] == "MISSING"


# --- which records ---


def test_records_of_different_builds_sources_and_machines_are_refused_with_what_differs(tmp_path: Path) -> None:
    text = tolerance('metric = "kl_nats"\nmax = 1')
    (file,) = write(tmp_path, t=text)
    good = compare(measure("kl_nats", 0.01))
    for name, other, words in (
        (
            "recipe",
            evaluation(side={"recipe": RECIPE | {"sha256": "c" * 64}}),
            ["recipe_sha256 differs", "aaaaaaaaaaaa"],
        ),
        ("model", evaluation(side={"model_type": "olmoe"}), ["model_type differs: qwen3_5_moe"]),
        ("chip", evaluation(machine=MACHINE | {"chip": "Apple M4 Max"}), ["machine's chip differs", "Apple M4 Max"]),
    ):
        paths = write(tmp_path, good=good, **{name: other})
        done = run(*paths, "-t", file)
        assert done.exit_code == 2, (name, done.output)
        for word in (*words, "good.json", f"{name}.json"):
            assert word in done.output or name == "model", (word, done.output)
    paths = write(
        tmp_path, a=good, b=compare(measure("same_top", 0.9), source={"name": "org/Model", "revision": "ffff"})
    )
    assert "source's revision differs: 0123abcd" in run(*paths, "-t", file).output
    paths = write(tmp_path, a=bench(), b=evaluation(side={"manifest_sha256": "d" * 64}))
    assert "manifest_sha256 differs" in run(*paths, "-t", file).output


def test_memory_and_cores_part_speeds_but_not_quality(tmp_path: Path) -> None:
    (file,) = write(tmp_path, t=tolerance('metric = "kl_nats"\nmax = 1'))
    smaller = MACHINE | {"memory_bytes": 96 * 2**30}
    paths = write(tmp_path, a=compare(measure("kl_nats", 0.01)), b=bench(machine=smaller))
    assert run(*paths, "-t", file).exit_code == 0
    paths = write(tmp_path, a=evaluation(measure("kl_nats", 0.01)), b=bench(machine=smaller))
    done = run(*paths, "-t", file)
    assert done.exit_code == 2 and "machine's memory_bytes differs" in done.output
    done = run(*paths, "-t", file, "--mixed-machines", "--json")
    assert done.exit_code == 0
    assert any("judged although machine's memory_bytes differs" in w for w in json.loads(done.stdout)["warnings"])


def test_a_record_that_does_not_say_which_build_or_machine_it_is_of_is_warned_of(tmp_path: Path) -> None:
    text = tolerance('metric = "pass_hat_1"\nmin = 0.1')
    record = verdict(tmp_path, text, evaluation(), tau2(measure("pass_hat_1", 0.5, 0.01)))
    warnings = "\n".join(record["warnings"])
    assert "r1.json does not say on which machine" in warnings
    assert "nothing in r1.json says which build it measured" in warnings


def test_several_candidates_are_all_judged_or_the_one_that_is_named(tmp_path: Path) -> None:
    many = compare(measure("kl_nats", 0.01))
    second = {**many["candidates"][0], "name": "uniform-2bit", "recipe": {"name": "uniform-2bit", "sha256": "e" * 64}}
    many["candidates"].append(second | {"measurements": [measure("kl_nats", 0.5)]})
    text = tolerance('metric = "kl_nats"\nmax = 0.02')
    record = verdict(tmp_path, text, many)
    assert [(c["name"], c["verdict"]) for c in record["candidates"]] == [
        ("gates-8bit", "PASS"),
        ("uniform-2bit", "FAIL"),
    ]
    assert record["verdict"] == "FAIL"
    assert verdict(tmp_path, text, many, candidates=["gates-8bit"])["verdict"] == "PASS"
    paths = write(tmp_path, many=many, one=evaluation())
    done = run(*paths, "-t", tmp_path / "tolerances.toml")
    assert done.exit_code == 2 and "give --candidate with one of gates-8bit, uniform-2bit" in done.output
    assert run(*paths, "-t", tmp_path / "tolerances.toml", "--candidate", "gates-8bit").exit_code == 0
    assert (
        "have gates-8bit, uniform-2bit" in run(paths[0], "-t", tmp_path / "tolerances.toml", "--candidate", "x").output
    )


def test_the_noise_floor_is_no_candidate(tmp_path: Path) -> None:
    record = verdict(tmp_path, tolerance('metric = "kl_nats"\nmax = 1'), compare(measure("kl_nats", 0.01)))
    assert [c["name"] for c in record["candidates"]] == ["gates-8bit"]


def test_a_record_given_twice_counts_once(tmp_path: Path) -> None:
    (path,) = write(tmp_path, a=compare(measure("kl_nats", 0.01)))
    (file,) = write(tmp_path, t=tolerance('metric = "kl_nats"\nmax = 1'))
    assert run(path, path, "-t", file).exit_code == 2


@pytest.mark.parametrize("schema", ["mlxquant.diff/1", "mlxquant.validate/1", "else/1"])
def test_what_is_nothing_to_judge_is_refused(tmp_path: Path, schema: str) -> None:
    (path,) = write(tmp_path, a={"schema": schema})
    (file,) = write(tmp_path, t=tolerance('metric = "kl_nats"\nmax = 1'))
    done = run(path, "-t", file)
    assert done.exit_code == 3 and f"a record of {', '.join(sorted(UNITS))} expected" in done.output


@pytest.mark.parametrize("broken", [
    {"candidates": []}, {"candidates": None}, {"candidates": [{"name": 1}]}, {"candidates": [{"name": "x"}]},
    {"candidates": [{"name": "x", "measurements": [{"metric": "pass"}]}]}, {"baseline": 7},
    {"candidates": [{"name": "x", "measurements": [measure("pass", 1.0) | {"estimate": None}]}]},
    {"candidates": [{"name": "x", "measurements": [measure("pass", 1.0) | {"clusters": True}]}]},
])  # fmt: skip
def test_a_broken_record_is_told_and_not_judged(tmp_path: Path, broken: dict[str, Any]) -> None:
    (path,) = write(tmp_path, a=evaluation(measure("pass", 0.5)) | broken)
    (file,) = write(tmp_path, t=tolerance('metric = "pass"\nmax = 1'))
    done = run(path, "-t", file)
    assert done.exit_code == 3 and "expected" in done.output, done.output


# --- the verdict ---


def test_the_verdict_keeps_the_tolerances_hash_and_the_way_back(tmp_path: Path) -> None:
    import hashlib

    text = tolerance('metric = "pass"\nmin = 0.1')
    record = verdict(tmp_path, text, evaluation(measure("pass", 0.5)), compare(), baseline_at="s3://models/bf16")
    assert record["tolerances"]["sha256"] == hashlib.sha256((tmp_path / "tolerances.toml").read_bytes()).hexdigest()
    assert record["baseline"]["name"] == "bf16"
    assert record["baseline"]["pointer"]["manifest_sha256"] == "0" * 64
    assert record["baseline"]["at"] == "s3://models/bf16"
    assert record["machine"]["chip"] == MACHINE["chip"] and record["versions"]["mlx"] == "0.32.4"
    assert [e["file"] for e in record["evidence"]] == ["r0.json", "r1.json"]


def test_a_baseline_that_nobody_can_find_is_warned_of(tmp_path: Path) -> None:
    record = compare(measure("kl_nats", 0.01))
    del record["source"]
    warnings = verdict(tmp_path, tolerance('metric = "kl_nats"\nmax = 1'), record)["warnings"]
    assert any("--baseline-at" in w for w in warnings)


def test_different_baselines_are_warned_of(tmp_path: Path) -> None:
    other = bench()
    other["builds"][0] |= {"name": "uniform", "manifest_sha256": "9" * 64}
    text = tolerance('metric = "pass"\nmin = 0.1')
    warnings = verdict(tmp_path, text, evaluation(measure("pass", 0.5)), other)["warnings"]
    assert any("different baselines: bf16 in r0.json, uniform in r1.json" in w for w in warnings)


def test_tolerances_newer_than_the_measurements_are_warned_of(tmp_path: Path) -> None:
    text = tolerance('metric = "kl_nats"\nmax = 1')
    record = verdict(tmp_path, text, compare(measure("kl_nats", 0.01)))
    assert record["tolerances"]["newer_than"] == ["r0.json"]
    assert any("after the measurements" in w for w in record["warnings"])
    os.utime(tmp_path / "tolerances.toml", (0, time.mktime((2025, 12, 1, 0, 0, 0, 0, 0, 0))))
    again = validate([read_evidence(tmp_path / "r0.json")], tmp_path / "tolerances.toml")
    assert again["tolerances"]["newer_than"] == [] and not again["warnings"]


def test_a_committed_file_is_as_old_as_its_commit_until_it_is_changed(tmp_path: Path) -> None:
    (file,) = write(tmp_path, t=tolerance('metric = "kl_nats"\nmax = 1'))
    (path,) = write(tmp_path, a=compare(measure("kl_nats", 0.01)))
    who = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b"}
    env = {**os.environ, **who, "GIT_COMMITTER_DATE": "2025-12-01T00:00:00Z", "GIT_AUTHOR_DATE": "2025-12-01T00:00:00Z"}
    for words in (["init", "-q"], ["add", "t.toml"], ["commit", "-q", "-m", "tolerances"]):
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True, env=env)
    record = validate([read_evidence(path)], file)
    assert record["tolerances"]["written"] == "2025-12-01T00:00:00Z"
    assert record["tolerances"]["written_by"] == "git commit" and not record["tolerances"]["newer_than"]
    file.write_text(tolerance('metric = "kl_nats"\nmax = 2'))
    assert validate([read_evidence(path)], file)["tolerances"]["newer_than"] == ["a.json"]


def test_it_says_what_its_evidence_cannot_say_where_such_evidence_is_used(tmp_path: Path) -> None:
    kl = verdict(tmp_path, tolerance('metric = "kl_nats"\nmax = 1'), compare(measure("kl_nats", 0.01)))["caveats"]
    assert any("2606.19558" in c for c in kl) and any("Nothing here was generated" in c for c in kl)
    assert any(c.startswith("KL is skewed: over 50 documents") for c in kl)
    flips = verdict(tmp_path, tolerance('metric = "same_top"\nmin = 0.1'), compare(measure("same_top", 0.9)))["caveats"]
    assert any("200-call loop" in c for c in flips)
    shallow = verdict(
        tmp_path, tolerance('metric = "right_call"\ndepth = "1-20"\nmin = 0.1'),
        evaluation(measure("right_call", 0.9, depth="1-20")),
    )["caveats"]  # fmt: skip
    assert any("No loop of 151 calls" in c for c in shallow) and not any("KL" in c for c in shallow)
    deep = verdict(
        tmp_path, tolerance('metric = "right_call"\ndepth = "151+"\nmin = 0.1'),
        evaluation(measure("right_call", 0.9, depth="151+")),
    )["caveats"]  # fmt: skip
    assert not any("No loop of 151 calls" in c for c in deep)
    tokens = verdict(
        tmp_path,
        tolerance('metric = "right_call"\nmin = 0.1') + tolerance('metric = "kl_nats"\ndepth = "257-1024"\nmax = 1'),
        evaluation(measure("right_call", 0.9)), compare(measure("kl_nats", 0.01, depth="257-1024")),
    )["caveats"]  # fmt: skip
    assert any("No loop of 151 calls" in c for c in tokens), "a comparison's depth counts tokens, not calls"


def test_a_command_line_that_lacks_records_or_tolerances_ends_with_2(tmp_path: Path) -> None:
    (path,) = write(tmp_path, a=compare(measure("kl_nats", 0.01, 0.002)))
    (file,) = write(tmp_path, t=tolerance('metric = "same_top"\nmin = 0.1'))
    assert run(path).exit_code == 2 and run("-t", file).exit_code == 2


def test_judging_needs_no_mlx(tmp_path: Path) -> None:
    """With mlx and all that needs it barred, records are judged, exported and held against today's stack."""
    paths = write(tmp_path, compare=compare(measure("kl_nats", 0.01)), eval=evaluation(), bench=bench(), tau2=tau2())
    (file,) = write(tmp_path, t=tolerance('metric = "kl_nats"\nmax = 1'))
    script = (
        "import sys\n"
        "for name in ('mlx', 'mlx_lm', 'numba', 'safetensors', 'transformers', 'huggingface_hub'):\n"
        "    sys.modules[name] = None\n"
        "from mlxquant.cli import main\n"
        "main(sys.argv[1:])\n"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    words = ["validate", *map(str, paths), "-t", str(file)]
    done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, env=env, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    words = ["validate", "--since", str(paths[0])]
    done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, env=env, check=False)
    assert (done.returncode, done.stderr) == (1, ""), done.stderr
