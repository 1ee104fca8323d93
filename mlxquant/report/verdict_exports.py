"""A verdict for others' programs: Markdown for a pull request, JUnit XML for CI.

JUnit has no word for "not settled". "Skipped" would read as fine, so what is missing, too few or open is an error
there, and what lies outside its tolerance a failure; either turns a CI run red, as the exit code does.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..words.text import code, figure, markdown, markdown_table
from .verdict import ORDER, interval, name, place, pointer, what_now

_SIGNS = {"PASS": "✅", "FAIL": "❌", "INCONCLUSIVE": "❔", "TOO FEW": "❔", "MISSING": "❔"}
# characters that XML 1.0 does not allow
_NO_XML = dict.fromkeys([*range(9), 11, 12, *range(14, 32), *range(0xD800, 0xE000), 0xFFFE, 0xFFFF], "?")

# How each begins, by which an earlier one is known.
MARKDOWN_BEGINNING = rb"## mlxquant validate: "
JUNIT_BEGINNING = rb'<\?xml [^>]*\?>\s*<testsuites name="mlxquant validate"'


def verdict_markdown(record: Mapping[str, Any]) -> str:
    """Write a verdict as GitHub's Markdown."""
    t = record["tolerances"]
    parts = [f"## mlxquant validate: {_SIGNS[record['verdict']]} {record['verdict']}"]
    for candidate in record["candidates"]:
        checks = [c for c in record["checks"] if c["candidate"] == candidate["name"]]
        counts = ", ".join(f"{candidate['counts'][s]} {s}" for s in ORDER if s in candidate["counts"])
        parts.append(
            f"**{markdown(candidate['name'])}**: {candidate['verdict']} ({counts})\n\n{checks_markdown(checks)}"
        )
    parts.append(
        "\n".join(
            [
                f"- tolerances: {markdown(t['name'])} ({code(t['file'])}, sha256 `{t['sha256'][:12]}`, written"
                f" {t['written'] or t['written_by']})",
                f"- roll back to: {markdown(pointer(record['baseline']))}",
                *(f"- evidence: {code(e['file'])} sha256 `{e['sha256'][:12]}`" for e in record["evidence"]),
                *(f"- ⚠️ {markdown(w)}" for w in record["warnings"]),
                *(f"- {markdown(c)}" for c in record["caveats"]),
            ]
        )
    )
    return "\n\n".join(parts) + "\n"


def checks_markdown(checks: Sequence[Mapping[str, Any]]) -> str:
    """Write checks as a table, the worst status first."""
    head = ("", "metric", "where", "limit", "found", "interval", "")
    rows = [
        (
            f"{_SIGNS[c['status']]} {c['status']}",
            markdown(c["metric"]),
            markdown(place(c)),
            markdown(c["limit"]),
            figure(c.get("estimate")),
            interval(c),
            "" if c["status"] == "PASS" else markdown(what_now(c)),
        )
        for c in sorted(checks, key=lambda c: ORDER.index(c["status"]))
    ]
    return markdown_table(head, rows)


def verdict_junit(record: Mapping[str, Any]) -> str:
    """Write a verdict as JUnit XML: a suite for each candidate, a case for each check."""
    root = ET.Element("testsuites", name="mlxquant validate")
    totals = {"tests": 0, "failures": 0, "errors": 0}
    for candidate in record["candidates"]:
        checks = [c for c in record["checks"] if c["candidate"] == candidate["name"]]
        counts = {
            "tests": len(checks),
            "failures": sum(c["status"] == "FAIL" for c in checks),
            "errors": sum(c["status"] not in ("PASS", "FAIL") for c in checks),
        }
        about = {"name": _xml(candidate["name"]), "timestamp": record["date"].removesuffix("Z"), "time": "0"}
        suite = ET.SubElement(root, "testsuite", {**about, **{k: str(n) for k, n in counts.items()}, "skipped": "0"})
        _properties(suite, record)
        for check in checks:
            _case(suite, candidate["name"], check)
        ET.SubElement(suite, "system-out").text = _xml("\n".join(_remarks(record)))
        ET.SubElement(suite, "system-err").text = _xml("\n".join(record["warnings"]))
        totals = {key: totals[key] + counts[key] for key in totals}
    root.attrib.update({key: str(n) for key, n in totals.items()})
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=False).join(
        ('<?xml version="1.0" encoding="UTF-8"?>\n', "\n")
    )


def _properties(suite: ET.Element, record: Mapping[str, Any]) -> None:
    properties = ET.SubElement(suite, "properties")
    values = {
        "tolerances.file": record["tolerances"]["file"],
        "tolerances.sha256": record["tolerances"]["sha256"],
        "baseline": pointer(record["baseline"]),
        "mlxquant": record["mlxquant"],
    }
    for key, value in values.items():
        ET.SubElement(properties, "property", name=key, value=_xml(value))


def _case(suite: ET.Element, candidate: str, check: Mapping[str, Any]) -> None:
    case = ET.SubElement(
        suite, "testcase", classname=_xml(f"mlxquant.validate.{candidate}"), name=_xml(name(check)), time="0"
    )
    if check["status"] == "PASS":
        return
    kind = "failure" if check["status"] == "FAIL" else "error"
    summary = f"{check['status']}: found {figure(check.get('estimate'))} {interval(check)}, limit {check['limit']}"
    more = "; ".join(part for part in (what_now(check), check.get("why")) if part)
    ET.SubElement(case, kind, message=_xml(summary), type=check["status"]).text = _xml(more)


def _remarks(record: Mapping[str, Any]) -> Iterator[str]:
    yield f"verdict: {record['verdict']}"
    yield f"roll back to: {pointer(record['baseline'])}"
    yield from record["caveats"]


def _xml(text: Any) -> str:
    return str(text).translate(_NO_XML)
