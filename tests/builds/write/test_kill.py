"""The real command, killed and interrupted while it works."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mlxquant.builds.write.pieces import outputs, pieces
from mlxquant.disk.journal import read_entries
from mlxquant.layout.layout import read_layout
from mlxquant.plan.plan import make_plan
from mlxquant.plan.recipe.recipe import load_recipe
from mlxquant.source.checkpoint import open_checkpoint
from tests.checkpoints import Size, write_tiny
from tests.support.builds import contents

COMMAND = [sys.executable, "-m", "mlxquant"]
LOST_AT_MOST = 256 << 20


def start(source: Path, out: Path, root: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, "convert", str(source), "-r", "uniform-8bit", "-o", str(out)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(root)},
    )  # fmt: skip


def journal_of(out: Path) -> Path:
    return out.with_name(f"{out.name}.partial") / "journal.jsonl"


def until_at_work(process: subprocess.Popen[str], out: Path) -> None:
    """Wait until shards are being filled: a bar to kill at any time at all would mostly kill imports."""
    while process.poll() is None and not list(journal_of(out).parent.glob("build/*.safetensors")):
        time.sleep(0.005)


def written(process: subprocess.Popen[str]) -> int | None:
    """Bytes that a process has written so far; Linux tells."""
    try:
        lines = Path(f"/proc/{process.pid}/io").read_text().splitlines()
    except OSError:
        return None
    return next(int(line.split()[1]) for line in lines if line.startswith("wchar"))


def test_ctrl_c_says_what_is_kept_and_leaves_no_out(tmp_path, root):
    write_tiny(tmp_path / "source", "qwen3_moe", Size(layers=4, hidden=512, experts=32, inner=512))
    out = tmp_path / "out"
    process = start(tmp_path / "source", out, root)
    until_at_work(process, out)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert stdout == ""
    *opening, stopped = stderr.splitlines()
    assert all(line.startswith("mlxquant: reads ") for line in opening[:1]) and len(opening) <= 1
    assert stopped.startswith("mlxquant: stopped; ")
    assert not out.exists()
    unfinished = out.with_name("out.partial")
    assert (f"kept in {unfinished}" in stderr) == unfinished.exists()


@pytest.mark.slow
def test_twenty_random_kills_lose_little_and_no_build_differs(tmp_path, root):
    """A build that got finished between two kills is compared, and begun anew."""
    source, out, chance = tmp_path / "source", tmp_path / "out", random.Random(20)
    write_tiny(source, "qwen3_5_moe", Size(layers=2, hidden=1024, experts=48, inner=512))
    sizes = piece_sizes(source)
    process = start(source, tmp_path / "whole", root)
    until_at_work(process, tmp_path / "whole")
    began = time.monotonic()
    assert process.wait() == 0
    work_s = time.monotonic() - began
    whole = contents(tmp_path / "whole")
    kills, finished, lost = 0, 0, list[int]()
    while kills < 20 or not finished:
        before = journaled(out, sizes)
        process = start(source, out, root)
        until_at_work(process, out)
        time.sleep(chance.uniform(0, work_s))
        count = written(process)
        if kills < 20:
            process.kill()
        process.communicate()
        if process.returncode == -signal.SIGKILL:
            kills += 1
            if count is not None and not out.exists():
                lost.append(count - journaled(out, sizes) + before)
        else:
            assert process.returncode == 0
        if out.exists():
            if journal_of(out).parent.exists():  # killed between the renaming and the clean-up
                assert start(source, out, root).wait() == 0
            assert contents(out) == whole
            shutil.rmtree(out)
            finished += 1
    print(f"{kills} kills, {finished} builds, at most {max(lost, default=0):,} of {sum(sizes.values()):,} bytes lost")
    assert max(lost, default=0) < LOST_AT_MOST


def piece_sizes(source: Path) -> dict[tuple[str, int], int]:
    """Output bytes of each piece that a journal may tell of."""
    opened = open_checkpoint(source)
    layout = read_layout(opened)
    plan = make_plan(layout, load_recipe("uniform-8bit"), opened)
    return {p.key: p.nbytes for output in outputs(plan, layout.views) for p in pieces(output)}


def journaled(out: Path, sizes: dict[tuple[str, int], int]) -> int:
    """Output bytes of the pieces that a journal tells of."""
    entries, _ = read_entries(journal_of(out))
    return sum(sizes[key] for key in {(e["job"], e["start"]) for e in entries[1:] if e})
