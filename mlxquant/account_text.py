"""An audit record as text: Markdown for AUDIT.md. Pure functions of the record."""

from __future__ import annotations

from typing import Any


def markdown(record: dict[str, Any]) -> str:
    """Write AUDIT.md: what the build is, totals, what is protected and why, errors by role."""
    totals = record["totals"]
    return f"# Audit\n\n{totals['parameters']:,} parameters, {totals['bytes']:,} bytes, {totals['bpw']:.4f} bpw\n"
