"""JSONL as tables with their line numbers; some files hold one JSON list instead, which is read alike.

Alone in its module because a suite of the user's own and BFCL's are both read so.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...disk.files import read_regular
from ...errors import DataError
from ...words.strict_json import read_json
from ...words.text import listed


def read_tables(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """Read every table of a file with its line, or its place in a list. Raises DataError with all faults."""
    try:
        text = read_regular(path).decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); a JSONL file of questions is expected") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is no UTF-8 text (byte {error.start})") from None
    rows, problems = _rows(text)
    if problems:
        raise DataError(listed([f"{path}, line {number}: {fault}" for number, fault in problems]))
    if not rows:
        raise DataError(f"{path}: holds no questions; one JSON table a line is expected")
    return rows


def _rows(text: str) -> tuple[list[tuple[int, dict[str, Any]]], list[tuple[int, str]]]:
    rows: list[tuple[int, dict[str, Any]]] = []
    problems: list[tuple[int, str]] = []
    if text.lstrip().startswith("["):
        try:
            return [(n, row) for n, row in enumerate(read_json(text), 1) if isinstance(row, dict)], []
        except ValueError as error:
            return [], [(1, f"is no JSON ({error})")]
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = read_json(line)
        except ValueError as error:
            problems.append((number, f"is no JSON ({error})"))
            continue
        if isinstance(row, dict):
            rows.append((number, row))
        else:
            problems.append((number, "must be a JSON table"))
    return rows, problems
