"""mlx-lm's model classes, found as mlx-lm finds them, without its one second of imports.

Building a class allocates nothing: its arrays are lazy, so 122 B parameters cost 0.1 s and no memory.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import importlib.util
import io
import json
import re
import resource
import sys
import types
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path
from typing import Any

from ..errors import MODEL_ERRORS, LayoutError
from ..source.headers import shown
from .class_fields import TEXT_CLASSES

# Far more than any model has; a damaged config with more would be built until memory ends.
_MOST_LAYERS = 10_000
_OPEN_FILES = 2048  # what mlx-lm wants
LONGEST_NAME = 100  # of a model class's file, which a config names: longer ones are no file name
# An annotation without what says that it may be None, and what it holds.
_PLAIN = re.compile(r"typing\.|Optional\[|\[.*|\]|\s*\|\s*None")
_WORDS = {
    "int": "a whole number", "float": "a number", "bool": "true or false", "str": "text", "list": "a list",
    "dict": "a table",
}  # fmt: skip
_TYPES: dict[str, tuple[type, ...]] = {
    "a whole number": (int, float), "a number": (int, float), "true or false": (bool, int), "text": (str,),
    "a list": (list, tuple), "a table": (dict,),
}  # fmt: skip
_SIZES = re.compile(r"^(hidden_size|(moe_)?intermediate_size|vocab_size|head_dim|num_(hidden_layers|.*heads))$")
_COUNTS = re.compile(r"^(n|num)_(.*_)?(layers?|experts|blocks)$")


def build_model(config: Mapping[str, Any]) -> Any:
    """Build mlx-lm's model for a config; nothing is allocated. Raises LayoutError."""
    model_class, args_class = model_classes(config)
    check_counts(config)
    try:
        return model_class(args_class.from_dict(dict(config)))
    except MODEL_ERRORS as error:
        lead = f"config.json: mlx-lm cannot build a {config['model_type']} model from it"
        doubts = "; ".join(unusual(config))
        if doubts:
            raise LayoutError(f"{lead}: whole numbers above 0 are usual, but {doubts}") from error
        if mistyped := "; ".join(_mistyped(config, args_class)):
            raise LayoutError(f"{lead}: {mistyped}") from error
        reason = str(error).partition("\n")[0]
        raise LayoutError(f"{lead} ({type(error).__name__}: {reason}); look for a wrong value in it") from error


def _mistyped(config: Mapping[str, Any], args_class: Any) -> Iterator[str]:
    """Fields whose values are of another type than the class says: "num_experts is 'x', a whole number expected"."""
    text = config.get("text_config")
    tables = [("", config, args_class)]
    if isinstance(text, dict) and (inner := TEXT_CLASSES.get(module_name(config))):
        tables.append(("text_config.", text, getattr(mlx_lm_module(inner[0]), inner[1], None)))
    for prefix, values, args in tables:
        for each in dataclasses.fields(args) if dataclasses.is_dataclass(args) else ():
            annotation = getattr(each.type, "__name__", "") if isinstance(each.type, type) else str(each.type)
            word = _WORDS.get(_PLAIN.sub("", annotation).lower())
            if word is None or each.name not in values:
                continue
            value, number = values[each.name], word in ("a whole number", "a number")
            null = value is None and (not number or "None" in annotation or "Optional" in annotation)
            if not null and (not isinstance(value, _TYPES[word]) or (isinstance(value, bool) and number)):
                yield f"{prefix}{each.name} is {shown(json.dumps(value), 40)}, {word} expected"


def unusual(config: Mapping[str, Any], where: str = "") -> Iterator[str]:
    """Sizes that are no whole number above 0. A list may be one for each layer, null the class's default."""
    for key, value in config.items():
        if isinstance(value, dict):
            yield from unusual(value, f"{where}{key}.")
        elif not _SIZES.match(str(key)) or isinstance(value, list | None):
            continue
        elif isinstance(value, bool) or not isinstance(value, int) or value < 1:
            yield f"{where}{key} is {shown(repr(value))}"


def check_counts(config: Mapping[str, Any], where: str = "config.json") -> None:
    """Refuse a config of more layers or experts than any model has. Raises LayoutError."""
    for key, value in config.items():
        if isinstance(value, dict):
            check_counts(value, f"{where}: {key}")
        elif _COUNTS.match(str(key)) and isinstance(value, int | float) and not value <= _MOST_LAYERS:
            raise LayoutError(f"{where}: {key} is {shown(value)}; at most {_MOST_LAYERS:,} expected")


def has_module(config: Mapping[str, Any]) -> bool:
    """Whether mlx-lm has a module for a config's `model_type`; none is imported."""
    try:
        name = module_name(config)
    except LayoutError:
        return False
    return (_mlx_lm_folder() / "models" / f"{name}.py").is_file()


def model_classes(config: Mapping[str, Any]) -> tuple[Any, Any]:
    """The Model and ModelArgs classes that mlx-lm has for a config's `model_type`. Raises LayoutError."""
    output = io.StringIO()
    try:
        with redirect_stdout(output):  # a module that lacks another package may say so and exit (olmo)
            return _imported_classes(config)
    except SystemExit:
        why = shown(output.getvalue().strip()) or "it ends the process"
    except ImportError as error:
        why = shown(error)
    raise LayoutError(f"config.json: mlx-lm's {shown(config['model_type'])} cannot be imported ({why})")


