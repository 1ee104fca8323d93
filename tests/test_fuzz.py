"""Hostile files: no crash, hang, memory or path beyond what a file may ask for, and one message for each.

The corpus under `tests/fuzz/corpus` is tried in full, with a thousand mutations for each target; the slow run tries
60,000 and more of each, in processes of their own, with their memory measured.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxquant.errors import MlxquantError
from mlxquant.layout.layout import read_layout
from mlxquant.source.checkpoint import open_checkpoint
from mlxquant.source.index import INDEX
from mlxquant.words.formats import DTYPES
from tests.fuzz.__main__ import fuzz
from tests.fuzz.mutate import VALUES, mutated
from tests.fuzz.targets import TARGETS
from tests.support.safetensor_files import encoded, header

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_the_kept_corpus_is_read_or_refused(name):
    target = TARGETS[name]
    outcomes = [target.outcome(data) for data in target.seeds()]
    assert "read" in outcomes


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_a_thousand_mutations_are_read_or_refused(name):
    failed, _ = fuzz(TARGETS[name], 1000, seed=len(name))
    assert failed == []


# seed of each, so that every run tries the same
SLOW = {"header": 100_000, "index": 100_000, "config": 60_000, "recipe": 60_000, "manifest": 60_000, "set": 60_000}


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_tens_of_thousands_of_mutations_are_read_or_refused_in_little_memory(name):
    command = [sys.executable, "-m", "tests.fuzz", name, "--cases", str(SLOW[name]), "--seed", "2026"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run(command, capture_output=True, text=True, env=env, cwd=ROOT, timeout=900)
    record = json.loads(run.stdout.splitlines()[-1])
    assert record["failed"] == [], run.stderr
    assert record["cases"] == SLOW[name] and record["grown_bytes"] < 100 << 20


def test_mutations_are_the_same_for_the_same_seed():
    pool = TARGETS["header"].seeds()
    first, second = ([mutated(random, pool[0], pool) for _ in range(50)] for random in (Random(3), Random(3)))
    assert first == second


# --- whole checkpoints of strangers ---

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(VALUES),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
entries = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(sorted(DTYPES)) | json_values,
        "shape": st.lists(st.integers(0, 4), max_size=3) | json_values,
        "data_offsets": st.lists(st.integers(0, 64), min_size=2, max_size=2) | json_values,
    }
)
headers = st.dictionaries(st.sampled_from(["a", "b", "__metadata__"]) | st.text(max_size=5), entries | json_values)


@settings(max_examples=75)
@given(headers, st.binary(max_size=64), st.integers(-16, 16))
def test_any_header_is_read_or_refused(table, data, longer):
    text = json.dumps(table).encode()
    TARGETS["header"].outcome(encoded(text, data, length=max(0, len(text) + longer)))


@settings(max_examples=50)
@given(st.dictionaries(st.sampled_from(["weight_map", "metadata"]), json_values) | json_values)
def test_any_index_is_read_or_refused(table):
    TARGETS["index"].outcome(json.dumps(table).encode())


@settings(max_examples=50)
@given(st.binary(max_size=100), st.sampled_from(sorted(TARGETS)))
def test_any_bytes_are_read_or_refused(data, name):
    TARGETS[name].outcome(data)


@settings(max_examples=60)
@given(
    st.dictionaries(st.sampled_from(["a", "b", "c"]), st.sampled_from(["model.safetensors", "x.safetensors", "../x"])),
    st.lists(st.sampled_from(["a", "b", "c"]), unique=True, max_size=3),
    st.booleans(),
)
def test_any_index_over_any_shard_opens_or_is_refused(tmp_path_factory, weight_map, held, outside):
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    table = header({name: ("U8", [2]) for name in held})
    (folder / "model.safetensors").write_bytes(encoded(table, bytes(2 * len(held))))
    if outside:
        (folder.parent / "x").write_bytes(b"secret")
    try:
        found = open_checkpoint(folder)
    except MlxquantError as error:
        assert "secret" not in str(error)
        return
    assert set(found.tensors) == set(held) >= set(weight_map)
    exact = set(held) == set(weight_map) and set(weight_map.values()) == {"model.safetensors"}
    assert exact or any(note.startswith(f"{INDEX} is wrong") for note in found.notes)


CONFIG = {
    "model_type": "qwen3_moe", "hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 128,
    "num_attention_heads": 4, "num_key_value_heads": 2, "num_experts": 4, "num_experts_per_tok": 2,
    "decoder_sparse_step": 1, "mlp_only_layers": [], "moe_intermediate_size": 32, "rms_norm_eps": 1e-6,
    "vocab_size": 128, "rope_theta": 1e4, "tie_word_embeddings": False, "max_position_embeddings": 64,
    "norm_topk_prob": True, "head_dim": 16, "torch_dtype": "bfloat16", "layer_types": ["full_attention"] * 2,
}  # fmt: skip


def lay_out(folder: Path, config: Any) -> None:
    """Read a config and lay its model out; anything but an error of ours fails the test."""
    (folder / "config.json").write_text(json.dumps(config))
    try:
        read_layout(open_checkpoint(folder / "config.json"))
    except MlxquantError as error:
        assert str(error)


@pytest.mark.parametrize("key", sorted(CONFIG))
def test_a_config_with_any_value_anywhere_is_laid_out_or_refused(tmp_path, key):
    for value in VALUES:
        lay_out(tmp_path, CONFIG | {key: value})


@pytest.mark.parametrize(
    "key", ["text_config", "quantization_config", "architectures", "rope_scaling", "vision_config"]
)
def test_a_config_with_any_table_where_one_is_read_is_laid_out_or_refused(tmp_path, key):
    for value in VALUES:
        lay_out(tmp_path, CONFIG | {key: value})
        lay_out(
            tmp_path, CONFIG | {key: {"quant_method": value, "layer_types": value, "modules_to_not_convert": value}}
        )
