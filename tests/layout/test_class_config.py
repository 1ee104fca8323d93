"""Fields that mlx-lm's classes would not read are written where they read them, or refused."""

from __future__ import annotations

import importlib
import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlxquant.errors import LayoutError
from mlxquant.layout import class_config
from mlxquant.layout.class_config import settle
from mlxquant.layout.class_fields import ALIASES, COMPUTED, PLAIN_ROPE, SWIGLU, TEXT_BY_TYPE, TEXT_CLASSES
from tests.checkpoints import write_tiny
from tests.support import class_tables
from tests.support.architectures import TABLE
from tests.support.architectures import config_of as whole_config

SCALED = {"rope_type": "yarn", "factor": 4.0}


def config_of(architecture: str, **changes: Any) -> dict[str, Any]:
    """A tiny architecture's config with fields changed; None takes one out."""
    config = {**whole_config(TABLE[architecture]["config"]), **changes}
    return {key: value for key, value in config.items() if value is not None}


def changed(config: dict[str, Any], *tensors: str) -> dict[str, Any]:
    """What `settle` writes into a config."""
    settled = settle(config, tensors)
    assert bool(settled.notes) == (settled.config != config)
    return {key: value for key, value in settled.config.items() if config.get(key, "nothing") != value}


# --- the tables name what mlx-lm has ---


@pytest.mark.parametrize("module", sorted(PLAIN_ROPE | SWIGLU | ALIASES.keys() | COMPUTED.keys()))
def test_every_module_of_the_tables_is_one_of_mlx_lms(module):
    importlib.import_module(f"mlx_lm.models.{module}")


def test_the_classes_of_text_models_take_their_fields_from_a_table():
    for module, name in (*TEXT_CLASSES.values(), *TEXT_BY_TYPE.values()):
        assert fields(getattr(importlib.import_module(f"mlx_lm.models.{module}"), name))


def test_the_page_on_configs_shows_the_tables_as_they_are():
    page = class_tables.PAGE.read_text()
    assert class_tables.refreshed(page) == page, "run python -m tests.support.class_tables"


# --- what moves ---


def test_a_config_in_which_nothing_has_to_move_stays_as_it_is():
    config = config_of("mixtral")
    assert settle(config).config == config and settle(config).notes == ()


def test_a_theta_in_rope_parameters_is_written_where_the_class_reads_it():
    config = config_of("mixtral", rope_theta=None, rope_parameters={"rope_theta": 777.0, "rope_type": "default"})
    assert changed(config) == {"rope_theta": 777.0}
    (note,) = settle(config).notes
    assert note == (
        "config.json: rope_theta = 777.0 is written into the build, from rope_parameters.rope_theta;"
        " mlx-lm's mixtral would take 1000000.0"
    )


def test_a_theta_that_the_class_takes_anyway_moves_nothing():
    config = config_of("mixtral", rope_theta=None, rope_parameters={"rope_theta": 1e6, "rope_type": "default"})
    assert changed(config) == {}


def test_rope_parameters_win_over_an_older_theta_beside_them():
    config = config_of("qwen3_moe", rope_theta=1e4, rope_parameters={"rope_theta": 777.0, "rope_type": "default"})
    assert changed(config) == {"rope_theta": 777.0}


def test_a_scaled_rope_is_written_where_the_class_reads_it_with_transformers_default_of_its_length():
    rope = {"rope_theta": 500.0, "rope_type": "yarn", "factor": 4.0}
    config = config_of("olmoe", rope_parameters=rope, rope_theta=None, max_position_embeddings=128)
    expected = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}
    assert changed(config)["rope_scaling"] == expected


def test_a_scaled_rope_that_the_class_does_not_compute_is_refused():
    for key in ("rope_parameters", "rope_scaling"):
        rope = {"rope_theta": 500.0, "rope_type": "yarn", "factor": 4.0}
        with pytest.raises(
            LayoutError, match=rf"{key}.rope_type is yarn, but mlx-lm [\d.]+'s qwen3_moe computes plain"
        ):
            settle(config_of("qwen3_moe", **{key: rope}))


@pytest.mark.parametrize("module", ["baichuan_m1", "recurrent_gemma", "talkie", "gemma", "olmo_hybrid", "gemma3n"])
def test_a_scaled_rope_is_refused_for_every_class_that_has_no_use_for_it(module):
    table = class_config._Table(module, module, class_config.class_fields_of(module), {"rope_scaling": SCALED}, "")
    class_config._settle_rope(table)
    assert any("rope_type is yarn" in p and f"{module} computes plain RoPE" in p for p in table.problems)


def test_a_scaled_rope_of_a_layer_type_is_refused_where_the_class_computes_it_as_plain():
    for module, word in (("mellum", "linear"), ("spark2_5", "yarn")):
        rope = {"full_attention": {"rope_type": word, "factor": 4.0}, "sliding_attention": {"rope_type": "default"}}
        table = class_config._Table(module, module, class_config.class_fields_of(module), {"rope_parameters": rope}, "")
        class_config._settle_rope(table)
        (problem,) = table.problems
        assert f"rope_parameters is {word} for a layer type" in problem and f"{module} computes plain" in problem