def _imported_classes(config: Mapping[str, Any]) -> tuple[Any, Any]:
    name = module_name(config)  # also where mlx-lm looks itself: it would import any name
    if "mlx_lm" in sys.modules and hasattr(sys.modules["mlx_lm"], "load"):
        try:
            model_class, args_class = mlx_lm_utils()._get_classes({**config, "architectures": _architectures(config)})
        except (ValueError, AttributeError):
            raise _unknown(config) from None
        return model_class, args_class
    with _light_mlx_lm():
        try:
            arch = importlib.import_module(f"mlx_lm.models.{name}")
        except ModuleNotFoundError as error:
            if error.name != f"mlx_lm.models.{name}":
                raise
            raise _unknown(config) from None
    if not hasattr(arch, "ModelArgs"):  # a module that several models share, such as mlx_lm.models.base
        raise _unknown(config)
    return arch.Model, arch.ModelArgs


def decode_floats(value: Any) -> Any:
    """Undo transformers' tags for numbers that JSON lacks: {"__float__": "Infinity"} is float("inf")."""
    if isinstance(value, dict):
        if set(value) == {"__float__"} and value["__float__"] in ("Infinity", "-Infinity", "NaN"):
            return float(value["__float__"])
        return {k: decode_floats(v) for k, v in value.items()}
    return [decode_floats(v) for v in value] if isinstance(value, list) else value


def mlx_lm_module(name: str) -> Any:
    """Import `mlx_lm.models.<name>` without what `import mlx_lm` costs."""
    with _light_mlx_lm():
        return importlib.import_module(f"mlx_lm.models.{name}")


def mlx_lm_utils() -> Any:
    """Import `mlx_lm.utils`, for which the process's limit of open files may be any.

    At import it sets the limit to 2,048, of at most 4,096, and fails where that is not allowed. Here the limit is
    raised to 2,048 as far as allowed, and never lowered.
    """
    if "mlx_lm.utils" in sys.modules:
        return sys.modules["mlx_lm.utils"]
    set_limit = resource.setrlimit

    def raise_limit(which: int, _: tuple[int, int]) -> None:
        soft, hard = resource.getrlimit(which)
        most = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(_OPEN_FILES, hard)
        if soft != resource.RLIM_INFINITY and soft < most:
            set_limit(which, (most, hard))

    resource.setrlimit = raise_limit
    try:
        return importlib.import_module("mlx_lm.utils")
    finally:
        resource.setrlimit = set_limit


def _unknown(config: Mapping[str, Any]) -> LayoutError:
    return LayoutError(
        f"config.json: mlx-lm {mlx_lm_version()} has no model_type {shown(config['model_type'])!r};"
        " a newer mlx-lm may have it (pip install -U mlx-lm)"
    )


def mlx_lm_version() -> str:
    """The installed mlx-lm's version, without importing it."""
    from importlib.metadata import version

    return version("mlx-lm")


class _light_mlx_lm:
    """While inside, `mlx_lm.models` can be imported without running mlx_lm/__init__.py.

    That file imports transformers (0.6 to 0.9 s), which no model class needs. A bare package stands in and is
    taken out again; the real mlx_lm, imported later, finds the same model modules.
    """

    def __enter__(self) -> None:
        self.placed = "mlx_lm" not in sys.modules
        if self.placed:
            package = types.ModuleType("mlx_lm")
            package.__path__ = [str(_mlx_lm_folder())]
            sys.modules["mlx_lm"] = package

    def __exit__(self, *_: object) -> None:
        if self.placed:
            del sys.modules["mlx_lm"]


def _mlx_lm_folder() -> Path:
    spec = importlib.util.find_spec("mlx_lm")
    if spec is None or not spec.submodule_search_locations:
        raise LayoutError("mlx-lm is not installed; pip install mlx-lm")
    return Path(next(iter(spec.submodule_search_locations)))


@cache
def _remappings() -> dict[str, dict[Any, str]]:
    """The tables of other names for models, read from where they stand in mlx-lm's source."""
    tables: dict[str, dict[Any, str]] = {"MODEL_REMAPPING": {}, "MODEL_ARCHITECTURE_REMAPPING": {}}
    for node in ast.parse((_mlx_lm_folder() / "utils.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id in tables:
            tables[node.targets[0].id] = ast.literal_eval(node.value)
    return tables


def _architectures(config: Mapping[str, Any]) -> list[str]:
    """The names in the config's `architectures`; values that are not text are left out."""
    named = config.get("architectures")
    return [a for a in (named if isinstance(named, list) else [named]) if isinstance(a, str)]


def module_name(config: Mapping[str, Any]) -> str:
    """The module of mlx_lm.models that mlx_lm.utils._get_classes would import. Raises LayoutError."""
    tables = _remappings()
    model_type = str(config["model_type"])
    for architecture in _architectures(config):
        if (remapped := tables["MODEL_ARCHITECTURE_REMAPPING"].get((model_type, architecture))) is not None:
            return remapped
    name = tables["MODEL_REMAPPING"].get(model_type, model_type)
    if not name.replace("_", "").replace("-", "").isalnum() or len(name) > LONGEST_NAME:
        raise _unknown(config)
    return name
