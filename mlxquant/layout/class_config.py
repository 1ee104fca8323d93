"""A source's config as mlx-lm's class has to read it, so that the build computes what transformers computes.

mlx-lm's argument classes take the fields that they know and drop all others without a word. transformers 5 writes
`rope_theta` into `rope_parameters`, where most classes never look; some classes have another default for a field that
a config leaves out; some do not read a field at all. `settle` writes such fields where the class reads them and says
so, and refuses what the class cannot express. A config in which nothing has to move is given back unchanged, so that
config.json stays what mlx_lm.convert writes. What is known of the classes lies in `class_fields`.

A build's config is not settled: mlx-lm reads it as it is.
"""

from __future__ import annotations

import ast
import dataclasses
import math
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, TypeGuard

from ..errors import LayoutError
from ..source.headers import shown
from ..words.text import listed, some
from .class_derived import DERIVED, ROPE_BY_KIND, Inexpressible
from .class_fields import (
    ACTIVATIONS,
    ALIASES,
    COMPUTED,
    DEFAULTS,
    DEVIATIONS,
    PLAIN_BY_LAYER,
    PLAIN_ROPE,
    ROPE_TYPES,
    SWIGLU,
    TEXT_BY_TYPE,
    TEXT_CLASSES,
    TEXT_TYPES,
    THETAS,
    UNCOUNTED,
    WHOLE_HEADS,
)
from .mlx_lm import mlx_lm_module, mlx_lm_version, model_classes, module_name

# A field for which a class has no default.
MISSING: Any = object()
# Rotary position embeddings that are plain for text.
_PLAIN = ("default", "mrope", "axial", None)
# Classes that read `rope_parameters` by layer type.
_BY_LAYER = ("gemma4_text", "laguna", "mellum", "spark2_5")
# transformers' own words beside the scaling's in `rope_parameters`
_NOT_SCALING = ("rope_theta", "partial_rotary_factor")


@dataclass(frozen=True, slots=True)
class Settled:
    """A config as the class has to read it, and what was written where, one note each."""

    config: dict[str, Any]
    notes: tuple[str, ...] = ()


@dataclass
class _Table:
    """One table of a config with the class that reads it: what is to be set, and what it cannot express."""

    model_type: str
    module: str
    fields: Mapping[str, Any]  # name -> the class's default, MISSING where it has none
    values: Mapping[str, Any]
    prefix: str
    changes: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def get(self, name: str) -> Any:
        """A field's value as it will be."""
        return self.changes.get(name, self.values.get(name))

    def takes(self, name: str) -> Any:
        """What the class will compute with: the config's value, else its default."""
        return self.changes.get(name, self.values.get(name, self.fields.get(name, MISSING)))

    def move(self, name: str, value: Any, origin: str) -> None:
        """Set a field that the class would take otherwise."""
        taken = self.takes(name)
        if taken is MISSING or taken != value or (type(taken) is not type(value) and isinstance(value, bool)):
            without = "has no default for it" if taken is MISSING else f"would take {shown(taken, 40)}"
            self.changes[name] = value
            self.notes.append(
                f"config.json: {self.prefix}{name} = {shown(value, 60)} is written into the build, from {origin};"
                f" mlx-lm's {self.module} {without}"
            )

    def refuse(self, name: str, value: Any, computes: str) -> None:
        """Note a field that the class cannot express."""
        self.problems.append(
            f"config.json: {self.prefix}{name} is {shown(value, 60)}, but mlx-lm {mlx_lm_version()}'s {self.module}"
            f" {computes}, so a build would compute another model; use a newer mlx-lm, or change it in config.json if"
            " that is what you want"
        )


def settle(config: Mapping[str, Any], tensors: Iterable[str] = ()) -> Settled:
    """Write what mlx-lm's class would not read, or default otherwise, where it does read it.

    `tensors` are the source's names, none for a config alone: whether there is a head decides a tie that the config
    leaves open. Raises LayoutError, all at once, for fields that decide what the model computes and that the class
    does not read.
    """
    names = list(tensors)
    table = _table_of(config)
    if table is None:
        return Settled(dict(config))
    _settle_ties(table, config)
    _settle_names(table)
    _settle_rope(table)
    _settle_derived(table)
    _settle_defaults(table, has_head=any(_is_head(n) for n in names) or not names)
    _check_computed(table)
    _check_required(table)
    _note_uncounted(table, names)
    if not names:
        _note_untied(table, config)
    if table.module in DEVIATIONS:
        table.notes.append(f"mlx-lm {mlx_lm_version()}'s {table.module} {DEVIATIONS[table.module]}")
    if table.problems:
        raise LayoutError(listed(table.problems))
    if not table.changes:
        return Settled(dict(config), tuple(table.notes))
    if not table.prefix:
        return Settled({**config, **table.changes}, tuple(table.notes))
    text = {**config["text_config"], **table.changes}
    return Settled({**config, "text_config": text}, tuple(table.notes))


