"""The documentation shows what the commands print, names every command and links to nothing that is not there."""

from __future__ import annotations

import inspect
import re
import shlex
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import mlxquant
from mlxquant.cli import COMMANDS, main
from mlxquant.divergence.texts.documents import parse_line
from mlxquant.evals.suites.own import read_suite
from mlxquant.validate.tolerances import read_tolerances
from tests.support.pages import PAGES, ROOT, Worlds, blocks, difference, refreshed

SHOWN = [page for page in PAGES if "```console" in page.read_text(encoding="utf-8")]
SLOW = [page for page in SHOWN if any(b.slow for _, b in blocks(page.read_text(encoding="utf-8")))]
OTHER_PAGES = sorted([*(ROOT / "audits").rglob("*.md"), *(ROOT / "benchmarks").rglob("*.md"), ROOT / "CHANGELOG.md"])


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.fixture(scope="module")
def worlds(tmp_path_factory) -> Worlds:
    return Worlds(tmp_path_factory.mktemp("worlds"))


def hold(page: Path, worlds: Worlds, *, slow: bool) -> None:
    text = page.read_text(encoding="utf-8")
    fresh, missing = refreshed(text, worlds.page(), slow=slow)
    if fresh != text:
        pytest.fail(f"{name(page)} is out of date; `make docs-refresh` writes it anew:\n{difference(text, fresh)}")
    if missing:
        pytest.skip(f"{len(missing)} blocks not checked; missing here: {', '.join(sorted(set(missing)))}")


@pytest.mark.slow
@pytest.mark.parametrize("page", SHOWN, ids=name)
def test_a_page_shows_what_the_commands_print(page, worlds):
    hold(page, worlds, slow=False)


@pytest.mark.slow
@pytest.mark.parametrize("page", SLOW, ids=name)
def test_a_page_shows_what_the_slow_commands_print(page, worlds):
    hold(page, worlds, slow=True)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_s_page_has_its_help_and_its_output(command):
    page = ROOT / "docs" / "commands" / f"{command}.md"
    text = page.read_text(encoding="utf-8")
    commands = [block.command for _, block in blocks(text)]
    assert f"$ mlxquant {command} --help" in commands
    assert any(c.startswith(f"$ mlxquant {command}") and "--help" not in c for c in commands) or "```text" in text


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_a_command_has_an_example(command):
    text = (ROOT / "docs" / "commands" / f"{command}.md").read_text(encoding="utf-8")
    (shown,) = (block for _, block in blocks(text) if block.command == f"$ mlxquant {command} --help")
    assert re.search(rf"^ *mlxquant {command}\b", shown.output, re.M)


@pytest.mark.parametrize("function", mlxquant.__all__)
def test_the_study_in_python_tells_of_every_public_function(function):
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    parameters = inspect.signature(getattr(mlxquant, function)).parameters
    (row,) = re.findall(rf"^\| `{function}\((.*?)\)`", page, re.M)
    assert [name for name in row.split(", ") if name != "*"] == list(parameters)


@pytest.mark.parametrize("page", [*PAGES, *OTHER_PAGES], ids=name)
def test_every_file_and_heading_that_is_linked_to_is_there(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, heading = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), target
        if heading:
            assert heading in anchors(there), target


def test_every_page_of_docs_is_in_the_site_s_navigation():
    navigation = re.findall(r"(\S+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.M)
    pages = {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")}
    assert pages <= set(navigation)
    assert all((ROOT / "docs" / name).exists() or (ROOT / name).exists() for name in navigation)


def anchors(page: Path) -> set[str]:
    """What GitHub and the site call the headings of a page."""
    headings = re.findall(r"^#+ +(.*)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", h.lower()).strip().replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_a_line_of_code_has_80_columns_at_most(page):
    # what commands print is theirs
    for block in re.findall(r"^```(?:sh|text|toml|python)\n(.*?)^```", page.read_text("utf-8"), re.M | re.S):
        assert not [line for line in block.splitlines() if len(line) > 80]


def examples(language: str, word: str) -> list[object]:
    """Blocks of a language that contain a word, each with its page's name."""
    pattern = re.compile(rf"^```{language}\n(.*?)^```", re.M | re.S)
    found = ((page, block) for page in PAGES for block in pattern.findall(page.read_text(encoding="utf-8")))
    return [pytest.param(block, id=name(page)) for page, block in found if word in block]


@pytest.mark.parametrize("text", examples("toml", "[[rules]]"))
def test_a_recipe_of_a_page_is_one(text, tmp_path):
    (tmp_path / "mine.toml").write_text(text, encoding="utf-8")
    result = CliRunner().invoke(main, ["recipes", str(tmp_path / "mine.toml")])
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("text", examples("toml", "[[tolerance]]"))
def test_a_tolerance_file_of_a_page_is_one(text, tmp_path):
    (tmp_path / "tolerances.toml").write_text(text, encoding="utf-8")
    assert read_tolerances(tmp_path / "tolerances.toml").tolerances


@pytest.mark.parametrize("text", examples("json", '"score"'))
def test_a_question_of_a_page_is_one(text, tmp_path):
    (tmp_path / "mine.jsonl").write_text(text, encoding="utf-8")
    assert list(read_suite(tmp_path / "mine.jsonl").items())


@pytest.mark.parametrize("text", examples("json", '"id": "text-1"'))
def test_documents_of_a_page_are_documents(text):
    for line in text.splitlines():
        assert parse_line(line, 1, {})


def typed(page: Path) -> list[list[str]]:
    """The command lines of a page's `sh` blocks that call mlxquant, as words."""
    text = "\n".join(re.findall(r"^```sh\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S))
    lines = re.findall(r"(?:^|-- )mlxquant (.*)$", text.replace("\\\n", " "), re.M)
    return [shlex.split(line.partition("  #")[0]) for line in lines]


@pytest.mark.parametrize("page", [page for page in PAGES if typed(page)], ids=name)
def test_a_command_line_of_a_page_has_no_option_that_the_command_lacks(page):
    for command, *words in typed(page):
        known = main.get_command(click.Context(main), command)
        assert known is not None, command
        options = {option for parameter in known.params for option in parameter.opts} | {"--help", "--debug"}
        assert {word.partition("=")[0] for word in words if word.startswith("-")} <= options, (command, words)


def test_every_place_that_contributing_names_is_there():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    places = set(re.findall(r"`((?:\w+/)*(?:\w+/|\w+\.(?:py|toml)))`", text)) - {"results/NAME/", "calibrate/"}
    assert len(places) > 30
    missing = {place for place in places if not any((top / place).exists() for top in (ROOT, ROOT / "mlxquant"))}
    assert not missing
