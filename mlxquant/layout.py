"""From a checkpoint's names to MLX's: which modules the model has, and which bytes each array is made of.

mlx-lm's own model class is built (its arrays are lazy, so 122 B parameters cost 0.1 s and no memory) and its
own `sanitize` is run over recording views. So every architecture that mlx-lm knows is known here, without a
table of our own. This is the only module of the lower layers that imports mlx_lm.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from .checkpoint import Checkpoint
from .errors import LayoutError, SourceError, listed
from .formats import FLOATS, MODE_DEFAULTS, TORCH_DTYPES, Format
from .modules import Array, Module
from .roles import Found, find_roles
from .strided import Strided
from .views import SAFETENSORS_DTYPES, Computed, Joined, View, recording, source_view

# What third-party model code raises on a config that it cannot use.
_MODEL_ERRORS = (KeyError, TypeError, ValueError, AttributeError, IndexError, ZeroDivisionError, AssertionError)


@dataclass(frozen=True)
class Layout:
    """A model as mlx-lm builds it and a source fills it.

    `modules` are in the order in which mlx-lm writes them. `views` maps each MLX array's name to where its
    values come from (empty for a config alone); `dropped` are source tensors that no array is made of.
    `expert_shares` maps each expert module to (experts that one token uses, experts there are).
    """

    model_type: str
    model: Any
    modules: tuple[Module, ...]
    views: Mapping[str, View]
    dropped: tuple[str, ...]
    n_layers: int
    expert_shares: Mapping[str, tuple[int, int]]
    dtype: str | None
    notes: tuple[str, ...]


def read_layout(source: Checkpoint, *, dtype: str | None = None) -> Layout:
    """Lay a source out as the MLX model that mlx-lm would load from it.

    `dtype` (bfloat16, float16, float32) is what floats are cast to, by default what mlx-lm takes from the
    config. Raises LayoutError for an architecture that mlx-lm lacks, names it does not expect or misses,
    and shapes that contradict the config; all of them at once.
    """
    config = decode_floats(source.config)
    model = build_model(config)
    views, notes = sanitized(model, source), list[str]()
    prequantized = _prequantized(model, views, config, bool(source.tensors))
    parameters = parameters_of(model, prequantized)
    if source.tensors:
        _check(parameters, views, source)
    dtypes, target = _dtypes(model, parameters, views, config, dtype, notes)
    modules, found = lay_modules(model, config, parameters, dtypes, prequantized)
    used = {t for v in views.values() for t in tensors_of(v)}
    return Layout(
        model_type=config["model_type"],
        model=model,
        modules=modules,
        views=views,
        dropped=tuple(n for n in source.tensors if n not in used),
        n_layers=len(found.layers),
        expert_shares=_expert_shares(model, modules, config, found),
        dtype=target,
        notes=tuple(notes),
    )


def lay_modules(
    model: Any,
    config: Mapping[str, Any],
    parameters: Mapping[str, tuple[int, ...]],
    dtypes: Mapping[str, tuple[str, str]],
    prequantized: Mapping[str, Format],
) -> tuple[tuple[Module, ...], Found]:
    """Group a model's arrays (name -> shape, name -> dtype in source and build) into modules with roles."""
    owners = _owners(model, list(parameters))
    found = find_roles(model, {p: o for p, o, _ in owners}, config)
    answers = _class_answers(model)
    modules = tuple(
        _module(path, owner, names, parameters, dtypes, model, found, answers, prequantized)
        for path, owner, names in owners
    )
    return modules, found


def build_model(config: Mapping[str, Any]) -> Any:
    """Build mlx-lm's model for a config; nothing is allocated. Raises LayoutError."""
    model_class, args_class = model_classes(config)
    try:
        return model_class(args_class.from_dict(dict(config)))
    except _MODEL_ERRORS as error:
        raise LayoutError(
            f"config.json: mlx-lm cannot build a {config['model_type']} model from it"
            f" ({type(error).__name__}: {error})"
        ) from error


