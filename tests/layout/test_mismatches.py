"""Tensors that the class drops, lacks or has elsewhere: the cause is named, or the checkpoint is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlxquant.errors import LayoutError
from mlxquant.layout.layout import Layout, read_layout
from mlxquant.layout.mismatches import dropped_notes
from mlxquant.layout.provider import MLX_LM
from mlxquant.source.checkpoint import open_checkpoint
from tests.checkpoints import write_tiny

Arrays = dict[str, mx.array]


def tiny_arrays(folder: Path, architecture: str) -> Arrays:
    """A tiny checkpoint's tensors; the folder keeps all but its shards."""
    write_tiny(folder, architecture)
    arrays: Arrays = {}
    for shard in folder.glob("*.safetensors*"):
        if shard.suffix == ".safetensors":
            arrays |= mx.load(str(shard))  # type: ignore[arg-type]
    mx.eval(arrays)
    for shard in folder.glob("*.safetensors*"):
        shard.unlink()
    return arrays


def lay(folder: Path, arrays: Arrays, **config: Any) -> Layout:
    """Write a checkpoint of these tensors, with fields of its config changed (None: taken out), and lay it out."""
    mx.save_safetensors(str(folder / "model.safetensors"), arrays, {"format": "pt"})
    path = folder / "config.json"
    table = json.loads(path.read_text()) | config
    path.write_text(json.dumps({key: value for key, value in table.items() if value is not None}))
    return read_layout(open_checkpoint(folder))


def layers_of(arrays: Arrays, number: int, *others: int) -> Arrays:
    """A layer's tensors, again as those of other layers."""
    prefix = f"model.layers.{number}."
    return {
        name.replace(prefix, f"model.layers.{other}."): array
        for other in others
        for name, array in arrays.items()
        if name.startswith(prefix)
    }


@pytest.fixture
def deepseek(tmp_path: Path) -> Arrays:
    arrays = tiny_arrays(tmp_path, "deepseek_v3")
    return {name: array for name, array in arrays.items() if not name.startswith("model.layers.4.")}


def test_a_layer_that_the_class_drops_is_no_missing_shard(tmp_path, deepseek):
    arrays = deepseek | layers_of(deepseek, 3, *range(4, 64))
    with pytest.raises(LayoutError) as caught:
        lay(tmp_path, arrays, num_hidden_layers=64, num_nextn_predict_layers=0)
    message = str(caught.value)
    assert message.startswith("model.safetensors: holds model.layers.61.self_attn.q_a_proj.weight, but mlx-lm ")
    assert "'s deepseek_v3 (mlx_lm/models/deepseek_v3.py) drops model.layers.61 (" in message
    assert "no shard is missing" in message and "\n" not in message


@pytest.mark.parametrize("declared", [1, 0])
def test_a_next_token_head_behind_the_last_layer_is_left_out(tmp_path, deepseek, declared):
    head = layers_of(deepseek, 3, 4) | {"model.layers.4.eh_proj.weight": mx.zeros((128, 256), mx.bfloat16)}
    layout = lay(tmp_path, deepseek | head, num_nextn_predict_layers=declared)
    assert set(layout.dropped) == head.keys()


def test_a_layer_that_no_config_has_is_not_taken_for_a_next_token_head(tmp_path, deepseek):
    with pytest.raises(LayoutError, match=r"config\.json does not describe these shards"):
        lay(tmp_path, deepseek | layers_of(deepseek, 3, 4), num_nextn_predict_layers=0)


def test_a_tensor_that_is_not_there_is_still_a_missing_shard(tmp_path, deepseek):
    del deepseek["model.layers.2.self_attn.o_proj.weight"]
    with pytest.raises(LayoutError, match=r"o_proj\.weight: not in the checkpoint; a shard may be missing"):
        lay(tmp_path, deepseek, num_nextn_predict_layers=0)


@pytest.mark.parametrize(
    ("was", "now", "words"),
    [
        ("", "module.", r"holds module\.(\S+), where \1 is expected; .* begin with module, which"),
        ("", "language_model.", r"holds language_model\..* \d+ names begin with language_model, which"),
        ("model.", "", r"holds embed_tokens\.weight, where model\.embed.* is expected; .* the names lack model, as"),
        ("q_proj.", "q_proj.base_layer.", r"holds .*base_layer\.weight, the base of an adapter that was not merged"),
    ],
)
def test_tensors_under_other_names_are_no_missing_shards(tmp_path, was, now, words):
    arrays = tiny_arrays(tmp_path, "qwen3_moe")
    with pytest.raises(LayoutError, match=words) as raised:
        lay(tmp_path, {name.replace(was, now, 1): array for name, array in arrays.items()})
    assert "a shard may be missing" not in str(raised.value) and "\n" not in str(raised.value)


def test_a_head_of_next_tokens_is_not_taken_for_the_models_own(tmp_path):
    arrays = tiny_arrays(tmp_path, "qwen3_moe")
    arrays["mtp.lm_head.weight"] = arrays.pop("lm_head.weight")
    with pytest.raises(LayoutError, match=r"^lm_head\.weight: not in the checkpoint, and config\.json does not tie it"):
        lay(tmp_path, arrays)


def test_experts_in_one_tensor_are_named_where_the_class_takes_them_one_by_one(tmp_path):
    arrays = tiny_arrays(tmp_path, "qwen3_moe")
    fused = {name: array for name, array in arrays.items() if ".experts." not in name}
    for n in range(4):
        fused[f"model.layers.{n}.mlp.experts.gate_up_proj"] = mx.zeros((8, 256, 128))
        fused[f"model.layers.{n}.mlp.experts.down_proj"] = mx.zeros((8, 128, 128))
    with pytest.raises(LayoutError, match=r"gate_up_proj, all experts in one, .* no shard is missing: split") as raised:
        lay(tmp_path, fused)
    assert "\n" not in str(raised.value)


