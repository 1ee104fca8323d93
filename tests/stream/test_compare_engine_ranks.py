"""A pass over several ranks gives what one gives: shares, merging, and two real processes over mlx's ring."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxquant.stream.candidates import Candidate
from mlxquant.stream.ranks import Ranks
from mlxquant.stream.state import pack, unpack
from tests.checkpoints import write_tiny_qwen3_5_moe
from tests.stream.compare_pass import narrow, run_pass, texts

ROOT = Path(__file__).resolve().parents[2]
LENGTHS = (9, 20, 4, 13, 6)
CHILD = """
import json, sys
from pathlib import Path
import mlx.core as mx
mx.set_default_device(mx.cpu)
import numpy as np
from tests.stream.compare_pass import Keeper, narrow, run_pass, texts
from tests.stream.test_compare_engine_ranks import LENGTHS, chosen

result, sink = run_pass(Path(sys.argv[1]), chosen(), texts(LENGTHS))
if result.rank == 0:
    np.savez(sys.argv[2], **sink.restored)
    told = {"ranks": result.ranks, "bytes_read": result.bytes_read, "source_bytes": result.source_bytes}
    Path(sys.argv[3]).write_text(json.dumps(told))
"""


def chosen() -> list[Candidate]:
    """One candidate is enough to see that nothing is lost."""
    return [Candidate("4", recipe=narrow("gates-8bit", bits=4))]


@given(st.lists(st.integers(1, 4000), min_size=1, max_size=60), st.integers(1, 5))
def test_shares_are_disjoint_complete_and_even(lengths, size):
    shares = [Ranks(None, rank, size).share(lengths) for rank in range(size)]
    assert sorted(i for share in shares for i in share) == list(range(len(lengths)))
    loads = [sum(lengths[i] for i in share) for share in shares]
    assert max(loads) - min(loads) <= max(lengths)


def test_one_rank_has_everything_in_order():
    assert Ranks(None).share([3, 9, 1]) == [0, 1, 2]


def test_states_travel_whole():
    state = {"a/b": np.arange(6, dtype=np.float64).reshape(2, 3), "c": np.array([True, False])}
    arrays, facts = unpack(io.BytesIO(pack(state, {"bytes_read": 7})))
    assert facts == {"bytes_read": 7}
    assert all(np.array_equal(arrays[k], v) and arrays[k].dtype == v.dtype for k, v in state.items())


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on just now."""
    sockets = [socket.socket() for _ in range(count)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [int(s.getsockname()[1]) for s in sockets]
    for s in sockets:
        s.close()
    return ports


def start(tmp_path: Path, *arguments: str) -> list[subprocess.Popen[str]]:
    """Two local ranks of one command, {rank} in its arguments being the rank; what mlx.launch's ring backend sets."""
    hosts = tmp_path / "hosts.json"
    hosts.write_text(json.dumps([[f"127.0.0.1:{port}"] for port in free_ports(2)]))
    env = {**os.environ, "PYTHONPATH": str(ROOT), "MLX_HOSTFILE": str(hosts)}
    return [
        subprocess.Popen(
            [sys.executable, *(a.format(rank=rank) for a in arguments)],
            env={**env, "MLX_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]


def command(folder: Path, *words: str) -> list[str]:
    """`mlxquant compare` of a checkpoint in a folder that is made if it is missing."""
    if not (folder / "source").exists():
        write_tiny_qwen3_5_moe(folder / "source", layers=4, hidden=64, mtp=False)
    recipe = ["-r", "gates-8bit:bits=4", "--group-size", "64", "--unaligned", "keep"]
    return ["-m", "mlxquant", "compare", str(folder / "source"), *recipe, "--no-own", *words]


def write_texts(path: Path, documents: int) -> str:
    path.write_text("".join(json.dumps({"text": f"order {i} has {i * 7} items"}) + "\n" for i in range(documents)))
    return str(path)


def measured(record: dict[str, Any]) -> dict[str, Any]:
    """A record without what a run took and when."""
    return {key: value for key, value in record.items() if key not in ("date", "pass", "machine")}


@pytest.mark.slow
@pytest.mark.parametrize("documents", [1, 6])
def test_the_command_under_two_ranks_writes_the_record_of_one(tmp_path, documents):
    data = write_texts(tmp_path / "data.jsonl", documents)
    asked = [*command(tmp_path, "--data", data), "--json", "-o"]
    alone = subprocess.run([sys.executable, *asked, str(tmp_path / "one.json")], capture_output=True, check=True)
    ranks = start(tmp_path, *asked, str(tmp_path / "two{rank}.json"), "--work", str(tmp_path / "work"))
    (out, _), silent = [r.communicate(timeout=120) for r in ranks]
    assert [r.returncode for r in ranks] == [0, 0]
    assert silent == ("", "")
    assert {p.name for p in tmp_path.iterdir()} == {"source", "data.jsonl", "hosts.json", "one.json", "two0.json"}
    record = json.loads(out)
    assert record == json.loads((tmp_path / "two0.json").read_text())
    assert record["pass"]["ranks"] == 2
    assert measured(record) == measured(json.loads(alone.stdout))


@pytest.mark.slow
def test_one_rank_with_bad_data_ends_both_with_one_line(tmp_path):
    write_texts(tmp_path / "0.jsonl", 3)
    (tmp_path / "1.jsonl").write_text("{bad\n")
    ranks = start(tmp_path, *command(tmp_path, "--data", str(tmp_path / "{rank}.jsonl")))
    silent, (out, said) = [r.communicate(timeout=120) for r in ranks]
    assert [r.returncode for r in ranks] == [3, 3]
    assert silent == ("", "") and out == ""
    assert said.startswith("mlxquant: rank 1 of 2: ") and "1.jsonl, line 1:" in said and said.count("\n") == 1


@pytest.mark.slow
def test_ranks_with_different_data_are_refused(tmp_path):
    for rank in (0, 1):
        write_texts(tmp_path / f"{rank}.jsonl", 3 + rank)
    ranks = start(tmp_path, *command(tmp_path, "--data", str(tmp_path / "{rank}.jsonl")))
    (_, said), silent = [r.communicate(timeout=120) for r in ranks]
    assert [r.returncode for r in ranks] == [2, 3]
    assert silent == ("", "")
    assert said == "mlxquant: rank 1 has other data, recipes or options than rank 0; give all ranks the same\n"


@pytest.mark.slow
def test_two_local_ranks_give_what_one_gives(tiny, tmp_path):
    source = tiny("qwen3_moe")
    hosts = tmp_path / "hosts.json"
    hosts.write_text(json.dumps([[f"127.0.0.1:{port}"] for port in free_ports(2)]))
    arguments = [sys.executable, "-c", CHILD, str(source), str(tmp_path / "sink.npz"), str(tmp_path / "told.json")]
    # what mlx.launch sets for its ring backend
    env = {**os.environ, "PYTHONPATH": str(ROOT), "MLX_HOSTFILE": str(hosts)}
    ranks = [subprocess.Popen(arguments, cwd=ROOT, env={**env, "MLX_RANK": str(r)}) for r in (0, 1)]
    assert [r.wait(timeout=300) for r in ranks] == [0, 0]
    _, alone = run_pass(source, chosen(), texts(LENGTHS))
    wanted = alone.state()
    with np.load(tmp_path / "sink.npz") as found:
        assert set(found) == set(wanted)
        assert all(np.array_equal(found[name], wanted[name]) for name in wanted)
    told = json.loads((tmp_path / "told.json").read_text())
    assert told["ranks"] == 2
    assert told["bytes_read"] == 2 * told["source_bytes"]