def untie(settled: Settled, head: str) -> Settled | None:
    """Take back a tie where the shards hold a head of their own that the class has no place for.

    None where the class always ties them.
    """
    table = _table_of(settled.config)
    if table is None or "tie_word_embeddings" not in table.fields or table.takes("tie_word_embeddings") is not True:
        return None
    note = (
        f"config.json: {table.prefix}tie_word_embeddings = False is written into the build: the shards hold a head of"
        f" their own ({head}), which a tied model of mlx-lm's {table.module} has no place for; transformers uses it too"
    )
    change = {"tie_word_embeddings": False}
    config = settled.config
    changed = {**config, "text_config": {**config["text_config"], **change}} if table.prefix else {**config, **change}
    return Settled(changed, (*settled.notes, note))


def _table_of(config: Mapping[str, Any]) -> _Table | None:
    """The table that the text model's class reads; None where the class is not known."""
    module, text = module_name(config), config.get("text_config")
    if not isinstance(text, dict):
        args, values, prefix = model_classes(config)[1], config, ""
        if module in TEXT_CLASSES:
            args, module = _text_class(module, config)
    elif module in TEXT_CLASSES:
        args, module = _text_class(module, text)
        values, prefix = text, "text_config."
    else:
        return None
    if not dataclasses.is_dataclass(args):
        return None
    model_type = values.get("model_type")
    known = model_type if isinstance(model_type, str) else str(config["model_type"])
    return _Table(known, module, _fields(args), values, prefix)


def _text_class(module: str, text: Mapping[str, Any]) -> tuple[Any, str]:
    name, args = TEXT_BY_TYPE.get((module, str(text.get("model_type"))), TEXT_CLASSES[module])
    return getattr(mlx_lm_module(name), args, None), name


def class_fields_of(model_type: str) -> dict[str, Any]:
    """The fields that mlx-lm's class for a model_type takes, with their defaults; MISSING where it has none."""
    module, name = TEXT_TYPES.get(model_type, (module_name({"model_type": model_type}), "ModelArgs"))
    return _fields(getattr(mlx_lm_module(module), name))


def _fields(args: Any) -> dict[str, Any]:
    """The names that a class takes, with their defaults."""
    fields = {}
    for each in dataclasses.fields(args):
        default = each.default
        if default is dataclasses.MISSING and each.default_factory is not dataclasses.MISSING:
            default = each.default_factory()
        fields[each.name] = MISSING if default is dataclasses.MISSING else default
    return fields


# --- ties and names ---


def _is_head(name: str) -> bool:
    return name.endswith("lm_head.weight")


def _settle_ties(table: _Table, config: Mapping[str, Any]) -> None:
    """Vision models say at the top whether head and embedding are one; their text classes read their own table."""
    top = config.get("tie_word_embeddings")
    open_ = table.prefix and "tie_word_embeddings" in table.fields and table.values.get("tie_word_embeddings") is None
    if open_ and isinstance(top, bool):
        table.move("tie_word_embeddings", top, "the top of config.json")


