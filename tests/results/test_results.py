"""`mlxquant results`: files of every harness, recognised by what is in them, paired by id, and what is refused."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from mlxquant.cli import main
from mlxquant.records.files import read_checked
from tests.results import harness_files as files
from tests.support.pages import ROOT

DATA = Path(__file__).parent / "data"


def run(*words: object) -> Result:
    return CliRunner().invoke(main, ["results", *map(str, words)])


def record(*words: object) -> dict[str, Any]:
    done = run(*words, "--json")
    assert done.exit_code == 0, done.output
    return dict(json.loads(done.stdout))


def refused(*words: object) -> str:
    done = run(*words)
    assert done.exit_code == 3 and done.stderr.count("\n") == 1, done.output
    return done.stderr


def figure(side: Any, metric: str, **where: str) -> Any:
    (entry,) = (m for m in side["measurements"] if m["metric"] == metric and m.get("slice") == where.get("slice"))
    return entry


# --- every harness ---


@pytest.mark.parametrize("harness", files.ALL)
def test_two_runs_are_paired_item_by_item(tmp_path: Path, harness: str) -> None:
    paths = files.sides(tmp_path, harness, ({1}, {1, 2, 3, 4}))
    made = record(*paths)
    (side,) = made["candidates"]
    assert made["harness"] == harness
    assert figure(made["baseline"], "pass")["estimate"] == 0.95 and figure(side, "pass")["estimate"] == 0.8
    assert figure(side, "pass_difference")["estimate"] == pytest.approx(-0.15)
    assert [side["pairing"][k] for k in ("pairs", "both_passed", "only_baseline_passed", "neither_passed")] == [
        20, 16, 3, 1,
    ]  # fmt: skip
    assert side["pairing"]["mcnemar_p"] == 0.25
    assert side["problems"] == made["baseline"]["problems"] == []


@pytest.mark.parametrize("harness", files.ALL)
def test_a_file_is_known_by_what_is_in_it_whatever_its_name(tmp_path: Path, harness: str) -> None:
    for number, path in enumerate(files.sides(tmp_path, harness, ((), {1}))):
        if path.is_dir():  # a score file's category and its result file are named by the path; put both under any name
            for file in (f for kind in ("score", "result") for f in (tmp_path / kind / path.name).rglob("*.json")):
                file.rename(tmp_path / f"{number}-{'s' if 'score' in file.name else 'r'}")
            folder = tmp_path / f"side{number}"
            folder.mkdir()
            for file in tmp_path.glob(f"{number}-*"):
                file.rename(folder / file.name)
            folder.rename(tmp_path / f"x{number}")
        else:
            path.rename(tmp_path / f"x{number}")
    made = record(tmp_path / "x0", tmp_path / "x1")
    assert made["harness"] == harness and made["candidates"][0]["pairing"]["pairs"] == 20


@pytest.mark.parametrize("harness", files.ALL)
def test_validate_sweep_and_report_take_the_record(tmp_path: Path, harness: str) -> None:
    paths = files.sides(tmp_path, harness, ({1}, {1, 2}))
    assert run(*paths, "-o", tmp_path / "results.json").exit_code == 0
    (tmp_path / "t.toml").write_text('[[tolerance]]\nmetric = "pass"\nmin_difference = -0.5\nmin_clusters = 10\n')
    judged = CliRunner().invoke(
        main, ["validate", str(tmp_path / "results.json"), "-t", str(tmp_path / "t.toml"), "--json"]
    )
    assert json.loads(judged.stdout)["verdict"] == "PASS", judged.output
    page = CliRunner().invoke(main, ["report", str(tmp_path / "results.json"), "-o", str(tmp_path / "page.html")])
    assert page.exit_code == 0 and "McNemar" not in page.stderr
    assert harness in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_sweep_joins_the_runs_to_the_candidates_of_a_comparison(tmp_path: Path) -> None:
    comparison = ROOT / "audits" / "store-moe" / "compare.json"
    names = [word for name in ("store-moe", "gates-8bit:bits=4") for word in ("--name", name)]
    paths = files.sides(tmp_path, "EvalPlus", ({1}, {1, 2}))
    assert run(*paths, *names, "-o", tmp_path / "results.json").exit_code == 0
    (tmp_path / "t.toml").write_text(
        '[[tolerance]]\nmetric = "plus_pass"\nslice = "HumanEval"\nmin_difference = -0.5\nmin_clusters = 10\n'
    )
    words = ["sweep", "--from", comparison, "--from", tmp_path / "results.json", "-t", tmp_path / "t.toml", "--json"]
    swept = json.loads(CliRunner().invoke(main, [str(word) for word in words]).stdout)
    assert swept["recommendation"]["name"] == "gates-8bit:bits=4"


@pytest.mark.parametrize("harness", files.ALL)
def test_the_text_fits_eighty_columns(tmp_path: Path, harness: str) -> None:
    paths = files.sides(tmp_path, harness, ({1}, {1, 2}))
    for words in ([paths[0]], paths):
        text = run(*words).stdout
        assert max(map(len, text.splitlines())) <= 80, text


def test_long_names_leave_room_for_the_figures(tmp_path: Path) -> None:
    for name, wrong in (("a" * 20, {1}), ("b" * 20, {1, 2, 3, 4, 5})):
        for task in ("one", "t" * 40):
            path = tmp_path / name / f"samples_{task}_{files.DATE}.jsonl"
            files.lm_samples(path, wrong, metric="exact_match", filter="custom-extract-of-numbers")
    lines = run(tmp_path / ("a" * 20), tmp_path / ("b" * 20)).stdout.splitlines()
    assert max(len(line) for line in lines) <= 80


def test_ids_that_one_file_alone_has_are_said_and_counted(tmp_path: Path) -> None:
    base = files.lm_samples(tmp_path / "a.jsonl", (), n=12)
    cand = files.lines(tmp_path / "b.jsonl", [files.lm_row(i, 1.0) for i in range(3, 14)])
    made = record(base, cand)
    pairing = made["candidates"][0]["pairing"]
    assert (pairing["questions"], pairing["questions_only_baseline"], pairing["questions_only_candidate"]) == (9, 3, 2)
    assert any("3 questions only in a (0, 1, 2)" in note for note in made["notes"])
    assert any("2 questions only in b (12, 13)" in note for note in made["notes"])


@pytest.mark.parametrize(("key", "what"), [("prompt_hash", "prompt"), ("target_hash", "target")])
def test_another_prompt_or_target_under_one_id_is_refused_by_name(tmp_path: Path, key: str, what: str) -> None:
    base = files.lm_samples(tmp_path / "a.jsonl", ())
    rows = [files.lm_row(i, 1.0) for i in range(20)]
    rows[7][key] = "other"
    assert f"another {what} than in a under the id 7 " in refused(base, files.lines(tmp_path / "b.jsonl", rows))


def test_results_of_two_harnesses_are_not_compared(tmp_path: Path) -> None:
    a = files.lm_samples(tmp_path / "a.jsonl", ())
    b = files.evalplus(tmp_path / "b.json", ())
    done = run(a, b)
    assert done.exit_code == 2 and "lm-evaluation-harness, EvalPlus" in done.stderr
    assert "several harnesses" in refused(tmp_path)


def test_a_file_of_no_harness_is_told_what_is_known(tmp_path: Path) -> None:
    path = files.document(tmp_path / "a.json", {"a": 1})
    for word in ("samples_*.jsonl", ".eval", "BFCL", "eval_results.json", "oMLX", "τ²-bench"):
        assert word in refused(path)
    (tmp_path / "b.jsonl").write_text("")
    assert "empty" in refused(tmp_path / "b.jsonl")
    assert "cannot be read" in refused(tmp_path / "none")


def test_tau2_is_the_same_command(tmp_path: Path) -> None:
    from tests.results.tau2.tau2_files import results, simulation, write

    path = write(tmp_path / "a.json", results([simulation(f"t{i}") for i in range(8)]))
    both = [CliRunner().invoke(main, [name, str(path), "--json"]).stdout for name in ("results", "tau2")]
    assert both[0] == both[1] and json.loads(both[0])["schema"] == "mlxquant.tau2/1"
    rows = files.lm_samples(tmp_path / "b.jsonl", ())
    assert CliRunner().invoke(main, ["tau2", str(rows)]).exit_code == 0
    assert run(path, rows).exit_code == 2


def test_names_from_files_steer_no_terminal(tmp_path: Path) -> None:
    rows = [files.lm_row(i, 1.0, metric="a\x1b[2Jcc") for i in range(6)]
    done = run(files.lines(tmp_path / "samples_x\x1b[2J_1.jsonl", rows))
    assert done.exit_code == 0 and "\x1b" not in done.output


def test_damaged_lines_are_left_out_and_said(tmp_path: Path) -> None:
    path = files.lm_samples(tmp_path / "a.jsonl", ())
    text = path.read_text().splitlines()
    path.write_text("\n".join([*text[:10], "[1]", *text[10:-1], text[-1][:40]]))
    (side,) = record(path)["candidates"]
    assert side["counts"]["questions"] == 19
    assert [problem.split(":")[1] for problem in side["problems"]] == [" line 11", " line 21"]


def test_a_run_in_which_nothing_was_measured_is_refused(tmp_path: Path) -> None:
    no_ids = [{**files.lm_row(i, 1.0), "doc_id": None} for i in range(3)]
    assert "line 1: no doc_id" in refused(files.lines(tmp_path / "a.jsonl", no_ids))
    no_scores = [files.lm_row(i, float("nan")) for i in range(3)]
    assert "no number for an item" in refused(files.lines(tmp_path / "b.jsonl", no_scores))
    assert "has a score" in refused(files.document(tmp_path / "c.json", files.inspect_log((), n=0)))
    by_place = files.omlx_run("org/m", ())
    by_place["question_results"] = [{k: v for k, v in q.items() if k != "id"} for q in by_place["question_results"]]
    assert "an id and true or false" in refused(files.document(tmp_path / "d.json", by_place))


def test_what_cannot_be_read_in_a_folder_is_said(tmp_path: Path) -> None:
    files.lm_samples(tmp_path / f"samples_a_{files.DATE}.jsonl", ())
    files.lines(tmp_path / f"samples_b_{files.DATE}.jsonl", ())
    (tmp_path / f"samples_c_{files.DATE}.jsonl.gz").write_bytes(gzip.compress(b"{}\n" * 99)[:20])
    (tmp_path / "LICENSE").write_text("text")
    first, second = record(tmp_path)["candidates"][0]["problems"]
    assert "samples_b" in first and "empty" in first and "samples_c" in second and "cut off" in second


def test_a_document_may_end_in_blank_lines_and_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("\ufeff" + json.dumps(files.inspect_log({1})) + "\r\n\n", encoding="utf-8")
    assert record(path)["candidates"][0]["counts"]["questions"] == 12


def test_a_score_too_large_to_be_squared_is_no_score(tmp_path: Path) -> None:
    rows = [files.lm_row(i, 1e308 if i == 3 else 0.5) for i in range(9)]
    assert run(files.lines(tmp_path / "a.jsonl", rows)).stderr == ""


def test_the_same_files_on_both_sides_are_said(tmp_path: Path) -> None:
    path = files.lm_samples(tmp_path / "a.jsonl", {1})
    assert any("the same files" in note for note in record(path, path)["notes"])
    run(path, path, "-o", tmp_path / "results.json")
    (tmp_path / "t.toml").write_text('[[tolerance]]\nmetric = "pass"\nmin_difference = -0.3\n')
    words = ["validate", str(tmp_path / "results.json"), "-t", str(tmp_path / "t.toml")]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 2 and "are one run, as the record says" in done.stderr


def test_csv_has_a_row_a_measurement(tmp_path: Path) -> None:
    path = files.lm_samples(tmp_path / "a.jsonl", {1})
    header, first, *_ = run(path, "--csv").stdout.splitlines()
    assert "metric" in header.split(",") and "pass" in first.split(",")
    assert run(path, "--csv", "--json").exit_code == 2


def test_gzip_is_unpacked_and_a_cut_one_refused(tmp_path: Path) -> None:
    plain = files.lm_samples(tmp_path / "a.jsonl", {3})
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(plain.read_bytes()))
    made = record(plain, tmp_path / "b.jsonl.gz")
    assert made["candidates"][0]["pairing"]["both_passed"] == 19
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(plain.read_bytes())[:-200])
    assert "gzip" in refused(tmp_path / "c.jsonl.gz")


# --- lm-evaluation-harness ---


def test_each_filter_is_a_metric_of_its_own(tmp_path: Path) -> None:
    filters = ("strict", 5), ("loose", 15)
    rows = [files.lm_row(i, float(i < right), filter=name) for i in range(20) for name, right in filters]
    (side,) = record(files.lines(tmp_path / "a.jsonl", rows))["candidates"]
    assert figure(side, "exact_match,strict")["estimate"] == 0.25
    assert figure(side, "exact_match,loose")["estimate"] == 0.75
    assert figure(side, "pass")["estimate"] == 0.25 and side["counts"]["questions"] == 20


def test_several_tasks_of_a_folder_are_slices(tmp_path: Path) -> None:
    for name, wrong in (("base", {0}), ("cand", {0, 1, 2})):
        files.lm_samples(tmp_path / name / f"samples_arc_easy_{files.DATE}.jsonl", wrong, metric="acc")
        files.lm_samples(tmp_path / name / f"samples_gsm8k_{files.DATE}.jsonl", ())
        groups = {"group_subtasks": {"science": ["arc_easy"]}, "lm_eval_version": "0.4.13", "model_name": f"org/{name}"}
        files.document(tmp_path / name / f"results_{files.DATE}.json", {"results": {}, **groups})
    made = record(tmp_path / "base", tmp_path / "cand")
    (side,) = made["candidates"]
    assert (side["name"], side["about"]["model"]) == ("cand", "org/cand")
    for name in ("arc_easy", "science"):
        assert figure(side, "pass_difference", slice=name)["estimate"] == pytest.approx(-0.1)
    assert figure(side, "pass_difference", slice="gsm8k")["estimate"] == 0
    assert figure(side, "pass_difference")["n"] == 40
    files.lm_samples(tmp_path / "cand" / "samples_gsm8k_2026-11-30T00-00-00.jsonl", ())
    assert "a second run of the task gsm8k" in refused(tmp_path / "cand")


def test_clusters_and_slices_can_be_named(tmp_path: Path) -> None:
    (side,) = record(files.lm_samples(tmp_path / "a.jsonl", {2, 3}), "--cluster", "passage", "--slice", "subject")[
        "candidates"
    ]
    assert (side["counts"]["clusters"], figure(side, "pass")["clusters"]) == (10, 10)
    assert figure(side, "pass", slice="subject:a")["estimate"] == 0.9
    for option in ("--slice", "--cluster"):
        done = run(tmp_path / "a.jsonl", option, "nothing")
        assert (
            done.exit_code == 2 and "no item has a field 'nothing'; fields: question, passage, subject" in done.stderr
        )


def test_a_metric_that_is_no_number_for_an_item_is_left_out_and_said(tmp_path: Path) -> None:
    rows = [{**files.lm_row(i, 1.0), "metrics": ["exact_match", "perplexity"], "perplexity": [1, 2]} for i in range(6)]
    made = record(files.lines(tmp_path / "a.jsonl", rows))
    assert any("left out: perplexity" in note for note in made["notes"])


def test_values_that_a_metric_cannot_have_are_of_another_metric(tmp_path: Path) -> None:
    rows = [files.lm_row(i, 50.0 + i, metric="f1") for i in range(20)]
    assert run(files.lines(tmp_path / "a.jsonl", rows), "-o", tmp_path / "results.json").exit_code == 0
    (side,) = read_checked(tmp_path / "results.json", "results")["candidates"]
    assert figure(side, "f1 (unbounded)")["estimate"] == 59.5 and side["counts"]["judged"] == 0


def test_averages_alone_are_refused_with_what_to_do(tmp_path: Path) -> None:
    run_of = files.document(tmp_path / "a.json", {"results": {"x": {"acc,none": 0.5}}, "lm_eval_version": "0.4.13"})
    assert "--log_samples" in refused(run_of)
    assert "mlx_lm.evaluate" in refused(files.document(tmp_path / "b.json", {"x": {"acc,none": 0.5}}))


def test_two_tasks_are_not_paired_by_their_document_numbers(tmp_path: Path) -> None:
    a = files.lm_samples(tmp_path / f"samples_arc_{files.DATE}.jsonl", ())
    b = files.lm_samples(tmp_path / f"samples_gsm8k_{files.DATE}.jsonl", ())
    assert "results of the task gsm8k" in refused(a, b)
    assert record(a, files.lm_samples(tmp_path / "any.jsonl", ()))["candidates"][0]["pairing"]["pairs"] == 20


def test_runs_are_judged_by_one_metric_where_a_bad_one_has_more_to_choose_from(tmp_path: Path) -> None:
    """F1 is 0 throughout for a build that answers nothing, so it is 0 or 1 there and not in the baseline."""
    for name, right in (("base", 18), ("cand", 0)):
        rows = [
            {**files.lm_row(i, float(i < right)), "metrics": ["f1", "exact_match"], "f1": 0.9 if i < right else 0.0}
            for i in range(20)
        ]
        files.lines(tmp_path / name / f"samples_qa_{files.DATE}.jsonl", rows)
    made = record(tmp_path / "base", tmp_path / "cand")
    assert any("passed by exact_match" in note for note in made["notes"])
    assert made["candidates"][0]["pairing"]["only_baseline_passed"] == 18
    rows = [{**files.lm_row(i, 0.5), "metrics": ["f1"], "f1": i / 20} for i in range(20)]
    alone = record(tmp_path / "cand", files.lines(tmp_path / "c.jsonl", rows))
    assert alone["baseline"]["counts"]["judged"] == alone["candidates"][0]["counts"]["judged"] == 0


def test_another_row_of_the_data_set_is_another_question_also_without_hashes(tmp_path: Path) -> None:
    keys = ("doc_hash", "prompt_hash", "target_hash")
    rows = [{k: v for k, v in files.lm_row(i, 1.0).items() if k not in keys} for i in range(6)]
    other = [{**row, "doc": {"question": "other"}} for row in rows]
    a, b = files.lines(tmp_path / "a.jsonl", rows), files.lines(tmp_path / "b.jsonl", other)
    assert "another document" in refused(a, b)
    assert "another target" in refused(a, files.lines(tmp_path / "c.jsonl", [{**row, "target": "x"} for row in rows]))
    assert record(a, files.lines(tmp_path / "d.jsonl", rows))["candidates"][0]["pairing"]["pairs"] == 6
    images = [
        [files.lm_row(i, 1.0, doc_hash=name, doc={"image": f"<Image at 0x7f{name}>"}) for i in range(6)]
        for name in "ab"
    ]
    a, b = (files.lines(tmp_path / f"{i}.jsonl", each) for i, each in enumerate(images))
    assert record(a, b)["candidates"][0]["pairing"]["pairs"] == 6


def test_runs_of_two_models_in_a_folder_are_not_one(tmp_path: Path) -> None:
    for task, model in (("x", "org/a"), ("y", "org/b")):
        files.lm_samples(tmp_path / task / f"samples_{task}_{files.DATE}.jsonl", ())
        about = {"results": {task: {}}, "model_name": model, "lm_eval_version": "0.4.13"}
        files.document(tmp_path / task / f"results_{files.DATE}.json", about)
    assert "several models (org/a, org/b)" in refused(tmp_path)


# --- inspect_ai ---


def test_epochs_are_trials_and_the_log_s_own_cluster_and_group_count(tmp_path: Path) -> None:
    base = files.document(tmp_path / "a.json", files.inspect_log((), epochs=2))
    cand = files.eval_zip(tmp_path / "b.eval", files.inspect_log({1, 2, 3}, epochs=2))
    made = record(base, cand)
    (side,) = made["candidates"]
    assert (side["counts"]["questions"], side["counts"]["clusters"], side["counts"]["most_trials"]) == (12, 6, 2)
    assert figure(side, "pass_hat_2")["estimate"] == 0.75
    assert figure(side, "pass_hat_2_difference")["clusters"] == 6
    assert figure(side, "match_difference", slice="subject:b")["n"] == 12


def test_samples_without_a_score_are_lost_not_wrong(tmp_path: Path) -> None:
    log = files.inspect_log(())
    log["samples"][0] |= {"scores": {}, "error": {"message": "no answer"}}
    made = record(files.eval_zip(tmp_path / "a.eval", log))
    assert made["candidates"][0]["counts"]["lost"] == 1 and figure(made["candidates"][0], "pass")["n"] == 11
    assert any("1 sample without a score" in note for note in made["notes"])


def test_an_unfinished_log_is_read_and_said_and_a_finished_one_preferred(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    files.eval_zip(folder / "1.eval", files.inspect_log((), n=4, status="started"), header="_journal/start.json")
    assert "ended by started" in run(folder).stdout
    files.document(folder / "2.json", files.inspect_log(()))
    assert "2.json counts for sums" in " ".join(run(folder).stdout.split())
    files.document(folder / "3.json", files.inspect_log(()))
    assert "2 of which ended well" in refused(folder)


def test_letters_and_tables_of_scores_count_as_inspect_counts_them(tmp_path: Path) -> None:
    log = files.inspect_log(())
    for sample, value in zip(log["samples"], "CPIN" * 3, strict=True):
        sample["scores"] = {"judge": {"value": {"grade": value, "ok": value == "C", "text": "0.25"}}}
    (side,) = record(files.document(tmp_path / "a.json", log))["candidates"]
    assert figure(side, "judge/grade")["estimate"] == 0.375 and figure(side, "judge/text")["estimate"] == 0.25
    assert figure(side, "judge/ok")["estimate"] == figure(side, "pass")["estimate"] == 0.25


def test_a_strange_zip_is_refused_in_bounded_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = files.eval_zip(tmp_path / "a.eval", files.inspect_log(()))
    whole = path.read_bytes()
    (tmp_path / "cut.eval").write_bytes(whole[: len(whole) // 2])
    assert "damaged zip" in refused(tmp_path / "cut.eval")
    (tmp_path / "bent.eval").write_bytes(whole[:200] + bytes(40) + whole[240:])
    assert "damaged" in refused(tmp_path / "bent.eval")
    directory = whole.index(b"PK\x01\x02")
    (tmp_path / "new.eval").write_bytes(whole[: directory + 6] + b"\x76\0" + whole[directory + 8 :])
    assert "damaged zip (zip file version 11.8" in refused(tmp_path / "new.eval")
    monkeypatch.setattr("mlxquant.results.zips.MEMBER_BYTES", 5000)
    log = files.inspect_log(())
    log["samples"][3]["metadata"]["x"] = "0" * 1_000_000
    assert "unpacks to more than 5,000 bytes" in refused(files.eval_zip(tmp_path / "bomb.eval", log))


@files.needs_zstd
def test_a_real_log_packed_by_zstandard_is_read(tmp_path: Path) -> None:
    made = record(DATA / "inspect/base.eval", DATA / "inspect/cand.eval")
    same = record(DATA / "inspect/base.json", DATA / "inspect/cand.json")
    assert made["candidates"][0]["measurements"] == same["candidates"][0]["measurements"]
    data = bytearray((DATA / "inspect/base.eval").read_bytes())
    data[len(data) // 3] ^= 0xFF
    (tmp_path / "bent.eval").write_bytes(data)
    assert "damaged" in refused(tmp_path / "bent.eval")


def test_without_zstandard_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for name in ("compression", "backports", "backports.zstd"):
        monkeypatch.setitem(sys.modules, name, None)
    assert "pip install backports.zstd" in refused(DATA / "inspect/base.eval")


# --- BFCL, EvalPlus, oMLX ---


def test_a_folder_of_several_models_is_as_many_runs(tmp_path: Path) -> None:
    files.bfcl(tmp_path / "bfcl", "base", {1})
    files.bfcl(tmp_path / "bfcl", "quantized", {1, 2})
    assert [s["name"] for s in _sides(record(tmp_path / "bfcl"))] == ["base", "quantized"]
    runs = [files.omlx_run("org/base", {1}), files.omlx_run("org/4bit", {1, 2}), files.omlx_run("org/4bit", (), "arc")]
    export = files.document(tmp_path / "export.json", {"results": runs})
    made = record(export)
    assert [s["name"] for s in _sides(made)] == ["base", "4bit"]
    assert any("20 questions only in 4bit" in note for note in made["notes"])
    assert run(export, "--name", "a").exit_code == 2


def _sides(made: dict[str, Any]) -> list[Any]:
    return [made["baseline"], *made["candidates"]]


def test_each_model_names_its_own_files_results_among_them(tmp_path: Path) -> None:
    for model in ("base", "cand"):
        files.bfcl(tmp_path, model, {1})
        memory = tmp_path / f"result/{model}/agentic/BFCL_v4_memory_kv_prereq_result.json"
        files.lines(memory, [{"id": "memory_kv_prereq_0", "result": "[]"}])
    made = record(tmp_path)
    for side in (made["baseline"], made["candidates"][0]):
        assert len(side["files"]) == 2 and all(side["name"] in name for name in side["files"])
        assert side["problems"] == []
    assert made["baseline"]["sha256"] != made["candidates"][0]["sha256"]
    assert len(record(tmp_path / "score" / "base")["candidates"][0]["files"]) == 2


def test_scores_without_the_ids_that_were_asked_are_refused(tmp_path: Path) -> None:
    score = next(files.bfcl(tmp_path, "base", {1}).rglob("*.json"))
    (tmp_path / "alone.json").write_bytes(score.read_bytes())
    assert "its result file" in refused(tmp_path / "alone.json")
    assert record(score)["candidates"][0]["counts"]["passed"] == 19  # found by the path
    rows = score.read_text().splitlines()
    score.write_text("\n".join(rows[:1]) + "\n")
    assert "19 of 20 right by its first line, 20 of 20" in refused(score)
    all_failed = [{"accuracy": 0, "correct_count": 0, "total_count": 1}, {"id": "x_1", "valid": False}]
    assert record(files.lines(tmp_path / "all.json", all_failed))["candidates"][0]["counts"]["judged"] == 1


def test_tasks_without_statuses_are_left_out_and_said(tmp_path: Path) -> None:
    path = files.evalplus(tmp_path / "a.json", {1})
    table = json.loads(path.read_text())
    table["eval"] |= {"HumanEval/90": {"base": 5}, "HumanEval/91": None, "HumanEval/92": []}
    (side,) = record(files.document(path, table))["candidates"]
    assert side["counts"]["questions"] == 20 and len(side["problems"]) == 3


def test_samples_of_evalplus_are_trials_and_two_data_sets_are_not_compared(tmp_path: Path) -> None:
    base = files.evalplus(tmp_path / "a.json", (), samples=3)
    cand = files.evalplus(tmp_path / "b.json", {1, 2}, samples=3)
    (side,) = record(base, cand)["candidates"]
    assert figure(side, "pass_hat_3_difference")["estimate"] == pytest.approx(-0.1)
    assert figure(side, "base_pass_difference")["estimate"] == 0
    assert figure(side, "plus_pass_difference")["estimate"] == pytest.approx(-2 / 60)
    assert "another target" in refused(base, files.evalplus(tmp_path / "c.json", (), version="other"))
    samples = files.lines(tmp_path / "s.jsonl", [{"task_id": f"HumanEval/{i}", "solution": "x"} for i in range(3)])
    assert "evalplus.evaluate" in refused(samples)
    old = {"hash": "h", "eval": {f"HumanEval/{i}": {"nfiles": 1, "base": [["pass", []]], "plus": []} for i in range(9)}}
    assert figure(record(files.document(tmp_path / "o.json", old))["candidates"][0], "pass")["n"] == 9


def test_categories_of_omlx_are_slices_within_their_benchmark(tmp_path: Path) -> None:
    runs = [files.omlx_run("m", {1}), files.omlx_run("m", (), "arc")]
    (side,) = record(files.document(tmp_path / "a.json", runs))["candidates"]
    assert figure(side, "pass", slice="mmlu:law")["n"] == 10 and figure(side, "pass", slice="arc")["n"] == 20
    questions = [{**q, "question_id": q.pop("id")} for q in files.omlx_run("m", {1})["question_results"]]
    assert figure(record(files.lines(tmp_path / "b.jsonl", questions))["candidates"][0], "pass")["n"] == 20


# --- what was measured ---


def test_a_build_can_be_named_so_that_records_find_each_other(tmp_path: Path, tiny: Any) -> None:
    from tests.support.builds import build

    build(tiny("qwen3_moe"), tmp_path / "b8")
    paths = files.sides(tmp_path, "EvalPlus", ((), {1}))
    made = record(*paths, "--candidate-build", tmp_path / "b8")
    assert len(made["candidates"][0]["manifest_sha256"]) == 64
    assert "manifest_sha256" not in made["baseline"]
    assert run(*paths, "--candidate-build", "a", "--candidate-build", "b").exit_code == 2
