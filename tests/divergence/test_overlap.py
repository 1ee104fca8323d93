"""Documents that calibrated and judge: counted, warned of, and refused where there are no others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mlxquant.divergence.overlap import check_overlap, overlap_warning
from mlxquant.divergence.texts.documents import Documents, parse_line, read_documents
from mlxquant.divergence.texts.tokens import open_tokenizer
from mlxquant.errors import UsageError
from mlxquant.plan.recipe.variation import load_variation
from mlxquant.source.checkpoint import open_checkpoint
from mlxquant.stream.candidates import Candidate
from tests.support.texts import write_data

WEIGHED, SEARCHED = "gates-8bit:method=imatrix", "gates-8bit:method=mse"


@pytest.fixture(scope="module")
def documents(tiny, tmp_path_factory: pytest.TempPathFactory) -> Documents:
    data = write_data(tmp_path_factory.mktemp("data") / "texts.jsonl", 6)
    return read_documents(data, open_tokenizer(open_checkpoint(tiny("qwen3_moe"))))


def part(documents: Documents, *numbers: int) -> dict[str, Any]:
    """The description of a calibration on some of the documents and on one that is nowhere else."""
    hashes = [documents.documents[n].content_hash for n in numbers]
    return {"name": "x", "count": len(hashes) + 1, "xxh3_128": [*hashes, "0" * 32]}


def candidates(*names: str) -> list[Candidate]:
    return [Candidate(name, recipe=load_variation(name)) for name in names]


def test_a_document_is_the_same_under_another_id_cut_or_with_other_slices(tiny, tmp_path, documents):
    tokenizer = open_tokenizer(open_checkpoint(tiny("qwen3_moe")))
    lines = [json.loads(line) for line in write_data(tmp_path / "texts.jsonl", 6).read_text().splitlines()]
    changed = [{**line, "id": f"other-{i}", "slices": []} for i, line in enumerate(lines)]
    (tmp_path / "other.jsonl").write_text("\n".join(map(json.dumps, changed)))
    again = read_documents(tmp_path / "other.jsonl", tokenizer, max_tokens=3)
    assert [d.content_hash for d in again.documents] == [d.content_hash for d in documents.documents]
    assert len({d.content_hash for d in documents.documents}) == 6


def test_tools_are_part_of_a_document():
    line = {"messages": [{"role": "user", "content": "hi"}]}
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    hashes = {parse_line(json.dumps(each), 1, {}).content_hash for each in (line, {**line, "tools": tools})}
    assert len(hashes) == 2


def test_shared_documents_are_counted_for_calibrated_candidates_alone(documents):
    overlaps = check_overlap(candidates(SEARCHED, WEIGHED), documents, part(documents, 1, 4))
    assert overlaps == {WEIGHED: {"documents": 3, "judged": 2, "methods": ["imatrix"], "name": "x"}}
    assert "on 2 of the 6 documents judged on" in str(overlap_warning(overlaps[WEIGHED], 6))


def test_other_documents_give_no_warning(documents):
    overlaps = check_overlap(candidates(WEIGHED), documents, part(documents))
    assert overlaps == {WEIGHED: {"documents": 1, "judged": 0, "methods": ["imatrix"], "name": "x"}}
    assert overlap_warning(overlaps[WEIGHED], 6) is None


def test_judging_on_nothing_but_the_calibration_is_refused(documents):
    with pytest.raises(UsageError, match=r"method=imatrix: was calibrated on every document .* \(6\); give --data"):
        check_overlap(candidates(SEARCHED, WEIGHED), documents, part(documents, *range(6)))


def test_a_calibration_that_lists_no_documents_is_said_to(documents):
    overlaps = check_overlap(candidates(WEIGHED), documents, {"name": "x", "count": 9})
    assert overlaps == {WEIGHED: {"documents": 9, "judged": None, "methods": ["imatrix"], "name": "x"}}
    assert "does not list" in str(overlap_warning(overlaps[WEIGHED], 6))


def test_a_builds_manifest_says_what_calibrated_it(documents, tmp_path, monkeypatch):
    origin = {"encoder": {"encoders": [{"method": "imatrix", "columns": {"documents": part(documents, 0)}}]}}
    monkeypatch.setattr("mlxquant.divergence.overlap.read_manifest", lambda _: {"options": origin})
    overlaps = check_overlap([Candidate("b", build=Path(tmp_path))], documents, None)
    assert overlaps == {"b": {"documents": 2, "judged": 1, "name": "x"}}
