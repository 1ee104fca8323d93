"""Mixtures of experts that mlx-vlm has and mlx-lm lacks: which they are, found in the installed versions' classes.

    pip install 'mlxquant[vlm]'
    python -m benchmarks.mlx_vlm_models                 # the table of docs/models.md
    python -m benchmarks.mlx_vlm_models --listed        # the names, as mlxquant/layout/mlx_vlm.py lists them

A model is counted where one of its config classes has a field for a number of experts and mlx-lm resolves none of its
names to a module. Nothing is downloaded, no model is built.
"""

from __future__ import annotations

import dataclasses
import inspect
import pkgutil
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlx_lm

from mlxquant.errors import LayoutError
from mlxquant.layout.mlx_vlm import import_package, model_remapping, models_folder
from mlxquant.layout.provider import MLX_LM

_EXPERTS = re.compile(r"(^|_)(n|num)(_\w+)?_experts$|^moe_num_experts$")
_PER_TOKEN_OR_SHARED = re.compile(r"per_tok|shared|active|group")


@dataclass(frozen=True)
class Entry:
    """A package of mlx_vlm.models: the names that configs give it, the field for experts, what it reads."""

    package: str
    names: tuple[str, ...]
    field: str
    reads: str


def entries() -> Iterator[Entry]:
    """All mixtures of experts of mlx-vlm that mlx-lm lacks, in order of their names."""
    # mlx-vlm writes names in lower case and with underscores: Klear is klear there
    modules = {
        m.name.lower().replace("-", "_") for m in pkgutil.iter_modules([str(Path(mlx_lm.__path__[0]) / "models")])
    }
    for package in sorted(p.parent.name for p in Path(models_folder()).glob("*/__init__.py")):
        names = (package, *sorted(k for k, v in model_remapping().items() if v == package))
        if package in modules or any(MLX_LM.knows({"model_type": name}) for name in names):
            continue
        try:
            arch = import_package(package)
        except LayoutError as error:
            print(f"{package}: left out: {error}", file=sys.stderr)
            continue
        fields = _expert_fields(arch)
        if fields and hasattr(arch, "Model"):
            yield Entry(package, names, fields[0], _reads(arch))


def _config_classes(arch: Any) -> list[type]:
    """The config classes of a package: those that it passes on, and those beside them in their modules."""
    classes = {c for _, c in inspect.getmembers(arch, inspect.isclass) if c.__name__.endswith("Config")}
    for each in list(classes):
        module = sys.modules[each.__module__]
        classes |= {c for _, c in inspect.getmembers(module, inspect.isclass) if c.__name__.endswith("Config")}
    return sorted((c for c in classes if dataclasses.is_dataclass(c)), key=lambda c: c.__name__)


def _expert_fields(arch: Any) -> list[str]:
    fields = (f.name for c in _config_classes(arch) for f in dataclasses.fields(c))
    return [name for name in fields if _EXPERTS.search(name) and not _PER_TOKEN_OR_SHARED.search(name)]


def _reads(arch: Any) -> str:
    """What a model reads besides text."""
    fields = {f.name for c in _config_classes(arch) if c.__name__ == "ModelConfig" for f in dataclasses.fields(c)}
    towers = [word for word in ("vision", "audio") if f"{word}_config" in fields]
    return ", ".join(["text", *("images" if word == "vision" else word for word in towers)])


def table() -> str:
    """The list as a Markdown table."""
    rows = [f"| {', '.join(f'`{n}`' for n in e.names)} | {e.reads} | `{e.field}` |" for e in entries()]
    head = f"mlx-vlm {version('mlx-vlm')} against mlx-lm {version('mlx-lm')}:"
    return "\n".join([head, "", "| `model_type` | reads | field for experts |", "|---|---|---|", *rows])


if __name__ == "__main__":
    if "--listed" in sys.argv[1:]:
        print("\n".join(sorted(name for entry in entries() for name in entry.names)))
    else:
        print(table())