def test_two_descriptions_of_one_rope_that_differ_are_refused():
    other = {"rope_type": "llama3", "factor": 8.0}
    with pytest.raises(LayoutError, match=r"rope_scaling .* and rope_parameters .* differ.* take one of them out"):
        settle(config_of("olmoe", rope_scaling=SCALED, rope_parameters=other))
    alike = {"type": "yarn", "factor": 4.0}
    written = changed(config_of("olmoe", rope_scaling=alike, rope_parameters=SCALED))["rope_scaling"]
    assert written["factor"] == 4.0


def test_one_rope_for_all_layers_is_refused_where_the_class_reads_it_by_layer_type():
    with pytest.raises(LayoutError, match=r"rope_parameters is .*'s laguna reads a RoPE of each layer type"):
        settle(config_of("laguna", rope_parameters={"rope_theta": 5e5, "rope_type": "default"}))


def test_a_class_that_reads_the_theta_alone_of_rope_parameters_gets_the_scaling_beside_them():
    rope = {"rope_theta": 500.0, "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
    scaling = {key: value for key, value in rope.items() if key != "rope_theta"}
    assert changed(config_of("exaone_moe", rope_parameters=rope))["rope_scaling"] == scaling


def test_a_scaled_rope_that_the_class_takes_for_another_is_refused():
    rope = {"rope_theta": 500.0, "rope_type": "linear", "factor": 4.0}
    with pytest.raises(LayoutError, match=r"rope_type is linear, but mlx-lm .*'s deepseek_v2 computes yarn whatever"):
        settle(config_of("deepseek_v2", rope_parameters=rope))


@pytest.mark.parametrize("architecture", ["qwen3_moe", "deepseek_v3", "glm4_moe_lite"])
def test_a_part_of_each_head_that_the_class_would_rotate_whole_is_refused(architecture):
    rope = {"rope_theta": 1e4, "rope_type": "default", "partial_rotary_factor": 0.5}
    with pytest.raises(
        LayoutError, match=rf"partial_rotary_factor is 0\.5, but mlx-lm .*'s {architecture} rotates whole"
    ):
        settle(config_of(architecture, rope_parameters=rope))


def by_kind(full: float, sliding: float) -> dict[str, Any]:
    """A RoPE of its own for each of two layer types."""
    thetas = {"full_attention": full, "sliding_attention": sliding}
    return {kind: {"rope_theta": theta, "rope_type": "default"} for kind, theta in thetas.items()}


@pytest.mark.parametrize("architecture", ["deepseek_v3", "glm4_moe_lite", "lfm2_moe", "exaone_moe", "qwen3_moe"])
def test_layer_types_with_a_rope_each_are_refused_where_the_class_has_one(architecture):
    with pytest.raises(LayoutError, match=rf"mlx-lm .*'s {architecture} has one RoPE for all layers, which differ"):
        settle(config_of(architecture, rope_parameters=by_kind(1e6, 1e4)))


def test_layer_types_whose_rope_is_alike_have_one():
    alike = by_kind(777.0, 777.0)
    assert changed(config_of("deepseek_v3", rope_theta=None, rope_parameters=alike))["rope_theta"] == 777.0
    lfm2 = changed(config_of("lfm2_moe", rope_theta=None, rope_parameters=alike))
    assert lfm2["rope_parameters"] == alike["full_attention"]


def test_a_class_with_a_base_for_each_of_two_layer_types_gets_both():
    config = whole_config(TABLE["mimo_v2_flash"]["config"]) | {"rope_parameters": by_kind(5e6, 1e4)}
    written = changed(config | {"rope_theta": 1.0, "swa_rope_theta": 1.0})
    assert (written["rope_theta"], written["swa_rope_theta"]) == (5e6, 1e4)


def test_a_theta_of_dbrx_is_written_into_its_table_of_attention():
    written = changed(config_of("dbrx", rope_parameters={"rope_theta": 777.0, "rope_type": "default"}))
    assert written["attn_config"]["rope_theta"] == 777.0


@pytest.mark.parametrize("factor, refused", [(1.0, True), (1.138629436, False), (None, False)])
def test_a_factor_of_attention_that_mlx_lm_computes_otherwise_is_refused(factor, refused):
    rope = {"rope_type": "yarn", "factor": 4.0, "attention_factor": factor, "original_max_position_embeddings": 64}
    config = config_of("olmoe", rope_scaling=rope)
    if not refused:
        assert settle(config)
        return
    with pytest.raises(LayoutError, match=r"attention_factor is 1.0, but mlx-lm .*'s olmoe computes 1\.13863"):
        settle(config)


def test_other_names_of_transformers_5_are_taken():
    config = config_of("qwen3_moe", num_experts=None, num_local_experts=8)
    assert changed(config) == {"num_experts": 8}


def test_dense_first_layers_are_counted_from_the_list_of_them():
    kinds = ["dense", "dense", "sparse", "sparse"]
    config = config_of("deepseek_v3", first_k_dense_replace=None, mlp_layer_types=kinds)
    assert changed(config)["first_k_dense_replace"] == 2
    with pytest.raises(LayoutError, match=r"mlp_layer_types is .* has dense layers before all others only"):
        settle({**config, "mlp_layer_types": kinds[::-1]})


def test_defaults_are_transformers_where_the_class_has_others():
    config = config_of("qwen3_moe", norm_topk_prob=None, decoder_sparse_step=None)
    assert changed(config) == {"norm_topk_prob": False, "decoder_sparse_step": 1}
    config = config_of("qwen3_next", norm_topk_prob=None)
    assert changed(config) == {"norm_topk_prob": True}


def test_a_tie_that_the_config_leaves_open_is_what_the_shards_show():
    config = config_of("olmoe", tie_word_embeddings=None)
    assert changed(config, "lm_head.weight") == {"tie_word_embeddings": False}
    assert changed(config, "model.embed_tokens.weight") == {}


def test_a_tie_at_the_top_reaches_the_text_model():
    text = config_of("qwen3_moe", tie_word_embeddings=None, model_type="qwen3_vl_moe_text")
    config = {"model_type": "qwen3_vl_moe", "tie_word_embeddings": False, "text_config": text}
    settled = settle(config)
    assert settled.config["text_config"]["tie_word_embeddings"] is False
    assert settled.notes[0].startswith("config.json: text_config.tie_word_embeddings = False is written into the build")
    stated = {**config, "text_config": {**text, "tie_word_embeddings": True}}
    assert settle(stated).config == stated


def test_a_tie_that_the_class_does_not_read_is_noted_where_there_is_a_config_alone():
    for architecture in ("deepseek_v3", "glm4_moe", "gpt_oss", "glm_moe_dsa", "solar_open"):
        config = config_of(architecture, tie_word_embeddings=True)
        note = settle(config).notes[-1]
        assert "tie_word_embeddings = True is not read by" in note and "always has a head of its own" in note
        assert not any("not read" in other for other in settle(config, ["lm_head.weight"]).notes)
    assert not any("not read" in note for note in settle(config_of("qwen3_moe", tie_word_embeddings=True)).notes)


def test_a_theta_of_a_text_model_is_written_into_its_own_table():
    rope = {"rope_theta": 5e6, "rope_type": "default", "mrope_section": [24, 20, 20]}
    text = config_of("qwen3_moe", rope_theta=None, rope_parameters=rope, model_type="qwen3_vl_moe_text")
    settled = settle({"model_type": "qwen3_vl_moe", "tie_word_embeddings": False, "text_config": text})
    assert settled.config["text_config"]["rope_theta"] == 5e6 and "rope_theta" not in settled.config


def test_a_window_as_long_as_any_context_is_none():
    settle(config_of("phimoe", sliding_window=256, max_position_embeddings=256))
    with pytest.raises(LayoutError, match="sliding_window is 255"):
        settle(config_of("phimoe", sliding_window=255, max_position_embeddings=256))


# --- what is refused ---


@pytest.mark.parametrize(
    ("architecture", "field", "value"),
    [
        ("mixtral", "sliding_window", 128),
        ("qwen2_moe", "norm_topk_prob", True),
        ("qwen3_moe", "hidden_act", "gelu"),
        ("qwen3_moe", "attention_bias", True),
        ("gpt_oss", "swiglu_limit", 9.0),
        ("phimoe", "attention_bias", False),
    ],
)
def test_a_field_that_the_class_computes_otherwise_is_refused(architecture, field, value):
    with pytest.raises(LayoutError, match=rf"^config\.json: {field} is {value}, but mlx-lm .*'s {architecture} "):
        settle(config_of(architecture, **{field: value}))


def test_fields_that_the_class_needs_and_nothing_gives_are_named():
    with pytest.raises(
        LayoutError, match=r"^config\.json: lacks hidden_size, vocab_size, which mlx-lm's qwen3_moe needs"
    ):
        settle(config_of("qwen3_moe", hidden_size=None, vocab_size=None))


# --- in a build ---


def test_builds_of_two_thetas_compute_two_models(tmp_path: Path) -> None:
    from mlx_lm.utils import load_model

    from mlxquant import convert

    logits = []
    for theta in (10000.0, 777.0):
        source, out = tmp_path / f"source-{theta}", tmp_path / f"out-{theta}"
        write_tiny(source, "qwen3_moe")
        config = json.loads((source / "config.json").read_text())
        del config["rope_theta"]
        config["rope_parameters"] = {"rope_theta": theta, "rope_type": "default"}
        (source / "config.json").write_text(json.dumps(config))
        convert(source, "none", out, dtype="float32")
        assert json.loads((out / "config.json").read_text())["rope_theta"] == theta
        notes = json.loads((out / "audit.json").read_text())["notes"]
        assert any("rope_parameters.rope_theta" in note for note in notes)
        logits.append(np.array(load_model(out)[0](mx.array([list(range(5, 40))]))))
    assert np.abs(logits[0] - logits[1]).max() > 0
