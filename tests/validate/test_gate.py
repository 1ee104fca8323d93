"""The gate passes only what can be: figures without contradiction, names once, limits that limit something."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from mlxquant.cli import main
from mlxquant.validate import read_evidence
from tests.report.report_records import audit as audit_record
from tests.validate.validate_records import RECIPE, bench, compare, evaluation, measure, tau2, write

KL = '[[tolerance]]\nmetric = "kl_nats"\nmax = 0.02\n'
HUGE = "1" + 400 * "0"


def run(*words: object) -> Result:
    done = CliRunner().invoke(main, [str(word) for word in words])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


def judged(folder: Path, text: str, *records: dict[str, Any], more: tuple[str, ...] = ()) -> Result:
    """What the command makes of these records and this tolerance file."""
    paths = write(folder, **{f"r{number}": record for number, record in enumerate(records)})
    (file,) = write(folder, t=text)
    return run("validate", *paths, "-t", file, *more)


def refused(done: Result, code: int, *words: str) -> None:
    assert done.exit_code == code, done.output
    assert done.stdout == "" and len(done.stderr.strip().splitlines()) == 1, done.output
    for word in words:
        assert word in done.stderr, (word, done.stderr)


# --- figures ---


GOOD = {"estimate": 0.001, "low": 0.0, "high": 0.002, "se": 0.0005, "n": 999, "clusters": 50}


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"estimate": 0.5}, "estimate within its interval 0 … 0.002 expected, 0.5 found"),
        ({"low": 0.019, "high": -9.0}, "low at most high expected"),
        ({"low": None}, "low and high expected, or null for both"),
        ({"n": 1}, "at most as many clusters as observations expected, 50 of 1 found"),
        ({"n": 0}, "n and clusters above 0 expected, 0 and 50 found"),
        ({"n": -5, "clusters": -9}, "n and clusters above 0 expected"),
        ({"clusters": 0}, "n and clusters above 0 expected"),
        ({"n": 1, "clusters": 1, "method": "counted"}, "'counted' is for sizes"),
        ({"method": "counted"}, "'counted' is for sizes"),
        ({"method": "bootstrap", "confidence": 5}, "confidence: between 0 and 1 expected, 5 found"),
        ({"confidence": -1}, "confidence: between 0 and 1 expected, -1 found"),
        ({"confidence": 0}, "confidence: between 0 and 1 expected, 0 found"),
        ({"confidence": 1}, "confidence: between 0 and 1 expected, 1 found"),
        ({"low": 0.001, "high": 0.001, "confidence": 0.01}, "an interval with a width expected"),
        ({"se": -1.0}, "se: 0 or more expected"),
        ({"df": 0}, "df: from 1 to the number of observations expected"),
        ({"df": 1e-9, "confidence": 0.999}, "df: from 1"),
        ({"design_effect": 0}, "design_effect: from 1 to the number of observations expected"),
        ({"estimate": 1.5, "high": 2.0, "method": "Clopper-Pearson on clusters", "se": None}, "is for shares"),
        ({"estimate": 9.0, "high": 10.0, "method": "Clopper-Pearson at the effective sample size"}, "is for shares"),
        ({"confidence": None}, "measurements[0].confidence: a number expected, null found"),
        ({"confidence": "x"}, "measurements[0]"),
        ({"confidence": True}, "measurements[0]"),
        ({"df": "x", "confidence": 0.9}, "measurements[0]"),
        ({"method": 7}, "measurements[0]"),
        ({"estimate": None}, "measurements[0]"),
    ],
)
def test_a_figure_that_cannot_be_is_refused_in_one_line(tmp_path: Path, changed: dict[str, Any], words: str) -> None:
    refused(judged(tmp_path, KL, compare({"metric": "kl_nats", **GOOD, **changed})), 3, "r0.json", words)


def test_the_figure_without_a_contradiction_passes(tmp_path: Path) -> None:
    assert judged(tmp_path, KL, compare({"metric": "kl_nats", **GOOD})).exit_code == 0


def test_a_difference_that_every_task_shows_alike_is_not_stated_again_as_none(tmp_path: Path) -> None:
    """Each of 1,000 tasks is passed by the baseline and failed by the candidate: -1 at any confidence."""
    figure = measure("pass_difference", -1.0, None, clusters=1000, method="Clopper-Pearson on clusters")
    record = evaluation(figure | {"low": -1.0, "high": -0.996, "se": 0.0})
    for confidence in (0.9, 0.95, 0.99):
        text = f'[[tolerance]]\nmetric = "pass"\nmin_difference = -0.05\nconfidence = {confidence}\n'
        assert judged(tmp_path, text, record).exit_code == 1


@pytest.mark.parametrize("make", [evaluation, tau2])
def test_a_share_above_1_is_refused(tmp_path: Path, make: Any) -> None:
    text = '[[tolerance]]\nmetric = "pass"\nmin = 0.9\n'
    refused(judged(tmp_path, text, make(measure("pass", 1.2, 0.1))), 3, "pass lies in [0, 1], 1.2 found")


@pytest.mark.parametrize(
    ("metric", "estimate"),
    [
        ("kl_nats", -0.5),
        ("perplexity", 0.5),
        ("dp_mean", 3.0),
        ("log_perplexity_correlation", 1.5),
        ("block_change", -1),
    ],
)
def test_a_figure_beyond_what_its_metric_can_have_is_refused(tmp_path: Path, metric: str, estimate: float) -> None:
    refused(judged(tmp_path, KL, compare(measure(metric, estimate, 0.1))), 3, "r0.json", metric, f"{estimate:g} found")


def test_a_difference_that_is_not_that_of_its_sides_is_refused_where_all_was_paired(tmp_path: Path) -> None:
    sides = (measure("pass", 0.2, 0.05), measure("pass", 0.9, 0.05))
    text = '[[tolerance]]\nmetric = "pass"\nmin_difference = -0.05\n'
    record = evaluation(sides[0], measure("pass_difference", 0.0, 0.01), before=(sides[1],))
    refused(judged(tmp_path, text, record), 3, "pass_difference", "-0.7 expected of 0.2 and 0.9", "0 found")
    fewer = evaluation(sides[0], measure("pass_difference", 0.0, 0.01, n=4000), before=(sides[1],))
    assert judged(tmp_path, text, fewer).exit_code == 0


@pytest.mark.parametrize(("name", "words"), [("Model ", "is the name of baseline already"), (" ", "a name expected")])
def test_a_name_that_reads_as_another_or_as_none_is_refused(tmp_path: Path, name: str, words: str) -> None:
    record = compare(measure("kl_nats", 0.001, 0.001))
    record["candidates"][0]["name"] = name
    refused(judged(tmp_path, KL, record), 3, "candidates[0].name", words)


@pytest.mark.parametrize("text", ["null", "true", "5", '"x"'])
def test_json_that_is_no_table_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "r.json").write_text(text)
    (tmp_path / "t.toml").write_text(KL)
    refused(run("validate", tmp_path / "r.json", "-t", tmp_path / "t.toml"), 3, "r.json: no record of mlxquant")


def test_a_speed_below_0_is_refused(tmp_path: Path) -> None:
    text = '[[tolerance]]\nmetric = "ttft_s_p50"\nmax = 1\n'
    refused(judged(tmp_path, text, evaluation(measure("ttft_s_p50", -1.0, 0.1))), 3, "ttft_s_p50 is 0 or more")


def test_more_lost_trials_than_trials_are_refused(tmp_path: Path) -> None:
    text = '[[tolerance]]\nmetric = "timeouts"\nmax = 0.1\n'
    refused(judged(tmp_path, text, evaluation(measure("timeouts", 7, None, n=5, clusters=5))), 3, "from 0 to 5")


@pytest.mark.parametrize(
    ("size", "words"), [(-5, "0 or more expected"), (0, "above 0 expected"), (-0.5, "a whole number or null expected")]
)
def test_a_build_of_no_bytes_is_refused(tmp_path: Path, size: float, words: str) -> None:
    text = '[[tolerance]]\nmetric = "bytes"\nmax = 10\n'
    refused(judged(tmp_path, text, evaluation(side={"bytes": size})), 3, "candidates[0].bytes:", words)
    plan = audit_record()
    plan["totals"]["bytes"] = size
    refused(judged(tmp_path, text, plan), 3, "totals.bytes:")


def test_the_baseline_is_checked_as_the_candidate_is(tmp_path: Path) -> None:
    record = evaluation(measure("pass", 0.5, 0.1), before=(measure("pass", 0.5, 0.1) | {"low": 0.55},))
    refused(judged(tmp_path, '[[tolerance]]\nmetric = "pass"\nmin = 0.1\n', record), 3, "baseline.measurements[0]")


def test_a_figure_stands_once_at_each_place(tmp_path: Path) -> None:
    twice = compare(measure("kl_nats", 0.001, 0.0005, layer=3), measure("kl_nats", 0.5, 0.1, layer="3"))
    refused(judged(tmp_path, KL, twice), 3, "(kl_nats, layer 3): stands at [0] already")


def test_a_bench_round_stands_once_and_is_a_whole_number(tmp_path: Path) -> None:
    text = '[[tolerance]]\nmetric = "decode_tok_s"\nmin_ratio = 0.9\nmin_clusters = 5\n'
    record = bench()
    record["samples"].append(record["samples"][0] | {"tok_s": 400.0})
    refused(judged(tmp_path, text, record), 3, "stands at [0] already")
    record = bench()
    record["samples"][0] |= {"round": True}
    refused(judged(tmp_path, text, record), 3, "samples[0].round: a whole number expected, true found")


# --- names and schemas ---


def test_two_candidates_of_one_name_are_refused(tmp_path: Path) -> None:
    record = compare(measure("kl_nats", 0.001, 0.0005))
    record["candidates"].append(record["candidates"][0] | {"measurements": [measure("kl_nats", 0.5, 0.1)]})
    refused(judged(tmp_path, KL, record), 3, "'gates-8bit' is the name of candidates[0] already")
    record = compare(measure("kl_nats", 0.001, 0.0005))
    record["baseline"]["name"] = "gates-8bit"
    refused(judged(tmp_path, KL, record), 3, "'gates-8bit' is the name of baseline already")


def test_a_candidate_that_no_record_knows_is_a_usage_error_with_those_that_are_there(tmp_path: Path) -> None:
    records = compare(measure("kl_nats", 0.001, 0.0005)), evaluation()
    refused(judged(tmp_path, KL, *records, more=("--candidate", "nobody")), 2, "'nobody'"[1:-1], "gates-8bit, build-8")
    assert judged(tmp_path, KL, *records, more=("--candidate", "gates-8bit")).exit_code == 0


@pytest.mark.parametrize("kind", ["compare", "eval", "tau2", "bench", "plan", "audit"])
def test_a_version_that_is_not_known_is_refused_with_those_that_are(tmp_path: Path, kind: str) -> None:
    record = compare(measure("kl_nats", 0.001, 0.0005)) | {"schema": f"mlxquant.{kind}/99"}
    refused(judged(tmp_path, KL, record), 3, f"mlxquant.{kind}/99 found", f"reads mlxquant.{kind}/1")


def test_a_key_that_stands_twice_is_refused(tmp_path: Path) -> None:
    text = json.dumps(compare(measure("kl_nats", 0.5, 0.1)))
    good = json.dumps(compare(measure("kl_nats", 0.001, 0.0005))["candidates"])
    (file,) = write(tmp_path, t=KL)
    path = tmp_path / "twice.json"
    path.write_text(f'{text[:-1]}, "candidates": {good}}}')
    refused(run("validate", path, "-t", file), 3, "the key candidates stands twice")
    path.write_text(text.replace('"estimate": 0.5', '"estimate": 0.001, "estimate": 0.5', 1))
    refused(run("validate", path, "-t", file), 3, "the key estimate stands twice")


@pytest.mark.parametrize("found", ['"estimate": 0.001', '"n": 5000', '"layer": 3'])
def test_a_whole_number_that_no_float_holds_is_one_line(tmp_path: Path, found: str) -> None:
    text = json.dumps(compare(measure("kl_nats", 0.001, 0.0005, layer=3)))
    assert found in text
    (file,), path = write(tmp_path, t=KL), tmp_path / "huge.json"
    path.write_text(text.replace(found, f"{found.partition(':')[0]}: {HUGE}"))
    refused(run("validate", path, "-t", file), 3, "none of more than 64 bits is a figure")


@pytest.mark.parametrize("notes", [5, "text", [5], {"a": 1}])
def test_notes_that_are_no_texts_are_one_line(tmp_path: Path, notes: Any) -> None:
    refused(judged(tmp_path, KL, compare(measure("kl_nats", 0.001, 0.0005), notes=notes)), 3, "notes")


# --- limits ---


@pytest.mark.parametrize(
    ("metric", "limit", "words"),
    [
        ("kl_nats", "min = 0.02", "lower is better; min limits nothing, max was probably meant"),
        ("kl_p99_nats", "min_ratio = 0.9", "min_ratio limits nothing, max_ratio was probably meant"),
        ("same_top", "max = 0.95", "higher is better; max limits nothing, min was probably meant"),
        ("pass", "max_difference = -0.05", "max_difference limits nothing, min_difference was probably meant"),
        ("pass_difference", "max = -0.05", "max limits nothing, min was probably meant"),
        ("decode_tok_s", "max_ratio = 0.95", "max_ratio limits nothing, min_ratio was probably meant"),
        ("bytes", "min = 5", "max was probably meant"),
        ("expert_set_changed", "max = 10", "is a share, so it lies between 0 and 1; 0.1 was probably meant"),
        ("same_top", "min = 95", "0.95 was probably meant"),
        ("same_top", "min = 0.5\nmax = 95", "max is 95"),
        ("pass", "min_difference = -5", "its difference lies between -1 and 1; -0.05 was probably meant"),
        ("same_top", "min = -1", "it lies between 0 and 1"),
        ("same_top", "min = 0", "limits nothing"),
        ("same_top", "min = 0\nmax = 1", "limits nothing"),
        ("timeouts", "max = 1", "limits nothing"),
        ("kl_nats", "max = -0.01", "it lies at 0 or above"),
        ("decode_tok_s", "min_ratio = 95", "0.95 was probably meant"),
        ("ttft_s", "max_ratio = 110", "1.1 was probably meant"),
        ("perplexity_ratio", "max = 101", "1.01 was probably meant"),
        ("log_perplexity_correlation", "min = 98", "0.98 was probably meant"),
        ("dp_mean", "min = -5", "-0.05 was probably meant"),
        ("kl_nats", f"max = {HUGE}", "more than 64 bits"),
        ("kl_nats", "max = 0x" + 5000 * "f", "more than 64 bits"),
        ("kl_nats", f"max = 1\nmin_clusters = {HUGE}", "more than 64 bits"),
        ("kl_nats", f"max = 1\nlayer = [{HUGE}]", "more than 64 bits"),
        ("kl_nats", "max = 1" + 5000 * "0", "no TOML"),
        ("kl_nats", "max = 1e400", "limits nothing"),
    ],
)
def test_a_limit_that_limits_nothing_is_a_mistake_with_what_was_meant(
    tmp_path: Path, metric: str, limit: str, words: str
) -> None:
    record = compare(measure("kl_nats", 0.5, 0.1))
    refused(judged(tmp_path, f'[[tolerance]]\nmetric = "{metric}"\n{limit}\n', record), 2, words)


@pytest.mark.parametrize(
    ("metric", "limit"),
    [
        ("kl_nats", "min = 0.0\nmax = 0.02"), ("kl_nats", "max_difference = 0.001"), ("same_top", "min = 1"),
        ("same_top", "min = 0.9\nmax = 1"), ("pass", "min_difference = -0.05"), ("dp_mean", "min = -0.01"),
        ("dp_mean", "max = 0.01"), ("log_perplexity_ratio", "max = 0.01"), ("ttft_s", "max_ratio = 1.1"),
        ("kl_through_routing_nats", "max = -0.001"), ("turns", "max = 30"), ("bpw", "max = 8.5"),
    ],
)  # fmt: skip
def test_a_limit_on_the_side_that_counts_is_taken(tmp_path: Path, metric: str, limit: str) -> None:
    done = judged(tmp_path, f'[[tolerance]]\nmetric = "{metric}"\n{limit}\n', compare(measure("kl_nats", 0.001, 0.0)))
    assert done.exit_code in (0, 1, 4), done.output


# --- a candidate that is its own baseline ---


@pytest.mark.parametrize(
    ("side", "baseline", "words"),
    [
        ({"manifest_sha256": "0" * 64}, {}, "are one build (manifest_sha256 000000000000)"),
        ({"manifest_sha256": None, "recipe": RECIPE}, {"recipe": RECIPE}, "of one recipe (sha256 aaaaaaaaaaaa)"),
        ({"manifest_sha256": None, "same_as_baseline": "place"}, {}, "are one place, as the record says"),
        (
            {"manifest_sha256": None, "endpoint": "http://127.0.0.1:1/v1", "model": "m"},
            {"manifest_sha256": None, "endpoint": "http://127.0.0.1:1/v1", "model": "m"},
            "one model of one server (m at http://127.0.0.1:1/v1)",
        ),
    ],
)
def test_a_candidate_that_is_its_own_baseline_does_not_pass_unless_noise_is_measured(
    tmp_path: Path, side: dict[str, Any], baseline: dict[str, Any], words: str
) -> None:
    record = evaluation(measure("pass", 0.5, 0.1), side=side)
    record["baseline"] |= baseline
    text = '[[tolerance]]\nmetric = "pass"\nmin = 0.1\n'
    refused(judged(tmp_path, text, record), 2, words, "--allow-same")
    allowed = judged(tmp_path, text, record, more=("--allow-same", "--json"))
    assert allowed.exit_code == 0
    assert any(words in warning for warning in json.loads(allowed.stdout)["warnings"])


def test_two_conversions_by_one_recipe_are_warned_of(tmp_path: Path) -> None:
    record = evaluation(measure("pass", 0.5, 0.1))
    record["baseline"]["recipe"] = RECIPE
    done = judged(tmp_path, '[[tolerance]]\nmetric = "pass"\nmin = 0.1\n', record, more=("--json",))
    assert done.exit_code == 0
    assert any("they may be the same" in warning for warning in json.loads(done.stdout)["warnings"])


# --- reading, and exit codes ---


def test_evidence_is_hashed_as_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that another process replaces right after it was read: the hash is of what was judged."""
    from mlxquant.records import files as records

    (path,) = write(tmp_path, a=compare(measure("kl_nats", 0.001, 0.0005)))
    before = path.read_bytes()

    def read_then_replace(file: Path) -> bytes:
        data = file.read_bytes()
        file.write_text("something else")
        return data

    monkeypatch.setattr(records, "read_regular", read_then_replace)
    assert read_evidence(path).sha256 == hashlib.sha256(before).hexdigest()


