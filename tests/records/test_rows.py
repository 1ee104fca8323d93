"""Records as rows for pandas and the like: flat, alike, and nothing computed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mlxquant.errors import RecordError, UsageError
from mlxquant.records.rows import rows

AUDITS = Path(__file__).resolve().parents[2] / "audits"
RECORDS = sorted(AUDITS.rglob("*.json"))


@pytest.mark.parametrize("path", RECORDS, ids=lambda p: p.name)
def test_every_kept_record_gives_rows_of_one_set_of_columns_and_plain_cells(path: Path) -> None:
    table = rows(path)
    assert table
    assert len({tuple(row) for row in table}) == 1
    assert all(isinstance(cell, str | int | float | bool | None) for row in table for cell in row.values())


def test_a_plan_has_a_row_a_module_with_its_format_in_columns() -> None:
    path = AUDITS / "qwen3.5-122b-a10b" / "base.plan.json"
    record = json.loads(path.read_text())
    table = rows(record)
    assert [row["path"] for row in table] == [module["path"] for module in record["modules"]]
    assert sum(int(row["bytes"] or 0) for row in table) == record["totals"]["bytes"]
    head = next(row for row in table if row["role"] == "lm_head")
    assert (head["format.bits"], head["format.group_size"], head["shape"]) == (8, 128, "[248320, 3072]")


def test_a_comparison_has_a_row_a_measurement_and_says_whose_it_is() -> None:
    record = json.loads((AUDITS / "store-moe" / "compare.json").read_text())
    table = rows(record)
    of_one = [row for row in table if row["candidate"] == record["candidates"][0]["name"]]
    assert [row["estimate"] for row in of_one] == [m["estimate"] for m in record["candidates"][0]["measurements"]]
    assert {row["candidate"] for row in table if row["baseline"]} == {record["baseline"]["name"]}


def test_another_list_of_the_record_is_given_by_name() -> None:
    record = json.loads((AUDITS / "store-moe" / "sweep.json").read_text())
    assert [row["metric"] for row in rows(record, "checks")] == [check["metric"] for check in record["checks"]]


@pytest.mark.parametrize(
    ("record", "table", "kind", "words"),
    [
        ({"modules": []}, None, RecordError, "names no schema"),
        (
            {"schema": "mlxquant.plan/1", "modules": [{"a": 1}]},
            "samples",
            UsageError,
            "no list 'samples' of tables; it has: m",
        ),
        ({"schema": "mlxquant.plan/1"}, None, UsageError, "has no list 'modules' of tables; it has: none"),
    ],
)
def test_what_has_no_such_list_is_refused_with_those_there_are(
    record: dict[str, Any], table: str | None, kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind, match=words):
        rows(record, table)
