"""What each module is for: roles and layer types, for every mixture-of-experts architecture of mlx-lm."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from mlxquant.errors import LayoutError
from mlxquant.layout.layout import Layout, read_layout
from mlxquant.layout.mlx_lm import mlx_lm_version
from mlxquant.layout.roles import config_layer_types, layer_paths
from mlxquant.source.checkpoint import Checkpoint, open_checkpoint
from mlxquant.words.modules import LAYER_TYPE_WORDS, LAYER_TYPES, ROLES
from tests.checkpoints import ARCHITECTURES as TINY
from tests.support.architectures import SIZES, TABLE, config_of, nulls

USUAL_OUTSIDE = {"embedding": "model.embed_tokens", "lm_head": "lm_head"}
ROLES_IN_LAYERS = [role for role in ROLES if role not in ("embedding", "lm_head", "norm", "vision", "mtp")]


def lay(config: Mapping[str, Any]) -> Layout:
    return read_layout(Checkpoint("test", None, dict(config), {}, {}))


def spread(patterns: str) -> set[str]:
    """Paths meant by ``a.{b,c}_proj d``: each word with each of its alternatives."""
    roles: set[str] = set()
    for word in patterns.split():
        head, brace, rest = word.partition("{")
        inner, _, tail = rest.partition("}")
        roles |= {head + choice + tail for choice in inner.split(",")} if brace else {word}
    return roles


def starred(path: str) -> str:
    return re.sub(r"\.\d+(?=\.|$)", ".*", path)


@pytest.fixture(params=sorted(TABLE))
def architecture(request: pytest.FixtureRequest) -> tuple[dict[str, Any], Layout]:
    """Each architecture of the table with its layout."""
    layout = laid(request.param)
    if layout is None:
        pytest.skip(f"mlx-lm {mlx_lm_version()} lacks it")
    return TABLE[request.param], layout


@cache
def laid(name: str) -> Layout | None:
    try:
        return lay(config_of(TABLE[name]["config"]))
    except LayoutError as error:
        if "has no model_type" in str(error):
            return None
        raise


# --- every architecture ---


def test_each_module_of_an_architecture_has_its_role_and_each_layer_its_type(architecture):
    entry, layout = architecture
    within: dict[str, set[str]] = {}
    outside: dict[str, set[str]] = {}
    types: dict[int, str | None] = {}
    for m in layout.modules:
        if m.layer is not None:
            types[m.layer] = m.layer_type
        if m.role in ("norm", "vision"):
            continue
        rel = starred(re.sub(r"^.*?\b(layers|blocks|h)\.\d+\.", "", m.path))
        (outside if m.layer is None else within).setdefault(m.role, set()).add(rel)
    assert within == {role: spread(entry[role]) for role in ROLES_IN_LAYERS if role in entry}
    assert outside == {role: spread(paths) for role, paths in entry.get("outside", USUAL_OUTSIDE).items()}
    assert [types[i] for i in sorted(types)] == [LAYER_TYPE_WORDS[word] for word in entry["layers"].split()]


def test_a_layer_with_experts_has_a_router_and_knows_how_many_a_token_takes(architecture):
    entry, layout = architecture
    experts = {m.layer for m in layout.modules if m.role == "expert"}
    assert {m.layer for m in layout.modules if m.role == "router"} == experts
    assert set(layout.expert_shares) == {m.path for m in layout.modules if m.role == "expert"}
    top_k = 1 if entry["config"]["model_type"] == "llama4" else 2
    assert {k for k, _ in layout.expert_shares.values()} <= {top_k}


def test_a_router_that_is_a_matrix_can_be_quantized_and_one_that_is_a_raw_array_cannot(architecture):
    entry, layout = architecture
    routers = [m for m in layout.modules if m.role == "router" and len(m.shape) == 2]
    assert {m.quantizable for m in routers} <= {not entry.get("raw_router", False)}


def test_no_norm_can_be_quantized(architecture):
    _, layout = architecture
    assert not [m.path for m in layout.modules if m.role == "norm" and m.quantizable]


def test_the_table_has_every_architecture_of_mlx_lm_that_has_experts():
    if mlx_lm_version() != "0.32.2":
        pytest.skip(f"the table is of mlx-lm 0.32.2, not {mlx_lm_version()}")
    from mlxquant.layout.mlx_lm import _mlx_lm_folder, module_name

    def has_experts(path: Path) -> bool:
        return re.search(r"Switch(GLU|Linear|MLP)\(|experts = \[|ModuleList", path.read_text()) is not None

    listed = {module_name(nulls(entry["config"])) for entry in TABLE.values()}
    folder = _mlx_lm_folder() / "models"
    architectures = {p.stem for p in folder.glob("*.py") if has_experts(p)} - {"switch_layers"}
    assert architectures <= listed


# --- tiny and real ones ---


@pytest.mark.parametrize("name", sorted(TINY))
def test_a_tiny_checkpoint_has_the_roles_of_its_config(name, tiny):
    folder = tiny(name)
    layout = read_layout(open_checkpoint(folder))
    alone = read_layout(open_checkpoint(folder / "config.json"))
    assert [(m.path, m.role, m.layer_type) for m in layout.modules] == [
        (m.path, m.role, m.layer_type) for m in alone.modules
    ]
    roles = Counter(m.role for m in layout.modules)
    assert roles["embedding"] == 1 and roles["norm"] and not roles["vision"] and not roles["mtp"]


def test_tiny_qwen_has_what_the_paper_protects(tiny_qwen):
    layout = read_layout(open_checkpoint(tiny_qwen))
    roles = Counter(m.role for m in layout.modules)
    assert roles["router"] == roles["shared_expert_gate"] == layout.n_layers == 4
    assert roles["expert"] == roles["shared_expert"] == 12
    assert {m.layer for m in layout.modules if m.role == "attention"} == {3}


def test_the_papers_model_has_the_modules_that_it_counts(shared):
    layout = read_layout(open_checkpoint(shared / "reference" / "configs" / "Qwen3.5-122B-A10B.json"))
    roles = Counter(m.role for m in layout.modules)
    quantizable = Counter(m.role for m in layout.modules if m.quantizable)
    assert layout.n_layers == 48 and roles["router"] == roles["shared_expert_gate"] == 48
    assert quantizable["attention"] == 48  # q, k, v and o in 12 layers of full attention
    assert Counter(m.layer_type for m in layout.modules if m.role == "router") == {
        "linear_attention": 36,
        "full_attention": 12,
    }


def test_real_configs_have_a_router_wherever_they_have_experts(shared):
    for path in sorted((shared / "reference" / "configs").glob("*.json")):
        layout = read_layout(open_checkpoint(path))
        experts = {m.layer for m in layout.modules if m.role == "expert"}
        assert {m.layer for m in layout.modules if m.role == "router"} == experts, path.name
        assert not {m.role for m in layout.modules if m.quantizable and m.layer is not None} & {"other"}, path.name


# --- layer types ---


def qwen(**text: Any) -> dict[str, Any]:
    facts = TABLE["qwen3_5_moe"]["config"]
    return config_of({**facts, "text_config": {**facts["text_config"], **text}})


def types_of(config: Mapping[str, Any]) -> list[str | None]:
    types = {m.layer: m.layer_type for m in lay(config).modules if m.layer is not None}
    return [types[i] for i in sorted(types)]


L, F, S = "linear_attention", "full_attention", "sliding_attention"


def test_a_config_that_says_attention_where_the_model_has_a_linear_mixer_is_refused():
    with pytest.raises(LayoutError, match=r"config\.json contradicts the model .*: layer 1: the config says") as caught:
        lay(qwen(layer_types=[L, F, L, L]))
    assert "layer 1: the config says full_attention, the model has linear_attention" in str(caught.value)


def test_a_config_that_says_linear_where_the_model_has_attention_is_refused_and_counts_the_rest():
    with pytest.raises(LayoutError, match="layer 3: the config says linear_attention, the model has full_attention"):
        lay(qwen(layer_types=[L, L, L, L]))
    with pytest.raises(LayoutError, match=r"\(and 1 more layers\)"):
        lay(qwen(layer_types=[F, L, L, L]))


def test_layer_types_of_the_config_win_over_its_interval_where_the_model_agrees():
    assert types_of(qwen(layer_types=[L, L, L, F])) == [L, L, L, F]


def test_an_interval_places_full_attention_at_the_end_of_each_group():
    assert types_of(qwen(full_attention_interval=2)) == [L, F, L, F]


def test_too_few_layer_types_are_refused():
    with pytest.raises(LayoutError, match=r"layer_types names 2 layers, the model has 4"):
        lay(qwen(layer_types=[L, L]))


@pytest.mark.parametrize(
    ("config", "types"),
    [
        ({"layer_types": ["attention", "mamba", "conv"]}, [F, L, L]),
        ({"layers_block_type": ["mamba", "moe", "attention"]}, [L, "moe", F]),
        ({"hybrid_override_pattern": "M-*E"}, [L, "mlp", F, "moe"]),
        ({"block_types": ["recurrent", "recurrent", "attention"]}, [L, L, F, L, L, F]),
        ({"text_config": {"layer_types": ["sliding_attention", "full_attention"]}}, [S, F]),
        ({"full_attention_interval": 4}, [L, L, L, F, L]),
        ({"attn_layer_period": 4, "attn_layer_offset": 1}, [L, F, L, L, L, F]),
        ({"full_attn_idxs": [0, 2]}, [F, L, F]),
        ({"attn_type_list": [0, 1, 0]}, [L, F, L]),
        ({"attn_type_list": [1, 1, 1]}, None),
        ({"linear_attn_config": {"full_attn_layers": [2, 3]}}, [L, F, F]),
        ({"sliding_window_pattern": 3}, [S, S, F, S]),
        ({"sliding_window_pattern": "LLLG"}, [S, S, S, F, S]),
        ({"sliding_window_layers": [1]}, [F, S, F]),
        ({"compress_ratios": [0, 4, 128]}, [S, F, F]),
        ({"layer_types": ["minimax_m3_sparse_attention", "something_new"]}, [F, None]),
        ({"layer_types": []}, None),
        ({}, None),
        ({"full_attention_interval": None, "attn_layer_period": None, "linear_attn_config": None}, None),
    ],
)
def test_a_config_says_what_its_layers_are_in_many_ways(config, types):
    n = len(types) if types else 3
    assert config_layer_types(config, n) == types


@pytest.mark.parametrize(
    "config",
    [
        {"full_attention_interval": "four"},
        {"full_attention_interval": -1},
        {"attn_layer_period": [4]},
        {"full_attn_idxs": 3},
        {"sliding_window_layers": "all"},
        {"linear_attn_config": {"full_attn_layers": 7}},
        {"sliding_window_pattern": 2.5},
        {"layer_types": ["attention"]},
    ],
)
def test_fields_of_another_kind_are_refused_by_name(config):
    with pytest.raises(LayoutError, match=r"^config\.json: \w+ (is|names) "):
        config_layer_types(config, 3)


def test_caches_tell_sliding_from_full_attention_where_the_config_does_not():
    config = config_of(TABLE["baichuan_m1"]["config"])
    assert types_of(config) == [F, S, F]
    sizes = {**SIZES, "model_type": "gpt_oss", "num_hidden_layers": 4, "num_local_experts": 8}
    assert types_of(sizes) == [S, F, S, F]


@pytest.mark.parametrize("value", [None, "many"])
def test_a_value_that_only_the_classs_own_rule_stumbles_over_is_told(value):
    facts = TABLE["muse_spark"]["config"]
    config = config_of({**facts, "text_config": {**facts["text_config"], "num_hidden_layers": value}})
    with pytest.raises(LayoutError, match=r"^config\.json: mlx-lm"):
        lay(config)


def test_every_word_for_a_layer_type_means_one_that_recipes_know():
    assert set(LAYER_TYPE_WORDS.values()) == set(LAYER_TYPES)
    assert all(LAYER_TYPE_WORDS[word] == word for word in LAYER_TYPES)


def test_the_layers_of_a_model_are_found_without_its_telling():
    layout = lay(qwen())
    tree = dict(layout.model.named_modules())

    class Silent:
        """A model without `layers`."""

    assert layer_paths(Silent(), tree) == layer_paths(layout.model, tree)
