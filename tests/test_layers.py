"""The house keeps its order: a package imports only from packages before it in one line; heavy ones stay in place.

A folder directly under mlxquant/ is a layer. Imports inside functions count as much as those at the top.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "mlxquant"

ORDER: list[str] = """
    words stats disk records report source layout plan kernels builds check stream calibrate endpoint bench divergence
    evals results validate allocate sweep pipeline publish rollout cli
""".split()  # noqa: SIM905 - one line to read, as in the plan
TOP = {"__init__", "__main__", "errors"}  # the only modules at the root: errors is below all, the others above

# Upward imports that the move of 2026-11-28 laid bare: importing module -> package above it. Empty it; never add to it.
UPWARD: dict[str, str] = {}

SEES_MLX = "layout.views layout.roles layout.arrays layout.context layout.layout layout.text_model"
RUN_MODELS = "builds.read.loading bench.local stream calibrate divergence evals cli.demo"
# package -> the modules that may import it, at the top or inside a function
MAY_IMPORT = {
    "mlx": f"{SEES_MLX} kernels builds check {RUN_MODELS}",
    "mlx_lm": f"layout.mlx_lm check.load_probe {RUN_MODELS}",
    "numba": "words.jit kernels",
    "matplotlib": "",
    "scipy": "stats kernels.gptq allocate.solve",
    "jsonschema": "records evals",
    "transformers": "builds.read.loading builds.read.templates builds.read.template_worker",
    "torch": "",
}


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


@cache
def imports(name: str) -> frozenset[str]:
    """Absolute names of all that a module imports."""
    package = ("mlxquant", *(name.split(".") if MODULES[name].name == "__init__.py" else name.split(".")[:-1]))
    if name == "__init__":
        package = ("mlxquant",)

    def targets() -> Iterator[str]:
        for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                base = package[: len(package) - node.level + 1] if node.level else ()
                source = ".".join([*base, *([node.module] if node.module else [])])
                yield source
                yield from (f"{source}.{alias.name}" for alias in node.names)

    return frozenset(targets())


def own(name: str) -> set[str]:
    """Modules of this package that a module imports."""
    wanted = (target.removeprefix("mlxquant.") for target in imports(name) if target.startswith("mlxquant."))
    own_packages = {name, *(name[:i] for i, sign in enumerate(name) if sign == ".")}
    return {target for target in wanted if target in MODULES} - own_packages


def height(name: str) -> int:
    package = name.split(".")[0]
    return {"errors": -1, "__init__": len(ORDER), "__main__": len(ORDER) + 1}.get(package) or ORDER.index(package)


def within(name: str, where: str) -> bool:
    """Whether a module is one of those listed, or part of one; a trailing * stands for any ending."""
    return any(fnmatch(name, pattern) or name.startswith(f"{pattern}.") for pattern in where.split())


def test_nothing_but_packages_lies_at_the_root():
    assert {path.stem for path in PACKAGE.glob("*.py")} == TOP
    assert {name.split(".")[0] for name in MODULES} - TOP <= set(ORDER)


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_from_its_own_package_or_earlier_ones(name):
    upward = {target for target in own(name) if height(target) > height(name)}
    stray = {target for target in upward if target.split(".")[0] not in UPWARD.get(name, "").split()}
    assert not stray, f"{name} imports {sorted(stray)}, which come later in ORDER"


@pytest.mark.parametrize("name", UPWARD)
def test_an_exception_is_listed_only_while_it_is_needed(name):
    upward = (
        {target.split(".")[0] for target in own(name) if height(target) > height(name)} if name in MODULES else set()
    )
    assert set(UPWARD[name].split()) == upward, f"{name}: shorten its entry in UPWARD"


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_a_heavy_package_is_imported_only_where_it_may_be(package):
    importers = {n for n in MODULES if any(target.split(".")[0] == package for target in imports(n))}
    stray = {n for n in importers if not within(n, MAY_IMPORT[package])}
    assert not stray, f"{package} is imported by {sorted(stray)}, but is for: {MAY_IMPORT[package] or 'none'}"


@cache
def door(package: str) -> frozenset[str]:
    """What a package's `__all__` names: its public modules, and things that it passes on itself."""
    for node in ast.parse(MODULES[package].read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "__all__":
            return frozenset(ast.literal_eval(node.value))
    return frozenset()


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_from_another_package_only_what_its_door_names(name):
    past = set()
    for target in own(name):
        packages = [target[:i] for i, sign in enumerate(target) if sign == "."]
        for package in packages:
            part = target[len(package) + 1 :].split(".")[0]
            if not within(name, package) and part not in door(package):
                past.add(f"{package}: {part}")
    assert not past, f"{name} imports past a door: {sorted(past)}; name it in the package's __all__ if it is public"


@pytest.mark.parametrize("package", [n for n in MODULES if MODULES[n].name == "__init__.py" and n != "__init__"])
def test_a_door_names_what_is_there_and_says_what_the_package_is(package):
    tree = ast.parse(MODULES[package].read_text(encoding="utf-8"))
    assert len(ast.get_docstring(tree) or "") > 40, f"{package}: say what is in it"
    own_names = {alias.asname or alias.name for n in tree.body if isinstance(n, ast.ImportFrom) for alias in n.names}
    own_names |= {n.name for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef)}
    own_names |= {
        n.targets[0].id for n in tree.body if isinstance(n, ast.Assign) and isinstance(n.targets[0], ast.Name)
    }
    missing = {part for part in door(package) - own_names if f"{package}.{part}" not in MODULES}
    assert not missing, f"{package}: its door names {sorted(missing)}, which is not there"


def test_no_two_modules_import_each_other():
    def reaches(start: str, goal: str, seen: set[str]) -> bool:
        for target in own(start) - seen:
            seen.add(target)
            if target == goal or reaches(target, goal, seen):
                return True
        return False

    # a package's __init__ and its parts are one thing
    single = [n for n in MODULES if MODULES[n].name != "__init__.py" and n.split(".")[0] != "cli"]
    assert [n for n in single if reaches(n, n, set())] == []


@pytest.mark.parametrize("call", ["", "cli.main(['--help'], standalone_mode=False)"])
def test_the_command_line_starts_without_anything_heavy(call):
    heavy = {"mlx", "mlx_lm", "numba", "numpy", "transformers", "huggingface_hub", "safetensors"}
    script = (
        f"import sys; import mlxquant.cli as cli\n{call}\nprint('heavy:', *sorted(set({heavy}) & set(sys.modules)))"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=env)
    assert run.stdout.splitlines()[-1] == "heavy:"


def test_no_test_module_imports_another_one():
    """What several of them use stands in a module that is no test itself."""
    stray = []
    for path in sorted((ROOT / "tests").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom | ast.Import):
                names = [alias.name for alias in node.names]
                names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
                stray += [(path.name, name) for name in names if name.rpartition(".")[2].startswith("test_")]
    assert stray == []
