"""CSV of compare, eval, sweep and validate: the record's own rows, written in one way."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mlxquant.cli import main
from mlxquant.report.tables import csv_text, record_csv
from tests.validate.validate_records import compare, evaluation, measure, write

STUDY = Path(__file__).resolve().parents[2] / "audits" / "store-moe"
RULES = '[[tolerance]]\nmetric = "kl_nats"\nmax = 1\n'


def run(*words: object) -> Result:
    return CliRunner().invoke(main, list(map(str, words)))


def table(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_a_comparison_and_an_evaluation_have_a_row_a_measurement_with_whose_it_is() -> None:
    rows = table(record_csv(compare(measure("kl_nats", 0.01, 0.002), measure("kl_nats", 0.02, slice="a, b"))))
    assert [(r["candidate"], r["metric"], r["slice"]) for r in rows if r["metric"] == "kl_nats"][:2] == [
        ("gates-8bit", "kl_nats", ""), ("gates-8bit", "kl_nats", "a, b"),
    ]  # fmt: skip
    assert float(rows[1]["low"]) == 0.008 and rows[0]["baseline"] == "True"
    assert table(record_csv(evaluation(measure("pass", 0.9))))[0]["candidate"] == "build-8"


def test_every_command_that_judges_prints_csv_and_keeps_its_exit_code(tmp_path: Path) -> None:
    record, rules = write(tmp_path, compare=compare(measure("kl_nats", 0.01, 0.002)), rules=RULES)
    verdict = run("validate", record, "-t", rules, "--csv")
    assert verdict.exit_code == 0 and table(verdict.stdout)[0]["status"] == "PASS"
    swept = run("sweep", "--from", record, "-t", rules, "--csv")
    assert swept.exit_code == 0 and table(swept.stdout)[0]["name"] == "gates-8bit"
    shown = run("compare", "--from", STUDY / "compare.json", "--csv")
    assert shown.exit_code == 0 and len(table(shown.stdout)) > 1
    failing = write(tmp_path, low=RULES.replace("= 1", "= 0.001"))[0]
    assert run("validate", record, "-t", failing, "--csv").exit_code == 1


@pytest.mark.parametrize(
    "words", [("validate",), ("compare",), ("sweep", "-t", "t"), ("eval", "--baseline", "a", "--candidate", "b")]
)
def test_json_and_csv_exclude_each_other(words: tuple[str, ...]) -> None:
    done = run(*words, "--json", "--csv")
    assert done.exit_code == 2 and "exclude each other" in done.stderr


def test_a_text_that_a_spreadsheet_would_compute_stays_a_text() -> None:
    text = csv_text(["name", "figure"], [["=1+1", -0.5], ["@x", None], ["a-b", 1]])
    assert text == "name,figure\n'=1+1,-0.5\n'@x,\na-b,1\n"
    hostile = compare(measure("kl_nats", 0.01))
    hostile["candidates"][0]["name"] = "=cmd()"
    assert all(not cell.startswith("=") for row in table(record_csv(hostile)) for cell in row.values())


def test_a_record_without_entries_is_no_table() -> None:
    assert record_csv(json.loads('{"schema": "mlxquant.validate/1", "checks": []}')) == ""
