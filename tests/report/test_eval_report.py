"""An evaluation's section of the report: its figures, its charts, and records that a stranger wrote."""

from __future__ import annotations

import copy
import json
import re
from typing import Any

import pytest

from mlxquant.errors import RecordError
from mlxquant.records.loading import Loaded, load
from mlxquant.records.schemas import check
from mlxquant.report.page.candidates import Candidate, Cast
from mlxquant.report.page.charts import survival
from mlxquant.report.page.eval import evaluation
from mlxquant.report.page.page import make_report
from tests.evals.eval_records import damaged, record_of
from tests.report.report_records import HOSTILE


def page(record, tmp_path):
    path = tmp_path / "tiny.eval.json"
    path.write_text(json.dumps(record))
    return make_report([load(path)])


def test_a_section_shows_changes_pairs_depths_slices_survival_and_speed(tmp_path):
    html = page(damaged(), tmp_path)
    for words in ("candidate beside base", "whole items right", "… the right tool", "McNemar", "21-50", "worst first",
                  "loops that have not gone wrong yet", "median call", "first token", "#evaluation"):  # fmt: skip
        assert words in html, words
    assert html.count('<figure class="chart') == 4
    assert "no section for" not in html and "tiny.eval.json" in html


def test_where_nothing_differs_the_section_says_how_much_might(tmp_path):
    first = [t for t in damaged(6, 5)["trials"] if t["side"] == 0]
    html = page(record_of(first + [t | {"side": 1} for t in first]), tmp_path)
    assert re.search(r"candidate: None of 30 calls differed: a difference of at most [\d.]+ points", html)


def test_a_survival_line_does_not_hide_an_equal_one():
    sides = [Candidate(0, "full", baseline=True), Candidate(1, "gates-8bit")]
    plot = survival("t", "t", [(side, [2.0, 5.0], [0.5, 0.25], side.name) for side in sides], 10)
    first, second = ([float(n) for n in re.findall(r"[\d.]+", drawn.lines[0])] for drawn in plot.drawn)
    assert {round(b - a, 1) for a, b in zip(first, second, strict=True)} == {2.0}


def test_what_a_record_says_cannot_become_markup(tmp_path):
    sides = {"baseline": {"name": HOSTILE, "kind": HOSTILE}, "candidates": [{"name": HOSTILE + "2", "kind": "build"}]}
    html = page(record_of(damaged(6, 5)["trials"], **sides, notes=[HOSTILE]), tmp_path)
    assert "<script>document.title" not in html and "<img src=x" not in html
    assert "{{ 7*7 }}" in html, "a template of the record's is text"


def test_a_record_without_loops_has_no_survival(tmp_path):
    trials = [t | {"calls": [], "depth": 0, "first_error": None} for t in damaged(6, 5)["trials"]]
    html = page(record_of(trials), tmp_path)
    assert "not gone wrong yet" not in html and "whole items right" in html


VALUES: tuple[Any, ...] = (None, "x", [], {})


def keys_of(value, at=()):
    """Every place of a record that a table or list is at."""
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value[:2]):
        yield (*at, key)
        if isinstance(inner, dict | list):
            yield from keys_of(inner, (*at, key))


@pytest.mark.slow
def test_a_record_with_anything_broken_is_told_or_shown_but_never_a_traceback():
    whole = damaged(6, 3)
    places = [p for p in keys_of(whole) if p[0] not in ("trials", "call_checks")]
    assert len(places) > 100
    for at in places:
        for value in VALUES:
            record = copy.deepcopy(whole)
            inner: Any = record
            for key in at[:-1]:
                inner = inner[key]
            inner[at[-1]] = value
            try:
                check(record, "e.json", kinds=("eval",), whole=True)
            except RecordError:
                continue
            loaded = Loaded("e", "e.json", "0", record)
            assert evaluation(loaded, 1, Cast([loaded], []))["title"], at


def test_a_file_that_lacks_what_is_counted_on_is_refused_with_the_place(tmp_path):
    record = damaged(6, 3)
    del record["candidates"][0]["paired"]
    record["survival"][0]["times"] = ["soon"]
    path = tmp_path / "e.json"
    path.write_text(json.dumps(record))
    with pytest.raises(RecordError) as error:
        load(path)
    assert 'survival[0].times[0]: a number expected, "soon" found' in str(error.value)
    record["survival"] = []
    path.write_text(json.dumps(record))
    with pytest.raises(RecordError, match=r"candidates\[0\]\.paired: expected, nothing found"):
        load(path)
