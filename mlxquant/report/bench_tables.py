"""A measurement's results as CSV, JSON lines and SQL, one row a build and test.

Columns are called as in llama-bench where they mean the same: `cpu_info` … `n_depth`, `test_time` (the run's, not
each test's), `avg_ns`, `stddev_ns`, `avg_ts`, `stddev_ts`, and in JSON lines `samples_ns`, `samples_ts`. llama-bench's
`n_batch` counts tokens; sequences at once are `sequences` here. What llama-bench has no word for follows. Rows without
a figure are in, with `failures`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from .tables import csv_text

TABLE = "mlxquant_bench"
_TYPES = {int: "INTEGER", float: "REAL", str: "TEXT"}
COLUMNS: dict[str, type] = {
    "cpu_info": str, "gpu_info": str, "backends": str, "model_filename": str, "model_type": str, "model_size": int,
    "model_n_params": int, "n_prompt": int, "n_gen": int, "n_depth": int, "test_time": str, "avg_ns": int,
    "stddev_ns": int, "avg_ts": float, "stddev_ts": float,
    "test": str, "sequences": int, "prefill_step_size": int, "repetitions": int, "device": str, "median_ts": float,
    "min_ts": float, "max_ts": float, "ttft_s": float, "itl_p50_ms": float, "itl_p90_ms": float, "itl_p99_ms": float,
    "peak_memory_bytes": int, "energy_j": float, "load_s": float, "ceiling_ts": float, "ceiling_share": float,
    "manifest_sha256": str, "mlxquant_version": str, "mlx_version": str, "mlx_lm_version": str, "failures": str,
}  # fmt: skip


def result_rows(record: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a row for each result, with every column of `COLUMNS` in order; None where there is no figure."""
    for result in record["results"]:
        build = record["builds"][result["build"]]
        row = {**_about(record, build), **_figures(result), **_versions(record["versions"])}
        row |= {"manifest_sha256": build.get("manifest_sha256"), "load_s": min(build["load_s"], default=None)}
        yield {column: row.get(column) for column in COLUMNS}


def _about(record: Mapping[str, Any], build: Mapping[str, Any]) -> dict[str, Any]:
    machine, settings = record["machine"], record["settings"]
    kind = " ".join(str(part) for part in (build.get("model_type"), build.get("format")) if part)
    return {
        "cpu_info": machine.get("chip"),
        "gpu_info": machine.get("gpu"),
        "backends": "MLX" if build.get("kind") == "build" else build.get("kind"),
        "model_filename": build["name"],
        "model_type": kind or None,
        "model_size": build.get("bytes"),
        "model_n_params": build.get("parameters"),
        "test_time": record["date"],
        "sequences": settings["batch"],
        "prefill_step_size": settings.get("prefill_step_size"),
        "device": machine.get("device"),
    }


def _figures(result: Mapping[str, Any]) -> dict[str, Any]:
    rate, time = result["tok_s"], result["seconds"]
    gaps = result["inter_token_ms"] or {}
    figures = {
        **{key: result[key] for key in ("n_prompt", "n_gen", "n_depth")},
        "test": result["test"],
        "ttft_s": result["ttft_s"]["mean"] if result["ttft_s"] else None,
        **{f"itl_{p}_ms": gaps.get(p) for p in ("p50", "p90", "p99")},
        "peak_memory_bytes": result["peak_memory_bytes"],
        "energy_j": result["energy_j"],
        "ceiling_ts": result["ceiling_tok_s"],
        "ceiling_share": result["ceiling_share"],
        "failures": "; ".join(result["failures"]) or None,
    }
    if rate is not None:
        figures |= {"avg_ts": rate["mean"], "stddev_ts": rate["sd"], "repetitions": rate["n"]}
        figures |= {f"{k}_ts": rate[k] for k in ("median", "min", "max")}
        sd = time["sd"]
        figures |= {"avg_ns": round(time["mean"] * 1e9), "stddev_ns": None if sd is None else round(sd * 1e9)}
    return figures


def _versions(versions: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{name.replace('-', '_')}_version": versions.get(name) for name in ("mlxquant", "mlx", "mlx-lm")}


def bench_csv(record: Mapping[str, Any]) -> str:
    """Write a header and a line a result; empty where there is no figure."""
    return csv_text(list(COLUMNS), (row.values() for row in result_rows(record)), quoted=True).rstrip("\n")


def bench_jsonl(record: Mapping[str, Any]) -> str:
    """Write a JSON table a result, with every sample in it."""
    lines = []
    for result, row in zip(record["results"], result_rows(record), strict=True):
        timed = [
            s
            for s in record["samples"]
            if (s["build"], s["test"]) == (result["build"], result["test"]) and "failure" not in s
        ]
        samples = {
            "samples_ns": [round(s["seconds"] * 1e9) for s in timed],
            "samples_ts": [s["tok_s"] for s in timed],
        }
        lines.append(json.dumps(row | samples, ensure_ascii=False))
    return "\n".join(lines)


def bench_sql(record: Mapping[str, Any]) -> str:
    """Write statements that make the table and fill it; for `sqlite3 FILE < …`."""
    columns = ",\n".join(f"  {name} {_TYPES[kind]}" for name, kind in COLUMNS.items())
    lines = [f"CREATE TABLE IF NOT EXISTS {TABLE} (\n{columns}\n);"]
    for row in result_rows(record):
        values = ", ".join(_literal(value) for value in row.values())
        lines.append(f"INSERT INTO {TABLE} ({', '.join(row)}) VALUES ({values});")
    return "\n".join(lines)


def _literal(value: Any) -> str:
    if value is None:
        return "NULL"
    return str(value) if isinstance(value, int | float) else "'" + str(value).replace("'", "''") + "'"
