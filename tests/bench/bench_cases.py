"""Records and subjects for the tests of bench: figures without a machine that is fast enough to make them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from mlxquant.bench.record import finish
from mlxquant.bench.workload import BenchSettings, Sample, Workload
from mlxquant.errors import MeasurementError

MACHINE = {
    "chip": "Apple M3 Ultra", "architecture": "arm64", "cores": 32, "memory_bytes": 256 * 2**30, "os": "macOS 26.1",
    "gpu_cores": 80, "power_mode": "automatic, AC Power", "device": "gpu", "gpu": "Apple M3 Ultra",
    "bandwidth_gbs": 819, "bandwidth_source": "a test",
}  # fmt: skip


@dataclass
class Paced:
    """A subject whose runs take what `rates` say, in turn; a rate of None is a run that fails."""

    name: str
    rates: Sequence[float | None] = (100.0,)
    calls: list[tuple[str, int]] = field(default_factory=list)
    opened: int = 0
    closed: int = 0
    ran: int = 0

    def describe(self, settings: BenchSettings) -> dict[str, Any]:
        """As little as a record needs."""
        return {"kind": "build", "manifest_sha256": f"{self.name:0<64}", "config_sha256": "0" * 64, "traffic": None}

    def open(self) -> float:
        """Count it."""
        self.opened += 1
        return 0.5

    def close(self) -> None:
        """Count it."""
        self.closed += 1

    def measure(self, workload: Workload, settings: BenchSettings, run: int) -> Sample:
        """Give the next rate."""
        self.calls.append((workload.label, run))
        if run == 0:
            return Sample(1.0, 1)
        rate = self.rates[self.ran % len(self.rates)]
        self.ran += 1
        if rate is None:
            raise MeasurementError("timeout", f"{self.name}: no answer")
        tokens = workload.n_prompt or workload.n_gen
        gaps = (1 / rate,) * workload.n_gen
        return Sample(tokens / rate, tokens, tokens / rate if workload.n_prompt else None, gaps, 1000)


def record_of(rates: dict[str, dict[str, list[float]]], **machine: Any) -> dict[str, Any]:
    """Make a record from rates by build and test, one a round."""
    builds = [
        {
            "name": name, "kind": "build", "manifest_sha256": f"{name:0<64}", "config_sha256": "0" * 64, "format":
            "8-bit g128", "model_type": "qwen3_5_moe", "parameters": 10**9, "bytes": 2**30, "bpw": 8.25,
            "load_s": [1.5], "traffic": {"active_bytes_per_token": 10**9, "cache_bytes": {"0": 0, "4096": 10**8}},
        }
        for name in rates
    ]  # fmt: skip
    samples = [
        {
            "build": i, "test": test, "round": round_, "order": i, "at_s": 0.0, "tok_s": rate, "tokens": 128,
            "seconds": 128 / rate, "ttft_s": 128 / rate if test.startswith("pp") else None,
            "token_s": [] if test.startswith("pp") else [1 / rate] * 3, "peak_memory_bytes": 2**30, "energy_j": None,
        }
        for i, tests in enumerate(rates.values())
        for test, values in tests.items()
        for round_, rate in enumerate(values, 1)
    ]  # fmt: skip
    rounds = max(len(v) for tests in rates.values() for v in tests.values())
    return finish(
        {
            "schema": "mlxquant.bench/1",
            "date": "2026-11-21T12:00:00Z",
            "machine": {**MACHINE, **machine},
            "versions": {"python": "3.11.7", "mlxquant": "0.1.0", "mlx": "0.32.4", "mlx-lm": "0.32.2"},
            "settings": {**BenchSettings(repetitions=rounds).as_dict(), "resident": True, "text": {"kind": "text"}},
            "builds": builds,
            "notes": [],
            "unreadable": [],
            "samples": samples,
        }
    )
