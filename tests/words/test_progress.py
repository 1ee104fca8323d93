"""Progress within a unit that takes long."""

from __future__ import annotations

import pytest

from mlxquant.words.progress import Progress, Within


def test_a_long_unit_reports_its_share_now_and_then(monkeypatch: pytest.MonkeyPatch):
    clock, events = [0.0], list[Progress]()
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    within = Within(events.append, 3, 8, "layer 2", 1000, "tokens")
    for at, count in ((0.1, 100), (0.6, 150), (0.7, 50), (1.2, 100), (2.0, 600)):
        clock[0] = at
        within.advance(count)
    assert [(e.done, e.total, e.item, e.part) for e in events] == [
        (3, 8, "layer 2, 250 of 1,000 tokens", 0.25),
        (3, 8, "layer 2, 400 of 1,000 tokens", 0.4),
    ]
