"""Layers of a model, written for readers."""

from __future__ import annotations

import pytest

from mlxquant.words.layers import layers_short


@pytest.mark.parametrize(
    ("layers", "text"),
    [([], ""), ([3], "3"), ([0, 1], "0, 1"), (range(48), "0–47"), ([3, 7, 11, 15, 19], "3, 7 … 19 (5)")],
)
def test_layers_read_well(layers, text):
    assert layers_short(list(layers)) == text
