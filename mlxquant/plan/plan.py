"""Recipe × model → one decision for every tensor, its bytes, and the totals. No weight is read.

The plan fixes the name, dtype and shape of every array in the build (`Plan.arrays`), so the build's size is
known to the byte beforehand: bytes of a quantized matrix are ``rows * cols * bits / 8`` packed, and for affine
``2 * itemsize`` for each group. One worked number: (248320, 3072) at 8 bits, group 128, bf16 scales takes
762,839,040 + 248320 * 24 * 4 = 786,677,760 bytes, 8.25 bits per weight.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ..layout.carried import MTP, MTP_FILE, VISION, kind_of
from ..layout.kept import view_name
from ..layout.layout import Layout
from ..layout.mlx_lm import mlx_lm_version
from ..layout.provider import stated_in_record
from ..records.head import head
from ..source.checkpoint import Checkpoint
from ..source.headers import shown
from ..source.packed import quantization_of, quantizes_weights
from ..words.formats import RTN, Format, nbytes
from ..words.modules import CARRIED, Module, is_raw_router
from .decide import Decision, decide, unquantizable
from .recipe.recipe import Recipe

SCHEMA = "mlxquant.plan/1"


@dataclass(frozen=True, slots=True)
class OutputArray:
    """One array of the build.

    `source` names the view that fills it (the parts of one quantized weight share one), `values` is the dtype
    that its values are cast to before they are stored or quantized. `part` is "dense", or "weight", "scales",
    "biases" where convert quantizes in `format`.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    source: str
    values: str
    part: str = "dense"
    format: Format | None = None
    method: str = RTN

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return nbytes(self.dtype, self.shape)


@dataclass(frozen=True, slots=True)
class PlannedModule:
    """A module and what becomes of it. `share` is the part of it that one decoded token reads, as (k, n)."""

    module: Module
    decision: Decision
    share: tuple[int, int]

    @property
    def format(self) -> Format | None:
        """How its weight is quantized, or None."""
        return self.decision.format

    def arrays(self) -> Iterator[OutputArray]:
        """Its arrays in the order in which mlx-lm writes them."""
        module, fmt = self.module, self.format
        for array in module.arrays:
            name = f"{module.path}.{array.name}" if array.name else module.path
            if fmt is None or array.name != "weight":
                yield OutputArray(name, array.dtype, array.shape, name, array.dtype)
                continue
            for part, (dtype, shape) in fmt.tensors(array.shape, array.dtype).items():
                stored = f"{module.path}.{part}"
                if self.decision.kept:
                    yield OutputArray(stored, dtype, shape, view_name(module.path, part), dtype)
                elif module.prequantized:
                    yield OutputArray(stored, dtype, shape, stored, dtype)
                else:
                    yield OutputArray(stored, dtype, shape, name, array.dtype, part, fmt, self.decision.method)

    @property
    def nbytes(self) -> int:
        """Bytes in the build."""
        return sum(a.nbytes for a in self.arrays())

    @property
    def source_nbytes(self) -> int:
        """Bytes of the same values in the source's dtypes."""
        if self.module.prequantized and self.module.weight.stored_nbytes is None:
            return self.nbytes
        return sum(a.source_nbytes for a in self.module.arrays)

    def active(self, amount: int) -> int:
        """The part of an amount of it that one token uses."""
        k, n = self.share
        return amount * k // n

    def as_dict(self) -> dict[str, Any]:
        """The module's entry in a plan record."""
        m, total = self.module, self.nbytes
        return {
            **m.facts(),
            "source_dtype": m.weight.source_dtype,
            "format": self.format.as_dict() if self.format else None,
            **({"method": self.decision.method} if self.decision.method != RTN else {}),
            "dtype": m.weight.dtype,
            "bytes": total,
            "bpw": 8 * total / m.parameters,
            "protected": self.decision.protected,
            "rule": self.decision.rule,
            "reason": self.decision.reason,
            **({"unaligned": self.decision.unaligned} if self.decision.unaligned else {}),
            **({"preferred_group_size": self.decision.preferred} if self.decision.preferred else {}),
            **({"as_in_source": True} if self.decision.kept else {}),
        }


