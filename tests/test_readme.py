"""The README shows what the commands print.

Outputs on the paper's model need its config, which is not ours: they are held to it where it lies beside the project.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from mlxquant.cli import COMMANDS, main

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
SHOWN = re.findall(r"^```console\n\$ mlxquant ([^\n]+)\n(.*?)\n```", README, re.M | re.S)


def printed(words, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    result = CliRunner().invoke(main, shlex.split(words), prog_name="mlxquant")
    assert result.exit_code == 0, result.output
    return result.stdout.rstrip("\n")


def test_the_help_is_the_command_s():
    # not click's runner, which sets a width of its own
    command = [sys.executable, "-m", "mlxquant", "--help"]
    done = subprocess.run(command, env={**os.environ, "COLUMNS": "80"}, capture_output=True, text=True, check=True)
    assert done.stdout.rstrip("\n") == dict(SHOWN)["--help"]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_told_of(command):
    sections = README.partition("\n### recipes")[2].partition("\n## ")[0]
    assert re.search(rf"`(mlxquant )?{command}\b", sections) or f"make {command}" in README


@pytest.mark.parametrize(("words", "output"), [s for s in SHOWN if "Qwen3.5-122B-A10B.json" in s[0]])
def test_an_output_on_the_paper_s_model_is_what_the_command_prints(words, output, paper_config, tmp_path, monkeypatch):
    shutil.copy(paper_config, tmp_path / "Qwen3.5-122B-A10B.json")
    monkeypatch.chdir(tmp_path)
    assert printed(words, monkeypatch) == output


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command, monkeypatch):
    assert re.search(rf"^ *mlxquant {command}\b", printed(f"{command} --help", monkeypatch), re.M)


def test_every_file_that_is_linked_to_is_there():
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target
