"""Options that several commands share have the same names in all of them."""

from __future__ import annotations

import importlib

import click
import pytest

from mlxquant.cli import COMMANDS


def options(command: str) -> list[click.Option]:
    module = importlib.import_module(f"mlxquant.cli.{command.replace('-', '_')}")
    return [p for p in module.command.params if isinstance(p, click.Option)]


@pytest.mark.parametrize("command", COMMANDS)
def test_where_a_command_writes_is_one_option_of_three_names(command):
    for option in options(command):
        if {"-o", "--output", "--out"} & set(option.opts):
            assert option.opts == ["-o", "--output", "--out"]


@pytest.mark.parametrize("command", COMMANDS)
def test_markdown_is_asked_for_by_either_name(command):
    for option in options(command):
        if {"--md", "--markdown"} & set(option.opts):
            assert sorted(option.opts) == ["--markdown", "--md"]


def test_every_command_that_writes_has_the_option():
    writers = {command for command in COMMANDS if any("--out" in option.opts for option in options(command))}
    assert writers == {
        "allocate", "bench", "build", "calibrate", "compare", "convert", "demo", "eval", "plan", "recipes", "report",
        "results", "rollout", "sweep", "validate",
    }  # fmt: skip
