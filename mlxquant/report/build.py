"""A build's record as text for a terminal of 80 columns: what it will take, and what came out and where it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..words.text import filled, narrow_table
from ..words.units import show_bytes

Record = Mapping[str, Any]
_VERBS = {"calibrate": "to calibrate", "allocate": "to allocate", "check": "to check that", "judge": "to judge by"}
_WHAT = 52


def expected_text(expected: Record) -> str:
    """Write what a build will take, from the part of its record that says so."""
    documents = ", ".join(f"{n:,} {_VERBS[purpose]}" for purpose, n in expected["documents"].items())
    lines = narrow_table(
        ("step", "what", "time"),
        [(s["step"] if not i else "", line, _time(s["seconds"]) if not i else "")
         for s in expected["steps"] for i, line in enumerate(_wrapped(s["what"]))],
        "llr",
    )  # fmt: skip
    download = expected["download_bytes"]
    room = f"{show_bytes(expected['build_bytes'])} at most for the build, {show_bytes(expected['work_bytes'])} for work"
    room += f", {show_bytes(download)} for the source" if download else ""
    seconds = sum(step["seconds"] for step in expected["steps"])
    return "\n".join(
        [
            filled("documents", f"{documents}; told apart by their content"),
            "",
            lines,
            "",
            filled("time", f"{_time(seconds)} of arithmetic and encoding, by a second of it on this machine; each pass"
                           f" also reads the source, {show_bytes(expected['read_bytes'])}"),
            filled("disk", f"{room}; {show_bytes(expected['free_bytes'])} are free"),
            filled("memory", f"about {show_bytes(expected['memory_bytes'])}, for the largest layer"),
        ]
    )  # fmt: skip


def build_text(record: Record, out: str, work: str) -> str:
    """Write what came out: which recipe was built and why, and where build, records and page are."""
    build, recipe = record["build"], record["recipe"]
    why = recipe["why"] if recipe["ships"] in recipe["why"] else f"{recipe['ships']}: {recipe['why']}"
    seconds = sum(step["seconds"] for step in record["steps"])
    return "\n".join(
        [
            filled("build", f"{out}, {show_bytes(build['bytes'])}, {build['bpw']:.4f} bits per weight"),
            filled("recipe", f"{work}/recipe.toml; {why}"),
            filled("records", f"{work}/: allocate.json, compare.json, validate.json; {out}/audit.json"),
            filled("page", f"{work}/report.html"),
            filled("took", f"{seconds:,.1f} s; `mlxquant clean` removes the records, not the build"),
        ]
    )


def _time(seconds: float) -> str:
    """A time to plan by.

    >>> _time(4), _time(150), _time(3 * 3600), _time(80 * 3600)
    ('< 1 min', '3 min', '3.0 h', '80 h')
    """
    if seconds < 60:
        return "< 1 min"
    if seconds < 100 * 60:
        return f"{-int(-seconds // 60)} min"
    return f"{seconds / 3600:.1f} h" if seconds < 36000 else f"{seconds / 3600:,.0f} h"


def _wrapped(text: str) -> list[str]:
    from textwrap import wrap

    return wrap(text, _WHAT) or [""]
