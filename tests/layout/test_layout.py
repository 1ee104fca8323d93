"""From a checkpoint's names to MLX's: which arrays, of which shapes and dtypes, and every misfit told at once."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from mlxquant.errors import LayoutError, SourceError
from mlxquant.layout.arrays import tensors_of
from mlxquant.layout.layout import Layout, read_layout
from mlxquant.source.checkpoint import Checkpoint, open_checkpoint
from mlxquant.words.formats import Format
from mlxquant.words.modules import Module
from tests.support.architectures import TABLE, config_of
from tests.support.safetensor_files import encoded, header, rewrite_header


@pytest.fixture
def qwen(tiny_qwen: Path, tmp_path: Path) -> Path:
    """A copy of the tiny Qwen3.5-MoE checkpoint, to be changed."""
    return Path(shutil.copytree(tiny_qwen, tmp_path / "qwen"))


def change_config(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


def rename(folder: Path, old: str, new: str) -> None:
    """Give a tensor another name, in its shard and in the index."""
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    file = index["weight_map"].pop(old)
    index["weight_map"][new] = file
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    rewrite_header(folder / file, lambda table: {(new if name == old else name): v for name, v in table.items()})


def reshape(folder: Path, name: str, shape: list[int]) -> None:
    """Give a tensor another shape of the same size."""
    index = json.loads((folder / "model.safetensors.index.json").read_text())

    def change(table: Any) -> None:
        table[name]["shape"] = shape

    rewrite_header(folder / index["weight_map"][name], change)


def read(folder: Path, **options: Any) -> Layout:
    return read_layout(open_checkpoint(folder), **options)


def refused(folder: Path) -> str:
    with pytest.raises(LayoutError) as caught:
        read(folder)
    return str(caught.value)


def by_path(layout: Layout) -> dict[str, Module]:
    return {m.path: m for m in layout.modules}


def alone(config: dict[str, Any], **options: Any) -> Layout:
    return read_layout(Checkpoint("test", None, config, {}, {}), **options)


# --- what a layout is ---


def test_arrays_come_in_the_order_and_shape_of_mlx_lms_model(tiny_any):
    layout = read(tiny_any)
    want = {name: tuple(a.shape) for name, a in dict(tree_flatten(layout.model.parameters())).items()}
    got = {f"{m.path}.{a.name}".rstrip("."): a.shape for m in layout.modules for a in m.arrays}
    assert list(dict.fromkeys(name.rpartition(".")[0] for name in got)) == list(
        dict.fromkeys(name.rpartition(".")[0] for name in want)
    )
    assert got == want


def test_every_array_is_made_of_stored_tensors_and_every_tensor_is_used_or_dropped(tiny_any):
    source = open_checkpoint(tiny_any)
    layout = read_layout(source)
    used = {name for view in layout.views.values() for name in tensors_of(view)}
    assert used | set(layout.dropped) == set(source.tensors)
    assert not used & set(layout.dropped)


def test_the_vision_tower_and_multi_token_prediction_are_dropped(tiny):
    dropped = read(tiny("qwen3_5_moe_vision")).dropped
    assert {name.split(".")[0 if name.startswith("mtp") else 1] for name in dropped} == {"mtp", "visual"}


def test_fused_experts_become_three_stacked_projections(tiny_qwen):
    layout = read(tiny_qwen)
    modules, path = by_path(layout), "language_model.model.layers.0.mlp.switch_mlp"
    config = layout.model.language_model.args
    shape = (config.num_experts, config.moe_intermediate_size, config.hidden_size)
    assert modules[f"{path}.gate_proj"].shape == modules[f"{path}.up_proj"].shape == shape
    gate, up = (layout.views[f"{path}.{name}_proj.weight"] for name in ("gate", "up"))
    assert set(tensors_of(gate)) == set(tensors_of(up)) == {"model.language_model.layers.0.mlp.experts.gate_up_proj"}


def test_what_the_class_says_of_quantization_is_kept_with_each_module(tiny):
    modules = by_path(read(tiny("qwen3_5_moe")))
    assert modules["language_model.model.layers.0.mlp.gate"].model_rule == Format(8, 64)
    assert modules["language_model.model.layers.0.mlp.switch_mlp.up_proj"].model_rule is True
    assert {m.model_rule for m in read(tiny("mixtral")).modules} == {None}


def test_only_what_mlx_can_quantize_is_called_quantizable(tiny_any):
    layout = read(tiny_any)
    tree = dict(layout.model.named_modules())
    for m in layout.modules:
        assert m.quantizable == hasattr(tree.get(m.path), "to_quantized"), m.path


def test_a_config_alone_gives_the_same_modules_as_the_checkpoint(tiny_any):
    whole, config = read(tiny_any), read(tiny_any / "config.json")
    keys = [[(m.path, m.kind, m.shape, m.quantizable, m.prequantized) for m in x.modules] for x in (whole, config)]
    assert keys[0] == keys[1] and not config.views and not config.dropped


def test_a_config_alone_gives_the_same_bytes_as_the_checkpoint(tiny_qwen):
    whole, config = read(tiny_qwen), read(tiny_qwen / "config.json")
    assert [a.dtype for m in whole.modules for a in m.arrays] == [a.dtype for m in config.modules for a in m.arrays]


# --- what does not fit ---

NORM = "model.language_model.norm.weight"
EMBED = "model.language_model.embed_tokens.weight"
Q = "model.language_model.layers.3.self_attn.q_proj.weight"


def test_a_shape_that_contradicts_the_config_is_told_with_both(qwen):
    def widen(config: dict[str, Any]) -> None:
        config["text_config"]["vocab_size"] = 1024

    change_config(qwen, widen)
    message = refused(qwen)
    assert f"language_model.model.embed_tokens.weight: {EMBED} gives shape [512, 128]" in message
    assert "config.json asks for [1024, 128]" in message


def test_a_tensor_of_the_right_size_in_the_wrong_shape_is_told(qwen):
    reshape(qwen, EMBED, [256, 256])
    assert "gives shape [256, 256], config.json asks for [512, 128]" in refused(qwen)


def test_a_missing_tensor_is_told_by_its_mlx_name(qwen):
    rename(qwen, NORM, "mtp.norm2.weight")  # mlx-lm drops what begins with mtp
    assert refused(qwen) == "language_model.model.norm.weight: not in the checkpoint; a shard may be missing"


def test_an_unexpected_tensor_is_told_by_its_own_name(qwen):
    rename(qwen, "mtp.fc.weight", "model.language_model.layers.0.surprise.weight")
    assert refused(qwen) == (
        "model.language_model.layers.0.surprise.weight: unexpected; mlx-lm's qwen3_5_moe has no"
        " language_model.model.layers.0.surprise.weight"
    )


def test_all_misfits_are_told_at_once(qwen):
    rename(qwen, NORM, "model.language_model.norm2.weight")
    reshape(qwen, EMBED, [256, 256])
    lines = refused(qwen).splitlines()
    assert len(lines) == 3
    assert [word for line in lines for word in ("shape", "not in the checkpoint", "unexpected") if word in line] == [
        "shape",
        "not in the checkpoint",
        "unexpected",
    ]


def test_a_config_of_another_model_is_one_cause_with_a_few_examples(qwen):
    def widen(config: dict[str, Any]) -> None:
        config["text_config"]["hidden_size"] = 256

    change_config(qwen, widen)
    lead, *examples = refused(qwen).splitlines()
    assert re.fullmatch(r"config\.json does not describe these shards: \d+ of \d+ arrays differ; the first:", lead)
    assert len(examples) == 5 and all("config.json asks for" in line for line in examples)


def test_an_array_that_is_called_the_same_on_both_sides_is_named_once(tiny, tmp_path):
    folder = tmp_path / "mixtral"
    shutil.copytree(tiny("mixtral"), folder)
    reshape(folder, "model.norm.weight", [1, 128])
    assert refused(folder) == ("model.norm.weight: the shards give shape [1, 128], config.json asks for [128]")


def test_experts_that_the_shards_lack_are_told_as_missing_tensors(tiny, tmp_path):
    folder = tmp_path / "mixtral"
    shutil.copytree(tiny("mixtral"), folder)
    change_config(folder, lambda config: config.update(num_local_experts=2 * config["num_local_experts"]))
    message = refused(folder)
    assert "config.json asks for tensors that the checkpoint lacks, the first: model.layers.0." in message
    assert "KeyError" not in message


def test_a_layer_too_many_in_the_config_is_missing_arrays(qwen):
    def deepen(config: dict[str, Any]) -> None:
        config["text_config"]["num_hidden_layers"] += 4
        config["text_config"]["layer_types"] *= 2

    change_config(qwen, deepen)
    assert "language_model.model.layers.4." in refused(qwen)


def test_a_checkpoint_that_sanitize_cannot_take_is_told_with_what_it_said(qwen):
    reshape(qwen, "model.language_model.layers.0.mlp.experts.gate_up_proj", [8 * 256 * 128])
    message = refused(qwen)
    assert "qwen: mlx-lm's sanitize for qwen3_5_moe cannot take its tensors (" in message or "gives shape" in message


def test_an_architecture_that_mlx_lm_lacks_says_what_to_do(qwen):
    change_config(qwen, lambda config: config.update(model_type="qwen9", architectures=["Qwen9"]))
    message = refused(qwen)
    assert "has no model_type 'qwen9'; a newer mlx-lm may have it (pip install -U mlx-lm)" in message


def test_a_config_that_lacks_what_the_class_needs_is_told_with_what_it_said():
    with pytest.raises(LayoutError, match=r"^config\.json: lacks hidden_size, .*, which mlx-lm's glm4_moe needs"):
        alone({"model_type": "glm4_moe", "vocab_size": 512})


def test_dtypes_that_mlx_cannot_load_are_named(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(config_of(TABLE["mixtral"]["config"])))
    (tmp_path / "model.safetensors").write_bytes(encoded(header({"x": ("F64", [3])}), bytes(24)))
    with pytest.raises(SourceError, match="tensors of dtype F64, which mlx cannot load"):
        read(tmp_path)


# --- cost ---

MEASURE = """
import json, sys, time
from mlxquant.source.checkpoint import open_checkpoint
from mlxquant.layout.layout import read_layout
from mlxquant.records.head import peak_memory
import mlx.core as mx
began = time.perf_counter()
layout = read_layout(open_checkpoint(sys.argv[1]))
peak = peak_memory()
parameters = sum(m.parameters for m in layout.modules)
print(json.dumps([parameters, peak, mx.get_peak_memory(), time.perf_counter() - began, "transformers" in sys.modules]))
"""


def test_a_model_of_122_billion_parameters_is_laid_out_in_little_memory(tmp_path):
    facts = config_of(TABLE["qwen3_5_moe"]["config"])
    facts["text_config"] |= {
        "hidden_size": 3072, "num_hidden_layers": 48, "num_experts": 256, "moe_intermediate_size": 1024,
        "shared_expert_intermediate_size": 1024, "vocab_size": 248320, "num_attention_heads": 32, "head_dim": 256,
        "linear_num_key_heads": 16, "linear_num_value_heads": 64,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(facts))
    command = [sys.executable, "-c", MEASURE, str(tmp_path / "config.json")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
    parameters, peak, computed, _, heavy = json.loads(run.stdout)
    assert parameters > 120e9
    assert peak < 400e6 and computed < 1e6, "nothing of the model may be evaluated"
    assert not heavy, "transformers takes a second to import, and no layout needs it"


def test_laying_out_evaluates_nothing_in_this_process(tiny_qwen):
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    read(tiny_qwen)
    assert mx.get_peak_memory() - before < 1 << 20


@pytest.mark.parametrize("key", ["vocab_size", "num_key_value_heads", "head_dim", "hidden_size"])
def test_a_size_of_zero_in_a_config_is_an_error_that_names_it(tiny, tmp_path, key):
    config = json.loads((tiny("qwen3_moe") / "config.json").read_text())
    assert key in config
    (tmp_path / "config.json").write_text(json.dumps(config | {key: 0}))
    with pytest.raises(LayoutError, match=r"config\.json: "):
        read_layout(open_checkpoint(tmp_path / "config.json"))