def model_classes(config: Mapping[str, Any]) -> tuple[Any, Any]:
    """The Model and ModelArgs classes that mlx-lm has for a config's `model_type`."""
    if "mlx_lm" in sys.modules and hasattr(sys.modules["mlx_lm"], "load"):
        from mlx_lm.utils import _get_classes

        try:
            model_class, args_class = _get_classes(dict(config))
        except ValueError:
            raise _unknown(config) from None
        return model_class, args_class
    name = _module_name(config)
    with _light_mlx_lm():
        try:
            arch = importlib.import_module(f"mlx_lm.models.{name}")
        except ImportError as error:
            if error.name != f"mlx_lm.models.{name}":
                raise
            raise _unknown(config) from None
    return arch.Model, arch.ModelArgs


def decode_floats(value: Any) -> Any:
    """Undo transformers' tags for numbers that JSON lacks: {"__float__": "Infinity"} is float("inf")."""
    if isinstance(value, dict):
        if set(value) == {"__float__"} and value["__float__"] in ("Infinity", "-Infinity", "NaN"):
            return float(value["__float__"])
        return {k: decode_floats(v) for k, v in value.items()}
    return [decode_floats(v) for v in value] if isinstance(value, list) else value


# --- finding mlx-lm's classes without its one second of imports ---


def mlx_lm_module(name: str) -> Any:
    """Import `mlx_lm.models.<name>` without what `import mlx_lm` costs."""
    with _light_mlx_lm():
        return importlib.import_module(f"mlx_lm.models.{name}")


