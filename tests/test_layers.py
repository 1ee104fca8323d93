"""The design's layers hold: a module imports from its own layer or lower ones, and heavy packages stay where they may.

A new module goes into LAYERS, at the height of what it does (DESIGN: words, source, plan, build, check, measure,
judge, face). Imports inside functions count as much as those at the top.
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

# A folder stands for all its modules, a trailing * for any ending.
LAYERS: list[tuple[str, str]] = [
    (
        "words",
        "__init__ errors interrupts secrets formats metrics modules records schemas units columns layers machine"
        " programs disk intervals",
    ),
    (
        "source",
        "links remote_code hub* readers downloads staging headers prequantized fp8 checkpoint compiled tiles strided"
        " mlx_bytes array_like views recording gather"
        " mlxlm layer_types roles arrays experts expert_stacks companions layout context tiny",
    ),
    (
        "plan",
        "rules rule_syntax recipe_files recipe variations misfits decide plan plan_text infer_recipe predicate fits*",
    ),
    (
        "build",
        "kernels* pieces needs shards signature journal partial hashing worker account* build_files"
        " manifest fill convert",
    ),
    (
        "check",
        "build build_claims build_formats build_headers build_layout build_names build_distance audit*"
        " verify* revalidate diff* check_load load_probe",
    ),
    ("measure", "model_loading bench* chips predict* prompts wire chat_events endpoint sse store compare evals tau2"),
    ("judge", "validate sweep report card upload"),
    ("face", "cli __main__"),
]
RUN_MODELS = "model_loading bench_model compare evals cli.demo"
SEES_MLX = "mlx_bytes array_like views recording gather roles arrays layout context"
# package -> the modules that may import it, at the top or inside a function
MAY_IMPORT = {
    "mlx": f"{SEES_MLX} kernels* pieces worker convert build_formats build_layout"
    f" audit* verify* load_probe {RUN_MODELS}",
    "mlx_lm": f"mlxlm load_probe {RUN_MODELS}",
    "numba": "compiled kernels*",
    "matplotlib": "report.charts report.svg report.frontier_chart",
    "scipy": "intervals",
    "jsonschema": "evals store",
    "transformers": "model_loading",
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

    def found() -> Iterator[str]:
        for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                base = package[: len(package) - node.level + 1] if node.level else ()
                source = ".".join([*base, *([node.module] if node.module else [])])
                yield source
                yield from (f"{source}.{alias.name}" for alias in node.names)

    return frozenset(found())


def own(name: str) -> set[str]:
    """Modules of this package that a module imports."""
    wanted = (target.removeprefix("mlxquant.") for target in imports(name) if target.startswith("mlxquant."))
    return {target for target in wanted if target in MODULES and target != name}


def height(name: str) -> int:
    heights = [i for i, (_, modules) in enumerate(LAYERS) if within(name, modules)]
    assert len(heights) == 1, f"{name} belongs in one layer of LAYERS in {Path(__file__).name}"
    return heights[0]


def within(name: str, where: str) -> bool:
    """Whether a module is one of those listed, or part of one; a trailing * stands for any ending."""
    return any(fnmatch(name, pattern) or name.startswith(f"{pattern}.") for pattern in where.split())


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_from_its_own_layer_or_lower_ones(name):
    upward = {target for target in own(name) if height(target) > height(name)}
    assert not upward, f"{name} is in layer {LAYERS[height(name)][0]!r}, but imports {sorted(upward)}"


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_a_heavy_package_is_imported_only_where_it_may_be(package):
    importers = {n for n in MODULES if any(target.split(".")[0] == package for target in imports(n))}
    stray = {n for n in importers if not within(n, MAY_IMPORT[package])}
    assert not stray, f"{package} is imported by {sorted(stray)}, but is for: {MAY_IMPORT[package] or 'none'}"


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
