"""Records as CSV: the one way in which every command writes rows for a spreadsheet or a data frame.

    record_csv(compare), record_csv(eval)   a row a measurement, of the baseline and of every candidate
    record_csv(results), record_csv(tau2)   the same
    record_csv(sweep)                       a row a candidate
    record_csv(validate)                    a row a check

The rows are those of `records.rows`, so the columns are a record's own keys; lists of measurements within a row are
left out. `bench` and `audit` choose their own columns and write them here too. A text that a spreadsheet would take for
a formula begins with an apostrophe, since names may be a stranger's.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..records.rows import rows

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_WITHIN = ("measurements", "notes", "warnings")


def record_csv(record: Mapping[str, Any]) -> str:
    """Write a record's main list: a header, then a line an entry; no newline at the end."""
    table = rows(record)
    columns = [column for column in (table[0] if table else ()) if column not in _WITHIN]
    return csv_text(columns, ([row[column] for column in columns] for row in table)).rstrip("\n")


def csv_text(columns: Sequence[str], lines: Iterable[Iterable[Any]], *, quoted: bool = False) -> str:
    """Write a header and a line for each of `lines`; `quoted` puts quotes around every cell. Ends with a newline."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n", quoting=csv.QUOTE_ALL if quoted else csv.QUOTE_MINIMAL)
    writer.writerow(columns)
    writer.writerows([_harmless(cell) for cell in line] for line in lines)
    return out.getvalue()


def _harmless(cell: Any) -> Any:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell
