"""Texts cut to fit, lists that end in a count, figures and tables."""

from __future__ import annotations

import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxquant.words import text
from mlxquant.words.text import (
    counted,
    cut,
    either,
    ends,
    figure,
    narrow_table,
    nearest,
    percent,
    percent_digits,
    plus_minus,
    some,
    table,
)


def test_the_examples_in_docstrings_hold():
    assert doctest.testmod(text).failed == 0


@given(st.text(max_size=30), st.integers(1, 40), st.sampled_from(["start", "middle", "end"]))
def test_a_cut_text_is_never_wider_than_asked(words, width, at):
    short = cut(words, width, at)
    assert len(short) <= width
    assert short == words or "…" in short


@pytest.mark.parametrize(("at", "expected"), [("start", "…8bit-g64"), ("middle", "gate…-g64"), ("end", "gates-8b…")])
def test_a_text_is_cut_where_it_is_asked(at, expected):
    assert cut("gates-8bit-g64", 9, at) == expected


def test_a_list_that_fits_has_no_count():
    assert some(["a", "b", "c"]) == "a, b, c"
    assert some(["a", "b"], 1) == "a and 1 more"


def test_alternatives_are_joined_by_or():
    assert (either((32,)), either((32, 64)), either((32, 64, 128))) == ("32", "32 or 64", "32, 64 or 128")


def test_one_thing_has_no_plural():
    assert (counted(1, "task"), counted(0, "task"), counted(1200, "task")) == ("1 task", "0 tasks", "1,200 tasks")


def test_what_is_not_known_is_a_dash():
    assert {figure(None), percent(None), percent_digits(None), plus_minus(None, 0.1)} == {"-"}


def test_figures_have_digits_that_mean_something():
    assert (figure(0.0012341), figure(37.812), figure(-125966246400.0)) == ("0.001234", "37.81", "−125,966,246,400")
    assert (percent(0.1234), percent_digits(0.00412), percent_digits(1.5)) == ("12.3 %", "0.412 %", "150 %")


def test_an_interval_decides_how_many_digits_a_figure_has():
    assert plus_minus(12.3456, 0.0789) == "12.346±0.079"
    assert plus_minus(12.3456, None) == "12.3"
    assert plus_minus(12.3456, 0) == "12.3±0"
    assert plus_minus(1.0, float("inf")) == "1.0±inf", "as a broken record may have it"
    assert ends(1.2345, 1.3456) == "1.23 … 1.35"


def test_a_near_word_is_offered():
    assert nearest("ruter", ["router", "expert"]) == " (did you mean 'router'?)"
    assert nearest("zzz", ["router"]) == ""


def test_a_table_aligns_all_but_its_first_column_right():
    assert table(("a", "n"), [("x", 1), ("yy", 22)]).splitlines()[-1] == "yy    22"
    assert narrow_table(("a", "n"), [("x", "1"), ("yy", "22")], "lr").splitlines()[-1] == "yy  22"
