"""What records say of a build or a plan as a whole: identity, size, and what one token costs in it.

`describe_build` gives hashes, recipe and size, `active_bytes` what a decoded token reads, `Traffic` that and the
arithmetic of a prompt by format. Counted from modules, shapes and the config; no weight is read, and no speed is
predicted here: that is for `bench.predict`, which knows chips.

A decoded token reads k of n experts, one row of an embedding that is not the output head too, and all else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from ..disk.files import read_regular
from ..errors import LayoutError
from ..layout.context import ContextCost, context_cost
from ..layout.provider import Provider, provider_stated
from ..plan.plan import Plan, shares_of
from ..records.candidates import identity_entry
from ..source.checkpoint import Checkpoint
from ..words.modules import UNREAD, Module, stored_as
from .manifest import MANIFEST
from .read.build import Build, bare_config, bare_layout
from .write.hashing import sha256

_NO_MATMUL = ("embedding", "norm", "vision", "mtp")


def describe_build(build: Build) -> dict[str, Any]:
    """Say what a build is. `format` is that of most of its bytes; the manifest's hash is None for other tools'."""
    sizes: Counter[str] = Counter()
    for stored in build.stored.values():
        sizes[stored_as(stored.format, stored.dtype)] += stored.nbytes
    total = sum(sizes.values())
    parameters = sum(m.parameters for m in build.modules)
    return {
        "kind": "build",
        **identity_of(build),
        "model_type": build.config.get("model_type"),
        "format": sizes.most_common(1)[0][0],
        "parameters": parameters,
        "bytes": total,
        "bpw": round(8 * total / parameters, 6),
    }


def identity_of(build: Build) -> dict[str, Any]:
    """What tells a build from others, as records have it: hashes, recipe, source."""
    own, config = (_sha256_of(build.folder / name) for name in (MANIFEST, "config.json"))
    return identity_entry(build.manifest, own, config)


def _sha256_of(path: Path) -> str | None:
    return sha256(read_regular(path)) if path.is_file() else None


def active_bytes(build: Build) -> int | None:
    """Bytes that one decoded token reads of a build, counted as a plan counts them.

    None where mlx-lm has no class for the model, so that nothing says how many experts a token uses.
    """
    if not build.known:
        return None
    shares = shares_of(bare_layout(build))
    # what the class has no place for is left aside when mlx-lm loads the build
    parts = ((stored.nbytes, *shares.get(path, (0, 1))) for path, stored in build.stored.items())
    return sum(nbytes * k // n for nbytes, k, n in parts)


# --- traffic ---


@dataclass(frozen=True)
class Traffic:
    """What one token costs in a build.

    `matmul` maps each format to the parameters that a prompt's token is multiplied with, `head` to those of the
    output head, which only the last token of a prompt needs. `experts` are the bytes of all experts, by how many of
    how many a token chooses: (bytes, k, n).
    """

    name: str
    model_type: str
    parameters: int
    total_bytes: int
    active_bytes: int
    matmul: Mapping[str, int]
    head: Mapping[str, int]
    cache: ContextCost | None
    cache_note: str | None = None
    dense_layers: int = 0
    moe_layers: int = 0
    experts: tuple[tuple[int, int, int], ...] = ()

    @property
    def format(self) -> str:
        """The format of most matrices that a token is multiplied with."""
        return next(iter(self.matmul), "")

    def weights_for(self, tokens: int) -> float:
        """Bytes of weights that so many tokens read in one pass, an expert once however many tokens choose it.

        Of n experts, k a token, t tokens choose ``n · (1 - (1 - k / n) ** t)`` on average where all are chosen alike:
        8 of 256 for one token, 69.7 for ten, all for a few hundred.
        """
        read = self.active_bytes - sum(nbytes * k // n for nbytes, k, n in self.experts)
        return read + sum(nbytes * (1 - (1 - k / n) ** tokens) for nbytes, k, n in self.experts)

    def cache_bytes(self, depth: int) -> int | None:
        """Bytes of the cache that decoding at this depth reads, for one sequence; None where it is unknown."""
        if self.cache is None:
            return None
        return sum(
            c.fixed + c.per_token * (depth if c.limit is None else min(depth, c.limit)) for c in self.cache.caches
        )

    def bytes_at(self, depth: int, batch: int = 1) -> float:
        """Bytes read for one token of one sequence."""
        return self.active_bytes / batch + (self.cache_bytes(depth) or 0)

    @property
    def flops_per_token(self) -> int:
        """Floating point operations in matrices, for one token of a prompt."""
        return 2 * sum(self.matmul.values())

    def as_dict(self, depths: Sequence[int]) -> dict[str, Any]:
        """The build's entry in a prediction, and in a measurement beside its figures."""
        return {
            "model_type": self.model_type,
            "parameters": self.parameters,
            "bytes": self.total_bytes,
            "active_bytes_per_token": self.active_bytes,
            "layers": {"dense": self.dense_layers, "moe": self.moe_layers},
            "cache_bytes": {str(d): self.cache_bytes(d) for d in depths},
            "cache_method": self.cache.method if self.cache else None,
            "cache_note": self.cache_note,
            "prefill_flops_per_token": {fmt: 2 * n for fmt, n in self.matmul.items()},
            "prefill_flops_per_prompt": {fmt: 2 * n for fmt, n in self.head.items()},
        }


