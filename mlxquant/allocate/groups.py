"""What is decided together, in which formats, and what each costs in bytes.

A group is one or several modules that get the same format: those of one role and one name (`self_attn.q_proj`, the
experts' `down_proj`) in a block of neighbouring layers. All experts of a projection in a layer are one module. On a
small model every module is a group of its own; on a large one the layers are cut into as many blocks as the number of
groups allows, since every group is measured, and the blocks that do most damage are cut again later (see `rounds`).

Bytes are the plan's own, to the byte: what a module takes in a format depends on nothing but the two.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, product

from ..plan.plan import PlannedModule
from ..words.formats import RTN, Format
from ..words.layers import layers_short

BITS = (2, 3, 4, 5, 6, 8)
GROUP_SIZES = (32, 64, 128)
GROUPS = 64  # as many as are measured unless someone asks for more
KEPT_ROLES = ("router", "shared_expert_gate")  # a small error there flips which expert fires


@dataclass(frozen=True, slots=True)
class FormatChoice:
    """A format for a group (None: as it is), with the bytes of its modules and those that one decoded token reads."""

    format: Format | None
    nbytes: int
    active: int

    def __str__(self) -> str:
        return str(self.format) if self.format else "kept"


@dataclass(frozen=True, slots=True)
class ModuleGroup:
    """Modules that are decided together. `layers` is empty outside the layers; `choices` the least bytes first."""

    role: str
    name: str
    layers: tuple[int, ...]
    modules: tuple[PlannedModule, ...]
    choices: tuple[FormatChoice, ...]

    @property
    def label(self) -> str:
        """How texts name it: ``expert down_proj, layers 3-11``."""
        where = f", layer{'s' * (len(self.layers) > 1)} {layers_short(self.layers)}" if self.layers else ""
        return f"{self.role} {self.name}{where}"

    @property
    def glob(self) -> str:
        """How a rule names its modules beside their role: ``*.self_attn.q_proj``, ``*lm_head``."""
        return f"*.{self.name}" if self.layers else f"*{self.name}"

    @property
    def paths(self) -> tuple[str, ...]:
        """Paths of its modules."""
        return tuple(planned.module.path for planned in self.modules)

    def choice(self, fmt: Format | None) -> FormatChoice:
        """The choice of a format. Raises KeyError where the group has none such."""
        for choice in self.choices:
            if choice.format == fmt:
                return choice
        raise KeyError(f"{self.label}: {fmt}")


def groups_of(
    planned: Iterable[PlannedModule],
    *,
    limit: int = GROUPS,
    bits: Sequence[int] = BITS,
    group_sizes: Sequence[int] = GROUP_SIZES,
    routers: bool = False,
) -> list[ModuleGroup]:
    """The groups of a model's plan, at most about `limit`, in the order of their first module.

    Left out is what has no choice: modules that mlx cannot quantize or that the source stores quantized, towers,
    inputs that no group size divides, and routers with their kin unless `routers`.
    """
    free = [p for p in planned if _is_free(p, group_sizes, routers=routers)]
    kinds: dict[tuple[str, str, tuple[int, ...]], list[PlannedModule]] = {}
    for p in free:  # layers may differ in width: what has no group size in common is not decided together
        sizes = tuple(size for size in group_sizes if p.module.shape[-1] % size == 0)
        kinds.setdefault((p.module.role, _name(p), sizes), []).append(p)
    blocks = _blocks(kinds.values(), limit)
    groups = []
    for (role, name, _), members in kinds.items():
        layers = sorted({p.module.layer for p in members if p.module.layer is not None})
        for block in _cut(layers, blocks) if layers else [()]:
            own = tuple(p for p in members if not layers or p.module.layer in block)
            groups.append(ModuleGroup(role, name, tuple(block), own, _choices(own, bits, group_sizes)))
    order = {p.module.path: i for i, p in enumerate(free)}
    return sorted(groups, key=lambda group: order[group.paths[0]])


def halves(group: ModuleGroup) -> list[ModuleGroup]:
    """A group of several layers as two, of the first half of them and of the second, with the same formats."""
    parts = []
    for layers in _cut(group.layers, 2):
        own = tuple(p for p in group.modules if p.module.layer in layers)
        choices = tuple(_choice(own, choice.format) for choice in group.choices)
        parts.append(replace(group, layers=tuple(layers), modules=own, choices=choices))
    return parts


def _is_free(planned: PlannedModule, group_sizes: Sequence[int], *, routers: bool) -> bool:
    module = planned.module
    return (
        module.quantizable
        and not module.prequantized
        and not module.tower
        and (routers or module.role not in KEPT_ROLES)
        and any(module.shape[-1] % size == 0 for size in group_sizes)
    )


def _name(planned: PlannedModule) -> str:
    """A module's name within its layer, or its whole path outside: ``self_attn.q_proj``, ``lm_head``."""
    module = planned.module
    if module.layer is None:
        return module.path.rpartition(".")[2]
    parts = module.path.split(".")
    return ".".join(parts[parts.index(str(module.layer)) + 1 :]) if str(module.layer) in parts else parts[-1]


def _blocks(kinds: Iterable[Sequence[PlannedModule]], limit: int) -> int:
    """The most blocks of layers that keep the number of groups within the limit; at least one."""
    depths = [len({p.module.layer for p in members if p.module.layer is not None}) or 1 for members in kinds]
    blocks = 1
    while blocks < max(depths, default=1) and sum(min(depth, blocks + 1) for depth in depths) <= limit:
        blocks += 1
    return blocks


def _cut(layers: Sequence[int], blocks: int) -> list[Sequence[int]]:
    """Cut layers into blocks of neighbours of about one length."""
    n = min(len(layers), blocks)
    ends = [round(i * len(layers) / n) for i in range(n + 1)]
    return [layers[a:b] for a, b in pairwise(ends)]


def _choices(
    modules: Sequence[PlannedModule], bits: Sequence[int], group_sizes: Sequence[int]
) -> tuple[FormatChoice, ...]:
    widths = {p.module.shape[-1] for p in modules}
    formats = [Format(b, size) for b, size in product(bits, group_sizes) if all(width % size == 0 for width in widths)]
    choices = [_choice(modules, fmt) for fmt in (*formats, None)]
    return tuple(sorted(choices, key=lambda choice: (choice.nbytes, -(choice.format.bits if choice.format else 32))))


def _choice(modules: Sequence[PlannedModule], fmt: Format | None) -> FormatChoice:
    decided = [
        replace(p, decision=replace(p.decision, format=fmt, kept=False, protected=fmt is None, method=RTN))
        for p in modules
    ]
    return FormatChoice(fmt, sum(p.nbytes for p in decided), sum(p.active(p.nbytes) for p in decided))
