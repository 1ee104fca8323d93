"""Builds of every method, bits and group, each by the command that a user runs, with what it took.

A build is made once; its entry beside it has the seconds, or the error of what did not run. Every process has one
thread of BLAS and one worker, so that CPU seconds are those of one core.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .models import ROOT, Model

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
MLXQUANT = [sys.executable, "-m", "mlxquant"]
LAST = 400


@dataclass(frozen=True, slots=True)
class Build:
    """One way to make a build; `peer` is the tool of mlx-lm that makes it, `recipe` ours where that is None."""

    bits: int
    group: int
    method: str
    by_role: bool = False
    peer: str | None = None

    @property
    def name(self) -> str:
        """The folder's name."""
        kind = f"roles-{self.bits}bit" if self.by_role else f"{self.bits}bit-g{self.group}"
        return f"{self.peer or kind}-{self.bits}bit" if self.peer else f"{kind}-{self.method}"

    @property
    def recipe(self) -> str:
        """The recipe, as a variation."""
        if self.by_role:
            return f"roles-{self.bits}bit:method={self.method}"
        return f"gates-8bit:bits={self.bits},group_size={self.group},method={self.method}"

    @property
    def base(self) -> Build:
        """Rounding at the same bits and group: what its KL is a share of."""
        return Build(self.bits, self.group, "rtn")


def calibrated(model: Model, folder: Path) -> Path:
    """The model's calibration, measured where it is not there yet."""
    path = folder / "model.cal"
    if not path.exists():
        command = [*MLXQUANT, "calibrate", str(model.source), "--data", str(model.calibrate)]
        entry = timed([*command, "-o", str(path)])
        if not path.exists():
            raise SystemExit(f"{path}: {entry['error']}")
        path.with_suffix(".json").write_text(json.dumps(entry), "utf-8")
    return path


def make(model: Model, build: Build, folder: Path) -> dict[str, Any]:
    """Make a build, or run the tool of mlx-lm that does; its entry: CPU and wall seconds, bytes, `error`."""
    out, entry = folder / build.name, folder / f"{build.name}.json"
    if entry.exists():
        return dict(json.loads(entry.read_text("utf-8")))
    if build.peer:
        parts = (model.source, model.calibrate, folder / build.base.name)
        command = [sys.executable, str(Path(__file__).with_name("peers.py")), build.peer, *map(str, parts)]
        command += [str(out), "--bits", str(build.bits), "--group-size", str(build.group)]
    else:
        command = [*MLXQUANT, "convert", str(model.source), "-r", build.recipe, "-o", str(out), "--jobs", "1"]
        if build.method == "imatrix":
            command += ["--calibration", str(calibrated(model, folder))]
        elif build.method not in ("rtn", "mse"):
            command += ["--data", str(model.calibrate)]
    kernels = compiled()
    result = timed(command)
    if build.peer is None and compiled() != kernels:  # a kernel's first use compiles it, which is no part of the cost
        shutil.rmtree(out, ignore_errors=True)
        result = timed(command)
    if "error" not in result:
        result["bytes"] = weight_bytes(out)
    entry.write_text(json.dumps(result), "utf-8")
    return result


def compiled() -> int:
    """How many compiled kernels numba has kept beside the package."""
    return sum(1 for _ in (ROOT / "mlxquant").rglob("*.nbc"))


def timed(command: Sequence[str]) -> dict[str, Any]:
    """Run a program with one thread of BLAS; its seconds, and the last line that it said where it failed."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **ONE_THREAD})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    entry: dict[str, Any] = {"cpu_s": round(cpu, 2), "wall_s": round(time.monotonic() - began, 2)}
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        entry["error"] = (lines[-1] if lines else f"exit code {done.returncode}")[-LAST:]
    return entry


def float32(build: Path, out: Path) -> None:
    """Write a build's weights as they are, in float32: what a CPU computes fastest, with the same weights."""
    entry = timed([*MLXQUANT, "convert", str(build), "-r", "none", "--dtype", "float32", "-o", str(out)])
    if "error" in entry:
        raise SystemExit(f"{build}: {entry['error']}")


def weight_bytes(build: Path) -> int:
    """Bytes of a build's arrays, without the headers of its files."""
    total = 0
    for file in build.glob("*.safetensors"):
        with file.open("rb") as stream:
            total += file.stat().st_size - 8 - int.from_bytes(stream.read(8), "little")
    return total


def identity(build: Path) -> str:
    """What a build's weights are known by: a hash of its shards, which figures are kept under."""
    digest = hashlib.sha256()
    for file in sorted(build.glob("*.safetensors")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]
