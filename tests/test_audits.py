"""What is published under audits/ is what the commands give today. Needs the model's headers, which are not ours."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from mlxquant.cli import main

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "audits" / "qwen3.5-122b-a10b"
README = (ROOT / "audits" / "README.md").read_text(encoding="utf-8")
BUILDS = {"base": "gates-8bit", "agentic": "deepseek-8bit"}
VERSIONS = ("mlxquant", "mlx_lm")


def printed(*args: object) -> str:
    result = CliRunner().invoke(main, ["plan", *map(str, args)])
    assert result.exit_code == 0, result.output
    return result.stdout


def without_versions(text: str) -> str:
    """A record's text without what may change from one release to the next."""
    return re.sub(rf'  "({"|".join(VERSIONS)})": "[^"]*",\n', "", text)


@pytest.mark.parametrize("build", BUILDS)
def test_a_published_plan_is_what_the_command_gives_today(paper_headers, build):
    kept = (FOLDER / f"{build}.plan.json").read_text(encoding="utf-8")
    assert without_versions(printed(paper_headers, "-r", BUILDS[build], "--json")) == without_versions(kept)


@pytest.mark.parametrize("build", BUILDS)
def test_a_published_text_is_what_the_command_prints_today(paper_headers, build):
    assert printed(paper_headers, "-r", BUILDS[build]) == (FOLDER / f"{build}.plan.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("build", BUILDS)
def test_the_config_alone_gives_the_same_plan(paper_config, build):
    alone = json.loads(printed(paper_config, "-r", BUILDS[build], "--json"))
    kept = json.loads((FOLDER / f"{build}.plan.json").read_text(encoding="utf-8"))
    for key in ("recipe", "totals", "protected", "modules"):
        assert alone[key] == kept[key]


@pytest.mark.parametrize("source", ["config", "headers"])
def test_the_table_in_the_readme_is_what_the_command_gives_today(request, source):
    path = request.getfixturevalue(f"paper_{source}")
    table = re.findall(r"^\| `([\w-]+)` \|[^|]*\| ([\d,]+) \| ([\d.]+) \| (\d+) \|", README, re.M)
    assert [row[0] for row in table] == ["uniform-8bit", "gates-8bit", "deepseek-8bit", "naive-linear-8bit"]
    for recipe, size, bpw, protected in table:
        record = json.loads(printed(path, "-r", recipe, "--json"))
        assert f"{record['totals']['bytes']:,}" == size
        assert f"{record['totals']['bpw']:.4f}" == bpw
        assert str(record["protected"]["modules"]) == protected


@pytest.mark.parametrize("path", sorted(p for p in (ROOT / "audits").rglob("*") if p.is_file()), ids=lambda p: p.name)
def test_nothing_published_names_a_place_on_someones_machine(path):
    assert not re.search(r"(?<![\w.])/(home|root|Users|tmp|work|private)/", path.read_text(encoding="utf-8"))


def test_the_published_prediction_is_what_the_command_gives_today(paper_config):
    words = ["bench", "--predict", str(paper_config), "--recipe", "gates-8bit", "--recipe", "deepseek-8bit"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    assert result.stdout == (FOLDER / "prediction.txt").read_text(encoding="utf-8")
