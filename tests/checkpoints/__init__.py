"""Checkpoints made on the spot, in the Hub's layout: for the demo, the tests and the benchmark.

They have the names, shapes, dtypes and files of real models and gaussian values, so that everything but the sense of
what a model says can be tried without a download. An architecture is a function from a `Size` to a `Blueprint`; add
one to `ARCHITECTURES` and the tests take it up. One is not made but copied: `store_moe`, which was trained.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from mlxquant.evals.store.model import write_store_moe
from tests.checkpoints.blueprint import Blueprint, Size, Tensor
from tests.checkpoints.files import write
from tests.checkpoints.hybrid import granitemoehybrid, llama, nemotron_h
from tests.checkpoints.per_expert import deepseek_v3, mixtral, qwen3_moe
from tests.checkpoints.qwen3_5_moe import qwen3_5_moe
from tests.checkpoints.transposed import gpt_oss, llama4

__all__ = [
    "ARCHITECTURES",
    "Blueprint",
    "Size",
    "Tensor",
    "write",
    "write_store_moe",
    "write_tiny",
    "write_tiny_qwen3_5_moe",
]

ARCHITECTURES: dict[str, Callable[[Size], Blueprint]] = {
    "deepseek_v3": deepseek_v3,
    "deepseek_v3_fp8": partial(deepseek_v3, fp8=True),
    "gpt_oss": gpt_oss,
    "granitemoehybrid": granitemoehybrid,
    "llama": llama,
    "llama4": llama4,
    "mixtral": mixtral,
    "nemotron_h": nemotron_h,
    "qwen3_5_moe": qwen3_5_moe,
    "qwen3_5_moe_vision": partial(qwen3_5_moe, vision=True),
    "qwen3_moe": qwen3_moe,
}


def write_tiny(folder: Path, architecture: str, size: Size | None = None, *, seed: int = 0, shards: int = 3) -> None:
    """Write a checkpoint of one of the `ARCHITECTURES`, about 5 MB by default.

    >>> write_tiny(Path("/tmp/mixtral"), "mixtral", Size(experts=4))  # doctest: +SKIP
    """
    write(folder, ARCHITECTURES[architecture](size or Size()), seed=seed, shards=shards)


def write_tiny_qwen3_5_moe(
    folder: Path,
    *,
    seed: int = 0,
    shards: int = 3,
    vision: bool = False,
    mtp: bool = True,
    dtype: str = "bfloat16",
    layers: int = 4,
    hidden: int = 128,
    experts: int = 8,
    experts_per_token: int = 2,
    moe_intermediate: int = 128,
    vocab: int = 512,
) -> None:
    """Write a Qwen3.5-MoE checkpoint in the Hub's layout; the defaults make 5 MB.

    The benchmark's 3.3 GB:
    ``layers=8, hidden=1024, experts=128, experts_per_token=8, moe_intermediate=512, mtp=False``.
    """
    size = Size(layers, hidden, experts, experts_per_token, moe_intermediate, vocab, dtype)
    write(folder, qwen3_5_moe(size, vision=vision, mtp=mtp), seed=seed, shards=shards)