def _unknown(config: Mapping[str, Any]) -> LayoutError:
    return LayoutError(
        f"config.json: mlx-lm {mlx_lm_version()} has no model_type {config['model_type']!r};"
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


def _module_name(config: Mapping[str, Any]) -> str:
    """The module that mlx_lm.utils._get_classes would import, by the tables that stand in its source."""
    tables = {"MODEL_REMAPPING": {}, "MODEL_ARCHITECTURE_REMAPPING": {}}  # type: dict[str, dict[Any, str]]
    for node in ast.parse((_mlx_lm_folder() / "utils.py").read_text()).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id in tables:
            tables[node.targets[0].id] = ast.literal_eval(node.value)
    model_type = str(config["model_type"])
    architectures = config.get("architectures") or ()
    for architecture in (architectures,) if isinstance(architectures, str) else architectures:
        if (found := tables["MODEL_ARCHITECTURE_REMAPPING"].get((model_type, architecture))) is not None:
            return found
    name = tables["MODEL_REMAPPING"].get(model_type, model_type)
    if not name.replace("_", "").replace("-", "").isalnum():
        raise _unknown(config)
    return name


# --- arrays ---


def sanitized(model: Any, source: Checkpoint) -> dict[str, View]:
    """Run the class's own `sanitize` over views of the tensors. Raises LayoutError where it cannot take them."""
    unread = sorted({t.dtype for t in source.tensors.values()} - _readable())
    if unread:
        raise SourceError(f"{source.name}: tensors of dtype {', '.join(unread)}, which mlx cannot load")
    weights: dict[str, View] = {n: source_view(t) for n, t in source.tensors.items()}
    if not weights or not hasattr(model, "sanitize"):
        return weights
    try:
        with recording():
            return dict(model.sanitize(weights))
    except _MODEL_ERRORS as error:
        raise LayoutError(
            f"{source.name}: mlx-lm's sanitize for {source.config['model_type']} cannot take its tensors"
            f" ({type(error).__name__}: {error}); are some missing, or is it another layout?"
        ) from error


def _readable() -> set[str]:
    from .views import MLX_DTYPES

    return set(MLX_DTYPES)


def _prequantized(
    model: Any, views: Mapping[str, View], config: Mapping[str, Any], has_tensors: bool
) -> dict[str, Format]:
    """Modules that the source already stores quantized (gpt-oss: MXFP4 experts), by path."""
    found: dict[str, Format] = {}
    if has_tensors:
        for path, module in _quantizable(model):
            scales, weight = views.get(f"{path}.scales"), views.get(f"{path}.weight")
            if scales is not None and weight is not None:
                found[path] = _stored_format(path, module, weight, scales)
        return found
    settings = config.get("quantization_config") or {}
    if settings.get("quant_method") == "mxfp4":
        kept = [p.replace("*", "") for p in settings.get("modules_to_not_convert") or ()]
        for path, module in _quantizable(model):
            if hasattr(module, "num_experts") and not any(k in path for k in kept):
                found[path] = Format(4, 32, "mxfp4")
    return found


def _stored_format(path: str, module: Any, weight: View, scales: View) -> Format:
    width = int(module.weight.shape[-1])
    group, bits = width // scales.shape[-1], weight.shape[-1] * 32 // width
    if scales.dtype != mx.uint8:
        return Format(bits, group, "affine")
    modes = {(4, 16): "nvfp4", (4, 32): "mxfp4", (8, 32): "mxfp8"}
    if (bits, group) not in modes:
        raise LayoutError(f"{path}: stored with {bits} bits and group size {group}, which no mode of mlx has")
    return Format(bits, group, modes[bits, group])


def _quantizable(model: Any) -> list[tuple[str, Any]]:
    return [(p, m) for p, m in model.named_modules() if hasattr(m, "to_quantized")]


def parameters_of(
    model: Any, prequantized: Mapping[str, Format] = MappingProxyType({})
) -> dict[str, tuple[int, ...]]:
    """Array name -> shape, in mlx-lm's order; prequantized modules with their stored arrays."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, array in tree_flatten(model.parameters()):
        path, _, suffix = name.rpartition(".")
        if suffix == "weight" and path in prequantized:
            stored = prequantized[path].tensors(tuple(array.shape), "BF16")
            shapes |= {f"{path}.{k}": shape for k, (_, shape) in stored.items()}
        else:
            shapes[name] = tuple(array.shape)
    return shapes


def _check(parameters: Mapping[str, tuple[int, ...]], views: Mapping[str, View], source: Checkpoint) -> None:
    problems = [
        f"{name}: {_origin(views[name])} gives shape {list(views[name].shape)}, config.json asks for {list(shape)}"
        for name, shape in parameters.items()
        if name in views and views[name].shape != shape
    ]
    problems += [f"{name}: not in the checkpoint; a shard may be missing" for name in parameters if name not in views]
    problems += [
        f"{_origin(view)}: unexpected; mlx-lm's {source.config['model_type']} has no {name}"
        for name, view in views.items()
        if name not in parameters
    ]
    if problems:
        raise LayoutError(listed(problems))


def _origin(view: View) -> str:
    return next(iter(tensors_of(view)), "a computed array")


def tensors_of(view: View) -> Iterator[str]:
    """Names of the stored tensors that a view draws on."""
    match view.expr:
        case Strided() as s:
            yield s.tensor.name
        case Joined(_, parts):
            for p in parts:
                yield from tensors_of(p)
        case Computed() as c:
            for a in [*c.args, *c.kwargs.values()]:
                for v in a if isinstance(a, (list, tuple)) else [a]:
                    if isinstance(v, View):
                        yield from tensors_of(v)


def _source_dtype(view: View) -> str:
    match view.expr:
        case Strided() as s:
            return s.tensor.dtype
        case Joined(_, parts):
            return _source_dtype(parts[0])
        case Computed() as c:
            views = [a for a in c.args if isinstance(a, View)]
            return _source_dtype(views[0]) if views else SAFETENSORS_DTYPES[view.dtype]


def _dtypes(
    model: Any,
    parameters: Mapping[str, tuple[int, ...]],
    views: Mapping[str, View],
    config: Mapping[str, Any],
    asked: str | None,
    notes: list[str],
) -> tuple[dict[str, tuple[str, str]], str | None]:
    """Array name -> (dtype in the source, dtype in the build), and what floats are cast to.

    As mlx_lm.convert: `--dtype`, else `torch_dtype`, else `text_config.dtype`, except where the class's
    cast_predicate says no.
    """
    text = config.get("text_config") or {}
    named = asked or config.get("torch_dtype") or text.get("dtype")
    target = TORCH_DTYPES.get(str(named))
    casts = getattr(model, "cast_predicate", None) or (lambda _: True)
    if views:
        found = {}
        for name in parameters:
            dtype = SAFETENSORS_DTYPES[views[name].dtype]
            cast = target is not None and dtype in FLOATS and casts(name)
            found[name] = (_source_dtype(views[name]), str(target) if cast else dtype)
        return found, target
    stored = TORCH_DTYPES.get(str(config.get("torch_dtype") or text.get("dtype") or config.get("dtype") or text.get("torch_dtype")))
    if stored is None:
        stored = "BF16"
        notes.append("config.json names no dtype; bfloat16 is assumed")
    found = {}
    for name in parameters:
        source = stored if casts(name) else "F32"
        found[name] = (source, target if target is not None and casts(name) else source)
    return found, target


# --- modules ---


def _owners(model: Any, names: Sequence[str]) -> list[tuple[str, str, list[str]]]:
    """Group array names into modules: (path, path of the nn.Module, array names), in order.

    A leaf nn.Module is one; an array that a larger module holds directly is one by itself.
    """
    tree = dict(model.named_modules())
    leaf = {p: not tree_flatten(m.children(), is_leaf=nn.Module.is_module) for p, m in tree.items()}
    groups: dict[str, tuple[str, list[str]]] = {}
    for name in names:
        owner = name.rpartition(".")[0]
        while owner not in tree:
            owner = owner.rpartition(".")[0]
        path = owner if leaf[owner] and owner else name
        groups.setdefault(path, (owner, []))[1].append(name)
    return [(path, owner, arrays) for path, (owner, arrays) in groups.items()]


def _class_answers(model: Any) -> dict[str, Format | bool]:
    """What the class's own quant_predicate says of each module that mlx can quantize; empty without one."""
    predicate = getattr(model, "quant_predicate", None)
    if predicate is None:
        return {}
    answers: dict[str, Format | bool] = {}
    for path, module in _quantizable(model):
        answer = predicate(path, module)
        answers[path] = _as_format(answer) if isinstance(answer, dict) else bool(answer)
    return answers


def _as_format(answer: Mapping[str, Any]) -> Format:
    """A predicate's dict as `to_quantized(**answer)` takes it: what it leaves open is the mode's default."""
    mode = str(answer.get("mode", "affine"))
    group, bits = MODE_DEFAULTS[mode]
    return Format(int(answer.get("bits") or bits), int(answer.get("group_size") or group), mode)


def _module(
    path: str,
    owner: str,
    names: Sequence[str],
    parameters: Mapping[str, tuple[int, ...]],
    dtypes: Mapping[str, tuple[str, str]],
    model: Any,
    found: Found,
    answers: Mapping[str, Format | bool],
    prequantized: Mapping[str, Format],
) -> Module:
    module = _at(model, owner)
    stored = prequantized.get(path)
    arrays = []
    for name in names:
        suffix = name.removeprefix(path).lstrip(".")
        source, build = dtypes[name]
        shape = tuple(module.weight.shape) if stored and suffix == "weight" else parameters[name]
        if not (stored and suffix in ("scales", "biases")):
            arrays.append(Array(suffix, shape, source, build))
    layer = found.layer_of(path)
    return Module(
        path=path,
        kind=type(module).__name__ if owner == path else "array",
        role=found.roles[path],
        layer=layer,
        layer_type=None if layer is None else found.layer_types[layer],
        arrays=tuple(arrays),
        quantizable=hasattr(module, "to_quantized") and owner == path,
        model_rule=answers.get(path),
        prequantized=stored,
    )


def _at(model: Any, path: str) -> Any:
    for part in path.split(".") if path else ():
        model = model[int(part)] if isinstance(model, list) else model[part]
    return model


def _expert_shares(
    model: Any, modules: Sequence[Module], config: Mapping[str, Any], found: Found
) -> dict[str, tuple[int, int]]:
    """Path of each expert module -> (experts that one token uses, experts there are)."""
    shares: dict[str, tuple[int, int]] = {}
    for module in modules:
        if module.role == "expert":
            k, path = None, module.path.rpartition(".")[0]
            while path and not k:
                k, path = _top_k(_at(model, path)), path.rpartition(".")[0]
            n = found.experts_of(module.path)
            shares[module.path] = (min(k or _top_k_of_config(config) or n, n), n)
    return shares


_TOP_K = (
    "num_experts_per_tok", "num_experts_per_token", "top_k", "moe_top_k", "moe_topk", "top_k_experts", "moe_k",
    "num_local_experts_per_tok", "experts_per_token", "topk", "router_topk", "num_selected_experts", "k",
)  # fmt: skip


def _top_k(module: Any) -> int | None:
    for name in _TOP_K:
        value = getattr(module, name, None)
        if type(value) is int and value > 0:
            return value
    return None


def _top_k_of_config(config: Mapping[str, Any]) -> int | None:
    for table in (config, config.get("text_config") or {}, config.get("ffn_config") or {}, config.get("llm_config") or {}):
        for name in _TOP_K:
            value = table.get(name)
            if type(value) is int and value > 0:
                return value
    return None
