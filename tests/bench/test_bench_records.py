"""Records: read back with care, pooled only where they belong together, shown and exported."""

from __future__ import annotations

import csv
import io
import json
import sqlite3

import pytest

from mlxquant.bench.record import pool, read_bench
from mlxquant.errors import RecordError
from mlxquant.records.files import record_text
from mlxquant.report.bench import bench_markdown, bench_text
from mlxquant.report.bench_tables import COLUMNS, bench_csv, bench_jsonl, bench_sql
from tests.bench.bench_cases import record_of

BASE = [38.8, 38.9, 38.7, 38.8, 38.6]
AGENTIC = [27.0, 27.1, 26.9, 27.2, 27.0]
LLAMA_BENCH = [
    "cpu_info", "gpu_info", "backends", "model_filename", "model_type", "model_size", "model_n_params", "n_prompt",
    "n_gen", "n_depth", "test_time", "avg_ns", "stddev_ns", "avg_ts", "stddev_ts",
]  # fmt: skip


@pytest.fixture
def record():
    return record_of(
        {
            "qwen3.5-122b-a10b-base": {"pp512": BASE, "tg128 @ d4096": [37.8] * 5},
            "qwen3.5-122b-a10b-agentic": {"pp512": AGENTIC, "tg128 @ d4096": [35.8, 40.1, 37.0, 38.9, 36.0]},
        }
    )


# --- results ---


def test_the_share_of_the_ceiling_counts_the_cache_at_that_depth(record):
    decode = next(r for r in record["results"] if r["test"] == "tg128 @ d4096")
    assert decode["ceiling_tok_s"] == pytest.approx(819e9 / 1.1e9, rel=1e-4)
    assert decode["ceiling_share"] == pytest.approx(37.8 / (819 / 1.1), rel=1e-3)
    assert record["results"][0]["ceiling_tok_s"] is None  # prefill is not bound by it


def test_without_a_known_bandwidth_there_is_no_share():
    record = record_of({"a": {"tg128": BASE}}, bandwidth_gbs=None)
    assert record["results"][0]["ceiling_share"] is None


def test_a_ratio_takes_the_first_build_as_its_base(record):
    prefill, decode = record["ratios"]
    assert prefill["ratio"] == pytest.approx(27.04 / 38.76, rel=1e-3)
    assert prefill["resolved"] and not decode["resolved"]
    assert "contains 1" in decode["reason"]


# --- reading and pooling ---


def test_a_record_is_read_back_as_it_was_written(record, tmp_path):
    path = tmp_path / "bench.json"
    path.write_text(record_text(record))
    assert read_bench(path) == record


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": "mlxquant.plan/1"}, "a record of bench expected, schema 'mlxquant.plan/1' found"),
        ({"samples": None}, "samples: a list expected, null found"),
        (
            {"samples": [{"build": 7, "round": 1, "test": "pp512"}]},
            "samples[0].build: one of the record's 2 builds expected, 7 found",
        ),
        (
            {"samples": [{"build": 0, "round": 1, "test": "fast"}]},
            'samples[0].test: a text such as pp512 or tg128 or tg128 @ d4096 expected, "fast" found',
        ),
        (
            {"samples": [{"build": 0, "round": 1, "test": "pp1", "tok_s": -1}]},
            "samples[0].tok_s: a number above 0 expected, -1 found",
        ),
        ({"builds": [{}]}, "builds[0].load_s: a list expected, nothing found"),
        ({"settings": {}}, "settings.batch: a whole number expected, nothing found"),
    ],
)
def test_a_damaged_record_is_refused_with_the_reason(record, tmp_path, change, message):
    path = tmp_path / "bench.json"
    path.write_text(record_text({**record, **change}))
    with pytest.raises(RecordError) as error:
        read_bench(path)
    assert message in str(error.value)


def test_records_of_one_machine_are_pooled_round_after_round(record):
    later = record_of({b["name"]: {"pp512": [30.0] * 5} for b in record["builds"]})
    pooled = pool([record, later], ["a.json", "b.json"])
    prefill = next(r for r in pooled["ratios"] if r["test"] == "pp512")
    assert prefill["n"] == 10
    assert pooled["settings"]["repetitions"] == 10
    assert sorted({s["round"] for s in pooled["samples"]}) == list(range(1, 11))
    assert pooled["builds"][0]["load_s"] == [1.5, 1.5]


