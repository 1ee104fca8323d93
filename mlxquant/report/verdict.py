"""A verdict for a terminal of 80 columns: the word first, then every check, worst first, then what to do about it.

Words and figures that every form of a verdict shares: the text, Markdown, JUnit and the report.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..records.metrics import PLACES
from ..words.text import WIDTH, cut, figure, filled, table

# --- words ---


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


def interval(check: Check, digits: int = _DIGITS) -> str:
    """The interval, or nothing where there is none."""
    if check.get("low") is None or check.get("high") is None:
        return ""
    if check["low"] == check["high"]:
        return "exact"
    return f"[{figure(check['low'], digits)}, {figure(check['high'], digits)}]"


def what_now(check: Check) -> str:
    """What the status does not say: the reason, and how many would settle it."""
    parts = [str(check["reason"])] if check.get("reason") else []
    if check["status"] == "TOO FEW" and check.get("needed"):
        parts.append(f"{check['needed']:,} more {check['unit']} are needed")
    elif words := plan_words(check.get("plan"), check.get("unit", "samples"), _assumed(check)):
        parts.append(words)
    elif check.get("needed"):  # as versions before wrote it
        parts.append(f"{check['needed']:,} more {check['unit']} would settle it if the estimate is the truth")
    elif check["status"] == "INCONCLUSIVE" and not parts:
        alike = {"difference": 0.0, "ratio": 1.0}.get(str(check.get("of")))
        if alike is not None and alike in (check.get("low_limit"), check.get("high_limit")):
            why = "at the limit lies what two alike builds give"
        else:
            why = "the limit is too near to what is assumed, or the spread is not known"
        parts.append(f"no number of {check['unit']} is sure to settle it: {why}")
    return "; ".join(parts)


def _assumed(check: Check) -> str:
    """What a plan takes for the truth, in words."""
    if check.get("of") in ("difference", "ratio"):
        return "candidate and baseline alike"
    return f"a true figure of {figure((check.get('plan') or {}).get('assumed'), _DIGITS)}"


def plan_words(plan: Mapping[str, Any] | None, unit: str, assumed: str) -> str:
    """How many would settle it: ``"four of five runs settle it with 120 to 400 tasks in all, given …"``."""
    if not plan:
        return ""
    least, most = plan["least"], plan["most"]
    count = f"{least:,}" if least == most else f"{least:,} to {most:,}"
    return f"four of five runs settle it with {count} {unit} in all, given {assumed}"


def pointer(baseline: Mapping[str, Any] | None, longest: int = 64) -> str:
    """The baseline to roll back to, in a line; hashes are cut to `longest` digits."""
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


# --- verdict ---


ORDER = ("FAIL", "MISSING", "TOO FEW", "INCONCLUSIVE", "PASS")
_LEAST = 12


def verdict_text(record: Mapping[str, Any]) -> str:
    """Write a verdict's record for a reader."""
    parts = [_head(record)]
    for candidate in record["candidates"]:
        checks = sorted(
            (c for c in record["checks"] if c["candidate"] == candidate["name"]), key=lambda c: ORDER.index(c["status"])
        )
        counts = ", ".join(f"{candidate['counts'][s]} {s}" for s in ORDER if s in candidate["counts"])
        parts.append(f"{candidate['name']}: {candidate['verdict']} ({counts})\n{_table(checks)}")
        parts.append("\n".join(_open_questions(checks)))
    parts.append("\n".join(_remarks(record)))
    return "\n\n".join(part for part in parts if part)


def _head(record: Mapping[str, Any]) -> str:
    t = record["tolerances"]
    written = t["written"] or t["written_by"]
    lines = [
        filled("verdict", record["verdict"]),
        filled("tolerances", f"{t['name']} ({t['file']}, sha256 {t['sha256'][:12]}, written {written})"),
        filled("evidence", ", ".join(f"{e['file']} ({e['sha256'][:8]})" for e in record["evidence"])),
        filled("baseline", pointer(record["baseline"], 16)),
    ]
    return "\n".join(lines)


def _table(checks: list[Mapping[str, Any]]) -> str:
    """The checks in 80 columns: what is judged gets what the figures leave."""
    figures = [(_limit(c), f"{figure(c.get('estimate'), 3)} {interval(c, 3)}".strip()) for c in checks]
    heads = ("", "", "limit", "found")
    taken = sum(max(len(head), *(len(row[i]) for row in figures)) for i, head in enumerate(heads[2:]))
    left = max(WIDTH - taken - max(len(c["status"]) for c in checks) - 2 * len(heads[1:]), _LEAST)
    rows = [(c["status"], cut(where(c), left, at="end"), *row) for c, row in zip(checks, figures, strict=True)]
    return table(heads, rows, "llll")


def _limit(check: Mapping[str, Any]) -> str:
    return str(check["limit"]).replace(" difference", " Δ").replace(" ratio", " ×")


def _open_questions(checks: list[Mapping[str, Any]]) -> Iterator[str]:
    """What is to be done about each check that does not pass; checks with the same advice share a paragraph."""
    alike: dict[tuple[str, str], list[str]] = {}
    for c in checks:
        if c["status"] != "PASS" and (advice := what_now(c)):
            alike.setdefault((c["status"], advice), []).append(where(c))
    for (status, advice), names in alike.items():
        yield filled(status, f"{'; '.join(names)}: {advice}", 14)


def _joined(record: Mapping[str, Any]) -> Iterator[str]:
    """What other records call a candidate, where that is another name."""
    for candidate in record["candidates"]:
        files: dict[str, list[str]] = {}
        for file, called in candidate.get("measured_as", {}).items():
            if called != candidate["name"]:
                files.setdefault(called, []).append(file)
        if files:
            names = "; ".join(f"{called} in {', '.join(of)}" for called, of in files.items())
            yield filled("joined", f"{candidate['name']} is {names}")


def _remarks(record: Mapping[str, Any]) -> Iterator[str]:
    yield from _joined(record)
    yield from (filled("WARNING", text) for text in record["warnings"])
    yield from (filled("note", text) for text in record["caveats"])
    if record["verdict"] != "PASS":
        yield filled("roll back", f"to {pointer(record['baseline'], 16)}; --json has all of it")