def test_a_head_that_is_not_there_may_be_tied(tmp_path, deepseek):
    del deepseek["lm_head.weight"]
    with pytest.raises(
        LayoutError, match=r"^lm_head\.weight: not in the checkpoint, and .* set tie_word_embeddings to true"
    ):
        lay(tmp_path, deepseek, num_nextn_predict_layers=0)


# --- layers that share an indexer ---


DSA = {
    "model_type": "glm_moe_dsa", "index_head_dim": 64, "index_n_heads": 4, "index_topk": 16, "moe_layer_freq": 1,
    "topk_method": "noaux_tc", "scoring_func": "sigmoid", "attention_bias": False, "num_nextn_predict_layers": 0,
    "indexer_types": ["full", "full", "shared", "shared"],
    "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
}  # fmt: skip


def test_layers_that_share_an_indexer_are_named_with_the_class(tmp_path, deepseek):
    for layer in range(2):
        p = f"model.layers.{layer}.self_attn.indexer."
        shapes = {"wq_b": (256, 64), "wk": (64, 128), "weights_proj": (4, 128)}
        deepseek |= {f"{p}{n}.weight": mx.zeros(shape, mx.bfloat16) for n, shape in shapes.items()}
        deepseek |= {f"{p}k_norm.{n}": mx.zeros(64, mx.bfloat16) for n in ("weight", "bias")}
    with pytest.raises(LayoutError, match=r"glm_moe_dsa .* makes an indexer for every layer, but indexer_types lets"):
        lay(tmp_path, deepseek, **DSA)


def test_a_plan_from_the_config_alone_warns_of_shared_indexers(tmp_path, deepseek):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | DSA))
    (note,) = (n for n in read_layout(open_checkpoint(path)).notes if "indexer_types" in n)
    assert "names 2 layers as shared" in note and "parameters and bytes here are too high" in note


# --- what the class knows in another form ---


def test_unquantized_experts_of_gpt_oss_are_turned_and_split(tmp_path):
    source = tmp_path / "source"
    arrays = tiny_arrays(source, "gpt_oss")
    experts, rng = {}, np.random.default_rng(0)
    for name, array in arrays.items():
        if name.endswith("_blocks"):
            n, out, groups, _ = array.shape
            experts[name.removesuffix("_blocks")] = mx.array(rng.normal(size=(n, groups * 32, out))).astype(mx.bfloat16)
    others = {name: array for name, array in arrays.items() if not name.endswith(("_blocks", "_scales"))}
    lay(source, others | experts, quantization_config=None)

    from mlxquant import convert

    convert(source, "none", tmp_path / "out", dtype="float32")
    built: Any = mx.load(str(tmp_path / "out" / "model.safetensors"))
    p = "model.layers.0.mlp.experts."
    fused = np.array(experts[f"{p}gate_up_proj"].astype(mx.float32)).swapaxes(-1, -2)
    assert (np.array(built[f"{p}gate_proj.weight"]) == fused[:, ::2]).all()
    assert (np.array(built[f"{p}up_proj.weight"]) == fused[:, 1::2]).all()
    down = np.array(experts[f"{p}down_proj"].astype(mx.float32)).swapaxes(-1, -2)
    assert (np.array(built[f"{p}down_proj.weight"]) == down).all()


def test_experts_of_gpt_oss_in_the_other_order_under_the_class_own_name_are_explained(tmp_path):
    arrays = tiny_arrays(tmp_path, "gpt_oss")
    experts = {}
    for name, array in arrays.items():
        if name.endswith("_blocks"):
            n, out, groups, _ = array.shape
            experts[f"{name.removesuffix('_blocks')}.weight"] = mx.zeros((n, groups * 32, out), mx.bfloat16)
    others = {name: array for name, array in arrays.items() if not name.endswith(("_blocks", "_scales"))}
    with pytest.raises(LayoutError, match=r"holds .*gate_up_proj\.weight of shape .* name it as transformers does"):
        lay(tmp_path, others | experts, quantization_config=None)


def test_a_head_of_its_own_unties_a_config_that_ties_it(tmp_path):
    arrays = tiny_arrays(tmp_path, "qwen3_5_moe")
    text = json.loads((tmp_path / "config.json").read_text())["text_config"] | {"tie_word_embeddings": True}
    layout = lay(tmp_path, arrays, text_config=text, tie_word_embeddings=True)
    assert layout.config["text_config"]["tie_word_embeddings"] is False
    assert any("the shards hold a head of their own (" in note for note in layout.notes)
    assert any(module.role == "lm_head" for module in layout.modules)


def test_a_head_that_the_class_drops_for_a_tie_is_noted(tmp_path):
    arrays = tiny_arrays(tmp_path, "qwen3_moe")
    layout = lay(tmp_path, arrays, tie_word_embeddings=True)
    assert "lm_head.weight" in layout.dropped
    assert any(note.startswith("lm_head.weight: dropped by mlx-lm ") for note in layout.notes)


def test_tensors_of_its_own_layers_that_a_class_drops_are_noted_by_kind(tmp_path, deepseek):
    layout = lay(tmp_path, deepseek, num_nextn_predict_layers=0)
    source, dropped = open_checkpoint(tmp_path), [f"model.layers.{n}.mlp.gate.weight" for n in (1, 2)]
    assert layout.notes == () and dropped_notes(["model.norm.weight"], 4, source, MLX_LM, source.config) == []
    (note,) = dropped_notes(dropped, 4, source, MLX_LM, source.config)
    assert note.startswith("model.layers.N.mlp.gate.weight: 2 tensors dropped by mlx-lm ")