@pytest.mark.parametrize(
    ("machine", "message"),
    [
        ({"chip": "Apple M4 Max"}, "machine, chip: Apple M3 Ultra and Apple M4 Max"),
        ({"gpu_cores": 60}, "machine, gpu_cores: 80 and 60"),
        ({"power_mode": "low power"}, "power_mode"),
        ({"unknown": "the server's"}, "machine: the server's"),
    ],
)
def test_records_of_two_machines_never_meet_in_one_ratio(record, machine, message):
    other = record_of({b["name"]: {"pp512": BASE} for b in record["builds"]}, **machine)
    with pytest.raises(RecordError, match="must not be merged into one ratio") as error:
        pool([record, other], ["a.json", "b.json"])
    assert message in str(error.value)


def test_other_versions_settings_or_builds_are_not_pooled_either(record):
    other = record_of({"qwen3.5-122b-a10b-base": {"pp512": BASE}})
    other["versions"]["mlx"] = "0.33.0"
    other["settings"]["batch"] = 4
    with pytest.raises(RecordError) as error:
        pool([record, other], ["a.json", "b.json"])
    message = str(error.value)
    assert "version of mlx: 0.32.4 and 0.33.0" in message
    assert "settings, batch: 1 and 4" in message
    assert "are not the same builds in the same order" in message


def test_a_record_given_twice_counts_once(record):
    with pytest.raises(RecordError, match=r"b\.json: given twice"):
        pool([record, record], ["a.json", "b.json"])


# --- text and exports ---


def test_text_fits_a_terminal_of_80_columns(record):
    record["notes"] = ["busy: " + "other processes used 1.5 of 8 cores on average " * 3]
    lines = bench_text(record).splitlines()
    assert max(map(len, lines)) <= 80


def test_text_gives_speed_latency_ratio_and_share(record):
    text = bench_text(record)
    assert "Apple M3 Ultra, 32 cores, 80-core GPU, 256 GiB, macOS 26.1, automatic,\n" in text
    assert "38.76 ± 0.11" in text
    assert "30.2 % slower" in text
    assert "not resolved" in text
    assert "Ceiling: 819 GB/s (a test) over the bytes that a token reads." in text


def test_a_failure_stands_in_the_text_with_its_reason(record):
    record["results"][0] |= {"tok_s": None, "failures": ["5 × timeout: no whole answer within 600 s"]}
    text = bench_text(record)
    assert "not measured" in text
    assert "5 × timeout: no" in text


def test_markdown_has_llama_benchs_columns(record):
    lines = bench_markdown(record).splitlines()
    assert lines[0] == "| model | size | params | backend | test | t/s | median | min | max |"
    assert lines[2].startswith("| qwen3.5-122b-a10b-base | 1.00 GiB | 1.0 B | MLX | pp512 | 38.76 ± 0.11 |")
    assert "- machine: Apple M3 Ultra" in bench_markdown(record)


def test_csv_calls_columns_as_llama_bench_does(record):
    rows = list(csv.DictReader(io.StringIO(bench_csv(record))))
    assert list(rows[0])[: len(LLAMA_BENCH)] == LLAMA_BENCH
    first = rows[0]
    assert (first["n_prompt"], first["n_gen"], first["n_depth"]) == ("512", "0", "0")
    assert float(first["avg_ts"]) == pytest.approx(38.76)
    assert int(first["avg_ns"]) == pytest.approx(128 / 38.76 * 1e9, rel=1e-3)
    assert first["model_size"] == str(2**30)


def test_json_lines_hold_every_sample(record):
    rows = [json.loads(line) for line in bench_jsonl(record).splitlines()]
    assert len(rows) == 4
    assert rows[1]["model_filename"] == "qwen3.5-122b-a10b-agentic"
    assert rows[1]["samples_ts"] == AGENTIC
    assert rows[1]["samples_ns"][0] == round(128 / 27.0 * 1e9)


def test_sql_makes_and_fills_a_table_though_names_hold_quotes(record):
    record["builds"][0]["name"] = "o'hare; drop table x"
    record["results"][1] |= {"tok_s": None, "seconds": None}
    database = sqlite3.connect(":memory:")
    database.executescript(bench_sql(record))
    rows = database.execute("SELECT model_filename, n_prompt, avg_ts FROM mlxquant_bench ORDER BY rowid").fetchall()
    assert rows[0] == ("o'hare; drop table x", 512, pytest.approx(38.76))
    assert rows[1][2] is None
    assert [c[1] for c in database.execute("PRAGMA table_info(mlxquant_bench)")] == list(COLUMNS)
