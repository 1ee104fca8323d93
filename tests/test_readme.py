"""README.md is short, and its table names every command. What its blocks show is held by test_docs."""

from __future__ import annotations

import re

import pytest

from mlxquant.cli import COMMANDS
from tests.support.pages import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_readme_is_short():
    assert len(README.encode()) < 10_000


@pytest.mark.parametrize("command", COMMANDS)
def test_the_table_of_commands_names_every_command_and_links_to_its_page(command):
    assert re.search(rf"^\| \[`{command}`\]\(docs/commands/{command}\.md\) \|", README, re.M)
