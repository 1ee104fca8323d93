"""A build's speed through mlx-lm, in this process, on whatever device mlx has.

The model and its cache are driven directly, in the order in which `mlx_lm.generate.generate_step` (0.32) does it, so
that what is timed is what a user of mlx-lm waits for:

    prefill  all tokens but the last in chunks of --prefill-step-size, evaluating the cache after each; then the last
             one with its logits, and the arg max of those: the clock stops when the first token is known
    decode   n steps, each fed the token of the one before; the next step is queued before this one's token is read

A depth is filled into a fresh cache before the clock starts. Sequences of a batch go through as one array
(batch, length), all of one length, without padding. Tokenizing, detokenizing and sampling other than arg max are not
in the figures, nor is an end-of-sequence token heeded. Peak memory is mlx's count of its own arrays, without the
weights of other builds that are loaded at the same time.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import mlx.core as mx

from ..builds.facts import describe_build, traffic_of_build
from ..builds.read.build import Build
from ..builds.read.loading import load_build, run_failure
from ..errors import MODEL_ERRORS, MeasurementError, MlxquantError
from .prompts import Prompts, rows_of_tokens
from .workload import BenchSettings, Sample, Workload


@dataclass
class LocalModel:
    """A build that is loaded by mlx-lm. `weight_bytes` is what loading it added to mlx's memory."""

    build: Build
    prompts: Prompts
    model: Any = None
    tokenizer: Any = None
    weight_bytes: int = 0

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.build.name

    @property
    def folder(self) -> Path:
        """Where it is."""
        return self.build.folder

    def describe(self, settings: BenchSettings) -> dict[str, Any]:
        """The build in the record: hashes, recipe, sizes, and what a decoded token reads of it."""
        return {**describe_build(self.build), "traffic": traffic_of_build(self.build).as_dict(settings.depths)}

    def open(self) -> float:
        """Load weights and tokenizer; seconds until the last weight is in memory. Raises BuildError."""
        before = mx.get_active_memory()
        start = perf_counter()
        self.model, self.tokenizer = load_build(self.folder)
        mx.eval(self.model.parameters())
        mx.synchronize()
        seconds = perf_counter() - start
        self.weight_bytes = mx.get_active_memory() - before
        return seconds

    def close(self) -> None:
        """Let go of the weights."""
        self.model = self.tokenizer = None
        gc.collect()
        mx.clear_cache()

    def measure(self, workload: Workload, settings: BenchSettings, run: int) -> Sample:
        """Run a workload once on a fresh cache. Raises MeasurementError where the model cannot run it."""
        try:
            return self._measure(workload, settings)
        except MlxquantError:
            raise
        except MODEL_ERRORS as error:
            raise MeasurementError("failed", f"{self.name}, {workload.label}: {run_failure(error)}") from error

    def _measure(self, workload: Workload, settings: BenchSettings) -> Sample:
        others = mx.get_active_memory() - self.weight_bytes
        mx.reset_peak_memory()
        tokens = self._tokens(workload, settings)
        cache = _new_cache(self.model)
        depth = workload.n_depth
        _fill(self.model, tokens[:, :depth], cache, settings.prefill_step_size)
        rest = tokens[:, depth:]
        mx.eval(rest)
        mx.synchronize()
        start = perf_counter()
        if workload.n_prompt:
            first = _prefill(self.model, rest, cache, settings.prefill_step_size)
            mx.eval(first)
            seconds, stamps = perf_counter() - start, []
        else:
            stamps = _decode(self.model, rest[:, 0], cache, workload.n_gen)
            seconds = stamps[-1] - start
        peak = mx.get_peak_memory() - others
        del cache
        mx.clear_cache()
        return Sample(
            seconds=seconds,
            tokens=settings.batch * (workload.n_prompt or workload.n_gen),
            ttft_s=seconds if workload.n_prompt else None,
            token_s=tuple(_steps(start, stamps)),
            peak_memory_bytes=peak,
        )

    def _tokens(self, workload: Workload, settings: BenchSettings) -> mx.array:
        """The ids (batch, depth + prompt), or (batch, depth + 1) where generation begins with one."""
        length = workload.n_depth + (workload.n_prompt or 1)
        rows = rows_of_tokens(
            self.prompts, self.tokenizer.encode, self.tokenizer.vocab_size, settings.batch, length, settings.seed
        )
        return mx.array(rows, dtype=mx.uint32)


@contextmanager
def wired() -> Iterator[None]:
    """Let Metal keep the weights resident, as mlx-lm does while it generates; nothing elsewhere."""
    if not mx.metal.is_available():
        yield
        return
    before = mx.set_wired_limit(int(mx.device_info()["max_recommended_working_set_size"]))
    try:
        yield
    finally:
        mx.synchronize()
        mx.set_wired_limit(before)


def device() -> dict[str, Any]:
    """What mlx computes on: cpu or gpu, the GPU's name, and how much memory its arrays may take."""
    info = mx.device_info() if mx.metal.is_available() else {}
    return {
        "device": "gpu" if mx.default_device().type == mx.DeviceType.gpu else "cpu",
        "gpu": info.get("device_name"),
        "usable_bytes": info.get("max_recommended_working_set_size"),
    }


def _new_cache(model: Any) -> list[Any]:
    from mlx_lm.models.cache import make_prompt_cache

    return list(make_prompt_cache(model))


def _fill(model: Any, tokens: mx.array, cache: Sequence[Any], step: int) -> None:
    """Put tokens (batch, n) into the cache by chunks; their logits are never computed."""
    for start in range(0, tokens.shape[1], step):
        model(tokens[:, start : start + step], cache=cache)
        mx.eval([c.state for c in cache])
        mx.clear_cache()


def _prefill(model: Any, tokens: mx.array, cache: Sequence[Any], step: int) -> mx.array:
    """Process a prompt (batch, n) and return its first token (batch,), not evaluated yet."""
    _fill(model, tokens[:, :-1], cache, step)
    return mx.argmax(model(tokens[:, -1:], cache=cache)[:, -1, :], axis=-1)


def _decode(model: Any, first: mx.array, cache: Sequence[Any], n: int) -> list[float]:
    """Generate n tokens from `first` (batch,); the moments at which each was known."""

    def step(last: mx.array) -> mx.array:
        token = mx.argmax(model(last[:, None], cache=cache)[:, -1, :], axis=-1)
        mx.async_eval(token)  # type: ignore[no-untyped-call]
        return token

    stamps: list[float] = []
    token = step(first)
    for i in range(n):
        following = step(token) if i + 1 < n else token
        mx.eval(token)
        stamps.append(perf_counter())
        if i % 256 == 0:
            mx.clear_cache()
        token = following
    return stamps


def _steps(start: float, stamps: Sequence[float]) -> Iterator[float]:
    for before, after in zip((start, *stamps), stamps, strict=False):
        yield after - before
