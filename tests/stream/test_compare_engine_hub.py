"""A model on the Hub is judged without ever lying on the disk whole."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mlxquant.source.hub.open import open_source
from mlxquant.source.hub.reader import AHEAD, CONNECTIONS
from mlxquant.stream.candidates import Candidate
from mlxquant.stream.engine import compare
from mlxquant.stream.options import CompareOptions
from mlxquant.words.progress import Progress
from tests.checkpoints import write_tiny_qwen3_5_moe
from tests.source.hub.hub_server import HubServer, hub_with
from tests.stream.compare_pass import Keeper, narrow, run_pass, texts

SHARDS = 12


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    write_tiny_qwen3_5_moe(tmp_path / "many", shards=SHARDS)
    return tmp_path / "many"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, checkpoint: Path) -> Iterator[HubServer]:
    with hub_with("org/many", checkpoint, monkeypatch, tmp_path / "hub") as server:
        yield server


@pytest.mark.slow
def test_shards_come_and_go_with_the_layers_and_scores_are_those_of_the_folder(hub, checkpoint, tmp_path):
    candidates, documents, work = [Candidate("8", recipe=narrow("uniform-8bit"))], texts((9, 5)), tmp_path / "work"
    present: list[int] = []

    def look(_: Progress) -> None:
        present.append(len(list((work / "source").glob("*.safetensors"))))

    sink = Keeper()
    source = open_source("org/many", weights=True)
    result = compare(source, candidates, documents, sink, CompareOptions(work=work), look)
    _, local = run_pass(checkpoint, candidates, documents)
    assert all(np.array_equal(array, sink.state()[name]) for name, array in local.state().items())
    assert result.bytes_read == result.source_bytes
    assert 0 < max(present) <= AHEAD + CONNECTIONS + 3 < SHARDS, present
    assert present[-1] == 0
    assert not work.exists()


@pytest.mark.slow
@pytest.mark.parametrize("hashed", [True, False])
def test_the_record_says_whether_the_shards_were_held_against_a_hash(hub, tmp_path, hashed):
    from mlxquant.divergence.record import Question, run_comparison

    hub.repositories["org/many"].hashed = hashed
    data = tmp_path / "data.jsonl"
    data.write_text('{"text": "A short document."}\n{"text": "And another one of its kind."}\n')
    candidates = [Candidate("8", recipe=narrow("uniform-8bit"))]
    record, _ = run_comparison(open_source("org/many", weights=True), candidates, Question(data=data))
    assert record["pass"]["sha256_checked"] is hashed
    assert any("not checked against a SHA-256" in note for note in record["notes"]) is not hashed