@dataclass(frozen=True)
class Plan:
    """Everything that a build will be, decided and counted."""

    source: dict[str, Any]
    recipe: Recipe
    modules: tuple[PlannedModule, ...]
    dropped: dict[str, Any]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]
    carried_apart: tuple[PlannedModule, ...] = ()

    def arrays(self) -> Iterator[OutputArray]:
        """Every array of the build's shards, in mlx-lm's order."""
        for m in self.modules:
            yield from m.arrays()

    def carried_arrays(self) -> Iterator[OutputArray]:
        """Every array of `mtp.safetensors`; none unless a next-token head is carried along."""
        for m in self.carried_apart:
            yield from m.arrays()

    @property
    def carried(self) -> tuple[str, ...]:
        """The parts that are carried along of what mlx-lm drops: "vision", "mtp"."""
        sees = any(m.module.role == VISION and m.module.kind == CARRIED for m in self.modules)
        return (*((VISION,) if sees else ()), *((MTP,) if self.carried_apart else ()))

    @property
    def quantized(self) -> tuple[PlannedModule, ...]:
        """The modules that get a format."""
        return tuple(m for m in self.modules if m.format)

    @property
    def protected(self) -> tuple[PlannedModule, ...]:
        """The modules that mlx could quantize and a rule keeps."""
        return tuple(m for m in self.modules if m.decision.protected)

    @property
    def experts(self) -> dict[str, int] | None:
        """How many experts one token uses, of how many; None where layers differ or there are none."""
        shares = {m.share for m in self.modules if m.module.role == "expert"}
        return dict(zip(("per_token", "count"), *shares, strict=True)) if len(shares) == 1 else None

    @cached_property
    def totals(self) -> dict[str, Any]:
        """Sums over the modules. Bytes are of tensors; headers of the files are not counted."""
        parameters = sum(m.module.parameters for m in self.modules)
        total = sum(m.nbytes for m in self.modules)
        return {
            "parameters": parameters,
            "bytes": total,
            "bpw": 8 * total / parameters,
            "source_bytes": sum(m.source_nbytes for m in self.modules),
            "active_parameters": sum(m.active(m.module.parameters) for m in self.modules),
            "active_bytes_per_token": sum(m.active(m.nbytes) for m in self.modules),
        }

    def as_dict(self) -> dict[str, Any]:
        """The plan record: versioned JSON."""
        raw = sum(is_raw_router(m.module) for m in self.modules)
        return {
            **head(SCHEMA),
            "mlx_lm": None if "provider" in self.source else mlx_lm_version(),
            "source": self.source,
            "recipe": {**recipe_record(self.recipe), "summary": self.recipe.summary},
            "totals": self.totals,
            "experts": self.experts,
            "protected": {
                "modules": len(self.protected),
                "by_role": dict(Counter(m.module.role for m in self.protected)),
                **({"raw_routers": raw} if raw else {}),
            },
            "beside": self.carried_files(),
            "dropped": self.dropped,
            "notes": list(self.notes),
            "warnings": list(self.warnings),
            "modules": [m.as_dict() for m in self.modules],
        }

    def carried_files(self) -> dict[str, Any]:
        """Files of carried tensors beside the model's shards, which `totals` does not count."""
        sizes = [a.nbytes for a in self.carried_arrays()]
        return {MTP_FILE: {"tensors": len(sizes), "bytes": sum(sizes)}} if sizes else {}


def make_plan(layout: Layout, recipe: Recipe, source: Checkpoint) -> Plan:
    """Decide on every module of a model. Raises PlanError or RecipeError with all problems at once."""
    decisions = decide(recipe, layout.modules, n_layers=layout.n_layers)
    shares = shares_of(layout)
    planned = tuple(PlannedModule(m, decisions.by_path[m.path], shares[m.path]) for m in layout.modules)
    return Plan(
        source=source_record(layout, source),
        recipe=recipe,
        modules=planned,
        dropped=_dropped(layout, source),
        notes=(*source.notes, *layout.notes, *_source_notes(source, layout), *decisions.notes),
        warnings=tuple(decisions.warnings),
        carried_apart=tuple(
            PlannedModule(m, Decision(None, False, unquantizable(m)), (0, 1)) for m in layout.carried_apart
        ),
    )


def recipe_record(recipe: Recipe) -> dict[str, Any]:
    """What a record says of its recipe."""
    return {"name": recipe.name, "sha256": recipe.sha256, "overrides": list(recipe.overrides)}


def source_record(layout: Layout, source: Checkpoint) -> dict[str, Any]:
    """What a record says of its source."""
    return {
        "name": source.name,
        "revision": source.revision,
        "kind": "checkpoint" if source.tensors else "config",
        "model_type": layout.model_type,
        "layers": layout.n_layers,
        "dtype": layout.dtype,
        "tensor_bytes": source.nbytes if source.tensors else None,
        **stated_in_record(layout.provider),
    }


def _source_notes(source: Checkpoint, layout: Layout) -> list[str]:
    """Say where a config alone does not tell the source's size."""
    settings = quantization_of(source.config)
    known = any(m.prequantized or a.stored_nbytes is not None for m in layout.modules for a in m.arrays)
    if source.tensors or not quantizes_weights(source.config) or known:
        return []
    method = str(settings.get("quant_method"))
    stored = "FP8" if method in ("fp8", "fbgemm_fp8") else f"quantized ({shown(method)})"
    return [
        f"config.json says the source is {stored}; its bytes are counted at 16 bits here, the shards' headers would say"
    ]


def shares_of(layout: Layout) -> dict[str, tuple[int, int]]:
    """Which part of each module one decoded token reads, by path, as (k, n): k of n experts, one row of an embedding.

    An embedding without an lm_head is the head too, and is read whole.
    """
    tied = not any(m.role == "lm_head" for m in layout.modules)
    return {m.path: _share_of(m, layout, tied=tied) for m in layout.modules}


def _share_of(module: Module, layout: Layout, *, tied: bool) -> tuple[int, int]:
    if module.role == "expert":
        return layout.expert_shares[module.path]
    if module.role == "embedding" and not tied:
        return 1, module.shape[0]
    return (0, 1) if module.role in ("vision", "mtp") else (1, 1)


def _dropped(layout: Layout, source: Checkpoint) -> dict[str, Any]:
    """Source tensors that the build has no place for, by what they are."""
    kinds: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for name in layout.dropped:
        kind = kind_of(name, layout.n_layers)
        kinds[kind] += 1
        sizes[kind] += source.tensors[name].nbytes
    return {
        "tensors": len(layout.dropped),
        "bytes": sum(sizes.values()),
        "by_kind": {k: {"tensors": n, "bytes": sizes[k]} for k, n in kinds.items()},
    }
