"""A pass that is killed goes on where it was, and ends as if nothing had happened."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mlxquant.errors import MlxquantError, OutputError, UsageError
from mlxquant.source.checkpoint import open_checkpoint
from mlxquant.stream.candidates import Candidate
from mlxquant.stream.engine import compare
from mlxquant.stream.options import CompareOptions
from mlxquant.stream.state import STATE
from mlxquant.words.progress import Progress
from tests.stream.compare_pass import Keeper, narrow, texts
from tests.support.builds import patch

ROOT = Path(__file__).resolve().parents[2]
# Runs a pass, and stands still in the middle of layer 2 until it is killed.
CHILD = """
import sys, time
from pathlib import Path
from tests.stream.test_compare_engine_resume import go
from tests.stream.compare_pass import Keeper

class Stands(Keeper):
    def layer(self, candidate, layer, case, document, start, scores):
        super().layer(candidate, layer, case, document, start, scores)
        if (candidate, layer, case, document) == (0, 2, "accumulated", 1):
            print("in the middle", flush=True)
            time.sleep(600)

go(Path(sys.argv[1]), Path(sys.argv[2]), Stands())
"""


def go(source: Path, work: Path | None, sink: Keeper, **options):
    """Run the pass that these tests are about. Gives its result and what it told on the way."""
    told: list[Progress] = []
    candidates = [Candidate("4", recipe=narrow("gates-8bit", bits=4)), Candidate("8", recipe=narrow("uniform-8bit"))]
    given = CompareOptions(**{"work": work, "keep_every_s": 0.0, "teacher_forced_routing": True, **options})
    return compare(open_checkpoint(source), candidates, texts((9, 20)), sink, given, told.append), told


@pytest.fixture(scope="module")
def undisturbed(tiny):
    """What the pass gives when nobody interferes."""
    sink = Keeper()
    go(tiny("qwen3_moe"), None, sink)
    return sink.whole()


def killed_in_layer_2(source: Path, work: Path) -> None:
    """Start the pass in a process of its own and kill it in the middle of a layer."""
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, str(source), str(work)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        text=True,
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "in the middle\n"
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL


@pytest.mark.slow
def test_a_killed_pass_goes_on_at_its_layer_and_ends_the_same(tiny, tmp_path, undisturbed):
    killed_in_layer_2(tiny("qwen3_moe"), tmp_path / "work")
    assert (tmp_path / "work" / STATE).is_file()
    sink = Keeper()
    result, told = go(tiny("qwen3_moe"), tmp_path / "work", sink)
    assert result.resumed_at == "2"
    assert told[0].resumed
    assert told[0].item == "going on at layer 2"
    whole = sink.whole()
    assert whole.keys() == undisturbed.keys()
    assert all(np.array_equal(whole[name], undisturbed[name]) for name in whole)
    assert result.bytes_read == result.source_bytes
    assert not (tmp_path / "work").exists()


def stopped_after_layer_1(source: Path, work: Path, **options) -> None:
    """Stop the pass in this process, as an interrupt would."""

    class Stops(Keeper):
        def layer(self, candidate, layer, case, document, start, scores):
            if layer == 2:
                raise KeyboardInterrupt
            super().layer(candidate, layer, case, document, start, scores)

    with pytest.raises(KeyboardInterrupt):
        go(source, work, Stops(), **options)


def test_an_interrupted_pass_goes_on_and_ends_the_same(tiny, tmp_path, undisturbed):
    stopped_after_layer_1(tiny("qwen3_moe"), tmp_path / "work")
    sink = Keeper()
    result, _ = go(tiny("qwen3_moe"), tmp_path / "work", sink)
    assert result.resumed_at == "2"
    whole = sink.whole()
    assert all(np.array_equal(whole[name], undisturbed[name]) for name in undisturbed)


@pytest.mark.slow
def test_another_pass_does_not_go_on_with_it(tiny, tmp_path):
    stopped_after_layer_1(tiny("qwen3_moe"), tmp_path / "work")
    with pytest.raises(OutputError, match=r"(?s)unfinished pass.*chunk: 2048 then, 8 now.*--fresh"):
        go(tiny("qwen3_moe"), tmp_path / "work", Keeper(), chunk=8)
    result, _ = go(tiny("qwen3_moe"), tmp_path / "work", Keeper(), chunk=8, fresh=True)
    assert result.resumed_at is None


def test_damaged_states_are_noticed_and_begun_anew(tiny, tmp_path, undisturbed):
    stopped_after_layer_1(tiny("qwen3_moe"), tmp_path / "work")
    for path in (tmp_path / "work").glob("hidden-*.bin"):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    sink = Keeper()
    result, _ = go(tiny("qwen3_moe"), tmp_path / "work", sink)
    assert result.resumed_at is None
    assert all(np.array_equal(array, undisturbed[name]) for name, array in sink.whole().items())


def test_a_folder_with_something_else_in_it_is_left_alone(tiny, tmp_path):
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "thesis.tex").write_text("mine")
    with pytest.raises(OutputError, match=r"thesis\.tex"):
        go(tiny("qwen3_moe"), tmp_path / "work", Keeper())
    assert [p.name for p in (tmp_path / "work").iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("theirs", ["state.npz", "hidden-0.bin", "lock", "source/model.safetensors"])
@pytest.mark.parametrize("fresh", [False, True])
def test_files_of_a_pass_by_name_alone_are_left_alone(tiny, tmp_path, theirs, fresh):
    path = tmp_path / "work" / theirs
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    with pytest.raises(OutputError, match="which mlxquant did not leave there"):
        go(tiny("qwen3_moe"), tmp_path / "work", Keeper(), fresh=fresh)
    assert path.read_text() == "mine"


def test_a_checkpoint_in_the_work_folder_of_another_pass_is_not_deleted(tiny, tmp_path):
    stopped_after_layer_1(tiny("qwen3_moe"), tmp_path / "work")
    shutil.copytree(tiny("qwen3_moe"), tmp_path / "work" / "source")
    before = sorted((tmp_path / "work").rglob("*"))
    with pytest.raises(UsageError, match="lies in the work folder"):
        go(tmp_path / "work" / "source", tmp_path / "work", Keeper(), fresh=True)
    with pytest.raises(OutputError, match="holds source, which mlxquant did not leave there"):
        go(tiny("qwen3_moe"), tmp_path / "work", Keeper(), fresh=True)
    assert sorted((tmp_path / "work").rglob("*")) == before


def test_a_pass_that_a_version_without_markers_began_is_gone_on_with(tiny, tmp_path):
    stopped_after_layer_1(tiny("qwen3_moe"), tmp_path / "work")
    (tmp_path / "work" / "lock").write_bytes(b"")
    result, _ = go(tiny("qwen3_moe"), tmp_path / "work", Keeper())
    assert result.resumed_at == "2"
    assert list((tmp_path / "work").iterdir()) == []


def test_an_empty_work_folder_that_was_there_stays(tiny, tmp_path):
    (tmp_path / "work").mkdir()
    go(tiny("qwen3_moe"), tmp_path / "work", Keeper())
    assert list((tmp_path / "work").iterdir()) == []


def test_a_refused_pass_leaves_no_folder_behind(tiny, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(tiny("llama"), broken)
    patch(broken, "model.embed_tokens.weight", b"\xc0\x7f" * 2000)
    with pytest.raises(MlxquantError, match="NaN"):
        go(broken, tmp_path / "work", Keeper())
    assert not (tmp_path / "work").exists()
