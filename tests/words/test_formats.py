"""The one table of dtypes: sizes, arrays that carry values, exact widening, values that are not finite."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from mlxquant.layout.views.bytes import MLX_DTYPES
from mlxquant.words.formats import DTYPES, FLOATS, TORCH_DTYPES, carrier, nonfinite, widen


@pytest.mark.parametrize("name", DTYPES)
def test_a_carrier_has_the_size_of_its_dtype(name):
    assert carrier(name).itemsize == DTYPES[name].nbytes


@pytest.mark.parametrize("name", MLX_DTYPES)
def test_mlx_has_a_dtype_of_the_same_size(name):
    assert MLX_DTYPES[name].size == DTYPES[name].nbytes


def test_config_json_names_the_dtypes_that_weights_have():
    assert TORCH_DTYPES == {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}
    assert set(FLOATS) == {"BF16", "F16", "F32"}


@pytest.mark.parametrize("name", ["BF16", "F16"])
def test_every_16_bit_float_widens_to_the_value_that_mlx_gives_it(name):
    bits = np.arange(1 << 16, dtype=np.uint16)
    wide = widen(bits.view(carrier(name)), name)
    expected = np.array(mx.array(bits).view(MLX_DTYPES[name]).astype(mx.float32))
    assert wide.dtype == np.float32
    assert np.array_equal(wide, expected, equal_nan=True)


def test_a_scale_of_8_bits_is_a_power_of_two():
    assert widen(np.array([0, 127, 130], np.uint8), "F8_E8M0").tolist() == [2.0**-127, 1.0, 8.0]


def test_float32_is_not_copied():
    values = np.ones(3, np.float32)
    assert widen(values, "F32") is values


@pytest.mark.parametrize("name", FLOATS)
def test_values_that_are_not_finite_show_by_their_bits(name):
    values = mx.array([[1.0, float("inf"), -2.0], [float("-inf"), float("nan"), 0.0]]).astype(MLX_DTYPES[name])
    raw = np.array(values.view({2: mx.uint16, 4: mx.uint32}[DTYPES[name].nbytes])).view(np.uint8)
    expected = [[False, True, False], [True, True, False]]
    assert nonfinite(raw, name).tolist() == expected
    assert nonfinite(raw.view(carrier(name)), name).tolist() == expected
