"""The audit as people read it: tables, AUDIT.md, CSV, and the command with its exit codes."""

from __future__ import annotations

import csv
import io
import json
import math

import numpy as np
import pytest
from click.testing import CliRunner

from mlxquant.builds.audit_record import Entry, make_record
from mlxquant.cli import main
from mlxquant.kernels import ErrorSums, InputCounts
from mlxquant.report.audit import audit_csv, audit_text
from mlxquant.report.audit_markdown import audit_markdown, sqnr, worst_row
from mlxquant.report.common import error_text, inputs_text
from mlxquant.words.formats import Format
from mlxquant.words.modules import Array, Module
from tests.builds.read.audit_builds import copied, edit_quantization, made_by_mlx_lm, made_by_us


@pytest.fixture(scope="module")
def own(tiny_qwen, tmp_path_factory):
    return made_by_us(tiny_qwen, tmp_path_factory.mktemp("own") / "build", "deepseek-4bit")


@pytest.fixture(scope="module")
def record(own):
    return json.loads((own / "audit.json").read_text())


@pytest.fixture(scope="module")
def theirs(tiny_qwen, tmp_path_factory):
    return made_by_mlx_lm(tiny_qwen, tmp_path_factory.mktemp("theirs") / "build", quantize=True)


def audit(*words, code=0):
    result = CliRunner().invoke(main, ["audit", *(str(w) for w in words)])
    assert result.exit_code == code, result.output
    return result


def entry(path, sums=None, shape=(4, 64), layer=0, **words):
    module = Module(path, "Linear", "mlp", layer, "full_attention", (Array("weight", shape, "BF16", "BF16"),), True)
    return Entry(module, Format(8, 64), "BF16", 272, False, "a reason", errors=sums, **words)


def made(*entries):
    return make_record(entries, source=None, recipe=None)


def test_the_worked_numbers_of_the_docstring_hold():
    record = made(entry("a", ErrorSums(0.0001, 2.0, 0.01, 0.005, 0, 0.0071)))
    errors = record["modules"][0]["errors"]
    assert errors["relative_rms_error"] == pytest.approx(0.00707, abs=5e-6)
    assert errors["sqnr_db"] == pytest.approx(43.0, abs=0.05)
    assert not errors["exact"]


def test_sums_of_a_role_are_those_of_its_modules_together():
    one, other = ErrorSums(1.0, 100.0, 0.1, 0.01, 3, 0.2), ErrorSums(3.0, 300.0, 0.3, 0.02, 5, 0.4)
    record = made(entry("layers.0.a", one), entry("layers.1.a", other, layer=1))
    errors = record["by_role"][0]["errors"]
    assert errors["relative_rms_error"] == 0.1
    assert (errors["max_abs_error"], errors["max_range_share"]) == (0.3, 0.02)
    assert record["totals"]["errors"] == errors


def test_an_exact_tensor_has_no_sqnr_but_says_that_it_is_exact():
    record = made(entry("a", ErrorSums(0.0, 2.0, 0.0, 0.0, 0, 0.0)))
    errors = record["modules"][0]["errors"]
    assert (errors["relative_rms_error"], errors["sqnr_db"], errors["exact"]) == (0.0, None, True)
    assert "none at all" in audit_text(record, "b")
    assert "exact" in audit_markdown(record)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_json_cannot_hold_is_null_and_reads_back(value):
    record = made(entry("a", ErrorSums(value, value, value, value, 0, value)), entry("b"))
    json.dumps(record, allow_nan=False)
    assert ErrorSums.from_dict(record["modules"][0]["errors"]).worst_row == 0
    assert audit_markdown(record) and audit_text(record, "b", "tensor") and audit_csv(record)


@pytest.mark.parametrize("sums", [(math.nan, 2, 1), (math.inf, 2, 1), (1, math.inf, 1), (1, 2, math.nan)])
def test_a_module_with_an_error_that_is_no_number_is_noted_and_in_no_sum(sums):
    rest, bad = entry("a", ErrorSums(1, 4, 1, 0.5, 0, 1)), ErrorSums(sums[0], sums[1], sums[2], 1, 0, 1)
    record = made(rest, entry("b", bad), entry("c", bad))
    note = "non-finite values in 2 modules (first: b): their error is not a number"
    assert record["notes"] == [note]
    assert record["totals"]["errors"] == made(rest)["totals"]["errors"]
    assert record["by_role"][0]["errors"]["relative_rms_error"] == 0.5
    assert note in " ".join(audit_text(record, "b").split())
    assert f"- {note}" in audit_markdown(record)
    assert "| 50 % | 6.0 | 1 | 50 % | `a` |" in audit_markdown(record).replace("50.0", "50")


def test_where_no_error_is_a_number_the_text_does_not_say_that_none_was_measured():
    record = made(entry("a", ErrorSums(math.nan, math.nan, math.nan, math.nan, 0, math.inf)))
    assert record["totals"]["errors"] is None
    assert "not a number in any module" in audit_text(record, "b")
    assert "No quantization error was measured" not in audit_markdown(record)


def test_the_worst_row_of_an_expert_tensor_is_told_as_expert_and_row():
    record = made(entry("a", ErrorSums(1, 2, 1, 1, 700, 1), shape=(256, 512, 2048)))
    assert worst_row(record["modules"][0]) == "1/188"


