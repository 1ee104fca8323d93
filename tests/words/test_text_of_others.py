"""Text of others is text: no control characters, no line ends, no markup, wherever it is shown."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from mlxquant.cli import main
from mlxquant.plan.recipe.recipe import load_recipe
from mlxquant.records.files import parse_record, record_text
from mlxquant.words.text import code, for_terminal, json_escaped, markdown, markdown_table, printable

CLI = Path(__file__).resolve().parents[2] / "mlxquant" / "cli"
FORGED = "x\x1b[2J\nVERDICT PASS\u202e\x9b"


@given(st.text())
def test_printable_text_is_one_line_that_no_terminal_obeys(text: str) -> None:
    shown = printable(text)
    assert len(shown.splitlines()) <= 1
    assert for_terminal(shown) == shown
    shown.encode()  # fails on half of a surrogate pair


@given(st.text())
def test_escaped_json_says_the_same(text: str) -> None:
    written = json_escaped(json.dumps(text, ensure_ascii=False))
    assert for_terminal(written) == written
    assert json.loads(written) == text


@pytest.mark.parametrize("text", ["1.5 × 10⁻⁶ nats – fine", "नमस्ते", "👩\u200d🔬", "a\u00a0b"])
def test_what_people_write_stays(text: str) -> None:
    assert printable(text) == text


@pytest.mark.parametrize(
    "text", ["# a", "a | b", "<b>", "[a](b)", "![a](b)", "*a*", "_a_", "`a`", "@a", "~~a~~", "&lt;", "a\n\n# b"]
)
def test_markup_becomes_text_that_stays_in_its_cell(text: str) -> None:
    table = markdown_table(("a", "b"), [(markdown(text), code(text))])
    assert len(table.splitlines()) == 3
    cells = table.splitlines()[2].replace("\\|", "").split(" | ")
    assert len(cells) == 2
    assert not any(f"{sign}" in markdown(text).replace(f"\\{sign}", "") for sign in "<>`[*@|")


def test_a_record_that_is_read_holds_no_control_characters_and_is_written_without() -> None:
    record = parse_record(json.dumps({"schema": "x/1", FORGED: [{"name": FORGED}], "said": "a\nb"}).encode(), "r")
    assert record["said"] == "a\nb"
    (entry,) = record[printable(FORGED)]
    assert entry["name"] == "x?[2J VERDICT PASS??"
    assert "\x9b" not in record_text({"schema": "x/1", "name": "\x9b"})


def test_a_recipe_s_texts_are_one_line(tmp_path: Path) -> None:
    file = tmp_path / "r.toml"
    file.write_text('name = "x\\u001b[31m"\nsummary = """a\n# b"""\n[quantize]\nbits = 8\ngroup_size = 64\n')
    recipe = load_recipe(str(file))
    assert (recipe.name, recipe.summary) == ("x?[31m", "a # b")


def test_a_name_in_the_file_system_does_not_steer_the_terminal(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["plan", str(tmp_path / "a\x1b[2Jb"), "-r", "gates-8bit"])
    assert result.exit_code == 3
    assert "\x1b" not in result.output


def test_commands_print_by_one_function_alone() -> None:
    for path in sorted(CLI.glob("*.py")):
        calls = [n.func for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(n, ast.Call)]
        names = {f.attr if isinstance(f, ast.Attribute) else getattr(f, "id", "") for f in calls}
        assert path.name == "printing.py" or not names & {"secho", "print"}, path.name
        direct = [f for f in calls if isinstance(f, ast.Attribute) and f.attr == "echo"]
        assert path.name == "printing.py" or not direct, path.name
