"""What is packed is whole: recipes in the wheel, all that a build needs in the sdist, a Makefile with help."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

import mlxquant

ROOT = Path(__file__).resolve().parent.parent
RECIPES = {p.name for p in (ROOT / "recipes").glob("*.toml")}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def build(target: str, folder: Path) -> Path:
    """Build offline with the hatchling of this environment."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (path,) = folder.iterdir()
    return path


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    return build("wheel", tmp_path_factory.mktemp("wheel"))


def test_the_wheel_holds_every_recipe_and_module_and_nothing_of_the_tests(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {f"mlxquant/recipes/{name}" for name in RECIPES} <= names
    assert {str(p.relative_to(ROOT)) for p in (ROOT / "mlxquant").rglob("*.py")} <= names
    assert "mlxquant/evals/store/model/chat_template.jinja" in names
    assert {str(p.relative_to(ROOT)) for p in (ROOT / "mlxquant" / "records" / "schemas").glob("*.json")} <= names
    assert {f"mlxquant/report/page/page.{kind}" for kind in ("css", "js", "html.jinja")} <= names
    assert {name.split("/")[0] for name in names} == {"mlxquant", f"mlxquant-{mlxquant.__version__}.dist-info"}


def test_the_wheel_carries_its_licence_and_its_command(wheel):
    info = f"mlxquant-{mlxquant.__version__}.dist-info"
    with zipfile.ZipFile(wheel) as archive:
        assert "Apache License" in archive.read(f"{info}/licenses/LICENSE").decode()
        assert "mlxquant = mlxquant.cli:main" in archive.read(f"{info}/entry_points.txt").decode()
        assert f"Version: {mlxquant.__version__}\n" in archive.read(f"{info}/METADATA").decode()


@pytest.mark.slow
def test_a_wheel_can_be_built_from_the_sdist(tmp_path):
    with tarfile.open(build("sdist", tmp_path / "sdist")) as archive:
        archive.extractall(tmp_path / "source")  # our own; Python 3.11.0 has no filter
    (source,) = (tmp_path / "source").iterdir()
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "wheel")]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (path,) = (tmp_path / "wheel").iterdir()
    names = set(zipfile.ZipFile(path).namelist())
    assert {f"mlxquant/recipes/{name}" for name in RECIPES} <= names


def test_the_wheel_runs_from_elsewhere_and_finds_its_recipes(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    script = "import sys, mlxquant; from mlxquant.cli import main; print(mlxquant.__file__, file=sys.stderr); main()"
    command = [sys.executable, "-c", script, "recipes"]
    run = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=True)
    assert run.stderr.startswith(str(tmp_path))
    assert all(name.removesuffix(".toml") in run.stdout for name in RECIPES)


def test_dependencies_have_lower_bounds_and_no_exact_pins():
    extras = [d for group in PROJECT["optional-dependencies"].values() for d in group]
    for requirement in PROJECT["dependencies"] + extras:
        assert ">=" in requirement, requirement
        assert not re.search(r"(?<![<>!~])==(?! ')", requirement.split(";")[0]), requirement


def test_every_target_of_the_makefile_is_in_its_help():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (phony,) = re.findall(r"^\.PHONY: (.*)$", makefile, re.M)
    helped = set(re.findall(r'@echo "make ([\w-]+)', makefile))
    assert set(phony.split()) - {"help", "lint", "types", "unit", "wheel"} == helped


@pytest.mark.parametrize("version", ["", "3.9"])
def test_make_says_what_to_do_about_an_old_python(tmp_path, version):
    (tmp_path / "Makefile").write_text((ROOT / "Makefile").read_text())
    (tmp_path / "pyproject.toml").touch()
    if version:  # a python that runs, but claims to be old
        old = tmp_path / "old"
        pretend = "import sys; sys.version_info = (3, 9); exec(sys.argv[1])"
        old.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{pretend}" "$2"\n')
        old.chmod(0o755)
    python = f"PYTHON={tmp_path / 'old' if version else ''}"
    run = subprocess.run(["make", python, "lint"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode != 0
    assert "mlxquant needs Python 3.11 or newer" in run.stderr
    assert not (tmp_path / ".venv").exists()
