"""A build is mlx-lm's, byte for byte, whatever the architecture; it loads there and says the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlxquant.builds.write.pieces import Sizes
from mlxquant.layout.layout import read_layout
from mlxquant.plan.plan import Plan, make_plan
from mlxquant.plan.recipe.recipe import Recipe
from mlxquant.source.checkpoint import open_checkpoint
from tests.builds.cases import RECIPES, made_with_mlx_lm
from tests.support.builds import build, config_of, contents, stored


def planned(source: Path, recipe: Recipe, dtype: str | None = None) -> Plan:
    opened = open_checkpoint(source)
    return make_plan(read_layout(opened, dtype=dtype), recipe, opened)


def logits(folder: Path, tokens: Any = None) -> mx.array:
    from mlx_lm import load

    model = load(str(folder))[0]
    result: mx.array = model(mx.arange(16)[None] if tokens is None else tokens).astype(mx.float32)
    return result


QUICK = [("default", None), ("none", "float32")]
LONG = [(name, dtype) for name in RECIPES for dtype in (None, "bfloat16", "float16", "float32")]
LONG = [how for how in LONG if how not in QUICK]


@pytest.fixture(scope="module")
def pair(tiny_any: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Give each architecture's uniform 8-bit build, ours and mlx-lm's."""
    folder = tmp_path_factory.mktemp(tiny_any.name)
    build(tiny_any, folder / "ours", RECIPES["uniform"]())
    return folder / "ours", made_with_mlx_lm(tiny_any, folder / "theirs", RECIPES["uniform"]())


@pytest.mark.slow
def test_every_architecture_at_8_bits_has_the_bytes_of_mlx_lm(pair):
    ours, expected = pair
    assert stored(ours) == stored(expected)


@pytest.mark.slow
def test_every_build_loads_in_mlx_lm_and_gives_identical_logits(pair):
    ours, expected = (logits(folder) for folder in pair)
    assert mx.isfinite(ours).all()
    assert mx.array_equal(ours, expected)


@pytest.mark.parametrize(("recipe", "dtype"), QUICK)
def test_every_architecture_has_the_bytes_of_mlx_lm(tiny_any, tmp_path, recipe, dtype):
    build(tiny_any, tmp_path / "ours", RECIPES[recipe](), dtype=dtype)
    made_with_mlx_lm(tiny_any, tmp_path / "theirs", RECIPES[recipe](), dtype)
    assert stored(tmp_path / "ours") == stored(tmp_path / "theirs")


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "dtype"), LONG)
def test_every_architecture_has_the_bytes_of_mlx_lm_in_every_way(tiny_any, tmp_path, recipe, dtype):
    test_every_architecture_has_the_bytes_of_mlx_lm(tiny_any, tmp_path, recipe, dtype)


@pytest.mark.parametrize("name", ["deepseek_v3", "glm4_moe", "llama", "mixtral", "qwen3_5_moe", "qwen3_moe"])
def test_a_float32_build_says_what_transformers_said(shared, name, tmp_path):
    source = shared / "checkpoints" / name
    if not (source / "expected_logits.st").is_file():
        pytest.skip(f"../shared/checkpoints/{name} is not on this machine")
    build(source, tmp_path / "out", "none", dtype="float32")
    expected = mx.load(str(source / "expected_logits.st"), format="safetensors")
    assert isinstance(expected, dict)
    off = np.array(logits(tmp_path / "out", expected["input_ids"])) - np.array(expected["logits"])
    # mlx-lm adds 1 to Qwen3.5's norms in bf16, transformers in float32
    tolerance = 2e-2 if name == "qwen3_5_moe" else 1e-3
    assert np.abs(off).max() <= tolerance * np.abs(np.array(expected["logits"])).max()


# --- config and index ---


@pytest.mark.parametrize("recipe", ["deepseek", pytest.param("mixed", marks=pytest.mark.slow)])
def test_the_config_lists_every_module_that_differs_from_its_top_level(tiny_any, tmp_path, recipe):
    build(tiny_any, tmp_path / "out", RECIPES[recipe]())
    config = config_of(tmp_path / "out")
    block = dict(config["quantization"])
    assert config["quantization_config"] == block
    top = {key: block.pop(key) for key in ("group_size", "bits", "mode")}
    formats = {m.module.path: m.format for m in planned(tiny_any, RECIPES[recipe]()).modules if m.module.quantizable}
    expected = {path: fmt.as_dict() if fmt else False for path, fmt in formats.items()}
    assert block == {path: entry for path, entry in expected.items() if entry != top}
    assert top in expected.values()


