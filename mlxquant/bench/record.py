"""A measurement's record: results and ratios from its samples, reading it back, pooling records of one machine.

A record keeps every sample; everything else in it is worked out from them by `finish`. Several records of the same
builds with the same settings are pooled, so that ratios get more rounds, but only where machine and versions agree:
numbers of two machines never meet in one ratio. Two machines of one description cannot be told apart. No mlx here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from ..errors import RecordError
from ..records.files import read_checked
from .stats import paired_ratio, quantile, summarize
from .workload import Workload

SCHEMA = "mlxquant.bench/1"
_PERCENTILES = (50, 90, 99)
# What must agree for samples to be of one kind; the rest of a machine's description is only told.
_SAME_MACHINE = ("chip", "architecture", "cores", "memory_bytes", "os", "gpu_cores", "power_mode", "device", "gpu")


def finish(record: Mapping[str, Any]) -> dict[str, Any]:
    """Work out `results` (one a build and test) and `ratios` (every later build over the first) from the samples."""
    done = dict(record)
    samples, builds = done.pop("samples"), done["builds"]
    tests = list(dict.fromkeys(s["test"] for s in samples))
    done["results"] = [
        _result(i, test, samples) | _ceiling(builds[i], test, done) for test in tests for i in range(len(builds))
    ]
    for result in done["results"]:
        if result["tok_s"] and result["ceiling_tok_s"]:
            result["ceiling_share"] = round(result["tok_s"]["mean"] / result["ceiling_tok_s"], 4)
    seed = int(done["settings"].get("seed", 0))
    done["ratios"] = [r for test in tests for i in range(1, len(builds)) if (r := _ratio(test, 0, i, samples, seed))]
    done["samples"] = samples
    return done


def _result(build: int, test: str, samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One row of the table; figures are None, and `failures` says why, where nothing was measured."""
    mine = [s for s in samples if s["build"] == build and s["test"] == test]
    timed = [s for s in mine if "failure" not in s]
    rates = [s["tok_s"] for s in timed if s["tok_s"] is not None]
    gaps = [1000 * gap for s in timed for gap in s["token_s"]]
    peaks = [s["peak_memory_bytes"] for s in timed if s.get("peak_memory_bytes") is not None]
    energy = [s["energy_j"] for s in timed if s.get("energy_j") is not None]
    ttft = [s["ttft_s"] for s in timed if s.get("ttft_s") is not None]
    return {
        "build": build,
        "test": test,
        "tok_s": summarize(rates).as_dict() if rates else None,
        "seconds": summarize([s["seconds"] for s in timed]).as_dict() if timed else None,
        "ttft_s": summarize(ttft).as_dict() if ttft else None,
        "inter_token_ms": {f"p{p}": round(quantile(gaps, p / 100), 4) for p in _PERCENTILES} if gaps else None,
        "peak_memory_bytes": max(peaks, default=None),
        "energy_j": round(fmean(energy), 3) if energy else None,
        "failures": [f"{n} × {kind}: {why}" for (kind, why), n in _failures(mine).items()],
    }


def _ceiling(build: Mapping[str, Any], test: str, record: Mapping[str, Any]) -> dict[str, Any]:
    """What memory bandwidth allows for a decoding test (see `predict`), where the machine's is known."""
    none = {"ceiling_tok_s": None, "ceiling_share": None}
    bandwidth, traffic = record["machine"].get("bandwidth_gbs"), build.get("traffic")
    workload = Workload.parse(test)
    if not bandwidth or not traffic or not workload.n_gen:
        return none
    cache = traffic["cache_bytes"].get(str(workload.n_depth))
    read = traffic["active_bytes_per_token"] / record["settings"]["batch"] + (cache or 0)
    return {**none, "ceiling_tok_s": round(bandwidth * 1e9 / read, 4)}


def _failures(samples: Sequence[Mapping[str, Any]]) -> Counter[tuple[str, str]]:
    return Counter((s["failure"]["kind"], s["failure"]["message"]) for s in samples if "failure" in s)


