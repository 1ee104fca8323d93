"""KL of builds by document, in passes of `compare`, and what agent loops get right; kept by a build's weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlxquant.divergence.statistics import token_measurements
from mlxquant.divergence.tally import ACCUMULATED, TOKEN_FIELDS, Tally
from mlxquant.divergence.texts.documents import read_documents
from mlxquant.divergence.texts.tokens import open_tokenizer
from mlxquant.source.checkpoint import open_checkpoint
from mlxquant.stream.candidates import Candidate
from mlxquant.stream.engine import compare
from mlxquant.stream.options import CompareOptions

from .building import MLXQUANT, float32, identity, timed
from .models import Model

KL = TOKEN_FIELDS.index("kl")
AT_ONCE = 6
# A loop's answers have some 20 tokens; a build that never ends one need not go on for long
ANSWER_TOKENS, CALLS, FIRST_SEED = 128, 5, 8_000_000


class Kept:
    """Figures by name and weights in a file, so that an interrupted run goes on and a new build is judged anew."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.exists() else {}

    def get(self, build: Path) -> Any:
        """What is kept of a build as it is now, or None."""
        return self.entries.get(f"{build.name} {identity(build)}")

    def put(self, build: Path, figures: Any) -> None:
        """Keep a build's figures."""
        self.entries[f"{build.name} {identity(build)}"] = figures
        self.path.write_text(json.dumps(self.entries), "utf-8")


def judge(model: Model, builds: list[Path], kept: Kept) -> dict[str, Any]:
    """By build: `kl`, sums by document in nats; `tokens` by document; `alike`, the share with the same top token."""
    todo = [build for build in builds if kept.get(build) is None]
    checkpoint = open_checkpoint(model.source)
    documents = read_documents(model.judge, open_tokenizer(checkpoint)).documents
    for start in range(0, len(todo), AT_ONCE):
        some, tally = todo[start : start + AT_ONCE], Tally(documents)
        options = CompareOptions(noise_floor=False, own=False)
        compare(checkpoint, [Candidate(b.name, build=b) for b in some], documents, tally, options)
        for i, build in enumerate(some):
            top = [m for m in token_measurements(tally, i, 0.95) if m["metric"] == "same_top" and "case" not in m]
            alike = next(m for m in top if m.get("slice") == model.said and "depth" not in m and "turn" not in m)
            sums = tally.token_sums(i, ACCUMULATED)[0]
            figures = {"kl": sums[:, KL].tolist(), "tokens": sums[:, 0].tolist()}
            kept.put(build, {**figures, "alike": {k: alike[k] for k in ("estimate", "low", "high")}})
    return {build.name: kept.get(build) for build in builds}


def loops(model: Model, builds: list[Path], kept: Kept, tasks: int, work: Path) -> dict[str, Any]:
    """By build: loops of 5 calls that it passes, and calls with nothing wrong, each with an interval by loop.

    The weights are the build's, computed in float32. "baseline" has the figures of full precision.
    """
    todo = [build for build in builds if kept.get(build) is None]
    for start in range(0, len(todo), AT_ONCE):
        some = todo[start : start + AT_ONCE]
        shutil.rmtree(work / "some", ignore_errors=True)
        record = play(model.source, some, tasks, work / "some", work / "baseline")
        kept.entries["baseline"] = right(record["baseline"])
        for build, side in zip(some, record["candidates"], strict=True):
            kept.put(build, right(side))
    return {build.name: kept.get(build) for build in builds} | {"baseline": kept.entries.get("baseline")}


def play(source: Path, builds: Sequence[Path], tasks: int, folder: Path, baseline: Path) -> dict[str, Any]:
    """The record of `eval` for builds beside full precision, in loops of 5 calls; `folder` keeps it.

    The weights are the builds', computed in float32; `baseline` is where full precision's lie.
    """
    path = folder / "eval.json"
    if not path.exists():
        for origin, out in ((source, baseline), *((build, folder / build.name) for build in builds)):
            if not out.exists():
                float32(origin, out)
        command = [*MLXQUANT, "eval", "--baseline", str(baseline), "-o", str(path)]
        for build in builds:
            command += ["--candidate", str(folder / build.name)]
        command += ["--calls", str(CALLS), "--tasks", str(tasks), "--max-tokens", str(ANSWER_TOKENS)]
        command += ["--first-seed", str(FIRST_SEED)]
        entry = timed(command)
        if not path.exists():
            raise SystemExit(f"eval: {entry.get('error', 'no record')}")
    record: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return record


def right(side: dict[str, Any]) -> dict[str, Any]:
    """The shares of loops and calls that are right, over everything."""
    of_all = {m["metric"]: m for m in side["measurements"] if not {"depth", "slice", "suite"} & set(m)}
    return {name: {k: of_all[name][k] for k in ("estimate", "low", "high", "n")} for name in ("pass", "right_call")}
