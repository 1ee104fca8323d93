"""What a build costs to run, from its plan alone: bytes that a decoded token reads, arithmetic that a prompt needs.

Decoding one sequence reads every weight that a token uses, and the cache of all tokens before it, once a token. No
machine is faster than its memory:

    ceiling = bandwidth / (active bytes + cache bytes at that depth)      [tok/s]

    the paper's base build on an M3 Ultra: 819e9 / (9,328,701,024 + 153,649,152) = 86.4 tok/s at depth 0

`active bytes` counts k of n experts, one row of an embedding that is not the output head too, and all else. With b
sequences at once the weights are read once for all: ``active / b + cache``; that every sequence picks the same
experts is the best case, so it stays a ceiling. Recurrent state counts as read once, though it is written as well.

A prompt is bound by arithmetic, ``2 * parameters`` floating point operations a token for each matrix that it is
multiplied with, experts by k of n, the output head once a prompt. MLX's kernels for quantized matrices unpack
to the activations' dtype and multiply there, so precision changes the bytes of a prompt and not its arithmetic. The
estimate below is the slower of that and of reading all weights once a prefill step; it leaves out attention scores,
the recurrence of linear attention, routing and launches, and takes a third party's teraflops (see `chips`), so it is
an order of magnitude, no ceiling.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, Any

from ..errors import LayoutError
from ..records.head import head
from ..words.modules import Module
from ..words.text import distinct
from .chips import Chip
from .workload import BenchSettings

if TYPE_CHECKING:
    from ..builds.read.build import Build
    from ..layout.context import ContextCost
    from ..plan.plan import Plan
    from ..source.checkpoint import Checkpoint

SCHEMA = "mlxquant.predict/1"
_NO_MATMUL = ("embedding", "norm", "vision", "mtp")


@dataclass(frozen=True, slots=True)
class Published:
    """Figures that someone published for a build, in tokens a second."""

    label: str
    chip: str
    where: str
    prefill_tok_s: float
    decode_tok_s: float


# Builds are known by the bytes of their tensors, which no other build of that model shares.
_PAPER = "M3 Ultra, 256 GB, LM Studio; Ahmed 2026, prompt length and depth not stated"
PUBLISHED: Mapping[tuple[str, int], Published] = {
    ("qwen3_5_moe", 125_966_246_400): Published("base", "M3 Ultra", _PAPER, 38.8, 37.8),
    ("qwen3_5_moe", 128_358_474_240): Published("agentic", "M3 Ultra", _PAPER, 27.0, 35.8),
}


@dataclass(frozen=True)
class Traffic:
    """What one token costs in a build.

    `matmul` maps each format to the parameters that a prompt's token is multiplied with, `head` to those of the
    output head, which only the last token of a prompt needs.
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

    def cache_bytes(self, depth: int) -> int | None:
        """Bytes of the cache that decoding at this depth reads, for one sequence; None where nobody tells."""
        if self.cache is None:
            return None
        return sum(
            c.fixed + c.per_token * (depth if c.limit is None else min(depth, c.limit)) for c in self.cache.caches
        )

    def bytes_at(self, depth: int, batch: int = 1) -> float:
        """Bytes read for one token of one sequence."""
        return self.active_bytes / batch + (self.cache_bytes(depth) or 0)

    def decode_ceiling(self, bandwidth: float, depth: int, batch: int = 1) -> float:
        """Tokens a second of all sequences that memory allows, at `bandwidth` bytes a second."""
        return bandwidth / self.bytes_at(depth, batch)

    @property
    def flops_per_token(self) -> int:
        """Floating point operations in matrices, for one token of a prompt."""
        return 2 * sum(self.matmul.values())

    def prefill_estimate(self, chip: Chip, n_prompt: int, step: int = 2048) -> float | None:
        """Tokens a second for a prompt: the slower of arithmetic and of reading all weights once a step."""
        if chip.tflops_fp32 is None:
            return None
        flops = self.flops_per_token * n_prompt + 2 * sum(self.head.values())
        arithmetic = flops / (chip.tflops_fp32 * 1e12)
        reading = ceil(n_prompt / step) * self.total_bytes / chip.bandwidth
        return n_prompt / max(arithmetic, reading)

    @property
    def published(self) -> Published | None:
        """What was published for exactly this build."""
        return PUBLISHED.get((self.model_type, self.total_bytes))

    def as_dict(self, depths: Sequence[int]) -> dict[str, Any]:
        """The build's entry in a prediction, and in a measurement beside its figures."""
        return {
            "model_type": self.model_type,
            "parameters": self.parameters,
            "bytes": self.total_bytes,
            "active_bytes_per_token": self.active_bytes,
            "cache_bytes": {str(d): self.cache_bytes(d) for d in depths},
            "cache_method": self.cache.method if self.cache else None,
            "cache_note": self.cache_note,
            "prefill_flops_per_token": {fmt: 2 * n for fmt, n in self.matmul.items()},
            "prefill_flops_per_prompt": {fmt: 2 * n for fmt, n in self.head.items()},
        }


