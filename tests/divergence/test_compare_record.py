"""A comparison's record: its form, held to a golden file; reading it back; its tables in 80 columns."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from mlxquant.divergence.record import Question, run_comparison
from mlxquant.errors import RecordError, UsageError
from mlxquant.plan.recipe.variation import load_variation
from mlxquant.records.files import record_text
from mlxquant.records.measurements import Figures, read_comparison
from mlxquant.records.metrics import PLACES
from mlxquant.report.compare import VIEWS, compare_text, interval, with_half
from mlxquant.source.checkpoint import Checkpoint
from mlxquant.source.hub.open import open_source
from mlxquant.stats import Interval
from mlxquant.stream.candidates import Candidate
from tests.checkpoints import write_tiny
from tests.divergence import compare_tallies
from tests.divergence.compare_tallies import NOISES, record_of

GOLDEN = Path(__file__).parent / "golden" / "compare.json"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = tmp_path_factory.mktemp("source") / "tiny"
    write_tiny(folder, "qwen3_5_moe")
    return open_source(str(folder), weights=True)


@pytest.fixture(scope="module")
def record(source: Checkpoint) -> dict[str, Any]:
    return record_of(source)


def form(value: Any) -> Any:
    """The types of what a record holds; lists by their first entry."""
    if isinstance(value, dict):
        return {key: form(v) for key, v in value.items()}
    if isinstance(value, list):
        return [form(value[0])] if value else []
    return "number" if type(value) in (int, float) else type(value).__name__


def summary(record: dict[str, Any]) -> dict[str, Any]:
    """What a golden file keeps: the form, and which metrics there are over what."""
    bare = copy.deepcopy(record)
    metrics: dict[str, list[str]] = {}
    for table in (bare["baseline"], *bare["candidates"]):
        kept = table.pop("measurements")
        table["measurements"] = [{"metric": "", "estimate": 0, "low": 0, "high": 0, "se": 0, "n": 0, "clusters": 0}]
        assert all({*table["measurements"][0]} <= {*m} for m in kept)
        for m in kept:
            over = ",".join(key if key != "case" else f"case={m['case']}" for key in PLACES if key in m) or "everything"
            metrics.setdefault(m["metric"], [])
            metrics[m["metric"]] += [over] if over not in metrics[m["metric"]] else []
    bare["candidates"][0]["recipe"] = "the recipe in full"
    bare["data"]["slices"], bare["pass"]["step_seconds"] = {}, {}
    return {"form": form(bare), "metrics": {k: sorted(v) for k, v in sorted(metrics.items())}}


def test_the_records_form_is_the_golden_files(record):
    found = summary(record)
    if not GOLDEN.exists():  # written anew by hand: remove the file, look at what comes
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
        pytest.fail(f"{GOLDEN.name} was written; look at it, and run again")
    assert found == json.loads(GOLDEN.read_text())


def test_a_record_reads_back_as_it_was(record, tmp_path):
    path = tmp_path / "compare.json"
    path.write_text(record_text(record) + "\n")
    assert read_comparison(path) == record


def test_every_measurement_has_a_line_of_its_own(record):
    lines = record_text(record).splitlines()
    measured = sum(len(c["measurements"]) for c in (record["baseline"], *record["candidates"]))
    assert sum(line.startswith('      {"metric"') for line in lines) == measured


def test_every_figure_can_be_restated_at_another_confidence(record):
    for m in record["candidates"][0]["measurements"]:
        found = Interval.from_dict(m)
        assert found.at(0.95).low == m["low"]
        assert found.at(0.99).low is None or m["low"] is None or found.at(0.99).low <= m["low"]


def test_a_record_names_recipes_in_full(record):
    told = record["candidates"][1]["recipe"]
    assert (told["name"], told["overrides"]) == ("gates-8bit", ["--bits 4"])
    assert len(told["sha256"]) == 64 and told["rules"]


def test_the_worst_slice_comes_first(record):
    figures = Figures(record["candidates"][1])
    worst = [m["estimate"] for m in figures.slices_worst_first()]
    assert worst == sorted(worst, reverse=True)
    found = figures.worst_slice()
    assert found is not None and found["slice"] == "json"


def test_a_slice_without_an_interval_is_never_the_worst(record):
    candidate = copy.deepcopy(record["candidates"][0])
    for m in candidate["measurements"]:
        if m.get("slice") == "json":
            m |= {"low": None, "high": None, "estimate": 99.0}
    figures = Figures(candidate)
    worst = figures.worst_slice()
    assert worst is not None and worst["slice"] != "json"
    assert figures.slices_worst_first()[-1]["slice"] == "json"


def test_routers_that_show_no_logits_are_named(source, monkeypatch):
    assert not any("not visible" in note for note in record_of(source, {"gates-8bit": 0.1})["notes"])
    seen = compare_tallies.layer_scores

    def blind(*words: Any) -> Any:
        scores = seen(*words)
        return dataclasses.replace(
            scores, routing=scores.routing and dataclasses.replace(scores.routing, margin=None, first_changed=None)
        )

    monkeypatch.setattr(compare_tallies, "layer_scores", blind)
    found = record_of(source, {"gates-8bit": 0.1})
    assert "the router's logits are not visible in any layer: no margins there" in found["notes"]
    metrics = {m["metric"] for c in found["candidates"] for m in c["measurements"]}
    assert "expert_set_changed" in metrics and "first_expert_changed" not in metrics


# Text


@pytest.mark.parametrize("by", VIEWS)
def test_every_view_fits_80_columns(record, by):
    text = compare_text(record, by)
    assert max(map(len, text.splitlines())) <= 80
    assert "does not rank near-lossless ones" in " ".join(text.split())


def test_the_table_says_what_each_candidate_is(record):
    text = compare_text(record)
    for name in ("gates-8bit ", "gates-8bit:b", "bf16 noise floor"):
        assert name in text
    assert "above" in text and "open" in text


def test_an_open_verdict_says_what_would_settle_it(record):
    text = " ".join(compare_text(record).split())
    assert "four of five runs settle it with" in text and "candidate and floor alike" in text


def test_a_statistic_is_shown_under_llama_cpps_name_with_both_errors(record):
    text = compare_text(record, "statistic")
    for name in ("Mean PPL(Q)", "Mean PPL(base)", "Cor(ln(PPL(Q)), ln(PPL(base)))", "Mean KLD", "99.9% KLD", "RMS Δp",
                 "Same top p"):  # fmt: skip
        assert name in text


@pytest.mark.parametrize(
    ("estimate", "low", "high", "text"),
    [(1.234, 1.134, 1.334, "1.23±0.10"), (0.0, 0.0, 0.0, "0±0"), (1234.5, 1200.5, 1268.5, "1234±34"),
     (0.00012345, 0.00012, 0.00013, "0.00012±5e-06"), (2.0, 1.9993, 2.0007, "2.00000±0.00070"), (3.0, None, None, "3")],
)  # fmt: skip
def test_a_figure_has_the_digits_that_its_interval_warrants(estimate, low, high, text):
    assert with_half({"estimate": estimate, "low": low, "high": high}) == text


def test_an_interval_says_why_there_is_none():
    assert interval({"low": None, "high": None, "reason": "4 clusters"}) == "4 clusters"
    assert interval({"low": 0.5, "high": 1.5}) == "0.5 … 1.5"


# What a stranger's record may be


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda r: r.update(schema="mlxquant.bench/1"),
            "a record of compare expected, schema 'mlxquant.bench/1' found",
        ),
        (lambda r: r.pop("candidates"), "candidates: a list expected, nothing found"),
        (lambda r: r.update(margin_nats="a lot"), 'margin_nats: a number expected, "a lot" found'),
        (lambda r: r["pass"].pop("seconds"), r"pass\.seconds: a number expected, nothing found"),
        (lambda r: r["candidates"][0].pop("name"), r"candidates\[0\]\.name: a text expected, nothing found"),
        (
            lambda r: r["candidates"][1]["measurements"][3].pop("low"),
            r"candidates\[1\]\.measurements\[3\]\.low: a number or null expected, nothing found",
        ),
        (
            lambda r: r["candidates"][0]["verdict"].pop("against"),
            r"candidates\[0\]\.verdict\.against: a text expected, nothing found",
        ),
    ],
)
def test_a_broken_record_is_refused_with_its_fault(record, tmp_path, change, message):
    broken = copy.deepcopy(record)
    change(broken)
    path = tmp_path / "r.json"
    path.write_text(record_text(broken))
    with pytest.raises(RecordError, match=message):
        read_comparison(path)


# What is asked


def test_two_candidates_of_one_name_are_refused(source):
    twice = [Candidate("gates-8bit", recipe=load_variation("gates-8bit"))] * 2
    with pytest.raises(UsageError, match="gates-8bit: given twice"):
        run_comparison(source, twice, Question())


@pytest.mark.parametrize(
    ("question", "message"), [(Question(margin=-1), "--margin"), (Question(confidence=1.5), "--conf")]
)
def test_a_question_that_means_nothing_is_refused(source, question, message):
    with pytest.raises(UsageError, match=message):
        run_comparison(source, [Candidate("gates-8bit", recipe=load_variation("gates-8bit"))], question)


def test_a_margin_is_in_the_record_with_every_verdict(source):
    found = record_of(source, {"gates-8bit": NOISES["gates-8bit"]}, Question(margin=0.25))
    assert found["margin_nats"] == 0.25
    assert found["candidates"][0]["verdict"]["verdict"] == "within the noise floor"
    assert found["candidates"][0]["verdict"]["margin_nats"] == 0.25
