"""Records for tests of the report: the paper's plans, an audit with errors, a measurement, something unknown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mlxquant.bench.record import finish

AUDITS = Path(__file__).resolve().parents[2] / "audits" / "qwen3.5-122b-a10b"
PAPER = (AUDITS / "base.plan.json", AUDITS / "agentic.plan.json")

HOSTILE = '</script><script>document.title="owned"</script>"\'><img src=x onerror=alert(1)>{{ 7*7 }}\ud800 $\\frac{'


def module(path: str, **changed: Any) -> dict[str, Any]:
    """A module of a plan or audit record: an 8-bit Linear unless told otherwise."""
    return {
        "path": path, "kind": "Linear", "role": "attention", "layer": 0, "layer_type": "full_attention",
        "shape": [64, 128], "parameters": 8192, "format": {"group_size": 64, "bits": 8, "mode": "affine"},
        "dtype": "BF16", "bytes": 8704, "bpw": 8.5, "protected": False, "rule": None,
        "reason": "no rule matches: the default, 8-bit g64", **changed,
    }  # fmt: skip


def kept(path: str, **changed: Any) -> dict[str, Any]:
    """A module that a rule keeps."""
    return module(
        path, **{"format": None, "bytes": 16384, "protected": True, "rule": "r#1", "reason": "why not"} | changed
    )


def record(modules: list[dict[str, Any]], schema: str = "mlxquant.plan/1", **changed: Any) -> dict[str, Any]:
    """A plan or audit record of these modules."""
    parameters, size = sum(m["parameters"] for m in modules), sum(m["bytes"] for m in modules)
    return {
        "schema": schema, "mlxquant": "0.1.0",
        "source": {"name": "org/Model", "revision": "0123abcd", "kind": "checkpoint", "layers": 4},
        "recipe": {"name": "mine", "sha256": "f" * 64, "overrides": []},
        "totals": {"parameters": parameters, "bytes": size, "bpw": 8 * size / parameters if parameters else None},
        "protected": {"modules": sum(m["protected"] for m in modules)},
        "notes": [], "modules": modules, **changed,
    }  # fmt: skip


def errors(relative: float) -> dict[str, Any]:
    """A module's errors, as an audit gives them."""
    return {"relative_rms_error": relative, "sum_sq_error": relative**2 * 100, "sum_sq_weight": 100.0}


def audit(bits: int = 8, layers: int = 4, **changed: Any) -> dict[str, Any]:
    """A build of a small model: attention and experts in layers, an embedding, norms, one protected router."""
    form = {"group_size": 64, "bits": bits, "mode": "affine"}
    step = 2.0 ** (8 - bits) * 0.006
    modules = [kept("model.embed_tokens", layer=None, layer_type=None, role="embedding")]
    for i in range(layers):
        at = {"layer": i, "format": form, "bytes": 1024 * bits + 512}
        for number, name in enumerate(("q_proj", "k_proj", "v_proj", "o_proj")):
            wrong = errors(step * (1 + 0.1 * number + 0.05 * i))
            modules.append(module(f"model.layers.{i}.self_attn.{name}", **at, errors=wrong))
        modules.append(kept(f"model.layers.{i}.mlp.gate", layer=i, role="router", reason="picks experts"))
        modules.append(module(f"model.layers.{i}.mlp.switch.up_proj", **at, role="expert", errors=errors(step)))
        norm = {
            "role": "norm",
            "kind": "RMSNorm",
            "shape": [128],
            "format": None,
            "reason": "mlx has no quantized form",
        }
        modules.append(module(f"model.layers.{i}.norm", **{**at, **norm}))
    return record(modules, "mlxquant.audit/1", disagreements=[], **changed)


def bench(rounds: int = 5) -> dict[str, Any]:
    """A measurement of two builds, the second a fifth slower at decoding; one test failed."""
    samples: list[dict[str, Any]] = []
    for i in range(1, rounds + 1):
        for build, rate in ((0, 40.0), (1, 32.0)):
            tok_s = rate + 0.3 * i
            samples.append(
                {
                    "build": build,
                    "test": "tg16",
                    "round": i,
                    "seconds": 16 / tok_s,
                    "tok_s": tok_s,
                    "token_s": [1 / tok_s],
                }
            )
        samples.append({"build": 0, "test": "pp64", "round": i, "seconds": 0.5, "tok_s": 128.0, "token_s": []})
        failure = {"kind": "memory", "message": "not enough"}
        samples.append({"build": 1, "test": "pp64", "round": i, "failure": failure})
    return finish(
        {
            "schema": "mlxquant.bench/1", "mlxquant": "0.1.0",
            "machine": {"chip": "M3 Ultra", "cores": 28, "memory_bytes": 256 * 2**30, "os": "macOS 26.1"},
            "versions": {"mlx": "0.32.4", "mlx-lm": "0.32.2"},
            "settings": {"batch": 1, "seed": 0, "repetitions": rounds},
            "builds": [{"name": "base", "load_s": [1.0]}, {"name": "agentic", "load_s": [1.1]}],
            "samples": samples, "notes": ["busy: something else ran"],
        }
    )  # fmt: skip


def unknown() -> dict[str, Any]:
    """A record that a later version may write."""
    return {
        "schema": "mlxquant.later/7", "mlxquant": "9.9", "pass_1": 0.511, "by_task": {"refund": 12, "cancel": 9},
        "tasks": [{"id": i, "passed": i % 2 == 0} for i in range(30)], "missing": None,
    }  # fmt: skip


def hostile() -> list[dict[str, Any]]:
    """Records that try to become markup, script, template or mathematics, in every text of theirs."""
    bad = {
        "role": HOSTILE,
        "layer_type": HOSTILE,
        "reason": HOSTILE,
        "dtype": HOSTILE,
        "rule": HOSTILE,
        "kind": HOSTILE,
    }
    source = dict.fromkeys(("name", "revision", "kind", "model_type", "dtype", "other"), HOSTILE)
    evil = record(
        [
            module(HOSTILE, **bad, errors=errors(0.01)),
            module(f"model.layers.1.{HOSTILE}", **bad | {"layer": 1}, errors=errors(0.02)),
            kept(f"model.layers.2.{HOSTILE}", **bad | {"layer": 2}),
            module("model.layers.2.x", layer=2, format={"bits": 4, "group_size": 32, "mode": HOSTILE}),
        ],
        "mlxquant.audit/1", source=source, recipe={"name": HOSTILE, "sha256": HOSTILE, "overrides": [HOSTILE]},
        disagreements=[HOSTILE], warnings=[HOSTILE], notes=[HOSTILE], mlxquant=HOSTILE,
    )  # fmt: skip
    speed = bench()
    speed["builds"][0]["name"] = speed["notes"][0] = speed["machine"]["chip"] = speed["versions"]["mlx"] = HOSTILE
    for result in speed["results"]:
        result["test"] += HOSTILE
    other = {"schema": HOSTILE, HOSTILE: HOSTILE, "list": [{HOSTILE: HOSTILE}], "table": {HOSTILE: [HOSTILE]}}
    return [evil, speed, other]


def write(folder: Path, **records: dict[str, Any]) -> list[Path]:
    """Write records into files of these names, and tell where they are."""
    paths = []
    for name, content in records.items():
        path = folder / f"{name.replace('__', '.')}.json"
        path.write_text(json.dumps(content))
        paths.append(path)
    return paths
