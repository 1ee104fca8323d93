"""Whose model classes a checkpoint is laid out with: mlx-lm's first, mlx-vlm's where it is needed or asked for."""

from __future__ import annotations

import json
import subprocess
import sys

import mlx.core as mx
import pytest
from click.testing import CliRunner

from mlxquant.cli import main
from mlxquant.errors import LayoutError, UsageError
from mlxquant.layout import mlx_vlm
from mlxquant.layout.layout import read_layout
from mlxquant.layout.provider import MLX_LM, MLX_VLM, provider_of, provider_stated, stated_in_record
from mlxquant.source.checkpoint import open_checkpoint
from tests.support.builds import build

WITHOUT = pytest.mark.skipif(mlx_vlm.is_installed(), reason="mlx-vlm is installed")


def test_mlx_lm_is_taken_for_what_it_has(tiny):
    assert read_layout(open_checkpoint(tiny("qwen3_moe"))).provider is MLX_LM


def test_a_model_that_nobody_has_is_left_to_mlx_lm_to_refuse():
    assert provider_of({"model_type": "no_such_model"}) is MLX_LM


def test_a_provider_of_no_known_name_is_a_usage_error():
    with pytest.raises(UsageError, match=r"provider 'mlx': mlx-lm or mlx-vlm expected"):
        provider_of({"model_type": "llama"}, "mlx")


@WITHOUT
def test_a_model_that_mlx_vlm_alone_has_is_told_with_how_to_install_it(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "hy_v4"}))
    run = CliRunner().invoke(main, ["plan", str(tmp_path / "config.json"), "-r", "none"])
    assert run.exit_code == 3
    error = run.exception if run.exception is not None and not run.output else run.output
    assert "has no model_type 'hy_v4', mlx-vlm has it; pip install 'mlxquant[vlm]'" in str(error) + run.stderr


@WITHOUT
def test_asking_for_mlx_vlm_without_it_says_how_to_install_it(tiny):
    with pytest.raises(LayoutError, match=r"with mlx-vlm, which is not installed; pip install 'mlxquant\[vlm\]'"):
        read_layout(open_checkpoint(tiny("qwen3_moe")), provider="mlx-vlm")


def test_no_name_that_is_listed_for_mlx_vlm_is_one_of_mlx_lm():
    assert not [name for name in mlx_vlm.LISTED if MLX_LM.knows({"model_type": name})]


def test_a_record_states_another_provider_than_mlx_lm(monkeypatch):
    assert stated_in_record(MLX_LM) == {}
    assert provider_stated({}) is MLX_LM and provider_stated({"provider": {"name": "unheard of"}}) is MLX_LM
    assert provider_stated({"provider": {"name": "mlx-vlm", "version": "0.7.10"}}) is MLX_VLM


def test_a_build_with_mlx_lms_classes_names_no_provider(tiny, tmp_path):
    build(tiny("qwen3_moe"), tmp_path / "out")
    for record in ("mlxquant.json", "audit.json"):
        assert "provider" not in json.loads((tmp_path / "out" / record).read_text())["source"]


def test_the_interface_runs_a_model_of_mlx_lm(tiny):
    source = open_checkpoint(tiny("qwen3_moe"))
    config = MLX_LM.prepared(source.config)
    model = MLX_LM.build_model(config)
    tokens = mx.zeros((1, 3), mx.int32)
    cache = MLX_LM.new_cache(model)
    assert MLX_LM.forward(model, tokens).shape == MLX_LM.forward(model, tokens, cache).shape == (1, 3, 512)
    rule = MLX_LM.rule(model)
    assert rule is not None and rule("model.layers.0.mlp.gate", None) == {"bits": 8, "group_size": 64}
    assert not MLX_LM.whole and not MLX_LM.is_tower("vision_tower.blocks.0.attn.qkv")


def test_laying_out_a_model_of_mlx_lm_does_not_look_into_mlx_vlm(tiny):
    script = (
        "import sys\n"
        "from mlxquant.layout.layout import read_layout\n"
        "from mlxquant.source.checkpoint import open_checkpoint\n"
        "read_layout(open_checkpoint(sys.argv[1]))\n"
        "print([name for name in sys.modules if name.startswith(('mlx_vlm', 'transformers', 'torch'))])\n"
    )
    done = subprocess.run([sys.executable, "-c", script, tiny("qwen3_moe")], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
