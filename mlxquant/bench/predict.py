"""What a build costs to run, from its plan alone: how fast it decodes, at most and likely, and what a prompt takes.

Decoding one sequence reads every weight that a token uses, and the cache of all tokens before it, once a token. No
machine is faster than its memory:

    ceiling = bandwidth / (active bytes + cache bytes at that depth)      [tok/s]

    the paper's base build on an M3 Ultra: 819e9 / (9,328,701,024 + 153,649,152) = 86.4 tok/s at depth 0

`active bytes` counts k of n experts, one row of an embedding that is not the output head too, and all else. With b
sequences at once the weights are read once for all: ``active / b + cache``; that every sequence picks the same
experts is the best case, so it stays a ceiling. Recurrent state counts as read once, though it is written as well.

How much of the ceiling is reached is `calibration`'s: a prediction with an interval, from published speeds or a
machine's own record. With b sequences it reads as many experts as b tokens choose on average, which no point tests.

A prompt is bound by arithmetic, ``2 * parameters`` floating point operations a token for each matrix that it is
multiplied with, experts by k of n, the output head once a prompt. MLX's kernels for quantized matrices unpack
to the activations' dtype and multiply there, so precision changes the bytes of a prompt and not its arithmetic. The
estimate below is the slower of that and of reading, once a prefill step, the weights that its tokens use: a prompt of
ten tokens meets some 70 of 256 experts, one of a few hundred all. It leaves out attention scores,
the recurrence of linear attention, routing and launches, and takes a third party's teraflops (see `chips`), so it is
an order of magnitude, no ceiling.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..plan.fits import Memory
from ..records.head import head
from ..words.text import distinct
from .calibration import Calibration, Load, Point, Speed, calibrate
from .chips import Chip
from .workload import BenchSettings

if TYPE_CHECKING:
    from ..builds.facts import Traffic

SCHEMA = "mlxquant.predict/2"


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


# --- estimates ---


def decode_ceiling(traffic: Traffic, bandwidth: float, depth: int, batch: int = 1) -> float:
    """Tokens a second of all sequences that memory allows, at `bandwidth` bytes a second."""
    return bandwidth / traffic.bytes_at(depth, batch)


def prefill_estimate(traffic: Traffic, chip: Chip, n_prompt: int, step: int = 2048) -> float | None:
    """Tokens a second for a prompt: the slower of arithmetic and of reading what a step's tokens use, step by step."""
    if chip.tflops_fp32 is None:
        return None
    flops = traffic.flops_per_token * n_prompt + 2 * sum(traffic.head.values())
    arithmetic = flops / (chip.tflops_fp32 * 1e12)
    steps, rest = divmod(n_prompt, step)
    read = steps * traffic.weights_for(step) + (traffic.weights_for(rest) if rest else 0)
    return n_prompt / max(arithmetic, read / chip.bandwidth)


def decode_speed(
    traffic: Traffic, chip: Chip, calibration: Calibration | None, depth: int, batch: int = 1
) -> Speed | None:
    """Tokens a second of all sequences, as points tell; None where the cache or the chip's numbers are unknown."""
    cached = traffic.cache_bytes(depth)
    if calibration is None or cached is None:
        return None
    load = Load(
        traffic.weights_for(batch), batch * cached, traffic.dense_layers, traffic.moe_layers, depth, traffic.format
    )
    speed = calibration.speed(load, chip.bandwidth)
    if speed is None or batch == 1:
        return speed
    outside = (*speed.extrapolates, f"sequences: {batch} at once, the points have one")
    return Speed(batch * speed.tok_s, batch * speed.low, batch * speed.high, outside)


def published(traffic: Traffic) -> Published | None:
    """What was published for exactly this build."""
    return PUBLISHED.get((traffic.model_type, traffic.total_bytes))


# --- record ---


def prediction(
    traffics: Sequence[Traffic], chips: Sequence[Chip], settings: BenchSettings, own: Sequence[Point] = ()
) -> dict[str, Any]:
    """Make the record of a prediction: each build's traffic, and what each chip allows and likely reaches with it.

    `own` are points of machines of the user's, which take the place of the published ones of their chips.
    """
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
        "chips": [_chip(chip, traffics, settings, calibrate(chip, own)) for chip in chips],
    }


def speed_of(traffic: Traffic, chip: Chip, depth: int, own: Sequence[Point] = ()) -> dict[str, Any]:
    """A build's speed on one chip at one depth: `ceiling_tok_s`, and what to `expect` (None where nothing tells)."""
    expected = decode_speed(traffic, chip, calibrate(chip, own), depth)
    return {
        "ceiling_tok_s": round(decode_ceiling(traffic, chip.bandwidth, depth), 3),
        "expected": None if expected is None else expected.as_dict(),
    }


def describe_chip(chip: Chip, own: Sequence[Point] = ()) -> dict[str, Any]:
    """A chip in a record: its figures, their source, and its calibration."""
    calibration = calibrate(chip, own)
    return {
        "chip": chip.name,
        "gpu_cores": chip.gpu_cores,
        "bandwidth_gbs": chip.bandwidth_gbs,
        "source": chip.source,
        "calibration": None if calibration is None else calibration.as_dict(),
    }


def _published(traffic: Traffic) -> dict[str, Any] | None:
    p = published(traffic)
    if p is None:
        return None
    return {
        "label": p.label,
        "chip": p.chip,
        "where": p.where,
        "prefill_tok_s": p.prefill_tok_s,
        "decode_tok_s": p.decode_tok_s,
    }


def _fits(chip: Chip, traffic: Traffic, settings: BenchSettings) -> bool:
    """Whether the largest machine with this chip holds a build and its cache at the least depth asked for."""
    if chip.memory_gib is None:
        return True
    cache = (traffic.cache_bytes(min(settings.depths)) or 0) * settings.batch
    return traffic.total_bytes + cache <= Memory(chip.memory_gib * 2**30).usable


def _chip(
    chip: Chip, traffics: Sequence[Traffic], settings: BenchSettings, calibration: Calibration | None
) -> dict[str, Any]:
    def estimate(traffic: Traffic, n: int) -> float | None:
        tok_s = prefill_estimate(traffic, chip, n, settings.prefill_step_size)
        return None if tok_s is None else round(tok_s, 2)

    def speed(traffic: Traffic, depth: int) -> dict[str, Any] | None:
        likely = decode_speed(traffic, chip, calibration, depth, settings.batch)
        return None if likely is None else likely.as_dict()

    return {
        "chip": chip.name,
        "gpu_cores": chip.gpu_cores,
        "bandwidth_gbs": chip.bandwidth_gbs,
        "source": chip.source,
        "seen": chip.seen,
        "tflops_fp32": chip.tflops_fp32,
        "memory_gib": chip.memory_gib,
        "fits": [_fits(chip, traffic, settings) for traffic in traffics],
        "decode_ceiling_tok_s": {
            str(d): [round(decode_ceiling(t, chip.bandwidth, d, settings.batch), 3) for t in traffics]
            for d in settings.depths
        },
        "calibration": None if calibration is None else calibration.as_dict(),
        "decode_tok_s": {str(d): [speed(t, d) for t in traffics] for d in settings.depths},
        "prefill_estimate_tok_s": {str(n): [estimate(t, n) for t in traffics] for n in settings.prompts if n},
    }