def _settle_names(table: _Table) -> None:
    for name, others in ALIASES.get(table.module, {}).items():
        other = next((o for o in others if table.values.get(o) is not None), None)
        if table.values.get(name) is None and other is not None:
            table.move(name, table.values[other], f"{table.prefix}{other}")
    if table.fields.get("head_dim") is MISSING and table.values.get("head_dim") is None:
        size, heads = table.get("hidden_size"), table.get("num_attention_heads")
        if _whole(size) and _whole(heads) and size % heads == 0:
            table.move("head_dim", size // heads, "hidden_size / num_attention_heads, as transformers computes it")


def _whole(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


# --- rotary position embeddings ---


def _settle_rope(table: _Table) -> None:
    _check_one_scaling(table)
    rope = table.values.get("rope_parameters")
    own = "rope_parameters"
    if not isinstance(rope, dict) or not rope:
        rope, own = table.values.get("rope_scaling"), "rope_scaling"
    rope = rope if isinstance(rope, dict) else {}
    reads = "rope_parameters" in table.fields
    if any(isinstance(v, dict) for v in rope.values()):
        if table.module not in _BY_LAYER:
            rope = _one_rope(table, rope, reads=reads)
    elif rope and table.module in _BY_LAYER:
        table.refuse(own, rope, "reads a RoPE of each layer type in rope_parameters (full_attention, ...) alone")
        return
    elif reads:
        _gather_rope(table, rope)
    if kinds := [v for v in rope.values() if isinstance(v, dict)]:
        words = {str(kind.get("rope_type") or kind.get("type")) for kind in kinds}
        for word in sorted(words & PLAIN_BY_LAYER.get(table.module, frozenset())):
            table.refuse("rope_parameters", f"{word} for a layer type", "computes plain RoPE")
        return
    origin = f"{table.prefix}{own}"
    if not reads and own == "rope_parameters":
        for name in _NOT_SCALING:
            if name in table.fields and rope.get(name) is not None:
                table.move(name, rope[name], f"{origin}.{name}")
    theta = (
        THETAS.get(table.model_type, 10000.0) if table.model_type in DEFAULTS or table.model_type in THETAS else None
    )
    if theta and not reads and "rope_theta" in table.fields and table.get("rope_theta") is None:
        table.move("rope_theta", theta, "transformers' default")
    _settle_partial(table, rope, origin)
    _settle_scaling(table, rope, origin, reads=reads)


def _check_one_scaling(table: _Table) -> None:
    """Refuse two descriptions of one RoPE that differ: transformers 5 takes `rope_scaling`, others the newer one."""
    older, newer = table.values.get("rope_scaling"), table.values.get("rope_parameters")
    if not isinstance(older, dict) or not isinstance(newer, dict) or not older or not newer:
        return
    outside = {name: table.values[name] for name in _NOT_SCALING if table.values.get(name) is not None}
    if outside | _scaling(older) != outside | _scaling(newer):
        table.problems.append(
            f"config.json: {table.prefix}rope_scaling {shown(older, 60)} and {table.prefix}rope_parameters"
            f" {shown(newer, 60)} differ, and what is computed depends on which of them is read (transformers 5 reads"
            " rope_scaling); take one of them out of config.json"
        )


def _scaling(rope: Mapping[str, Any]) -> dict[str, Any]:
    """A description of RoPE with transformers 5's name of its type."""
    kind = rope.get("rope_type") or rope.get("type") or "default"
    return {**{k: v for k, v in rope.items() if k != "type"}, "rope_type": kind}


def _one_rope(table: _Table, rope: Mapping[str, Any], *, reads: bool) -> Mapping[str, Any]:
    """RoPE by layer type as one for all, where all say the same and the class has but one."""
    kinds = [v for v in rope.values() if isinstance(v, dict)]
    if all(kind == kinds[0] for kind in kinds) and len(kinds) == len(rope):
        if reads:
            table.move("rope_parameters", kinds[0], "rope_parameters of its layer types, which are all alike")
        return kinds[0]
    if table.module not in ROPE_BY_KIND:
        table.refuse("rope_parameters", sorted(rope), "has one RoPE for all layers, which differ here")
    return rope


def _gather_rope(table: _Table, rope: Mapping[str, Any]) -> None:
    """The other way round: a class that reads `rope_parameters` alone, and an older config with the fields outside."""
    if isinstance(table.values.get("rope_parameters"), dict) and table.values["rope_parameters"].get("rope_theta"):
        return
    theta = table.values.get("rope_theta", THETAS.get(table.model_type, 10000.0))
    if "rope_theta" in table.fields and table.fields["rope_parameters"] is not MISSING and not rope:
        return  # it reads rope_theta outside too
    if table.module in _BY_LAYER:
        return
    scaling = {k: v for k, v in rope.items() if k != "type"}
    kind = rope.get("rope_type") or rope.get("type") or "default"
    table.move("rope_parameters", {"rope_theta": theta, **scaling, "rope_type": kind}, "rope_theta and rope_scaling")


def _settle_partial(table: _Table, rope: Mapping[str, Any], origin: str) -> None:
    """The part of each head that is rotated, where the class has no field for it."""
    part = rope.get("partial_rotary_factor", table.values.get("partial_rotary_factor"))
    if not isinstance(part, int | float) or isinstance(part, bool):
        return
    if "rope_parameters" in table.fields or (
        "partial_rotary_factor" in table.fields and table.module not in WHOLE_HEADS
    ):
        return
    if "rotary_dim" in table.fields:
        if table.get("rotary_dim") is None and _whole(table.get("head_dim")):
            table.move("rotary_dim", int(table.get("head_dim") * part), f"{origin}.partial_rotary_factor")
    elif part != 1.0:
        table.refuse("partial_rotary_factor", part, "rotates whole heads")


def _settle_scaling(table: _Table, rope: Mapping[str, Any], origin: str, *, reads: bool) -> None:
    kind = rope.get("rope_type") or rope.get("type")
    if kind in _PLAIN:
        return
    if table.module in PLAIN_ROPE and not reads_field(table.module, "rope_scaling"):
        table.refuse(f"{origin.removeprefix(table.prefix)}.rope_type", kind, "computes plain RoPE")
        return
    if kind not in ROPE_TYPES.get(table.module, (kind,)):
        computes = f"computes {ROPE_TYPES[table.module][0]} whatever it says"
        table.refuse(f"{origin.removeprefix(table.prefix)}.rope_type", kind, computes)
        return
    reads = reads and table.module not in PLAIN_ROPE  # exaone_moe takes but the theta from rope_parameters
    name = "rope_parameters" if reads else "rope_scaling"
    if name not in table.fields or not (reads or _anywhere(table.module, name)):
        others = _imported(table.module) if name in table.fields else ()
        if any(_rotates(module) for module in (table.module, *others)):
            table.refuse(f"{origin.removeprefix(table.prefix)}.rope_type", kind, "computes plain RoPE")
        return
    scaling = {k: v for k, v in rope.items() if k not in _NOT_SCALING or reads}
    length = table.values.get("max_position_embeddings")
    if kind in ("yarn", "llama3", "longrope") and _whole(length):
        scaling.setdefault("original_max_position_embeddings", length)
    if scaling != table.get(name):
        table.move(name, scaling, origin)
    if kind == "yarn":
        _check_yarn_factor(table, rope, origin)
    if kind == "yarn" and rope.get("truncate") is False:
        table.notes.append(
            f"config.json: {origin}.truncate = False is not read by mlx-lm {mlx_lm_version()}, which rounds YaRN's"
            " bounds to whole dimensions"
        )


def _check_yarn_factor(table: _Table, rope: Mapping[str, Any], origin: str) -> None:
    """Refuse a factor on queries and keys that mlx-lm, which computes it from the scaling's others, does not take."""
    given, scale = rope.get("attention_factor"), rope.get("factor")
    if not _number(given) or not _number(scale):
        return
    up, down = (rope.get(name, default) for name, default in (("mscale", 1), ("mscale_all_dim", 0)))
    if not _number(up) or not _number(down):
        return
    computed = 1.0 if scale <= 1 else (0.1 * up * math.log(scale) + 1) / (0.1 * down * math.log(scale) + 1)
    if not math.isclose(given, computed, rel_tol=1e-6):
        table.refuse(f"{origin.removeprefix(table.prefix)}.attention_factor", given, f"computes {computed:.6g}")


def _number(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e30


# --- what is derived, defaulted and not read ---


def _settle_derived(table: _Table) -> None:
    derive = DERIVED.get(table.module)
    if derive is None:
        return
    try:
        for name, (value, origin) in derive({**table.values, **table.changes}).items():
            if name in table.fields:
                table.move(name, value, f"{table.prefix}{origin}")
    except Inexpressible as error:
        table.refuse(error.field, error.value, error.computes)


def _settle_defaults(table: _Table, *, has_head: bool) -> None:
    for name, default in DEFAULTS.get(table.model_type, {}).items():
        if name not in table.fields or name in table.values or name in table.changes:
            continue
        if name == "tie_word_embeddings" and default is not True and not has_head:
            continue  # the shards have no head of their own
        table.move(name, default, "transformers' default")


def _check_computed(table: _Table) -> None:
    computed = dict(COMPUTED.get(table.module, {}))
    if table.module in SWIGLU:
        computed["hidden_act"] = ACTIVATIONS
    for name, values in computed.items():
        value, longest = table.values.get(name), table.values.get("max_position_embeddings")
        if name == "sliding_window" and _whole(value) and _whole(longest) and value >= longest:
            continue  # a window as long as any context is none
        if value not in values and not (name in table.fields and reads_field(table.module, name)):
            table.refuse(name, value, f"computes it as for {shown(values[0], 40)}")


def _note_uncounted(table: _Table, names: list[str]) -> None:
    """Warn of fields that make a checkpoint smaller than the class, where only its shards would tell."""
    for name, (word, computes) in UNCOUNTED.get(table.module, {}).items():
        value = table.values.get(name)
        if not names and isinstance(value, list) and word in value and not reads_field(table.module, name):
            table.notes.append(
                f"config.json: {table.prefix}{name} names {value.count(word)} layers as {word}, which mlx-lm"
                f" {mlx_lm_version()}'s {table.module} does not read: it {computes}"
            )


def _note_untied(table: _Table, config: Mapping[str, Any]) -> None:
    """Warn of a tie that the class does not read, and has a head of its own; shards without one are refused."""
    ties = table.values.get("tie_word_embeddings", config.get("tie_word_embeddings"))
    modules = {table.module, *_bases(table.module)}  # glm_moe_dsa takes its head from deepseek_v32
    if ties is not True or any(reads_field(module, "tie_word_embeddings") for module in modules):
        return
    if not any(reads_field(module, "lm_head") for module in modules):
        return
    table.notes.append(
        f"config.json: tie_word_embeddings = True is not read by mlx-lm {mlx_lm_version()}'s {table.module}, which"
        " always has a head of its own: where the checkpoint has none, parameters and bytes here are too high, and its"
        " shards will be refused"
    )


def _check_required(table: _Table) -> None:
    lacking = [
        f"{table.prefix}{name}"
        for name, default in table.fields.items()
        if default is MISSING and name not in table.values and name not in table.changes
    ]
    if lacking:
        table.problems.append(
            f"config.json: lacks {some(lacking, 6)}, which mlx-lm's {table.module} needs; take the config.json of the"
            " model's own repository"
        )


def _bases(module: str) -> list[str]:
    """The modules of mlx_lm.models whose class a module's Model is or extends."""
    classes = getattr(getattr(mlx_lm_module(module), "Model", None), "__mro__", ())
    head = "mlx_lm.models."
    return [c.__module__.removeprefix(head) for c in classes if c.__module__.startswith(head)]


def _anywhere(module: str, name: str) -> bool:
    """Whether a module, or one that it takes its layers from, reads an attribute of this name."""
    return reads_field(module, name) or any(reads_field(other, name) for other in _imported(module))


@cache
def _imported(module: str) -> tuple[str, ...]:
    """The modules of mlx_lm.models that a module takes something from."""
    nodes = [n for n in ast.walk(_code(module)) if isinstance(n, ast.ImportFrom) and n.level == 1 and n.module]
    return tuple(str(node.module) for node in nodes)


@cache
def _rotates(module: str) -> bool:
    """Whether a module makes rotary position embeddings of its own."""
    words = ("RoPE", "rope", "initialize_rope")
    nodes = list(ast.walk(_code(module)))
    return any(
        (isinstance(n, ast.Attribute) and n.attr in words) or (isinstance(n, ast.Name) and n.id in words) for n in nodes
    )


@cache
def _code(module: str) -> ast.Module:
    file = getattr(sys.modules.get(f"mlx_lm.models.{module}") or mlx_lm_module(module), "__file__", None)
    return ast.parse(Path(file).read_text(encoding="utf-8")) if file else ast.Module([], [])


@cache
def reads_field(module: str, name: str) -> bool:
    """Whether the code of a module of mlx_lm.models reads an attribute of this name."""
    tree = _code(module)
    # a dataclass of arguments may check a field that no layer reads
    bodies = [n for n in tree.body if not (isinstance(n, ast.ClassDef) and n.decorator_list)]
    nodes = (node for body in bodies for node in ast.walk(body))
    return any(isinstance(n, ast.Attribute) and n.attr == name and isinstance(n.ctx, ast.Load) for n in nodes)
