"""`mlxquant bench` as a person types it."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from mlxquant.cli import main
from mlxquant.records.files import record_text
from tests.bench.bench_cases import record_of
from tests.support.builds import build


def bench(*arguments):
    return CliRunner().invoke(main, ["bench", *map(str, arguments)])


@pytest.fixture(scope="module")
def llama(tiny, tmp_path_factory):
    out = tmp_path_factory.mktemp("command") / "llama-8bit"
    build(tiny("llama"), out, audit=False)
    return out


@pytest.fixture
def kept(tmp_path):
    path = tmp_path / "kept.json"
    path.write_text(record_text(record_of({"a": {"pp512": [10.0] * 5}, "b": {"pp512": [20.0] * 5}})))
    return path


QUICK = ("-p", "8", "-n", "3", "-r", "1", "--warmups", "0")


@pytest.mark.slow
def test_a_build_is_measured_shown_and_kept(llama, tmp_path):
    run = bench(llama, *QUICK, "-d", "0,4", "--bandwidth", "20", "-o", tmp_path / "record.json")
    assert run.exit_code == 0, run.output
    assert "llama-8bit" in run.stdout
    assert "tg3 @ d4" in run.stdout
    assert "Ceiling: 20 GB/s (given with --bandwidth)" in " ".join(run.stdout.split())
    record = json.loads((tmp_path / "record.json").read_text())
    assert len(record["samples"]) == 4


def test_json_is_all_that_stands_on_stdout(llama):
    run = bench(llama, *QUICK, "--json", "--random-tokens")
    record = json.loads(run.stdout)
    assert record["settings"]["prompt"] == "random"
    assert record["settings"]["text"] == {"kind": "random", "sha256": None}


@pytest.mark.slow
def test_builds_can_be_loaded_anew_each_round(llama):
    run = bench(llama, llama, "-p", "4", "-n", "0", "-r", "2", "--load", "each-round", "--json")
    record = json.loads(run.stdout)
    assert [b["name"] for b in record["builds"]] == ["llama-8bit", "llama-8bit#2"]
    assert all(len(b["load_s"]) == 2 for b in record["builds"])


@pytest.mark.parametrize("form", ["--md", "--csv", "--jsonl", "--sql"])
def test_a_kept_record_is_shown_in_every_form(kept, form):
    run = bench("--from", kept, form)
    assert run.exit_code == 0
    assert "pp512" in run.stdout


def test_a_kept_record_is_shown_as_text_with_its_ratio(kept):
    assert "100.0 % faster" in bench("--from", kept).stdout


def test_records_of_two_machines_are_an_error(kept, tmp_path):
    other = tmp_path / "other.json"
    rates = {"a": {"pp512": [10.0] * 5}, "b": {"pp512": [20.0] * 5}}
    other.write_text(record_text(record_of(rates, chip="Apple M1")))
    run = bench("--from", kept, "--from", other)
    assert run.exit_code == 3
    assert "machine, chip: Apple M3 Ultra and Apple M1" in run.stderr


def test_a_prediction_needs_no_weights(shared):
    config = shared / "reference" / "configs" / "Qwen3.5-122B-A10B.json"
    run = bench("--predict", config, "--recipe", "gates-8bit", "--chip", "M3 Ultra", "--json")
    record = json.loads(run.stdout)
    assert record["builds"][0]["published"]["decode_tok_s"] == 37.8
    assert {c["chip"] for c in record["chips"]} == {"M3 Ultra"}


def test_a_build_is_predicted_without_a_recipe_for_any_bandwidth(llama):
    run = bench("--predict", llama, "--bandwidth", "100")
    assert run.exit_code == 0, run.output
    assert "weights that a token reads" in run.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "nothing to measure: give the folder of a build"),
        (("x", "--csv", "--sql"), "one of --md, --csv, --json, --jsonl, --sql at a time"),
        (("x", "-p", "many"), "-p 'many': whole numbers"),
        (("x", "--random-tokens", "--prompt-file", "y"), "exclude each other"),
        (("x", "--endpoint", "http://127.0.0.1:9/v1", "--model", "m"), "measured apart"),
        (("--endpoint", "http://127.0.0.1:9/v1"), "--endpoint needs --model NAME"),
        (("--endpoint", "nonsense", "--model", "m"), "an address such as http://127.0.0.1:1234/v1"),
        (("--endpoint", "http://127.0.0.1:9/v1", "--model", "m", "--api-key-env", "NOT_SET"), "variable is not set"),
        (("x", "--model", "m"), "go with --endpoint"),
        (("--predict",), "nothing to predict"),
        (("--predict", "x", "--csv"), "--predict prints text, or --json"),
        (("--predict", "x", "--recipe", "gates-8bti"), "gates-8bti"),
        (("x", "--from", "y"), "--from shows records"),
        (("x", "--bandwidth", "-1"), "--bandwidth"),
    ],
)
def test_a_request_that_cannot_mean_anything_is_refused(arguments, message):
    run = bench(*arguments)
    assert run.exit_code in (2, 3)
    assert message in run.stderr


def test_an_unknown_chip_is_told_with_the_known_ones(llama):
    run = bench("--predict", llama, "--chip", "M9")
    assert run.exit_code == 2
    assert "'M9': not in the table; it has M1, M1 Pro," in run.stderr


def test_a_record_is_never_written_over(kept):
    run = bench("--from", kept, "-o", kept)
    assert run.exit_code == 3
    assert "already exists" in run.stderr


def test_a_server_that_is_not_there_is_an_error():
    run = bench("--endpoint", "http://127.0.0.1:9/v1", "--model", "m", *QUICK)
    assert run.exit_code == 3
    assert "connection refused; is the server running there?" in run.stderr
    assert run.stdout == ""


def test_a_folder_that_is_no_build_is_an_error(tmp_path):
    run = bench(tmp_path)
    assert run.exit_code == 3
    assert "config.json" in run.stderr