@pytest.mark.parametrize(
    "words",
    [
        "validate {} -t t.toml", "validate r.json -t {}", "validate --since {}", "report {} -o page.html",
        "bench --from {}", "tau2 {}", "sweep --from {} -t t.toml",
    ],
)  # fmt: skip
def test_a_pipe_in_a_record_s_place_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, r=compare(measure("kl_nats", 0.001, 0.0005)), t=KL)
    os.mkfifo("pipe.json")
    done = run(*words.format("pipe.json").split())
    assert done.exit_code in (2, 3) and "regular file" in done.stderr, done.output


def test_a_gzip_stream_of_which_nothing_can_be_unpacked_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "g.json"
    path.write_bytes(b"\x1f\x8bnonsense that is no gzip")
    refused(run("tau2", path), 3, "damaged")


def test_of_a_damaged_gzip_stream_what_comes_before_is_read(tmp_path: Path) -> None:
    simulations = [
        {
            "id": str(i),
            "task_id": str(i),
            "trial": 0,
            "reward_info": {"reward": 1.0},
            "messages": [os.urandom(99).hex()],
        }
        for i in range(200)
    ]
    data = bytearray(gzip.compress(json.dumps({"simulations": simulations}).encode()))
    data[len(data) // 2 :] = b"\xff" * (len(data) - len(data) // 2)
    path = tmp_path / "g.json"
    path.write_bytes(bytes(data))
    done = run("tau2", path, "--json")
    assert done.exit_code == 0, done.output
    counts = json.loads(done.stdout)["candidates"][0]["counts"]
    assert 50 < counts["simulations"] < 150


def test_a_reward_of_400_digits_is_no_traceback(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text(f'{{"simulations": [{{"task_id": "a", "trial": {HUGE}, "reward_info": {{"reward": {HUGE}}}}}]}}')
    assert run("tau2", path).exit_code in (0, 3)


@pytest.mark.parametrize(
    ("limit", "code"),
    [("metric = 'kl_nats'\nmax = 1", 0), ("metric = 'kl_nats'\nmax = 0.001", 1), ("metric = 'kl_nats'\nmax = 0.01", 4),
     ("metric = 'same_top'\nmin = 0.1", 4), ("metric = 'kl_nats'\nmax = 1\nmin_clusters = 99", 4)],
)  # fmt: skip
def test_exit_codes_are_0_for_a_pass_1_for_a_fail_and_4_for_what_is_not_settled(
    tmp_path: Path, limit: str, code: int
) -> None:
    record = compare(measure("kl_nats", 0.01, 0.002))
    assert judged(tmp_path, f"[[tolerance]]\n{limit}\n", record).exit_code == code
    also_failing = f"[[tolerance]]\n{limit}\n[[tolerance]]\nmetric = 'bpw'\nmax = 1\n"
    assert judged(tmp_path, also_failing, record).exit_code == 1


@pytest.mark.parametrize("debug", [[], ["--debug"]])
def test_a_bug_ends_with_3_and_one_line_for_1_is_a_gate_s_no(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, debug: list[str]
) -> None:
    from mlxquant import validate

    def broken(path: Path) -> None:
        raise KeyError("a mistake of ours")

    monkeypatch.setattr(validate, "read_evidence", broken)
    path, file = write(tmp_path, r=compare(), t=KL)
    done = run(*debug, "validate", path, "-t", file)
    assert done.exit_code == 3 and ("Traceback" in done.stderr) == bool(debug)
    assert "internal error: KeyError: 'a mistake of ours' (test_gate.py" not in done.stderr  # the place is one of ours
    assert done.stderr.splitlines()[-1].startswith("mlxquant: internal error: KeyError: 'a mistake of ours' (")


def test_a_pipe_in_the_place_of_a_build_s_file_never_hangs_what_reads_the_build(tmp_path: Path) -> None:
    from mlxquant.evals.store.model import write_store_moe

    source, build = tmp_path / "store", tmp_path / "b"
    write_store_moe(source)
    assert run("convert", source, "-r", "gates-8bit", "--group-size", "64", "-o", build).exit_code == 0
    for name in ("tokenizer.json", "chat_template.jinja", "audit.json", "mlxquant.json"):
        (build / name).rename(tmp_path / "aside")
        os.mkfifo(build / name)
        for words in (["verify", build], ["verify", build, "--source", source], ["audit", build]):
            assert run(*words).exit_code in (0, 3), (name, words)
        (build / name).unlink()
        (tmp_path / "aside").rename(build / name)
