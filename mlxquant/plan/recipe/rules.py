"""Rules: what they match and what they ask for.

A rule is data. It names modules by role, layer type, layers and path (all that are given must hold; none given
matches every module) and asks for one thing: to keep them at source precision, to quantize them in a format, or
to take the answer of someone else (`use`).

How rules are written is `rule_syntax`'s; which rule wins for a module, and whether the model allows it, `decide`'s.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import translate
from typing import Any

from ...words.formats import MODE_DEFAULTS, Format
from ...words.layers import Span, select_layers
from ...words.modules import Module

# a layer with attention and a linear mixer side by side counts as either, and by its own name
HYBRID = "hybrid"
HYBRID_PARTS = ("full_attention", "linear_attention")

SET_ORIGIN = "--set"


@dataclass(frozen=True, slots=True)
class Match:
    """What a rule applies to. An empty field does not narrow; a field with several values means any of them."""

    role: tuple[str, ...] = ()
    layer_type: tuple[str, ...] = ()
    layers: tuple[Span, ...] = ()
    path: tuple[str, ...] = ()

    def hits(self, modules: Sequence[Module], n_layers: int) -> list[Module]:
        """The modules that match, in their order."""
        layers = select_layers(self.layers, n_layers)
        types = {*self.layer_type, *((HYBRID,) if set(HYBRID_PARTS) & set(self.layer_type) else ())}
        pattern = glob_pattern(self.path)
        return [
            m
            for m in modules
            if (not self.role or m.role in self.role)
            and (not self.layer_type or m.layer_type in types)
            and (not self.layers or m.layer in layers)
            and (not self.path or pattern.match(m.path))
        ]

    @property
    def names(self) -> bool:
        """Whether it singles modules out by role or path, rather than sweeping over whatever is there."""
        return bool(self.role) or any(set(pattern) - set("*?") for pattern in self.path)

    def covers(self, other: Match) -> bool:
        """Whether everything that `other` can match in any model, this matches too; False where unsure."""
        pairs = (
            (self.role, other.role),
            (self.layer_type, other.layer_type),
            (self.layers, other.layers),
            (self.path, other.path),
        )
        return all(not mine or (theirs and set(theirs) <= set(mine)) for mine, theirs in pairs)

    def as_dict(self) -> dict[str, Any]:
        """The TOML form: a value alone where there is one, else a list."""
        layers: tuple[int | str, ...] = tuple(
            int(s.text) if s.text.lstrip("-").isdigit() else s.text for s in self.layers
        )
        lists = {"role": self.role, "layer_type": self.layer_type, "layers": layers, "path": self.path}
        return {key: v[0] if len(v) == 1 else list(v) for key, v in lists.items() if v}

    def __str__(self) -> str:
        words = []
        for key, value in self.as_dict().items():
            values = value if isinstance(value, list) else [value]
            words.append(f"{key} {' or '.join(str(v) for v in values)}")
        return ", ".join(words) or "every module"


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: `match`, then exactly one of `keep`, a format (what is None comes from [quantize]), or `use`.

    `use` is "model" (what the model class's own quant_predicate answers) or "default" (what [quantize] says,
    to except modules from a later rule or to say that the default is meant). `optional` allows the rule to
    find nothing that it can act on. `origin` is the recipe that holds it, or "--set"; `index` counts from 1.
    """

    match: Match
    reason: str
    keep: bool = False
    bits: int | None = None
    group_size: int | None = None
    mode: str | None = None
    use: str | None = None
    optional: bool = False
    origin: str = ""
    index: int = 1

    @property
    def label(self) -> str:
        """How messages and audits name it: ``gates-8bit#1``."""
        return f"{self.origin}#{self.index}"

    def format(self, default: Format | None) -> Format:
        """The format it asks for where it gives bits, group size or mode."""
        return merged(default, self.bits, self.group_size, self.mode)

    def action(self) -> dict[str, Any]:
        """What it asks for, in the TOML form."""
        if self.keep:
            return {"keep": True}
        asked = {"bits": self.bits, "group_size": self.group_size, "mode": self.mode, "use": self.use}
        return {key: value for key, value in asked.items() if value is not None}

    def as_dict(self) -> dict[str, Any]:
        """The rule in full; `parse_rule` reads it back."""
        optional = {"optional": True} if self.optional else {}
        match = {"match": self.match.as_dict(), **self.action(), **optional, "reason": self.reason}
        return {**match, "origin": self.origin, "index": self.index}


def merged(base: Format | None, bits: int | None, group_size: int | None, mode: str | None) -> Format:
    """Lay what is given over `base`. A change of mode takes the mode's own bits and group size, as in mlx.

    ``merged(Format(8, 128), None, None, "mxfp4") == Format(4, 32, "mxfp4")``
    """
    mode = mode or (base.mode if base else "affine")
    if base is None or base.mode != mode:
        default_group, default_bits = MODE_DEFAULTS[mode]
        base = Format(default_bits, default_group, mode)
    return Format(bits or base.bits, group_size or base.group_size, mode)


def glob_pattern(globs: Iterable[str]) -> re.Pattern[str]:
    """One pattern that matches a whole path against any of the globs; `*` crosses dots, case counts."""
    return re.compile("|".join(translate(glob) for glob in globs))
