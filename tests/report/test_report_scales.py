"""Axes of the charts: ticks that do not touch, within the ends, in order."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from mlxquant.report.page.charts import percent, plain
from mlxquant.report.page.scales import linear_scale, log_scale

VALUES = st.lists(st.floats(1e-8, 1e4), min_size=1, max_size=8)
SIGN = 5.0  # a digit at the axis' size


@given(VALUES, st.sampled_from([lambda v: plain(1000 * v), percent]))
def test_labels_of_a_logarithmic_axis_do_not_touch(values, show):
    scale = log_scale(values, 10, 264, show)
    assert scale.ticks
    for a, b in pairwise(scale.ticks):
        assert b.at - a.at > (len(a.text) + len(b.text)) / 2 * SIGN


@given(VALUES, st.booleans())
def test_labels_of_a_linear_axis_do_not_touch(values, whole):
    scale = linear_scale(values, 10, 264, plain, whole=whole)
    for a, b in pairwise(scale.ticks):
        assert b.at - a.at > (len(a.text) + len(b.text)) / 2 * SIGN


@given(VALUES)
def test_every_value_has_its_place_in_the_order_of_values(values):
    scale = log_scale(values, 10, 264, percent)
    places = [scale.at(value) for value in sorted(values)]
    assert places == sorted(places)
    assert all(10 <= place <= 264 for place in places)
