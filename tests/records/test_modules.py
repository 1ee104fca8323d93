"""What records say of modules: how they are stored, and what their errors are together."""

from __future__ import annotations

import math
from typing import Any

import pytest

from mlxquant.records.modules import (
    grouped,
    is_unaligned,
    nonfinite_note,
    not_a_number,
    pooled_errors,
    relative_error,
    stored_as,
)


def module(path: str, error: float | None = 1.0, weight: float | None = 100.0, **changes: Any) -> dict[str, Any]:
    sums = {"sum_sq_error": error, "sum_sq_weight": weight, "max_abs_error": error, "max_range_share": error}
    form = {"group_size": 64, "bits": 8, "mode": "affine"}
    return {"path": path, "format": form, "dtype": "BF16", "bytes": 10, "errors": sums, **changes}


def test_a_module_is_stored_in_its_format_or_in_its_dtype():
    assert stored_as(module("a")) == "8-bit g64"
    assert stored_as(module("a", format=None)) == "bf16"


def test_errors_are_pooled_over_all_values_and_the_worst_module_is_named():
    pool = pooled_errors([module("a"), module("b", 1.0, 300.0)])
    assert pool is not None
    assert pool.relative == pytest.approx(math.sqrt(2 / 400))
    assert (pool.worst, pool.highest) == ("a", 0.1)
    assert pool.lowest == pytest.approx(math.sqrt(1 / 300))
    assert pool.modules == 2


def test_modules_without_errors_or_whose_errors_are_no_numbers_are_left_out_of_the_pool():
    modules = [module("a"), module("nan", None), module("plain", errors=None)]
    pool = pooled_errors(modules)
    assert pool is not None and pool.modules == 1
    assert pooled_errors(modules[1:]) is None


def test_an_exact_module_has_no_error_and_zeros_that_became_something_have_an_infinite_one():
    exact, wrong = pooled_errors([module("a", 0.0, 0.0)]), pooled_errors([module("a", 1.0, 0.0)])
    assert exact is not None and exact.relative == 0
    assert wrong is not None and wrong.relative == math.inf


def test_modules_whose_errors_are_no_numbers_are_listed():
    modules = [module("a"), module("b", None), module("c", errors=None)]
    assert not_a_number(modules) == ["b"]
    assert nonfinite_note(["b", "d"]) == "non-finite values in 2 modules (first: b): their error is not a number"


def test_groups_come_in_the_order_of_their_first_member_with_their_errors():
    groups = grouped([module("x.0"), module("y.0", errors=None), module("x.1")], lambda m: m["path"][0])
    assert [(g.first["path"], len(g.members), g.sum("bytes")) for g in groups] == [("x.0", 2, 20), ("y.0", 1, 10)]
    assert groups[0].errors is not None and groups[0].errors.modules == 2
    assert groups[1].errors is None


def test_a_module_s_own_error_is_that_of_the_record():
    assert relative_error({"errors": {"relative_rms_error": 0.005}}) == 0.005
    assert relative_error({"errors": None}) is None


def test_a_module_that_the_group_size_does_not_divide_is_known_by_its_field_and_in_old_records_by_its_reason():
    old = "left unquantized: group size 64 does not divide its input dimension 96"
    assert is_unaligned({"reason": "worded otherwise", "unaligned": 64})
    assert is_unaligned({"reason": old})
    assert not is_unaligned({"reason": "a rule keeps it"})
