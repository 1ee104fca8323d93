"""Records for tests of validate, in the forms that compare, eval, tau2 and bench write; few figures, all chosen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mlxquant.bench.record import finish

MACHINE = {
    "chip": "Apple M3 Ultra",
    "architecture": "arm64",
    "cores": 28,
    "memory_bytes": 256 * 2**30,
    "os": "macOS 26.1",
}
VERSIONS = {"python": "3.11.7", "mlxquant": "0.1.0", "mlx": "0.32.4", "mlx-lm": "0.32.2"}
SOURCE = {"name": "org/Model", "revision": "0123abcd", "model_type": "qwen3_5_moe"}
DATE = "2026-01-02T03:04:05Z"
RECIPE = {"name": "gates-8bit", "sha256": "a" * 64}


def measure(metric: str, estimate: float, half: float | None = 0.0, **keys: Any) -> dict[str, Any]:
    """A measurement whose 95 % interval is estimate ± half, from 50 clusters of 100; `half` None: no interval."""
    clusters = keys.pop("clusters", 50)
    found = {"metric": metric, **{k: v for k, v in keys.items() if k not in ("n", "reason", "method", "df")}}
    ends = {"low": None, "high": None, "se": None} if half is None else {
        "low": estimate - half, "high": estimate + half, "se": half / 2.009575,
    }  # fmt: skip
    more = {k: keys[k] for k in ("reason", "method", "df") if k in keys}
    return found | {"estimate": estimate} | ends | {"n": keys.get("n", 100 * clusters), "clusters": clusters} | more


def record(schema: str, candidates: list[dict[str, Any]], baseline: Any = None, **changed: Any) -> dict[str, Any]:
    """A record of measurements."""
    return {
        "schema": f"mlxquant.{schema}/1", "mlxquant": "0.1.0", "date": DATE, "machine": MACHINE, "versions": VERSIONS,
        "confidence": 0.95, "baseline": baseline, "candidates": candidates, "notes": [], **changed,
    }  # fmt: skip


def compare(*measurements: dict[str, Any], **changed: Any) -> dict[str, Any]:
    """A comparison of one recipe and the noise floor with the source."""
    mine = {"name": "gates-8bit", "kind": "recipe", "bytes": 1000, "bpw": 8.5, "recipe": RECIPE}
    floor = {"name": "bf16 noise floor", "kind": "noise floor", "measurements": [measure("kl_nats", 0.0001)]}
    baseline = {"name": "Model", "measurements": [measure("perplexity", 5.0, 0.1)]}
    candidates: list[dict[str, Any]] = [{**mine, "measurements": list(measurements)}, floor]
    return record("compare", candidates, baseline, **{"source": SOURCE} | changed)


def evaluation(
    *measurements: dict[str, Any], before: tuple[dict[str, Any], ...] = (), **changed: Any
) -> dict[str, Any]:
    """An evaluation of a build of that recipe beside the baseline's build."""
    mine = {
        "name": "build-8",
        "kind": "build",
        "manifest_sha256": "b" * 64,
        "recipe": RECIPE,
        "model_type": "qwen3_5_moe",
    }
    baseline = {"name": "bf16", "kind": "build", "manifest_sha256": "0" * 64, "measurements": list(before)}
    return record("eval", [mine | changed.pop("side", {}) | {"measurements": list(measurements)}], baseline, **changed)


def tau2(*measurements: dict[str, Any], **changed: Any) -> dict[str, Any]:
    """A τ² record; its files do not say what served the model."""
    unknown = {"machine": {"unknown": "the files do not say"}}
    side = {"name": "build-8", "file": "b.json", "measurements": list(measurements)}
    return record("tau2", [side], {"name": "bf16", "file": "a.json", "measurements": []}, **unknown | changed)


def bench(ratio: float = 0.97, rounds: int = 7, noise: float = 0.001, **changed: Any) -> dict[str, Any]:
    """A measurement of two builds, the later one slower by `ratio`, its rounds apart by `noise`."""
    samples = []
    for i in range(1, rounds + 1):
        for build, rate in ((0, 40.0), (1, 40.0 * ratio * (1 + noise * (i % 3 - 1)))):
            timed = {"seconds": 16 / rate, "tok_s": rate, "token_s": [1 / rate] * 3, "peak_memory_bytes": 1000 + build}
            samples.append({"build": build, "test": "tg16", "round": i, **timed})
            samples.append({"build": build, "test": "pp64", "round": i, **timed, "ttft_s": 64 / rate})
    builds = [
        {"name": "bf16", "load_s": [1.0], "manifest_sha256": "0" * 64, "bytes": 2000},
        {"name": "build-8", "load_s": [1.1], "manifest_sha256": "b" * 64, "recipe": RECIPE, "bytes": 1000},
    ]
    return finish(
        {
            "schema": "mlxquant.bench/1", "mlxquant": "0.1.0", "date": DATE, "machine": MACHINE, "versions": VERSIONS,
            "settings": {"batch": 1, "seed": 0, "repetitions": rounds}, "notes": [],
            "builds": builds, "samples": samples,
        }
        | changed
    )  # fmt: skip


def write(folder: Path, **records: Any) -> list[Path]:
    """Write records as NAME.json, or texts as NAME.toml."""
    paths = []
    for name, value in records.items():
        path = folder / f"{name}.{'toml' if isinstance(value, str) else 'json'}"
        path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
        paths.append(path)
    return paths
