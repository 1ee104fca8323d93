"""A measurement's record: results and ratios from its samples, reading it back, pooling records of one machine.

A record keeps every sample; everything else in it is worked out from them by `finish`. Two builds are measured in
turn, so the pairs of one round saw the same machine, and a ratio is the mean of their log ratios, with Student's t:

    ratio = exp(mean(log(b / a)))        interval: exp(mean ± t(0.975, n - 1) · sd / sqrt(n))

    five rounds of 0.70, 0.71, 0.69, 0.70, 0.70: ratio 0.6999, interval 0.6912 … 0.7088 with t(0.975, 4) = 2.776

`validate` judges by the same measurements. Fewer than five rounds give no interval. Several records of the same builds
with the same settings are pooled, so that ratios get more rounds, but only where machine and versions agree: numbers of
two machines never meet in one ratio. Two machines of one description cannot be told apart. No mlx here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import exp, log
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

import numpy as np

from ..errors import RecordError
from ..records.files import read_checked
from ..records.schemas.sense import COUNTED
from ..stats import LEAST_CLUSTERS, Interval, clustered_mean
from .workload import Workload

Sample = Mapping[str, Any]
SCHEMA = "mlxquant.bench/1"
_PERCENTILES = (50, 90, 99)
# What must agree for samples to be of one kind; the rest of a machine's description is only told.
_SAME_MACHINE = ("chip", "architecture", "cores", "memory_bytes", "os", "gpu_cores", "power_mode", "device", "gpu")


def finish(record: Mapping[str, Any]) -> dict[str, Any]:
    """Work out from the samples: `results`, one a build and test; `measurements` of each build; `ratios` to the first.

    Ratios are the speeds' alone, as tables show them; measurements have those of latencies, too.
    """
    done = dict(record)
    samples, builds = done.pop("samples"), done["builds"]
    tests = list(dict.fromkeys(s["test"] for s in samples))
    done["results"] = [
        _result(i, test, samples) | _ceiling(builds[i], test, done) for test in tests for i in range(len(builds))
    ]
    for result in done["results"]:
        if result["tok_s"] and result["ceiling_tok_s"]:
            result["ceiling_share"] = round(result["tok_s"]["mean"] / result["ceiling_tok_s"], 4)
    done["builds"] = [
        {**build, "measurements": [m for test in tests for m in _measured(test, i, samples)]}
        for i, build in enumerate(builds)
    ]
    done["ratios"] = [
        _ratio(test, i, m)
        for test in tests
        for i, build in enumerate(done["builds"])
        for m in build["measurements"]
        if m["test"] == test and m["metric"] == f"{_speed_of(test)}_ratio"
    ]
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
        **Workload.parse(test).counts(),
        "tok_s": _summary(rates) if rates else None,
        "seconds": _summary([s["seconds"] for s in timed]) if timed else None,
        "ttft_s": _summary(ttft) if ttft else None,
        "inter_token_ms": {f"p{p}": round(float(np.percentile(gaps, p)), 4) for p in _PERCENTILES} if gaps else None,
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


def _summary(values: Sequence[float]) -> dict[str, Any]:
    """Mean, sample standard deviation (None for one value), median and extremes of at least one value."""
    sd = stdev(values) if len(values) > 1 else None
    figures = {"mean": fmean(values), "sd": sd, "median": median(values), "min": min(values), "max": max(values)}
    return {"n": len(values), **{k: round(v, 6) if isinstance(v, float) else v for k, v in figures.items()}}


# --- measurements ---


def with_measurements(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """The record, its measurements worked out where an earlier version wrote none."""
    return record if all("measurements" in build for build in record["builds"]) else finish(record)


def _speed_of(test: str) -> str:
    """What a test's tokens per second are called."""
    return "prefill_tok_s" if Workload.parse(test).n_prompt else "decode_tok_s"


def _measured(test: str, build: int, samples: Sequence[Sample]) -> Iterator[dict[str, Any]]:
    """A build's speed and latencies in a test, each with its ratio to the first build's where both were measured."""
    first, own = ([s for s in samples if s["test"] == test and s["build"] == i] for i in (0, build))
    values: dict[str, Callable[[Sample], float | None]] = {
        _speed_of(test): lambda s: _positive(s.get("tok_s")),
        "ttft_s": lambda s: _positive(s.get("ttft_s")),
        "inter_token_ms": _inter_token,
    }
    for metric, value in values.items():
        own_values, first_values = _by_round(own, value), _by_round(first, value)
        if not own_values:
            continue
        yield {"metric": metric, "test": test, **_over_rounds(own_values).as_dict()}
        logs = {r: log(v / first_values[r]) for r, v in own_values.items() if r in first_values}
        if build and logs:
            interval = _over_rounds(logs)
            ratio = interval.mapped("exp", exp(interval.estimate))
            yield {"metric": f"{metric}_ratio", "test": test, **ratio.as_dict()}
    peaks = [s["peak_memory_bytes"] for s in own if "failure" not in s and type(s.get("peak_memory_bytes")) is int]
    if peaks:
        most = float(max(peaks))
        yield {
            "metric": "peak_memory_bytes",
            "test": test,
            **Interval(most, most, most, 0.0, 1, 1, method=COUNTED).as_dict(),
        }


def _over_rounds(values: Mapping[int, float]) -> Interval:
    return clustered_mean(list(values.values()), list(values), share=False)


def _by_round(samples: Sequence[Sample], value: Callable[[Sample], float | None]) -> dict[int, float]:
    return {s["round"]: v for s in samples if "failure" not in s and (v := value(s)) is not None}


def _positive(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and value > 0 else None


def _inter_token(sample: Sample) -> float | None:
    gaps = [gap for gap in sample["token_s"] if _positive(gap)]
    return 1000 * median(gaps) if gaps else None


def _ratio(test: str, build: int, measurement: Mapping[str, Any]) -> dict[str, Any]:
    """A measured ratio of speeds as the tables of `bench` show it, and why it settles nothing where it does not."""
    interval, reason = Interval.from_dict(measurement), None
    if interval.low is None:
        reason = f"not resolved: {interval.n} rounds, an interval needs at least {LEAST_CLUSTERS} (-r)"
    elif not interval.excludes(1):
        reason = f"not resolved: the interval contains 1 after {interval.n} rounds"
    return {
        "test": test,
        "a": 0,
        "b": build,
        "n": interval.n,
        "ratio": interval.estimate,
        "low": interval.low,
        "high": interval.high,
        "confidence": interval.confidence,
        "resolved": reason is None,
        "reason": reason,
    }


# --- reading and pooling ---


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
