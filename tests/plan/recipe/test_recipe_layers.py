"""The language of `layers`."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxquant.words.layers import layers_text, parse_layers, select_layers


def chosen(value: object, n: int) -> list[int]:
    return sorted(select_layers(parse_layers(value), n))


@pytest.mark.parametrize(
    ("value", "n", "expected"),
    [
        (3, 48, [3]),
        ("3", 48, [3]),
        (-1, 48, [47]),
        ([0, 1, -1], 8, [0, 1, 7]),
        ("0..4", 48, [0, 1, 2, 3]),
        ("-4..", 48, [44, 45, 46, 47]),
        ("..-46", 48, [0, 1]),
        ("0..1/8", 48, [0, 1, 2, 3, 4, 5]),
        ("7/8..", 46, [40, 41, 42, 43, 44, 45]),
        ("1/8+2.. step 3", 16, [4, 7, 10, 13]),
        ("1/2-1..1/2+1", 9, [3, 4]),
        ("1/2", 9, [4]),
        ("..", 3, [0, 1, 2]),
        ("3..7..", None, None),
    ],
)
def test_a_layers_text_selects(value: object, n: int | None, expected: list[int] | None) -> None:
    if expected is None or n is None:
        with pytest.raises(ValueError, match="not a layer"):
            parse_layers(value)
    else:
        assert chosen(value, n) == expected


@pytest.mark.parametrize("n", range(1, 200))
def test_layers_can_say_exactly_what_mlx_lm_means_by_more_bits(n: int) -> None:
    # mlx_lm/convert.py (0.32.2), use_more_bits
    expected = [i for i in range(n) if i < n // 8 or i >= 7 * n // 8 or (i - n // 8) % 3 == 2]
    assert chosen(["0..1/8", "7/8..", "1/8+2.. step 3"], n) == expected


def test_layers_outside_the_model_select_nothing() -> None:
    assert chosen([60, "50..70", -49], 48) == []


def test_a_step_counts_from_the_start_as_written_even_before_layer_0() -> None:
    assert chosen("-5.. step 2", 4) == [1, 3]


@pytest.mark.parametrize(
    "value",
    ["", "a", 1.5, "0.25", True, None, [], [[]], "1/0", "9/8", "3 step 2",
     "0..4 step 0", "4..4", "1/8..1/8", "0..3/2", "1/8*2", "0-4"],
)  # fmt: skip
def test_what_is_no_layer_is_refused_with_a_word_of_advice(value: object) -> None:
    with pytest.raises(ValueError, match=r"\w{4,}"):
        parse_layers(value)


@given(st.sets(st.integers(0, 60)))
def test_any_set_of_layers_can_be_written_and_read_back(layers: set[int]) -> None:
    text = layers_text(sorted(layers))
    assert (chosen(text, 61) if text else []) == sorted(layers)


def test_layers_are_written_as_ranges_where_they_are_ranges() -> None:
    assert layers_text(range(3, 48, 4)) == ["3..48 step 4"]
    assert layers_text([0, 1, 2, 8, 11, 14, 17, 40]) == ["0..3", "8..18 step 3", 40]
    assert layers_text([5, 9]) == [5, 9]
