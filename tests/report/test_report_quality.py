"""A comparison's section in the report: its table, charts with words for who cannot see them, tables by group."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from mlxquant.errors import RecordError
from mlxquant.records.loading import load
from mlxquant.report.page.charts import percent
from mlxquant.report.page.page import make_report
from mlxquant.source.hub.open import open_source
from tests.checkpoints import write_tiny
from tests.divergence.compare_tallies import NOISES, record_of
from tests.report.parsed_page import Parsed
from tests.report.report_records import HOSTILE


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("source") / "tiny"
    write_tiny(folder, "qwen3_5_moe")
    return record_of(open_source(str(folder), weights=True))


def page_of(record: dict[str, Any], folder: Path) -> str:
    path = folder / "mine.compare.json"
    path.write_text(json.dumps(record))
    return make_report([load(path)])


@pytest.fixture(scope="module")
def page(record: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> str:
    return page_of(record, tmp_path_factory.mktemp("page"))


def test_every_candidate_stands_with_its_figures_and_verdict(page: str) -> None:
    text = " ".join(Parsed(page).text)
    for words in (*NOISES, "bf16 noise floor", "beside the noise floor", "above", "not resolved", "12 documents"):
        assert words in text
    assert "it does not rank near-lossless ones" in text


def test_damage_through_weights_and_routing_stands_apart_where_it_was_measured(
    page: str, record: dict[str, Any], tmp_path: Path
) -> None:
    assert "KL through weights" in page
    without = copy.deepcopy(record)
    for candidate in without["candidates"]:
        kept = [m for m in candidate["measurements"] if m["metric"] != "kl_through_routing_nats"]
        candidate["measurements"] = kept
    assert "KL through weights" not in page_of(without, tmp_path)


def test_tables_have_slices_worst_first_depths_turns_and_layers(page: str) -> None:
    text = " ".join(Parsed(page).text)
    assert text.index("in:json") > text.index("KL by slice, the worst first")
    for title in ("KL by position", "KL by turn", "By layer: experts changed, own", "By layer: hidden-state error"):
        assert title in text
    rows = page.partition("<summary>KL by slice")[2].partition("</details>")[0]
    assert rows.index('<th scope="row">json') < rows.index('<th scope="row">code')


def test_charts_have_words_for_who_cannot_see_them(page: str) -> None:
    labels = [str(a.get("aria-label")) for tag, a in Parsed(page).tags if tag == "figure"]
    assert any(label.startswith("KL by slice, the worst first, 10⁻³ nats: all tokens: gates-8bit ") for label in labels)
    assert any(label.startswith("experts changed, own, by layer: gates-8bit at most") for label in labels)


def test_ids_on_the_page_are_unique(page: str) -> None:
    ids = [a["id"] for _, a in Parsed(page).tags if "id" in a]
    assert len(ids) == len(set(ids))


def test_nothing_in_a_comparison_becomes_markup(record: dict[str, Any], tmp_path: Path) -> None:
    evil = copy.deepcopy(record)
    text = HOSTILE.replace("\ud800", "")
    evil["notes"], evil["source"]["name"], evil["data"]["name"] = [text], text, text
    evil["pass"]["compute_reason"] = text
    for candidate in evil["candidates"]:
        candidate["name"] += text
        for m in candidate["measurements"]:
            m |= {key: m[key] + text for key in ("slice", "turn") if key in m}
        if "verdict" in candidate:
            candidate["verdict"]["verdict"] = text
    page = page_of(evil, tmp_path)
    Parsed(page)
    assert "<img" not in page and page.count("<script>") == 1
    assert "49" not in page.partition("<h1>")[2].partition("</h1>")[0]


def test_fourteen_candidates_are_all_in_the_charts_in_a_colour_each_and_six_are_drawn_at_first(
    record: dict[str, Any], tmp_path: Path
) -> None:
    many = copy.deepcopy(record)
    sides = [c for c in many["candidates"] if c["kind"] != "noise floor"]
    many["candidates"] = [
        {**sides[i % len(sides)], "name": f"candidate-{i}", "recipe": None, "kind": "build"} for i in range(14)
    ]
    page = page_of(many, tmp_path)
    boxes = Parsed(page).all("input", type="checkbox", autocomplete="off")
    assert len(boxes) == 14
    assert len([a for a in boxes if "checked" in a]) == 6
    drawn = {str(a["class"]).split()[1] for a in Parsed(page).all("svg") if str(a.get("class")).startswith("d ")}
    assert len(drawn) == 14


def test_a_comparison_that_lacks_what_the_page_counts_on_is_refused(record: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="candidates: a list of at least one expected"):
        page_of(record | {"candidates": []}, tmp_path)


def test_a_hundred_per_cent_is_written_as_such() -> None:
    assert [percent(v) for v in (1.0, 0.5, 0.0123)] == ["100 %", "50 %", "1.2 %"]
