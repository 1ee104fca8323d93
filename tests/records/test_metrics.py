"""The registry of metrics."""

from __future__ import annotations

from mlxquant.records.metrics import METRICS


def test_a_metric_s_meaning_can_be_read_without_those_before_it() -> None:
    assert [m.name for m in METRICS if not m.meaning or m.meaning.startswith("…")] == []
