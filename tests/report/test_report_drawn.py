"""Charts with more candidates than colours show the least and the most damaged, and those between."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mlxquant.report.page.candidates import SHOWN, most_telling

DAMAGES = st.lists(st.none() | st.floats(0, 1e3), min_size=1, max_size=30)


@given(DAMAGES)
def test_the_most_damaged_is_never_left_out_and_all_are_shown_where_colours_suffice(damages):
    chosen = most_telling(damages)
    assert chosen == sorted(set(chosen))
    assert len(chosen) == min(len(damages), SHOWN)
    assert max(damages[i] or 0 for i in chosen) == max(d or 0 for d in damages)
