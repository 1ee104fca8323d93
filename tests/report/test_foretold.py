"""Charts that need two records or two figures: what foretells wrong calls, size against damage, routing's share."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from mlxquant.records.loading import load
from mlxquant.report.page.candidates import Candidate
from mlxquant.report.page.charts import Line, frontier, shares
from mlxquant.report.page.page import make_report
from mlxquant.stats import rank_correlation

STUDY = Path(__file__).resolve().parents[2] / "audits" / "store-moe"


def ranked(a: list[int], b: list[int]) -> Any:
    return rank_correlation(a, b)


@pytest.fixture(scope="module")
def html():
    return make_report([load(STUDY / name) for name in ("compare-forced.json", "eval.json")])


def test_candidates_of_both_records_are_points_and_figures_are_ranked(html):
    assert 'href="#foretelling"' in html and "What foretells wrong calls" in html
    section = html[html.index('id="foretelling"') :]
    section = section[: section.index("</section>\n</section>\n</section>")]
    assert "KL, 10⁻³ nats: ρ = " in section and "other experts, %" in section
    assert '<td class="n">3</td>' in section, "gates at 4, 3 and 2 bits stand in both"


def test_two_candidates_in_common_foretell_nothing(tmp_path):
    record = json.loads((STUDY / "compare-forced.json").read_text())
    record = copy.deepcopy(record)
    record["candidates"] = [c for c in record["candidates"] if c["name"] != "gates-8bit:bits=2"]
    (tmp_path / "compare.json").write_text(json.dumps(record))
    assert 'id="foretelling"' not in make_report([load(tmp_path / "compare.json"), load(STUDY / "eval.json")])


def test_a_comparison_draws_size_against_damage_and_what_goes_through_routing(html):
    assert "KL by size of the build" in html and "share of KL through routing" in html
    assert "gates-8bit:bits=2 41 %" in html


def test_a_frontier_is_what_none_beats_in_both():
    assert frontier([(3, 1.0), (2, 5.0), (4, 2.0), (2, 6.0)]) == [(2, 5.0), (3, 1.0)]
    assert frontier([]) == []


def test_shares_that_are_all_high_are_drawn_from_the_least_of_them():
    one = Candidate(0, "one")
    assert shares("t", "t", [("", [Line(one, 0.98, 0.97, 0.99, "x")])]).ticks[0].text != "0 %"
    assert shares("t", "t", [("", [Line(one, 0.98, 0.4, 0.99, "x")])]).ticks[0].text == "0 %"


def test_a_rank_correlation_has_the_ends_of_bonett_and_wright():
    order = list(range(8))
    same, other, turned = (
        ranked(order, values) for values in ([v**3 for v in order], [1, 0, 3, 2, 5, 4, 7, 6], [-v for v in order])
    )
    assert same.estimate == pytest.approx(1) and same.high == 1 and turned.low == -1
    assert same.low == pytest.approx(0.82, abs=0.01)
    assert same.low > other.low > 0.4 and other.high < 1


def test_what_cannot_be_ranked_has_no_rank_correlation_and_few_have_no_interval():
    assert rank_correlation([1, 1, 1], [1, 2, 3]) is None
    assert ranked([1, 2, 3], [1, 2, 3]).low is None