def traffic_of_plan(
    plan: Plan, source: Checkpoint | None, name: str | None = None, *, cost: ContextCost | None = None
) -> Traffic:
    """Count a plan; what a context costs is `cost`, or found from its source's config."""
    uses = [_Use(m.module, stored_as(m.format, m.module.weight.dtype), m.nbytes, m.share) for m in plan.modules]
    context = (cost, cost.note if cost else None)
    if cost is None and source is not None:
        context = _cost(source.config, uses, provider_stated(plan.source))
    return _traffic(name or plan.recipe.name, str(plan.source["model_type"]), uses, *context)


def traffic_of_build(build: Build) -> Traffic:
    """Count a build's bytes on disk. Raises LayoutError where mlx-lm has no class for the model."""
    if not build.known:
        raise LayoutError(
            f"{build.name}: mlx-lm has no class for {build.config.get('model_type')!r}, so it cannot run the build"
        )
    layout = bare_layout(build)
    shares = shares_of(layout)
    uses = [
        _Use(s.module, stored_as(s.format, s.dtype), s.nbytes, shares.get(s.module.path, (0, 1)))
        for s in build.stored.values()
        if s.module.kind not in ("stored", UNREAD)
    ]
    return _traffic(build.name, layout.model_type, uses, *_cost(bare_config(build), uses, layout.provider))


@dataclass(frozen=True, slots=True)
class _Use:
    """A module as a build has it, and the share of it (k, n) that a token uses."""

    module: Module
    format: str
    nbytes: int
    share: tuple[int, int]

    def active(self, amount: int) -> int:
        return amount * self.share[0] // self.share[1]


def _cost(config: Mapping[str, Any], uses: Sequence[_Use], provider: Provider) -> tuple[ContextCost | None, str | None]:
    """What a context costs, with a remark; None where nobody tells, and why."""
    try:
        cost = context_cost(config, [u.module for u in uses], provider)
    except LayoutError as error:
        return None, str(error)
    return cost, cost.note


def _traffic(name: str, model_type: str, uses: Sequence[_Use], cache: ContextCost | None, note: str | None) -> Traffic:
    tied = not any(u.module.role == "lm_head" for u in uses)
    heads = ("embedding",) if tied else ("lm_head",)
    layers = {u.module.layer for u in uses if u.module.layer is not None}
    routed = {u.module.layer for u in uses if u.module.role == "expert" and u.module.layer is not None}
    experts: Counter[tuple[int, int]] = Counter()
    for use in uses:
        if use.module.role == "expert":
            experts[use.share] += use.nbytes
    return Traffic(
        name=name,
        model_type=model_type,
        parameters=sum(u.module.parameters for u in uses),
        total_bytes=sum(u.nbytes for u in uses),
        active_bytes=sum(u.active(u.nbytes) for u in uses),
        matmul=_by_format(u for u in uses if u.module.role not in (*_NO_MATMUL, *heads)),
        head=_by_format(u for u in uses if u.module.role in heads),
        cache=cache,
        cache_note=note,
        dense_layers=len(layers - routed),
        moe_layers=len(routed),
        experts=tuple((nbytes, k, n) for (k, n), nbytes in experts.items()),
    )


def _by_format(uses: Iterable[_Use]) -> dict[str, int]:
    """Parameters of matrices that a token is multiplied with, by format, most first."""
    sums: dict[str, int] = {}
    for use in uses:
        if len(use.module.shape) > 1:
            sums[use.format] = sums.get(use.format, 0) + use.active(prod(use.module.shape))
    return dict(sorted(sums.items(), key=lambda item: -item[1]))
