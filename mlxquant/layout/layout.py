"""From a checkpoint's names to MLX's: which modules the model has, and which bytes each array is made of.

The own model class of mlx-lm, or of another provider (see `provider`), is built and its own `sanitize` is run over
recording views, so every architecture that it knows is known here. What is left to do is grouping arrays into modules,
with role, layer and dtypes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import mlx.nn as nn
from mlx.utils import tree_flatten

from ..errors import MODEL_ERRORS, LayoutError
from ..source.checkpoint import Checkpoint
from ..words.formats import MODE_DEFAULTS, TORCH_DTYPES, Format
from ..words.modules import Array, Module
from ..words.text import some
from .arrays import (
    array_dtypes,
    check_decoded,
    module_at,
    parameters_of,
    quantizable,
    sanitized,
    stored_formats,
    tensors_of,
)
from .carried import VISION, carry
from .class_config import Settled, settle, untie
from .expert_stacks import stacked
from .kept import with_declared_bytes, with_kept, with_stored_bytes
from .mismatches import check_arrays, dropped_notes, without_next_token_head
from .provider import MLX_LM, Provider, provider_of
from .roles import Roles, expert_shares, find_roles
from .views.view import View


@dataclass(frozen=True)
class Layout:
    """A model as its `provider` builds it and a source fills it.

    `modules` are in the order in which the provider writes them. `views` maps each MLX array's name to where its
    values come from (empty for a config alone); `dropped` are source tensors that no array is made of.
    `expert_shares` maps each expert module to (experts that one token uses, experts there are). `carried_apart` are
    the modules of a next-token head that is carried along in a file of its own; those of a vision tower that is
    carried along are in `modules`. `config` is the source's as its class has to read it, which a build gets.
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
    carried_apart: tuple[Module, ...] = ()
    provider: Provider = MLX_LM
    config: Mapping[str, Any] = field(default_factory=dict)


def read_layout(
    source: Checkpoint,
    *,
    dtype: str | None = None,
    keep: Collection[str] = (),
    provider: str | None = None,
    as_it_is: bool = False,
) -> Layout:
    """Lay a source out as the MLX model that mlx-lm, or another `provider` by name, would load from it.

    `dtype` (bfloat16, float16, float32) is what floats are cast to, by default what mlx-lm takes from the
    config. `keep` ("vision", "mtp") carries along what the model's class would drop (see `carried`). Without a
    `provider` it is mlx-lm, or mlx-vlm for an architecture that mlx-lm lacks. `as_it_is` leaves the config of a build
    alone, which a source's is not (see `class_config`).

    Raises LayoutError for an architecture that no provider has, names it does not expect or misses, and shapes that
    contradict the config; all of them at once.
    """
    chosen = provider_of(source.config, provider)
    settled, config, model, views = _laid_over(source, chosen, settles=chosen is MLX_LM and not as_it_is)
    notes = list(settled.notes)
    prequantized = stored_formats(model, views, config, bool(source.tensors))
    parameters = parameters_of(model, prequantized)
    if source.tensors:
        check_decoded(model, views, prequantized, source)
        check_arrays(parameters, views, source, chosen, config)
    dtypes, target = array_dtypes(model, parameters, views, config, dtype, notes)
    modules, roles = lay_modules(model, config, parameters, dtypes, prequantized, chosen)
    if source.tensors:
        modules, kept = with_kept(with_stored_bytes(modules, views, source), views, source)
    else:
        modules, kept = with_declared_bytes(modules, model, config), {}
    n_layers = len(roles.layers)
    carried = carry(
        source,
        keep,
        _dropped(source, views),
        n_layers=n_layers,
        dtype=target,
        head_dtype=TORCH_DTYPES[dtype] if dtype else None,
        whole=chosen.whole,
    )
    views = {**views, **kept, **carried.views}
    dropped = _dropped(source, views)
    notes += dropped_notes(dropped, n_layers, source, chosen, config)
    return Layout(
        model_type=config["model_type"],
        model=model,
        modules=(*modules, *carried.in_shards),
        views=views,
        dropped=dropped,
        n_layers=n_layers,
        expert_shares=expert_shares(model, modules, config, roles),
        dtype=target,
        notes=tuple(notes),
        carried_apart=carried.apart,
        provider=chosen,
        config=settled.config,
    )


