"""What the report shows of a sweep."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from mlxquant.cli import main
from mlxquant.sweep import sweep
from tests.support.browser import chromium
from tests.sweep.sweep_records import GATE, comparison, member, walk
from tests.validate.validate_records import write


def swept(folder: Path, *candidates: dict[str, Any]) -> Path:
    """A sweep's record on disk."""
    compared, gate = write(folder, compared=comparison(*candidates), gate=GATE)
    (path,) = write(folder, sweep=sweep([compared], gate))
    return path


def page(folder: Path, *records: Path) -> str:
    done = report(*records, "-o", folder / "r.html")
    assert done.exit_code == 0, done.output
    return (folder / "r.html").read_text()


def report(*words: object) -> Result:
    return CliRunner().invoke(main, ["report", *map(str, words)])


def test_the_page_has_the_recommendation_the_plot_and_the_grid(tmp_path):
    text = page(tmp_path, swept(tmp_path, *walk(), *walk("uniform", factor=2.0)))
    assert re.search(r'status pass">recommended</span> uniform-8bit:bits=5', text)
    assert "gates-8bit:bits=4, is not inside" in text
    assert text.count('<svg class="plot"') == 2
    assert "damage by bytes read for a token" in text
    row = re.search(r'<th scope="row">kl_nats, slice json ≤ 0.1</th>(.*)</tr>', text)
    assert row is not None
    assert re.findall(r">(\w+)</td>", row[1])[:3] == ["pass", "pass", "pass"]
    assert "Other records" not in text


def test_where_nothing_passes_the_page_says_what_is_nearest(tmp_path):
    text = page(tmp_path, swept(tmp_path, *walk(factor=100.0)))
    assert "nothing recommended" in text
    assert "The nearest, gates-8bit:bits=8, is not inside" in text


def test_a_candidate_without_any_damage_is_in_the_table_though_a_logarithm_has_no_place_for_it(tmp_path):
    text = page(tmp_path, swept(tmp_path, member("gates", 8, kl=0.0)))
    assert '<svg class="plot"' not in text
    assert "gates-8bit:bits=8" in text


def test_names_in_a_record_never_become_markup(tmp_path):
    bad = member("gates", 8, name="<script>alert(1)</script>")
    text = page(tmp_path, swept(tmp_path, bad, member("gates", 4)))
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(1)" in text


@pytest.mark.parametrize(
    ("key", "value", "place"),
    [
        ("recommendation", {"name": 3, "why": "x"}, "recommendation.name: a text or null expected, 3 found"),
        ("candidates", [{"name": "a"}], "candidates[0].family: a text expected, nothing found"),
        (
            "thresholds",
            [{"family": "a", "tolerance": 1, "statuses": {"8": "perhaps"}}],
            "thresholds[0].statuses.8: one of",
        ),
        ("frontier", {"bytes": 3}, "frontier.bytes: a list expected, 3 found"),
        ("noise_floor_kl_nats", "low", "noise_floor_kl_nats: a table or null expected"),
    ],
)
def test_a_record_that_lacks_what_the_page_needs_is_refused_with_what_it_lacks(tmp_path, key, value, place):
    path = swept(tmp_path, *walk())
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    done = report(path, "-o", tmp_path / "r.html")
    assert done.exit_code == 3
    assert place in done.stderr


@pytest.mark.slow
def test_the_section_fits_a_phone_and_a_screen_without_a_complaint(tmp_path):
    page(tmp_path, swept(tmp_path, *walk(), *walk("uniform", factor=2.0)))
    with chromium(tmp_path / "profile") as browser:
        for width, dark in ((1240, False), (390, True)):
            browser.open(tmp_path / "r.html", width=width, dark=dark)
            assert browser.ask("document.documentElement.scrollWidth") == width
            assert browser.complaints() == []
