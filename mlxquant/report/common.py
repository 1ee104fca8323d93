"""What texts of several records say alike: a source, a recipe, a machine, a layer type, an error, modules that stay
unaligned or take smaller groups.

Each in a line or less, from the part of a record that holds it. How tables and figures are laid out: `words.text`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..words.text import counted, cut, percent_digits

# What changes a recipe, and what stands for it in a narrow column
_LETTERS = (
    ("bits=", "b"), (",group_size=", "g"), ("group_size=", "g"), ("mode=", ""), ("method=", ""), ("unaligned=", ""),
)  # fmt: skip
# Columns that a recipe's own name keeps, at least, beside what changes it
_BASE = 4
# Modules, and experts of one, that a line names
_NAMED = 8
_MACHINE = ("chip", "gpu", "device", "cores", "memory_bytes", "os", "power_mode")


def short_layer(layer_type: str | None) -> str:
    """Shorten a layer type to a column's width. ``short_layer("full_attention") == "full"``."""
    return (layer_type or "-").removesuffix("_attention")


def source_text(source: Mapping[str, Any]) -> str:
    """Say in a line what a record's source is."""
    at = f" at {source['revision'][:12]}" if source["revision"] else ""
    read = "config alone" if source["kind"] == "config" else "headers of its shards"
    by = f", as {library} has it" if (library := provider_text(source)) else ""
    return f"{source['name']}{at} ({source['model_type']}{by}, {source['layers']} layers; read from the {read})"


def provider_text(source: Mapping[str, Any]) -> str:
    """The library whose model class a source was laid out with, by name and version; nothing for mlx-lm."""
    provider = source.get("provider")
    return f"{provider.get('name')} {provider.get('version')}" if isinstance(provider, Mapping) else ""


def recipe_text(recipe: Mapping[str, Any]) -> str:
    """Name a record's recipe with what changed it. ``"gates-8bit --group-size 32"``."""
    overrides = recipe.get("overrides")
    return " ".join(str(word) for word in (recipe.get("name"), *(overrides if isinstance(overrides, list) else ())))


def machine_text(machine: Any) -> str | None:
    """A machine in a line, as far as the record describes it."""
    if not isinstance(machine, Mapping):
        return None
    parts = []
    for key in _MACHINE:
        value = machine.get(key)
        if key == "memory_bytes" and isinstance(value, int):
            parts.append(f"{value / 2**30:.0f} GiB")
        elif key == "cores" and value is not None:
            parts.append(f"{value} cores")
        elif isinstance(value, str):
            parts.append(value)
    return ", ".join(parts) or None


def short_name(name: str, width: int) -> str:
    """A candidate's name in so many columns: changes by a letter each where it is too long, then cut in the middle.

    Where that would cut into the changes, by which variations of a recipe are told apart, the recipe's name is cut.

    >>> short_name("gates-8bit:bits=4,group_size=64", 17)
    'gates-8bit:b4g64'
    >>> short_name("gates-8bit:bits=4,group_size=64,method=gptq", 18)
    'gat…bit:b4g64,gptq'
    """
    for word, letter in _LETTERS:
        name = name.replace(word, letter) if len(name) > width else name
    short = cut(name, width)
    base, colon, changes = name.partition(":")
    if colon and not short.endswith(f":{changes}") and (room := width - len(changes) - 1) >= _BASE:
        return f"{cut(base, room)}:{changes}"
    return short


def unaligned_text(roles: Iterable[str]) -> str:
    """How many modules of which roles stay as they are for their width; nothing where there are none."""
    by_role = Counter(roles)
    if not by_role:
        return ""
    counts = ", ".join(f"{n:,} {role}" for role, n in by_role.items())
    noun, them = ("modules", "them") if by_role.total() > 1 else ("module", "it")
    return f"{counts} {noun} left unquantized: the group size does not divide {them}"


def smaller_groups_text(modules: Iterable[Mapping[str, Any]]) -> str:
    """Which modules took a smaller group size than the recipe prefers; nothing where none did."""
    cases: dict[tuple[int, int], Counter[str]] = {}
    for m in modules:
        if (preferred := m.get("preferred_group_size")) and m["format"]:
            cases.setdefault((preferred, m["format"]["group_size"]), Counter())[m["role"]] += 1
    return "; ".join(
        f"{taken} in place of {preferred}, which does not divide their input, in {counted(roles.total(), 'module')}: "
        + ", ".join(f"{n:,} {role}" for role, n in roles.items())
        for (preferred, taken), roles in cases.items()
    )


def methods_text(modules: Iterable[Mapping[str, Any]]) -> str:
    """How many modules of which roles are encoded otherwise than rounded; nothing where there are none."""
    by_method: dict[str, Counter[str]] = {}
    for m in modules:
        if m.get("method"):
            by_method.setdefault(str(m["method"]), Counter())[m["role"]] += 1
    return "; ".join(
        f"{method} in {counted(roles.total(), 'module')}: " + ", ".join(f"{n:,} {role}" for role, n in roles.items())
        for method, roles in by_method.items()
    )


def inputs_text(modules: Iterable[Mapping[str, Any]]) -> str:
    """On how many inputs modules were fitted, and which experts none reached; nothing where none was."""
    fitted = [(m["path"], m["inputs"]) for m in modules if m.get("inputs")]
    if not fitted:
        return ""
    fewest, most = min(i["fewest"] for _, i in fitted), max(i["most"] for _, i in fitted)
    text = f"{counted(len(fitted), 'module')} fitted to {fewest:,} to {most:,} rows of inputs a matrix"
    unreached = [(path, i["unreached"]) for path, i in fitted if i["unreached"]]
    named = [f"{path} {_numbers(experts)}" for path, experts in unreached[:_NAMED]]
    if len(unreached) > _NAMED:
        named.append(f"{counted(len(unreached) - _NAMED, 'more module')} in audit.json")
    return f"{text}; experts that none reached: {'; '.join(named)}" if named else text


def _numbers(experts: Sequence[int]) -> str:
    more = [f"and {len(experts) - _NAMED:,} more"] if len(experts) > _NAMED else []
    return ", ".join([*map(str, experts[:_NAMED]), *more])


def error_text(relative: float | None) -> str:
    """A relative error in per cent, three digits. ``error_text(0.00512) == "0.512 %"``; a plain 0 where it is exact."""
    return "0" if relative == 0 else percent_digits(relative)
