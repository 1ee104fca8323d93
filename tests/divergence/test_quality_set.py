"""The built-in documents are many, varied, of all slices, and made by the script that is said to have made them."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from collections import Counter
from itertools import combinations
from typing import Any

import pytest

from mlxquant.divergence.texts.documents import BUILTIN_FILE, read_documents

RECORDS: list[dict[str, Any]] = [json.loads(line) for line in BUILTIN_FILE.read_text(encoding="utf-8").splitlines()]
SLICES = (
    "tool_call", "json", "numeric", "arithmetic", "copy", "code", "refusal:due", "refusal:undue", "grounded",
    "long_loop", "language:en", "language:de", "language:fr", "language:es", "language:zh",
)  # fmt: skip


def words(record: dict[str, Any]) -> set[tuple[str, ...]]:
    """Runs of five words, or of five characters where words are not parted; what all share (system, tools) left out."""
    said = [m["content"] or json.dumps(m.get("tool_calls")) for m in record["messages"] if m["role"] != "system"]
    parts = list("".join(said)) if "language:zh" in record["slices"] else " ".join(said).split()
    return {tuple(parts[i : i + 5]) for i in range(len(parts) - 4)}


def of(name: str) -> list[dict[str, Any]]:
    return [record for record in RECORDS if name in record["slices"]]


def answers(record: dict[str, Any]) -> list[str]:
    return [m["content"] for m in record["messages"] if m["role"] == "assistant" and m["content"]]


def test_there_are_at_least_200_documents_in_a_megabyte_with_ids_of_their_own():
    assert len(RECORDS) >= 200 and BUILTIN_FILE.stat().st_size < 1.05 * 2**20
    assert len({record["id"] for record in RECORDS}) == len(RECORDS)


@pytest.mark.parametrize("name", SLICES)
def test_a_slice_has_enough_documents_for_an_interval(name):
    assert len(of(name)) >= 20


def test_the_slices_that_eval_has_too_are_called_as_there():
    from mlxquant.evals.suites.catalog import Choice, open_suites

    items = [item for suite in open_suites(["contracts"], Choice((5,), 1)) for item in suite.items()]
    shared = {"json", "copy", "arithmetic", "grounded", "numeric", "refusal", "refusal:due", "refusal:undue"}
    assert shared <= {name for item in items for name in item.slices}
    assert shared <= {name for record in RECORDS for name in record["slices"]}


def test_no_two_documents_are_near_copies():
    runs = {record["id"]: words(record) for record in RECORDS}
    assert all(len(found) > 15 for found in runs.values())
    shares = {(a, b): len(runs[a] & runs[b]) / min(len(runs[a]), len(runs[b])) for a, b in combinations(runs, 2)}
    assert {pair: share for pair, share in shares.items() if share > 0.8} == {}


def test_json_answers_parse():
    found = 0
    for record in of("json"):
        for answer in answers(record):
            assert isinstance(json.loads(re.sub(r"^```json\n|\n```$", "", answer)), (dict, list))
            found += 1
    assert found >= 40


def test_sums_are_right():
    for record in of("arithmetic"):
        for left, right in re.findall(r"(\d+ × \d+) = (\d+)$", "\n".join(answers(record)), re.MULTILINE):
            a, b = left.split(" × ")
            assert int(a) * int(b) == int(right)
        if "sum" in record["id"]:
            asked = re.findall(r"\d+", record["messages"][0]["content"])
            assert f"The sum is {sum(map(int, asked))}." in answers(record)[0]


def test_programs_parse():
    for record in of("code"):
        text = "\n".join(m["content"] for m in record["messages"])
        for language, program in re.findall(r"```(\w+)\n(.*?)```", text, re.DOTALL):
            if language == "python":
                ast.parse(program)
            elif language == "toml":
                tomllib.loads(program)


def test_calls_fit_the_schemas_of_their_documents():
    from jsonschema import Draft202012Validator as Validator

    for record in of("tool_call"):
        functions = [tool["function"] for tool in record["tools"]]
        schemas = {function["name"]: Validator(function["parameters"]) for function in functions}
        for message in record["messages"]:
            for call in message.get("tool_calls", ()):
                arguments = call["function"]["arguments"]
                arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
                assert schemas[call["function"]["name"]].is_valid(arguments)


def test_calls_come_with_arguments_as_text_and_as_objects():
    kinds = Counter(
        type(call["function"]["arguments"]).__name__
        for record in of("tool_call")
        for message in record["messages"]
        for call in message.get("tool_calls", ())
    )
    assert kinds["str"] >= 50 and kinds["dict"] >= 50


def test_every_call_is_answered():
    for record in of("tool_call"):
        called = [call["id"] for m in record["messages"] for call in m.get("tool_calls", ())]
        assert called == [m["tool_call_id"] for m in record["messages"] if m["role"] == "tool"]


def test_the_script_makes_these_very_bytes(root, tmp_path):
    """But for the store's tool loops, which follow that package: those are a snapshot."""
    script = "import sys, json; sys.path.insert(0, sys.argv[1]); from benchmarks.quality_set.make import documents\n"
    script += "for d in documents(): print(json.dumps(d, ensure_ascii=False, separators=(',', ':')))"
    done = subprocess.run(
        [sys.executable, "-X", "utf8", "-c", script, str(root)], capture_output=True, check=True, cwd=tmp_path
    ).stdout.decode().splitlines()  # fmt: skip
    kept = BUILTIN_FILE.read_text(encoding="utf-8").splitlines()
    assert done == [line for line in kept if '"store"' not in line[:120]]


@pytest.mark.slow
def test_it_reads_with_a_models_tokenizer_and_fills_depths_and_slices(tmp_path):
    from mlx_lm.tokenizer_utils import load

    from tests.checkpoints.tokenizer import write_tokenizer

    write_tokenizer(tmp_path)
    read = read_documents("builtin", load(tmp_path))
    assert len(read.documents) == len(RECORDS) and read.notes == ()
    loops = [d for d in read.documents if "long_loop" in d.slices]
    assert all(len(d.tokens) > 4096 and d.turns.max() >= 4 for d in loops)
    for name in ("in:tool_call", "in:json", "in:numeric", "in:assistant"):
        assert sum(name in d.spans for d in read.documents) >= 20