def _laid_over(
    source: Checkpoint, chosen: Provider, *, settles: bool
) -> tuple[Settled, Mapping[str, Any], Any, dict[str, View]]:
    """The config as the class reads it (as it is unless `settles`), the same prepared, the model and its views."""
    settled = settle(source.config, source.tensors) if settles else Settled(source.config)
    config, model, views = _sanitized_model(source, chosen, settled)
    head = next((n for n in views if n.endswith("lm_head.weight") and n not in parameters_of(model)), None)
    if settles and head is not None and (untied := untie(settled, head)) is not None:
        settled = untied
        config, model, views = _sanitized_model(source, chosen, settled)
    return settled, config, model, views


def _sanitized_model(
    source: Checkpoint, provider: Provider, settled: Settled
) -> tuple[dict[str, Any], Any, dict[str, View]]:
    """The prepared config, the model, and the views that fill it."""
    config = provider.prepared(settled.config)
    model = provider.build_model(config)
    parameters = parameters_of(model)
    views = stacked(sanitized(model, source, provider, config), parameters)
    return config, model, without_next_token_head(parameters, views, config)


def _dropped(source: Checkpoint, views: Mapping[str, View]) -> tuple[str, ...]:
    """The source's tensors that no view draws on."""
    used = {t for v in views.values() for t in tensors_of(v)}
    return tuple(n for n in source.tensors if n not in used)


def lay_modules(
    model: Any,
    config: Mapping[str, Any],
    parameters: Mapping[str, tuple[int, ...]],
    dtypes: Mapping[str, tuple[str, str]],
    prequantized: Mapping[str, Format],
    provider: Provider = MLX_LM,
) -> tuple[tuple[Module, ...], Roles]:
    """Group a model's arrays (name -> shape, name -> dtype in source and build) into modules with roles.

    Raises LayoutError for an array without a value, which a size of zero in the config makes.
    """
    empty = [name for name, shape in parameters.items() if 0 in shape]
    if empty:
        raise LayoutError(
            f"config.json: {some(empty)} would hold no value (shape {parameters[empty[0]]}); look for a size that is"
            " 0, such as vocab_size or num_key_value_heads"
        )
    owners = _owners(model, list(parameters))
    roles = find_roles(model, {p: o for p, o, _ in owners}, config)
    answers = _class_answers(model, provider)
    modules = tuple(
        _module(path, owner, names, parameters, dtypes, model, roles, answers, prequantized)
        for path, owner, names in owners
    )
    modules = tuple(replace(m, role=VISION, tower=True) if provider.is_tower(m.path) else m for m in modules)
    return modules, roles


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


def _class_answers(model: Any, provider: Provider) -> dict[str, Format | bool]:
    """What the provider's own rule says of each module that mlx can quantize; empty without one."""
    try:
        predicate = provider.rule(model)
        answers = {path: predicate(path, module) for path, module in quantizable(model)} if predicate else {}
    except MODEL_ERRORS as error:
        what = f"{type(error).__name__}: {error}"
        raise LayoutError(f"config.json: {provider.name}'s own rule for quantizing fails on it ({what})") from error
    return {path: _as_format(a) if isinstance(a, dict) else bool(a) for path, a in answers.items()}


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
    roles: Roles,
    answers: Mapping[str, Format | bool],
    prequantized: Mapping[str, Format],
) -> Module:
    module = module_at(model, owner)
    stored = prequantized.get(path)
    arrays = []
    for name in names:
        suffix = name.removeprefix(path).lstrip(".")
        affine = stored is not None and stored.mode == "affine" and suffix == "weight"
        source, build = dtypes[f"{path}.scales" if affine else name]  # affine scales are of the matrix's dtype
        shape = tuple(module.weight.shape) if stored and suffix == "weight" else parameters[name]
        if not (stored and suffix in ("scales", "biases")):
            arrays.append(Array(suffix, shape, source, build))
    layer = roles.layer_of(path)
    return Module(
        path=path,
        kind=type(module).__name__ if owner == path else "array",
        role=roles.roles[path],
        layer=layer,
        layer_type=None if layer is None else roles.layer_types[layer],
        arrays=tuple(arrays),
        quantizable=hasattr(module, "to_quantized") and owner == path,
        model_rule=answers.get(path),
        prequantized=stored,
    )
