"""What the page shows of a rollout's logs: mirrored pairs, what users waited for, agreement by slice.

The template is that of agent benchmarks; the figures are in the words that the terminal has. Alone in its module, as
each kind of record is on the page.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ...records.loading import Loaded
from ..rollout import SERVED, facts_of, figures_beside, slices_of

_SLICES, _PROBLEMS = 60, 20


def rolled_out(loaded: Loaded) -> dict[str, Any]:
    """Lay the record of a rollout's logs out."""
    record = loaded.record
    return {
        "names": [record["baseline"]["name"], record["candidates"][0]["name"]],
        "compared": [record["candidates"][0]["name"]],
        "facts": [f"{title}: {text}" for title, text in facts_of(record)],
        "legend": f"In per cent where it is a share; tokens and seconds plain. {record['confidence']:.0%} intervals by"
        " conversation; differences are paired by mirrored request, but for what users waited for.",
        "rows": list(_rows(record)),
        "notes": [str(note) for note in record["notes"]],
        "problems": [str(problem) for problem in record["problems"][:_PROBLEMS]],
    }


def _rows(record: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A row a metric of the mirrored pairs, then of what users waited for, then a row a slice, the worst first."""
    candidate = record["candidates"][0]
    for where, before in ((None, ""), (SERVED, "what users waited for: ")):
        for label, first, second, difference in figures_beside(record["baseline"], candidate, where):
            yield {"label": f"{before}{label}", "cells": [first, second], "changes": [difference]}
    for name, share, pairs in slices_of(candidate)[:_SLICES]:
        label = f"same arguments, {name} ({pairs} {'pair' if pairs == '1' else 'pairs'})"
        yield {"label": label, "cells": ["-", share], "changes": ["-"]}