def test_the_config_is_otherwise_mlx_lms(pair):
    ours, expected = (config_of(folder) for folder in pair)
    assert list(ours) == sorted(ours)
    for config in (ours, expected):
        # mlx-lm leaves the source's FP8 block in a build that has no FP8, and renames a key of Qwen3.5's in passing
        for name in ("quantization", "quantization_config"):
            config.pop(name, None)
        for name in ("type", "rope_type"):
            config.get("text_config", {}).get("rope_parameters", {}).pop(name, None)
    assert ours == expected


def index_of(folder: Path) -> dict[str, Any]:
    index: dict[str, Any] = json.loads((folder / "model.safetensors.index.json").read_text())
    return index


def test_the_index_is_mlx_lms(tiny_any, pair):
    ours, expected = (index_of(folder) for folder in pair)
    assert list(ours["weight_map"].items()) == list(expected["weight_map"].items())
    assert ours["metadata"]["total_size"] == expected["metadata"]["total_size"]
    assert ours["metadata"]["total_parameters"] == planned(tiny_any, RECIPES["uniform"]()).totals["parameters"]


def test_shards_are_split_before_the_limit_and_a_larger_tensor_gets_its_own(tiny_qwen, tmp_path):
    build(tiny_qwen, tmp_path / "one", "gates-8bit")
    limit = 100_000
    build(tiny_qwen, tmp_path / "many", "gates-8bit", sizes=Sizes(shard=limit))
    assert stored(tmp_path / "many") == stored(tmp_path / "one")
    shards = sorted(p.name for p in (tmp_path / "many").glob("*.safetensors"))
    assert len(shards) > 10
    assert shards == [f"model-{i:05d}-of-{len(shards):05d}.safetensors" for i in range(1, len(shards) + 1)]
    index = index_of(tmp_path / "many")["weight_map"]
    sizes = {name: len(data) for name, (_, _, data) in stored(tmp_path / "many").items()}
    for shard in shards:
        held = [name for name in index if index[name] == shard]
        assert sum(sizes[name] for name in held) <= limit or len(held) == 1
    assert max(sizes.values()) > limit
    assert mx.array_equal(logits(tmp_path / "many"), logits(tmp_path / "one"))


def test_every_shard_says_that_it_is_mlxs_and_opens_with_the_safetensors_library(tiny_qwen, tmp_path):
    from safetensors import safe_open

    build(tiny_qwen, tmp_path / "out")
    with safe_open(tmp_path / "out" / "model.safetensors", "np") as file:
        assert file.metadata() == {"format": "mlx"}
        assert set(file.keys()) == set(stored(tmp_path / "out"))


# --- what must not matter ---


def test_the_number_of_workers_changes_no_byte_of_any_file(tiny_qwen, tmp_path):
    build(tiny_qwen, tmp_path / "1", threads=1)
    for threads, memory in ((2, None), (8, None), (8, 400 << 20)):
        build(tiny_qwen, tmp_path / f"{threads}-{memory}", threads=threads, max_memory=memory)
        assert contents(tmp_path / f"{threads}-{memory}") == contents(tmp_path / "1")


@pytest.mark.slow
@pytest.mark.parametrize(("block", "piece"), [(1 << 13, 1 << 14), (20_000, 50_000), (1 << 16, 1 << 30)])
@pytest.mark.parametrize("architecture", ["qwen3_5_moe", "llama4", "deepseek_v3_fp8"])
def test_the_sizes_of_blocks_and_pieces_change_no_byte_of_a_tensor(tiny, architecture, block, piece, tmp_path):
    build(tiny(architecture), tmp_path / "whole")
    build(tiny(architecture), tmp_path / "cut", sizes=Sizes(block=block, piece=piece))
    assert stored(tmp_path / "cut") == stored(tmp_path / "whole")


def test_without_audit_and_hashes_the_tensors_are_the_same(tiny_qwen, tmp_path):
    build(tiny_qwen, tmp_path / "whole")
    build(tiny_qwen, tmp_path / "bare", audit=False, hash=False)
    assert stored(tmp_path / "bare") == stored(tmp_path / "whole")
    manifest = json.loads((tmp_path / "bare" / "mlxquant.json").read_text())
    assert manifest["files"]["model.safetensors"]["sha256"] is None
    assert manifest["files"]["config.json"]["sha256"] is not None
