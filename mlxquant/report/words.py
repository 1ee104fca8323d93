"""Words and figures that every form of a verdict shares: the text, Markdown, JUnit and the report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..records.schemas.sense import PLACES

Check = Mapping[str, Any]
_DIGITS = 4


def place(check: Check) -> str:
    """Where a check is: ``"slice json"``, ``"overall"``."""
    return ", ".join(f"{key} {check[key]}" for key in PLACES if key in check) or "overall"


def where(check: Check) -> str:
    """What a check is of: ``"kl_nats, slice json"``."""
    at = place(check)
    return f"{check['metric']}{'' if at == 'overall' else f', {at}'}"


def name(check: Check) -> str:
    """A check's name: ``"kl_nats, slice json ≤ 0.04"``."""
    return f"{where(check)} {check['limit']}"


def figure(value: float | None, digits: int = _DIGITS) -> str:
    """A number in four digits: ``0.001234``, ``37.81``, ``125,966,246,400``."""
    if value is None:
        return "-"
    if abs(value) >= 1000:
        return f"{value:,.0f}".replace("-", "−")
    return f"{value:.{digits}g}".replace("-", "−")


def interval(check: Check, digits: int = _DIGITS) -> str:
    """The interval, or nothing where there is none."""
    if check.get("low") is None or check.get("high") is None:
        return ""
    if check["low"] == check["high"]:
        return "exact"
    return f"[{figure(check['low'], digits)}, {figure(check['high'], digits)}]"


def what_now(check: Check) -> str:
    """What is to be said beyond the status: the reason, and how many more would settle it."""
    parts = [str(check["reason"])] if check.get("reason") else []
    if check["status"] == "TOO FEW" and check.get("needed"):
        parts.append(f"{check['needed']:,} more {check['unit']} are asked for")
    elif check.get("needed"):
        parts.append(f"{check['needed']:,} more {check['unit']} would settle it")
    elif check["status"] == "INCONCLUSIVE" and not parts:
        parts.append(f"no number of {check['unit']} is sure to settle it: the estimate is too near the limit")
    return "; ".join(parts)


def pointer(baseline: Mapping[str, Any] | None, longest: int = 64) -> str:
    """What to go back to, in a line; hashes are cut to `longest` digits."""
    if not baseline:
        return "not known"
    parts = [str(baseline["name"])] if baseline.get("name") else []
    if baseline.get("at"):
        parts.append(f"at {baseline['at']}")
    for key, value in (baseline.get("pointer") or {}).items():
        if isinstance(value, Mapping):
            value = " ".join(str(v)[:longest] if k == "sha256" else str(v) for k, v in value.items() if v)
        parts.append(f"{key.replace('_', ' ')} {str(value)[:longest] if key.endswith('sha256') else value}")
    return ", ".join(parts)