@pytest.mark.parametrize(("value", "text"), [(None, "-"), (0.0, "0"), (0.005123, "0.512 %"), (0.0912, "9.12 %")])
def test_shares_have_three_digits(value, text):
    assert error_text(value) == text


def test_decibels_follow_from_the_relative_error():
    assert (sqnr(0.01), sqnr(0.0), sqnr(None)) == ("40.0", "exact", "-")


@pytest.mark.parametrize("by", ["role", "tensor"])
def test_tables_fit_a_terminal(own, theirs, by):
    for build in (own, theirs):
        output = audit(build, "--by", by).output.replace(str(build), "BUILD")
        assert max(len(line) for line in output.splitlines()) <= 80


def test_the_table_by_tensor_names_every_module(own, record):
    lines = audit(own, "--by", "tensor").output.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("---"))
    shown = lines[start + 1 : start + 1 + len(record["modules"])]
    assert all(line.split()[1] in ("bf16", "f32", "4-bit") for line in shown)
    assert sum("switch_mlp" in line for line in shown) == 12


def test_reasons_stand_beside_what_is_kept(own):
    output = " ".join(audit(own).output.split())
    assert "4 attention: K and V are written to the cache" in output
    assert "14 modules that mlx could quantize: 1 embedding, 4 router, 4 shared_expert_gate" in output


def test_json_is_the_record_and_nothing_else(own, record):
    assert json.loads(audit(own, "--json").stdout) == record


def test_csv_has_a_line_for_each_module(own, record):
    rows = list(csv.DictReader(io.StringIO(audit(own, "--csv").stdout)))
    assert [r["path"] for r in rows] == [m["path"] for m in record["modules"]]
    experts = next(r for r in rows if r["path"].endswith("layers.0.mlp.switch_mlp.up_proj"))
    assert (experts["shape"], experts["bits"], experts["group_size"]) == ("8x128x128", "4", "64")
    assert 0.08 < float(experts["relative_rms_error"]) < 0.1
    norm = rows[-2]
    assert (norm["role"], norm["bits"], norm["relative_rms_error"]) == ("norm", "", "")


def test_markdown_is_what_convert_wrote(own):
    assert audit(own, "--md").stdout == (own / "AUDIT.md").read_text()


def test_markdown_tells_modules_that_differ_in_their_layer_alone_in_one_line(record):
    text = audit_markdown(record)
    line = next(line for line in text.splitlines() if "`language_model.model.layers.*.mlp.switch_mlp.up_proj`" in line)
    assert "| 0–3 | expert | 8 × 128 × 128 | 4-bit g64 |" in line
    assert text.count("\n") < 110


def test_markdown_holds_every_disagreement_up_to_a_limit(record):
    shown = audit_markdown({**record, "disagreements": [f"fault {i}" for i in range(60)]})
    assert "- fault 49" in shown
    assert "- … and 10 more, in `audit.json`" in shown


def test_a_disagreement_exits_3_after_all_is_printed(theirs, tmp_path):
    build = copied(theirs, tmp_path / "b")
    edit_quantization(build, lambda q: q.update(bits=8))
    result = audit(build, "--json", code=3)
    assert len(json.loads(result.stdout)["disagreements"]) == 1
    assert "1 disagreement, listed above" in result.stderr
    shown = audit(build, code=3)
    assert "DISAGREES" in shown.stdout
    assert "the shards hold 4-bit g64" in " ".join(shown.stdout.split())


def test_source_gives_errors_to_a_build_that_has_none(theirs, tiny_qwen):
    assert "not measured" in audit(theirs).output
    output = " ".join(audit(theirs, "--source", tiny_qwen, "--jobs", 1).output.split())
    assert "error relative RMS" in output
    assert "53 quantized modules measured, 23 other arrays equal byte for byte" in output


def test_a_source_that_is_not_there_exits_3(theirs, tmp_path):
    assert "no such folder" in audit(theirs, "--source", tmp_path / "nowhere", code=3).output


def test_what_is_no_build_exits_3(tiny_qwen, tmp_path):
    assert "no such folder" in audit(tmp_path / "nowhere", code=3).output
    assert "a checkpoint, not an MLX build" in audit(tiny_qwen, code=3).output


def test_two_forms_at_once_are_a_usage_error(own):
    assert "exclude each other" in audit(own, "--json", "--csv", code=2).output


def test_experts_that_no_input_reached_are_named_and_kept_apart_from_modules_that_needed_none():
    few = InputCounts.of(np.array([0, 3, 0]), np.array([1, 1, 0])).as_dict()
    record = made(entry("a.up_proj", inputs=few), entry("b", inputs=InputCounts(9, 9, 9, 4, ()).as_dict()), entry("c"))
    line = "2 modules fitted to 0 to 9 rows of inputs a matrix; experts that none reached: a.up_proj 0, 2"
    assert inputs_text(record["modules"]) == line
    assert ["inputs" in m for m in record["modules"]] == [True, True, False]
    assert "fitted to 0 to 9 rows" in audit_markdown(record)
    assert "fitted to 0 to 9 rows" in audit_text(record, "build")
    assert "fitted" not in audit_markdown(made(entry("c")))