def _ratio(test: str, a: int, b: int, samples: Sequence[Mapping[str, Any]], seed: int) -> dict[str, Any] | None:
    """B over A from the rounds in which both were measured; None where there is none."""
    first, second = (_by_round(test, build, samples) for build in (a, b))
    both = [r for r in first if r in second]
    if not both:
        return None
    ratio = paired_ratio([first[r] for r in both], [second[r] for r in both], seed=seed)
    return {"test": test, "a": a, "b": b, **ratio.as_dict()}


def _by_round(test: str, build: int, samples: Sequence[Mapping[str, Any]]) -> dict[int, float]:
    return {
        s["round"]: s["tok_s"]
        for s in samples
        if s["test"] == test and s["build"] == build and "failure" not in s and s["tok_s"]
    }


def unmeasured(record: Mapping[str, Any]) -> list[str]:
    """Every build and test that gave no figure at all, with the reason. Tests that do not apply are left out."""
    return [
        f"{record['builds'][r['build']]['name']}, {r['test']}: {'; '.join(r['failures']) or 'no sample'}"
        for r in record["results"]
        if r["tok_s"] is None and not all(" skipped: " in f for f in r["failures"])
    ]


def read_bench(path: Path) -> dict[str, Any]:
    """Read a record and check what is counted on. Raises RecordError with all that is wrong."""
    return read_checked(path, "bench")


def pool(records: Sequence[dict[str, Any]], names: Sequence[str]) -> dict[str, Any]:
    """Put records of the same builds, settings, machine and versions together; rounds count on.

    `names` are the records' for messages. Raises RecordError, telling all that differs.
    """
    first = records[0]
    same = [name for i, name in enumerate(names) if records[i] in records[:i]]
    if same:
        raise RecordError(f"{same[0]}: given twice; a round counts once")
    differences = [
        f"{names[0]} and {name}: {difference}"
        for record, name in zip(records[1:], names[1:], strict=True)
        for difference in _differences(first, record)
    ]
    if differences:
        raise RecordError("records that must not be merged into one ratio:\n" + "\n".join(differences))
    samples, offset, builds = list[dict[str, Any]](), 0, [dict(b, load_s=list(b["load_s"])) for b in first["builds"]]
    for record in records:
        samples += [{**s, "round": s["round"] + offset} for s in record["samples"]]
        offset = max((s["round"] for s in samples), default=0)
    for record in records[1:]:
        for build, more in zip(builds, record["builds"], strict=True):
            build["load_s"] += more["load_s"]
    pooled = {k: v for k, v in first.items() if k not in ("results", "ratios", "samples")}
    pooled |= {"builds": builds, "notes": list(dict.fromkeys(n for r in records for n in r["notes"]))}
    pooled["settings"] = {**first["settings"], "repetitions": sum(r["settings"]["repetitions"] for r in records)}
    return finish({**pooled, "samples": samples})


def _differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[str]:
    for key in _SAME_MACHINE:
        if a["machine"].get(key) != b["machine"].get(key):
            yield f"machine, {key}: {a['machine'].get(key)} and {b['machine'].get(key)}"
    for record in (a, b):
        if record["machine"].get("unknown"):
            yield f"machine: {record['machine']['unknown']}"
            break
    for key in sorted({*a["versions"], *b["versions"]}):
        if a["versions"].get(key) != b["versions"].get(key):
            yield f"version of {key}: {a['versions'].get(key)} and {b['versions'].get(key)}"
    for key in ("batch", "prefill_step_size", "prompt", "text", "warmups", "delay_s", "resident"):
        if a["settings"].get(key) != b["settings"].get(key):
            yield f"settings, {key}: {a['settings'].get(key)} and {b['settings'].get(key)}"
    mine, theirs = ([_identity(x) for x in r["builds"]] for r in (a, b))
    if mine != theirs:
        named = [", ".join(x[0] for x in builds) for builds in (mine, theirs)]
        yield f"builds: {named[0]} and {named[1]} are not the same builds in the same order"


def _identity(build: Mapping[str, Any]) -> tuple[str, str | None, str | None]:
    return str(build["name"]), build.get("manifest_sha256"), build.get("config_sha256")
