"""Exit codes that scripts can tell apart, the same in every command, and one table of them in the documentation."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mlxquant.cli import COMMANDS, main
from tests.validate.validate_records import compare, measure, write

DOCS = Path(__file__).resolve().parents[2] / "docs" / "commands" / "README.md"
CODES = {"0", "1", "2", "3", "4", "130"}
# words that a command needs before a missing file can be its fault
WORDS: dict[str, list[str]] = {
    "plan": ["-r", "gates-8bit"], "convert": ["-r", "gates-8bit", "-o", "out"], "calibrate": ["-o", "out"],
    "compare": ["-r", "gates-8bit"], "report": ["-o", "out.html"], "upload": ["org/name"],
}  # fmt: skip
# commands that read no file that could be missing, or whose words are a request's
READ_NOTHING = {"demo", "recipes", "clean", "eval", "sweep", "validate", "diff", "bench"}


def run(*words: object) -> Result:
    return CliRunner().invoke(main, list(map(str, words)))


def rules(limit: str, metric: str = "kl_nats") -> str:
    return f'[[tolerance]]\nmetric = "{metric}"\n{limit}\n'


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return write(tmp_path, compare=compare(measure("kl_nats", 0.01, 0.002)))[0]


GATES = [
    ("max = 1", "kl_nats", 0),
    ("max = 0.001", "kl_nats", 1),
    ("max = 0.011", "kl_nats", 4),  # the interval holds the limit
    ("min = 0.9", "same_top", 4),  # not measured
    ("max = 1\nmin_clusters = 1000", "kl_nats", 4),
]


@pytest.mark.parametrize(("limit", "metric", "code"), GATES)
def test_gates_end_with_0_1_or_4(record: Path, limit: str, metric: str, code: int) -> None:
    (file,) = write(record.parent, t=rules(limit, metric))
    assert run("validate", record, "-t", file).exit_code == code
    assert run("sweep", "--from", record, "-t", file).exit_code == code


def test_a_fail_wins_over_what_is_open(record: Path) -> None:
    (file,) = write(record.parent, t=rules("max = 0.001") + rules("min = 0.9", "same_top"))
    assert run("validate", record, "-t", file).exit_code == 1


def test_no_recommendation_is_not_called_as_the_recipe_none_is(record: Path) -> None:
    (file,) = write(record.parent, t=rules("max = 0.001"))
    swept = run("sweep", "--from", record, "-t", file)
    assert not re.search(r"\bnone\b", swept.stdout.split("source")[0]) and "nothing" in swept.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_an_unknown_option_ends_every_command_with_2(command: str) -> None:
    assert run(command, "--no-such-option").exit_code == 2


@pytest.mark.parametrize("command", [c for c in COMMANDS if c not in READ_NOTHING])
def test_an_input_that_is_not_there_ends_with_3_or_is_named_as_a_mistake(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run(command, "./no-such-input", *WORDS.get(command, []))
    assert done.exit_code in (2, 3) and "Traceback" not in done.stderr, done.output
    assert done.exit_code == 2 or "no-such-input" in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("plan", "x", "-r", "no-such-recipe"), ("convert", "x", "-r", "no-such-recipe", "-o", "y"),
        ("compare", "x", "-r", "no-such-recipe"), ("sweep", "x", "--recipes", "no-such-recipe", "-t", "t.toml"),
        ("validate", "compare.json", "-t", "t.toml", "--candidate", "nobody"), ("revalidate", "x"),
        ("validate", "compare.json"), ("validate", "--init", "y.toml", "--for", "no-such-kind"),
    ],
)  # fmt: skip
def test_what_nobody_knows_ends_with_2(record: Path, words: tuple[str, ...]) -> None:
    write(record.parent, t=rules("max = 1"))
    assert run(*words).exit_code == 2


def test_a_record_that_cannot_be_ends_with_3(record: Path) -> None:
    write(record.parent, t=rules("max = 1"))
    record.write_text('{"schema": "mlxquant.compare/1"}')
    for words in (("validate", "compare.json"), ("sweep", "--from", "compare.json")):
        assert run(*words, "-t", "t.toml").exit_code == 3


def test_the_documentation_has_one_table_of_all_codes() -> None:
    section = DOCS.read_text(encoding="utf-8").partition("## Exit codes")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| (\d+) \|", section, re.MULTILINE)) == CODES
    assert all(f"{code} " in run("--help").stdout for code in CODES)