def traffic_of_plan(plan: Plan, source: Checkpoint, name: str | None = None) -> Traffic:
    """Count a plan, from its source's config."""
    uses = [
        _Use(m.module, str(m.format) if m.format else m.module.weight.dtype.lower(), m.nbytes, m.share)
        for m in plan.modules
    ]
    return _traffic(name or plan.recipe.name, str(plan.source["model_type"]), uses, source.config)


def traffic_of_build(build: Build) -> Traffic:
    """Count a build's bytes on disk. Raises LayoutError where mlx-lm has no class for the model."""
    from ..builds.read.build import bare_config, bare_layout
    from ..plan.plan import shares_of

    if not build.known:
        raise LayoutError(
            f"{build.name}: mlx-lm has no class for {build.config.get('model_type')!r}, so nobody can run it"
        )
    layout = bare_layout(build)
    shares = shares_of(layout)
    uses = [
        _Use(s.module, str(s.format) if s.format else s.dtype.lower(), s.nbytes, shares.get(s.module.path, (0, 1)))
        for s in build.stored.values()
        if s.module.kind != "stored"
    ]
    return _traffic(build.name, layout.model_type, uses, bare_config(build))


@dataclass(frozen=True, slots=True)
class _Use:
    """A module as a build has it, and the share of it (k, n) that a token uses."""

    module: Module
    format: str
    nbytes: int
    share: tuple[int, int]

    def active(self, amount: int) -> int:
        return amount * self.share[0] // self.share[1]


def _traffic(name: str, model_type: str, uses: Sequence[_Use], config: Mapping[str, Any]) -> Traffic:
    from ..layout.context import context_cost

    tied = not any(u.module.role == "lm_head" for u in uses)
    heads = ("embedding",) if tied else ("lm_head",)
    cache, note = None, None
    try:
        cache = context_cost(config, [u.module for u in uses])
        note = cache.note
    except LayoutError as error:
        note = str(error)
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
    )


def _by_format(uses: Iterable[_Use]) -> dict[str, int]:
    """Parameters of matrices that a token is multiplied with, by format, most first."""
    sums: dict[str, int] = {}
    for use in uses:
        if len(use.module.shape) > 1:
            rows_by_columns = use.active(_values(use.module))
            sums[use.format] = sums.get(use.format, 0) + rows_by_columns
    return dict(sorted(sums.items(), key=lambda item: -item[1]))


def _values(module: Module) -> int:
    count = 1
    for n in module.shape:
        count *= n
    return count


# --- record ---


def prediction(traffics: Sequence[Traffic], chips: Sequence[Chip], settings: BenchSettings) -> dict[str, Any]:
    """Make the record of a prediction: each build's traffic, and what each chip allows with it."""
    names = distinct([t.name for t in traffics])
    return {
        **head(SCHEMA),
        "settings": {
            "depths": list(settings.depths),
            "prompts": [n for n in settings.prompts if n],
            "batch": settings.batch,
            "prefill_step_size": settings.prefill_step_size,
        },
        "builds": [
            {"name": name, **t.as_dict(settings.depths), "published": _published(t)}
            for name, t in zip(names, traffics, strict=True)
        ],
        "chips": [_chip(chip, traffics, settings) for chip in chips],
    }


def _published(traffic: Traffic) -> dict[str, Any] | None:
    p = traffic.published
    if p is None:
        return None
    return {
        "label": p.label,
        "chip": p.chip,
        "where": p.where,
        "prefill_tok_s": p.prefill_tok_s,
        "decode_tok_s": p.decode_tok_s,
    }


def _chip(chip: Chip, traffics: Sequence[Traffic], settings: BenchSettings) -> dict[str, Any]:
    def estimate(traffic: Traffic, n: int) -> float | None:
        tok_s = traffic.prefill_estimate(chip, n, settings.prefill_step_size)
        return None if tok_s is None else round(tok_s, 2)

    return {
        "chip": chip.name,
        "gpu_cores": chip.gpu_cores,
        "bandwidth_gbs": chip.bandwidth_gbs,
        "source": chip.source,
        "seen": chip.seen,
        "tflops_fp32": chip.tflops_fp32,
        "decode_ceiling_tok_s": {
            str(d): [round(t.decode_ceiling(chip.bandwidth, d, settings.batch), 3) for t in traffics]
            for d in settings.depths
        },
        "prefill_estimate_tok_s": {str(n): [estimate(t, n) for t in traffics] for n in settings.prompts if n},
    }
